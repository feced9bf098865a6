//! What ended the daemon, as its service manager tells it (systemd.exec(5), ExecStopPost=), and
//! whether calls need the plain directory now.

use crate::clock::Timestamp;
use crate::limits;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What the service manager is going to do with the unit (systemctl(1), `list-jobs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// It stays down.
    Stop,
    /// It is being replaced.
    Restart,
    /// It is being started, or nothing is asked for.
    Other,
}

/// How it ended: `$SERVICE_RESULT` and `$EXIT_STATUS`, and whether it had served for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    pub result: String,
    pub status: String,
    pub settled: bool,
}

impl End {
    /// As this process was told.
    pub fn of_process(settled: bool) -> End {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        End { result: variable("SERVICE_RESULT"), status: variable("EXIT_STATUS"), settled }
    }
}

impl End {
    /// Whether nobody asked for it.
    pub fn by_itself(&self, job: Job) -> bool {
        job == Job::Other && self.result != "success"
    }
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Take the mount away: nobody comes after it.
    Detach(&'static str),
    /// Take the mount away and let the unit fail, so that nobody comes after it.
    GiveUp(&'static str),
    /// The next daemon goes on with the mount.
    Leave,
}

/// Decides. A failure is added to `failures`.
pub(super) fn decide(job: Job, end: &End, failures: &mut Failures, now: Timestamp) -> Decision {
    match job {
        Job::Stop => return Decision::Detach("the service was stopped"),
        Job::Restart => return Decision::Leave,
        Job::Other => {}
    }
    match (end.result.as_str(), end.status.as_str()) {
        // Only a start has a time limit without a job to stop or restart.
        ("timeout", _) => Decision::GiveUp("spoolfs was started and did not get ready in time"),
        // Somebody's SIGKILL is no fault of the program, nor is an end in good order.
        ("success", _) | ("signal", "KILL") => Decision::Leave,
        // It had taken over: calls go on, and the next one will do as well.
        _ if end.settled => Decision::Leave,
        _ if failures.add(now) => Decision::GiveUp("spoolfs failed again and again"),
        _ => Decision::Leave,
    }
}

/// The last failures, a line with a time for each in a file of the runtime directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Failures(Vec<Timestamp>);

impl Failures {
    /// Those that are remembered; none if they can not be read.
    pub fn read(runtime_dir: &Path) -> Failures {
        let text = std::fs::read_to_string(Failures::place(runtime_dir)).unwrap_or_default();
        Failures(text.lines().filter_map(|line| line.parse().ok().map(Timestamp)).collect())
    }

    /// Remembers them.
    ///
    /// # Errors
    /// As writing a file.
    pub fn write(&self, runtime_dir: &Path) -> io::Result<()> {
        let text: String = self.0.iter().map(|at| format!("{}\n", at.0)).collect();
        std::fs::create_dir_all(runtime_dir)?;
        std::fs::write(Failures::place(runtime_dir), text)
    }

    fn place(runtime_dir: &Path) -> PathBuf {
        runtime_dir.join("failures")
    }

    /// One more. Tells whether that is too many; then they are forgotten.
    fn add(&mut self, now: Timestamp) -> bool {
        self.0.push(now);
        // The clock may have been set back.
        self.0.retain(|at| *at <= now && at.age_at(now) < limits::KEEPER_FAILURES_WITHIN);
        let too_many = self.0.len() >= limits::KEEPER_FAILURES_MAX;
        if too_many {
            self.0.clear();
        }
        too_many
    }
}

/// Asks systemd what it is going to do with a unit.
///
/// # Errors
/// `systemctl` is missing, fails or does not answer in time.
pub(super) fn job(unit: &str) -> io::Result<Job> {
    let queue = systemctl(&["list-jobs", "--no-legend", "--no-pager", "--full", "--plain", unit])?;
    Ok(parse(&queue, unit))
}

/// Keeps systemd from starting a unit again: as it just failed, it counts as failed then, its
/// descriptor store is emptied and its OnFailure= starts.
///
/// # Errors
/// As [`job`].
pub(super) fn give_up(unit: &str) -> io::Result<()> {
    systemctl(&["stop", "--no-block", unit]).map(|_| ())
}

/// Lines of number, unit, type and state.
fn parse(queue: &str, unit: &str) -> Job {
    let job = queue.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip_while(|field| *field != unit);
        fields.nth(1)
    });
    match job {
        Some("stop") => Job::Stop,
        Some("restart" | "try-restart" | "reload-or-start") => Job::Restart,
        _ => Job::Other,
    }
}

fn systemctl(arguments: &[&str]) -> io::Result<String> {
    let mut command = Command::new("systemctl");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let until = Instant::now() + limits::SERVICE_MANAGER_WAIT;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < until => std::thread::sleep(limits::SERVICE_MANAGER_LOOK),
            None => {
                child.kill()?;
                child.wait()?;
                let message = format!("systemctl {} did not answer", arguments.join(" "));
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
        }
    };
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut text)?;
    }
    if !status.success() {
        return Err(io::Error::other(format!("systemctl {} failed", arguments.join(" "))));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_tells_stop_from_restart() {
        let unit = "spoolfs@monitor.service";
        assert_eq!(parse("", unit), Job::Other);
        assert_eq!(parse("123 spoolfs@monitor.service stop    running\n", unit), Job::Stop);
        assert_eq!(parse("  7 spoolfs@monitor.service restart running\n", unit), Job::Restart);
        assert_eq!(parse("  7 spoolfs@monitor.service start waiting\n", unit), Job::Other);
        assert_eq!(parse("8 spoolfs@voicemail.service stop running\n", unit), Job::Other);
        assert_eq!(parse("No jobs running.\n", unit), Job::Other);
    }

    #[test]
    fn calls_get_the_plain_directory_when_nobody_goes_on() {
        let end = |job, result: &str, status: &str| {
            let end = End { result: result.into(), status: status.into(), settled: false };
            decide(job, &end, &mut Failures::default(), Timestamp(0))
        };
        // A stop, also one in which the daemon had to be killed.
        assert!(matches!(end(Job::Stop, "success", "0"), Decision::Detach(_)));
        assert!(matches!(end(Job::Stop, "timeout", "KILL"), Decision::Detach(_)));
        // A start that hangs; not a restart whose old daemon had to be killed.
        assert!(matches!(end(Job::Other, "timeout", "KILL"), Decision::GiveUp(_)));
        assert_eq!(end(Job::Restart, "timeout", "KILL"), Decision::Leave);
        for result in ["success", "exit-code", "core-dump", "watchdog", "protocol", "oom-kill"] {
            assert_eq!(end(Job::Other, result, "1"), Decision::Leave, "{result}");
        }
    }

    #[test]
    fn three_failures_in_a_minute_are_too_many() {
        let second = |s| Timestamp::from_parts(s, 0);
        let mut failures = Failures::default();
        let mut at = |job, result: &str, status: &str, now| {
            let end = End { result: result.into(), status: status.into(), settled: false };
            matches!(decide(job, &end, &mut failures, second(now)), Decision::GiveUp(_))
        };
        assert!(!at(Job::Other, "exit-code", "1", 0));
        assert!(!at(Job::Other, "protocol", "0", 59));
        assert!(!at(Job::Other, "exit-code", "1", 61), "the first is too long ago");
        for now in 61..80 {
            assert!(!at(Job::Other, "signal", "KILL", now), "kills do not count");
            assert!(!at(Job::Restart, "exit-code", "1", now), "nor do restarts");
        }
        assert!(at(Job::Other, "signal", "ABRT", 80));
        assert!(!at(Job::Other, "exit-code", "1", 81), "it begins anew");
        assert!(!at(Job::Other, "exit-code", "1", 82));
        assert!(!at(Job::Other, "exit-code", "1", 10), "the clock was set back");
    }

    #[test]
    fn regression_who_had_served_for_a_while_did_not_fail_to_take_over() {
        let mut failures = Failures::default();
        let mut at = |settled, result: &str, now| {
            let end = End { result: result.into(), status: "ABRT".into(), settled };
            decide(Job::Other, &end, &mut failures, Timestamp::from_parts(now, 0))
        };
        for (now, result) in
            (0..60).step_by(6).zip(["signal", "watchdog", "core-dump"].iter().cycle())
        {
            assert_eq!(at(true, result, now), Decision::Leave, "{result}");
        }
        assert_eq!(at(false, "core-dump", 60), Decision::Leave);
        assert_eq!(at(true, "core-dump", 67), Decision::Leave);
        assert_eq!(at(false, "core-dump", 68), Decision::Leave);
        assert!(matches!(at(false, "core-dump", 69), Decision::GiveUp(_)));
        assert!(matches!(at(true, "timeout", 80), Decision::GiveUp(_)), "a start that hangs");
    }

    #[test]
    fn failures_are_remembered() {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = dir.path().join("run");
        assert_eq!(Failures::read(&runtime), Failures::default());
        let failures = Failures(vec![Timestamp(5), Timestamp(7)]);
        failures.write(&runtime).expect("written");
        assert_eq!(Failures::read(&runtime), failures);
    }
}
