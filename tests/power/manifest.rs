//! What programs did and what they were told, so that it is known after a power cut what must be
//! there, and what may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

/// What a program sees of a file, its bytes aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looks {
    pub size: u64,
    pub mtime: (i64, i64),
    pub mode: u32,
    pub owner: (u32, u32),
}

impl Looks {
    pub fn of(path: &Path) -> std::io::Result<Looks> {
        let stat = fs::symlink_metadata(path)?;
        Ok(Looks {
            size: stat.size(),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
        })
    }
}

/// What was done with a closed recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Archive,
    Release,
    Recall,
}

#[derive(Clone, Debug)]
enum Step {
    /// Closed, under this name, with these looks, grown so many times.
    Closed(PathBuf, Looks, u32),
    /// Something was added to it, for this time; its looks then.
    Grown(u32, Option<Looks>),
    Renamed(PathBuf),
    Removed,
    /// The first `archive` of a content says so when everything before it is on the disk, too.
    Command(Command),
}

#[derive(Clone, Debug)]
struct Taken {
    step: Step,
    done: Option<Instant>,
}

/// What must hold of a recording after a cut.
#[derive(Clone, Debug)]
pub struct Promise {
    /// With what was added to it at least, and may have been.
    pub grown: (u32, u32),
    /// If that is one and the same.
    pub looks: Looks,
    /// Names that it may have.
    pub names: Vec<PathBuf>,
    pub may_be_gone: bool,
    pub must_be_gone: bool,
    /// Its bytes are in the target, as they were when it had grown so often.
    pub archived: Option<u32>,
}

fn promise(history: &[Taken], cut: Instant, durable: Option<Instant>) -> Option<Promise> {
    let told = |t: &Taken| t.done.is_some_and(|done| done <= cut);
    let old = |t: &Taken| t.done.is_some_and(|done| durable.is_some_and(|until| done < until));
    let (mut sure, mut grown, mut archived) = (None, 0, None);
    for (n, taken) in history.iter().enumerate() {
        let mut synced = false;
        match &taken.step {
            Step::Closed(_, _, times) | Step::Grown(times, _) => grown = *times,
            // What is archived already is not looked at, and what was done to it since not synced.
            Step::Command(Command::Archive) if told(taken) => {
                synced = archived.replace(grown) != Some(grown);
            }
            Step::Command(_) | Step::Renamed(_) | Step::Removed => {}
        }
        if synced || old(taken) {
            sure = Some(n);
        }
    }
    let sure = sure?;
    let (Step::Closed(path, looks, grown), rest) = (&history.first()?.step, history.get(1..)?)
    else {
        return None;
    };
    let mut promise = Promise {
        grown: (*grown, *grown),
        looks: looks.clone(),
        names: vec![path.clone()],
        may_be_gone: false,
        must_be_gone: false,
        archived: None,
    };
    for (n, taken) in (1..).zip(rest) {
        match &taken.step {
            Step::Renamed(to) if n <= sure => promise.names = vec![to.clone()],
            Step::Renamed(to) => promise.names.push(to.clone()),
            Step::Removed => {
                promise.may_be_gone = true;
                promise.must_be_gone = n <= sure;
            }
            Step::Grown(times, looks) => {
                promise.grown.1 = *times;
                if let Some(looks) = looks.as_ref().filter(|_| n <= sure) {
                    promise.grown.0 = *times;
                    promise.looks = looks.clone();
                }
            }
            Step::Command(Command::Archive) if told(taken) => {
                promise.archived = Some(promise.grown.1);
            }
            Step::Command(_) | Step::Closed(..) => {}
        }
    }
    Some(promise)
}

#[derive(Debug, Default)]
struct Inner {
    all: BTreeMap<u64, Vec<Taken>>,
    /// Somebody does something with these.
    busy: BTreeSet<u64>,
}

/// Of all recordings, by number.
#[derive(Debug, Default)]
pub struct Manifest(Mutex<Inner>);

/// A recording that nobody else does anything with meanwhile.
pub struct Claim<'m> {
    manifest: &'m Manifest,
    pub number: u64,
    pub name: PathBuf,
    /// How often something was added to it.
    pub grown: u32,
}

impl Manifest {
    /// A recording was closed.
    pub fn closed(&self, number: u64, name: PathBuf, looks: Looks) {
        let step = Taken { step: Step::Closed(name, looks, 0), done: Some(Instant::now()) };
        self.0.lock().unwrap().all.insert(number, vec![step]);
    }

    /// Any recording that is there and that nobody has claimed.
    pub fn claim(&self, rng: &mut fastrand::Rng) -> Option<Claim<'_>> {
        let mut inner = self.0.lock().unwrap();
        let free: Vec<u64> =
            inner.all.keys().filter(|n| !inner.busy.contains(n)).copied().collect();
        let number = *free.get(rng.usize(..free.len().max(1)))?;
        let (mut name, mut grown) = (None, 0);
        for taken in &inner.all[&number] {
            taken.done?;
            match &taken.step {
                Step::Closed(path, _, times) => (name, grown) = (Some(path.clone()), *times),
                Step::Renamed(path) => name = Some(path.clone()),
                Step::Grown(times, _) => grown = *times,
                Step::Removed => return None,
                Step::Command(_) => {}
            }
        }
        inner.busy.insert(number);
        Some(Claim { manifest: self, number, name: name?, grown })
    }

    /// What must hold now of what was told by `cut`, if everything done before `durable` does. Steps
    /// that were begun may be done.
    pub fn promises(&self, cut: Instant, durable: Option<Instant>) -> BTreeMap<u64, Promise> {
        let inner = self.0.lock().unwrap();
        let promises = inner.all.iter().map(|(n, h)| (*n, promise(h, cut, durable)));
        promises.filter_map(|(n, p)| Some((n, p?))).collect()
    }

    /// Begins anew with what is archived and released.
    pub fn restart(&self, found: BTreeMap<u64, (PathBuf, Looks, u32)>) {
        let done = Some(Instant::now());
        let mut inner = self.0.lock().unwrap();
        inner.busy.clear();
        let history = |(path, looks, grown)| {
            let steps = [Step::Closed(path, looks, grown), Step::Command(Command::Archive)];
            steps.into_iter().map(|step| Taken { step, done }).collect()
        };
        inner.all = found.into_iter().map(|(n, it)| (n, history(it))).collect();
    }

    fn begin(&self, number: u64, step: Step) {
        let mut inner = self.0.lock().unwrap();
        inner.all.get_mut(&number).unwrap().push(Taken { step, done: None });
    }

    /// What the last step came to.
    fn is(&self, number: u64, step: Step) {
        let mut inner = self.0.lock().unwrap();
        inner.all.get_mut(&number).unwrap().last_mut().unwrap().step = step;
    }

    fn done(&self, number: u64) {
        let mut inner = self.0.lock().unwrap();
        inner.all.get_mut(&number).unwrap().last_mut().unwrap().done = Some(Instant::now());
    }
}

impl Claim<'_> {
    fn step(&self, step: Step, take: impl FnOnce() -> bool) {
        self.manifest.begin(self.number, step);
        if take() {
            self.manifest.done(self.number);
        }
    }

    pub fn rename(&self, to: PathBuf, take: impl FnOnce() -> bool) {
        self.step(Step::Renamed(to), take);
    }

    /// Something is added to it; `take` tells its looks then, if it was.
    pub fn grow(&self, take: impl FnOnce() -> Option<Looks>) {
        self.manifest.begin(self.number, Step::Grown(self.grown + 1, None));
        if let Some(looks) = take() {
            self.manifest.is(self.number, Step::Grown(self.grown + 1, Some(looks)));
            self.manifest.done(self.number);
        }
    }

    pub fn remove(&self, take: impl FnOnce() -> bool) {
        self.step(Step::Removed, take);
    }

    pub fn begin_command(&self, command: Command) {
        self.manifest.begin(self.number, Step::Command(command));
    }

    pub fn command_done(&self) {
        self.manifest.done(self.number);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // A step that failed stays open, and the recording is left alone from then on.
        if let Ok(mut inner) = self.manifest.0.lock() {
            inner.busy.remove(&self.number);
        }
    }
}
