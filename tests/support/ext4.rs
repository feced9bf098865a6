//! An ext4 file system in a file.

use super::run::{Ran, run};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);
const BLOCK: usize = 4096;

/// Mounted over a directory until dropped.
pub struct Ext4 {
    image: PathBuf,
    over: PathBuf,
}

impl Ext4 {
    /// Makes one with these options of mkfs.ext4. None, said aloud, where there are no loop devices.
    pub fn new(image: &Path, over: &Path, mib: u64, options: &[&str]) -> Option<Ext4> {
        File::create(image)
            .expect("a file can be made")
            .set_len(mib << 20)
            .expect("it can be sparse");
        run(Command::new("mkfs.ext4").arg("-q").args(options).arg(image), DEADLINE).ok();
        let disk = Ext4 { image: image.to_owned(), over: over.to_owned() };
        let mounted = disk.try_mount();
        if !mounted.status.success() {
            eprintln!("SKIPPED: no ext4 can be mounted from a file here: {}", mounted.err);
            return None;
        }
        Some(disk)
    }

    fn try_mount(&self) -> Ran {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.over), DEADLINE)
    }

    /// Unmounts and mounts it, as a restart of the machine does: the kernel forgets its keys.
    pub fn remount(&self) {
        let until = Instant::now() + DEADLINE;
        let flags = rustix::mount::UnmountFlags::empty();
        while let Err(errno) = rustix::mount::unmount(&self.over, flags) {
            assert!(
                Instant::now() < until,
                "{} can not be unmounted: {errno}",
                self.over.display()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        self.try_mount().ok();
    }

    /// Whether these bytes are anywhere on the disk, once everything in memory was written to it.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        let over = File::open(&self.over).expect("it is mounted");
        rustix::fs::syncfs(&over).expect("it can be synced");
        let image = fs::read(&self.image).expect("it can be read");
        // Most of it was never written to.
        let mut written = (0..image.len())
            .step_by(BLOCK)
            .filter(|at| image.get(*at..at + BLOCK).is_none_or(|block| block != [0; BLOCK]));
        let found = |at: usize| {
            let end = image.len().min(at + BLOCK + bytes.len());
            image[at..end].windows(bytes.len()).any(|window| window == bytes)
        };
        written.any(found)
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.over, rustix::mount::UnmountFlags::DETACH);
    }
}
