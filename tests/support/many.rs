//! Fills the catalog of a stopped daemon with released recordings, by copying one that is real.

use rusqlite::{Connection, params};
use std::path::Path;

/// What the name of the recording that is copied has, and its copies have a number for.
pub const TEMPLATE: &str = "template";
/// Identities and positions of the copies: below those that a daemon gives out.
const FIRST: i64 = 1_000_000_000;

/// Adds `count` copies of the one released recording whose name has `TEMPLATE`, `each` to every
/// directory in turn, whose nodes are given. They have an object each that is not in the target.
pub fn fill(database: &Path, dirs: &[u64], each: u64, count: u64) {
    let mut db = Connection::open(database).expect("the catalog opens");
    db.execute_batch(
        "PRAGMA journal_mode = DELETE; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000;
         PRAGMA temp_store = MEMORY;",
    )
    .expect("it is nobody's");
    let template: i64 = db
        .query_row("SELECT node FROM entry WHERE instr(name, ?1) > 0", [TEMPLATE], |r| r.get(0))
        .expect("a recording to copy");
    let triggers: Vec<(String, String)> = db
        .prepare("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        .and_then(|mut s| s.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect())
        .expect("triggers");
    let tx = db.transaction().expect("a transaction");
    for (name, _) in &triggers {
        tx.execute_batch(&format!("DROP TRIGGER {name}")).expect("a trigger");
    }
    let numbered = |column: &str, cast: &str| {
        format!("CAST(replace(CAST({column} AS TEXT), '{TEMPLATE}', printf('%08d', i)) AS {cast})")
    };
    for (at, dir) in dirs.iter().enumerate() {
        let from = at as u64 * each;
        let to = count.min(from + each);
        if from >= to {
            break;
        }
        for (table, own) in [
            ("node", vec![("id", format!("{FIRST} + i"))]),
            ("generation", vec![("node", format!("{FIRST} + i"))]),
            (
                "object",
                vec![
                    ("id", "NULL".to_owned()),
                    ("node", format!("{FIRST} + i")),
                    ("key", numbered("key", "TEXT")),
                ],
            ),
            (
                "entry",
                vec![
                    ("id", format!("{FIRST} + i")),
                    ("parent", dir.to_string()),
                    ("name", numbered("name", "BLOB")),
                    ("stem", numbered("stem", "BLOB")),
                    ("node", format!("{FIRST} + i")),
                ],
            ),
        ] {
            let key = if table == "node" { "id" } else { "node" };
            let columns: Vec<String> = tx
                .prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))
                .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
                .expect("columns");
            let values = columns.iter().map(|column| {
                let own = own.iter().find(|(name, _)| name == column);
                own.map_or_else(|| column.clone(), |(_, value)| value.clone())
            });
            let (columns, values) = (columns.join(", "), values.collect::<Vec<_>>().join(", "));
            let text = format!(
                "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2)
                 INSERT INTO {table}({columns}) SELECT {values} FROM n, {table} WHERE {key} = ?3"
            );
            tx.execute(&text, params![from as i64, to as i64, template]).expect(&text);
        }
    }
    let all = "UPDATE tally SET files = files + ?1,
                   bytes = bytes + ?1 * (SELECT size FROM node WHERE id = ?2)
               WHERE bucket = 4";
    tx.execute(all, params![count as i64, template]).expect("the tally");
    for (_, text) in &triggers {
        tx.execute_batch(text).expect("a trigger");
    }
    tx.commit().expect("room on the disk");
}
