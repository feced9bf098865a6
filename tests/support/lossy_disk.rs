//! A disk that forgets: what was written since the last flush may be gone after a power cut, all
//! or some of it, in any order.
//!
//! A small FUSE file system shows one file, a loop device makes a disk of it, ext4 is on that. The
//! file is opened for direct I/O, so that every write of the loop device arrives as one, and every
//! FLUSH of ext4 as an fsync. Blocks are kept in memory.

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, Session, SessionACL, WriteFlags,
};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::run::{Ran, run};

/// Disks write whole sectors.
const SECTOR: usize = 512;
const BLOCK: usize = 4096;
/// For programs that make, check, mount and unmount.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a disk holds; a block that was never written is zeros and takes no memory.
#[derive(Clone, Debug)]
pub struct Blocks(Vec<Option<Arc<[u8; BLOCK]>>>);

impl Blocks {
    fn empty(bytes: u64) -> Blocks {
        Blocks(vec![None; usize::try_from(bytes).expect("it is small") / BLOCK])
    }

    fn len(&self) -> u64 {
        (self.0.len() * BLOCK) as u64
    }

    /// Calls `act` with each block that is touched, where in it, and which part of the range.
    fn each(offset: u64, len: usize, mut act: impl FnMut(usize, usize, std::ops::Range<usize>)) {
        let mut done = 0;
        while done < len {
            let at = usize::try_from(offset).expect("it is small") + done;
            let step = (BLOCK - at % BLOCK).min(len - done);
            act(at / BLOCK, at % BLOCK, done..done + step);
            done += step;
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        Blocks::each(offset, bytes.len(), |block, at, part| {
            let slot = &mut self.0[block];
            let block = Arc::make_mut(slot.get_or_insert_with(|| Arc::new([0; BLOCK])));
            block[at..at + part.len()].copy_from_slice(&bytes[part]);
        });
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Blocks::each(offset, len, |block, at, part| {
            if let Some(block) = &self.0[block] {
                let len = part.len();
                bytes[part].copy_from_slice(&block[at..at + len]);
            }
        });
        bytes
    }

    fn load(path: &Path) -> Blocks {
        let file = File::open(path).expect("the image is there");
        let len = file.metadata().expect("the image is there").len();
        let mut blocks = Blocks::empty(len);
        let mut bytes = [0; BLOCK];
        for (n, block) in blocks.0.iter_mut().enumerate() {
            file.read_exact_at(&mut bytes, (n * BLOCK) as u64).expect("the image is readable");
            if bytes != [0; BLOCK] {
                *block = Some(Arc::new(bytes));
            }
        }
        blocks
    }

    /// Writes them to a file of their own.
    pub fn store(&self, path: &Path) {
        let file = File::create(path).expect("a file can be made");
        file.set_len(self.len()).expect("it can be sparse");
        for (n, block) in self.0.iter().enumerate() {
            if let Some(block) = block {
                file.write_all_at(&block[..], (n * BLOCK) as u64).expect("there is room");
            }
        }
    }
}

/// What a cut met.
#[derive(Clone, Debug)]
pub struct Cut {
    /// When the power went.
    pub at: Instant,
    /// Writes since the last flush.
    pub writes: usize,
    /// Sectors in them.
    pub sectors: usize,
    /// Sectors of them that survived.
    pub kept: usize,
}

#[derive(Debug)]
struct State {
    current: Blocks,
    /// Everything up to the last flush.
    durable: Blocks,
    /// Everything since, in order.
    pending: Vec<(u64, Box<[u8]>)>,
    writes: u64,
    flushes: u64,
    /// The power goes when so many writes wait for a flush.
    fuse: Option<usize>,
    /// When the power went: what is written from then on belongs to nobody.
    cut: Option<Instant>,
}

/// The disk itself. It serves as long as something is mounted on it.
#[derive(Clone, Debug)]
struct Platter(Arc<Mutex<State>>);

impl Platter {
    fn with(blocks: Blocks) -> Platter {
        Platter(Arc::new(Mutex::new(State {
            durable: blocks.clone(),
            current: blocks,
            pending: Vec::new(),
            writes: 0,
            flushes: 0,
            fuse: None,
            cut: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let state = &mut *self.state();
        state.current.write(offset, bytes);
        state.writes += 1;
        if state.cut.is_some() {
            return;
        }
        state.pending.push((offset, bytes.into()));
        if state.fuse.is_some_and(|most| state.pending.len() >= most) {
            state.cut = Some(Instant::now());
        }
    }

    fn flush(&self) {
        let state = &mut *self.state();
        state.flushes += 1;
        if state.cut.is_some() {
            return;
        }
        for (offset, bytes) in state.pending.drain(..) {
            state.durable.write(offset, &bytes);
        }
    }

    fn cut(&self, share: f64, rng: &mut fastrand::Rng) -> (Blocks, Cut) {
        let state = &mut *self.state();
        let at = *state.cut.get_or_insert_with(Instant::now);
        let mut left = state.durable.clone();
        let mut cut = Cut { at, writes: state.pending.len(), sectors: 0, kept: 0 };
        for (offset, bytes) in state.pending.drain(..) {
            cut.sectors += bytes.len() / SECTOR;
            // Whole writes, whole blocks of one, or sectors.
            let unit = [bytes.len(), BLOCK, SECTOR][rng.usize(..3)].max(SECTOR);
            for (n, part) in bytes.chunks(unit).enumerate() {
                if rng.f64() < share {
                    left.write(offset + (n * unit) as u64, part);
                    cut.kept += part.len() / SECTOR;
                }
            }
        }
        (left, cut)
    }

    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm, size) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o700, 0),
            _ => (FileType::RegularFile, 0o600, self.state().current.len()),
        };
        let time = SystemTime::UNIX_EPOCH;
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

const FILE: INodeNo = INodeNo(2);
const NAME: &str = "disk";
const TTL: Duration = Duration::from_secs(3600);

impl Filesystem for Platter {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&TTL, &self.attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state();
        let size = u64::from(size).min(state.current.len().saturating_sub(offset));
        reply.data(&state.current.read(offset, size as usize));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        Platter::write(self, offset, data);
        reply.written(u32::try_from(data.len()).expect("the kernel's writes are small"));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        Platter::flush(self);
        reply.ok();
    }
}

/// A disk with ext4 on it, mounted. Dropping it takes everything down.
pub struct LossyDisk {
    platter: Platter,
    /// The directory that shows the disk as a file.
    served: PathBuf,
    /// Where the file system of the disk is mounted.
    at: PathBuf,
}

impl LossyDisk {
    /// What a disk of `mib` MiB holds when an ext4 was just made on it.
    pub fn format(scratch: &Path, mib: u64) -> Blocks {
        let image = scratch.join("format.img");
        let file = File::create(&image).expect("a file can be made");
        file.set_len(mib << 20).expect("it can be sparse");
        let mut make = Command::new("mkfs.ext4");
        // Nothing is left for the kernel to do by and by.
        let now = "lazy_itable_init=0,lazy_journal_init=0,nodiscard";
        run(make.args(["-q", "-F", "-m", "0", "-J", "size=16", "-E", now]).arg(&image), DEADLINE)
            .ok();
        let blocks = Blocks::load(&image);
        fs::remove_file(&image).expect("it was made here");
        blocks
    }

    /// Mounts a disk that holds `blocks` at `at`; the kernel replays the journal of its ext4.
    pub fn mount(blocks: Blocks, scratch: &Path, at: &Path) -> LossyDisk {
        let served = tempfile::Builder::new().prefix("disk-").tempdir_in(scratch);
        let served = served.expect("a directory").keep();
        let platter = Platter::with(blocks);
        serve(platter.clone(), &served);
        let disk = LossyDisk { platter, served, at: at.to_owned() };
        fs::create_dir_all(at).expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop"]).arg(disk.served.join(NAME)).arg(at);
        run(&mut mount, DEADLINE).ok();
        disk
    }

    /// The power goes, if it has not gone yet. What was flushed is left, and of what was written since about `share`, by
    /// chance. Programs do not notice; nothing they do from now on matters.
    pub fn cut(&self, share: f64, rng: &mut fastrand::Rng) -> (Blocks, Cut) {
        self.platter.cut(share, rng)
    }

    /// Lets the power go when `n` writes wait for a flush.
    pub fn cut_at(&self, n: usize) {
        self.platter.state().fuse = Some(n);
    }

    /// Whether it has gone.
    pub fn is_cut(&self) -> bool {
        self.platter.state().cut.is_some()
    }

    /// How often it was written to, and how often it was told to flush.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.platter.state();
        (state.writes, state.flushes)
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        // Programs that were just killed may take a moment to let go. The loop device goes with
        // the last of them, and the file it is made of only after it.
        let until = Instant::now() + super::look::PATIENCE;
        for path in [&self.at, &self.served] {
            while rustix::mount::unmount(path, UnmountFlags::empty())
                == Err(rustix::io::Errno::BUSY)
            {
                if Instant::now() > until {
                    eprintln!("{} is in use; it is detached", path.display());
                    let _gone_with_its_users = rustix::mount::unmount(path, UnmountFlags::DETACH);
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _best_effort = fs::remove_dir(&self.served);
    }
}

fn serve(platter: Platter, at: &Path) {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let device = device.expect("/dev/fuse can be opened");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let options = CString::new(options).expect("no NUL in it");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("lossy-disk", at, "fuse.lossy-disk", flags, &*options).expect("mounted");
    std::thread::spawn(move || {
        let session = Session::from_fd(platter, device, SessionACL::Owner, Config::default());
        session.expect("the kernel talks to it").run()
    });
}

/// What e2fsck says of the ext4 in `blocks` once its journal was replayed: exit status 0 or, as
/// replaying may count as a correction, 1 if it is sound.
pub fn check(blocks: &Blocks, scratch: &Path) -> Ran {
    let image = scratch.join("check.img");
    blocks.store(&image);
    let ran = run(Command::new("e2fsck").args(["-fp"]).arg(&image), DEADLINE);
    fs::remove_file(&image).expect("it was made here");
    ran
}

/// Runs `test` where mounts are nobody else's, and vanish with the last process that sees them.
#[allow(unsafe_code)]
pub fn apart<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    use rustix::mount::{MountPropagationFlags, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    let run = move || {
        // SAFETY: no descriptor is concerned, and the thread is new: nothing relies on its sharing
        // the working directory with others.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("root may have mounts of its own");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).expect("mounts can be kept apart");
        test()
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
