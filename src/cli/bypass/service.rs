//! What ended the daemon, as its service manager tells it (systemd.exec(5), ExecStopPost=), and
//! whether calls need the plain directory now.

use crate::limits;
use std::io::{self, Read};
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

/// How it ended: `$SERVICE_RESULT`, `$EXIT_CODE` and `$EXIT_STATUS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    pub result: String,
    pub code: String,
    pub status: String,
}

impl End {
    /// As this process was told.
    pub fn of_process() -> End {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        End {
            result: variable("SERVICE_RESULT"),
            code: variable("EXIT_CODE"),
            status: variable("EXIT_STATUS"),
        }
    }
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Take the mount away, because of this.
    Detach(&'static str),
    /// The next daemon goes on with the mount; it does not count as a failure.
    Innocent,
    /// The next daemon goes on with the mount; too many of these, and the unit fails.
    Failure,
}

/// Decides.
pub(super) fn decide(job: Job, end: &End) -> Decision {
    match job {
        Job::Stop => Decision::Detach("the service was stopped"),
        Job::Restart => Decision::Innocent,
        // Only a start has a time limit without a job to stop or restart.
        Job::Other if end.result == "timeout" => {
            Decision::Detach("spoolfs was started and did not get ready in time")
        }
        // Somebody's SIGKILL is no fault of the program, nor is an end in good order.
        Job::Other if end.result == "signal" && end.status == "KILL" => Decision::Innocent,
        Job::Other if end.result == "success" => Decision::Innocent,
        Job::Other => Decision::Failure,
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

/// Lets a unit start again however often it did.
///
/// # Errors
/// As [`job`].
pub(super) fn forgive(unit: &str) -> io::Result<()> {
    systemctl(&["reset-failed", unit]).map(|_| ())
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
        let end = |result: &str, status: &str| End {
            result: result.into(),
            code: String::new(),
            status: status.into(),
        };
        let detaches = |job, end: &End| matches!(decide(job, end), Decision::Detach(_));
        // A stop, also one in which the daemon had to be killed.
        assert!(detaches(Job::Stop, &end("success", "0")));
        assert!(detaches(Job::Stop, &end("timeout", "KILL")));
        // A start that hangs; not a restart whose old daemon had to be killed.
        assert!(detaches(Job::Other, &end("timeout", "KILL")));
        assert_eq!(decide(Job::Restart, &end("timeout", "KILL")), Decision::Innocent);
        // What the next daemon takes over.
        assert_eq!(decide(Job::Other, &end("signal", "KILL")), Decision::Innocent);
        assert_eq!(decide(Job::Other, &end("success", "0")), Decision::Innocent);
        for result in ["exit-code", "core-dump", "watchdog", "protocol", "oom-kill", "signal", ""] {
            assert_eq!(decide(Job::Other, &end(result, "1")), Decision::Failure, "{result}");
        }
    }
}
