//! The configuration from outside: what is refused and in which words, what the environment does,
//! and that the example, the documents and the service unit agree with the program.

use spoolfs::config::{Config, ConfigError, Environment, KEYS, Overrides, Scheme};
use spoolfs::units::Age;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MINIMAL: &str = "mountpoint = \"/srv/rec\"\nstate_dir = \"/var/lib/spoolfs/x\"\n";

/// A public key of age: of its own tests.
const AGE: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

fn parse_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment: Environment =
        variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Config::parse(Path::new("f.toml"), text, &environment, &Overrides::default())
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    parse_with(text, &[])
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A file with one target whose lines are given.
fn target(lines: &str) -> String {
    format!("{MINIMAL}[[target]]\n{lines}\n")
}

#[test]
fn defaults_are_those_of_the_table_of_keys() {
    let config = parse(MINIMAL).expect("minimal");
    assert_eq!(config.write_back.archive_after, Age::For(Duration::from_secs(300)));
    assert_eq!(config.write_back.keep_local, Age::For(Duration::from_secs(86_400)));
    assert_eq!(config.read.timeout, Duration::from_secs(15));
    assert_eq!(config.cache.dir, Path::new("/var/lib/spoolfs/x/cache"));
    assert_eq!(config.runtime_dir, Path::new("/run/spoolfs/x"));
    assert_eq!(config.node, None);
    let mut written = MINIMAL.to_owned();
    let top = |k: &&spoolfs::config::Key| !k.path.contains('.') && !k.default.is_empty();
    for key in KEYS.iter().filter(top) {
        written.push_str(&format!("{} = {}\n", key.path, key.default));
    }
    for table in ["write_back", "cache", "read", "holds", "stitched", "calls", "retention"] {
        written.push_str(&format!("[{table}]\n"));
        for key in KEYS.iter().filter(|k| !k.default.is_empty()) {
            if let Some((of, name)) = key.path.split_once('.').filter(|(of, _)| *of == table) {
                assert_eq!(of, table);
                written.push_str(&format!("{name} = {}\n", key.default));
            }
        }
    }
    assert_eq!(parse(&written).expect("all defaults written out"), config);
}

#[test]
fn bad_input_is_refused_in_one_sentence_with_its_place_and_cure() {
    let cases: Vec<(String, &str)> = vec![
        (
            "state_dir = \"/s\"".into(),
            "f.toml: mountpoint is missing; set it to the recordings directory, such as \
             mountpoint = \"/var/spool/asterisk/monitor\"",
        ),
        (
            "mountpoint = \"/srv/rec\"".into(),
            "f.toml: state_dir is missing; set it to a directory on a local disk, such as \
             state_dir = \"/var/lib/spoolfs/monitor\"",
        ),
        (
            format!("{MINIMAL}mountpiont = \"/x\""),
            "f.toml:3:1: mountpiont is not a known key; did you mean mountpoint?",
        ),
        (
            format!("{MINIMAL}[write_back]\narchve_after = \"5m\""),
            "f.toml:4:1: write_back.archve_after is not a known key; did you mean archive_after?",
        ),
        (
            format!("{MINIMAL}keep_local = \"5m\""),
            "f.toml:3:1: keep_local is not a known key; did you mean keep_local in the table \
             [write_back]?",
        ),
        (
            target("name = \"a\"\nurl = \"file:///a\"\ncolour = 1"),
            "f.toml:6:1: target 1: colour is not a known key; remove it, or see \
             docs/CONFIGURATION.md for the keys there are",
        ),
        (
            format!("{MINIMAL}[write_back]\nkeep_local = \"5\""),
            "f.toml:4:1: write_back.keep_local: \"5\" is not a duration; write for example \
             \"90s\", \"5m\", \"24h\", \"7d\" or \"forever\"",
        ),
        (
            format!("{MINIMAL}[write_back]\nkeep_local = 5"),
            "f.toml:4:1: write_back.keep_local: invalid type: integer `5`, expected a duration \
             in quotes, such as \"5m\"; see docs/CONFIGURATION.md for how it is written",
        ),
        (
            format!("{MINIMAL}[target]\nname = \"a\""),
            "f.toml:3:2: target: invalid type: map, expected a sequence; write it with two \
             brackets: [[target]]",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\ndirection = \"inbound\""),
            "f.toml:5:1: policy 1: direction: invalid type: string \"inbound\", expected a \
             sequence; write it in brackets, such as direction = [\"...\"]",
        ),
        (
            format!("{MINIMAL}[cache]\nmax_size = \"10G\""),
            "f.toml:4:1: cache.max_size: \"10G\" is not a size; write for example \"500MB\" or \
             \"10GiB\"",
        ),
        (
            format!("{MINIMAL}[write_back]\nuploads = 0"),
            "f.toml:4:1: write_back.uploads 0 is out of bounds; choose from 1 to 64",
        ),
        (
            format!("{MINIMAL}[write_back]\nbandwidth = \"08:00,off 18:00,fast\""),
            "f.toml:4:1: write_back.bandwidth \"fast\" is neither a size nor \"unlimited\" nor \"off\"; \
             write bytes a second, such as \"2MiB\", or times of the day, such as \
             \"08:00,512KiB 12:00,off 18:00,unlimited\", or of days of the week, such as \
             \"mon-fri-08:00,512KiB mon-fri-18:00,unlimited\"",
        ),
        (
            format!("{MINIMAL}[write_back]\nuploads = 2\nbandwidth = \"mon-frei-08:00,1MiB\""),
            "f.toml:5:1: write_back.bandwidth \"frei\" is no day of the week (mon, tue, wed, thu, fri, \
             sat, sun); write bytes a second, such as \"2MiB\", or times of the day, such as \
             \"08:00,512KiB 12:00,off 18:00,unlimited\", or of days of the week, such as \
             \"mon-fri-08:00,512KiB mon-fri-18:00,unlimited\"",
        ),
        (
            format!("{MINIMAL}[write_back]\nsettle = \"5m\""),
            "f.toml:4:1: write_back.settle \"5m\" is out of bounds; choose from \"0s\" to \"1m\"",
        ),
        (
            format!("{MINIMAL}[write_back]\ncompress = \"mp3\""),
            "f.toml:4:1: write_back.compress \"mp3\" is no way to store recordings; write \"flac\" or \"none\"",
        ),
        (
            format!("{MINIMAL}[write_back]\nencrypt_to = [\"{AGE}x\"]"),
            "f.toml:4:1: write_back.encrypt_to \"age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pax\" is no X25519 key of age: invalid Bech32 encoding; write public keys, such as [\"age1...\", \"ssh-ed25519 ...\"]",
        ),
        (
            format!("{MINIMAL}[write_back]\nencrypt_to = [\"{AGE}\", \"AGE-SECRET-KEY-1QQ\"]"),
            "f.toml:4:1: write_back.encrypt_to has a secret key in place 2, where its public key belongs; write public keys, such as [\"age1...\", \"ssh-ed25519 ...\"]",
        ),
        (
            format!("{MINIMAL}[write_back]\nencrypt_to = [\"ssh-rsa AAAA\"]"),
            "f.toml:4:1: write_back.encrypt_to has a key of the kind \"ssh-rsa\", which nothing is sealed to; write public keys, such as [\"age1...\", \"ssh-ed25519 ...\"]",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\nencrypt_to = [\"ssh-rsa AAAA\"]"),
            "f.toml:5:1: policy 1: encrypt_to has a key of the kind \"ssh-rsa\", which nothing is sealed to; write public keys, such as [\"age1...\", \"ssh-ed25519 ...\"]",
        ),
        (
            format!("{MINIMAL}[write_back]\nhide_names = true"),
            "f.toml:4:1: write_back.hide_names hides the names of what is sealed, and nothing is; set write_back.encrypt_to",
        ),
        (
            format!("{MINIMAL}[encryption]\nlocal_key_file = \"/var/lib/spoolfs/x/key\""),
            "f.toml:4:1: encryption.local_key_file \"/var/lib/spoolfs/x/key\" lies in a directory that it is \
             to open; keep it elsewhere, such as in /etc/spoolfs",
        ),
        (
            format!("{MINIMAL}[read]\nidentity_file = \"key\""),
            "f.toml:4:1: read.identity_file \"key\" is not an absolute path; begin it with \"/\"",
        ),
        (
            format!("{MINIMAL}[[target]]\nname = \"a\"\nurl = \"s3://b\"\nsse = \"aes\""),
            "f.toml:6:1: target 1: sse \"aes\" is no way to encrypt; write \"s3\", \"kms\", \"c\" or \"none\"",
        ),
        (
            format!(
                "{MINIMAL}[[target]]\nname = \"a\"\nurl = \"s3://b\"\nsse = \"s3\"\nsse_kms_key_id = \"k\""
            ),
            "f.toml:7:1: target 1: sse_kms_key_id means nothing without sse = \"kms\"; remove it",
        ),
        (
            format!(
                "{MINIMAL}[[target]]\nname = \"a\"\nurl = \"s3://b\"\nsse = \"kms\"\nsse_kms_context = [\"pbx\"]"
            ),
            "f.toml:7:1: target 1: sse_kms_context \"pbx\" is no name and value; write for example \"department=calls\"",
        ),
        (
            format!(
                "{MINIMAL}[[target]]\nname = \"a\"\nurl = \"s3://b\"\nsse = \"kms\"\nsse_kms_context = [\"a=1\", \"a=2\"]"
            ),
            "f.toml:7:1: target 1: sse_kms_context \"a\" is in it twice; leave one of the two out",
        ),
        (
            format!(
                "{MINIMAL}[[target]]\nname = \"a\"\nurl = \"s3://b\"\nsse = \"c\"\nsse_c_key_file = \"k\""
            ),
            "f.toml:7:1: target 1: sse_c_key_file \"k\" is not an absolute path; begin it with \"/\"",
        ),
        (
            format!(
                "{MINIMAL}[[target]]\nname = \"a\"\nurl = \"s3://b\"\nsse_c_key_file = \"/k\"\nsse_c_key_command = [\"/c\"]"
            ),
            "f.toml:7:1: target 1: sse_c_key_command is set, and so is sse_c_key_file; leave one of the two out",
        ),
        (
            format!(
                "{MINIMAL}[[target]]\nname = \"a\"\nurl = \"s3://b\"\nsse = \"c\"\nallow_http = true\nendpoint = \"http://10.0.0.5\""
            ),
            "f.toml:8:1: target 1: endpoint is plain http://, and with SSE-C each request has the key; use https://",
        ),
        (
            format!("{MINIMAL}[read]\nidentity_command = [\"vault\", \"x\"]"),
            "f.toml:4:1: read.identity_command \"vault\" is not an absolute path; begin it with \"/\"",
        ),
        (
            format!("{MINIMAL}[read]\nidentity_file = \"/key\"\nidentity_command = [\"/x\"]"),
            "f.toml:5:1: read.identity_command is set, and so is read.identity_file; leave one of the two out",
        ),
        (
            format!("{MINIMAL}[metrics]\nlisten = \"9779\""),
            "f.toml:4:1: metrics.listen \"9779\" is no address and port; write one such as \"127.0.0.1:9779\", or leave it out",
        ),
        (
            format!("{MINIMAL}[stitched]\nlayout = \"mono\""),
            "f.toml:4:1: stitched.layout \"mono\" is no layout; write \"concat\", \"timeline\" or \"stereo\"",
        ),
        (
            format!("{MINIMAL}[stitched]\ndirectory = \"a/../b\""),
            "f.toml:4:1: stitched.directory \"..\" can not be used as a name; use up to 64 letters, digits, \"-\", \"_\" and \".\", not beginning with \".\"",
        ),
        (
            format!("{MINIMAL}[write_back]\nsync_after = \"5m\""),
            "f.toml:4:1: write_back.sync_after \"5m\" is out of bounds; choose from \"1s\" to \"1m\"",
        ),
        (
            format!("{MINIMAL}[space]\nhigh_water = \"120%\""),
            "f.toml:4:1: space.high_water: \"120%\" is not a share; write \"0%\" to \"100%\"",
        ),
        (
            format!("{MINIMAL}[space]\nhigh_water = \"80%\"\nlow_water = \"85%\""),
            "f.toml:5:1: space.low_water \"85%\" is above high_water \"80%\"; choose at most \
             high_water",
        ),
        (
            format!("{MINIMAL}[write_back]\nexclude = [\"a[\"]"),
            "f.toml:4:1: write_back.exclude \"a[\" is not a pattern: unclosed character class; \
             missing ']'; write for example \"2024/**/*.wav\"",
        ),
        (
            format!("{MINIMAL}[calls]\nsource = \"csv\""),
            "f.toml:3:2: calls.path is missing; set it to the file, such as path = \
             \"/var/log/asterisk/cdr-csv/Master.csv\"",
        ),
        (
            format!("{MINIMAL}[calls]\nsource = \"filename\"\nrequire_cdr = true"),
            "f.toml:5:1: calls.require_cdr waits for call records, and with source \"filename\" there \
             are none; set calls.source or calls.preset, or remove it",
        ),
        (
            format!("{MINIMAL}[calls]\nsource = \"oracle\""),
            "f.toml:4:1: calls.source \"oracle\" is no kind of source; write one of none, filename, \
             csv, sqlite, mysql, postgres",
        ),
        (
            format!("{MINIMAL}[calls]\npreset = \"3cx\""),
            "f.toml:4:1: calls.preset \"3cx\" is no preset; write one of asterisk-csv, \
             asterisk-sqlite, freepbx, vicidial",
        ),
        (
            format!("{MINIMAL}[calls]\nsource = \"csv\"\npath = \"Master.csv\""),
            "f.toml:5:1: calls.path \"Master.csv\" is not an absolute path; begin it with \"/\"",
        ),
        (
            format!("{MINIMAL}[calls]\npreset = \"asterisk-csv\"\ncolumns = [\"src\", \"mood\"]"),
            "f.toml:5:1: calls.columns \"mood\" is no column of a call record; write \"-\" for a column \
             that is not needed",
        ),
        (
            format!("{MINIMAL}[calls]\nsource = \"mysql\"\nurl = \"mysql://u:hunter2@h/d\""),
            "f.toml:5:1: calls.url must not contain a password; use calls.password_file, or \
             calls.password",
        ),
        (
            format!("{MINIMAL}[calls]\nsource = \"postgres\"\nurl = \"mysql://h/d\""),
            "f.toml:5:1: calls.url is no postgres:// URL with a database; write for example \
             postgres://user@db.example.com/asteriskcdrdb",
        ),
        (
            format!("{MINIMAL}[calls]\npreset = \"freepbx\"\nquery = \"SELECT {{after}}\""),
            "f.toml:5:1: calls.query \"SELECT {after}\" says only one of {after} and {limit}; write \
             WHERE ... > {after} ORDER BY position LIMIT {limit}, or neither",
        ),
        (
            format!("{MINIMAL}[calls]\npreset = \"freepbx\"\nquery = \"SELECT 1; DROP x\""),
            "f.toml:5:1: calls.query \"SELECT 1; DROP x\" is more than one statement; write one SELECT",
        ),
        (
            format!("{MINIMAL}[calls]\nsource = \"mysql\"\nurl = \"mysql://h/d?ssl=1\""),
            "f.toml:5:1: calls.url has \"ssl\" behind the question mark; only socket=/path can be \
             there",
        ),
        (
            format!("{MINIMAL}[calls]\ntime_zone = \"Mars\""),
            "f.toml:4:1: calls.time_zone \"Mars\" is no time zone that this machine knows; write \
             \"local\", \"UTC\" or \"Europe/Berlin\"",
        ),
        (
            format!("{MINIMAL}[calls]\nnames = [\"{{src\"]"),
            "f.toml:4:1: calls.names \"{src\" is not a pattern for names: a \"{\" is not closed; write \
             for example \"{timestamp}-{src}-{dst}\"",
        ),
        (
            format!("{MINIMAL}[[policy]]\nkeep_local = \"7d\""),
            "f.toml:3:3: policy 1: name is missing; give the rule a name, such as name = \"sales\"",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\n[[policy]]\nname = \"a\""),
            "f.toml:6:1: policy 2: name \"a\" is the name of another rule; give each rule its own",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\ncampain = [\"SALES\"]"),
            "f.toml:5:1: policy 1: campain is not a known key; did you mean campaign?",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\ncampaign = [\"SALES\"]"),
            "f.toml:4:1: policy 1: name \"a\" asks for calls, and no call records are read; set \
             calls.preset or calls.source, or compare nothing but path",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\nnumber = [\"none\"]"),
            "f.toml:5:1: policy 1: number \"none\" has no digit; write a number like \"2079460001\"",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\nexpire_after = \"5m\""),
            "f.toml:5:1: policy 1: expire_after \"5m\" is less than a day; recordings are deleted \
             then: look again",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\nexpire_from = \"close\""),
            "f.toml:5:1: policy 1: expire_from stands without expire_after; set both",
        ),
        (
            format!(
                "{MINIMAL}[[policy]]\nname = \"a\"\nexpire_after = \"9d\"\nexpire_from = \"birth\""
            ),
            "f.toml:6:1: policy 1: expire_from \"birth\" is nothing to count from; write \"close\", \
             \"call_end\" or \"last_call_of_account\"",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\nexpire_after = \"9d\"\nworm = \"10d\""),
            "f.toml:6:1: policy 1: worm \"10d\" is longer than expire_after \"9d\"; what is locked \
             can not be deleted: make expire_after at least as long",
        ),
        (
            format!("{MINIMAL}[retention]\naudit_keep = \"364d\""),
            "f.toml:4:1: retention.audit_keep \"364d\" is too short for evidence; write at least \
             \"365d\", or \"forever\"",
        ),
        (
            format!(
                "{MINIMAL}[retention]\naudit_keep = \"1094d\"\n[[policy]]\nname = \"a\"\n\
                 expire_after = \"1095d\"\n[[policy]]\nname = \"b\"\nexpire_after = \"9d\""
            ),
            "f.toml:4:1: retention.audit_keep \"1094d\" is shorter than expire_after of policy \"a\": \
             lines would leave before the recordings that they tell of; write at least \"1095d\", \
             better some years more",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\nworm = \"1h\""),
            "f.toml:5:1: policy 1: worm \"1h\" is less than a day; write at least \"1d\"",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\nworm_mode = \"compliance\""),
            "f.toml:5:1: policy 1: worm_mode stands without worm; set both",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\nworm = \"9d\"\nworm_mode = \"strict\""),
            "f.toml:6:1: policy 1: worm_mode \"strict\" is no mode; write \"governance\" or \
             \"compliance\"",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\npath = [\"[\"]"),
            "f.toml:5:1: policy 1: path \"[\" is no pattern: unclosed character class; missing ']'; \
             write it like \"*.wav\" or \"2026/**\"",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\ndirection = [\"out\"]"),
            "f.toml:5:1: policy 1: direction \"out\" is no direction; write \"inbound\", \
             \"outbound\" or \"internal\"",
        ),
        (
            format!(
                "{MINIMAL}[[policy]]\nname = \"a\"\nduration_min = \"2m\"\nduration_max = \"1m\""
            ),
            "f.toml:6:1: policy 1: duration_max is less than duration_min; exchange the two",
        ),
        (
            format!("{MINIMAL}passthrough = \"yes\""),
            "f.toml:3:1: passthrough \"yes\" is neither \"auto\" nor \"never\"; write one of them",
        ),
        (
            format!("{MINIMAL}node = \"a/b\""),
            "f.toml:3:1: node \"a/b\" can not be used as a name; use up to 64 letters, digits, \
             \"-\", \"_\" and \".\", not beginning with \".\"",
        ),
        (
            "mountpoint = \"rec\"\nstate_dir = \"/s\"".into(),
            "f.toml:1:1: mountpoint \"rec\" is not an absolute path; begin it with \"/\"",
        ),
        (
            "mountpoint = \"/\"\nstate_dir = \"/s\"".into(),
            "f.toml:1:1: mountpoint is the root of the file system; set it to the recordings \
             directory",
        ),
        (
            "mountpoint = \"/srv/rec\"\nstate_dir = \"/srv/rec\"".into(),
            "f.toml:2:1: state_dir \"/srv/rec\" lies inside the mountpoint \"/srv/rec\"; choose \
             a directory outside of it",
        ),
        (
            "mountpoint = \"/srv/rec\"\nstate_dir = \"/srv/x/../rec/state\"".into(),
            "f.toml:2:1: state_dir \"/srv/x/../rec/state\" lies inside the mountpoint \
             \"/srv/rec\"; choose a directory outside of it",
        ),
        (
            format!("{MINIMAL}runtime_dir = \"/srv/rec/run\""),
            "f.toml:3:1: runtime_dir \"/srv/rec/run\" lies inside the mountpoint \"/srv/rec\"; \
             choose a directory outside of it",
        ),
        (
            format!("{MINIMAL}[cache]\ndir = \"/srv/rec/c\""),
            "f.toml:4:1: cache.dir \"/srv/rec/c\" lies inside the mountpoint \"/srv/rec\"; \
             choose a directory outside of it",
        ),
        (
            target("name = \"a\"\nurl = \"file:///srv/rec/a\""),
            "f.toml:5:1: target 1: url \"/srv/rec/a\" lies inside the mountpoint \"/srv/rec\"; \
             choose a directory outside of it",
        ),
        (
            target("name = \"a\"\nurl = \"file:///var/lib/spoolfs/x/a\""),
            "f.toml:5:1: target 1: url \"/var/lib/spoolfs/x/a\" lies inside the state_dir \
             \"/var/lib/spoolfs/x\"; choose a directory outside of it",
        ),
        (
            target("name = \"a\"\nurl = \"file:///srv\""),
            "f.toml:5:1: target 1: url \"/srv\" contains the mountpoint \"/srv/rec\"; choose a \
             directory beside it",
        ),
        (
            target("name = \"a\"\nurl = \"s3://a\"\n[[target]]\nname = \"a\"\nurl = \"s3://b\""),
            "f.toml:7:1: target 2: name \"a\" is the name of another target; give each target \
             its own",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\ncompress = \"zip\""),
            "f.toml:5:1: policy 1: compress \"zip\" is no way to store recordings; write \"flac\" or \
             \"none\"",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\ndelete_mode = \"shred\""),
            "f.toml:5:1: policy 1: delete_mode \"shred\" is no way to delete; write \"trash\", \
             \"keep\", \"delete\" or \"refuse\"",
        ),
        (
            format!("{MINIMAL}[[policy]]\nname = \"a\"\ntargets = [\"b\"]"),
            "f.toml:5:1: policy 1: targets \"b\" is the name of no [[target]]; add a [[target]] of \
             that name",
        ),
        (
            target("name = \"a\"\nurl = \"s3://a\"\n[[policy]]\nname = \"p\"\ntargets = [\"b\"]"),
            "f.toml:8:1: policy 1: targets \"b\" is the name of no [[target]]; write some of \"a\"",
        ),
        (
            target(
                "name = \"a\"\nurl = \"s3://a\"\n[[policy]]\nname = \"p\"\ntargets = [\"a\"]\n\
                 [stitched]\narchive = true",
            ),
            "f.toml:10:1: stitched.archive stores joins in all targets, and policy \"p\" keeps its \
             recordings out of some; leave one of the two out",
        ),
        (
            target("url = \"s3://a\""),
            "f.toml:3:3: target 1: name is missing; give the target a name, such as name = \
             \"main\"",
        ),
        (
            target("name = \"a\""),
            "f.toml:3:3: target 1: url is missing; set url = \"s3://bucket/prefix\"",
        ),
        (
            target("name = \"a\"\nurl = \"s3:///prefix\""),
            "f.toml:5:1: target 1: url \"s3:///prefix\": missing bucket; write \
             s3://bucket/prefix",
        ),
        (
            target("name = \"a\"\nurl = \"ftp://b\""),
            "f.toml:5:1: target 1: url \"ftp://b\" is of no known kind; write s3://bucket/prefix, \
             gs://bucket/prefix, az://container/prefix or file:///directory",
        ),
        (
            target("name = \"a\"\nurl = \"gs:///prefix\""),
            "f.toml:5:1: target 1: url \"gs:///prefix\": missing bucket; write \
             gs://bucket/prefix",
        ),
        (
            target("name = \"a\"\nurl = \"az://\""),
            "f.toml:5:1: target 1: url \"az://\": missing container; write az://container/prefix",
        ),
        (
            target("name = \"a\"\nurl = \"gs://b\"\naccess_key_id = \"k\""),
            "f.toml:6:1: target 1: access_key_id means nothing for a gs:// target; set \
             credentials_file; for an HMAC key write s3:// and endpoint = \
             \"https://storage.googleapis.com\"",
        ),
        (
            target("name = \"a\"\nurl = \"s3://b\"\ncredentials_file = \"/k.json\""),
            "f.toml:6:1: target 1: credentials_file means nothing for an s3:// target; remove \
             it",
        ),
        (
            target("name = \"a\"\nurl = \"gs://b\"\ncredentials_file = \"k.json\""),
            "f.toml:6:1: target 1: credentials_file \"k.json\" is not an absolute path; begin it \
             with a slash",
        ),
        (
            target("name = \"a\"\nurl = \"az://b\"\nsecret_access_key = \"k\""),
            "f.toml:3:3: target 1: access_key_id is missing; set it to the name of the storage \
             account",
        ),
        (
            target("name = \"a\"\nurl = \"file://srv/a\""),
            "f.toml:5:1: target 1: url \"file://srv/a\" names no local directory; write three \
             slashes, as in file:///srv/archive",
        ),
        (
            target("name = \"a\"\nurl = \"bucket\""),
            "f.toml:5:1: target 1: url \"bucket\" is not a URL; write s3://bucket/prefix, \
             gs://bucket/prefix, az://container/prefix or file:///directory",
        ),
        (
            target("name = \"a\"\nurl = \"s3://b\"\nendpoint = \"http://s3.example.com\""),
            "f.toml:6:1: target 1: endpoint \"http://s3.example.com\" would send recordings over \
             the network unencrypted; use https://, or set allow_http = true",
        ),
        (
            target("name = \"a\"\nurl = \"s3://b\"\nendpoint = \"s3.example.com\""),
            "f.toml:6:1: target 1: endpoint \"s3.example.com\" is not an http:// or https:// \
             URL; write for example https://s3.example.com",
        ),
        (
            target("name = \"a\"\nurl = \"s3://b\"\naccess_key_id = \"k\""),
            "f.toml:3:3: target 1: secret_access_key is missing; set both, or neither and use \
             the AWS_* environment",
        ),
        (
            target("name = \"a\"\nurl = \"s3://a\"\nstorage_class = \"glacier\""),
            "f.toml:6:1: target 1: storage_class \"glacier\" is no storage class; write one of your \
             service's, such as \"STANDARD_IA\"",
        ),
        (
            target("name = \"a\"\nurl = \"file:///a\"\nregion = \"x\""),
            "f.toml:6:1: target 1: region means nothing for a file:// target; remove it",
        ),
    ];
    for (text, want) in cases {
        let error = parse(&text).expect_err(&text);
        assert_eq!(error.to_string(), want, "\n{text}");
    }
}

#[test]
fn broken_toml_is_placed() {
    let error = parse("mountpoint = \"/a\"\nstate_dir /b").expect_err("broken");
    assert!(error.place.starts_with("f.toml:2:"), "{error}");
    assert_eq!(error.cure, "correct the TOML there");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn rules_are_read_in_order_and_what_they_do_not_say_is_the_mounts() {
    let text = format!(
        "{MINIMAL}[write_back]\narchive_after = \"7m\"\n[calls]\nsource = \"filename\"\n\
         [[policy]]\nname = \"sales\"\ncampaign = [\"SALES\", \"S*\"]\nkeep_local = \"30d\"\n\
         [[policy]]\nname = \"all\"\narchive_after = \"forever\"\n\
         [[policy]]\nname = \"late\"\npath = [\"*.wav\"]\n"
    );
    let config = parse(&text).expect("fine");
    let names: Vec<_> = config.policies.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["sales", "all", "late"]);
    let (minute, day) = (Duration::from_secs(60), Duration::from_secs(86_400));
    let sales = &config.policies[0].treatment;
    assert_eq!((sales.archive_after, sales.keep_local), (Some(minute * 7), Some(day * 30)));
    assert_eq!(sales.adopt_keep_local, Some(day * 30));
    let all = &config.policies[1].treatment;
    assert_eq!((all.archive_after, all.keep_local), (None, Some(day)));
    assert_eq!(all.adopt_keep_local, Some(day * 7));
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(config.warnings[0].contains("\"late\" is never reached"), "{:?}", config.warnings);
    assert!(parse(&format!("{MINIMAL}policy = []\n")).expect("none").policies.is_empty());
}

#[test]
fn http_is_fine_on_this_machine_or_when_allowed() {
    for (endpoint, allow) in [
        ("http://localhost:8333", false),
        ("http://127.0.0.1:9000", false),
        ("http://[::1]:9000", false),
        ("https://s3.example.com", false),
        ("http://10.0.0.1", true),
    ] {
        let text = target(&format!(
            "name = \"a\"\nurl = \"s3://b/p\"\nendpoint = \"{endpoint}\"\nallow_http = {allow}"
        ));
        let config = parse(&text).expect(endpoint);
        assert_eq!(config.targets[0].scheme, Scheme::S3);
    }
}

#[test]
fn a_link_into_the_mount_is_seen_through() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mount = dir.path().join("rec");
    std::fs::create_dir(&mount).expect("mkdir");
    let link = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&mount, &link).expect("symlink");
    let text = format!("mountpoint = {mount:?}\nstate_dir = {:?}\n", link.join("state/deep"));
    let error = parse(&text).expect_err("inside");
    assert!(error.message.contains("lies inside the mountpoint"), "{error}");
}

#[test]
fn every_key_can_be_set_by_its_variable() {
    let config = parse_with(
        "",
        &[
            ("SPOOLFS_MOUNTPOINT", "/srv/rec"),
            ("SPOOLFS_STATE_DIR", "/state"),
            ("SPOOLFS_RUNTIME_DIR", "/run/x"),
            ("SPOOLFS_NODE", "n"),
            ("SPOOLFS_ARCHIVE", "a"),
            ("SPOOLFS_PASSTHROUGH", "never"),
            ("SPOOLFS_RESEND", "never"),
            ("SPOOLFS_DRAIN_TIMEOUT", "5s"),
            ("SPOOLFS_METRICS__LISTEN", "[::1]:9779"),
            ("SPOOLFS_TARGET__0__NAME", "t"),
            ("SPOOLFS_TARGET__0__URL", "s3://b/p"),
            ("SPOOLFS_TARGET__0__ENDPOINT", "https://10.0.0.1"),
            ("SPOOLFS_TARGET__0__REGION", "r"),
            ("SPOOLFS_TARGET__0__ACCESS_KEY_ID", "k"),
            ("SPOOLFS_TARGET__0__SECRET_ACCESS_KEY", "hunter2"),
            ("SPOOLFS_TARGET__0__REQUIRED", "false"),
            ("SPOOLFS_TARGET__0__STORAGE_CLASS", "STANDARD_IA"),
            ("SPOOLFS_TARGET__0__ALLOW_HTTP", "true"),
            ("SPOOLFS_TARGET__0__PRICE_PER_GB_MONTH", "0.023"),
            ("SPOOLFS_WRITE_BACK__ARCHIVE_AFTER", "1m"),
            ("SPOOLFS_WRITE_BACK__KEEP_LOCAL", "forever"),
            ("SPOOLFS_WRITE_BACK__ADOPT_KEEP_LOCAL", "2w"),
            ("SPOOLFS_WRITE_BACK__INCLUDE", "*.wav, *.mp3"),
            ("SPOOLFS_WRITE_BACK__EXCLUDE", ""),
            ("SPOOLFS_WRITE_BACK__UPLOADS", "9"),
            ("SPOOLFS_WRITE_BACK__BANDWIDTH", "1MiB"),
            ("SPOOLFS_WRITE_BACK__SETTLE", "10ms"),
            ("SPOOLFS_WRITE_BACK__SYNC_AFTER", "10s"),
            ("SPOOLFS_WRITE_BACK__JOURNAL_INTERVAL", "5s"),
            ("SPOOLFS_WRITE_BACK__SCRUB_EVERY", "30d"),
            ("SPOOLFS_WRITE_BACK__REPAIR_HEADERS", "true"),
            ("SPOOLFS_WRITE_BACK__SNAPSHOT_EVERY", "2d"),
            ("SPOOLFS_WRITE_BACK__SNAPSHOT_KEEP", "3"),
            ("SPOOLFS_SPACE__HIGH_WATER", "70%"),
            ("SPOOLFS_SPACE__LOW_WATER", "60%"),
            ("SPOOLFS_SPACE__RESERVE", "2GiB"),
            ("SPOOLFS_DELETE__DELETE_MODE", "keep"),
            ("SPOOLFS_DELETE__TRASH_KEEP", "7d"),
            ("SPOOLFS_CACHE__DIR", "/cache"),
            ("SPOOLFS_CACHE__MAX_SIZE", "1GiB"),
            ("SPOOLFS_READ__READ_TIMEOUT", "1s"),
            ("SPOOLFS_HOLDS__HOLD_SETTLE", "2h"),
            ("SPOOLFS_HOLDS__HOLD_LIFT_GRACE", "3d"),
            ("SPOOLFS_HOLDS__FOUR_EYES", "true"),
            ("SPOOLFS_STITCHED__ENABLED", "false"),
            ("SPOOLFS_STITCHED__DIRECTORY", "2026/calls"),
            ("SPOOLFS_STITCHED__LISTED", "false"),
            ("SPOOLFS_STITCHED__LAYOUT", "stereo"),
            ("SPOOLFS_STITCHED__RATE", "highest"),
            ("SPOOLFS_STITCHED__RIFF64", "false"),
            ("SPOOLFS_STITCHED__ARCHIVE", "false"),
            ("SPOOLFS_STITCHED__KEEP_EXPIRED", "true"),
            ("SPOOLFS_READ__RECORDINGS_PER_MINUTE", "7"),
            ("SPOOLFS_WRITE_BACK__COMPRESS", "flac"),
            ("SPOOLFS_WRITE_BACK__COMPRESS_MIN_GAIN", "33%"),
            ("SPOOLFS_WRITE_BACK__ENCRYPT_TO", AGE),
            ("SPOOLFS_WRITE_BACK__HIDE_NAMES", "true"),
            ("SPOOLFS_READ__IDENTITY_FILE", "/key"),
            ("SPOOLFS_CALLS__PRESET", "asterisk-sqlite"),
            ("SPOOLFS_CALLS__SOURCE", "csv"),
            ("SPOOLFS_CALLS__PATH", "/cdr"),
            ("SPOOLFS_CALLS__COLUMNS", "start,src,-"),
            ("SPOOLFS_CALLS__TABLE", "t"),
            ("SPOOLFS_CALLS__QUERY", "SELECT 1"),
            ("SPOOLFS_CALLS__CEL", "/cel"),
            ("SPOOLFS_CALLS__TIME_ZONE", "UTC"),
            ("SPOOLFS_CALLS__NAMES", "{src}-{dst}"),
            ("SPOOLFS_CALLS__EVERY", "2s"),
            ("SPOOLFS_CALLS__URL", "mysql://h/d"),
            ("SPOOLFS_CALLS__PASSWORD", "hunter2"),
            ("SPOOLFS_CALLS__PASSWORD_FILE", "/p"),
            ("SPOOLFS_CALLS__TLS_CA", "/ca"),
            ("SPOOLFS_CALLS__TIMEOUT", "3s"),
            ("SPOOLFS_CALLS__QUIET", "4s"),
            ("SPOOLFS_CALLS__CACHE_MAX_SIZE", "1MiB"),
            ("SPOOLFS_CALLS__SAME_ACCOUNT", "false"),
            ("SPOOLFS_CALLS__REQUIRE_CDR", "true"),
            ("SPOOLFS_CALLS__REQUIRE_CDR_FOR", "5h"),
            ("SPOOLFS_TARGET__0__SSE", "kms"),
            ("SPOOLFS_TARGET__0__SSE_KMS_KEY_ID", "alias/calls"),
            ("SPOOLFS_TARGET__0__SSE_BUCKET_KEY", "true"),
            ("SPOOLFS_TARGET__0__SSE_KMS_CONTEXT", "pbx=one,for=calls"),
            ("SPOOLFS_TARGET__0__SSE_C_KEY_FILE", "/sse.key"),
            ("SPOOLFS_POLICY__0__NAME", "sales"),
            ("SPOOLFS_POLICY__0__PATH", "2026/**,*.wav"),
            ("SPOOLFS_POLICY__0__CAMPAIGN", "SALES"),
            ("SPOOLFS_POLICY__0__INGROUP", "SUPPORT"),
            ("SPOOLFS_POLICY__0__LIST", "9001"),
            ("SPOOLFS_POLICY__0__AGENT", "1001"),
            ("SPOOLFS_POLICY__0__ACCOUNTCODE", "acct1"),
            ("SPOOLFS_POLICY__0__DID", "442079461234"),
            ("SPOOLFS_POLICY__0__NUMBER", "2079460001"),
            ("SPOOLFS_POLICY__0__DIRECTION", "inbound,outbound"),
            ("SPOOLFS_POLICY__0__DISPOSITION", "SALE"),
            ("SPOOLFS_POLICY__0__EXTENSION", "2*"),
            ("SPOOLFS_POLICY__0__DURATION_MIN", "10s"),
            ("SPOOLFS_POLICY__0__DURATION_MAX", "1h"),
            ("SPOOLFS_POLICY__0__ARCHIVE_AFTER", "2m"),
            ("SPOOLFS_POLICY__0__KEEP_LOCAL", "3d"),
            ("SPOOLFS_POLICY__0__EXPIRE_AFTER", "1095d"),
            ("SPOOLFS_POLICY__0__EXPIRE_FROM", "call_end"),
            ("SPOOLFS_POLICY__0__WORM", "8d"),
            ("SPOOLFS_POLICY__0__WORM_MODE", "compliance"),
            ("SPOOLFS_POLICY__0__TARGETS", "t"),
            ("SPOOLFS_POLICY__0__DELETE_MODE", "refuse"),
            ("SPOOLFS_POLICY__0__STORAGE_CLASS", "GLACIER_IR"),
            ("SPOOLFS_POLICY__0__COMPRESS", "none"),
            ("SPOOLFS_POLICY__0__ENCRYPT_TO", AGE),
            ("SPOOLFS_RETENTION__MAX_DELETE_PER_DAY", "7%"),
            ("SPOOLFS_RETENTION__AUDIT_KEEP", "1461d"),
            ("SPOOLFS_ENCRYPTION__REQUIRE_LOCAL_ENCRYPTION", "true"),
            ("SPOOLFS_ENCRYPTION__LOCAL_KEY_FILE", "/local.key"),
        ],
    )
    .expect("from the environment alone");
    let rule = &config.policies[0];
    assert_eq!((rule.name.as_str(), rule.matches.path.texts().len()), ("sales", 2));
    assert_eq!(
        (rule.matches.direction.len(), rule.matches.list.texts()),
        (2, &["9001".into()][..])
    );
    assert_eq!(rule.treatment.archive_after, Some(Duration::from_secs(120)));
    let after = Duration::from_secs(1095 * 86_400);
    let from = spoolfs::policy::ExpireFrom::CallEnd;
    let worm = rule.treatment.worm.map(|worm| (worm.after, worm.mode.word()));
    assert_eq!(worm, Some((Duration::from_secs(8 * 86_400), "compliance")));
    assert_eq!(rule.treatment.expire, Some(spoolfs::policy::Expiry { after, from }));
    assert_eq!(rule.treatment.compress, None);
    assert_eq!(rule.treatment.storage_class.as_ref().map(|c| c.word()), Some("GLACIER_IR"));
    assert_eq!(config.targets[0].storage_class.as_ref().map(|c| c.word()), Some("STANDARD_IA"));
    assert_eq!(rule.treatment.delete_mode, spoolfs::policy::DeleteMode::Refuse);
    assert_eq!(rule.treatment.targets, spoolfs::policy::Targets::only(["t"]));
    assert_eq!(config.retention.max_delete_per_day.0, 7);
    assert_eq!(config.retention.audit_keep.to_string(), "1461d");
    let t = &config.targets[0];
    assert_eq!((t.required, t.allow_http, t.region.as_deref()), (false, true, Some("r")));
    assert_eq!(t.price, Some(spoolfs::units::Money(23_000)));
    assert_eq!(t.secret_access_key.as_ref().map(|s| s.expose()), Some("hunter2"));
    let (key_id, bucket_key) = (Some("alias/calls".to_owned()), Some(true));
    let context =
        [("pbx", "one"), ("for", "calls")].map(|(name, value)| (name.into(), value.into())).into();
    assert_eq!(t.sse, Some(spoolfs::store::s3::Sse::Kms { key_id, bucket_key, context }));
    assert_eq!(t.sse_c_key_file, Some("/sse.key".into()));
    assert_eq!(config.write_back.include, ["*.wav", "*.mp3"]);
    assert_eq!(config.write_back.uploads, 9);
    assert_eq!(config.write_back.keep_local, Age::Forever);
    assert_eq!(config.write_back.scrub_every, Age::For(Duration::from_secs(30 * 86_400)));
    assert!(config.write_back.repair_headers);
    let min_gain = spoolfs::units::Percent(33);
    assert_eq!(config.write_back.compress, Some(spoolfs::policy::Compress::Flac { min_gain }));
    let to = spoolfs::policy::SealTo::new(&[AGE]);
    assert_eq!((&config.write_back.encrypt_to, &rule.treatment.seal_to), (&to, &to));
    assert!(config.write_back.hide_names);
    assert_eq!(config.read.identity_file.as_deref(), Some(Path::new("/key")));
    let kept = (config.write_back.snapshot_every, config.write_back.snapshot_keep);
    assert_eq!(kept, (Age::For(Duration::from_secs(2 * 86_400)), 3));
    assert_eq!(config.cache.max_size, 1 << 30);
    let (mode, week) = (spoolfs::policy::DeleteMode::Keep, Duration::from_secs(7 * 86_400));
    assert_eq!((config.delete.mode, config.delete.trash_keep), (mode, Age::For(week)));
    let stitched = spoolfs::config::Stitched {
        enabled: false,
        directory: "2026/calls".into(),
        listed: false,
        layout: spoolfs::stitch::Layout::Stereo,
        rate: spoolfs::stitch::Rate::Highest,
        riff64: false,
        // True is refused where a rule names targets.
        archive: false,
        keep_expired: true,
    };
    assert_eq!(config.stitched, stitched);
    let stored = parse(&format!("{MINIMAL}[stitched]\narchive = true"));
    assert!(stored.expect("valid").stitched.archive);
    let listed = |text: &str| parse(&format!("{MINIMAL}{text}")).expect("valid").stitched.listed;
    let vicidial = "[calls]\npreset = \"vicidial\"\n";
    assert!(listed("") && listed("[calls]\npreset = \"freepbx\"\n") && !listed(vicidial));
    assert!(listed(&format!("{vicidial}[stitched]\nlisted = true")));
    let require = config.calls.as_ref().unwrap().require_cdr;
    assert_eq!(require, Some(Duration::from_secs(5 * 3600)));
    assert_eq!(config.read.recordings_per_minute, 7);
    assert_eq!(config.holds.settle, Duration::from_secs(2 * 3600));
    assert_eq!(config.holds.lift_grace, Duration::from_secs(3 * 86_400));
    assert!(config.holds.four_eyes);
    assert_eq!(config.metrics, Some("[::1]:9779".parse().expect("an address")));
    let encryption =
        spoolfs::config::Encryption { required: true, key_file: Some(PathBuf::from("/local.key")) };
    assert_eq!(config.encryption, encryption);
    assert_eq!(config.runtime_dir, Path::new("/run/x"));
    assert_eq!(config.drain_timeout, Duration::from_secs(5));
    assert!(!format!("{config:?}").contains("hunter2"));
    let source = include_str!("config.rs");
    for key in KEYS {
        assert!(source.contains(&format!("\"{}\"", key.variable())), "{} untested", key.path);
    }
}

#[test]
fn keys_may_come_from_a_command() {
    let set = [("SPOOLFS_READ__IDENTITY_COMMAND", "/usr/bin/vault,read,key")];
    let config = parse_with(MINIMAL, &set).expect("valid");
    assert_eq!(config.read.identity_command, ["/usr/bin/vault", "read", "key"]);
    let set = [
        ("SPOOLFS_TARGET__0__NAME", "a"),
        ("SPOOLFS_TARGET__0__URL", "s3://b"),
        ("SPOOLFS_TARGET__0__SSE_C_KEY_COMMAND", "/usr/bin/vault,read,key"),
    ];
    let config = parse_with(MINIMAL, &set).expect("valid");
    assert_eq!(config.targets[0].sse_c_key_command, ["/usr/bin/vault", "read", "key"]);
}

#[test]
fn targets_in_clouds_name_their_account_or_its_file() {
    let google = [
        ("SPOOLFS_TARGET__0__NAME", "g"),
        ("SPOOLFS_TARGET__0__URL", "gs://b/p"),
        ("SPOOLFS_TARGET__0__CREDENTIALS_FILE", "/etc/g.json"),
    ];
    let target = parse_with(MINIMAL, &google).expect("valid").targets.remove(0);
    assert_eq!(target.scheme, Scheme::Google);
    assert_eq!(target.credentials_file.as_deref(), Some(Path::new("/etc/g.json")));
    let azure = target_lines("az://c/p", "access_key_id = \"account\"");
    let target = parse(&azure).expect("its key may be in the environment").targets.remove(0);
    assert_eq!((target.scheme, target.access_key_id.as_deref()), (Scheme::Azure, Some("account")));
}

fn target_lines(url: &str, more: &str) -> String {
    target(&format!("name = \"a\"\nurl = \"{url}\"\n{more}"))
}

#[test]
fn the_environment_wins_over_the_file_and_is_named_in_errors() {
    let text = format!("{MINIMAL}[write_back]\narchive_after = \"5m\"\n");
    let set = |n, v| parse_with(&text, &[(n, v)]);
    let config = set("SPOOLFS_WRITE_BACK__ARCHIVE_AFTER", "7m").expect("fine");
    assert_eq!(config.write_back.archive_after, Age::For(Duration::from_secs(420)));
    for (name, value, want) in [
        (
            "SPOOLFS_WRITE_BACK__ARCHIVE_AFTER",
            "soon",
            "SPOOLFS_WRITE_BACK__ARCHIVE_AFTER: write_back.archive_after: \"soon\" is not a \
             duration; write for example \"90s\", \"5m\", \"24h\", \"7d\" or \"forever\"",
        ),
        (
            "SPOOLFS_MOUNTPOINT",
            "rec",
            "SPOOLFS_MOUNTPOINT: mountpoint \"rec\" is not an absolute path; begin it with \"/\"",
        ),
        (
            "SPOOLFS_TARGET__3__NAME",
            "x",
            "SPOOLFS_TARGET__3__NAME: target 4: name does not follow on those there are; number \
             them from 0 without a gap",
        ),
        (
            "SPOOLFS_WRITE_BACK__UPLOADS",
            "many",
            "SPOOLFS_WRITE_BACK__UPLOADS: \"many\" is not a whole number; write for example 4",
        ),
    ] {
        assert_eq!(set(name, value).expect_err(name).to_string(), want);
    }
}

#[test]
fn unknown_variables_are_warned_about_and_those_of_others_are_not() {
    let config = parse_with(
        MINIMAL,
        &[
            ("SPOOLFS_LOG", "debug"),
            ("SPOOLFS_TEST_SERVER", "x"),
            ("PATH", "/bin"),
            ("SPOOLFS_NODDE", "x"),
            ("SPOOLFS_TARGET__NAME", "x"),
            ("SPOOLFS_WRITE_BACK", "x"),
        ],
    )
    .expect("only warnings");
    assert_eq!(
        config.warnings,
        [
            "SPOOLFS_NODDE sets no known key; did you mean node?",
            "SPOOLFS_TARGET__NAME sets no known key; it is ignored",
            "SPOOLFS_WRITE_BACK sets no known key; it is ignored",
        ]
    );
}

#[test]
fn a_target_from_the_environment_follows_those_of_the_file() {
    let text = target("name = \"a\"\nurl = \"s3://a\"");
    let variables = [
        ("SPOOLFS_TARGET__0__REGION", "eu"),
        ("SPOOLFS_TARGET__1__URL", "s3://b"),
        ("SPOOLFS_TARGET__1__NAME", "b"),
    ];
    let config = parse_with(&text, &variables).expect("two targets");
    let names: Vec<_> = config.targets.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(config.targets[0].region.as_deref(), Some("eu"));
    assert!(config.targets.iter().all(|t| t.required));
}

#[test]
fn a_secret_is_in_no_error() {
    let text =
        target("name = \"a\"\nurl = \"s3://b\"\naccess_key_id = \"k\"\nsecret_access_key = 4711");
    let error = parse(&text).expect_err("a number");
    assert_eq!(
        error.to_string(),
        "f.toml:7:1: target 1: secret_access_key is not text; write it in quotes"
    );
}

#[test]
fn doubtful_targets_are_warned_about() {
    let text = target(
        "name = \"a\"\nurl = \"s3://x\"\nrequired = false\n[[target]]\nname = \"b\"\nurl = \
         \"s3://x\"\nrequired = false",
    );
    assert_eq!(
        parse(&text).expect("legal").warnings,
        [
            "targets \"a\" and \"b\" are the same place: that is one copy, not two",
            "no target is required, so no local copy is ever released",
        ]
    );
    let text = format!("{MINIMAL}[retention]\naudit_keep = \"365d\"");
    assert_eq!(
        parse(&text).expect("legal").warnings,
        [
            "retention.audit_keep lets no line leave the audit log: there is no target to be told of it \
          first; configure a [[target]]"
        ]
    );
}

#[test]
fn a_secret_in_a_readable_file_is_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("c.toml");
    let lines = "name = \"a\"\nurl = \"s3://b\"\naccess_key_id = \"k\"\nsecret_access_key = \"s\"";
    std::fs::write(&file, target(lines)).expect("write");
    for (mode, warnings) in [(0o644, 1), (0o600, 0)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("chmod");
        let config = Config::load(&file, &Environment::default(), &Overrides::default());
        assert_eq!(config.expect("load").warnings.len(), warnings);
    }
}

#[test]
fn two_state_directories_of_one_name_do_not_share_a_runtime_directory() {
    let of = |state: &str| {
        let text = format!("mountpoint = \"/srv/rec\"\nstate_dir = \"{state}\"\n");
        parse(&text).expect("fine").runtime_dir
    };
    assert_eq!(of("/var/lib/spoolfs/monitor"), Path::new("/run/spoolfs/monitor"));
    assert_ne!(of("/a/state"), of("/b/state"));
    assert!(of("/a/state").starts_with("/run/spoolfs"));
}

#[test]
fn a_change_that_needs_a_restart_is_named() {
    let old = parse(MINIMAL).expect("minimal");
    assert!(old.changes_needing_restart(&old.clone()).is_empty());
    let text = format!(
        "{MINIMAL}node = \"other\"\n[write_back]\narchive_after = \"1m\"\n[cache]\ndir = \"/c\""
    );
    let new = parse(&text).expect("fine");
    assert_eq!(old.changes_needing_restart(&new), ["node", "cache"]);
}

#[test]
fn a_missing_file_is_said_so() {
    let file = Path::new("/nonexistent/spoolfs.toml");
    let error = Config::load(file, &Environment::default(), &Overrides::default());
    assert_eq!(
        error.expect_err("missing").to_string(),
        "/nonexistent/spoolfs.toml: cannot be read: no such file or directory; give the right \
         file with --config"
    );
}

#[test]
fn the_annotated_example_is_valid_and_mentions_every_key_with_its_default() {
    let example = read("config/spoolfs.toml");
    parse(&example).expect("as it is");
    // With every example line in force it must be valid too.
    let assignment = |line: &str| {
        let rest = line.strip_prefix("# ")?;
        let name = rest.split(" = ").next().filter(|_| rest.contains(" = "))?;
        name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_').then(|| rest.to_owned())
    };
    // The rules are an example as a whole.
    let table =
        |line: &str| Some(line.strip_prefix("# ")?.to_owned()).filter(|l| l == "[[policy]]");
    let in_force = |line: &str| assignment(line).or_else(|| table(line));
    let all: String =
        example.lines().map(|l| in_force(l).unwrap_or_else(|| l.to_owned()) + "\n").collect();
    // Which target has which of the keys depends on its kind.
    let of = |url: &str, without: &[&str]| {
        let all = all.replace("file:///srv/recordings-archive", url);
        let kept = all.lines().filter(|line| !without.iter().any(|key| line.starts_with(key)));
        kept.map(|line| format!("{line}\n")).collect::<String>()
    };
    parse(&of("s3://bucket/prefix", &["credentials_file"])).expect("with every line in force");
    let s3_only = ["storage_class", "sse"];
    let keys = [&["credentials_file"][..], &s3_only].concat();
    parse(&of("az://container/prefix", &keys)).expect("of Azure");
    let keys = [&["access_key_id", "secret_access_key"][..], &s3_only].concat();
    parse(&of("gs://bucket/prefix", &keys)).expect("of Google");
    for key in KEYS {
        let name = key.path.rsplit('.').next().unwrap_or_default();
        // Two tables may have a key of one name.
        let named = |l: &&str| l.strip_prefix("# ").unwrap_or(l).starts_with(&format!("{name} = "));
        let lines: Vec<&str> = example.lines().filter(named).collect();
        assert!(!lines.is_empty(), "{} is not mentioned", key.path);
        let right = lines.iter().any(|line| line.ends_with(key.default));
        assert!(right, "{lines:?}: the default of {} is {}", key.path, key.default);
    }
}

#[test]
fn the_document_names_every_key_its_variable_and_its_default() {
    let document = read("docs/CONFIGURATION.md");
    for key in KEYS {
        let name = key.path.rsplit('.').next().unwrap_or_default();
        let start = format!("| `{name}` | ");
        let variable = format!("`{}`", key.variable());
        let row = document.lines().find(|l| l.starts_with(&start) && l.contains(&variable));
        let row = row.unwrap_or_else(|| panic!("no row for {}", key.path));
        if !key.default.is_empty() {
            assert!(row.starts_with(&format!("{start}`{}`", key.default)), "{row}");
        }
    }
}

#[test]
fn the_unit_hides_no_mount_and_keeps_its_promises() {
    let unit = read("systemd/spoolfs@.service");
    let settings: Vec<(&str, &str)> = unit
        .lines()
        .filter(|l| !l.starts_with('#') && !l.starts_with('['))
        .filter_map(|l| l.split_once('='))
        .collect();
    // Each of these gives the unit a mount namespace of its own, or keeps it from starting.
    let hiding = [
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "PrivateMounts",
        "PrivateIPC",
        "MountFlags",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
        "BindPaths",
        "BindReadOnlyPaths",
        "TemporaryFileSystem",
        "PrivateDevices",
        "PrivateUsers",
        "PrivateNetwork",
        "DynamicUser",
        "RootDirectory",
        "RootImage",
        "MountAPIVFS",
    ];
    for (name, _) in &settings {
        assert!(!hiding.contains(name), "{name} hides the mount or stops the start");
    }
    for (name, value) in [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("ExecStart", "/usr/bin/spoolfs mount --config /etc/spoolfs/%i.toml"),
        ("Restart", "always"),
        ("RestartSec", "100ms"),
        ("StartLimitIntervalSec", "5"),
        ("StartLimitBurst", "10"),
        ("OnFailure", "spoolfs-bypass@%i.service"),
        ("RestartKillSignal", "SIGUSR1"),
        ("TimeoutStartFailureMode", "kill"),
        (
            "ExecStopPost",
            "/usr/bin/spoolfs bypass --config /etc/spoolfs/%i.toml --unless-restarting %n",
        ),
        ("RuntimeDirectoryPreserve", "yes"),
        ("RuntimeDirectory", "spoolfs/%i"),
        ("StateDirectory", "spoolfs/%i"),
    ] {
        assert!(settings.contains(&(name, value)), "{name}={value} is missing");
    }
    let has = |name: &str, part: &str| {
        settings.iter().any(|(n, v)| *n == name && v.split(' ').any(|w| w == part))
    };
    assert!(has("Before", "asterisk.service"));
    assert!(has("SystemCallFilter", "@mount"));
    assert!(has("CapabilityBoundingSet", "CAP_SYS_ADMIN"));
    // Without it setfsuid(2) does nothing, silently, and calls take the blocks reserved for root.
    assert!(has("CapabilityBoundingSet", "CAP_SETUID"));
    assert!(settings.iter().any(|(n, _)| *n == "FileDescriptorStoreMax"));
    assert!(settings.iter().any(|(n, _)| *n == "OOMScoreAdjust"));
    // The unit's directories are those that the program expects for its instance.
    let config = parse("mountpoint = \"/srv/rec\"\nstate_dir = \"/var/lib/spoolfs/x\"\n");
    assert_eq!(config.expect("fine").runtime_dir, PathBuf::from("/run/spoolfs/x"));
}

#[test]
fn a_rule_seals_to_its_own_keys_or_not_at_all_and_all_together_are_bounded() {
    let key = || age::x25519::Identity::generate().to_public().to_string();
    let list = |keys: &[String]| format!("{keys:?}");
    let (mount, own) = ([key()], [key(), key()]);
    let text = format!(
        "{MINIMAL}[write_back]\nencrypt_to = {}\n\
         [[policy]]\nname = \"own\"\npath = [\"a\"]\nencrypt_to = {}\n\
         [[policy]]\nname = \"plain\"\npath = [\"b\"]\nencrypt_to = []\n\
         [[policy]]\nname = \"usual\"\npath = [\"c\"]\n",
        list(&mount),
        list(&own)
    );
    let config = parse(&text).expect("it is right");
    let to = |keys: &[String]| spoolfs::policy::SealTo::new(keys);
    let rules: Vec<_> = config.policies.iter().map(|p| p.treatment.seal_to.clone()).collect();
    assert_eq!(rules, [to(&own), None, to(&mount)]);
    let places: Vec<String> = config.sealed_to().into_iter().map(|(place, _)| place).collect();
    assert_eq!(places, ["[write_back]", "policy \"own\""]);
    let one = format!(
        "{MINIMAL}[write_back]\nhide_names = true\n[[policy]]\nname = \"a\"\nencrypt_to = "
    );
    assert!(
        parse(&format!("{one}{}\n", list(&own))).expect("one rule seals").write_back.hide_names
    );
    parse(&format!("{one}[]\n")).expect_err("nothing is sealed");
    let many: Vec<String> = std::iter::repeat_with(key).take(20).collect();
    let text = format!(
        "{MINIMAL}[write_back]\nencrypt_to = {}\n[[policy]]\nname = \"a\"\nencrypt_to = {}\n",
        list(&mount),
        list(&many)
    );
    let error = parse(&text).expect_err("too many").to_string();
    assert!(error.contains("more than 20 different keys of all rules; use fewer"), "{error}");
}
