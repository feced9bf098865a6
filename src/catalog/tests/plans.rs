//! The queries that run all the time are answered from indexes.

use super::*;
use crate::catalog::{due::queries, list, schema, trash, unsynced};

fn plan(conn: &rusqlite::Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect(sql);
    let count = statement.parameter_count();
    let rows = statement.query_map(rusqlite::params_from_iter(vec![1; count]), |r| r.get(3));
    rows.expect(sql).map(|r| r.expect(sql)).collect()
}

#[test]
fn frequent_queries_neither_scan_nor_sort() {
    let place = Place::new();
    place.open().close();
    let conn = schema::open_reader(&place.database()).expect("opens");
    let others = [
        "SELECT seq, at, line FROM journal WHERE seq >
            ifnull((SELECT seq FROM journal_mark WHERE target = ?1), 0) ORDER BY seq LIMIT ?2",
        "SELECT parent, name FROM entry WHERE node = ?1 ORDER BY id LIMIT ?2",
        "SELECT node FROM entry WHERE parent = ?1 AND name = ?2",
        "SELECT 1 FROM object WHERE node = ?1 AND generation = ?2 AND target = ?3 AND state = 2",
    ];
    let made = [
        queries::hash_recorded(),
        queries::hash_adopted(),
        queries::archive(),
        queries::archive_newest(),
        queries::release(),
        queries::left_recording(),
        queries::suspect(),
        queries::group(),
        queries::children(),
        list::released_sql(),
    ];
    for sql in others.into_iter().chain(made.iter().map(String::as_str)) {
        for step in plan(&conn, sql) {
            let index_only = step.starts_with("SCAN") && step.contains("INDEX");
            assert!(!step.starts_with("SCAN") || index_only, "{sql}\n{step}");
            let sorts = step.contains("TEMP B-TREE");
            assert!(!sorts, "{sql}\n{step}");
        }
    }
    // Only what had the same path is sorted.
    let steps = plan(&conn, &trash::below_sql());
    assert!(steps[0].contains("trash_path (path>? AND path<?)"), "{steps:?}");
    assert!(!steps.iter().any(|step| step == "USE TEMP B-TREE FOR ORDER BY"), "{steps:?}");
    for sql in unsynced::SUSPECT_ALL {
        let steps = plan(&conn, sql);
        assert!(steps.iter().all(|s| s.starts_with("SEARCH")), "{sql}\n{steps:?}");
    }
    // Only what moved since a directory was opened is sorted.
    let moved = plan(&conn, &list::moved_sql());
    assert!(moved[0].contains("entry_moved (parent=? AND tier>?)"), "{moved:?}");
    let planned = [
        (queries::hash_recorded(), "node_due_hash (adopted=? AND closed_at<?)"),
        (queries::archive(), "node_due_archive (adopted=? AND closed_at"),
        (queries::archive_newest(), "node_due_archive (adopted=? AND closed_at<?)"),
        (queries::release(), "node_due_release (local_since"),
        (queries::suspect(), "node_suspect (suspect>?)"),
        (queries::left_recording(), "node_left_recording (kind=? AND id>?)"),
        (list::released_sql(), "entry_released (parent=? AND id>?)"),
    ];
    for (sql, wanted) in planned {
        let steps = plan(&conn, &sql);
        assert!(steps[0].contains(wanted), "{steps:?} has no {wanted}");
    }
}

/// Files whose statements are for a look at everything, made on request, at the start or
/// offline.
const LOOK_AT_ALL: &[&str] =
    &["rules.rs", "rebuild.rs", "salvage.rs", "schema.rs", "snapshot.rs", "summary.rs", "holds.rs"];
/// Tables of a few rows.
const SHORT: &[&str] = &["position", "tally", "setting", "journal_mark", "hold"];

/// Text between quotes that is a statement and was not put together from parts.
fn statements(source: &str) -> Vec<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.flat_map(|line| [line, "\n"]).collect();
    let verbs = ["SELECT ", "UPDATE ", "DELETE ", "INSERT ", "WITH "];
    let texts = code.split('"').skip(1).step_by(2).map(|text| text.trim().replace('\\', ""));
    texts.filter(|t| verbs.iter().any(|v| t.starts_with(v)) && !t.contains('{')).collect()
}

#[test]
fn no_statement_of_the_catalog_scans_a_long_table() {
    let place = Place::new();
    place.open().close();
    let conn = schema::open_reader(&place.database()).expect("opens");
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/catalog");
    let mut seen = 0;
    for file in std::fs::read_dir(dir).expect("the source").map(|f| f.expect("a file").path()) {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        if !name.ends_with(".rs") || LOOK_AT_ALL.contains(&name.as_str()) {
            continue;
        }
        for sql in statements(&std::fs::read_to_string(&file).expect("text")) {
            seen += 1;
            for step in plan(&conn, &sql) {
                let scanned = step.strip_prefix("SCAN ").map(|rest| rest.split(' ').next());
                let Some(Some(table)) = scanned else { continue };
                let index = step.contains("INDEX") || SHORT.contains(&table);
                assert!(index || table.starts_with("CONSTANT"), "{name}: {sql}\n{step}");
            }
        }
    }
    assert!(seen > 60, "only {seen} statements were found");
}
