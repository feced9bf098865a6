//! `[[policy]]` on a mount, with the records of real calls.

mod support;

use serde_json::Value;
use std::time::{Duration, Instant};
use support::mount::{Mount, Setup, Target};
use support::seaweedfs::SeaweedFs;
use support::{fixture, fixtures, no_mount};

/// The columns of the fixture of cdr_custom.
const COLUMNS: &str = "start clid src dst dcontext channel dstchannel - - duration billsec \
    disposition - accountcode uniqueid - did recordingfile - - linkedid - sequence start answer end";

const RULES: &str = r#"
[[policy]]
name = "notes"
path = ["*.txt"]
archive_after = "0s"

[[policy]]
name = "callers-1"
accountcode = ["acct1"]
number = ["2079460001"]
archive_after = "1s"
keep_local = "forever"
"#;

fn explained(mount: &Mount, path: &str) -> Value {
    let path = mount.path(path);
    let ran = mount.cli(["explain", "--json", path.to_str().expect("plain")]);
    assert_eq!(ran.status.code(), Some(0), "{}{}", ran.out, ran.err);
    serde_json::from_str(&ran.out).expect("one document")
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + support::look::PATIENCE;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn each_recording_of_a_real_call_gets_its_rule_and_explain_says_which() {
    if no_mount("each_recording_of_a_real_call_gets_its_rule_and_explain_says_which") {
        return;
    }
    let columns: Vec<_> = COLUMNS.split(' ').map(|c| format!("{c:?}")).collect();
    let end = format!(
        "{RULES}\n[calls]\nquiet = \"1s\"\ntime_zone = \"UTC\"\nsource = \"csv\"\npath = {:?}\n\
         columns = [{}]\n",
        fixture("cdr/custom-Master.csv"),
        columns.join(", ")
    );
    let mount = Setup { archive_after: "forever".into(), end, ..Setup::default() }.mount();
    for path in fixtures("monitor") {
        let to = mount.path(&path);
        std::fs::create_dir_all(to.parent().expect("a parent")).expect("mkdir");
        std::fs::copy(fixture("monitor").join(&path), to).expect("copy");
    }
    std::fs::write(mount.path("note.txt"), "a note").expect("written");
    let of = |caller: &str| {
        let all = fixtures("monitor");
        let found = all.iter().find(|p| p.to_string_lossy().contains(caller)).expect("a fixture");
        found.to_str().expect("plain").to_owned()
    };
    let (first, second) = (of("external-3001-02079460001"), of("external-3002-02079460002"));
    eventually("the records of both are known", || {
        explained(&mount, &second)["rule"] == "the mount's"
            && explained(&mount, &first)["rule"] == "\"callers-1\""
    });
    eventually("what its rule says is archived", || {
        explained(&mount, &first)["state"] == "archived"
            && explained(&mount, "note.txt")["state"] == "archived"
    });
    let said = explained(&mount, &first);
    let reasons = said["reasons"].to_string();
    assert!(reasons.contains("accountcode") && reasons.contains("acct1"), "{reasons}");
    assert!(reasons.contains("forever"), "{reasons}");
    assert_eq!(explained(&mount, "note.txt")["rule"], "\"notes\"");
    let said = explained(&mount, &second);
    assert!(said["reasons"].to_string().contains("none of [[policy]] fits"), "{said}");
    // In words, too.
    let ran = mount.cli(["explain", mount.path("note.txt").to_str().expect("plain")]);
    assert!(ran.out.contains("Rule: \"notes\", because of path \"*.txt\"."), "{}", ran.out);
}

/// A second target beside the mount's, that need not hold anything, and these rules.
fn with_a_second_target(rules: &str) -> (Mount, tempfile::TempDir) {
    let second = tempfile::tempdir().expect("a directory");
    let end = format!(
        "[[target]]\nname = \"second\"\nurl = \"file://{}\"\nrequired = false\n{rules}",
        second.path().display()
    );
    let keep_local = "0s".to_owned();
    (Setup { archive_after: "0s".into(), keep_local, end, ..Setup::default() }.mount(), second)
}

#[test]
fn recordings_are_in_the_targets_of_their_rule_and_read_from_there() {
    if no_mount("recordings_are_in_the_targets_of_their_rule_and_read_from_there") {
        return;
    }
    let (mount, _second) = with_a_second_target(
        "[[policy]]\nname = \"abroad\"\npath = [\"abroad-*\"]\ntargets = [\"second\"]\n\
         [[policy]]\nname = \"both\"\npath = [\"both-*\"]\ntargets = [\"archive\", \"second\"]\n",
    );
    for name in ["abroad-1.wav", "both-1.wav", "usual.wav"] {
        std::fs::write(mount.path(name), format!("the bytes of {name}")).expect("written");
    }
    eventually("they are released", || {
        ["abroad-1.wav", "both-1.wav", "usual.wav"]
            .iter()
            .all(|name| explained(&mount, name)["state"] == "released")
    });
    let holders = |name: &str| -> Vec<String> {
        let said = explained(&mount, name);
        let objects = said["objects"].as_array().expect("objects");
        let of = |o: &Value| o["url"].as_str().expect("a URL").trim_start_matches("file://").into();
        let files = objects.iter().map(of).collect::<Vec<String>>();
        let whole =
            |file: &String| std::fs::read_to_string(file).expect("an object").contains(name);
        assert!(files.iter().all(whole), "{said:#}");
        objects.iter().map(|o| o["target"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(holders("abroad-1.wav"), ["second"]);
    assert_eq!(holders("both-1.wav"), ["archive", "second"]);
    let said = explained(&mount, "abroad-1.wav");
    assert_eq!(said["must"], serde_json::json!(["second"]), "{said:#}");
    assert_eq!(explained(&mount, "usual.wav")["must"], serde_json::json!(["archive"]));
    let read = std::fs::read_to_string(mount.path("abroad-1.wav")).expect("it is read back");
    assert_eq!(read, "the bytes of abroad-1.wav");
}

#[test]
fn a_real_server_is_given_the_storage_class_of_the_rule_or_else_of_the_target() {
    if no_mount("a_real_server_is_given_the_storage_class_of_the_rule_or_else_of_the_target") {
        return;
    }
    let Some(server) = SeaweedFs::start() else { return };
    let bucket = server.new_bucket();
    let target = Target::S3 {
        url: format!("s3://{bucket}"),
        endpoint: server.endpoint(),
        id: SeaweedFs::ACCESS_KEY.to_owned(),
        secret: SeaweedFs::SECRET_KEY.to_owned(),
    };
    // The first line belongs to the target.
    let end = "storage_class = \"STANDARD_IA\"\n[[policy]]\nname = \"old\"\npath = [\"old-*\"]\n\
               storage_class = \"GLACIER_IR\"\n";
    let mount = Setup { target, end: end.into(), ..Setup::default() }.mount();
    for name in ["old-1.wav", "usual.wav"] {
        std::fs::write(mount.path(name), format!("the bytes of {name}")).expect("written");
    }
    mount.cli(["archive".as_ref(), mount.mountpoint.as_os_str()]).ok();
    let client = server.client();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let class_of = |key: &str| {
        let head = runtime.block_on(client.head_object().bucket(&bucket).key(key).send());
        head.expect("it is there").storage_class().map(|class| class.as_str().to_owned())
    };
    let key = |name: &str| explained(&mount, name)["objects"][0]["key"].as_str().map(str::to_owned);
    let class = |name: &str| class_of(&key(name).expect("an object"));
    assert_eq!(class("old-1.wav").as_deref(), Some("GLACIER_IR"));
    assert_eq!(class("usual.wav").as_deref(), Some("STANDARD_IA"));
    assert_eq!(class_of(".spoolfs/archive.json"), None, "what is no recording has none");
}
