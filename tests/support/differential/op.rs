//! The operations, and how a seed chooses them.
//!
//! Names come from a small pool, so that operations keep meeting what others left: a rename onto
//! an open file, a create in a directory that has just gone, a link to a link.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, RenameFlags, XattrFlags};

/// Files open at the same time in each world.
pub const SLOTS: usize = 8;
/// Files that stand in the crowded directory at the start.
pub const CROWD: usize = 300;
/// The crowded directory: listings of it take many calls.
pub const CROWDED: &str = "crowd";

/// One operation, with everything it needs to be done again.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are the arguments of the system calls named")]
pub enum Op {
    Open { slot: usize, path: PathBuf, flags: OFlags, mode: u32 },
    Close { slot: usize },
    Read { slot: usize, at: u64, len: usize },
    ReadOn { slot: usize, len: usize },
    Write { slot: usize, at: u64, len: usize, fill: u8 },
    WriteOn { slot: usize, len: usize, fill: u8 },
    Seek { slot: usize, from_end: bool, by: i64 },
    Truncate { path: PathBuf, size: u64 },
    TruncateOpen { slot: usize, size: u64 },
    Allocate { slot: usize, mode: FallocateFlags, at: u64, len: u64 },
    Rename { from: PathBuf, to: PathBuf, how: RenameFlags },
    Link { from: PathBuf, to: PathBuf },
    Symlink { target: PathBuf, at: PathBuf },
    ReadLink { path: PathBuf },
    Unlink { path: PathBuf },
    RemoveDirectory { path: PathBuf },
    MakeDirectory { path: PathBuf, mode: u32 },
    Fifo { path: PathBuf },
    Mode { path: PathBuf, mode: u32 },
    ModeOpen { slot: usize, mode: u32 },
    Owner { path: PathBuf, uid: u32, gid: u32 },
    Times { path: PathBuf, accessed: (i64, i64), modified: (i64, i64), follow: bool },
    TimesOpen { slot: usize, modified: (i64, i64) },
    SetXattr { path: PathBuf, name: &'static str, len: usize, fill: u8, how: XattrFlags },
    GetXattr { path: PathBuf, name: &'static str },
    ListXattr { path: PathBuf },
    RemoveXattr { path: PathBuf, name: &'static str },
    SetAcl { path: PathBuf, group_may: u16 },
    Holes { slot: usize, at: u64 },
    List { path: PathBuf },
    ListChanging { path: PathBuf, take: usize, changes: Vec<(PathBuf, bool)>, mark: usize },
    Stat { path: PathBuf, follow: bool },
    StatOpen { slot: usize },
    StatFs { path: PathBuf },
    CopyRange { from: usize, at: u64, to: usize, to_at: u64, len: usize },
    MapWrite { slot: usize, at: u64, len: usize, fill: u8 },
    MapRead { slot: usize, at: u64, len: usize },
    Direct { path: PathBuf, at: u64, fill: Option<u8> },
    Lock { slot: usize, exclusive: bool, release: bool },
    Sync { slot: usize, data_only: bool },
}

impl Op {
    /// The operation's name, for counting.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        text.split([' ', '{']).next().unwrap_or_default().to_owned()
    }
}

/// Every name an operation can have; a long run must have done each of them.
pub const NAMES: &[&str] = &[
    "Open",
    "Close",
    "Read",
    "ReadOn",
    "Write",
    "WriteOn",
    "Seek",
    "Truncate",
    "TruncateOpen",
    "Allocate",
    "Rename",
    "Link",
    "Symlink",
    "ReadLink",
    "Unlink",
    "RemoveDirectory",
    "MakeDirectory",
    "Fifo",
    "Mode",
    "ModeOpen",
    "Owner",
    "Times",
    "TimesOpen",
    "SetXattr",
    "GetXattr",
    "ListXattr",
    "RemoveXattr",
    "SetAcl",
    "Holes",
    "List",
    "ListChanging",
    "Stat",
    "StatOpen",
    "StatFs",
    "CopyRange",
    "MapWrite",
    "MapRead",
    "Direct",
    "Lock",
    "Sync",
];

/// Names kept of each kind, so that later operations meet what earlier ones made.
const KNOWN: usize = 24;

/// Chooses operations from a seed.
pub struct Chooser {
    rng: fastrand::Rng,
    files: VecDeque<PathBuf>,
    directories: VecDeque<PathBuf>,
    links: VecDeque<PathBuf>,
    xattrs: VecDeque<(PathBuf, &'static str)>,
}

fn keep<T>(known: &mut VecDeque<T>, new: T) {
    if known.len() == KNOWN {
        known.pop_front();
    }
    known.push_back(new);
}

const XATTRS: &[&str] = &["user.caller", "user.queue", "security.spl", "trusted.spl"];

impl Chooser {
    /// The same seed chooses the same operations, as long as the same ones succeed.
    pub fn new(seed: u64) -> Chooser {
        Chooser {
            rng: fastrand::Rng::with_seed(seed),
            files: VecDeque::new(),
            directories: VecDeque::new(),
            links: VecDeque::new(),
            xattrs: VecDeque::new(),
        }
    }

    /// Remembers what a successful operation made.
    pub fn learn(&mut self, op: &Op) {
        match op {
            Op::Open { path, .. } | Op::Fifo { path } | Op::Link { to: path, .. } => {
                keep(&mut self.files, path.clone());
            }
            Op::Rename { to: path, .. } => {
                keep(&mut self.files, path.clone());
                keep(&mut self.directories, path.clone());
            }
            Op::MakeDirectory { path, .. } => keep(&mut self.directories, path.clone()),
            Op::Symlink { at, .. } => keep(&mut self.links, at.clone()),
            Op::SetXattr { path, name, .. } => keep(&mut self.xattrs, (path.clone(), name)),
            _ => {}
        }
    }

    /// The next operation, given which slots hold an open file.
    pub fn next(&mut self, open: &[bool; SLOTS]) -> Op {
        let slot = self.slot(open);
        match self.rng.u32(0..1000) {
            0..110 => self.open(open),
            110..160 => Op::Close { slot },
            160..230 => Op::Read { slot, at: self.offset(), len: self.length() },
            230..250 => Op::ReadOn { slot, len: self.length() },
            250..360 => {
                Op::Write { slot, at: self.far_offset(), len: self.length(), fill: self.rng.u8(..) }
            }
            360..390 => Op::WriteOn { slot, len: self.length(), fill: self.rng.u8(..) },
            390..400 => {
                Op::Seek { slot, from_end: self.rng.bool(), by: self.rng.i64(-20_000..200_000) }
            }
            400..420 => Op::Truncate { path: self.path(), size: self.size() },
            420..440 => Op::TruncateOpen { slot, size: self.size() },
            440..465 => self.allocate(slot),
            465..525 => Op::Rename {
                from: self.inner_path(),
                to: self.inner_path(),
                how: self.rename_flags(),
            },
            525..545 => Op::Link { from: self.entry(), to: self.entry() },
            545..560 => Op::Symlink { target: self.link_target(), at: self.path() },
            560..567 => Op::ReadLink { path: self.link() },
            567..610 => Op::Unlink { path: self.entry() },
            610..622 => Op::RemoveDirectory { path: self.known_directory() },
            622..655 => Op::MakeDirectory { path: self.new_directory(), mode: self.mode() },
            655..658 => Op::Fifo { path: self.path() },
            658..675 => Op::Mode { path: self.path(), mode: self.mode() },
            675..680 => Op::ModeOpen { slot, mode: self.mode() },
            680..695 => Op::Owner {
                path: self.path(),
                uid: self.one_of(&[0, 1, 33, 65534, u32::MAX]),
                gid: self.one_of(&[0, 1, 33, 65534, u32::MAX]),
            },
            695..712 => Op::Times {
                path: self.path(),
                accessed: self.past(),
                modified: self.past(),
                follow: self.rng.bool(),
            },
            712..717 => Op::TimesOpen { slot, modified: self.past() },
            717..732 => Op::SetXattr {
                path: self.path(),
                name: self.one_of(XATTRS),
                len: self.one_of(&[0, 1, 17, 255, 300, 5_000, 70_000]),
                fill: self.rng.u8(..),
                how: self.one_of(&[
                    XattrFlags::empty(),
                    XattrFlags::empty(),
                    XattrFlags::CREATE,
                    XattrFlags::REPLACE,
                ]),
            },
            732..745 => {
                let (path, name) = self.xattr();
                Op::GetXattr { path, name }
            }
            745..753 => Op::ListXattr { path: self.path() },
            753..759 => {
                let (path, name) = self.xattr();
                Op::RemoveXattr { path, name }
            }
            759..763 => Op::SetAcl { path: self.path(), group_may: self.rng.u16(0..8) },
            763..785 => Op::Holes { slot, at: self.offset() },
            785..800 => Op::List { path: self.directory() },
            800..815 => self.list_changing(),
            815..870 => Op::Stat { path: self.path(), follow: self.rng.bool() },
            870..890 => Op::StatOpen { slot },
            890..893 => Op::StatFs { path: self.directory() },
            893..915 => Op::CopyRange {
                from: slot,
                at: self.offset(),
                to: self.slot(open),
                to_at: self.offset(),
                len: self.length(),
            },
            915..940 => {
                Op::MapWrite { slot, at: self.offset(), len: self.length(), fill: self.rng.u8(..) }
            }
            940..955 => Op::MapRead { slot, at: self.offset(), len: self.length() },
            955..965 => Op::Direct {
                path: self.path(),
                at: self.rng.u64(0..16) * 4096,
                fill: self.rng.bool().then(|| self.rng.u8(..)),
            },
            965..980 => {
                Op::Lock { slot, exclusive: self.rng.bool(), release: self.rng.u8(..3) == 0 }
            }
            _ => Op::Sync { slot, data_only: self.rng.bool() },
        }
    }

    fn one_of<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.usize(..from.len())]
    }

    /// Mostly a slot in use; sometimes an empty one, which changes nothing.
    fn slot(&mut self, open: &[bool; SLOTS]) -> usize {
        let used: Vec<usize> = (0..SLOTS).filter(|&slot| open[slot]).collect();
        if used.is_empty() || self.rng.u8(..20) == 0 {
            self.rng.usize(..SLOTS)
        } else {
            self.one_of(&used)
        }
    }

    fn open(&mut self, open: &[bool; SLOTS]) -> Op {
        let free = (0..SLOTS).find(|&slot| !open[slot]);
        let slot = free.unwrap_or_else(|| self.rng.usize(..SLOTS));
        let mut flags = self.one_of(&[
            OFlags::RDONLY,
            OFlags::WRONLY,
            OFlags::RDWR,
            OFlags::RDWR,
            OFlags::RDWR,
        ]);
        // A FIFO must not block; for anything else it changes nothing.
        flags |= OFlags::NONBLOCK;
        for (flag, in_a_hundred) in [
            (OFlags::CREATE, 70),
            (OFlags::EXCL, 10),
            (OFlags::TRUNC, 15),
            (OFlags::APPEND, 15),
            (OFlags::NOFOLLOW, 10),
            (OFlags::DIRECTORY, 3),
            (OFlags::SYNC, 2),
        ] {
            if self.rng.u8(..100) < in_a_hundred {
                flags |= flag;
            }
        }
        Op::Open { slot, path: self.path(), flags, mode: self.mode() }
    }

    /// Collapsing and inserting ranges are left out: no FUSE file system is asked for them.
    fn allocate(&mut self, slot: usize) -> Op {
        let mode = self.one_of(&[
            FallocateFlags::empty(),
            FallocateFlags::KEEP_SIZE,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            FallocateFlags::PUNCH_HOLE,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        ]);
        let len = self.one_of(&[0, 1, 4096, 10_000, 65_536, 200_000]);
        Op::Allocate { slot, mode, at: self.offset(), len }
    }

    /// A path that is not the root: the kernel itself answers a rename of a mount point.
    fn inner_path(&mut self) -> PathBuf {
        let path = self.path();
        if path.as_os_str().is_empty() { PathBuf::from("c") } else { path }
    }

    fn rename_flags(&mut self) -> RenameFlags {
        self.one_of(&[
            RenameFlags::empty(),
            RenameFlags::empty(),
            RenameFlags::empty(),
            RenameFlags::NOREPLACE,
            RenameFlags::EXCHANGE,
            RenameFlags::NOREPLACE | RenameFlags::EXCHANGE,
        ])
    }

    fn list_changing(&mut self) -> Op {
        let path = if self.rng.u8(..3) > 0 { PathBuf::from(CROWDED) } else { self.directory() };
        let changes = (0..self.rng.usize(0..30))
            .map(|_| {
                let name = format!("n{:03}", self.rng.usize(..CROWD + 50));
                (path.join(name), self.rng.bool())
            })
            .collect();
        Op::ListChanging {
            path,
            take: self.rng.usize(0..150),
            changes,
            mark: self.rng.usize(..400),
        }
    }

    fn new_directory(&mut self) -> PathBuf {
        let mut path = self.directory();
        path.push(self.one_of(&["d0", "d1", "2026", "11", "21"]));
        path
    }

    fn directory(&mut self) -> PathBuf {
        let mut path = PathBuf::new();
        for _ in 0..self.one_of(&[0, 0, 0, 1, 1, 1, 1, 2, 2, 3]) {
            path.push(self.one_of(&["d0", "d0", "d1", "2026"]));
        }
        path
    }

    fn link(&mut self) -> PathBuf {
        self.pick(|known| &known.links).unwrap_or_else(|| self.path())
    }

    fn known_directory(&mut self) -> PathBuf {
        self.pick(|known| &known.directories).unwrap_or_else(|| self.entry())
    }

    fn xattr(&mut self) -> (PathBuf, &'static str) {
        self.pick(|known| &known.xattrs).unwrap_or_else(|| (self.path(), self.one_of(XATTRS)))
    }

    /// Four times of five one that is known, if any is.
    fn pick<T: Clone>(&mut self, from: impl Fn(&Chooser) -> &VecDeque<T>) -> Option<T> {
        let roll = self.rng.usize(..usize::MAX);
        let known = from(self);
        if known.is_empty() || roll.is_multiple_of(5) {
            None
        } else {
            known.get(roll % known.len()).cloned()
        }
    }

    /// Any path: something that was there lately, or a name that may or may not be there.
    fn path(&mut self) -> PathBuf {
        match self.rng.u8(..20) {
            0..8 => self.pick(|known| &known.files),
            8..10 => self.pick(|known| &known.directories),
            10 => self.pick(|known| &known.links),
            _ => None,
        }
        .unwrap_or_else(|| self.any_path())
    }

    /// A path that is not the root: to move or remove that is for a mount point another matter
    /// than for a plain directory.
    fn entry(&mut self) -> PathBuf {
        let path = self.path();
        if path.components().any(|part| matches!(part, Component::Normal(_))) {
            path
        } else {
            PathBuf::from("c")
        }
    }

    fn any_path(&mut self) -> PathBuf {
        let mut path = self.directory();
        let name: OsString = match self.rng.u8(..100) {
            0..76 => self.one_of(&["a.wav", "A.WAV", "a.wav.txt", "c", "in.wav"]).into(),
            76..82 => self.one_of(&["d0", "d1", "2026"]).into(),
            82..88 => self.one_of(&["two words.wav", "50%+#'.wav", ".hidden", "-rf", "\n"]).into(),
            88..90 => OsString::from_vec(b"\xff\xfe.wav".to_vec()),
            90..92 => "m".repeat(255).into(),
            92..93 => "n".repeat(256).into(),
            93..94 => "c/".into(),
            94..95 => ".".into(),
            95..96 => "..".into(),
            96..98 => return path,
            _ => return PathBuf::from(CROWDED).join(format!("n{:03}", self.rng.usize(..CROWD))),
        };
        path.push(name);
        if path.ends_with("..") && path.components().count() < 2 {
            // The parent of the root is not part of what is compared.
            path = PathBuf::from(".");
        }
        path
    }

    /// Never "..": a moved link must not come to lead out of the tree.
    fn link_target(&mut self) -> PathBuf {
        self.one_of(&["a.wav", "c", "d0", "d1/a.wav", "./d2", "nowhere", "l", "/no/such/place"])
            .into()
    }

    fn mode(&mut self) -> u32 {
        self.one_of(&[0o666, 0o644, 0o600, 0o400, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0])
    }

    fn length(&mut self) -> usize {
        match self.rng.u8(..10) {
            0 => 0,
            1 => 44,
            2 => 4,
            3..5 => 4096,
            5..7 => 32_768,
            7 => self.rng.usize(..100_000),
            _ => self.rng.usize(..3_000),
        }
    }

    fn offset(&mut self) -> u64 {
        match self.rng.u8(..10) {
            0..2 => 0,
            2 => self.one_of(&[4, 40, 44]),
            3 => self.rng.u64(..100) * 4096,
            4..8 => self.rng.u64(..50_000),
            _ => self.rng.u64(..1_200_000),
        }
    }

    /// Now and then past what any file system holds.
    fn far_offset(&mut self) -> u64 {
        if self.rng.u8(..200) == 0 { 1 << 45 } else { self.offset() }
    }

    fn size(&mut self) -> u64 {
        match self.rng.u8(..40) {
            0 => 1 << 45,
            1..10 => 0,
            10..20 => self.rng.u64(..4096) * 512,
            _ => self.rng.u64(..200_000),
        }
    }

    /// A time that no operation sets by itself, some before 1970.
    fn past(&mut self) -> (i64, i64) {
        (self.rng.i64(-100_000..1_500_000_000), self.rng.i64(0..1_000_000_000))
    }
}
