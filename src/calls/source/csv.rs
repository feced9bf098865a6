//! Files that Asterisk appends lines to: cdr_csv, cdr_custom, cel_custom.

use super::super::error::{CallsError, Result};
use super::super::fields::{Field, Row, Text, shown};
use super::super::record::digest;
use super::super::time::{Zone, epoch_of};
use super::{BadRow, Batch, Event, Feed, cel, line};
use crate::limits;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What the columns of a file mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Columns {
    /// As cdr_csv writes them, with or without the columns that cdr.conf adds.
    Asterisk,
    /// In this order, as cdr_custom was told to.
    Custom(Vec<Field>),
}

const BASE: [Field; 16] = [
    Field::Text(Text::Accountcode),
    Field::Text(Text::Src),
    Field::Text(Text::Dst),
    Field::Text(Text::Dcontext),
    Field::Text(Text::Clid),
    Field::Text(Text::Channel),
    Field::Text(Text::Dstchannel),
    Field::Ignore,
    Field::Ignore,
    Field::Start,
    Field::Answer,
    Field::End,
    Field::Duration,
    Field::Billsec,
    Field::Disposition,
    Field::Ignore,
];

/// `newcdrcolumns`: peeraccount, linkedid, sequence.
const NEW: [Field; 3] = [Field::Ignore, Field::Text(Text::Linkedid), Field::Sequence];

/// What follows the sixteen columns that are always there: with `loguniqueid`, `loguserfield` and
/// `newcdrcolumns` there are up to five more, and only their number tells which.
fn added(fields: &[String]) -> Option<Vec<Field>> {
    let uniqueid = Field::Text(Text::Uniqueid);
    let is_id = |at: usize| fields.get(at).is_some_and(|f| epoch_of(f).is_some() || !f.is_empty());
    let one = || if is_id(16) { uniqueid } else { Field::Ignore };
    let (few, new) = match fields.len() {
        16 => (vec![], false),
        17 => (vec![one()], false),
        18 => (vec![uniqueid, Field::Ignore], false),
        19 => (vec![], true),
        20 => (vec![one()], true),
        21 => (vec![uniqueid, Field::Ignore], true),
        _ => return None,
    };
    let new = if new { &NEW[..] } else { &[] };
    Some(few.into_iter().chain(new.iter().copied()).collect())
}

/// Where a file was left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// The file.
    ino: u64,
    /// Bytes read of it.
    offset: u64,
    /// Lines read of it.
    line: u64,
    /// A hash of the last bytes before `offset`: they tell a file that was emptied and has grown
    /// again from one that only grew.
    last: i64,
}

const LAST_BYTES: u64 = 64;

enum What {
    Records(Columns),
    Events,
}

/// A file that is followed.
pub(super) struct CsvFeed {
    path: PathBuf,
    what: What,
    zone: Zone,
    /// The file that is being read: kept open, so that its end can be read after it was renamed.
    open: Option<File>,
}

impl CsvFeed {
    pub(super) fn records(path: &Path, columns: &Columns, zone: &Zone) -> CsvFeed {
        let what = What::Records(columns.clone());
        CsvFeed { path: path.to_owned(), what, zone: zone.clone(), open: None }
    }

    pub(super) fn events(path: &Path, zone: &Zone) -> CsvFeed {
        CsvFeed { path: path.to_owned(), what: What::Events, zone: zone.clone(), open: None }
    }

    fn error(&self, error: &std::io::Error) -> CallsError {
        CallsError::Source { place: self.path.display().to_string(), reason: error.to_string() }
    }

    /// The file in which reading goes on, and where.
    fn resume(&mut self, position: Option<Position>) -> std::io::Result<(File, Position)> {
        let Some(position) = position else {
            let file = File::open(&self.path)?;
            let ino = file.metadata()?.ino();
            return Ok((file, Position { ino, ..Position::default() }));
        };
        let held = self.open.take().filter(|f| inode(f) == Some(position.ino));
        // Without it the file is at its place, or it was renamed while nobody looked.
        let file = match held {
            Some(file) => Some(file),
            None => self.find(position.ino)?,
        };
        let grown = |file: &File| {
            let size = file.metadata().map_or(0, |m| m.len());
            size >= position.offset && last(file, position.offset).ok() == Some(position.last)
        };
        match file {
            Some(file) if grown(&file) => Ok((file, position)),
            // Emptied, or gone: what is there now is read from its beginning.
            _ => self.resume(None),
        }
    }

    /// The file with this number, here or under a name that log rotation gave it.
    fn find(&self, ino: u64) -> std::io::Result<Option<File>> {
        let here = File::open(&self.path)?;
        if inode(&here) == Some(ino) {
            return Ok(Some(here));
        }
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(None);
        };
        for entry in std::fs::read_dir(dir)?.take(limits::CALL_ROTATED_MAX).flatten() {
            let other = entry.file_name();
            let ours = other.as_encoded_bytes().starts_with(name.as_encoded_bytes());
            if ours && entry.metadata().is_ok_and(|m| m.ino() == ino) {
                return File::open(entry.path()).map(Some);
            }
        }
        Ok(None)
    }

    /// Reads whole lines into a batch; how many bytes those were.
    fn take(&self, bytes: &[u8], position: &mut Position, batch: &mut Batch) -> usize {
        let mut taken = 0;
        let mut rows = 0;
        while rows < limits::CALL_BATCH_ROWS {
            let rest = bytes.get(taken..).unwrap_or_default();
            let Some(end) = rest.iter().position(|b| *b == b'\n') else { break };
            position.line += 1;
            rows += 1;
            let text = String::from_utf8_lossy(rest.get(..end).unwrap_or_default());
            taken += end + 1;
            if let Err(reason) = self.row(text.trim_end_matches('\r'), batch) {
                let place = format!("{}:{}", self.path.display(), position.line);
                batch.bad.push(BadRow { place, reason });
            }
        }
        taken
    }

    fn row(&self, text: &str, batch: &mut Batch) -> std::result::Result<(), String> {
        if text.trim().is_empty() {
            return Ok(());
        }
        let fields = line::fields(text)
            .ok_or_else(|| format!("a quote is not closed in {:?}", shown(text)))?;
        match &self.what {
            What::Events => {
                let mut event = Event::default();
                for (name, value) in cel::SAMPLE.iter().zip(&fields) {
                    event.set(name, value);
                }
                batch.events.push(event.finish(&self.zone)?);
            }
            What::Records(columns) => {
                let more;
                let of: Box<dyn Iterator<Item = &Field>> = match columns {
                    Columns::Custom(columns) if columns.len() == fields.len() => {
                        Box::new(columns.iter())
                    }
                    Columns::Custom(columns) => {
                        return Err(format!("{} columns, not {}", fields.len(), columns.len()));
                    }
                    Columns::Asterisk => {
                        more = added(&fields)
                            .ok_or_else(|| format!("{} columns, not 16 to 21", fields.len()))?;
                        Box::new(BASE.iter().chain(&more))
                    }
                };
                let mut row = Row::new(&self.zone);
                of.zip(&fields).for_each(|(field, value)| row.set(*field, value));
                batch.records.push(row.finish()?);
            }
        }
        Ok(())
    }

    fn next(&mut self, position: Option<Position>) -> std::io::Result<Batch> {
        let (file, mut position) = self.resume(position)?;
        let mut bytes = vec![0; limits::CALL_READ_BYTES];
        let len = read_at(&file, &mut bytes, position.offset)?;
        bytes.truncate(len);
        let mut batch = Batch::default();
        let mut taken = self.take(&bytes, &mut position, &mut batch);
        if taken == 0 && len == limits::CALL_READ_BYTES {
            // No line is so long: what this is can not be told, and must not stop what follows.
            let place = format!("{}:{}", self.path.display(), position.line + 1);
            batch.bad.push(BadRow { place, reason: format!("longer than {len} bytes") });
            taken = len;
        }
        position.offset += taken as u64;
        batch.more = taken > 0;
        let rotated = std::fs::metadata(&self.path).is_ok_and(|m| m.ino() != position.ino);
        if taken == 0 && rotated {
            // All that will ever be in it was read; half a line at its end stays half.
            let (new, start) = self.resume(None)?;
            (self.open, position, batch.more) = (Some(new), start, true);
        } else {
            position.last = last(&file, position.offset)?;
            self.open = Some(file);
        }
        batch.position = serde_json::to_string(&position)?;
        Ok(batch)
    }
}

impl Feed for CsvFeed {
    fn key(&self) -> &'static str {
        if matches!(self.what, What::Events) { "cel" } else { "cdr" }
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn read(&mut self, position: Option<&str>) -> Result<Batch> {
        let position = position.and_then(|text| serde_json::from_str(text).ok());
        self.next(position).map_err(|error| self.error(&error))
    }
}

fn inode(file: &File) -> Option<u64> {
    file.metadata().ok().map(|m| m.ino())
}

/// Reads as much as there is.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// A hash of the bytes before an offset.
fn last(file: &File, offset: u64) -> std::io::Result<i64> {
    let from = offset.saturating_sub(LAST_BYTES);
    let mut bytes = vec![0; usize::try_from(offset - from).unwrap_or(0)];
    let len = read_at(file, &mut bytes, from)?;
    bytes.truncate(len);
    Ok(digest(&[&hex::encode(&bytes)]))
}
