//! The snapshot that a rebuild begins with: the newest that is whole.

use super::error::{RebuildError, Result};
use super::history::History;
use super::read::Source;
use crate::catalog::{Identity, Told};
use crate::clock::Timestamp;
use crate::codec::seal;
use crate::limits;
use crate::lower::Lower;
use crate::recording::ErrorClass;
use crate::store::StoreErrorKind;
use crate::store::snapshot::{self, Given, Header, Known};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A snapshot that was read.
pub(super) struct Base {
    pub url: String,
    pub header: Header,
    pub history: History,
}

/// What the targets hold of snapshots.
#[derive(Default)]
pub(super) struct Snapshots {
    /// The newest first: target, key, length.
    listed: Vec<(Source, String, u64)>,
    /// Those that can not be used: address and reason.
    pub set_aside: Vec<(String, String)>,
    /// The highest epoch that there is one of.
    pub epoch: u64,
    /// By target, what is known of them from now on.
    pub settings: Vec<(String, String)>,
    /// They are not to be read.
    pub unread: bool,
}

/// Lists the snapshots of a node.
pub(super) async fn list(sources: &[Source], node: &str, now: Timestamp) -> Result<Snapshots> {
    let mut found = Snapshots::default();
    for source in sources {
        let mut known = Known::default();
        for listed in source.list(&snapshot::directory(source.store.prefix(), node)).await? {
            let Some((epoch, seq)) = snapshot::parse_key(&listed.key) else { continue };
            let key = listed.key.clone();
            known.given.push(Given { key, epoch, seq, at: now, proved: false, bytes: None });
            found.epoch = found.epoch.max(epoch);
            found.listed.push((source.clone(), listed.key, listed.size));
        }
        known.given.sort_by(|a, b| a.key.cmp(&b.key));
        known.since = Some(now);
        found.settings.push((Known::setting(source.name()), known.text()));
    }
    // Of the same, the one of the target that is named first.
    found.listed.sort_by_key(|(_, key, _)| std::cmp::Reverse(snapshot::parse_key(key)));
    Ok(found)
}

impl Snapshots {
    /// Reads the newest that is whole; those that are not are set aside.
    pub async fn newest(
        &mut self,
        lower: &Lower,
        identity: &Identity,
        state_dir: &Path,
    ) -> Result<Option<Base>> {
        if self.unread {
            return Ok(None);
        }
        for (source, key, size) in std::mem::take(&mut self.listed) {
            let url = source.store.url(&key);
            let read = match fetch(&source, &key, size, lower).await? {
                Ok(file) => match opened(&source, &key, file)? {
                    Ok(file) => decode(file, identity.clone(), History::begin(state_dir)?).await?,
                    Err(reason) => Err(reason),
                },
                Err(reason) => Err(reason),
            };
            match read {
                Ok((header, history)) => return Ok(Some(Base { url, header, history })),
                Err(reason) => self.set_aside.push((url, reason)),
            }
        }
        Ok(None)
    }
}

/// Its bytes, in a file without a name; or why they can not be had.
async fn fetch(
    source: &Source,
    key: &str,
    size: u64,
    lower: &Lower,
) -> Result<std::result::Result<File, String>> {
    if size > limits::SNAPSHOT_BYTES_MAX {
        return Ok(Err(format!("{size} bytes are more than a snapshot has")));
    }
    let file = lower.scratch()?;
    let mut at = 0;
    while at < size {
        let range = at..size.min(at + limits::READ_BACK_BYTES);
        let bytes = match source.ask(|| source.store.get(key, range.clone())).await {
            Ok(bytes) if !bytes.is_empty() => bytes,
            Ok(_) => return Ok(Err(format!("it ends after {at} bytes"))),
            Err(e) if e.class() == ErrorClass::Corrupt || e.kind == StoreErrorKind::NotFound => {
                return Ok(Err(e.to_string()));
            }
            Err(e) if e.kind == StoreErrorKind::Locked => return Ok(Err(source.locked(key, &e)?)),
            Err(e) => return Err(source.failed(e)),
        };
        if let Err(e) = file.write_all_at(&bytes, at) {
            return Ok(Err(format!("there is no room for it here: {e}")));
        }
        at += bytes.len() as u64;
    }
    Ok(Ok(file))
}

type Bytes = Box<dyn Read + Send>;

/// What is in the file, opened if it is sealed; or why it can not be.
fn opened(
    source: &Source,
    key: &str,
    mut file: File,
) -> Result<std::result::Result<Bytes, String>> {
    let mut start = [0; 32];
    let read = file.read_at(&mut start, 0).and_then(|_| file.seek(SeekFrom::Start(0)));
    if let Err(error) = read {
        return Ok(Err(error.to_string()));
    }
    if !seal::is_sealed(&start) {
        return Ok(Ok(Box::new(file)));
    }
    match seal::open_reader(BufReader::new(file), &source.identities) {
        Ok(reader) => Ok(Ok(Box::new(reader))),
        Err(why) => Ok(Err(source.not_opened(key, &why)?)),
    }
}

type Decoded = std::result::Result<(Header, History), String>;

async fn decode(file: Bytes, identity: Identity, rows: History) -> Result<Decoded> {
    // A fault in reading what somebody else may have written costs the snapshot, and nothing else.
    let read = tokio::task::spawn_blocking(move || read(file, &identity, rows)).await;
    read.unwrap_or_else(|e| Ok(Err(RebuildError::Panic(e.to_string()).to_string())))
}

fn read(file: Bytes, identity: &Identity, mut rows: History) -> Result<Decoded> {
    let mut failed: Result<()> = Ok(());
    let header = snapshot::read(file, &mut |line| {
        // The epoch of the header, which only later ones are compared with, is not known yet.
        failed = rows.apply(0, &Told::parse(line)?);
        // That is no fault of the snapshot.
        if failed.is_ok() { Ok(()) } else { Err("it was not taken".into()) }
    });
    failed?;
    Ok(header.and_then(|header| {
        if (&header.node, &header.instance) != (&identity.node, &identity.instance) {
            let (node, instance) = (&header.node, &header.instance);
            return Err(format!("it is of node {node:?}, instance {instance}"));
        }
        rows.told_in(header.epoch);
        Ok((header, rows))
    }))
}
