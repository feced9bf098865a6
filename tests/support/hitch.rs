//! What the machine itself does to anybody, so that a bound on our time does not count it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the meter looks.
const EVERY: Duration = Duration::from_millis(20);

/// Measures, beside the mount and as long as it lives, how long it takes to wake up and to write a
/// block, and if that is asked for, to sync it.
#[derive(Debug)]
pub struct Hitches {
    stop: Arc<AtomicBool>,
    meter: Option<JoinHandle<Duration>>,
}

impl Hitches {
    /// On the file system of `dir`, which is not the mount: for what waits for no disk.
    pub fn beside(dir: &Path) -> Hitches {
        Hitches::begin(dir, false)
    }

    /// For what has to sync on its way, as a start does.
    pub fn of_syncing_beside(dir: &Path) -> Hitches {
        Hitches::begin(dir, true)
    }

    fn begin(dir: &Path, sync: bool) -> Hitches {
        let stop = Arc::new(AtomicBool::new(false));
        let (file, stopped) = (File::create(dir.join("hitches")).expect("a file"), stop.clone());
        let meter = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !stopped.load(SeqCst) {
                let begun = Instant::now();
                std::thread::sleep(EVERY);
                file.write_all_at(&[1; 4096], 0).expect("a block can be written");
                if sync {
                    file.sync_all().expect("and synced");
                }
                worst = worst.max(begun.elapsed().saturating_sub(EVERY));
            }
            worst
        });
        Hitches { stop, meter: Some(meter) }
    }

    /// How much longer than on an idle machine something may take that is done in a few such steps.
    pub fn allowance(mut self) -> Duration {
        self.stop.store(true, SeqCst);
        let meter = self.meter.take().expect("asked once");
        meter.join().expect("the meter does not fail") * 4
    }
}

impl Drop for Hitches {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
    }
}
