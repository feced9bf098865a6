//! How long the calls of recording programs take: in a plain directory, on spoolfs in both modes,
//! on `rclone mount` and on s3fs, by turns, so that whatever else the machine does meets all of
//! them. docs/TESTING.md, "Benchmarks", tells how to read the figures.

mod blackhole;
mod cases;
mod encoding;
mod foreign;
mod names;
mod report;
mod stalled;
mod syncing;
mod systems;
mod writers;

#[path = "../../tests/support/mod.rs"]
mod support;

use cases::Case;
use clap::Parser;
use report::Results;
use std::process::ExitCode;
use std::time::Duration;
use support::seaweedfs::SeaweedFs;
use systems::{Ground, System};

/// Measures the calls of recording programs.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Arguments {
    /// Two short rounds, to see whether everything works; the figures mean little.
    #[arg(long)]
    quick: bool,
    /// How many rounds; each measures every system once.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// How long each run goes on.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// Only this case; may be repeated.
    #[arg(long, value_enum, value_name = "CASE")]
    only: Vec<Case>,
    /// Only this system; may be repeated.
    #[arg(long, value_enum, value_name = "SYSTEM")]
    system: Vec<System>,
    /// Names that `ls -l` lists.
    #[arg(long, value_name = "N")]
    names: Option<usize>,
    /// Recordings that wait to be archived in `blackhole` and `encode`.
    #[arg(long, value_name = "N")]
    waiting: Option<usize>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Rounds over all systems.
    pub rounds: usize,
    /// Of one run of a case that goes on for a time, and the bound of one that counts.
    pub lasting: Duration,
    /// Calls of a case that counts.
    pub calls: usize,
    /// Names that are listed.
    pub names: usize,
    /// Recordings that wait to be archived.
    pub waiting: usize,
}

impl Scale {
    fn of(arguments: &Arguments) -> Scale {
        let scale = if arguments.quick {
            Scale {
                rounds: 2,
                lasting: Duration::from_secs(2),
                calls: 200,
                names: 2_000,
                waiting: 1_000,
            }
        } else {
            Scale {
                rounds: 5,
                lasting: Duration::from_secs(10),
                calls: 2_000,
                names: 100_000,
                waiting: 10_000,
            }
        };
        Scale {
            rounds: arguments.rounds.unwrap_or(scale.rounds).max(1),
            lasting: arguments.seconds.map_or(scale.lasting, |s| Duration::from_secs(s.max(1))),
            names: arguments.names.unwrap_or(scale.names),
            waiting: arguments.waiting.unwrap_or(scale.waiting),
            ..scale
        }
    }
}

/// Each file that is open in a case is open in the daemon, too; children inherit the limit.
fn open_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if setrlimit(Resource::Nofile, limit).is_err() {
        println!("the limit of open files could not be raised; a case may fail for it");
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if support::no_mount("the benchmark") {
        return ExitCode::FAILURE;
    }
    open_many_files();
    let scale = Scale::of(&arguments);
    let server = SeaweedFs::start();
    let ground = Ground::new(server.as_ref());
    let chosen = |system: &System| arguments.system.is_empty() || arguments.system.contains(system);
    let mut wanted: Vec<System> = System::ALL.into_iter().filter(chosen).collect();
    wanted.retain(|system| match ground.possible(*system) {
        Ok(()) => true,
        Err(reason) => {
            println!("SKIPPED {system}: {reason}");
            false
        }
    });
    report::head(&scale, &wanted);

    let mut results = Results::default();
    for case in Case::ALL {
        if arguments.only.is_empty() || arguments.only.contains(&case) {
            let before = results.len();
            match case {
                Case::List => names::run(&ground, &wanted, &scale, &mut results),
                Case::Sync => syncing::run(&ground, &wanted, &scale, &mut results),
                Case::Encode => encoding::run(&ground, &wanted, &scale, &mut results),
                Case::Stalled => stalled::run(&ground, &wanted, &scale, &mut results),
                Case::Blackhole => blackhole::run(&ground, &wanted, &scale, &mut results),
                _ => cases::run(case, &ground, &wanted, &scale, &mut results),
            }
            results.show_from(before);
        }
    }
    results.judge();
    ExitCode::SUCCESS
}
