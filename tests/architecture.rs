//! The house rules that a compiler does not know, read from the sources themselves.
//!
//! Which way imports point, where unsafe code, the clock and the removal of files may stand, how
//! long a file may get, and that documents name tests that exist. Each rule is also given a source
//! that breaks it, to show that it would notice.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "support/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use source::{Source, test_names};

/// The rooms from the edge down. A room may import from rows below its own.
const ROWS: &[Row] = &[
    Row { rooms: &["main", "lib", "cli", "daemon"], apart: false },
    Row { rooms: &["fuse", "control", "http", "config"], apart: false },
    Row { rooms: &["vfs", "engine", "fsck", "fscrypt", "rebuild"], apart: true },
    Row { rooms: &["stitch"], apart: true },
    Row { rooms: &["content"], apart: true },
    Row { rooms: &["audit", "lower", "catalog", "store", "calls"], apart: true },
    Row { rooms: &["policy", "codec"], apart: true },
    Row {
        rooms: &[
            "recording",
            "clock",
            "faults",
            "limits",
            "private_file",
            "units",
            "telemetry",
            "sys",
        ],
        apart: false,
    },
];

/// One row of rooms; where they are `apart` they know nothing of each other.
struct Row {
    rooms: &'static [&'static str],
    apart: bool,
}

/// An exception to a rule: the file (or room, with a slash at its end) and why.
type Exception = (&'static str, &'static str);

const CLOCK: &[Exception] = &[("clock.rs", "the one place that reads the system's clock")];

const REMOVAL: &[Exception] = &[
    ("lower/", "owns the lower directory; recordings go only with a permit"),
    ("store/", "owns what a target holds"),
    ("catalog/", "owns the state directory"),
    ("audit/", "its own files, when a line stands for them; its own key that a crash had cut"),
    ("calls/", "its own cache"),
    ("content/cache.rs", "owns the disk cache"),
    ("control/", "its own socket"),
    ("cli/check/", "the probe files it made itself"),
    ("cli/import/", "sources that are archived, when told to"),
    ("cli/keeper/", "its own socket"),
    ("daemon/alarm.rs", "its own note"),
    ("fscrypt/", "what was moved and seen to be there"),
    ("vfs/noted.rs", "notes of listings, in the runtime directory"),
];

const UNSAFE: &[Exception] = &[("sys/", "the one room for what no safe interface offers")];

const LINES_MAX: usize = 500;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let sources = Source::read_below(&repository().join("src"));
    assert!(sources.len() > 10, "only {} sources found: looked in the wrong place", sources.len());
    sources
}

fn row_of(room: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.rooms.contains(&room))
}

fn excepted(source: &Source, exceptions: &[Exception]) -> bool {
    exceptions.iter().any(|(place, _)| {
        source.path == *place || (place.ends_with('/') && source.path.starts_with(place))
    })
}

fn holds(rule: &str, violations: Vec<String>) {
    assert!(violations.is_empty(), "{rule}\n{}", violations.join("\n"));
}

fn imports_point_down(source: &Source) -> Vec<String> {
    let room = source.room();
    let Some(own) = row_of(room) else {
        return vec![format!("{}: the room {room} has no place in ROWS", source.path)];
    };
    if room == "lib" {
        return Vec::new();
    }
    let wrong = |(line, other): &(usize, String)| {
        if other == room {
            return None;
        }
        // What is no room is an item that the crate's root exports again.
        let row = row_of(other)?;
        let why = if row < own {
            "is above it"
        } else if row == own && ROWS[row].apart {
            "stands beside it and must not be known to it"
        } else {
            return None;
        };
        Some(format!("{}:{line}: {room} imports {other}, which {why}", source.path))
    };
    source.crate_paths().iter().filter_map(wrong).collect()
}

fn stays_in(
    source: &Source,
    words: &[&str],
    exceptions: &[Exception],
    whole_file: bool,
) -> Vec<String> {
    if excepted(source, exceptions) {
        return Vec::new();
    }
    let code = if whole_file { source.code() } else { source.shipped() };
    words
        .iter()
        .flat_map(|word| source::find(code, word))
        .map(|(line, word)| format!("{}:{line}: {word} has no place here", source.path))
        .collect()
}

fn unsafe_stays_in_sys(source: &Source) -> Vec<String> {
    stays_in(source, &["unsafe"], UNSAFE, true)
}

fn time_is_injected(source: &Source) -> Vec<String> {
    stays_in(source, &["SystemTime::now"], CLOCK, false)
}

fn removal_has_a_home(source: &Source) -> Vec<String> {
    let words = ["remove_file", "remove_dir", "remove_dir_all", "unlinkat", "unlink"];
    stays_in(source, &words, REMOVAL, false)
}

fn nothing_panics(source: &Source) -> Vec<String> {
    let words = [".unwrap()", ".expect(", "panic!(", "unreachable!(", "unimplemented!("];
    stays_in(source, &words, &[], false)
}

fn files_stay_short(source: &Source) -> Vec<String> {
    let lines = source.lines_of_code();
    if lines <= LINES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines of code, {LINES_MAX} is the limit", source.path)]
}

fn every(rule: fn(&Source) -> Vec<String>) -> Vec<String> {
    sources().iter().flat_map(rule).collect()
}

#[test]
fn imports_point_down_only() {
    holds("a room imports only from the rows below its own", every(imports_point_down));
}

#[test]
fn unsafe_code_stays_in_sys() {
    holds("unsafe code stands in src/sys alone", every(unsafe_stays_in_sys));
}

#[test]
fn the_clock_is_read_in_one_place() {
    holds("time is injected; see CLOCK for the exceptions", every(time_is_injected));
}

#[test]
fn files_are_removed_in_few_places() {
    holds("see REMOVAL for the rooms that remove files", every(removal_has_a_home));
}

#[test]
fn what_the_daemon_runs_does_not_panic() {
    holds("errors are returned, not panicked about", every(nothing_panics));
}

#[test]
fn source_files_stay_short() {
    holds("a long file holds more than one thing", every(files_stay_short));
}

/// Unfinished work is an issue, not a comment.
#[test]
fn nothing_is_left_for_later() {
    let mut found = Vec::new();
    for folder in ["src", "tests", "examples", "scripts", "docs", "config", "systemd"] {
        for path in source::files_below(&repository().join(folder)) {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            found.extend(left_for_later(&path, &text));
        }
    }
    holds("open an issue instead", found);
}

fn left_for_later(path: &Path, text: &str) -> Vec<String> {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if words.iter().any(|word| line.contains(word)) {
            found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
        }
    }
    found
}

/// List items under "Invariants" that name no test, or one that is not there.
fn untested(document: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for item in source::items_under(document, "Invariants") {
        let first = item.text.lines().next().unwrap_or_default();
        if item.tests.is_empty() {
            found.push(format!("line {}: names no test: {first}", item.line));
        }
        let missing = item.tests.iter().filter(|test| !tests.contains(**test));
        found.extend(missing.map(|test| format!("line {}: there is no test {test}", item.line)));
    }
    found
}

#[test]
fn every_invariant_names_a_test() {
    let path = repository().join("docs/ARCHITECTURE.md");
    let document = std::fs::read_to_string(&path).expect("docs/ARCHITECTURE.md is there");
    let items = source::items_under(&document, "Invariants").len();
    assert!(items > 5, "docs/ARCHITECTURE.md states only {items} invariants");
    holds("docs/ARCHITECTURE.md", untested(&document, &all_tests()));
}

#[test]
fn every_heading_of_the_semantics_names_a_test() {
    let path = repository().join("docs/SEMANTICS.md");
    let document = std::fs::read_to_string(&path).expect("docs/SEMANTICS.md is there");
    let sections = source::sections(&document);
    assert!(sections.len() > 5, "docs/SEMANTICS.md has only {} headings", sections.len());
    let tests = all_tests();
    let found = sections.iter().flat_map(|section| untested_section(section, &tests)).collect();
    holds("docs/SEMANTICS.md", found);
}

fn untested_section(section: &source::Section<'_>, tests: &BTreeSet<String>) -> Vec<String> {
    if section.tests.is_empty() {
        return vec![format!("line {}: {} names no test", section.line, section.heading)];
    }
    let missing = section.tests.iter().filter(|test| !tests.contains(**test));
    missing.map(|test| format!("{}: there is no test {test}", section.heading)).collect()
}

fn all_tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["src", "tests"] {
        for source in Source::read_below(&repository().join(folder)) {
            names.extend(test_names(&source));
        }
    }
    assert!(names.contains("all_tests_are_found"), "the tests are not found: {names:?}");
    names
}

/// The names that a hook of `faults` is called with in the sources, sorted.
fn hooks(sources: &[Source], hook: &str) -> Vec<String> {
    let named = |source: &Source| source.literals_in(&format!("faults::{hook}("));
    let mut names: Vec<String> = sources.iter().flat_map(named).collect();
    names.sort();
    names
}

#[test]
fn fault_hooks_are_those_that_are_listed() {
    let mut sources = sources();
    sources.retain(|source| source.path != "faults.rs");
    assert_eq!(hooks(&sources, "point"), spoolfs::faults::POINTS, "POINTS of src/faults.rs");
    assert_eq!(hooks(&sources, "fail"), spoolfs::faults::SITES, "SITES of src/faults.rs");

    let text = "fn a() { faults::point(\"x.y\"); }\n// faults::point(\"no\")\n\
                fn b() { faults::point(name); crate::faults::fail(\"z\")?; }";
    let found = [Source::parse("a.rs", text)];
    assert_eq!(hooks(&found, "point"), ["", "x.y"], "one that is not named would be found");
    assert_eq!(hooks(&found, "fail"), ["z"]);
}

#[test]
fn all_tests_are_found() {
    let source = Source::parse(
        "x.rs",
        "#[test]\nfn one() {}\n#[tokio::test(a = 1)]\nasync fn two() {}\nfn no() {}\n// #[test]\nfn neither() {}",
    );
    assert_eq!(test_names(&source), ["one", "two"]);
}

#[test]
fn a_module_for_tests_ships_nothing() {
    let mut sources = vec![
        Source::parse("lower/mod.rs", "mod a;\n#[cfg(test)]\nmod tests;\nmod x { fn f() {} }"),
        Source::parse("lower/a.rs", "#[cfg(test)]\nmod b;\nfn a() {}"),
        Source::parse("lower/tests.rs", "fn t() {}"),
        Source::parse("lower/a/b.rs", "fn t() {}"),
    ];
    source::mark_tests(&mut sources);
    let ships: Vec<_> = sources.iter().map(|source| !source.shipped().trim().is_empty()).collect();
    assert_eq!(ships, [true, true, false, false]);
}

#[test]
fn an_upward_import_would_be_found() {
    let cases = [
        ("lower/mod.rs", "use crate::vfs::Vfs;", 1),
        ("lower/a.rs", "use crate::{clock::Clock, catalog::{Row, engine}};", 1),
        ("vfs/open.rs", "fn f() { crate::engine::wake() }", 1),
        ("engine/mod.rs", "use crate::vfs::Vfs;", 1),
        ("store/s3/mod.rs", "use crate::config::Config;", 1),
        ("catalog/log.rs", "use super::super::fuse::X;", 1),
        ("sys/mod.rs", "use super::recording::X; use super::lower::Y;", 1),
        ("attic/mod.rs", "", 1),
        (
            "vfs/mod.rs",
            "use crate::{\n    catalog::Catalog,\n    lower::Lower,\n};\nuse self::a::b;",
            0,
        ),
        (
            "catalog/mod.rs",
            "// crate::vfs is above\n/* crate::fuse */ const A: &str = \"crate::cli\";",
            0,
        ),
        (
            "catalog/mod.rs",
            "#[cfg(test)]\nmod tests {\n use crate::vfs::Vfs;\n}\nuse crate::clock::X;",
            0,
        ),
        ("vfs/a.rs", "use super::engine; use super::b::C;", 0),
        ("daemon.rs", "use crate::engine::E; use crate::vfs::V; use crate::cli::A;", 0),
    ];
    for (path, text, violations) in cases {
        let found = imports_point_down(&Source::parse(path, text));
        assert_eq!(found.len(), violations, "{path}: {text}: {found:?}");
    }
}

#[test]
fn a_broken_house_rule_would_be_found() {
    type Rule = fn(&Source) -> Vec<String>;
    let long = "let a = 1;\n".repeat(LINES_MAX + 1);
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{long}}}\n// {}", &long[..11], &long[..10]);
    let cases: &[(Rule, &str, &str, usize)] = &[
        (unsafe_stays_in_sys, "vfs/mod.rs", "unsafe { x() }", 1),
        (unsafe_stays_in_sys, "sys/mod.rs", "unsafe { x() }", 0),
        (unsafe_stays_in_sys, "vfs/mod.rs", "// unsafe\nlet unsafety = \"unsafe\";", 0),
        (unsafe_stays_in_sys, "vfs/a.rs", "#[cfg(test)]\nmod t { fn a() { unsafe {} } }", 1),
        (time_is_injected, "engine/a.rs", "let t = std::time::SystemTime::now();", 1),
        // A deadline is no date.
        (time_is_injected, "engine/a.rs", "let t = std::time::Instant::now();", 0),
        (time_is_injected, "clock.rs", "SystemTime::now()", 0),
        (
            time_is_injected,
            "engine/a.rs",
            "#[cfg(test)]\nmod t { fn a() { SystemTime::now() } }",
            0,
        ),
        (removal_has_a_home, "vfs/a.rs", "rustix::fs::unlinkat(d, n, f)?;", 1),
        (removal_has_a_home, "vfs/a.rs", "std::fs::remove_file(p)?;", 1),
        (removal_has_a_home, "vfs/a.rs", "self.lower.unlink(p)?; fn unlink(&self) {}", 0),
        (removal_has_a_home, "lower/a.rs", "unlinkat(d, n, f)?;", 0),
        (nothing_panics, "fuse/a.rs", "a.unwrap(); b.expect(\"why\"); panic!(\"x\")", 3),
        (nothing_panics, "fuse/a.rs", "a.unwrap_or(1); '\"'; a.expect_err(); r#\".unwrap()\"#;", 0),
        (
            nothing_panics,
            "fuse/a.rs",
            "#[cfg(test)]\nfn f() { a.unwrap() }\nfn g() { b.unwrap() }",
            1,
        ),
        (files_stay_short, "fuse/a.rs", &long, 1),
        (files_stay_short, "fuse/a.rs", &tested, 0),
    ];
    for (rule, path, text, violations) in cases {
        let found = rule(&Source::parse(path, text));
        let start: String = text.chars().take(80).collect();
        assert_eq!(found.len(), *violations, "{path}: {start}: {found:?}");
    }
}

#[test]
fn a_document_without_its_tests_would_be_found() {
    let tests = BTreeSet::from(["real".to_owned()]);
    let invariants = "# A\n- no rule\n## Invariants\nText.\n- **A.**\n  Test: `real`\n- **B.**\n\n- **C.** Tests: `real`,\n  `gone`\n## Other\n- no rule";
    assert_eq!(source::items_under(invariants, "Invariants").len(), 3);
    let found = untested(invariants, &tests);
    assert_eq!(found.len(), 2, "{found:?}");

    let document = "# Title\n\n## One\nText.\n\nTest: `real`\n## Two\nText.\n```\n# no heading\n```\n## Three\nTests: `real`,\n`gone`";
    let sections = source::sections(document);
    let found: Vec<_> =
        sections.iter().flat_map(|section| untested_section(section, &tests)).collect();
    assert_eq!(found.len(), 2, "{found:?}");

    let marked = format!("fn a() {{}} // {}: later", concat!("TO", "DO"));
    assert_eq!(left_for_later(Path::new("a.rs"), &marked).len(), 1);
}
