//! Random operations on two directories that must stay alike: the subject (a mount) and the
//! oracle (a plain directory). A seed chooses the operations, so it also brings them back.

pub mod listing;
pub mod op;
mod raw;
pub mod tree;
pub mod world;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FileType;
use rustix::io::Errno;

use op::{CROWD, CROWDED, Chooser, Op};
use world::{Answer, Trouble, World};

/// Operations remembered for the report of a failure.
const REMEMBERED: usize = 20;

/// What a run is given.
pub struct Run<'a> {
    /// Chooses the operations.
    pub seed: u64,
    /// How many.
    pub operations: u64,
    /// Whole trees are compared after this many, and at the end.
    pub compare_every: u64,
    /// Called before each operation with its number.
    pub between: Option<Between<'a>>,
}

/// See [`Run::between`]; it is given the oracle, and an error ends the run.
pub type Between<'a> = &'a mut dyn FnMut(u64, &World) -> Result<(), String>;

/// The regular files of a world that nobody has open, by their paths below its root.
pub fn closed_files(world: &World) -> Result<Vec<PathBuf>, String> {
    let open = world.open_inodes();
    let tree = tree::read(world.root(), None)?;
    let closed = tree
        .into_iter()
        .filter(|(_, node)| node.kind() == FileType::RegularFile && !open.contains(&node.ino));
    Ok(closed.map(|(path, _)| path).collect())
}

/// How often each operation was done and how often it was refused, by both worlds alike.
#[derive(Debug, Default)]
pub struct Tally(pub BTreeMap<String, (u64, u64)>);

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, (done, refused)) in &self.0 {
            write!(f, "{name} {done}+{refused} ")?;
        }
        Ok(())
    }
}

/// The first disagreement, with what is needed to see it again.
#[derive(Debug)]
pub struct Disagreement {
    /// The seed.
    pub seed: u64,
    /// The number of the operation, from 0.
    pub number: u64,
    /// What differs.
    pub what: String,
    /// The last operations and what the oracle answered, the latest at the end.
    pub history: VecDeque<String>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} operation {}: {}", self.seed, self.number, self.what)?;
        writeln!(f, "the last operations:")?;
        for line in &self.history {
            writeln!(f, "  {line}")?;
        }
        let next = self.number + 1;
        write!(f, "again with SPOOLFS_TEST_SEED={} SPOOLFS_TEST_OPS={next}", self.seed)
    }
}

/// Seconds since 1970, as the file systems' clock has them.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    i64::try_from(since.as_secs()).expect("it fits")
}

/// Plays the operations in both directories, which should be empty, and compares as it goes.
pub fn run(subject: &Path, oracle: &Path, mut run: Run<'_>) -> Result<Tally, Box<Disagreement>> {
    // The kernel's coarse clock may lag behind.
    let started = now() - 1;
    let mut chooser = Chooser::new(run.seed);
    let mut subject = World::new(subject);
    let mut oracle = World::new(oracle);
    let mut tally = Tally::default();
    let mut history = VecDeque::new();
    for world in [&subject, &oracle] {
        crowd(world.root());
    }

    let seed = run.seed;
    for number in 0..=run.operations {
        let disagree = |what, history| Box::new(Disagreement { seed, number, what, history });
        if number == run.operations {
            subject.close_all();
            oracle.close_all();
        }
        if number == run.operations || (number > 0 && number % run.compare_every == 0) {
            tree::compare(subject.root(), oracle.root(), None, started)
                .map_err(|what| disagree(what, history.clone()))?;
        }
        if number == run.operations {
            break;
        }
        if let Some(between) = run.between.as_mut() {
            between(number, &oracle).map_err(|what| disagree(what, history.clone()))?;
        }

        let op = chooser.next(&oracle.open());
        let got = subject.apply(&op);
        if history.len() == REMEMBERED {
            history.pop_front();
        }
        if tolerated(&op, &got) {
            history.push_back(format!("{number}: {op:?} -> not offered"));
            continue;
        }
        let expected = oracle.apply(&op);
        history.push_back(format!("{number}: {op:?} -> {}", shown(&expected)));
        if let Some(what) = difference(&got, &expected, started) {
            return Err(disagree(what, history));
        }
        let counts = tally.0.entry(op.name()).or_default();
        match expected {
            Ok(Answer::NoFile) => {}
            Ok(_) => {
                counts.0 += 1;
                chooser.learn(&op);
            }
            Err(_) => counts.1 += 1,
        }
    }
    Ok(tally)
}

/// Access lists are the one thing a file system may decline as a whole.
fn tolerated(op: &Op, got: &Result<Answer, Trouble>) -> bool {
    matches!(op, Op::SetAcl { .. }) && *got == Err(Trouble::Refused(Errno::OPNOTSUPP))
}

fn difference(
    got: &Result<Answer, Trouble>,
    expected: &Result<Answer, Trouble>,
    started: i64,
) -> Option<String> {
    match (got, expected) {
        (_, Err(Trouble::Fault(what))) => Some(format!("the oracle itself is wrong: {what}")),
        (Ok(Answer::Stat(got)), Ok(Answer::Stat(expected))) if expected.agree(got, started) => None,
        (Ok(Answer::Bytes(got)), Ok(Answer::Bytes(expected))) if got != expected => {
            Some(tree::bytes_differ(got, expected))
        }
        (got, expected) if got == expected => None,
        (got, expected) => Some(format!("expected {}, got {}", shown(expected), shown(got))),
    }
}

fn shown(answer: &Result<Answer, Trouble>) -> String {
    const LONG: usize = 2_000;
    let text = match answer {
        Ok(Answer::Bytes(bytes)) => format!("{} bytes", bytes.len()),
        Err(Trouble::Refused(errno)) => {
            let error = std::io::Error::from(*errno);
            format!("{errno:?} {error}")
        }
        other => format!("{other:?}"),
    };
    if text.len() > LONG { text.chars().take(LONG).chain("...".chars()).collect() } else { text }
}

fn crowd(root: &Path) {
    let directory = root.join(CROWDED);
    std::fs::create_dir(&directory).expect("the root takes a directory");
    for number in 0..CROWD {
        std::fs::write(directory.join(format!("n{number:03}")), b"").expect("a file is made");
    }
}
