//! Real database servers for tests: MariaDB and PostgreSQL, on sockets and ports of their own.

use super::seaweedfs::free_ports;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for the first answered query.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Whom PostgreSQL runs as, because it will not run as root: nobody.
const NOBODY: u32 = 65_534;
/// What FreePBX and Asterisk write call records to, as their own scripts make it.
const FREEPBX: &str = "CREATE TABLE cdr (
        calldate datetime NOT NULL, clid varchar(80) NOT NULL DEFAULT '',
        src varchar(80) NOT NULL DEFAULT '', dst varchar(80) NOT NULL DEFAULT '',
        dcontext varchar(80) NOT NULL DEFAULT '', channel varchar(80) NOT NULL DEFAULT '',
        dstchannel varchar(80) NOT NULL DEFAULT '', lastapp varchar(80) NOT NULL DEFAULT '',
        lastdata varchar(80) NOT NULL DEFAULT '', duration int NOT NULL DEFAULT 0,
        billsec int NOT NULL DEFAULT 0, disposition varchar(45) NOT NULL DEFAULT '',
        amaflags varchar(20) NOT NULL DEFAULT '', accountcode varchar(20) NOT NULL DEFAULT '',
        uniqueid varchar(32) NOT NULL DEFAULT '', userfield varchar(255) NOT NULL DEFAULT '',
        did varchar(50) NOT NULL DEFAULT '', recordingfile varchar(255) NOT NULL DEFAULT '',
        cnum varchar(80) NOT NULL DEFAULT '', cnam varchar(80) NOT NULL DEFAULT '',
        outbound_cnum varchar(80) NOT NULL DEFAULT '', outbound_cnam varchar(80) NOT NULL DEFAULT '',
        dst_cnam varchar(80) NOT NULL DEFAULT '', linkedid varchar(32) NOT NULL DEFAULT '',
        peeraccount varchar(80) NOT NULL DEFAULT '', sequence int NOT NULL DEFAULT 0,
        KEY calldate (calldate), KEY dst (dst), KEY accountcode (accountcode),
        KEY uniqueid (uniqueid), KEY did (did), KEY recordingfile (recordingfile));
    CREATE TABLE cel (
        id int NOT NULL AUTO_INCREMENT, eventtype varchar(30) NOT NULL, eventtime datetime NOT NULL,
        cid_name varchar(80) NOT NULL DEFAULT '', cid_num varchar(80) NOT NULL DEFAULT '',
        cid_ani varchar(80) NOT NULL DEFAULT '', cid_rdnis varchar(80) NOT NULL DEFAULT '',
        cid_dnid varchar(80) NOT NULL DEFAULT '', exten varchar(80) NOT NULL DEFAULT '',
        context varchar(80) NOT NULL DEFAULT '', channame varchar(80) NOT NULL DEFAULT '',
        appname varchar(80) NOT NULL DEFAULT '', appdata varchar(1024) NOT NULL DEFAULT '',
        amaflags int NOT NULL DEFAULT 0, accountcode varchar(20) NOT NULL DEFAULT '',
        uniqueid varchar(32) NOT NULL DEFAULT '', linkedid varchar(32) NOT NULL DEFAULT '',
        peer varchar(80) NOT NULL DEFAULT '', userdeftype varchar(255) NOT NULL DEFAULT '',
        extra varchar(512) NOT NULL DEFAULT '', PRIMARY KEY (id),
        KEY uniqueid_index (uniqueid), KEY linkedid_index (linkedid));";
/// The same as Asterisk's own scripts make it for PostgreSQL, with a column for recordings.
const ALEMBIC: &str = "CREATE TABLE cdr (
        accountcode varchar(80), src varchar(80), dst varchar(80), dcontext varchar(80),
        clid varchar(80), channel varchar(80), dstchannel varchar(80), lastapp varchar(80),
        lastdata varchar(80), start timestamp, answer timestamp, \"end\" timestamp, duration integer,
        billsec integer, disposition varchar(45), amaflags varchar(45), userfield varchar(256),
        uniqueid varchar(150), linkedid varchar(150), peeraccount varchar(80), sequence integer,
        did varchar(50), recordingfile varchar(255));
    CREATE INDEX cdr_start ON cdr(start);
    CREATE TABLE cel (
        id bigserial PRIMARY KEY, eventtype varchar(30), eventtime timestamp, uniqueid varchar(150),
        linkedid varchar(150), appname varchar(80), appdata varchar(512), extra varchar(512));";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Mariadb,
    Postgres,
}

/// A running server; it is killed and its data removed when this is dropped.
pub struct Database {
    pub engine: Engine,
    pub port: u16,
    programs: PathBuf,
    child: Child,
    dir: tempfile::TempDir,
}

impl Database {
    /// The user that spoolfs asks as; it may read, and no more.
    pub const USER: &'static str = "reader";
    pub const PASSWORD: &'static str = "hunter-4711";

    /// A server of its own. `None`, said aloud, if it is not installed.
    pub fn start(test: &str, engine: Engine) -> Option<Database> {
        let Some(programs) = engine.programs() else {
            let reason = format!("needs {}; scripts/test installs it", engine.variable());
            super::skip(test, "databases", &reason);
            return None;
        };
        let dir = tempfile::Builder::new().prefix("database-").tempdir().expect("a directory");
        // Another user must get through to its data.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
        for name in ["server", "other"] {
            certificate(dir.path(), name);
        }
        let [port] = free_ports();
        let idle = Command::new("true").spawn().expect("true");
        let mut database = Database { engine, port, programs, child: idle, dir };
        database.initialise();
        database.launch();
        Some(database)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A certificate that the server's is signed by, or another one.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.pem"))
    }

    fn initialise(&self) {
        let data = self.path("data");
        let mut command = match self.engine {
            Engine::Mariadb => {
                let mut command = Command::new("mariadb-install-db");
                // A server removes what looks like its own in a directory that others use too.
                command.env("TMPDIR", self.dir.path());
                command.args(["--no-defaults", "--auth-root-authentication-method=normal"]);
                command.args(["--skip-test-db", "--innodb-log-file-size=8M"]);
                command.arg(format!("--datadir={}", data.display()));
                if rustix::process::geteuid().is_root() {
                    command.arg("--user=root");
                }
                command
            }
            Engine::Postgres => {
                std::fs::create_dir(&data).expect("mkdir");
                let mut command = self.as_nobody(self.programs.join("initdb"), &data);
                command.args(["--username=root", "--auth=trust", "--no-sync", "--locale=C"]);
                command.args(["--encoding=UTF8", "-D"]).arg(&data);
                command
            }
        };
        said(&mut command);
        if self.engine == Engine::Postgres {
            let key = self.path("server.key");
            if rustix::process::geteuid().is_root() {
                chown(&key, Some(NOBODY), Some(NOBODY)).expect("chown");
            }
            let rules = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
            std::fs::write(data.join("pg_hba.conf"), rules).expect("rules");
        }
    }

    /// A program that will not run as root, with a directory of its own.
    fn as_nobody(&self, program: PathBuf, dir: &Path) -> Command {
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            chown(dir, Some(NOBODY), Some(NOBODY)).expect("chown");
            command.uid(NOBODY).gid(NOBODY);
        }
        command.current_dir(dir);
        command
    }

    /// Starts it, the first time or again.
    pub fn launch(&mut self) {
        let data = self.path("data");
        let log = std::fs::File::options().append(true).create(true).open(self.path("log"));
        let log = log.expect("a log");
        let mut command = match self.engine {
            Engine::Mariadb => {
                let mut command = Command::new(&self.programs);
                command.args([
                    "--no-defaults",
                    "--bind-address=127.0.0.1",
                    "--innodb-fast-shutdown=2",
                ]);
                command.args(["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M"]);
                command.args(["--innodb-flush-log-at-trx-commit=2", "--performance-schema=OFF"]);
                command.env("TMPDIR", self.dir.path());
                command.arg(format!("--datadir={}", data.display()));
                command.arg(format!("--socket={}", self.socket().display()));
                command.arg(format!("--port={}", self.port));
                command.arg(format!("--pid-file={}", self.path("server.pid").display()));
                command.arg(format!("--ssl-cert={}", self.path("server.pem").display()));
                command.arg(format!("--ssl-key={}", self.path("server.key").display()));
                if rustix::process::geteuid().is_root() {
                    command.arg("--user=root");
                }
                command
            }
            Engine::Postgres => {
                let mut command = self.as_nobody(self.programs.join("postgres"), &data);
                command.arg("-D").arg(&data).args(["-p", &self.port.to_string()]);
                command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
                command.args(["-c", "ssl=on", "-c", "max_connections=20"]);
                command.arg(format!("--unix_socket_directories={}", data.display()));
                command.arg(format!("--ssl_cert_file={}", self.path("server.pem").display()));
                command.arg(format!("--ssl_key_file={}", self.path("server.key").display()));
                command
            }
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.child = command.spawn().expect("the server is installed");
        let until = Instant::now() + START_TIMEOUT;
        while !self.client("", "SELECT 1").status.success() {
            let ended = self.child.try_wait().expect("a child").is_some();
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(!ended && Instant::now() < until, "{:?} does not start: {log}", self.engine);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if self.engine == Engine::Postgres {
            // It has children, which would notice only later.
            self.child_signal(rustix::process::Signal::QUIT);
        } else {
            let _already_dead = self.child.kill();
        }
        let _ended = self.child.wait();
    }

    fn child_signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _already_dead = rustix::process::kill_process(pid, signal);
    }

    /// Where its socket is: of PostgreSQL the directory.
    pub fn socket(&self) -> PathBuf {
        match self.engine {
            Engine::Mariadb => self.path("sock"),
            Engine::Postgres => self.path("data"),
        }
    }

    fn client(&self, database: &str, sql: &str) -> Output {
        let mut command = match self.engine {
            Engine::Mariadb => {
                let mut command = Command::new("mariadb");
                command.args(["--no-defaults", "--batch", "--skip-column-names", "--user=root"]);
                command.arg(format!("--socket={}", self.socket().display()));
                command.arg(if database.is_empty() { "mysql" } else { database });
                command
            }
            Engine::Postgres => {
                let mut command = Command::new("psql");
                command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
                command.args(["--set=ON_ERROR_STOP=1", "--username=root"]);
                command.arg(format!("--host={}", self.socket().display()));
                command.arg(format!("--port={}", self.port));
                command.arg(if database.is_empty() { "postgres" } else { database });
                command
            }
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the client is installed");
        let _it_ended = child.stdin.take().expect("piped").write_all(sql.as_bytes());
        child.wait_with_output().expect("the client")
    }

    /// Runs statements in a database; what they print.
    #[track_caller]
    pub fn run(&self, database: &str, sql: &str) -> String {
        let output = self.client(database, sql);
        let beginning: String = sql.chars().take(300).collect();
        assert!(
            output.status.success(),
            "{beginning}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A new database with these tables, which the user may read.
    #[track_caller]
    pub fn create(&self, name: &str, tables: &str) {
        let (user, password) = (Self::USER, Self::PASSWORD);
        self.run("", &format!("CREATE DATABASE {name}"));
        self.run(name, tables);
        match self.engine {
            Engine::Mariadb => self.run(
                "",
                &format!(
                    "CREATE USER IF NOT EXISTS {user}@'127.0.0.1' IDENTIFIED BY '{password}';
                     GRANT SELECT, EXECUTE ON {name}.* TO {user}@'127.0.0.1'"
                ),
            ),
            Engine::Postgres => self.run(
                name,
                &format!(
                    "DO $$ BEGIN CREATE USER {user} PASSWORD '{password}';
                     EXCEPTION WHEN duplicate_object THEN NULL; END $$;
                     GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}"
                ),
            ),
        };
    }

    /// A database with what a PBX writes: FreePBX's tables, or those of Asterisk's own scripts. In it
    /// the fixtures' call records.
    #[track_caller]
    pub fn create_with_fixtures(&self, name: &str) {
        let tables = match self.engine {
            Engine::Mariadb => FREEPBX,
            Engine::Postgres => ALEMBIC,
        };
        self.create(name, tables);
        self.run(name, &fixture_rows(self.engine));
    }

    /// Keys of `[calls]` that read a database of it.
    pub fn toml(&self, name: &str) -> String {
        let kind = self.engine.kind();
        format!(
            "source = \"{kind}\"\nurl = \"{kind}://{}@127.0.0.1:{}/{name}\"\npassword = \"{}\"\n",
            Self::USER,
            self.port,
            Self::PASSWORD
        )
    }
}

impl Engine {
    pub const ALL: [Engine; 2] = [Engine::Mariadb, Engine::Postgres];

    /// Its name in the configuration.
    pub fn kind(self) -> &'static str {
        match self {
            Engine::Mariadb => "mysql",
            Engine::Postgres => "postgres",
        }
    }

    fn variable(self) -> &'static str {
        match self {
            Engine::Mariadb => "SPOOLFS_TEST_MARIADB",
            Engine::Postgres => "SPOOLFS_TEST_POSTGRES",
        }
    }

    /// The server of MariaDB, or the directory of PostgreSQL's programs: as the variable says, or
    /// where Debian has them.
    fn programs(self) -> Option<PathBuf> {
        if let Some(path) = std::env::var_os(self.variable()) {
            return Some(PathBuf::from(path));
        }
        match self {
            Engine::Mariadb => Some(PathBuf::from("/usr/sbin/mariadbd")).filter(|p| p.exists()),
            Engine::Postgres => {
                let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
                let bin = versions.flatten().map(|version| version.path().join("bin"));
                bin.filter(|bin| bin.join("initdb").exists()).max()
            }
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.kill();
    }
}

#[track_caller]
fn said(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes `NAME.pem` and `NAME.key` of a server at 127.0.0.1.
fn certificate(dir: &Path, name: &str) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=127.0.0.1"]);
    command.args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:127.0.0.1"]);
    command.arg("-keyout").arg(dir.join(format!("{name}.key")));
    command.arg("-out").arg(dir.join(format!("{name}.pem")));
    said(&mut command);
}

/// The rows of the fixtures, as statements.
fn fixture_rows(engine: Engine) -> String {
    let both = "clid, src, dst, dcontext, channel, dstchannel, lastapp, lastdata, duration, \
                billsec, disposition, amaflags, accountcode, uniqueid, userfield, did, \
                recordingfile, linkedid, peeraccount, sequence";
    let columns = match engine {
        Engine::Mariadb => format!("calldate, cnum, cnam, {both}"),
        Engine::Postgres => format!("start, answer, \"end\", {both}"),
    };
    let path = super::fixture("cdr/master.db");
    let conn = rusqlite::Connection::open(path).expect("the fixture");
    let mut statement = conn.prepare(&format!("SELECT {columns} FROM cdr")).expect("its columns");
    let count = statement.column_count();
    let mut rows = statement.query([]).expect("its rows");
    let mut sql = String::new();
    while let Some(row) = rows.next().expect("a row") {
        let value = |at| -> String {
            let value: Option<rusqlite::types::Value> = row.get(at).expect("a value");
            match value {
                Some(rusqlite::types::Value::Integer(number)) => number.to_string(),
                Some(rusqlite::types::Value::Text(text)) => {
                    format!("'{}'", text.replace('\'', "''"))
                }
                _ => "NULL".to_owned(),
            }
        };
        let values: Vec<_> = (0..count).map(value).collect();
        sql += &format!("INSERT INTO cdr({columns}) VALUES({});\n", values.join(", "));
    }
    sql
}
