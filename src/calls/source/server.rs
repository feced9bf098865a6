//! MySQL, MariaDB and PostgreSQL, asked through their own command-line clients.
//!
//! The clients know every way in which a server can be reached and can be sure of who asks, and a
//! fault in one is not a fault in the process that calls are recorded by. One that hangs is ended at
//! a moment told beforehand. The password travels in the environment of the client, never on its
//! command line.

use super::line;
use crate::limits;
use crate::units::{Secret, humane_duration};
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// MySQL or MariaDB: `mariadb` or `mysql`.
    Mysql,
    /// PostgreSQL: `psql`.
    Postgres,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Which.
    pub engine: Engine,
    /// Its name or address; none: the socket of this machine.
    pub host: Option<String>,
    /// Its port, unless it is the usual one.
    pub port: Option<u16>,
    /// Its socket, unless it is at the usual place: of MySQL a path, of PostgreSQL a directory.
    pub socket: Option<PathBuf>,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// The database.
    pub database: String,
    /// Certificates that the server's must be signed by; with it only encrypted connections are made.
    pub tls_ca: Option<PathBuf>,
}

/// Names of columns, and rows.
pub(super) type Table = (Vec<String>, Vec<Vec<String>>);

/// The client of a server.
pub(super) struct Client {
    server: Server,
    /// Programs, the first of which that is there is run.
    programs: Vec<PathBuf>,
    timeout: Duration,
    /// `mysql` is MariaDB's; it was asked for its version.
    of_mariadb: Option<bool>,
}

impl Client {
    pub(super) fn new(server: &Server, timeout: Duration) -> Client {
        let programs: &[&str] = match server.engine {
            Engine::Mysql => &["mariadb", "mysql"],
            Engine::Postgres => &["psql"],
        };
        let programs = programs.iter().map(PathBuf::from).collect();
        Client { server: server.clone(), programs, timeout, of_mariadb: None }
    }

    /// With a program of one's own.
    #[cfg(test)]
    pub(super) fn by(server: &Server, timeout: Duration, program: PathBuf) -> Client {
        Client { programs: vec![program], ..Client::new(server, timeout) }
    }

    pub(super) fn engine(&self) -> Engine {
        self.server.engine
    }

    /// When what is asked now must be answered.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// For people: no password in it.
    pub(super) fn place(&self) -> String {
        let kind = match self.server.engine {
            Engine::Mysql => "mysql",
            Engine::Postgres => "postgres",
        };
        let host = self.server.host.as_deref().unwrap_or("localhost");
        let port = self.server.port.map_or_else(String::new, |port| format!(":{port}"));
        format!("{kind}://{host}{port}/{}", self.server.database)
    }

    /// What the server has to a query.
    pub(super) fn rows(&mut self, query: &str, until: Instant) -> Result<Table, String> {
        let child = self.start(query, until)?;
        let text = self.output(child, until)?;
        let mut rows: Vec<Vec<String>> = match self.server.engine {
            Engine::Mysql => {
                text.lines().map(|row| row.split('\t').map(unescape).collect()).collect()
            }
            Engine::Postgres => {
                line::records(&text).ok_or_else(|| "its client gave half an answer".to_owned())?
            }
        };
        let names = if rows.is_empty() { Vec::new() } else { rows.remove(0) };
        Ok((names, rows))
    }

    fn start(&mut self, query: &str, until: Instant) -> Result<Child, String> {
        for program in self.programs.clone() {
            let started = match self.server.engine {
                Engine::Mysql => self.mysql(&program, query, until)?,
                Engine::Postgres => self.psql(&program, query),
            };
            match { started }.spawn() {
                Ok(child) => {
                    // When memory is short the daemon is the last to be ended; its client is not.
                    let score = format!("/proc/{}/oom_score_adj", child.id());
                    let _it_ended_already = std::fs::write(score, "0");
                    return Ok(child);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{} can not be run: {error}", program.display())),
            }
        }
        let names: Vec<_> = self.programs.iter().map(|p| p.display().to_string()).collect();
        Err(format!(
            "there is no program {}: install the client of the database",
            names.join(" or ")
        ))
    }

    /// The client waits no longer than this for a connection.
    fn patience(&self) -> u64 {
        self.timeout.as_secs().max(1)
    }

    fn command(&self, program: &PathBuf) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let port = self.server.port.map(|port| port.to_string());
        let given = [("--host", self.server.host.as_ref()), ("--port", port.as_ref())];
        for (key, value) in given {
            command.args(value.map(|value| format!("{key}={value}")));
        }
        command
    }

    fn mysql(&mut self, program: &PathBuf, query: &str, until: Instant) -> Result<Command, String> {
        let seconds = self.patience();
        let mut command = self.command(program);
        command.args(["--batch", "--quick", "--default-character-set=utf8mb4"]);
        command.arg(format!("--connect-timeout={seconds}"));
        let server = &self.server;
        command.args(server.socket.iter().map(|path| format!("--socket={}", path.display())));
        command.args(server.user.iter().map(|user| format!("--user={user}")));
        if let Some(ca) = server.tls_ca.clone() {
            command.arg(format!("--ssl-ca={}", ca.display()));
            let verify = if self.is_of_mariadb(program, until)? {
                "--ssl-verify-server-cert"
            } else {
                "--ssl-mode=VERIFY_IDENTITY"
            };
            command.arg(verify);
        }
        command.arg(format!("--database={}", self.server.database));
        // In comments: what only some versions know.
        command.arg(format!(
            "--execute=START TRANSACTION /*!50605 READ ONLY */; \
             /*M!100101 SET STATEMENT max_statement_time={seconds} FOR */ {query}"
        ));
        command.envs(self.server.password.iter().map(|p| ("MYSQL_PWD", p.expose())));
        Ok(command)
    }

    /// The options for encryption differ.
    fn is_of_mariadb(&mut self, program: &PathBuf, until: Instant) -> Result<bool, String> {
        if let Some(known) = self.of_mariadb {
            return Ok(known);
        }
        let mut command = Command::new(program);
        command.arg("--version").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let known = match command.spawn() {
            Ok(child) => self.output(child, until)?.contains("MariaDB"),
            // The query will tell.
            Err(_) => return Ok(true),
        };
        self.of_mariadb = Some(known);
        Ok(known)
    }

    fn psql(&self, program: &PathBuf, query: &str) -> Command {
        let seconds = self.patience();
        let mut command = self.command(program);
        command.args(["--no-psqlrc", "--quiet", "--csv", "--no-password"]);
        let server = &self.server;
        command.args(server.socket.iter().map(|path| format!("--host={}", path.display())));
        command.args(server.user.iter().map(|user| format!("--username={user}")));
        command.arg(format!("--dbname={}", server.database));
        command.args(["--command", query]);
        command.env("PGCONNECT_TIMEOUT", seconds.max(2).to_string());
        command.env("PGCLIENTENCODING", "UTF8");
        command.env("PGTZ", "UTC");
        command.env(
            "PGOPTIONS",
            format!("-c default_transaction_read_only=on -c statement_timeout={}", seconds * 1000),
        );
        command.envs(server.password.iter().map(|p| ("PGPASSWORD", p.expose())));
        if let Some(ca) = &server.tls_ca {
            command.env("PGSSLMODE", "verify-full").env("PGSSLROOTCERT", ca);
        }
        command
    }

    /// What a program prints, all of it, if it ends well and in time.
    fn output(&self, mut child: Child, until: Instant) -> Result<String, String> {
        let out = read(child.stdout.take());
        let err = read(child.stderr.take());
        let left = || until.saturating_duration_since(Instant::now());
        // Both are closed when it ends, and not before.
        let said = out.recv_timeout(left()).ok().zip(err.recv_timeout(left()).ok());
        let Some((out, err)) = said else {
            end(&mut child);
            return Err(format!("no answer within {}", humane_duration(self.timeout)));
        };
        if out.len() as u64 > limits::CALL_ANSWER_BYTES_MAX {
            end(&mut child);
            let most = limits::CALL_ANSWER_BYTES_MAX >> 20;
            return Err(format!("an answer of more than {most} MiB; let the query give less"));
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(reason(&err).to_owned());
        }
        Ok(out)
    }
}

/// What went wrong, of what a client says: before it come warnings, and `mysql` repeats the query.
fn reason(said: &str) -> &str {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find(|l| l.starts_with("ERROR") || l.contains(" error: "));
    error.or_else(|| lines().next()).unwrap_or("no reason given")
}

fn end(child: &mut Child) {
    let _it_ended_by_itself = child.kill();
    let _nothing_is_left = child.wait();
}

/// Reads to the end on a thread of its own, and one byte more than there may be.
fn read(from: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (tell, told) = mpsc::channel();
    let work = move || {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            let _what_came = from.take(limits::CALL_ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes);
        }
        let _nobody_waits = tell.send(String::from_utf8_lossy(&bytes).into_owned());
    };
    // Without a thread nothing comes, which ends as a timeout.
    let _no_thread = std::thread::Builder::new().name("spoolfs-cdr-read".to_owned()).spawn(work);
    told
}

/// A field as `mysql --batch` writes it.
fn unescape(text: &str) -> String {
    if text == "NULL" {
        return String::new();
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('0') | None => {}
            Some(other) => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(dir: &std::path::Path, engine: Engine, script: &str, timeout: u64) -> Client {
        let program = dir.join("client");
        // Written by another process: a program that is open for writing can not be run, and any
        // thread may be about to fork with a copy of our descriptor.
        let text = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
        let write = Command::new("sh").args(["-c", text, "sh", script]).arg(&program).status();
        assert!(write.expect("sh").success());
        let server = Server {
            engine,
            host: Some("db".into()),
            port: Some(7),
            socket: None,
            user: Some("u".into()),
            password: Some(Secret::new("hunter2")),
            database: "asterisk".into(),
            tls_ca: None,
        };
        Client::by(&server, Duration::from_millis(timeout), program)
    }

    fn ask(client: &mut Client) -> Result<Table, String> {
        let until = client.until();
        client.rows("SELECT", until)
    }

    #[test]
    fn the_password_is_in_the_environment_of_the_client_and_on_no_command_line() {
        let dir = tempfile::tempdir().expect("tempdir");
        for (engine, variable) in [(Engine::Mysql, "MYSQL_PWD"), (Engine::Postgres, "PGPASSWORD")] {
            let file = dir.path().join("arguments");
            let script = format!("echo \"$@\" > {}; echo ${variable}", file.display());
            let mut client = client(dir.path(), engine, &script, 60_000);
            assert_eq!(ask(&mut client), Ok((vec!["hunter2".to_owned()], vec![])));
            let arguments = std::fs::read_to_string(&file).expect("arguments");
            assert!(arguments.contains("--host=db --port=7"), "{arguments}");
            assert!(!arguments.contains("hunter2"), "{arguments}");
            assert!(!format!("{:?}{}", client.server, client.place()).contains("hunter2"));
        }
    }

    #[test]
    fn a_client_that_fails_hangs_says_too_much_or_is_missing_is_told() {
        let dir = tempfile::tempdir().expect("tempdir");
        let said = |script: &str, timeout| {
            ask(&mut client(dir.path(), Engine::Postgres, script, timeout)).expect_err("it fails")
        };
        let failing = "printf 'WARNING: x\\n----\\nSELECT\\nERROR 1 (2): no host\\n' >&2; exit 2";
        assert_eq!(said(failing, 60_000), "ERROR 1 (2): no host");
        assert_eq!(said("echo gone >&2; exit 2", 60_000), "gone");
        assert_eq!(said("exec sleep 1000", 300), "no answer within 300 milliseconds");
        assert_eq!(said("echo '\"a'", 60_000), "its client gave half an answer");
        let much = said("exec yes", 300_000);
        assert_eq!(much, "an answer of more than 64 MiB; let the query give less");
        let mut missing = client(dir.path(), Engine::Mysql, "", 60_000);
        missing.programs = vec![dir.path().join("nowhere"), "/nor/here".into()];
        let said = ask(&mut missing).expect_err("there is none");
        assert!(said.ends_with("or /nor/here: install the client of the database"), "{said}");
    }

    #[test]
    fn fields_of_mysql_are_read() {
        for (text, want) in
            [("a\\tb\\nc\\\\", "a\tb\nc\\"), ("NULL", ""), ("\\0x", "x"), ("", ""), ("ü\\", "ü")]
        {
            assert_eq!(unescape(text), want, "{text}");
        }
    }
}
