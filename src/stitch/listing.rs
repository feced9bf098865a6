//! The names of the directory, alone or with what `stat` shows of each.

use super::legs::Planned;
use super::plan::Plan;
use super::service::{Missing, Stitched, in_range};
use super::{Result, name};
use crate::limits;
use crate::recording::{Attr, NodeId};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long what was found out for a reply and had no room in it is good for the next.
const AHEAD_AGE: Duration = Duration::from_millis(100);
/// Longest time spent on a reply, but for the calls asked for at once.
const REPLY_TIME: Duration = Duration::from_millis(20);

/// Takes a name, with the position behind it and what `stat` shows of it if that is known. Says no
/// when it has no room.
pub type Take<'a> = &'a mut dyn FnMut(u64, &str, Option<(NodeId, &Attr)>) -> bool;

/// A name of a listing.
#[derive(Debug)]
struct Seen {
    next: u64,
    name: String,
    join: Option<(NodeId, Plan, Attr)>,
}

/// Names that follow a cursor.
#[derive(Debug)]
struct Page {
    after: u64,
    names: VecDeque<Seen>,
    at: Instant,
}

/// What had no room in replies.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<VecDeque<Page>>);

impl Ahead {
    fn take(&self, after: u64) -> Option<Page> {
        let mut pages = self.0.lock();
        pages.retain(|page| page.at.elapsed() < AHEAD_AGE);
        let index = pages.iter().position(|page| page.after == after)?;
        pages.remove(index)
    }

    fn keep(&self, page: Page) {
        let mut pages = self.0.lock();
        if pages.len() >= limits::STITCH_PAGES_AHEAD {
            pages.pop_front();
        }
        pages.push_back(page);
    }
}

impl Stitched {
    /// Names behind a cursor, each with its own.
    ///
    /// # Errors
    /// If call records can not be read now.
    pub fn list(&self, cursor: u64, limit: usize) -> Result<Vec<(u64, String)>> {
        let calls = self.calls.after(cursor, limit)?;
        Ok(calls.into_iter().map(|(next, id)| (next, name::file_name(&id))).collect())
    }

    /// A number for an entry of a listing: what its join is, is found out when it is looked at.
    pub fn listed_id(name: &str) -> NodeId {
        let sum = crate::recording::Sha256::of(name.as_bytes());
        in_range(sum.0.first_chunk().map_or(0, |b| u64::from_le_bytes(*b)))
    }

    /// Gives names behind a cursor until `take` says no or there are no more, or for a moment. Each
    /// comes with what `stat` shows, and counts as looked up once taken, unless a target would have
    /// to be asked or its legs can not be looked at now: then it is a name and no more.
    ///
    /// # Errors
    /// If call records can not be read now.
    pub fn list_full(&self, mut cursor: u64, take: Take<'_>) -> Result<()> {
        let began = Instant::now();
        loop {
            let mut page = match self.ahead.take(cursor) {
                Some(page) => page,
                None => self.look(cursor)?,
            };
            if page.names.is_empty() {
                return Ok(());
            }
            while let Some(seen) = page.names.pop_front() {
                let known = seen.join.as_ref().map(|(id, _, attr)| (*id, attr));
                if !take(seen.next, &seen.name, known) {
                    page.names.push_front(seen);
                    page.after = cursor;
                    self.ahead.keep(page);
                    return Ok(());
                }
                cursor = seen.next;
                if let Some((id, plan, attr)) = seen.join {
                    self.looked_up(id, plan, &attr);
                }
            }
            if began.elapsed() > REPLY_TIME {
                return Ok(());
            }
        }
    }

    /// The calls behind a cursor, looked at all at once.
    fn look(&self, mut cursor: u64) -> Result<Page> {
        loop {
            let calls = self.calls.with_legs(cursor, limits::STITCH_PAGE)?;
            let last = calls.last().map(|call| call.cursor);
            let (heads, legs): (Vec<_>, Vec<_>) =
                calls.into_iter().map(|call| ((call.cursor, call.linkedid), call.legs)).unzip();
            let plans = self.plans(&legs, false);
            let seen = heads.into_iter().zip(&legs).zip(plans);
            let names: VecDeque<Seen> = seen
                .filter_map(|(((next, id), legs), planned)| {
                    seen_as(next, &id, self.or_kept(&id, legs, planned))
                })
                .collect();
            match last {
                // Nothing is left of any of these calls.
                Some(last) if names.is_empty() => cursor = last,
                _ => return Ok(Page { after: cursor, names, at: Instant::now() }),
            }
        }
    }
}

/// A call as a listing shows it; none if nothing is left of it.
fn seen_as(next: u64, linkedid: &[u8], planned: Planned) -> Option<Seen> {
    let join = match planned {
        Ok((plan, attr)) => Some((in_range(plan.digest()), plan, attr)),
        Err(Missing::NoCall) => return None,
        Err(Missing::MustWait | Missing::Failed(_)) => None,
    };
    Some(Seen { next, name: name::file_name(linkedid), join })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{
        CallLeg, Calls, Heard as HeardCalls, Leg, ListedCall, Looked, Named, Options, Recordings,
        Setting, Source, Standing, StitchError, Tier,
    };
    use super::*;
    use crate::clock::Timestamp;
    use crate::codec::{Coding, wav_header};
    use crate::recording::{ErrorClass, Kind};
    use bytes::Bytes;
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    /// Calls of two legs each; of call N these have the numbers 2 N and 2 N + 1.
    #[derive(Default)]
    pub(in crate::stitch) struct Pbx {
        pub calls: u64,
        /// Recordings that are in a target only.
        pub released: Mutex<HashSet<u64>>,
        pub gone: Mutex<HashSet<u64>>,
        /// Those that are being recorded.
        pub growing: Mutex<HashSet<u64>>,
        /// The last that has a name; 0: all have.
        pub named: AtomicU64,
        pub questions: AtomicUsize,
        pub opens: AtomicUsize,
        /// The stored join.
        pub stored: Mutex<Bytes>,
    }

    fn audio(node: u64) -> Bytes {
        let len = 160 * (1 + node % 7);
        let mut bytes = wav_header(Coding::Pcm16, 8000, 1, len);
        bytes.resize(bytes.len() + len as usize, node as u8);
        bytes.into()
    }

    struct Heard(Bytes);

    impl Source for Heard {
        fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
            let from = (offset as usize).min(self.0.len());
            Ok(self.0.slice(from..(from + len).min(self.0.len())))
        }

        fn is_remote(&self) -> bool {
            false
        }
    }

    impl Pbx {
        fn asked(&self) {
            self.questions.fetch_add(1, Ordering::Relaxed);
        }

        fn attr(&self, node: NodeId) -> Attr {
            Attr {
                kind: Kind::File,
                mode: 0o640,
                uid: 1,
                gid: 1,
                size: audio(node.0).len() as u64,
                mtime: Timestamp(node.0 as i64),
                atime: Timestamp(0),
                ctime: Timestamp(0),
                nlink: 1,
                rdev: 0,
                blocks: 8,
                special: 0,
            }
        }
    }

    impl Calls for Pbx {
        fn is_open(&self) -> bool {
            true
        }

        fn legs(&self, linkedid: &[u8]) -> Result<Vec<CallLeg>> {
            self.asked();
            let call: u64 = std::str::from_utf8(linkedid).unwrap().parse().unwrap();
            let leg = |node| CallLeg { node: NodeId(node), start: None, side: None };
            Ok([call * 2, call * 2 + 1].map(leg).into())
        }

        fn after(&self, cursor: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
            self.asked();
            let calls = cursor + 1..=self.calls.min(cursor + limit as u64);
            Ok(calls.map(|call| (call, call.to_string().into_bytes())).collect())
        }

        fn with_legs(&self, cursor: u64, limit: usize) -> Result<Vec<ListedCall>> {
            let calls = self.after(cursor, limit)?.into_iter();
            let before = self.questions.load(Ordering::Relaxed);
            let of = |(cursor, linkedid): (u64, Vec<u8>)| {
                let legs = self.legs(&linkedid)?;
                Ok(ListedCall { cursor, linkedid, legs })
            };
            let calls = calls.map(of).collect();
            self.questions.store(before, Ordering::Relaxed);
            calls
        }

        fn heard_after(&self, position: u64, _: usize) -> Result<HeardCalls> {
            Ok(HeardCalls { calls: Vec::new(), position })
        }

        fn calls_of(&self, node: NodeId) -> Result<Vec<Vec<u8>>> {
            Ok(vec![(node.0 / 2).to_string().into_bytes()])
        }

        fn is_complete(&self, _: &[u8]) -> Result<bool> {
            Ok(true)
        }
    }

    impl Recordings for Arc<Pbx> {
        fn tier_of_stored(&self, _: NodeId) -> Tier {
            Tier::Target
        }

        fn read_stored(&self, _: NodeId, offset: u64, len: usize) -> Result<Bytes> {
            Heard(self.stored.lock().clone()).read(offset, len)
        }

        fn standings(&self, nodes: &[NodeId]) -> Vec<Result<Option<Standing>>> {
            self.asked();
            let of = |node: &NodeId| {
                let released = self.released.lock().contains(&node.0);
                let tier = if released { Tier::Target } else { Tier::Local };
                let (path, attr) = (format!("{}.wav", node.0).into(), self.attr(*node));
                let growing = self.growing.lock().contains(&node.0);
                let standing = Standing { path, attr, tier, growing };
                Ok((!self.gone.lock().contains(&node.0)).then_some(standing))
            };
            nodes.iter().map(of).collect()
        }

        fn named_after(&self, cursor: u64, limit: usize) -> Result<Named> {
            let all = self.calls * 2 + 1;
            let last = Some(self.named.load(Ordering::Relaxed)).filter(|n| *n > 0).unwrap_or(all);
            let nodes: Vec<NodeId> = (cursor.max(1) + 1..=last).take(limit).map(NodeId).collect();
            let cursor = nodes.last().map_or(cursor, |node| node.0);
            Ok(Named { more: nodes.len() == limit, nodes, cursor })
        }

        fn open(&self, leg: &Leg) -> Result<Box<dyn Source>> {
            self.opens.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(Heard(audio(leg.node.0))))
        }

        fn root(&self) -> Result<Attr> {
            Err(StitchError {
                leg: String::new(),
                detail: String::new(),
                class: ErrorClass::Transient,
            })
        }
    }

    impl Calls for Arc<Pbx> {
        fn is_open(&self) -> bool {
            (**self).is_open()
        }

        fn legs(&self, linkedid: &[u8]) -> Result<Vec<CallLeg>> {
            (**self).legs(linkedid)
        }

        fn after(&self, cursor: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
            (**self).after(cursor, limit)
        }

        fn with_legs(&self, cursor: u64, limit: usize) -> Result<Vec<ListedCall>> {
            (**self).with_legs(cursor, limit)
        }

        fn heard_after(&self, position: u64, limit: usize) -> Result<HeardCalls> {
            (**self).heard_after(position, limit)
        }

        fn calls_of(&self, node: NodeId) -> Result<Vec<Vec<u8>>> {
            (**self).calls_of(node)
        }

        fn is_complete(&self, linkedid: &[u8]) -> Result<bool> {
            (**self).is_complete(linkedid)
        }
    }

    pub(in crate::stitch) fn stitched(pbx: &Arc<Pbx>, state: &std::path::Path) -> Stitched {
        let join = Options::default();
        let setting = Setting { directory: "stitched".into(), listed: true, join };
        Stitched::new(setting, Arc::new(pbx.clone()), Arc::new(pbx.clone()), state, None, false)
    }

    /// All names, in replies of so many.
    fn listed(stitched: &Stitched, room: usize) -> Vec<(String, Option<(NodeId, u64)>)> {
        let (mut all, mut cursor) = (Vec::new(), 0);
        loop {
            let before = all.len();
            stitched
                .list_full(cursor, &mut |next, name, known| {
                    let full = all.len() - before == room;
                    if !full {
                        cursor = next;
                        all.push((name.to_owned(), known.map(|(id, attr)| (id, attr.size))));
                    }
                    !full
                })
                .unwrap();
            if all.len() == before {
                return all;
            }
        }
    }

    #[test]
    fn a_listing_asks_by_the_page_and_opens_no_leg_twice() {
        const CALLS: u64 = 1000;
        let place = tempfile::tempdir().unwrap();
        let pbx = Arc::new(Pbx { calls: CALLS, ..Pbx::default() });
        let stitched = stitched(&pbx, place.path());
        let took = |counter: &AtomicUsize| counter.swap(0, Ordering::Relaxed);
        let first = listed(&stitched, usize::MAX);
        assert_eq!(first.len(), CALLS as usize);
        assert_eq!(took(&pbx.opens), 2 * CALLS as usize, "each leg's header is read once");
        // Two for each page; that nothing follows is asked by whoever lists and once more by us.
        let pages = CALLS.div_ceil(limits::STITCH_PAGE as u64) as usize;
        assert!(took(&pbx.questions) <= 2 * (pages + 2));
        assert_eq!(listed(&stitched, usize::MAX), first);
        assert_eq!(took(&pbx.opens), 0, "what a leg is, is remembered");
        assert!(took(&pbx.questions) <= 2 * (pages + 2));
        for (name, known) in &first {
            let (id, size) = known.unwrap();
            let found = stitched.lookup(name.as_bytes(), false).unwrap();
            assert_eq!((found.0, found.1.size), (id, size), "{name}");
            let read = stitched.read(id, 0, usize::MAX >> 1).unwrap().unwrap();
            assert_eq!(read.len() as u64, size, "{name}: the size is what is read");
        }
    }

    #[test]
    fn a_listing_in_any_pieces_gives_each_call_once() {
        let place = tempfile::tempdir().unwrap();
        let gone = Mutex::new((300..500).chain([7, 20, 21]).collect());
        let pbx = Arc::new(Pbx { calls: 300, gone, ..Pbx::default() });
        let stitched = stitched(&pbx, place.path());
        // Of calls 150 to 249 nothing is left, nor of call 10; of call 3 one leg.
        let left = (1..=300).filter(|call| !(150..250).contains(call) && *call != 10);
        let wanted: Vec<String> = left.map(|call| format!("{call}.wav")).collect();
        for room in [1, 23, 64, 65, 1000] {
            let names: Vec<_> = listed(&stitched, room).into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, wanted, "{room} at a time");
        }
    }

    #[test]
    fn what_a_target_would_have_to_tell_is_a_name_only() {
        let place = tempfile::tempdir().unwrap();
        let pbx = Arc::new(Pbx { calls: 2, ..Pbx::default() });
        // Call 1 was looked at while it was local.
        stitched(&Arc::new(Pbx { calls: 1, ..Pbx::default() }), place.path())
            .look_ahead(&mut Looked::default())
            .unwrap();
        let released = Mutex::new(HashSet::from([2, 3, 4, 5]));
        let pbx = Arc::new(Pbx { released, ..Arc::into_inner(pbx).unwrap() });
        let found = listed(&stitched(&pbx, place.path()), 10);
        assert_eq!(found.len(), 2);
        assert!(found[0].1.is_some(), "{found:?}");
        assert_eq!(found[1], ("2.wav".to_owned(), None));
        assert_eq!(pbx.opens.load(Ordering::Relaxed), 0);
    }
}
