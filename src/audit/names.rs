//! Pseudonyms, and the table of what they stand for.
//!
//! **Invariant:** a pseudonym is HMAC-SHA-256 with the key of this log over a nonce of its own and
//! the text. Erasing removes text and nonce: from then on not even who has the key can tell whether
//! a text he guesses is the one that was meant.

use super::error::{AuditError, Result, at};
use crate::recording::hmac;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const FILE: &str = "names.sqlite";
const KEY: &str = "key";
/// Hexadecimal digits of a pseudonym: 128 bits.
const DIGITS: usize = 32;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS name(
        pseudonym TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        text BLOB,
        nonce BLOB,
        last INTEGER
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX IF NOT EXISTS name_of_text ON name(kind, text) WHERE text IS NOT NULL;";

/// Bytes of the kernel's random numbers.
pub(super) fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The table, to be written by one thread.
pub(super) struct Names {
    conn: Connection,
    key: Vec<u8>,
    path: PathBuf,
}

impl Names {
    /// Opens or makes the key and the table below `dir`.
    pub fn open(dir: &Path) -> Result<Names> {
        let key = key(&dir.join(KEY))?;
        let path = dir.join(FILE);
        // Its -wal file, with clear text in it, gets the same mode.
        let made =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        made.map_err(at(&path))?;
        let opened = || -> rusqlite::Result<Connection> {
            let conn = Connection::open(&path)?;
            conn.busy_timeout(Duration::from_secs(5))?;
            // What is erased must not be left in a free page.
            conn.execute_batch(
                "PRAGMA secure_delete = ON; PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;
                 PRAGMA journal_size_limit = 4194304;",
            )?;
            conn.execute_batch(SCHEMA)?;
            let is_dated = "SELECT 1 FROM pragma_table_info('name') WHERE name = 'last'";
            if !conn.prepare(is_dated)?.exists([])? {
                conn.execute_batch("ALTER TABLE name ADD COLUMN last INTEGER")?;
            }
            conn.execute_batch("CREATE INDEX IF NOT EXISTS name_last ON name(last)")?;
            Ok(conn)
        };
        let conn = opened().map_err(at(&path))?;
        Ok(Names { conn, key, path })
    }

    /// Opens an existing table to read it.
    ///
    /// # Errors
    /// `Missing`, `Unusable`.
    pub fn look(dir: &Path) -> Result<Names> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Err(AuditError::Missing(dir.to_owned()));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&path, flags).map_err(at(&path))?;
        conn.busy_timeout(Duration::from_secs(5)).map_err(at(&path))?;
        conn.execute_batch("PRAGMA query_only = ON;").map_err(at(&path))?;
        Ok(Names { conn, key: Vec::new(), path })
    }

    pub fn begin(&self) -> Result<()> {
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(at(&self.path))
    }

    /// What was added counts from now on, also after a power cut.
    pub fn commit(&self) -> Result<()> {
        self.conn.execute_batch("COMMIT").map_err(at(&self.path))
    }

    /// Forgets what was added since `begin`; harmless if there was none.
    pub fn give_up(&self) {
        if !self.conn.is_autocommit() {
            let _nothing_was_begun = self.conn.execute_batch("ROLLBACK");
        }
    }

    /// Names of a table that did not tell in which line they were used last: in none behind `seq`.
    pub fn date(&self, seq: u64) -> Result<()> {
        self.conn
            .execute("UPDATE name SET last = ?1 WHERE last IS NULL", [seq.cast_signed()])
            .map(drop)
            .map_err(at(&self.path))
    }

    /// Removes what was used in no line behind `last`, from the table and from its file.
    pub fn forget(&self, last: u64) -> Result<()> {
        self.conn
            .execute("DELETE FROM name WHERE last <= ?1", [last.cast_signed()])
            .map_err(at(&self.path))?;
        self.truncate_log()
    }

    /// The pseudonym of a text, a new one if it has none, for the line `seq`.
    pub fn pseudonym(&self, kind: &str, text: &[u8], seq: u64) -> Result<String> {
        let failed = at(&self.path);
        let known: Option<String> = self
            .conn
            .prepare_cached("SELECT pseudonym FROM name WHERE kind = ?1 AND text = ?2")
            .and_then(|mut s| s.query_row(params![kind, text], |r| r.get(0)).optional())
            .map_err(&failed)?;
        let last = seq.cast_signed();
        if let Some(known) = known {
            self.conn
                .prepare_cached("UPDATE name SET last = max(last, ?2) WHERE pseudonym = ?1")
                .and_then(|mut s| s.execute(params![known, last]))
                .map_err(&failed)?;
            return Ok(known);
        }
        let nonce: [u8; 16] = random().map_err(at(Path::new("/dev/urandom")))?;
        let digest = hmac(&self.key, &[&nonce, kind.as_bytes(), &[0], text]).to_string();
        let pseudonym = format!("{kind}:{}", digest.get(..DIGITS).unwrap_or_default());
        self.conn
            .prepare_cached(
                "INSERT INTO name(pseudonym, kind, text, nonce, last) VALUES(?1, ?2, ?3, ?4, ?5)",
            )
            .and_then(|mut s| s.execute(params![pseudonym, kind, text, nonce.as_slice(), last]))
            .map_err(&failed)?;
        Ok(pseudonym)
    }

    /// What a pseudonym stands for. `None`: there is no such pseudonym; `Some(None)`: it was erased.
    pub fn text(&self, pseudonym: &str) -> Result<Option<Option<Vec<u8>>>> {
        self.conn
            .prepare_cached("SELECT text FROM name WHERE pseudonym = ?1")
            .and_then(|mut s| s.query_row([pseudonym], |r| r.get(0)).optional())
            .map_err(at(&self.path))
    }

    /// Pseudonyms of all texts that tell of `subject`.
    pub fn about(&self, subject: &str) -> Result<Vec<(String, String)>> {
        let failed = at(&self.path);
        let mut found = Vec::new();
        let mut all = self
            .conn
            .prepare("SELECT pseudonym, text FROM name WHERE text IS NOT NULL")
            .map_err(&failed)?;
        let mut rows = all.query([]).map_err(&failed)?;
        while let Some(row) = rows.next().map_err(&failed)? {
            let (pseudonym, text): (String, Vec<u8>) =
                (row.get(0).map_err(&failed)?, row.get(1).map_err(&failed)?);
            let text = String::from_utf8_lossy(&text).into_owned();
            if tells_of(&text, subject) {
                found.push((pseudonym, text));
            }
        }
        Ok(found)
    }

    /// Erases what pseudonyms stand for, from the table and from its file.
    pub fn erase(&mut self, pseudonyms: &[String]) -> Result<()> {
        let failed = at(&self.path);
        let tx = self.conn.transaction().map_err(&failed)?;
        for pseudonym in pseudonyms {
            tx.execute(
                "UPDATE name SET text = NULL, nonce = NULL WHERE pseudonym = ?1",
                [pseudonym],
            )
            .map_err(&failed)?;
        }
        tx.commit().map_err(&failed)?;
        self.truncate_log()
    }

    /// Pages of before an erasure stay in the write-ahead log until it is cut.
    fn truncate_log(&self) -> Result<()> {
        let busy: i64 = self
            .conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))
            .map_err(at(&self.path))?;
        if busy == 0 {
            return Ok(());
        }
        Err(AuditError::Unusable {
            path: self.path.clone(),
            reason: "somebody reads it, so that what was erased is still in its -wal file; erase \
                     again when he is through"
                .into(),
        })
    }
}

/// Whether a text has the subject in it: as a whole word, or, of a number of five digits or more,
/// as the end of a number.
fn tells_of(text: &str, subject: &str) -> bool {
    let digits: String =
        subject.chars().filter(|c| !matches!(c, ' ' | '+' | '-' | '(' | ')' | '/' | '.')).collect();
    if digits.len() >= 5 && digits.bytes().all(|b| b.is_ascii_digit()) {
        let plain = digits.trim_start_matches('0');
        let ends = if plain.len() >= 5 { plain } else { digits.as_str() };
        return text.split(|c: char| !c.is_ascii_digit()).any(|run| run.ends_with(ends));
    }
    let (text, subject) = (text.to_lowercase(), subject.trim().to_lowercase());
    let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
    !subject.is_empty()
        && text.match_indices(&subject).any(|(at, found)| {
            let before = text.get(..at).and_then(|t| t.chars().next_back());
            let after = text.get(at + found.len()..).and_then(|t| t.chars().next());
            is_edge(before) && is_edge(after)
        })
}

/// The key, made if there is none.
fn key(path: &Path) -> Result<Vec<u8>> {
    let read = |path: &Path| -> std::io::Result<Option<Vec<u8>>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(hex::decode(text.trim()).ok().filter(|key| key.len() == 32)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    if let Some(key) = read(path).map_err(at(path))? {
        return Ok(key);
    }
    // One that a crash had cut is made anew: what it was used for has its pseudonym in the table.
    let make = || -> std::io::Result<Vec<u8>> {
        let key: [u8; 32] = random()?;
        let temporary = path.with_extension("new");
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o400).open(&temporary)?;
        writeln!(file, "{}", hex::encode(key))?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        Ok(key.to_vec())
    };
    make().map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_keeps_its_pseudonym_until_it_is_erased() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a directory");
        let mut names = Names::open(dir.path()).expect("opens");
        let first = names.pseudonym("number", b"02079460001", 1).expect("given");
        assert_ne!(names.pseudonym("path", b"02079460001", 1).expect("given"), first);
        drop(names);
        assert_eq!(std::fs::metadata(dir.path().join(KEY)).expect("there").mode() & 0o777, 0o400);
        names = Names::open(dir.path()).expect("opens again");
        assert_eq!(names.pseudonym("number", b"02079460001", 1).expect("known"), first);
        assert_eq!(names.text(&first).expect("read"), Some(Some(b"02079460001".to_vec())));
        names.erase(std::slice::from_ref(&first)).expect("erased");
        assert_eq!(names.text(&first).expect("read"), Some(None));
        assert_eq!(names.text("number:0").expect("read"), None);
        let again = names.pseudonym("number", b"02079460001", 1).expect("given");
        assert_ne!(again, first, "what was erased can not be tied to what comes later");
    }

    #[test]
    fn what_is_erased_is_in_no_file_any_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut names = Names::open(dir.path()).expect("opens");
        let text = |n: u32| format!("2026/11/out-0555{n:07}-someone.wav");
        names.begin().expect("begun");
        let all: Vec<String> = (0..3000)
            .map(|n| names.pseudonym("path", text(n).as_bytes(), 1).expect("given"))
            .collect();
        names.commit().expect("committed");
        let seen = |what: &str| {
            let files = std::fs::read_dir(dir.path()).expect("listed");
            files.flatten().any(|file| {
                let bytes = std::fs::read(file.path()).expect("read");
                bytes.windows(what.len()).any(|part| part == what.as_bytes())
            })
        };
        assert!(seen(&text(77)));
        let gone: Vec<String> = all.iter().step_by(7).cloned().collect();
        names.erase(&gone).expect("erased");
        for n in 0..3000 {
            if n % 7 == 0 {
                assert!(!seen(&text(n)), "{n} is still there");
            }
        }
        assert!(seen(&text(78)));
    }

    #[test]
    fn a_person_is_found_in_names_and_numbers() {
        for (text, subject, tells) in [
            ("2026/out-5551212-100-20261121.wav", "5551212", true),
            ("2026/out-15551212-100-20261121.wav", "555-1212", true),
            ("2026/out-55512120-100.wav", "5551212", false),
            ("2026/in-+442079460001-x.wav", "02079460001", true),
            ("complaint of J. Smith, again", "j. smith", true),
            ("complaint of J. Smithers", "J. Smith", false),
            ("2026/a-100.wav", "100", true),
            ("2026/a-1001.wav", "100", false),
            ("2026/a.wav", " ", false),
        ] {
            assert_eq!(tells_of(text, subject), tells, "{subject} in {text}");
        }
    }
}
