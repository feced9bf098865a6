//! The file system without a kernel, and a successor on what it left.

use super::inode::{Inodes, Place};
use super::*;
use crate::catalog;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::limits::IDLE_HANDLE_RESTS_AFTER;
use crate::recording::{Kind, State};
use rustix::fs::{OFlags, RenameFlags};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

/// Nothing is archived here.
struct NoArchive;

fn none() -> RemoteError {
    RemoteError { detail: "no archive".to_owned(), class: ErrorClass::Transient }
}

impl Archive for NoArchive {
    fn read(
        &self,
        _: NodeId,
        _: Option<crate::recording::Generation>,
        _: &Path,
        _: u64,
        _: usize,
    ) -> std::result::Result<Bytes, RemoteError> {
        Err(none())
    }

    fn recall(&self, _: NodeId) -> std::result::Result<(), RemoteError> {
        Err(none())
    }

    fn complete(&self) {}

    fn url(&self, _: &str, key: &str) -> String {
        key.to_owned()
    }
}

/// A kernel that passes everything through, unless told not to, and what it still has.
#[derive(Default)]
struct Kernel(Mutex<(u32, HashSet<u32>)>, AtomicBool);

impl Passthrough for Kernel {
    fn register(&self, _: &File, _: u32) -> Option<u32> {
        if self.1.load(Ordering::Relaxed) {
            return None;
        }
        let mut kernel = self.0.lock();
        kernel.0 += 1;
        let number = kernel.0;
        kernel.1.insert(number);
        Some(number)
    }

    fn unregister(&self, number: u32) {
        self.0.lock().1.remove(&number);
    }

    fn unregister_lost(&self, open: &HashSet<u32>) {
        self.0.lock().1.retain(|number| open.contains(number));
    }
}

/// Directories that outlive a daemon.
struct World {
    dir: tempfile::TempDir,
    kernel: Arc<Kernel>,
    mark: u64,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> (World, Vfs) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["monitor", "state", "run"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let clock = ManualClock::at(SystemClock.now());
        let mut world = World { dir, kernel: Arc::default(), mark: 0, clock };
        let lower = Lower::open(&world.below("")).unwrap();
        let vfs = Vfs::new(world.parts(lower)).unwrap();
        vfs.set_passthrough(world.kernel.clone());
        world.mark = vfs.catalog.mark();
        (world, vfs)
    }

    fn parts(&self, lower: Arc<Lower>) -> Parts {
        let clock = self.clock.clone();
        let options = catalog::Options {
            state_dir: self.dir.path().join("state"),
            runtime_dir: self.dir.path().join("run"),
            clock: clock.clone(),
            node: "pbx".to_owned(),
        };
        Parts {
            lower,
            catalog: Catalog::open(options).unwrap(),
            archive: Arc::new(NoArchive),
            clock,
            workers: Workers::start(1, 1, 8).unwrap(),
            runtime: Some(self.dir.path().join("run")),
        }
    }

    /// Another daemon after the end of this one.
    fn successor(&self, before: Vfs, change: impl FnOnce()) -> Vfs {
        let root = OwnedFd::from(before.lower.root().as_file().unwrap());
        before.catalog.close();
        drop(before);
        change();
        let lower = Lower::resume(root, &self.below("")).unwrap();
        let (vfs, resumption) = Vfs::resumed(self.parts(lower), self.mark).unwrap();
        vfs.set_passthrough(self.kernel.clone());
        vfs.resume(resumption);
        vfs
    }

    fn below(&self, name: &str) -> PathBuf {
        self.dir.path().join("monitor").join(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.below(name)).unwrap()
    }
}

fn caller(unique: u64, resent: bool) -> Caller {
    Caller { unique, resent, uid: 0, gid: 0, pid: 0, umask: 0o022 }
}

/// Makes a file with some bytes and leaves it open.
fn made(vfs: &Vfs, unique: u64, name: &[u8]) -> (NodeId, Opened) {
    let flags = OFlags::RDWR;
    let (entry, opened) =
        vfs.create(caller(unique, false), NodeId::ROOT, name, 0o644, flags).unwrap();
    let file = vfs.handles.get(opened.handle).unwrap().file().unwrap();
    rustix::io::pwrite(&*file, name, 0).unwrap();
    (entry.id, opened)
}

#[test]
fn regression_a_node_known_from_before_is_not_forgotten_early() {
    let (world, vfs) = World::new();
    let (id, opened) = made(&vfs, 1, b"call");
    vfs.release(opened.handle);
    let vfs = world.successor(vfs, || {});
    // The kernel has one reference that is not known here. It finds the node again, and gives
    // back no more than that one reference: it still knows the node.
    vfs.getattr(id, None).unwrap();
    vfs.lookup(NodeId::ROOT, b"call").unwrap();
    vfs.forget(id, 1);
    assert!(vfs.inodes.get(id).is_some(), "the kernel still has a reference");
    // All at once, with those from before.
    vfs.lookup(NodeId::ROOT, b"call").unwrap();
    vfs.forget(id, 2);
    assert!(vfs.inodes.get(id).is_none(), "kept for ever");
    // One that is met for the first time in this life is counted as ever.
    vfs.lookup(NodeId::ROOT, b"call").unwrap();
    vfs.forget(id, 1);
    assert!(vfs.inodes.get(id).is_none());
}

#[test]
fn regression_pages_from_before_a_passthrough_are_not_kept() {
    let (world, vfs) = World::new();
    let plain = |yes| world.kernel.1.store(yes, Ordering::Relaxed);
    let opened_and_closed = |unique| {
        let opened = vfs.open(
            caller(unique, false),
            vfs.lookup(NodeId::ROOT, b"call")?.id,
            OFlags::RDONLY,
            Patience::None,
        )?;
        vfs.release(opened.handle);
        Result::Ok(opened.keep_cache)
    };
    plain(true);
    let (_, opened) = made(&vfs, 1, b"call");
    vfs.release(opened.handle);
    assert!(opened_and_closed(2).unwrap(), "what the kernel wrote itself");
    assert!(opened_and_closed(3).unwrap());
    // The kernel's pages take no part in it.
    plain(false);
    opened_and_closed(4).unwrap();
    plain(true);
    assert!(!opened_and_closed(5).unwrap(), "the first after another mode");
    assert!(opened_and_closed(6).unwrap());
    std::fs::write(world.below("call"), b"of another length").unwrap();
    assert!(!opened_and_closed(7).unwrap(), "other content");
    assert!(opened_and_closed(8).unwrap());
}

#[test]
fn regression_only_the_file_of_its_node_is_opened_again() {
    let (world, vfs) = World::new();
    let (id, mine) = made(&vfs, 1, b"call");
    let (_, same) = made(&vfs, 2, b"other");
    let vfs = world.successor(vfs, || {
        std::fs::remove_file(world.below("call")).unwrap();
        std::fs::write(world.below("call"), b"a stranger's").unwrap();
    });
    let handle = vfs.handles.get(mine.handle).unwrap();
    assert!(handle.file().is_none(), "{id:?} would be written to a stranger's file");
    assert!(vfs.handles.get(same.handle).unwrap().file().is_some());
    vfs.release(mine.handle);
    assert_eq!(world.bytes("call"), b"a stranger's");
}

#[test]
fn regression_what_was_held_for_an_unlink_that_never_came_is_let_go() {
    let (world, vfs) = World::new();
    let (id, opened) = made(&vfs, 1, b"call");
    // It died between the hold and the unlink.
    vfs.lower.hold(vfs.lower.root(), b"call", id).unwrap();
    let vfs = world.successor(vfs, || {});
    assert!(vfs.lower.held(id).is_err(), "held for nobody");
    let inode = vfs.inodes.get(id).unwrap();
    assert!(inode.is_at(NodeId::ROOT, b"call"), "{:?}", *inode.place());
    assert_eq!(vfs.getattr(id, None).unwrap().nlink, 1);
    assert!(vfs.handles.get(opened.handle).unwrap().file().is_some());
    vfs.release(opened.handle);
    assert_eq!(world.bytes("call"), b"call");
}

#[test]
fn a_file_without_a_name_is_opened_again_and_goes_with_its_last_handle() {
    let (world, vfs) = World::new();
    let (id, opened) = made(&vfs, 1, b"call");
    vfs.unlink(caller(2, false), NodeId::ROOT, b"call").unwrap();
    let vfs = world.successor(vfs, || {});
    assert!(matches!(*vfs.inodes.get(id).unwrap().place(), Place::Held));
    assert_eq!(vfs.getattr(id, Some(opened.handle)).unwrap().nlink, 0);
    assert!(vfs.handles.get(opened.handle).unwrap().file().is_some());
}

/// Runs it in a thread of its own, and says whether it ended.
fn ends<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    wait: Duration,
    job: impl FnOnce() + Send + 'scope,
) -> bool {
    let (done, end) = mpsc::channel();
    scope.spawn(move || {
        job();
        let _nobody_waits_any_more = done.send(());
    });
    end.recv_timeout(wait).is_ok()
}

#[test]
fn regression_nothing_that_is_cut_waits_under_the_table_of_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let lower = Lower::open(dir.path()).unwrap();
    let inodes = Inodes::new(&lower);
    let (cut, other) = (NodeId(7), NodeId(8));
    let inode = inodes.intern(cut, Kind::File, Place::Lost, 1);
    inodes.intern(other, Kind::File, Place::Lost, 1);
    std::thread::scope(|scope| {
        // As who opens it with O_TRUNC, for as long as the disk takes.
        let cutting = inode.opens.lock();
        let inodes = &inodes;
        let lookup = ends(scope, LONG, || drop(inodes.intern(cut, Kind::File, Place::Lost, 1)));
        let forgotten = ends(scope, LONG, || inodes.forget(cut, 1));
        // Whoever counts the writers may wait for it, but nobody behind them.
        let counted = ends(scope, Duration::from_millis(50), || assert_eq!(inodes.writers(), 0));
        let another = ends(scope, LONG, || assert!(inodes.get(other).is_some()));
        drop(cutting);
        assert!(lookup, "a lookup of what is cut");
        assert!(forgotten, "a FORGET of what is cut");
        assert!(!counted, "the count of writers did not look at what is cut");
        assert!(another, "a lookup of something else");
    });
    // It was looked up twice and forgotten once.
    assert!(inodes.get(cut).is_some());
}

#[test]
fn regression_what_a_predecessor_had_looked_up_keeps_its_attributes_without_a_name() {
    let (world, vfs) = World::new();
    let (file, opened) = made(&vfs, 1, b"call");
    vfs.release(opened.handle);
    let (over, opened) = made(&vfs, 2, b"over");
    vfs.release(opened.handle);
    let (moved, opened) = made(&vfs, 3, b"moved");
    vfs.release(opened.handle);
    let dir = vfs.mkdir(caller(4, false), NodeId::ROOT, b"dir", 0o755).unwrap().id;
    let vfs = world.successor(vfs, || {});
    vfs.unlink(caller(5, false), NodeId::ROOT, b"call").unwrap();
    vfs.rmdir(caller(6, false), NodeId::ROOT, b"dir").unwrap();
    let (from, to) = ((NodeId::ROOT, &b"moved"[..]), (NodeId::ROOT, &b"over"[..]));
    vfs.rename(caller(7, false), from, to, RenameFlags::empty()).unwrap();
    for gone in [file, dir, over] {
        assert_eq!(vfs.getattr(gone, None).unwrap().nlink, 0, "{gone}");
    }
    assert!(vfs.inodes.get(moved).unwrap().is_at(NodeId::ROOT, b"over"));
}

#[test]
fn regression_a_file_that_was_replaced_while_it_is_open_is_neither_cut_nor_counted() {
    let (world, vfs) = World::new();
    let (id, opened) = made(&vfs, 1, b"call");
    assert_eq!(opened.backing, Some(1));
    std::fs::write(world.below("new"), b"a stranger's").unwrap();
    std::fs::rename(world.below("new"), world.below("call")).unwrap();
    let flags = OFlags::WRONLY | OFlags::TRUNC;
    let again = vfs.open(caller(2, false), id, flags, Patience::Worker);
    assert!(matches!(again, Err(VfsError::Kernel(Errno::BUSY))), "{again:?}");
    let cut = vfs.cut(caller(3, false), id, 0, Patience::Worker);
    assert!(matches!(cut, Err(VfsError::Kernel(Errno::BUSY))), "{cut:?}");
    assert_eq!(world.bytes("call"), b"a stranger's");
    assert_eq!(vfs.inodes.get(id).unwrap().opens.lock().handles, 1);
    vfs.release(opened.handle);
    assert_eq!(vfs.writers(), 0);
}

#[test]
fn regression_attributes_set_or_removed_by_a_predecessor_are_no_error() {
    const CREATE: u32 = 1;
    const REPLACE: u32 = 2;
    let (_world, vfs) = World::new();
    let (id, _) = made(&vfs, 1, b"call");
    let set = |resent, flags| vfs.setxattr(caller(2, resent), id, b"user.a", b"1", flags);
    let remove = |resent| vfs.removexattr(caller(3, resent), id, b"user.a");
    set(false, CREATE).unwrap();
    assert!(set(false, CREATE).is_err());
    set(true, CREATE).unwrap();
    remove(false).unwrap();
    assert!(remove(false).is_err());
    remove(true).unwrap();
    assert!(set(false, REPLACE).is_err());
    set(true, REPLACE).unwrap();
}

#[test]
fn regression_what_is_opened_again_for_nobody_is_closed() {
    let (world, vfs) = World::new();
    let (id, kept) = made(&vfs, 1, b"call");
    let write = |vfs: &Vfs, unique, resent| {
        vfs.open(caller(unique, resent), id, OFlags::WRONLY, Patience::None).unwrap()
    };
    let open = write(&vfs, 2, false);
    let closed = write(&vfs, 3, false);
    vfs.release(closed.handle);
    let listed = vfs.open_dir(caller(4, false), NodeId::ROOT).unwrap();
    let vfs = world.successor(vfs, || {});
    // The kernel had the answers to all three, but the requests were left.
    assert_eq!(write(&vfs, 2, true).handle, open.handle);
    let again = write(&vfs, 3, true).handle;
    assert_ne!(again, closed.handle);
    assert_eq!(vfs.open_dir(caller(4, true), NodeId::ROOT).unwrap(), listed);
    let listed_again = vfs.open_dir(caller(5, true), NodeId::ROOT).unwrap();
    for handle in [open.handle, again, listed, listed_again] {
        vfs.refused_open(handle);
    }
    assert!(vfs.handles.get(again).is_err() && vfs.handles.listing(listed_again).is_err());
    assert!(vfs.handles.get(open.handle).is_ok() && vfs.handles.listing(listed).is_ok());
    vfs.release(open.handle);
    assert_eq!(vfs.writers(), 1);
    vfs.release(kept.handle);
    assert_eq!(vfs.writers(), 0);
    assert!(world.kernel.0.lock().1.is_empty());
}

/// The daemon dies with an open done and not answered, and its caller is killed before the kernel
/// sends the request again: the kernel drops it, and nobody will ever close what was opened.
#[test]
fn regression_an_open_whose_caller_was_killed_keeps_no_recording_open_for_ever() {
    for plain in [false, true] {
        let (world, vfs) = World::new();
        world.kernel.1.store(plain, Ordering::Relaxed);
        let (id, lost) = made(&vfs, 1, b"call");
        let (used_id, used) = made(&vfs, 2, b"used");
        let (closed_id, closed) = made(&vfs, 3, b"closed");
        let vfs = world.successor(vfs, || {});
        let state = |id| {
            vfs.catalog.drain().unwrap();
            vfs.catalog.node(id).unwrap().unwrap().state
        };
        let quiet = |name: &str| vfs.lower.quiet(Path::new(name));
        vfs.getattr(used_id, Some(used.handle)).unwrap();
        vfs.rest_idle();
        assert_eq!((vfs.writers(), state(id)), (3, State::Recording), "it may be in use");
        world.clock.advance(2 * IDLE_HANDLE_RESTS_AFTER);
        vfs.rest_idle();
        vfs.rest_idle();
        assert_eq!(
            (vfs.writers(), state(id), state(used_id)),
            (1, State::Closed, State::Recording)
        );
        assert!(quiet("call").is_ok() && quiet("used").is_err());
        // Archived, but not taken away from whoever may have it open after all.
        assert!(quiet("call").unwrap().alone(Path::new("call")).is_err());
        vfs.release(closed.handle);
        assert_eq!((vfs.writers(), state(closed_id)), (1, State::Closed));

        // It rests over another death, too; and who uses it is known to have it.
        let vfs = world.successor(vfs, || {});
        let state = |id| {
            vfs.catalog.drain().unwrap();
            vfs.catalog.node(id).unwrap().unwrap().state
        };
        assert_eq!((vfs.writers(), state(id)), (1, State::Closed));
        vfs.getattr(used_id, Some(used.handle)).unwrap();

        let flags = OFlags::WRONLY;
        let other = vfs.open(caller(5, false), id, flags, Patience::None).unwrap();
        assert_eq!((vfs.writers(), state(id)), (2, State::Recording));
        vfs.release(other.handle);
        assert_eq!((vfs.writers(), state(id)), (1, State::Closed));
        vfs.write(caller(6, false), lost.handle, 0, b"CALL").unwrap();
        assert_eq!((vfs.writers(), state(id)), (2, State::Recording));
        assert_eq!(world.bytes("call"), b"CALL");
        vfs.rest_idle();
        vfs.release(lost.handle);
        assert_eq!((vfs.writers(), state(id)), (1, State::Closed));
        vfs.release(used.handle);
        assert_eq!(vfs.writers(), 0);
        assert!(world.kernel.0.lock().1.is_empty());
    }
}
