//! Who reads through the archive: a `tar`, a backup, a search for viruses. Each recording costs a
//! request or more, so a process that begins many is named in the log, waits for its turn, and
//! leaves nothing in the disk cache.

use crate::limits;
use crate::recording::{NodeId, Reader};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

/// What is to become of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turn {
    /// It waits so long.
    wait: Duration,
    /// The process is a scanner.
    scans: bool,
    /// So many recordings in the last minute: to be said.
    say: Option<u32>,
}

#[derive(Debug)]
struct Process {
    /// Recordings it may begin now, and since when.
    left: f64,
    at: Instant,
    /// Recordings begun in this minute.
    minute: Instant,
    begun: u32,
    before: u32,
    said: Option<Instant>,
    recent: VecDeque<NodeId>,
}

/// The processes that read lately.
#[derive(Debug)]
pub(super) struct Scanners {
    /// Recordings that a process may begin in a minute; 0: any number.
    limit: u32,
    processes: moka::sync::Cache<u32, Arc<Mutex<Process>>>,
    /// What a scanner reads.
    scanned: moka::sync::Cache<NodeId, ()>,
    waiting: AtomicUsize,
}

impl Scanners {
    pub(super) fn new(limit: u32) -> Scanners {
        let processes = moka::sync::Cache::builder()
            .max_capacity(limits::PROCESSES_WATCHED)
            .time_to_idle(2 * MINUTE)
            .build();
        let scanned = moka::sync::Cache::builder()
            .max_capacity(limits::READERS_WATCHED)
            .time_to_live(MINUTE)
            .build();
        Scanners { limit, processes, scanned, waiting: AtomicUsize::new(0) }
    }

    /// Somebody is about to read a recording: waits until it is his turn, `patience` at most.
    pub(super) fn admit(&self, reader: Reader, id: NodeId, patience: Duration) -> Duration {
        // The kernel's own.
        if reader.pid == 0 {
            return Duration::ZERO;
        }
        let process = process_of(reader.pid);
        let turn = self.turn(process, id, Instant::now());
        if let Some(recordings) = turn.say {
            let waits = self.limit > 0 && recordings >= self.limit;
            tracing::warn!(
                pid = process,
                command = command_of(process),
                uid = reader.uid,
                recordings,
                waits,
                "a process reads many released recordings; each is fetched from a target (see \
                 `recordings_per_minute`)"
            );
        }
        if turn.scans {
            self.scanned.insert(id, ());
        }
        let wait = turn.wait.min(patience);
        // The threads belong to all readers.
        let waits = self.waiting.fetch_add(1, Ordering::Relaxed) < limits::SCANNERS_WAITING;
        if waits && !wait.is_zero() {
            std::thread::sleep(wait);
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        wait
    }

    /// Whether a scanner reads it.
    pub(super) fn is_scanned(&self, id: NodeId) -> bool {
        self.scanned.contains_key(&id)
    }

    fn turn(&self, pid: u32, id: NodeId, now: Instant) -> Turn {
        let fresh = || {
            Arc::new(Mutex::new(Process {
                left: f64::from(self.limit),
                at: now,
                minute: now,
                begun: 0,
                before: 0,
                said: None,
                recent: VecDeque::new(),
            }))
        };
        let process = self.processes.get_with(pid, fresh);
        let mut process = process.lock();
        process.turn(id, self.limit, now)
    }
}

impl Process {
    fn turn(&mut self, id: NodeId, limit: u32, now: Instant) -> Turn {
        if !self.recent.contains(&id) {
            self.begin(id, limit, now);
        }
        let seen = self.begun.max(self.before);
        let scans = seen >= limits::SCANS_FROM;
        let says = scans && self.said.is_none_or(|said| now.duration_since(said) >= MINUTE);
        if says {
            self.said = Some(now);
        }
        let wait = match limit {
            0 => Duration::ZERO,
            limit => Duration::from_secs_f64((-self.left).max(0.0) * 60.0 / f64::from(limit)),
        };
        Turn { wait, scans, say: says.then_some(seen) }
    }

    fn begin(&mut self, id: NodeId, limit: u32, now: Instant) {
        if self.recent.len() >= limits::SCANNER_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
        let minutes = now.duration_since(self.minute).as_secs() / 60;
        if minutes > 0 {
            self.before = if minutes == 1 { self.begun } else { 0 };
            (self.begun, self.minute) = (0, now);
        }
        self.begun = self.begun.saturating_add(1);
        let limit = f64::from(limit);
        let passed = now.duration_since(self.at).as_secs_f64() * limit / 60.0;
        self.at = now;
        self.left = (self.left + passed).min(limit) - 1.0;
    }
}

/// The process of a thread: the kernel tells of threads.
fn process_of(thread: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|text| text.trim().parse().ok()).unwrap_or(thread)
}

fn command_of(process: u32) -> String {
    let comm = std::fs::read_to_string(format!("/proc/{process}/comm"));
    comm.map_or_else(|_| "?".to_owned(), |text| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_never_waits_and_is_not_named() {
        let scanners = Scanners::new(60);
        let begin = Instant::now();
        // Fifty recordings in half an hour, each read in a thousand pieces.
        for n in 0..50_000u64 {
            let now = begin + Duration::from_millis(36 * n);
            assert_eq!(scanners.turn(7, NodeId(n / 1000), now), Turn::default());
        }
    }

    /// Each read counted as the beginning of a recording where more than 32 were read by turns.
    #[test]
    fn regression_a_web_server_that_plays_many_recordings_is_no_scanner() {
        let scanners = Scanners::new(60);
        let begin = Instant::now();
        let players = 200;
        for n in 0..20 * players {
            let (round, player) = (n / players, n % players);
            // One more begins every other second; then each reads on every eight seconds.
            let millis = if round == 0 { 2000 * n } else { 2000 * players + 40 * n };
            let now = begin + Duration::from_millis(millis);
            assert_eq!(scanners.turn(7, NodeId(player), now), Turn::default(), "{n}");
        }
    }

    #[test]
    fn a_tar_waits_for_its_turn_and_is_named_once_a_minute() {
        let scanners = Scanners::new(60);
        let begin = Instant::now();
        let mut now = begin;
        let mut said = Vec::new();
        for n in 0..240 {
            let turn = scanners.turn(7, NodeId(n), now);
            assert_eq!(turn.scans, n + 1 >= u64::from(limits::SCANS_FROM), "{n}");
            said.extend(turn.say.map(|_| now.duration_since(begin).as_secs()));
            now += turn.wait;
        }
        // The first minute's worth at once, then one a second.
        let took = now.duration_since(begin).as_secs();
        assert!((170..=180).contains(&took), "{took} s");
        assert_eq!(said, [0, 60, 120]);
        // Somebody else does not wait for it.
        assert_eq!(scanners.turn(8, NodeId(1), now).wait, Duration::ZERO);
    }

    #[test]
    fn without_a_limit_it_is_only_named() {
        let scanners = Scanners::new(0);
        let now = Instant::now();
        let turns: Vec<_> = (0..1000).map(|n| scanners.turn(7, NodeId(n), now)).collect();
        assert!(turns.iter().all(|t| t.wait.is_zero()));
        assert_eq!(turns.iter().filter(|t| t.say.is_some()).count(), 1);
    }

    #[test]
    fn a_thread_counts_for_its_process() {
        let process = std::process::id();
        let thread = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get());
        let thread = u32::try_from(thread.join().unwrap()).unwrap();
        // The thread may be gone by now: then it stands for itself.
        assert!([process, thread].contains(&process_of(thread)));
        assert_eq!(process_of(process), process);
    }
}
