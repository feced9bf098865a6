//! Both ends of the control socket, against each other.

use super::*;
use crate::control::{Client, ClientError, PathFailure, WirePath};
use serde_json::json;
use std::sync::atomic::AtomicUsize;

/// Answers with what was asked; `archive` reports progress, `release` fails, `recall` waits.
#[derive(Default)]
struct Echo {
    entered: AtomicUsize,
    gate: Mutex<bool>,
    opened: Condvar,
}

impl Echo {
    fn open_gate(&self) {
        *self.gate.lock() = true;
        self.opened.notify_all();
    }
}

impl Handler for Echo {
    fn handle(
        &self,
        request: Request,
        _peer: &Peer,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Value, Failure> {
        match &request {
            Request::Archive { paths } => {
                for (i, path) in paths.iter().enumerate() {
                    progress(Progress {
                        done: i as u64,
                        total: paths.len() as u64,
                        bytes: 7,
                        bytes_total: 0,
                        current: Some(path.clone()),
                    });
                }
            }
            Request::Release { paths } => {
                let failures = paths
                    .iter()
                    .map(|p| PathFailure { path: p.clone(), reason: "it is held".into() })
                    .collect();
                return Err(Failure { message: "nothing was released".into(), failures });
            }
            Request::Recall { .. } => {
                self.entered.fetch_add(1, Ordering::SeqCst);
                let mut gate = self.gate.lock();
                self.opened.wait_while(&mut gate, |open| !*open);
            }
            _ => {}
        }
        Ok(serde_json::to_value(request).expect("json"))
    }
}

fn start() -> (tempfile::TempDir, PathBuf, Arc<Echo>, Server) {
    let dir = tempfile::tempdir().expect("tempdir");
    let socket = dir.path().join("control.sock");
    let echo = Arc::new(Echo::default());
    let server = Server::start(&socket, Arc::clone(&echo) as Arc<dyn Handler>).expect("start");
    (dir, socket, echo, server)
}

fn paths(names: &[&str]) -> Vec<WirePath> {
    names.iter().map(|n| WirePath(n.into())).collect()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..5_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("not within 5 s: {what}");
}

#[test]
fn requests_are_answered_with_progress_and_an_end() {
    let (_dir, socket, _echo, _server) = start();
    let mut client = Client::connect(&socket).expect("connect");
    let version: VersionReport = client.call(&Request::Version, |_| {}).expect("version");
    assert_eq!(version, VersionReport::own());
    let mut seen = Vec::new();
    let request = Request::Archive { paths: paths(&["a", "b"]) };
    let done: Value = client.call(&request, |p| seen.push((p.done, p.total))).expect("archive");
    assert_eq!(seen, [(0, 2), (1, 2)]);
    assert_eq!(done, json!({"archive": {"paths": ["a", "b"]}}));
    let request = Request::Release { paths: paths(&["x"]) };
    match client.call::<Value>(&request, |_| {}) {
        Err(ClientError::Failed(failure)) => {
            assert_eq!(failure.message, "nothing was released");
            assert_eq!(failure.failures.len(), 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_socket_is_for_its_owner_only_and_goes_away() {
    let (_dir, socket, _echo, mut server) = start();
    let mode = std::fs::metadata(&socket).expect("stat").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.stop();
    assert!(!socket.exists());
    assert!(matches!(Client::connect(&socket), Err(ClientError::NotRunning(_))));
}

#[test]
fn another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (dir, socket, _echo, _server) = start();
    for (path, mode) in [(dir.path(), 0o755), (&socket, 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
    }
    // The kernel notes the credentials of the thread that connects.
    let refused = std::thread::spawn(move || {
        let nobody = rustix::fs::Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("setresuid");
        let stream = UnixStream::connect(&socket).expect("connect");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("read");
        line
    });
    let line = refused.join().expect("thread");
    let want = "user 65534 may not control spoolfs; only root and user 0 may";
    assert!(line.contains(want), "{line}");
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let (_dir, socket, echo, server) = start();
    let second = Server::start(&socket, Arc::clone(&echo) as Arc<dyn Handler>);
    assert!(matches!(second, Err(ServerError::InUse(_))), "{second:?}");
    drop(server);
    drop(UnixListener::bind(&socket).expect("bind"));
    assert!(socket.exists(), "a dead listener leaves its name");
    let third = Server::start(&socket, echo).expect("replaces the stale one");
    Client::connect(&socket).expect("connect");
    drop(third);
    std::fs::write(&socket, "x").expect("write");
    let fourth = Server::start(&socket, Arc::new(Echo::default()));
    assert!(matches!(fourth, Err(ServerError::NotASocket(_))));
    assert_eq!(std::fs::read(&socket).expect("still there"), b"x");
}

#[test]
fn a_deep_state_directory_is_no_obstacle() {
    let dir = tempfile::tempdir().expect("tempdir");
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).expect("mkdir");
    let socket = deep.join("control.sock");
    let _server = Server::start(&socket, Arc::new(Echo::default())).expect("start");
    let mut client = Client::connect(&socket).expect("connect");
    client.call::<VersionReport>(&Request::Version, |_| {}).expect("version");
}

#[test]
fn nonsense_and_endless_lines_are_refused() {
    let (_dir, socket, _echo, _server) = start();
    let ask = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&socket).expect("connect");
        // The refusal may come before everything was sent.
        let _ = stream.write_all(bytes);
        let mut line = String::new();
        // A connection closed with bytes unread may be reset.
        let _ = BufReader::new(stream).read_line(&mut line);
        line
    };
    assert!(ask(b"{\"dance\":{}}\n").contains("use the command of the same version"));
    let long = vec![b'x'; usize::try_from(CONTROL_REQUEST_BYTES_MAX).expect("fits") + 2];
    let answer = ask(&long);
    assert!(answer.is_empty() || answer.contains("too long"), "{answer}");
}

#[test]
fn one_connection_too_many_is_told_so() {
    let (_dir, socket, echo, _server) = start();
    let mut waiting: Vec<Client> = Vec::new();
    for _ in 0..CONTROL_CONNECTIONS_MAX {
        let mut client = Client::connect(&socket).expect("connect");
        client.send(&Request::Recall { paths: vec![], since: None, until: None }).expect("send");
        waiting.push(client);
    }
    wait_until("all are in work", || echo.entered.load(Ordering::SeqCst) == waiting.len());
    let mut extra = Client::connect(&socket).expect("connect");
    let refused = extra.call::<VersionReport>(&Request::Version, |_| {}).expect_err("full");
    assert_eq!(refused.to_string(), "16 commands are already being answered; try again later");
    echo.open_gate();
    for mut client in waiting {
        assert!(matches!(client.receive(), Ok(Response::Done(_))));
    }
    let again = || {
        let mut client = Client::connect(&socket).expect("connect");
        client.call::<VersionReport>(&Request::Version, |_| {}).is_ok()
    };
    wait_until("there is room again", again);
}

#[test]
fn a_stop_lets_work_in_hand_answer_and_ends_idle_connections() {
    let (_dir, socket, echo, mut server) = start();
    let mut busy = Client::connect(&socket).expect("connect");
    busy.send(&Request::Recall { paths: vec![], since: None, until: None }).expect("send");
    wait_until("it is in work", || echo.entered.load(Ordering::SeqCst) == 1);
    let mut idle = Client::connect(&socket).expect("connect");
    idle.call::<VersionReport>(&Request::Version, |_| {}).expect("version");
    let stopping = std::thread::spawn(move || server.stop());
    assert!(matches!(idle.receive(), Err(ClientError::BrokenOff { .. })));
    echo.open_gate();
    assert!(matches!(busy.receive(), Ok(Response::Done(_))));
    stopping.join().expect("stops");
}
