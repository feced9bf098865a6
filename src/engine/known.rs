//! What the rules ask of calls, remembered for a while.
//!
//! **Invariant:** nothing waits for a source of call records. Who answers late or not at all is
//! left alone for a while, and what is not known is not known: archiving goes on.

use super::plan::Known;
use crate::catalog::Candidate;
use crate::clock::{SharedClock, Timestamp};
use crate::limits;
use crate::policy::CallFacts;
use crate::recording::NodeId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who knows what call a recording is of. Asked by threads of the engine only, which may wait for
/// a local database, and for nothing else.
pub trait CallSource: Send + Sync + std::fmt::Debug {
    /// What is known of the call of a recording or of what belongs to it; `None`: nothing yet.
    ///
    /// # Errors
    /// Why it can not be said now.
    fn call_of(&self, id: NodeId, path: &Path) -> Result<Option<CallFacts>, String>;

    /// When the last call of the account was over that the call of a recording was about; `None`:
    /// that is not known for sure, or there is no account.
    ///
    /// # Errors
    /// Why it can not be said now.
    fn last_of_account(&self, id: NodeId, path: &Path) -> Result<Option<Timestamp>, String>;
}

/// How long what is known is not asked for again.
const KNOWN_FOR: Duration = Duration::from_secs(600);
/// How long what is not known is not.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// An answer that takes longer is late.
const LATE: Duration = Duration::from_millis(500);
/// How long who failed or was late is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Entry {
    call: Arc<CallFacts>,
    until: Timestamp,
}

/// What is known of calls.
#[derive(Debug)]
pub(super) struct Calls {
    source: Option<Arc<dyn CallSource>>,
    clock: SharedClock,
    nothing: Arc<CallFacts>,
    known: Mutex<HashMap<NodeId, Entry>>,
    /// Until when the source is left alone, and what it said.
    failed: Mutex<Option<(Instant, String)>>,
}

impl Calls {
    pub fn new(source: Option<Arc<dyn CallSource>>, clock: SharedClock) -> Calls {
        Calls {
            source,
            clock,
            nothing: Arc::default(),
            known: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// What the source said last instead of an answer, if it is left alone for that.
    pub fn trouble(&self) -> Option<String> {
        let failed = self.failed.lock();
        failed.as_ref().filter(|(until, _)| *until > Instant::now()).map(|(_, why)| why.clone())
    }

    /// Forgets what is known, so that it is asked for anew.
    pub fn forget(&self) {
        self.known.lock().clear();
        *self.failed.lock() = None;
    }

    /// When the last call of the account was over that the call of a recording was about.
    pub fn last_of_account(&self, it: &Candidate) -> Option<Timestamp> {
        self.source.as_ref()?.last_of_account(it.row.id, &it.path).ok().flatten()
    }

    fn ask(&self, id: NodeId, path: &Path) -> Option<CallFacts> {
        let source = self.source.as_ref()?;
        if self.trouble().is_some() {
            return None;
        }
        let began = Instant::now();
        let answer = source.call_of(id, path);
        let took = began.elapsed();
        let why = match &answer {
            Err(why) => why.clone(),
            Ok(_) if took > LATE => format!("the last answer took {} ms", took.as_millis()),
            Ok(_) => return answer.ok().flatten(),
        };
        tracing::debug!(why, "call records are not asked for a while");
        *self.failed.lock() = Some((Instant::now() + LEFT_ALONE, why));
        answer.ok().flatten()
    }
}

impl Known for Calls {
    fn call_of(&self, it: &Candidate) -> Arc<CallFacts> {
        let (id, now) = (it.row.id, self.clock.now());
        if let Some(entry) = self.known.lock().get(&id)
            && entry.until > now
        {
            return Arc::clone(&entry.call);
        }
        let found = self.ask(id, &it.path);
        let (call, long) = match found {
            Some(call) if call != *self.nothing => (Arc::new(call), KNOWN_FOR),
            _ => (Arc::clone(&self.nothing), UNKNOWN_FOR),
        };
        let mut known = self.known.lock();
        if known.len() >= limits::KNOWN_CALLS_MAX {
            known.clear();
        }
        known.insert(id, Entry { call: Arc::clone(&call), until: now.plus(long) });
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug, Default)]
    struct Source {
        asked: AtomicUsize,
        answer: Mutex<Option<Result<Option<CallFacts>, String>>>,
    }

    impl CallSource for Source {
        fn call_of(&self, _id: NodeId, _path: &Path) -> Result<Option<CallFacts>, String> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.answer.lock().clone().unwrap_or(Ok(None))
        }

        fn last_of_account(&self, _: NodeId, _: &Path) -> Result<Option<Timestamp>, String> {
            Ok(None)
        }
    }

    fn sales() -> CallFacts {
        CallFacts { campaign: Some("SALES".into()), ..CallFacts::default() }
    }

    fn parts() -> (Arc<Source>, Arc<ManualClock>, Calls, Candidate) {
        let source = Arc::new(Source::default());
        let clock = ManualClock::at(Timestamp::from_parts(1000, 0));
        let calls = Calls::new(Some(source.clone()), clock.clone());
        (source, clock, calls, crate::engine::plan::candidate_for_tests(7, "a.wav"))
    }

    #[test]
    fn what_is_known_is_asked_for_again_after_a_while_and_what_is_not_soon() {
        let (source, clock, calls, it) = parts();
        for _ in 0..3 {
            assert_eq!(*calls.call_of(&it), CallFacts::default());
        }
        assert_eq!(source.asked.load(Ordering::Relaxed), 1);
        *source.answer.lock() = Some(Ok(Some(sales())));
        clock.advance(UNKNOWN_FOR);
        for _ in 0..3 {
            assert_eq!(*calls.call_of(&it), sales());
        }
        assert_eq!(source.asked.load(Ordering::Relaxed), 2);
        clock.advance(KNOWN_FOR);
        calls.call_of(&it);
        assert_eq!(source.asked.load(Ordering::Relaxed), 3);
        assert!(clock.now() > Timestamp(0));
    }

    #[test]
    fn a_source_that_fails_is_left_alone_and_what_it_knew_not_known() {
        let (source, clock, calls, it) = parts();
        *source.answer.lock() = Some(Err("locked".into()));
        assert_eq!(*calls.call_of(&it), CallFacts::default());
        assert_eq!(calls.trouble().as_deref(), Some("locked"));
        clock.advance(UNKNOWN_FOR);
        calls.call_of(&it);
        assert_eq!(source.asked.load(Ordering::Relaxed), 1);
        calls.forget();
        *source.answer.lock() = Some(Ok(Some(sales())));
        assert_eq!(*calls.call_of(&it), sales());
    }
}
