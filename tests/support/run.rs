//! Running programs with a deadline, so that a hang is a failure with a name.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ran {
    /// This run, if it exited 0; fails the test with everything it said otherwise.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert!(self.status.success(), "{}\n{}{}", self.status, self.out, self.err);
        self
    }
}

/// Runs `command` to its end, at most for `deadline`; then it is killed and the test fails.
#[track_caller]
pub fn run(command: &mut Command, deadline: Duration) -> Ran {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
    let pid = rustix::process::Pid::from_child(&child);
    let out = collect(child.stdout.take().expect("it is piped"));
    let err = collect(child.stderr.take().expect("it is piped"));
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = ended.send(child.wait());
    });
    match end.recv_timeout(deadline) {
        Ok(status) => Ran {
            status: status.expect("a child can be waited for"),
            out: out.join().expect("the reader does not panic"),
            err: err.join().expect("the reader does not panic"),
        },
        Err(_) => {
            // Not reaped yet, so the id is still its own.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            panic!("{name} did not end within {deadline:?}");
        }
    }
}

fn collect(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
