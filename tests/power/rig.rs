//! A machine with a lossy disk: recordings, state and target on it, programs at work, and its power
//! cut again and again.

use crate::manifest::{Claim, Command, Looks, Manifest, Promise};
use crate::support::lossy_disk::{self, Blocks, LossyDisk};
use crate::support::mount::{Mount, Setup};
use spoolfs::control::StatusReport;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// More than a recall leaves free.
const DISK_MIB: u64 = 640;
const MAGIC: &[u8; 8] = b"spl-test";
/// Longest wait for the comparison of the tree after a start.
const PATIENCE: Duration = Duration::from_secs(60);
const WRITERS: u64 = 4;
/// How often something is added to a recording.
const GROWN_MAX: u32 = 3;

/// A recording of this number: its bytes say which it is, and whether it is whole.
fn content(number: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number);
    let mut bytes = vec![0; rng.usize(24..20_000)];
    rng.fill(&mut bytes);
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// What is added to it the so manieth time.
fn addition(number: u64, times: u32) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number ^ (u64::from(times) << 60));
    let mut bytes = vec![0; rng.usize(1..9_000)];
    rng.fill(&mut bytes);
    bytes
}

/// The recording with all that was added to it up to then.
fn grown(number: u64, times: u32) -> Vec<u8> {
    let mut bytes = content(number);
    (1..=times).for_each(|time| bytes.extend(addition(number, time)));
    bytes
}

/// The recording that these bytes are one of; how often it has grown, if they are all of it; and
/// with how many additions they begin at least, whole.
fn recognise(bytes: &[u8]) -> Option<(u64, Option<u32>, Option<u32>)> {
    let number = bytes.strip_prefix(MAGIC)?.first_chunk().map(|n| u64::from_le_bytes(*n))?;
    let mut begins = None;
    for times in 0..=GROWN_MAX {
        let whole = grown(number, times);
        if whole == bytes {
            return Some((number, Some(times), Some(times)));
        }
        if !bytes.starts_with(&whole) {
            break;
        }
        begins = Some(times);
    }
    Some((number, None, begins))
}

fn state(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut value = vec![0; 64];
    let len = rustix::fs::getxattr(path, "user.spoolfs.state", &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

/// What was found of a recording.
struct Found {
    path: PathBuf,
    /// How often it has grown, if it is whole.
    whole: Option<u32>,
    /// So many of its additions are whole.
    begins: Option<u32>,
    looks: Looks,
}

/// What came of all cuts.
#[derive(Debug, Default)]
pub struct Tally {
    pub cuts: usize,
    pub promised: usize,
    pub checked_archived: usize,
    /// Of those that were promised, with something that was added to them.
    pub grown: usize,
    pub gone: usize,
    pub torn: usize,
    /// Not at their names, old or new, but in the trash.
    pub trashed: usize,
    pub corrected: usize,
    /// Calls that failed because the disk was full.
    pub full: usize,
    /// Broken promises.
    pub wrong: Vec<String>,
}

/// What is promised besides the word of commands.
#[derive(Clone, Copy, Debug)]
pub enum Promised {
    /// Nothing.
    Nothing,
    /// What was done so long before the cut.
    After(Duration),
    /// What the daemon says is on the disk: it says so in time if the disk is not too slow.
    Told,
}

pub struct Rig {
    scratch: tempfile::TempDir,
    disk: Option<LossyDisk>,
    mount: Mount,
    manifest: Manifest,
    next: AtomicU64,
    promised: Promised,
    /// Before it everything is on the disk, as the daemon said.
    durable: Mutex<Option<Instant>>,
    /// Calls that failed because the disk was full.
    full: AtomicUsize,
    rng: Mutex<fastrand::Rng>,
    /// SHA-256 of everything that was ever found in the tree after a cut, and of what is whole.
    seen: BTreeSet<String>,
    pub tally: Tally,
    /// Its disk is full for a while before every second cut.
    pub fills: bool,
}

impl Rig {
    /// A fresh machine, its daemon with this `sync_after` and these variables.
    pub fn new(
        seed: u64,
        promised: Promised,
        sync_after: &str,
        variables: &[(&'static str, &str)],
    ) -> Rig {
        let scratch = tempfile::Builder::new().prefix("power-").tempdir().unwrap();
        let at = scratch.path().join("disk");
        let blank = LossyDisk::format(scratch.path(), DISK_MIB);
        let disk = LossyDisk::mount(blank, scratch.path(), &at);
        // All of them are read after each cut.
        let end = "[read]\nrecordings_per_minute = 0\n".into();
        let setup =
            Setup { disk: Some(at), sync_after: sync_after.into(), end, ..Setup::default() };
        let mut mount = setup.prepare();
        mount.env = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        rustix::fs::sync();
        mount.start();
        Rig {
            scratch,
            disk: Some(disk),
            mount,
            manifest: Manifest::default(),
            next: AtomicU64::new(seed << 32),
            promised,
            durable: Mutex::new(None),
            full: AtomicUsize::new(0),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            seen: BTreeSet::new(),
            tally: Tally::default(),
            fills: false,
        }
    }

    /// Programs work for a while, then the power goes, and comes back.
    pub fn cut(&mut self, load: Duration) {
        let stop = AtomicBool::new(false);
        let mut rng = self.rng.lock().unwrap().fork();
        let share = [0.0, 0.3, 0.7, 0.95][rng.usize(..4)];
        let writers: Vec<_> = (0..WRITERS).map(|_| rng.fork()).collect();
        let archiver = rng.fork();
        let mut cut = None;
        std::thread::scope(|scope| {
            let (it, stop) = (&*self, &stop);
            for rng in writers {
                scope.spawn(move || it.write(stop, rng));
            }
            scope.spawn(move || it.archive(stop, archiver));
            scope.spawn(move || it.ask(stop));
            if it.fills && it.tally.cuts % 2 == 1 {
                scope.spawn(move || it.fill(stop, load));
            }
            std::thread::sleep(load);
            // In the middle of what is being written.
            let disk = it.disk.as_ref().expect("it runs");
            disk.cut_at(1 << rng.u32(..6));
            let until = Instant::now() + Duration::from_millis(500);
            while !disk.is_cut() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            cut = Some(it.power_off(share, &mut rng));
            stop.store(true, Ordering::SeqCst);
        });
        let (left, promises) = cut.expect("it was cut");
        self.power_back(left, &promises);
    }

    /// The power goes right now, with nothing kept that was not flushed, and comes back.
    pub fn cut_now(&mut self) {
        let (left, promises) = self.power_off(0.0, &mut fastrand::Rng::with_seed(0));
        self.power_back(left, &promises);
    }

    /// Stops the machine in good order: everything agrees, down to the bytes.
    pub fn end(&mut self) {
        self.mount.stop();
        self.mount.fsck();
    }

    /// What is left on the disk, and what of it is promised.
    fn power_off(&self, share: f64, rng: &mut fastrand::Rng) -> (Blocks, BTreeMap<u64, Promise>) {
        let (left, met) = self.disk.as_ref().expect("it runs").cut(share, rng);
        let durable = match self.promised {
            Promised::Nothing => None,
            Promised::After(time) => met.at.checked_sub(time),
            Promised::Told => *self.durable.lock().unwrap(),
        };
        let promises = self.manifest.promises(met.at, durable);
        println!(
            "cut {}: {} of {} sectors in {} writes kept; {} recordings promised",
            self.tally.cuts + 1,
            met.kept,
            met.sectors,
            met.writes,
            promises.len()
        );
        (left, promises)
    }

    fn power_back(&mut self, left: Blocks, promises: &BTreeMap<u64, Promise>) {
        self.mount.kill9();
        self.disk = None;
        self.tally.cuts += 1;
        self.tally.full = self.full.load(Ordering::SeqCst);
        self.power_on(left);
        self.check(promises);
    }

    /// As after a boot: what is on a tmpfs is gone.
    fn power_on(&mut self, left: Blocks) {
        let checked = lossy_disk::check(&left, self.scratch.path());
        match checked.status.code() {
            Some(0) => {}
            Some(1) => self.tally.corrected += 1,
            _ => panic!("the file system did not survive: {checked:?}"),
        }
        let at = self.scratch.path().join("disk");
        self.disk = Some(LossyDisk::mount(left, self.scratch.path(), &at));
        // Whoever filled it was told to make room.
        let _may_never_have_been = fs::remove_file(self.filler());
        fs::remove_dir_all(&self.mount.runtime).unwrap();
        fs::create_dir(&self.mount.runtime).unwrap();
        self.mount.start();
        // What was done in the last second and forgotten shows when the tree was compared.
        let until = Instant::now() + PATIENCE;
        let comparing = |status: serde_json::Value| {
            let warnings = status["warnings"].as_array().cloned().unwrap_or_default();
            warnings.iter().any(|w| w.as_str().is_some_and(|w| w.contains("being compared")))
        };
        while comparing(self.mount.status()) {
            assert!(Instant::now() < until, "not compared\n{}", self.mount.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    // ---- what programs do --------------------------------------------------------------------

    fn write(&self, stop: &AtomicBool, mut rng: fastrand::Rng) {
        while !stop.load(Ordering::SeqCst) {
            // An error is the end of the daemon.
            let done = match rng.u32(..10) {
                0 => self.remove_one(&mut rng),
                1 => self.rename_one(&mut rng),
                2 => self.replace_one(&mut rng),
                3 => self.grow_one(&mut rng),
                4 => self.shift_some(&mut rng),
                _ => self.record(&mut rng),
            };
            match done {
                // What failed is left alone from then on.
                Err(e) if e.raw_os_error() == Some(libc::ENOSPC) => {
                    self.full.fetch_add(1, Ordering::SeqCst);
                }
                Err(_) => return,
                Ok(()) => {}
            }
            std::thread::sleep(Duration::from_millis(rng.u64(1..15)));
        }
    }

    pub fn record(&self, rng: &mut fastrand::Rng) -> std::io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let dir = self.mount.path(format!("cut{}/{}", self.tally.cuts, rng.u32(..3)));
        fs::create_dir_all(&dir)?;
        let name = dir.join(format!("{number:x}.wav"));
        let bytes = content(number);
        let mut file = File::create_new(&name)?;
        let piece = [320, 8192][rng.usize(..2)];
        for piece in bytes.chunks(piece) {
            file.write_all(piece)?;
        }
        if rng.bool() {
            file.set_permissions(fs::Permissions::from_mode(0o640))?;
            std::os::unix::fs::fchown(&file, Some(1000), Some(1001))?;
        }
        drop(file);
        self.until_closed(&name)?;
        let looks = Looks::of(&name)?;
        self.manifest.closed(number, name, looks);
        Ok(())
    }

    /// The kernel tells the daemon of a close when it has returned.
    fn until_closed(&self, name: &Path) -> std::io::Result<()> {
        while state(name)? == b"recording" {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn rename_one(&self, rng: &mut fastrand::Rng) -> std::io::Result<()> {
        let Some(claim) = self.manifest.claim(rng) else { return Ok(()) };
        let dir = self.mount.path(format!("renamed{}", rng.u32(..3)));
        fs::create_dir_all(&dir)?;
        let to = dir.join(format!("{:x}-{}.wav", claim.number, rng.u16(..)));
        let mut done = Ok(());
        claim.rename(to.clone(), || {
            done = fs::rename(&claim.name, &to);
            done.is_ok()
        });
        done
    }

    fn filler(&self) -> PathBuf {
        self.scratch.path().join("disk/filler")
    }

    /// Takes all the room there is, for a third of the time.
    fn fill(&self, stop: &AtomicBool, load: Duration) {
        std::thread::sleep(load / 3);
        let Ok(file) = File::create(self.filler()) else { return };
        let (mut at, mut len) = (0, 64 << 20);
        while len >= 4096 && !stop.load(Ordering::SeqCst) {
            let flags = rustix::fs::FallocateFlags::empty();
            match rustix::fs::fallocate(&file, flags, at, len) {
                Ok(()) => at += len,
                Err(_) => len /= 4,
            }
        }
        std::thread::sleep(load / 3);
        let _is_cut_off_perhaps = fs::remove_file(self.filler());
    }

    /// Any two, mostly one that is released and one that is local.
    fn claim_two(&self, rng: &mut fastrand::Rng) -> std::io::Result<Option<[Claim<'_>; 2]>> {
        let Some(one) = self.manifest.claim(rng) else { return Ok(None) };
        let mut another = self.manifest.claim(rng);
        for _ in 0..8 {
            let Some(other) = &another else { return Ok(None) };
            if (state(&one.name)? == b"released") != (state(&other.name)? == b"released") {
                break;
            }
            another = self.manifest.claim(rng);
        }
        Ok(another.map(|other| [one, other]))
    }

    /// Exchanges two, or moves one away and another to its name, and perhaps a third to that of the other.
    fn shift_some(&self, rng: &mut fastrand::Rng) -> std::io::Result<()> {
        let Some([one, other]) = self.claim_two(rng)? else { return Ok(()) };
        let mut done = Ok(());
        if rng.bool() {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            one.rename(other.name.clone(), || {
                other.rename(one.name.clone(), || {
                    let flags = RenameFlags::EXCHANGE;
                    done = renameat_with(CWD, &one.name, CWD, &other.name, flags);
                    done.is_ok()
                });
                done.is_ok()
            });
            return Ok(done?);
        }
        let third = if rng.bool() { self.manifest.claim(rng) } else { None };
        let away = one.name.with_file_name(format!("{:x}-{}.wav", one.number, rng.u16(..)));
        let mut to = away;
        for claim in [Some(one), Some(other), third].into_iter().flatten() {
            let mut done = Ok(());
            claim.rename(to.clone(), || {
                done = fs::rename(&claim.name, &to);
                done.is_ok()
            });
            done?;
            to.clone_from(&claim.name);
        }
        Ok(())
    }

    /// Puts one in the place of another.
    fn replace_one(&self, rng: &mut fastrand::Rng) -> std::io::Result<()> {
        let Some([old, new]) = self.claim_two(rng)? else { return Ok(()) };
        let mut done = Ok(());
        new.rename(old.name.clone(), || {
            old.remove(|| {
                done = fs::rename(&new.name, &old.name);
                done.is_ok()
            });
            done.is_ok()
        });
        done
    }

    /// Adds something to a closed one that is local: what is added to a released one is on the disk
    /// when it has its name again, which takes as long as it takes.
    fn grow_one(&self, rng: &mut fastrand::Rng) -> std::io::Result<()> {
        let Some(claim) = self.manifest.claim(rng) else { return Ok(()) };
        if claim.grown == GROWN_MAX || state(&claim.name)? == b"released" {
            return Ok(());
        }
        let add = || {
            let mut file = File::options().append(true).open(&claim.name)?;
            file.write_all(&addition(claim.number, claim.grown + 1))?;
            drop(file);
            self.until_closed(&claim.name)?;
            Looks::of(&claim.name)
        };
        let mut done = Ok(());
        claim.grow(|| match add() {
            Ok(looks) => Some(looks),
            Err(error) => {
                done = Err(error);
                None
            }
        });
        done
    }

    fn remove_one(&self, rng: &mut fastrand::Rng) -> std::io::Result<()> {
        let Some(claim) = self.manifest.claim(rng) else { return Ok(()) };
        let mut done = Ok(());
        claim.remove(|| {
            done = fs::remove_file(&claim.name);
            done.is_ok()
        });
        done
    }

    /// Asks what is on the disk; what is heard after the cut comes too late.
    fn ask(&self, stop: &AtomicBool) {
        let disk = self.disk.as_ref().expect("it runs");
        while !stop.load(Ordering::SeqCst) && !disk.is_cut() {
            let (asked, wall) = (Instant::now(), SystemTime::now());
            let ran = self.mount.cli(["status", "--json"]);
            let said = serde_json::from_str::<StatusReport>(&ran.out).ok();
            let until = said.and_then(|said| said.durable_until).and_then(|until| {
                let wall = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as i64;
                asked.checked_sub(Duration::from_nanos((wall - until.0).max(0) as u64))
            });
            if let Some(until) = until
                && !disk.is_cut()
            {
                let mut durable = self.durable.lock().unwrap();
                *durable = durable.max(Some(until));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// An administrator who archives, releases and recalls.
    fn archive(&self, stop: &AtomicBool, mut rng: fastrand::Rng) {
        while !stop.load(Ordering::SeqCst) {
            let some: Vec<Claim<'_>> =
                (0..rng.usize(1..8)).filter_map(|_| self.manifest.claim(&mut rng)).collect();
            let mut commands = vec![Command::Archive];
            if rng.bool() {
                commands.push(Command::Release);
                commands.extend(rng.bool().then_some(Command::Recall));
            }
            for command in commands {
                if some.is_empty() || stop.load(Ordering::SeqCst) || !self.command(command, &some) {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(rng.u64(1..30)));
        }
    }

    /// Gives these commands for one recording that is there; each must do.
    pub fn administer(&self, commands: &[Command], rng: &mut fastrand::Rng) {
        let claim = [self.manifest.claim(rng).expect("there is one")];
        for command in commands {
            assert!(self.command(*command, &claim), "{command:?}");
        }
    }

    fn command(&self, command: Command, some: &[Claim<'_>]) -> bool {
        let word = match command {
            Command::Archive => "archive",
            Command::Release => "release",
            Command::Recall => "recall",
        };
        some.iter().for_each(|claim| claim.begin_command(command));
        let names = some.iter().map(|claim| claim.name.as_os_str());
        let done = self.mount.cli(std::iter::once(word.as_ref()).chain(names)).status.success();
        if done {
            some.iter().for_each(Claim::command_done);
        }
        done
    }

    // ---- what must be there ------------------------------------------------------------------

    /// Everything below the mount point that is one of our recordings, and everything's SHA-256.
    fn look(&mut self) -> (BTreeMap<u64, Vec<Found>>, BTreeMap<PathBuf, String>) {
        let (mut files, mut found, mut sums) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        files_below(&self.mount.mountpoint, &mut files);
        for path in files {
            let looks = Looks::of(&path).unwrap();
            let bytes = fs::read(&path).unwrap_or_else(|e| {
                panic!("{}: {e}\n{}", path.display(), self.mount.said());
            });
            sums.insert(path.clone(), sha256(&bytes));
            self.seen.insert(sha256(&bytes));
            let known: &mut Vec<Found> = match recognise(&bytes) {
                Some((number, whole, begins)) => {
                    let all: &mut Vec<Found> = found.entry(number).or_default();
                    all.push(Found { path, whole, begins, looks });
                    all
                }
                None => continue,
            };
            let is_torn = known.last().is_some_and(|found| found.whole.is_none());
            self.tally.torn += usize::from(is_torn);
        }
        (found, sums)
    }

    fn objects(&self) -> BTreeSet<String> {
        let mut files = Vec::new();
        files_below(&self.mount.target, &mut files);
        files.retain(|path| !path.starts_with(self.mount.target.join(".spoolfs")));
        files.iter().map(|path| sha256(&fs::read(path).unwrap())).collect()
    }

    /// Where what is in the trash was.
    fn trash(&self) -> BTreeSet<PathBuf> {
        let ran = self.mount.cli(["trash", "list", "--json", "--limit", "10000"]);
        assert!(ran.status.success(), "{ran:?}");
        let said: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
        let all = said["recordings"].as_array().unwrap().iter();
        all.map(|one| self.mount.path(one["path"].as_str().unwrap())).collect()
    }

    fn check(&mut self, promises: &BTreeMap<u64, Promise>) {
        let (found, sums) = self.look();
        let objects = self.objects();
        let trash = self.trash();
        for (number, promise) in promises {
            self.tally.promised += 1;
            self.tally.gone += usize::from(promise.must_be_gone);
            self.tally.checked_archived += usize::from(promise.archived.is_some());
            self.tally.grown += usize::from(promise.grown.0 > 0);
            let here = found.get(number).map(Vec::as_slice).unwrap_or_default();
            // Another got its name, and that it had left the name for a new one is forgotten.
            let moved = promise.names.len() > 1 && promise.archived.is_some();
            let trashed = here.is_empty() && moved && !promise.may_be_gone;
            if trashed && promise.names.iter().any(|name| trash.contains(name)) {
                self.tally.trashed += 1;
                continue;
            }
            if let Some(wrong) = broken(promise, here, &objects, *number) {
                self.tally.wrong.push(format!("cut {}: {number:x}: {wrong}", self.tally.cuts));
            }
        }
        self.all_is_archived_as_it_was_found(&sums, found);
    }

    /// Everything that was found can be archived, released and read, torn or not.
    fn all_is_archived_as_it_was_found(
        &mut self,
        sums: &BTreeMap<PathBuf, String>,
        found: BTreeMap<u64, Vec<Found>>,
    ) {
        for word in ["archive", "release"] {
            let ran = self.mount.cli([word.as_ref(), self.mount.mountpoint.as_os_str()]);
            if !ran.status.success() {
                self.tally.wrong.push(format!("cut {}: {word}: {ran:?}", self.tally.cuts));
            }
        }
        let (_, again) = self.look();
        if *sums != again {
            let differ: Vec<_> =
                again.iter().filter(|(path, sum)| sums.get(*path) != Some(sum)).collect();
            self.tally.wrong.push(format!("other bytes once released: {differ:?}"));
        }
        for object in self.objects() {
            if !self.seen.contains(&object) && !self.is_whole(&object) {
                self.tally.wrong.push(format!("an object that was never a recording: {object}"));
            }
        }
        let whole = |all: Vec<Found>| {
            all.into_iter().find_map(|f| f.whole.map(|times| (f.path, f.looks, times)))
        };
        self.manifest
            .restart(found.into_iter().filter_map(|(n, all)| Some((n, whole(all)?))).collect());
    }

    /// Whether it is the SHA-256 of any recording up to now: one that was archived before it went
    /// away for good.
    fn is_whole(&self, sum: &str) -> bool {
        let next = self.next.load(Ordering::SeqCst);
        let first = next >> 32 << 32;
        let versions = |number| (0..=GROWN_MAX).map(move |times| grown(number, times));
        (first..next).flat_map(versions).any(|bytes| sha256(&bytes) == sum)
    }
}

fn broken(
    promise: &Promise,
    here: &[Found],
    objects: &BTreeSet<String>,
    number: u64,
) -> Option<String> {
    if let Some(times) = promise.archived
        && !objects.contains(&sha256(&grown(number, times)))
    {
        return Some("told to be archived, and no object has its bytes".into());
    }
    if promise.must_be_gone {
        let first = here.first()?;
        return Some(format!("it was removed and is back as {}", first.path.display()));
    }
    if here.is_empty() {
        return (!promise.may_be_gone).then(|| format!("lost: {promise:?}"));
    }
    let right = |found: &&Found| promise.names.contains(&found.path);
    let (least, most) = promise.grown;
    match here.iter().find(right) {
        None if promise.may_be_gone => None,
        None => Some(format!("it is {} and not {promise:?}", here[0].path.display())),
        // What is being added may be there, or a part of it, or nothing.
        Some(found) if least < most => match found.begins {
            Some(begins) if begins >= least => None,
            _ => Some(format!("torn: {} of {promise:?}", found.looks.size)),
        },
        Some(found) if found.whole != Some(least) => {
            Some(format!("torn: {} of {promise:?}", found.looks.size))
        }
        Some(found) if found.looks != promise.looks => {
            Some(format!("it looks like {:?}, not {promise:?}", found.looks))
        }
        Some(_) => None,
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The mount first, which is on the disk.
        if self.mount.is_started() {
            self.mount.kill9();
        }
        self.disk = None;
    }
}
