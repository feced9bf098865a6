//! Thirty rules over ten years, with call records as FreePBX and VICIdial write them, read by the code
//! that reads a PBX's. What must go in which hour is told by [`RULES`], from the rows themselves.

use crate::expiry::hold;
use crate::world::World;
use rusqlite::{Connection, params};
use spoolfs::calls::{self, Calls, From, Page, Pattern, Recording, Recordings, Source, Zone};
use spoolfs::clock::{ManualClock, Timestamp};
use spoolfs::config::{Config, Environment, Overrides};
use spoolfs::engine::CallSource;
use spoolfs::policy::{CallFacts, Policy};
use spoolfs::recording::{NodeId, State};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// Rows that come late come on this day.
const LATE: i64 = 1000 * DAY + 17 * 60;
/// One of two holds is lifted on this day.
const LIFTED: i64 = 1500 * DAY + 17 * 60;
const GRACE: i64 = 7 * DAY;

/// A recording and what its PBX wrote of it, as it is in the columns. Times in seconds since the
/// beginning of the test.
#[derive(Clone, Debug, Default)]
struct Row {
    vicidial: bool,
    path: String,
    src: String,
    dst: String,
    context: &'static str,
    account: &'static str,
    did: &'static str,
    disposition: &'static str,
    campaign: &'static str,
    ingroup: &'static str,
    list: &'static str,
    agent: &'static str,
    lead: u32,
    secs: i64,
    end: i64,
    closed: i64,
    uniqueid: String,
}

/// What a time counts from.
#[derive(Clone, Copy, PartialEq)]
enum Base {
    Close,
    End,
    Last,
}
use Base::{Close, End, Last};

/// A rule: what it compares as it is configured, what that means for a row, after how many days it lets
/// expire (0: never), and counted from what.
type Rule = (&'static str, fn(&Row) -> bool, i64, Base);

const RULES: [Rule; 30] = [
    ("path = ['keep/**']", |r| r.path.starts_with("keep/"), 0, Close),
    (
        "path = ['training/*.wav']",
        |r| r.path.rsplit_once('/').is_some_and(|(dir, _)| dir == "training"),
        30,
        Close,
    ),
    (
        "campaign = ['COLL_UK']\nlist = ['9001']",
        |r| r.campaign == "COLL_UK" && r.list == "9001",
        1096,
        Last,
    ),
    ("campaign = ['coll*']", |r| r.campaign.starts_with("COLL"), 2190, Last),
    (
        "campaign = ['SALES']\nduration_max = '10s'",
        |r| r.campaign == "SALES" && r.secs <= 10,
        7,
        Close,
    ),
    (
        "campaign = ['SALES']\nlist = ['9002', '9003']",
        |r| r.campaign == "SALES" && ["9002", "9003"].contains(&r.list),
        60,
        Close,
    ),
    (
        "campaign = ['SALES']\nagent = ['66*']",
        |r| r.campaign == "SALES" && r.agent.starts_with("66"),
        91,
        End,
    ),
    (
        "campaign = ['SALES']\nduration_min = '10m'",
        |r| r.campaign == "SALES" && r.secs >= 600,
        3650,
        Close,
    ),
    ("campaign = ['SALES']", |r| r.campaign == "SALES", 90, Close),
    (
        "ingroup = ['SUPPORT*']\nduration_min = '1m'",
        |r| r.ingroup.starts_with("SUPPORT") && r.secs >= 60,
        365,
        End,
    ),
    ("ingroup = ['SUPPORT?']", |r| r.ingroup == "SUPPORT2", 180, Close),
    ("ingroup = ['{BILL_A,BILL_B}']", |r| r.ingroup.starts_with("BILL_"), 2555, Close),
    ("list = ['777']\nagent = ['1007']", |r| r.list == "777" && r.agent == "1007", 15, Close),
    ("list = ['777']", |r| r.list == "777", 14, Close),
    ("agent = ['1007']\ndirection = ['outbound']", |r| r.agent == "1007" && outbound(r), 21, End),
    ("campaign = ['SURVEY[12]']", |r| ["SURVEY1", "SURVEY2"].contains(&r.campaign), 45, Close),
    ("accountcode = ['vip']", |r| r.account == "vip", 0, Close),
    (
        "accountcode = ['acct?']\ndisposition = ['no answer', 'BUSY']",
        |r| r.account.len() == 5 && r.disposition != "ANSWERED",
        2,
        Close,
    ),
    ("accountcode = ['acct1']", |r| r.account == "acct1", 730, Last),
    ("accountcode = ['acct2']", |r| r.account == "acct2", 731, End),
    ("accountcode = ['acct*']", |r| r.account.starts_with("acct"), 400, Close),
    ("did = ['2079461000']", |r| r.did == "+442079461000", 500, Close),
    ("did = ['2079461001', '2079461002']", |r| r.did.starts_with("+44207946100"), 501, End),
    ("number = ['5551234']", |r| ends(r, "5551234"), 3600, Close),
    ("number = ['911']", |r| r.src == "911" || r.dst == "911", 3651, Close),
    (
        "extension = ['201']\nduration_max = '10s'",
        |r| telephone(r, "201") && r.secs <= 10,
        10,
        Close,
    ),
    ("extension = ['201', '202']", |r| telephone(r, "201") || telephone(r, "202"), 120, Close),
    ("direction = ['internal']", |r| r.did.is_empty() && short(&r.src) && short(&r.dst), 5, Close),
    ("direction = ['outbound']", outbound, 200, Close),
    ("direction = ['inbound']\nduration_min = '2m'", |r| inbound(r) && r.secs >= 120, 77, Close),
];

fn ends(row: &Row, number: &str) -> bool {
    [&row.src, &row.dst].iter().any(|text| text.ends_with(number))
}

fn short(number: &str) -> bool {
    number.len() <= 6
}

/// Each has a channel of its own.
fn telephone(row: &Row, extension: &str) -> bool {
    row.src == extension || row.dst == extension
}

fn inbound(row: &Row) -> bool {
    !row.did.is_empty()
        || !row.ingroup.is_empty()
        || (row.campaign.is_empty() && !short(&row.src) && short(&row.dst))
}

fn outbound(row: &Row) -> bool {
    row.did.is_empty()
        && row.ingroup.is_empty()
        && (!row.campaign.is_empty() || (short(&row.src) && !short(&row.dst)))
}

fn rule_of(row: &Row) -> Option<usize> {
    RULES.iter().position(|(_, fits, ..)| fits(row))
}

/// Rows at random until each rule has so many; besides as many that none fits.
fn rows(vicidial: bool, each: usize) -> Vec<Row> {
    let mut random = fastrand::Rng::with_seed(u64::from(vicidial) + 1);
    let own = |rule: usize| if vicidial { rule < 16 } else { !(2..16).contains(&rule) };
    let mut left: BTreeMap<Option<usize>, usize> = (0..RULES.len())
        .filter(|rule| own(*rule))
        .map(Some)
        .chain([None])
        .map(|rule| (rule, if rule < Some(2) { each / 2 } else { each }))
        .collect();
    let mut rows: Vec<Row> = Vec::new();
    let mut drawn = 0;
    while left.values().any(|n| *n > 0) {
        drawn += 1;
        assert!(drawn < 2_000_000, "what is left is never drawn: {left:?}");
        let row = if vicidial { dialled(&mut random, drawn) } else { rung(&mut random, drawn) };
        if let Some(n) = left.get_mut(&rule_of(&row)).filter(|n| **n > 0) {
            *n -= 1;
            rows.push(row);
        }
    }
    rows
}

fn one<'a>(random: &mut fastrand::Rng, of: &[&'a str]) -> &'a str {
    random.choice(of.iter().copied()).unwrap()
}

/// When it is closed, how long it is, and how long before its close its call was over.
fn timed(random: &mut fastrand::Rng, number: usize, row: Row) -> Row {
    let closed = [0, 5, 26, 41][random.usize(..4)] * HOUR + 17 * 60;
    let end = closed - random.i64(1..=17) * 60;
    let secs = [5, 10, 11, 59, 60, 119, 120, 599, 600, 3000][random.usize(..10)];
    let dir = one(random, &["", "", "", "", "", "keep/", "training/", "training/old/"]);
    let uniqueid = format!("1795228029.{number}");
    let path = match row.vicidial {
        true => format!("{dir}20261121-022709_{}_{number}.wav", row.dst),
        false => format!("{dir}out-{}-{}-20261121-022709-{uniqueid}.wav", row.dst, row.src),
    };
    Row { path, secs, end, closed, uniqueid, ..row }
}

/// A call as FreePBX has it.
fn rung(random: &mut fastrand::Rng, number: usize) -> Row {
    let numbers =
        ["201", "202", "203", "911", "02079460001", "+13125551234", "5551234", "15551235"];
    let (src, dst) = (one(random, &numbers).to_owned(), one(random, &numbers).to_owned());
    let did = one(random, &["", "", "", "+442079461000", "+442079461001", "+442079461002"]);
    let row = Row {
        context: "from-internal",
        account: one(random, &["", "", "vip", "acct1", "acct2", "acct3", "acct30"]),
        disposition: one(random, &["ANSWERED", "ANSWERED", "NO ANSWER", "BUSY"]),
        src,
        dst,
        did,
        ..Row::default()
    };
    timed(random, number, row)
}

/// A call as VICIdial has it: of a campaign, or by a group.
fn dialled(random: &mut fastrand::Rng, number: usize) -> Row {
    let campaigns =
        ["COLL_UK", "COLL", "SALES", "SALES2", "SURVEY1", "SURVEY2", "SURVEY3", "SALES"];
    let groups = ["SUPPORT", "SUPPORT2", "BILL_A", "BILL_B", "BILL", "OTHER"];
    let closer = random.bool();
    let row = Row {
        vicidial: true,
        dst: format!("312555{:04}", random.u32(..10_000)),
        campaign: if closer { "" } else { one(random, &campaigns) },
        ingroup: if closer { one(random, &groups) } else { "" },
        list: one(random, &["9001", "9002", "9003", "777", "998"]),
        agent: one(random, &["6666", "6601", "1007", "1008"]),
        lead: number as u32,
        ..Row::default()
    };
    timed(random, number, row)
}

/// The tables of the PBX, and what is read of them.
struct Pbx {
    db: Connection,
    begin: Timestamp,
}

impl Pbx {
    fn new(path: &Path, begin: Timestamp) -> Pbx {
        let db = Connection::open(path).unwrap();
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
             CREATE TABLE cdr(calldate, clid, src, dst, dcontext, channel, dstchannel, lastapp,
                lastdata, duration, billsec, disposition, amaflags, accountcode, uniqueid, userfield,
                did, recordingfile, cnum, cnam, outbound_cnum, outbound_cnam, dst_cnam, linkedid,
                peeraccount, sequence);
             CREATE TABLE recording_log(recording_id INTEGER PRIMARY KEY, channel, server_ip,
                extension, start_time, start_epoch, end_time, end_epoch, length_in_sec,
                length_in_min, filename, location, lead_id, user, vicidial_id);
             CREATE TABLE vicidial_log(uniqueid PRIMARY KEY, lead_id, list_id, campaign_id,
                call_date, length_in_sec, status, phone_number, user);
             CREATE TABLE vicidial_closer_log(closecallid INTEGER PRIMARY KEY, lead_id, list_id,
                campaign_id, call_date, length_in_sec, status, phone_number, user, uniqueid);",
        )
        .unwrap();
        Pbx { db, begin }
    }

    /// What the preset of VICIdial asks of MySQL, as SQLite has it.
    fn source(path: PathBuf, vicidial: bool) -> Source {
        let query = "SELECT r.recording_id AS position, r.start_time, r.end_time, r.length_in_sec,
                iif(r.length_in_sec > 0, 'ANSWERED', '') AS disposition, r.filename, r.user,
                r.lead_id, r.channel, coalesce(v.campaign_id, '') AS campaign_id,
                coalesce(c.campaign_id, '') AS ingroup,
                coalesce(v.uniqueid, c.uniqueid, '') AS uniqueid,
                coalesce(v.list_id, c.list_id, '') AS list_id,
                coalesce(v.phone_number, c.phone_number, '') AS phone_number
             FROM recording_log r
             LEFT JOIN vicidial_log v ON v.uniqueid = r.vicidial_id AND v.lead_id = r.lead_id
             LEFT JOIN vicidial_closer_log c ON r.vicidial_id NOT LIKE '%.%'
                AND c.closecallid = CAST(r.vicidial_id AS INTEGER)";
        let from = match vicidial {
            true => From::Query(query.to_owned()),
            false => From::Table("cdr".to_owned()),
        };
        Source::Sqlite { path, from, cel: None }
    }

    fn time(&self, secs: i64) -> String {
        spoolfs::control::utc::people(after(self.begin, secs))
    }

    fn write(&self, row: &Row) {
        let name = row.path.rsplit('/').next().unwrap();
        let (start, end) = (self.time(row.end - row.secs), self.time(row.end));
        if !row.vicidial {
            let channel = |number: &str| format!("PJSIP/{number}-0000000a");
            let insert = "INSERT INTO cdr(calldate, clid, src, dst, dcontext, channel, dstchannel,
                    lastapp, duration, billsec, disposition, accountcode, uniqueid, did,
                    recordingfile, cnum, linkedid, sequence)
                VALUES(?1, '', ?2, ?3, ?4, ?5, ?6, 'Dial', ?7, ?7, ?8, ?9, ?10, ?11, ?12, ?2, ?10, 1)";
            let of = params![
                start,
                row.src,
                row.dst,
                row.context,
                channel(&row.src),
                channel(&row.dst),
                row.secs,
                row.disposition,
                row.account,
                row.uniqueid,
                row.did,
                name
            ];
            self.db.execute(insert, of).unwrap();
            return;
        }
        let number = row.uniqueid.rsplit('.').next().unwrap();
        let closer = !row.ingroup.is_empty();
        let table = match closer {
            true => {
                "INSERT INTO vicidial_closer_log(uniqueid, lead_id, list_id, campaign_id, call_date,
                    length_in_sec, status, phone_number, user, closecallid)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, 'XFER', ?7, ?8, ?9)"
            }
            false => {
                "INSERT INTO vicidial_log(uniqueid, lead_id, list_id, campaign_id, call_date,
                    length_in_sec, status, phone_number, user)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6 + ?9 * 0, 'SALE', ?7, ?8)"
            }
        };
        let group = if closer { row.ingroup } else { row.campaign };
        let of = params![
            row.uniqueid,
            row.lead,
            row.list,
            group,
            start,
            row.secs,
            row.dst,
            row.agent,
            number
        ];
        self.db.execute(table, of).unwrap();
        let insert = "INSERT INTO recording_log(channel, start_time, end_time, length_in_sec,
                filename, lead_id, user, vicidial_id)
             VALUES('Local/58600051@default-00000001;1', ?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let name = name.strip_suffix(".wav").unwrap();
        let id = if closer { number } else { row.uniqueid.as_str() };
        let of = params![start, end, row.secs, name, row.lead, row.agent, id];
        self.db.execute(insert, of).unwrap();
    }
}

/// What the daemon tells of its recordings.
#[derive(Default)]
struct Names(Mutex<BTreeMap<u64, (String, Timestamp)>>);

impl Recordings for Names {
    fn after(&self, cursor: u64, limit: usize) -> Result<Page, String> {
        let names = self.0.lock().unwrap();
        let recordings: Vec<Recording> = names
            .range(cursor + 1..)
            .take(limit)
            .map(|(node, (path, at))| Recording {
                node: NodeId(*node),
                path: path.clone().into_bytes(),
                at: *at,
            })
            .collect();
        let cursor = recordings.last().map_or(cursor, |r| r.node.0);
        Ok(Page { more: recordings.len() == limit, recordings, cursor })
    }

    fn standing(&self, node: NodeId) -> Result<Option<(State, PathBuf)>, String> {
        let names = self.0.lock().unwrap();
        Ok(names.get(&node.0).map(|(path, _)| (State::Closed, path.into())))
    }
}

/// As the daemon asks call records.
#[derive(Debug)]
struct Recorded(Arc<Calls>);

impl CallSource for Recorded {
    fn call_of(&self, id: NodeId, path: &Path) -> Result<Option<CallFacts>, String> {
        self.0.known_of(id, path).map_err(|error| error.to_string())
    }

    fn last_of_account(&self, id: NodeId, path: &Path) -> Result<Option<Timestamp>, String> {
        self.0.last_of_account(id, path).map_err(|error| error.to_string())
    }
}

fn start_calls(dir: &Path, clock: Arc<ManualClock>, vicidial: bool) -> (Arc<Names>, Arc<Calls>) {
    let names = Arc::new(Names::default());
    let options = calls::Options {
        state_dir: dir.to_owned(),
        clock,
        source: Pbx::source(dir.join("pbx.db"), vicidial),
        zone: Zone::utc(),
        names: Pattern::usual(),
        every: Duration::from_secs(3600),
        timeout: Duration::from_secs(30),
        quiet: Duration::from_secs(120),
        bytes_max: 1 << 30,
        same_account: true,
    };
    let calls = Calls::start(options, names.clone()).unwrap();
    (names, calls)
}

/// The rules, from a configuration file.
fn configured() -> Vec<Policy> {
    let mut text = "mountpoint = '/m'\nstate_dir = '/s'\n[calls]\nsource = 'filename'\n\
        [[target]]\nname = 'one'\nurl = 'file:///t'\n"
        .to_owned();
    for (number, (matches, _, days, base)) in RULES.iter().enumerate() {
        let from = match base {
            Close => "close",
            End => "call_end",
            Last => "last_call_of_account",
        };
        text += &format!("[[policy]]\nname = 'rule-{number}'\nkeep_local = 'forever'\n{matches}\n");
        if *days > 0 {
            text += &format!("expire_after = '{days}d'\nexpire_from = '{from}'\n");
        }
    }
    let (environment, overrides) = (Environment::default(), Overrides::default());
    Config::parse(Path::new("f.toml"), &text, &environment, &overrides).unwrap().policies
}

fn after(begin: Timestamp, secs: i64) -> Timestamp {
    Timestamp(begin.0 + secs * 1_000_000_000)
}

/// What is special about a recording, by its number.
fn is_late(n: usize) -> bool {
    n % 20 == 7
}

fn is_never_told(n: usize) -> bool {
    n % 20 == 13
}

fn is_held(n: usize) -> bool {
    n % 10 == 3
}

fn is_let_go(n: usize) -> bool {
    n % 10 == 5
}

/// When it must be gone, in seconds since the beginning; `None`: never.
fn due(n: usize, row: &Row, all: &[Row], later: &[Row]) -> Option<i64> {
    let rule = rule_of(row)?;
    // The first two ask for nothing but the path.
    if is_held(n) || (is_never_told(n) && rule >= 2) {
        return None;
    }
    let (_, _, days, base) = RULES[rule];
    let same = |other: &&Row| match row.lead {
        0 => !row.account.is_empty() && other.account == row.account,
        lead => other.lead == lead,
    };
    let from = match base {
        Close => row.closed,
        End => row.end,
        Last => {
            let told = all.iter().enumerate().filter(|(n, _)| !is_never_told(*n)).map(|(_, r)| r);
            told.chain(later).filter(same).map(|other| other.end).max()?
        }
    };
    let mut due = from + days * DAY;
    if is_late(n) && rule >= 2 {
        due = due.max(LATE);
    }
    if is_let_go(n) {
        due = due.max(LIFTED + GRACE);
    }
    (days > 0).then_some(due)
}

fn decade(vicidial: bool) {
    // Of each rule.
    let each = std::env::var("SPOOLFS_TEST_RULED").map_or(10, |n| n.parse().unwrap());
    let mut rows = rows(vicidial, each);
    fastrand::Rng::with_seed(3).shuffle(&mut rows);
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::with(&["one"]);
    let begin = world.now();
    let pbx = Pbx::new(&dir.path().join("pbx.db"), begin);
    // Who was called again about the same, years later; there is no recording of it.
    let later: Vec<Row> = match vicidial {
        true => rows.iter().filter(|row| row.lead % 3 == 0).cloned().collect(),
        false => vec![Row { account: "acct1", ..rows[0].clone() }],
    };
    let later: Vec<Row> = later
        .into_iter()
        .enumerate()
        .map(|(n, row)| Row {
            end: 300 * DAY,
            uniqueid: format!("1821228029.{}", 3_000_000 + n),
            path: format!("later-{n}.wav"),
            ..row
        })
        .collect();
    let (names, calls) = start_calls(dir.path(), world.clock.clone(), vicidial);
    world.calls = Some(Arc::new(Recorded(calls.clone())));
    world.rules.policies = configured();
    world.start();
    for dir in ["keep", "training", "training/old"] {
        world.mkdir(dir);
    }
    let mut ids = vec![NodeId(0); rows.len()];
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|n| rows[*n].closed);
    for n in order {
        go(&world, begin, rows[n].closed);
        // Without a byte: what expires is the same, and there is nothing to be uploaded.
        ids[n] = world.record(&rows[n].path, b"");
        names.0.lock().unwrap().insert(ids[n].0, (rows[n].path.clone(), world.now()));
    }
    let written = |n: usize| !is_late(n) && !is_never_told(n);
    let number = |which: &dyn Fn(usize) -> bool| -> Vec<usize> {
        (0..rows.len()).filter(|n| which(*n)).collect()
    };
    pbx.db.execute_batch("BEGIN").unwrap();
    number(&written).into_iter().for_each(|n| pbx.write(&rows[n]));
    pbx.db.execute_batch("COMMIT").unwrap();
    let of = |which: &[usize]| -> Vec<NodeId> { which.iter().map(|n| ids[*n]).collect() };
    hold(&world, &of(&number(&is_held)));
    let lifted = hold(&world, &of(&number(&is_let_go)));
    world.catalog().drain().unwrap();
    refresh(&calls);

    let expected: Vec<Option<i64>> =
        rows.iter().enumerate().map(|(n, row)| due(n, row, &rows, &later)).collect();
    // Each hour in which something goes, and the one before. Something else happens in between.
    let hours: BTreeSet<i64> = expected.iter().flatten().map(|at| (at + HOUR - 1) / HOUR).collect();
    let mut looks: BTreeSet<(i64, Event)> = [300 * DAY, LATE, LIFTED]
        .into_iter()
        .zip([Event::Later, Event::Late, Event::Lift])
        .collect();
    looks.extend(hours.iter().flat_map(|h| [(h - 1) * HOUR, h * HOUR]).map(|at| (at, Event::Look)));
    for (at, event) in looks {
        go(&world, begin, at);
        match event {
            Event::Later => later.iter().for_each(|row| pbx.write(row)),
            Event::Late => number(&is_late).into_iter().for_each(|n| pbx.write(&rows[n])),
            Event::Lift => assert!(world.catalog().lift_hold(lifted, "eve", "settled").unwrap()),
            Event::Look => {
                let done = world.engine().expire(true, true).unwrap();
                assert_eq!(done.left, 0, "{done:?}");
                world.catalog().drain().unwrap();
                let there = world.tree();
                let wrong: Vec<_> = (0..rows.len())
                    .filter(|n| {
                        let wanted = expected[*n].is_none_or(|due| due > at);
                        there.contains_key(&rows[*n].path) != wanted
                    })
                    .map(|n| (n, expected[n], rule_of(&rows[n]), &rows[n]))
                    .collect();
                let first = wrong.first();
                assert!(wrong.is_empty(), "hour {}: {} wrong: {first:?}", at / HOUR, wrong.len());
            }
        }
        if event != Event::Look {
            refresh(&calls);
        }
    }
    go(&world, begin, 3700 * DAY);
    world.engine().expire(true, true).unwrap();
    world.catalog().drain().unwrap();
    let there = world.tree();
    let gone = rows.iter().filter(|row| !there.contains_key(&row.path)).count();
    assert_eq!(gone, expected.iter().flatten().count());
    let held = number(&is_held);
    assert!(held.iter().all(|n| there.contains_key(&rows[*n].path)));
    eprintln!(
        "{} recordings, {gone} expired in {} different hours, {} held",
        rows.len(),
        hours.len(),
        held.len()
    );
}

/// What happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Later,
    Late,
    Lift,
    Look,
}

fn go(world: &World, begin: Timestamp, to: i64) {
    let left = after(begin, to).0 - world.now().0;
    world.clock.advance(Duration::from_nanos(u64::try_from(left).unwrap_or(0)));
}

#[track_caller]
fn refresh(calls: &Calls) {
    assert!(calls.refresh(Duration::from_secs(60)), "{:?}", calls.status());
    let feed = calls.status().feeds[0].clone();
    assert_eq!((feed.bad, feed.error), (0, None), "{:?}", feed.bad_rows);
}

#[test]
fn over_ten_years_what_freepbx_recorded_expires_in_the_hour_that_its_rule_says() {
    decade(false);
}

#[test]
fn over_ten_years_what_vicidial_recorded_expires_in_the_hour_that_its_rule_says() {
    decade(true);
}
