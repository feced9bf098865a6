//! Call records of real database servers: MariaDB with FreePBX's and VICIdial's tables, PostgreSQL with
//! Asterisk's. What they tell, how they are asked, and what becomes of it when they fail.

mod support;

use spoolfs::calls::{
    self, Calls, Columns, Field, Filter, Options, Page, Recording, Recordings, Server, Source,
    Wanted,
};
use spoolfs::clock::{SystemClock, Timestamp};
use spoolfs::recording::{NodeId, State};
use spoolfs::units::Secret;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::databases::{Database, Engine};
use support::{fixture, fixtures};

/// A machine may be slow, and a source that failed is asked more seldom.
const PATIENCE: Duration = Duration::from_secs(180);
const DAY: Duration = Duration::from_secs(86_400);

/// Recordings that have these names.
struct Names(Vec<PathBuf>);

impl Recordings for Names {
    fn after(&self, cursor: u64, limit: usize) -> Result<Page, String> {
        let of = |(number, path): (usize, &PathBuf)| Recording {
            node: NodeId(number as u64 + 1),
            path: path.as_os_str().as_bytes().to_vec(),
            at: Timestamp::from_parts(1_795_228_040, 0),
        };
        let names = self.0.iter().enumerate().skip(cursor as usize).take(limit);
        let recordings: Vec<_> = names.map(of).collect();
        let cursor = cursor + recordings.len() as u64;
        Ok(Page { recordings, cursor, more: cursor < self.0.len() as u64 })
    }

    fn standing(&self, node: NodeId) -> Result<Option<(State, PathBuf)>, String> {
        Ok(Some((State::Closed, self.0[node.0 as usize - 1].clone())))
    }
}

fn options(state: &Path, source: Source) -> Options {
    Options {
        state_dir: state.to_owned(),
        clock: Arc::new(SystemClock),
        source,
        zone: calls::Zone::utc(),
        names: calls::Pattern::usual(),
        every: Duration::from_secs(3600),
        timeout: Duration::from_secs(60),
        quiet: DAY * 100_000,
        bytes_max: 1 << 30,
        same_account: true,
    }
}

fn start(options: Options) -> Arc<Calls> {
    Calls::start(options, Arc::new(Names(fixtures("monitor")))).expect("start")
}

#[track_caller]
fn refreshed(calls: &Calls) {
    assert!(calls.refresh(PATIENCE), "{:?}", calls.status());
}

/// A server as its user reaches it, through the loopback interface.
fn server(database: &Database, name: &str) -> Server {
    Server {
        engine: match database.engine {
            Engine::Mariadb => calls::Engine::Mysql,
            Engine::Postgres => calls::Engine::Postgres,
        },
        host: Some("127.0.0.1".into()),
        port: Some(database.port),
        socket: None,
        user: Some(Database::USER.into()),
        password: Some(Secret::new(Database::PASSWORD)),
        database: name.into(),
        tls_ca: None,
    }
}

fn of(server: Server, records: Wanted) -> Source {
    Source::Server { server, records, events: None }
}

fn cdr() -> Wanted {
    Wanted::Records("cdr".into())
}

/// What is known of all calls: names, legs, records, times.
fn all(calls: &Calls) -> Vec<String> {
    let listed = calls.list(0, 0, 1000).expect("list");
    let mut all: Vec<String> = listed
        .iter()
        .map(|one| {
            let call = calls.legs(&one.linkedid).expect("legs").expect("a call");
            let legs: Vec<_> = call.legs.iter().map(|leg| &leg.path).collect();
            let record = |r: &calls::CallRecord| {
                format!(
                    "{} {} {:?} {} {} {:?} {} {} {} {} {} {:?}",
                    r.uniqueid,
                    r.linkedid,
                    r.sequence,
                    r.start.0,
                    r.end.0,
                    (&r.src, &r.dst, &r.clid, &r.did),
                    r.channel,
                    r.dstchannel,
                    r.accountcode,
                    r.recordingfile,
                    r.billsec,
                    r.answered
                )
            };
            let records: Vec<_> = call.records.iter().map(record).collect();
            format!("{} {legs:#?} {records:#?}", call.linkedid)
        })
        .collect();
    all.sort();
    all
}

/// The same calls from a file; FreePBX keeps no time of end.
fn custom(engine: Engine) -> Source {
    let columns = "start clid src dst dcontext channel dstchannel lastapp lastdata duration billsec \
        disposition amaflags accountcode uniqueid userfield did recordingfile - - linkedid - sequence \
        start answer";
    let columns = format!("{columns} {}", if engine == Engine::Mariadb { "-" } else { "end" });
    let columns = columns.split(' ').map(|name| Field::of(name).expect(name)).collect();
    Source::Csv {
        path: fixture("cdr/custom-Master.csv"),
        columns: Columns::Custom(columns),
        cel: None,
    }
}

/// A row of a call that began then, as Asterisk would add it.
fn row(engine: Engine, table: &str, start: &str, id: &str) -> String {
    let time = if engine == Engine::Mariadb { "calldate" } else { "start" };
    format!(
        "INSERT INTO {table}({time}, clid, src, dst, duration, billsec, disposition, uniqueid, linkedid,
            channel) VALUES('{start}', 'a\nb\t\"c\", ''d\\\\', '555', '100', 9, 8, 'ANSWERED', '{id}',
            '{id}', 'SIP/x');"
    )
}

#[test]
fn a_server_tells_of_calls_as_asterisk_s_own_files_do() {
    for engine in Engine::ALL {
        let test = "a_server_tells_of_calls_as_asterisk_s_own_files_do";
        let Some(database) = Database::start(test, engine) else { continue };
        database.create_with_fixtures("pbx");
        let (files, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let by_files = start(options(files.path(), custom(engine)));
        refreshed(&by_files);
        let source = Source::Server {
            server: server(&database, "pbx"),
            records: cdr(),
            events: Some(Wanted::Events("cel".into())),
        };
        let calls = start(options(place.path(), source.clone()));
        refreshed(&calls);
        assert!(all(&calls) == all(&by_files), "{engine:?}: {:#?}", all(&calls));
        assert_eq!(all(&calls).len(), 4);
        let rows = |calls: &Calls| calls.status().feeds.iter().map(|f| f.rows).collect::<Vec<_>>();
        assert_eq!(rows(&calls), [0, 20]);

        // A call that is still going on says so by its events, and that it is over.
        let complete = |id: &str| calls.legs(id).unwrap().unwrap().complete;
        assert!(!complete("1795228029.1"), "only after a quiet time, which is long");
        let ids = ["1795228029.0", "1795228029.1", "1795228029.4", "1795228029.6"];
        let event = |kind: &str, id: &str| {
            format!(
                "INSERT INTO cel(eventtype, eventtime, uniqueid, linkedid, appname, appdata, extra)
                 VALUES('{kind}', '2026-11-21 02:27:15', '{id}', '{id}', '', '', '');"
            )
        };
        database.run("pbx", &ids.map(|id| event("CHAN_START", id)).concat());
        refreshed(&calls);
        assert!(!complete("1795228029.1"));
        database.run("pbx", &event("LINKEDID_END", "1795228029.1"));
        refreshed(&calls);
        assert!(complete("1795228029.1") && !complete("1795228029.0"));

        // Longer calls end, and their records come, after shorter ones that began later.
        database.run("pbx", &row(engine, "cdr", "2026-11-21 01:47:00", "1795225620.99"));
        refreshed(&calls);
        let late = calls.legs("1795225620.99").unwrap().expect("the late one");
        assert_eq!(late.records[0].clid.as_bytes()[..6], *b"a\nb\t\"c");
        assert_eq!(late.records[0].src, "555");
        assert_eq!(rows(&calls), [5, 21], "what was taken is not taken again");
        // What a wrong clock wrote keeps nothing back that comes after it.
        database.run("pbx", &row(engine, "cdr", "2099-01-01 00:00:00", "4070908800.1"));
        refreshed(&calls);
        database.run("pbx", &row(engine, "cdr", "2026-11-21 02:47:00", "1795229220.1"));
        refreshed(&calls);
        assert!(calls.legs("1795229220.1").unwrap().is_some());
        assert!(calls.legs("4070908800.1").unwrap().is_none());

        let before = all(&calls);
        drop(calls);
        let calls = start(options(place.path(), source));
        assert_eq!(all(&calls), before, "at once");
        refreshed(&calls);
        assert_eq!((all(&calls), rows(&calls)[1]), (before, 0), "a start goes on where it was");
    }
}

/// VICIdial's tables, as far as they are asked for; the archive has the same columns.
const VICIDIAL: &str = "CREATE TABLE recording_log (
        recording_id int unsigned AUTO_INCREMENT PRIMARY KEY, channel varchar(100),
        server_ip varchar(15), extension varchar(100), start_time datetime, start_epoch int unsigned,
        end_time datetime, end_epoch int unsigned, length_in_sec mediumint unsigned,
        length_in_min double(8,2), filename varchar(100), location varchar(255), lead_id int unsigned,
        user varchar(20), vicidial_id varchar(20), KEY (filename), KEY (lead_id), KEY (user),
        KEY (vicidial_id));
    CREATE TABLE vicidial_log (
        uniqueid varchar(20) PRIMARY KEY NOT NULL, lead_id int unsigned NOT NULL,
        list_id bigint unsigned, campaign_id varchar(8), call_date datetime, start_epoch int unsigned,
        end_epoch int unsigned, length_in_sec int, status varchar(6), phone_code varchar(10),
        phone_number varchar(18), user varchar(20), KEY (lead_id), KEY (call_date));
    CREATE TABLE vicidial_closer_log (
        closecallid int unsigned AUTO_INCREMENT PRIMARY KEY NOT NULL, lead_id int unsigned NOT NULL,
        list_id bigint unsigned, campaign_id varchar(20), call_date datetime, length_in_sec int,
        status varchar(6), phone_number varchar(18), user varchar(20), uniqueid varchar(20) NOT NULL
        DEFAULT '', xfercallid int unsigned, KEY (lead_id), KEY (call_date));
    CREATE TABLE recording_log_archive LIKE recording_log;
    CREATE TABLE vicidial_log_archive LIKE vicidial_log;
    CREATE TABLE vicidial_closer_log_archive LIKE vicidial_closer_log;";

#[test]
fn recordings_of_vicidial_are_found_by_campaign_agent_and_phone() {
    let test = "recordings_of_vicidial_are_found_by_campaign_agent_and_phone";
    let Some(database) = Database::start(test, Engine::Mariadb) else { return };
    database.create("asterisk", VICIDIAL);
    let log = |table: &str, id: u32, time: &str, name: &str, lead: u32, user: &str, call: &str| {
        let seconds = if name.is_empty() { "NULL, NULL" } else { "'2026-11-21 10:05:00', 60" };
        format!(
            "INSERT INTO {table}(recording_id, start_time, end_time, length_in_sec, filename, lead_id,
                user, vicidial_id) VALUES({id}, '2026-11-21 {time}', {seconds}, '{name}', {lead},
                '{user}', '{call}');"
        )
    };
    let rows = [
        // An outbound call, and the same customer passed on to a closer ten seconds later.
        "INSERT INTO vicidial_log(uniqueid, lead_id, list_id, campaign_id, phone_number)
            VALUES('1795255200.7', 900, 101, 'SALES', '3125551212');"
            .to_owned(),
        log(
            "recording_log",
            12,
            "10:00:00",
            "20261121-100000_3125551212",
            900,
            "6666",
            "1795255200.7",
        ),
        "INSERT INTO vicidial_closer_log(closecallid, lead_id, list_id, campaign_id, phone_number,
            uniqueid) VALUES(77, 900, 101, 'CLOSERS', '3125551212', '1795255200.7');"
            .to_owned(),
        log("recording_log", 13, "10:05:10", "20261121-100510_3125551212", 900, "7777", "77"),
        // Of a year ago, in the archive; and a gateway's, which has no call.
        "INSERT INTO vicidial_log_archive(uniqueid, lead_id, list_id, campaign_id, phone_number)
            VALUES('1763719200.1', 5, 9, 'OLD', '4165550000');"
            .to_owned(),
        log("recording_log_archive", 2, "09:00:00", "archived_one", 5, "1111", "1763719200.1"),
        log("recording_log", 14, "11:00:00", "gateway_one", 0, "", "G123"),
    ];
    database.run("asterisk", &rows.concat());
    let names = [
        "MP3/20261121-100000_3125551212-all.mp3",
        "20261121-100510_3125551212-all.wav",
        "ORIG/archived_one-in.wav",
        "gateway_one.wav",
    ];
    let names = Names(names.map(PathBuf::from).to_vec());
    let place = tempfile::tempdir().unwrap();
    let source = of(server(&database, "asterisk"), Wanted::Vicidial);
    let calls = Calls::start(options(place.path(), source), Arc::new(names)).expect("start");
    refreshed(&calls);
    assert_eq!((calls.status().feeds[0].rows, calls.status().feeds[0].bad), (4, 0));
    let find = |filter: Filter| {
        let mut found = Vec::new();
        let each = &mut |one: calls::Found| {
            found.push(one.path.display().to_string());
            true
        };
        calls.find(&filter, each).expect("find");
        found.sort();
        found
    };
    let campaign =
        |name: &str| find(Filter { campaign: Some(name.to_owned()), ..Filter::default() });
    let sales = "MP3/20261121-100000_3125551212-all.mp3";
    let closers = "20261121-100510_3125551212-all.wav";
    assert_eq!(campaign("SALES"), [sales]);
    assert_eq!(campaign("CLOSERS"), [closers]);
    assert_eq!(campaign("OLD"), ["ORIG/archived_one-in.wav"]);
    assert_eq!(find(Filter { agent: Some("7777".into()), ..Filter::default() }), [closers]);
    let number = Filter { number: Some("5551212".into()), ..Filter::default() };
    assert_eq!(find(number), [closers, sales]);
    let facts = calls.facts_of(Path::new(sales)).unwrap().expect("facts").record;
    assert_eq!((facts.list.as_str(), facts.lead.as_str()), ("101", "900"));
    let call = calls.legs("1795255200.7").unwrap().expect("a call");
    let legs: Vec<_> = call.legs.iter().map(|l| l.path.to_str().unwrap()).collect();
    assert_eq!(legs, [sales, closers], "both legs of one customer");

    // A recording is entered when it begins and completed when it ends: it stays one record.
    database.run("asterisk", &log("recording_log", 15, "12:00:00", "", 901, "6666", ""));
    refreshed(&calls);
    let done = "UPDATE recording_log SET end_time = '2026-11-21 12:01:00', length_in_sec = 60,
        filename = 'later', vicidial_id = '1795262400.2' WHERE recording_id = 15;
        INSERT INTO vicidial_log(uniqueid, lead_id, campaign_id) VALUES('1795262400.2', 901, 'NEW');";
    database.run("asterisk", done);
    refreshed(&calls);
    let call = calls.legs("1795262400.2").unwrap().expect("a call");
    assert_eq!(call.records.len(), 1, "{:?}", call.records);
    assert_eq!((call.records[0].billsec, call.records[0].campaign.as_str()), (60, "NEW"));

    // An old installation has no archive.
    database.run("asterisk", "DROP TABLE recording_log_archive, vicidial_log_archive");
    let place = tempfile::tempdir().unwrap();
    let source = of(server(&database, "asterisk"), Wanted::Vicidial);
    let calls = start(options(place.path(), source));
    refreshed(&calls);
    let status = calls.status();
    assert_eq!((status.feeds[0].rows, &status.feeds[0].error), (4, &None));
}

/// What a source says, and that it says no password.
fn trouble(source: Source) -> String {
    let place = tempfile::tempdir().unwrap();
    let said = format!("{source:?}");
    let calls = start(options(place.path(), source));
    refreshed(&calls);
    let status = calls.status();
    assert!(!format!("{said}{status:?}").contains("hunter"), "{said}{status:?}");
    status.feeds[0].error.clone().unwrap_or_default()
}

#[test]
fn a_server_is_asked_over_tls_by_who_may_and_writes_nothing() {
    for engine in Engine::ALL {
        let test = "a_server_is_asked_over_tls_by_who_may_and_writes_nothing";
        let Some(database) = Database::start(test, engine) else { continue };
        database.create_with_fixtures("pbx");
        let server = server(&database, "pbx");
        let with_ca =
            |name: &str| Server { tls_ca: Some(database.certificate(name)), ..server.clone() };
        // A server that wants it.
        match engine {
            Engine::Mariadb => {
                let user = Database::USER;
                database.run("pbx", &format!("ALTER USER {user}@'127.0.0.1' REQUIRE SSL"))
            }
            Engine::Postgres => String::new(),
        };
        let encrypted = match engine {
            Engine::Mariadb => {
                "SELECT 1 AS position, '2026-11-21 02:27:09' AS calldate, VARIABLE_VALUE AS src
                 FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'"
            }
            Engine::Postgres => {
                "SELECT 1 AS position, '2026-11-21 02:27:09' AS calldate, cipher AS src
                 FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl"
            }
        };
        let place = tempfile::tempdir().unwrap();
        let source = of(with_ca("server"), Wanted::Query(encrypted.into()));
        let calls = start(options(place.path(), source));
        refreshed(&calls);
        let status = calls.status();
        assert_eq!(status.feeds[0].error, None, "{engine:?}");
        let mut ciphers = Vec::new();
        let each = &mut |call: calls::Call| {
            ciphers.extend(call.records.into_iter().map(|r| r.src));
            true
        };
        calls.find_calls(&Filter::default(), each).unwrap();
        assert!(ciphers.iter().any(|c| c.contains("AES") || c.contains("CHACHA")), "{ciphers:?}");

        let said = trouble(of(with_ca("other"), cdr()));
        assert!(said.to_lowercase().contains("certificate"), "{said}");
        // The certificate is for 127.0.0.1.
        let said =
            trouble(of(Server { host: Some("127.0.0.2".into()), ..with_ca("server") }, cdr()));
        assert!(!said.is_empty());
        let wrong = Server { password: Some(Secret::new("hunter-0000")), ..with_ca("server") };
        let said = trouble(of(wrong, cdr()));
        let want = if engine == Engine::Mariadb {
            "Access denied"
        } else {
            "password authentication failed"
        };
        assert!(said.contains(want), "{said}");
        let said = trouble(of(with_ca("server"), Wanted::Records("nowhere".into())));
        assert!(said.ends_with("there is no table \"nowhere\" that it may read"), "{said}");

        // A user who might write does not.
        let (tables, query) = match engine {
            Engine::Mariadb => (
                format!(
                    "CREATE TABLE written(a int); GRANT ALL ON pbx.* TO {}@'127.0.0.1';\n\
                     DELIMITER //\n\
                     CREATE FUNCTION writes() RETURNS int MODIFIES SQL DATA \
                     BEGIN INSERT INTO written VALUES(1); RETURN 1; END //\n",
                    Database::USER
                ),
                "SELECT writes() AS position, NOW() AS calldate",
            ),
            Engine::Postgres => (
                format!("CREATE SEQUENCE written; GRANT ALL ON written TO {}", Database::USER),
                "SELECT nextval('written') AS position, now() AS calldate",
            ),
        };
        database.run("pbx", &tables);
        let said = trouble(of(with_ca("server"), Wanted::Query(query.into())));
        assert!(said.to_lowercase().replace('-', " ").contains("read only"), "{engine:?}: {said}");
        if engine == Engine::Mariadb {
            assert_eq!(database.run("pbx", "SELECT count(*) FROM written"), "0");
        }
    }
}

/// Passes a connection on until the server has said so many bytes, and then says no more.
struct Line {
    port: u16,
    /// Bytes that the server may still say; negative: as many as it likes.
    left: Arc<AtomicI64>,
    /// Connections that were cut.
    cut: Arc<AtomicUsize>,
}

impl Line {
    fn to(port: u16) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = listener.local_addr().expect("an address").port();
        let (left, cut) = (Arc::new(AtomicI64::new(-1)), Arc::new(AtomicUsize::new(0)));
        let line = Line { port: own, left: left.clone(), cut: cut.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (left, cut) = (left.clone(), cut.clone());
                std::thread::spawn(move || pass(client, port, &left, &cut));
            }
        });
        line
    }
}

fn pass(mut client: TcpStream, port: u16, left: &AtomicI64, cut: &AtomicUsize) -> Option<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let (mut asks, mut asked) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || std::io::copy(&mut asks, &mut asked));
    let mut buffer = [0; 1024];
    loop {
        let read = server.read(&mut buffer).ok().filter(|n| *n > 0)?;
        if left.load(Ordering::SeqCst) >= 0
            && left.fetch_sub(read as i64, Ordering::SeqCst) < read as i64
        {
            left.store(0, Ordering::SeqCst);
            cut.fetch_add(1, Ordering::SeqCst);
            let _gone = client.shutdown(std::net::Shutdown::Both);
            let _gone = server.shutdown(std::net::Shutdown::Both);
            return None;
        }
        client.write_all(&buffer[..read]).ok()?;
    }
}

#[test]
fn a_server_that_dies_in_the_middle_is_read_on_from_where_it_was() {
    const ROWS: u64 = 7000;
    for engine in Engine::ALL {
        let test = "a_server_that_dies_in_the_middle_is_read_on_from_where_it_was";
        let Some(mut database) = Database::start(test, engine) else { continue };
        database.create_with_fixtures("pbx");
        let time = if engine == Engine::Mariadb { "calldate" } else { "start" };
        let (from, began) = match engine {
            Engine::Mariadb => {
                (format!("seq_1_to_{ROWS}"), "'2026-11-01 00:00:00' + INTERVAL (seq DIV 2) SECOND")
            }
            Engine::Postgres => (
                format!("generate_series(1, {ROWS}) AS s(seq)"),
                "TIMESTAMP '2026-11-01' + (seq / 2) * INTERVAL '1 second'",
            ),
        };
        database.run(
            "pbx",
            &format!(
                "INSERT INTO cdr({time}, uniqueid, linkedid, src, billsec, disposition)
                 SELECT {began}, concat('17000.', seq), concat('17000.', seq), '555', 3, 'ANSWERED'
                 FROM {from}"
            ),
        );
        let line = Line::to(database.port);
        let through = Server { port: Some(line.port), ..server(&database, "pbx") };
        let place = tempfile::tempdir().unwrap();
        let mut options = options(place.path(), of(through, cdr()));
        options.every = Duration::from_millis(50);
        // The first look comes through, and some of the second.
        line.left.store(400_000, Ordering::SeqCst);
        let calls = start(options);
        let until = Instant::now() + PATIENCE;
        let status = || calls.status().feeds[0].clone();
        while status().error.is_none() {
            assert!(Instant::now() < until, "{:?}", status());
            std::thread::sleep(Duration::from_millis(10));
        }
        let had = status();
        assert!(had.rows >= 2000 && had.rows < ROWS, "{had:?}");
        assert!(line.cut.load(Ordering::SeqCst) > 0);
        assert!(calls.legs("17000.1").unwrap().is_some(), "what was read is known");
        line.left.store(-1, Ordering::SeqCst);
        let whole = |calls: &Calls| {
            let until = Instant::now() + PATIENCE;
            while calls.status().feeds[0].error.is_some() || !calls.status().feeds[0].caught_up {
                assert!(Instant::now() < until, "{:?}", calls.status());
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        whole(&calls);
        assert_eq!(status().rows, ROWS + 20, "none was missed, none counted twice");

        // The server itself is killed, and comes back.
        database.kill();
        let until = Instant::now() + PATIENCE;
        while status().error.is_none() {
            assert!(Instant::now() < until, "{:?}", status());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(calls.legs("17000.7000").unwrap().is_some());
        database.launch();
        database.run("pbx", &row(engine, "cdr", "2026-11-21 02:30:00", "1795228200.5"));
        let until = Instant::now() + PATIENCE;
        while calls.legs("1795228200.5").unwrap().is_none() {
            assert!(Instant::now() < until, "{:?}", status());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(status().rows, ROWS + 21);
    }
}
