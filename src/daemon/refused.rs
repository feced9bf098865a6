//! Puts on record what legal holds refused: some by name, the others of a minute summed up, so that a
//! loop that deletes can not fill the audit log. Each is counted.

use super::Daemon;
use crate::audit::{Entry, Event, Subject, User, Who};
use crate::limits;
use crate::recording::NodeId;
use crate::vfs::{Refusal, Refusals};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);
/// As an operation: there was no room for what it was.
const ANY: &str = "any";

/// Listens until it is told to end.
pub(super) struct Watch {
    daemon: Arc<Daemon>,
    thread: JoinHandle<()>,
}

/// Begins to put refusals on record.
///
/// # Errors
/// If there is no room for a thread.
pub(super) fn watch(daemon: &Arc<Daemon>) -> std::io::Result<Watch> {
    let (refusals, heard) = Refusals::new();
    let untold = refusals.untold();
    let listener = Arc::clone(daemon);
    let listen = move || run(&listener, &heard, &untold);
    let thread = std::thread::Builder::new().name("spoolfs-refused".to_owned()).spawn(listen)?;
    daemon.vfs.tell_refusals(Some(refusals));
    Ok(Watch { daemon: Arc::clone(daemon), thread })
}

impl Watch {
    /// Hands what was heard so far to the audit log.
    pub(super) fn end(self) {
        self.daemon.vfs.tell_refusals(None);
        if self.thread.join().is_err() {
            tracing::error!("what legal holds refused lately is not on record");
        }
    }
}

fn run(daemon: &Daemon, heard: &Receiver<Refusal>, untold: &AtomicU64) {
    let mut tally = Tally::new(Instant::now());
    loop {
        let next = match tally.is_empty() {
            true => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => heard.recv_deadline(tally.begun + MINUTE),
        };
        let now = Instant::now();
        if next.is_err() || now >= tally.begun + MINUTE {
            let rest = std::mem::replace(&mut tally, Tally::new(now)).end(untold);
            rest.into_iter().for_each(|entry| daemon.audit.record(entry));
        }
        match next {
            Ok(refusal) if tally.is_named(&refusal) => name(daemon, refusal),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn name(daemon: &Daemon, refusal: Refusal) {
    let Refusal { id, operation, user, .. } = refusal;
    let row = daemon.catalog.node(id).ok().flatten();
    let path = daemon.catalog.standing(id).ok().flatten().map(|(_, path)| path).unwrap_or_default();
    tracing::warn!(
        path = %path.display(),
        operation,
        uid = user.uid,
        pid = user.pid,
        program = user.program,
        "refused: it is on legal hold"
    );
    let event = Event::HoldRefused { operation: operation.to_owned(), times: 1 };
    let generation = row.as_ref().map(|row| row.generation).unwrap_or_default();
    let sha256 = row.and_then(|row| row.sha256);
    daemon.audit.record(Entry::new(event).by(Who::User(user)).on(Subject {
        id,
        path,
        generation,
        sha256,
    }));
}

/// How many, and who; nobody if they are of many users.
type Sum = (u64, Option<User>);

/// The refusals of a minute.
#[derive(Debug)]
struct Tally {
    begun: Instant,
    named: HashSet<(NodeId, &'static str, u32)>,
    /// Those that are not named: how many, by operation and user; of further users together.
    sums: BTreeMap<(&'static str, Option<u32>), Sum>,
}

impl Tally {
    fn new(begun: Instant) -> Tally {
        Tally { begun, named: HashSet::new(), sums: BTreeMap::new() }
    }

    fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Whether it is put on record by itself. Otherwise it is counted.
    fn is_named(&mut self, refusal: &Refusal) -> bool {
        let Refusal { id, operation, user, .. } = refusal;
        let known = (*id, *operation, user.uid);
        if self.named.len() < limits::HOLD_REFUSALS_NAMED && self.named.insert(known) {
            return true;
        }
        let mut key = (*operation, Some(user.uid));
        if self.sums.len() >= limits::HOLD_REFUSAL_SUMS && !self.sums.contains_key(&key) {
            key.1 = None;
        }
        let who = key.1.map(|_| User { pid: None, ..user.clone() });
        self.sums.entry(key).or_insert((0, who)).0 += 1;
        false
    }

    fn end(self, untold: &AtomicU64) -> Vec<Entry> {
        let mut sums: Vec<_> =
            self.sums.into_iter().map(|((operation, _), (n, who))| (operation, n, who)).collect();
        match untold.swap(0, Ordering::Relaxed) {
            0 => {}
            more => sums.push((ANY, more, None)),
        }
        let entry = |(operation, times, who): (&str, u64, Option<User>)| {
            let event = Event::HoldRefused { operation: operation.to_owned(), times };
            let entry = Entry::new(event).because("too many to be named one by one");
            match who {
                Some(user) => entry.by(Who::User(user)),
                None => entry,
            }
        };
        sums.into_iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn refusal(id: u64, operation: &'static str, uid: u32) -> Refusal {
        let user = User { uid, pid: Some(7), ..User::default() };
        Refusal { id: NodeId(id), operation, user, at: Timestamp::default() }
    }

    #[test]
    fn a_loop_of_refusals_is_summed_up_and_each_is_counted() {
        let mut tally = Tally::new(Instant::now());
        let mut named = 0;
        for id in 0..10_000 {
            for operation in ["unlink", "open"] {
                for _again in 0..2 {
                    named += u64::from(tally.is_named(&refusal(id, operation, 5)));
                }
            }
        }
        for uid in 0..10_000 {
            named += u64::from(tally.is_named(&refusal(1, "rename", uid)));
        }
        assert_eq!(named, limits::HOLD_REFUSALS_NAMED as u64);
        let sum = |tally: &Tally| tally.sums.values().map(|(times, _)| times).sum::<u64>();
        assert_eq!(named + sum(&tally), 50_000);
        let entries = tally.end(&AtomicU64::new(3));
        assert_eq!(entries.len(), limits::HOLD_REFUSAL_SUMS + 2);
        let texts = entries.iter().map(|e| serde_json::to_string(e).unwrap());
        assert!(texts.clone().all(|t| t.contains("hold_refused") && !t.contains("pid")));
        assert!(texts.clone().any(|t| t.contains("\"any\"") && t.contains(":3")));
    }

    #[test]
    fn the_same_thing_tried_again_is_named_once() {
        let mut tally = Tally::new(Instant::now());
        assert!(tally.is_named(&refusal(1, "unlink", 0)));
        assert!(!tally.is_named(&refusal(1, "unlink", 0)));
        assert!(tally.is_named(&refusal(1, "open", 0)));
        assert!(tally.is_named(&refusal(1, "unlink", 9)));
        assert!(tally.is_named(&refusal(2, "unlink", 0)));
        assert_eq!(tally.end(&AtomicU64::new(0)).len(), 1);
    }
}
