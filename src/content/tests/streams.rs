//! Chunks that are added to a request under way.

use super::requests::BreaksOff;
use super::*;
use crate::content::flight::Flight;

const CHUNKS: u64 = 40;

/// A reader of a recording of 40 chunks. The first target answers as it is told to; one that breaks
/// off after the end gives all of it, in one answer.
struct Listener {
    world: World,
    content: Content,
    stored: Arc<crate::content::source::Stored>,
}

impl Listener {
    fn new(after: usize, wrong: bool) -> Listener {
        let world = World::with(chunk_range(CHUNKS - 1, u64::MAX).end);
        let first = Arc::new(BreaksOff::new(world.stores[0].clone(), after, wrong));
        let stores: Vec<Arc<dyn Store>> = vec![first, world.stores[1].clone()];
        let options = Options { read_timeout: Duration::from_secs(60), ..Options::default() };
        let runtime = world.runtime.handle().clone();
        let (rows, clock) = (world.rows.clone(), world.clock.clone());
        let content = Content::new(options, rows, stores, runtime, clock);
        let stored = content.inner.sources.of(ID, None, path()).unwrap();
        Listener { world, content, stored }
    }

    /// Asks for chunks as one does who reads as quickly as they come.
    fn ask(&self, chunks: Range<u64>) -> Vec<(u64, Arc<Flight>)> {
        let mut legs = Vec::new();
        let flights = self.content.board(&self.stored, path(), chunks.clone(), &chunks, &mut legs);
        self.content.launch(&self.stored, path(), legs, false, true);
        flights
    }

    fn hears(&self, flights: Vec<(u64, Arc<Flight>)>) {
        for (index, flight) in flights {
            let bytes = flight.wait(Instant::now() + Duration::from_secs(60)).unwrap().unwrap();
            let range = chunk_range(index, self.stored.size);
            assert!(bytes == self.world.audio[range.start as usize..range.end as usize], "{index}");
        }
    }

    fn requests(&self) -> [u64; 2] {
        [0, 1].map(|n| self.world.stores[n].calls(Operation::Get))
    }

    fn stream(&self) -> Option<u64> {
        self.content.inner.streams.next((ID, Generation(1)))
    }

    fn until_ended(&self) {
        let begin = Instant::now();
        while self.stream().is_some() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_is_wanted_next_comes_in_the_request_that_is_under_way() {
    let it = Listener::new(usize::MAX, false);
    for at in (0..CHUNKS).step_by(4) {
        let flights = it.ask(at..at + 4);
        it.hears(flights);
    }
    assert_eq!(it.requests(), [1, 0]);
    it.until_ended();
}

#[test]
fn who_reads_elsewhere_meanwhile_has_a_request_of_his_own() {
    let it = Listener::new(usize::MAX, false);
    let first = it.ask(0..4);
    assert_eq!(it.stream(), Some(4));
    it.hears(it.ask(30..32));
    it.hears(first);
    it.hears(it.ask(4..8));
    assert_eq!(it.requests(), [2, 0]);
    // What is not adjacent is no stream, and neither is one for what little is left.
    it.until_ended();
    it.hears(it.ask(28..33));
    it.hears(it.ask(33..36));
    assert_eq!(it.stream(), None);
}

#[test]
fn a_reader_who_stops_keeps_no_request_and_goes_on_with_another() {
    let it = Listener::new(usize::MAX, false);
    it.hears(it.ask(0..4));
    it.until_ended();
    it.hears(it.ask(4..8));
    assert_eq!((it.requests(), it.stream()), ([2, 0], Some(8)));
}

#[test]
fn what_was_added_to_a_request_that_breaks_off_or_is_wrong_comes_otherwise() {
    for (after, wrong) in [(0, false), (700_000, false), (0, true)] {
        let it = Listener::new(after, wrong);
        let flights: Vec<_> = (0..CHUNKS).step_by(4).flat_map(|at| it.ask(at..at + 4)).collect();
        it.hears(flights);
        assert_eq!(it.requests()[1], u64::from(wrong), "{after} {wrong}");
        it.until_ended();
    }
}

/// `cat`: his first read begins the request for all of it, where that does no harm if he wants no more.
#[test]
fn who_begins_with_much_gets_one_request_on_a_line_that_is_known_to_be_quick() {
    for quick in [true, false] {
        let it = Listener::new(usize::MAX, false);
        if quick {
            it.content.inner.pace.followed(Duration::from_millis(1), CHUNK_BYTES);
        }
        let large = limits::LARGE_READ_BYTES as usize;
        assert!(read(&it.content, 0, large).unwrap() == it.world.audio[..large]);
        // What was asked for ahead of him: too much for one request that has an end.
        let (ahead, mut legs) = (0..8, Vec::new());
        it.hears(it.content.board(&it.stored, path(), ahead.clone(), &ahead, &mut legs));
        assert!(legs.is_empty());
        let [requests, _] = it.requests();
        assert_eq!(requests == 1, quick, "{requests} requests, on a quick line: {quick}");
    }
}
