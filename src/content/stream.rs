//! One request for who reads a recording from end to end, as quickly as it comes: what he wants next
//! is added to a request that is under way, so that the line is never idle, each byte comes in the
//! order it is wanted in, and the server is asked once. What nobody wants yet stays with the server.

use super::journey::Leg;
use crate::limits;
use crate::recording::{Generation, NodeId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

type Key = (NodeId, Generation);
type Table = Arc<Mutex<HashMap<Key, Open>>>;

/// Where chunks are added to a request.
#[derive(Debug)]
struct Open {
    to: UnboundedSender<Vec<Leg>>,
    /// The chunk that comes next.
    next: u64,
    /// The first chunk that it does not bring.
    end: u64,
}

/// The streams under way: one for each recording.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: Table,
}

impl Streams {
    /// The chunk that the one of this recording goes on with.
    pub(super) fn next(&self, key: Key) -> Option<u64> {
        Some(self.open.lock().get(&key)?.next)
    }

    /// Adds chunks to the stream that goes on with them. They are given back if there is none.
    pub(super) fn go_on(&self, key: Key, legs: Vec<Leg>) -> Option<Vec<Leg>> {
        let mut table = self.open.lock();
        let Some(open) = table.get_mut(&key) else { return Some(legs) };
        let Some(after) = follow(&legs, open.next).filter(|after| *after <= open.end) else {
            return Some(legs);
        };
        match open.to.send(legs) {
            Ok(()) => {
                open.next = after;
                None
            }
            Err(ended) => Some(ended.0),
        }
    }

    /// Opens one behind `legs`, if they are adjacent, enough follows them among the `count` chunks of
    /// the recording, it has none, and there are not too many.
    pub(super) fn open(&self, key: Key, legs: &[Leg], count: u64) -> Option<More> {
        let first = legs.first()?.index;
        let next = follow(legs, first)?;
        let end = count.min(first + limits::STREAM_CHUNKS_MAX);
        if end < next + limits::STREAM_CHUNKS_MIN {
            return None;
        }
        let mut table = self.open.lock();
        if table.len() >= limits::STREAMS_MAX {
            return None;
        }
        let Entry::Vacant(room) = table.entry(key) else { return None };
        let (to, from) = unbounded_channel();
        room.insert(Open { to, next, end });
        Some(More { from, next, end, key, table: self.open.clone() })
    }
}

/// What comes after `legs`, if they are adjacent from `first` on.
fn follow(legs: &[Leg], first: u64) -> Option<u64> {
    let adjacent = (first..).zip(legs).all(|(index, leg)| leg.index == index);
    adjacent.then_some(first + legs.len() as u64)
}

/// What is added to a stream. Nothing more is, once this is dropped.
#[derive(Debug)]
pub(super) struct More {
    from: UnboundedReceiver<Vec<Leg>>,
    /// The next chunk that may be added...
    next: u64,
    /// ...and the first that can not.
    pub(super) end: u64,
    key: Key,
    table: Table,
}

impl More {
    /// The next chunks; none if the reader wants no more, or takes his time.
    pub(super) async fn next(&mut self) -> Option<Vec<Leg>> {
        if self.next == self.end {
            return None;
        }
        let came = tokio::time::timeout(limits::STREAM_PATIENCE, self.from.recv()).await;
        let legs = came.ok().flatten()?;
        self.next += legs.len() as u64;
        Some(legs)
    }

    /// What was added and not taken yet; nothing is from now on.
    pub(super) fn rest(mut self) -> Vec<Leg> {
        self.close();
        std::iter::from_fn(|| self.from.try_recv().ok()).flatten().collect()
    }

    /// Once: after that the recording may have another stream, whose place this is not.
    fn close(&mut self) {
        let mut table = self.table.lock();
        if !self.from.is_closed() {
            table.remove(&self.key);
            self.from.close();
        }
    }
}

impl Drop for More {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was left of one is fetched otherwise, while the reader has begun another.
    #[test]
    fn regression_a_stream_that_has_ended_does_not_end_the_next_one() {
        let (streams, key, count) = (Streams::default(), (NodeId(1), Generation(1)), 100);
        let mut first = streams.open(key, &[leg(0)], count).unwrap();
        assert!(streams.open(key, &[leg(1)], count).is_none(), "one at a time");
        assert!(streams.go_on(key, vec![leg(1)]).is_none(), "it was taken");
        first.close();
        let second = streams.open(key, &[leg(2)], count).unwrap();
        assert_eq!(first.rest().len(), 1, "what was added is not lost");
        assert_eq!(streams.next(key), Some(3));
        drop(second);
        assert_eq!(streams.next(key), None);
    }

    #[test]
    fn only_so_many_are_under_way() {
        let (streams, count) = (Streams::default(), 100);
        let open = |node| streams.open((NodeId(node), Generation(1)), &[leg(0)], count);
        let mut under_way: Vec<_> =
            (1..=limits::STREAMS_MAX as u64).map(|n| open(n).unwrap()).collect();
        assert!(open(99).is_none());
        under_way.pop();
        assert!(open(99).is_some());
    }

    fn leg(index: u64) -> Leg {
        let flights = crate::content::flight::Flights::default();
        let path = std::path::Path::new("a.wav");
        let (_, pilot) = flights.boarding().start((NodeId(1), Generation(1), index), path);
        let (sum, begun) = (crate::recording::Sha256::of(b""), std::time::Instant::now());
        Leg { index, sum, pilot, begun, room: None }
    }
}
