//! A directory as a target: a local disk, or NFS (docs/FORMAT.md, "Directories").
//!
//! **Invariant:** a name appears only when its bytes and its metadata are complete and synced, and
//! is never replaced: `link(2)` is the conditional put. While the archive's marker is not to be
//! seen, or is another one than before, nothing is found, not found or written here: another
//! directory may be in this one's place (a mount that is gone, disks that were swapped).

mod list;
mod place;

use super::{
    Body, Capabilities, Head, Listed, ObjectMeta, Result, Store, StoreError, StoreErrorKind, marker,
};
use crate::limits;
use crate::recording::Sha256;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Below the root: files not yet complete.
const TEMP_DIR: &str = ".spoolfs/tmp";
/// Below the root: `<key>` holds the metadata of the object `<key>`.
const META_DIR: &str = ".spoolfs/meta";

/// Objects as files.
#[derive(Clone, Debug)]
pub struct FileStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    root: PathBuf,
    /// In the names of our temporary files, so that those of an earlier daemon are told apart.
    session: String,
    /// The marker that was seen: from now on it must be there.
    seen: Mutex<Option<Seen>>,
    known: place::Known,
    fresh: Fresh,
}

/// Objects that were put and synced, and not proved yet.
#[derive(Debug, Default)]
struct Fresh(Mutex<HashSet<String>>);

impl Fresh {
    fn note(&self, key: &str) {
        let mut keys = self.0.lock();
        if keys.len() >= limits::SYNCED_DIRS_MAX {
            keys.clear();
        }
        keys.insert(key.to_owned());
    }

    fn take(&self, key: &str) -> bool {
        self.0.lock().remove(key)
    }
}

/// The archive's marker as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    /// Device, inode and time of writing: the cheap way to tell that it is the same.
    file: (u64, u64, i64, i64),
    /// Of its bytes: a file system that was mounted anew has another device number.
    sha256: Sha256,
}

/// What is kept beside an object.
#[derive(Serialize, Deserialize)]
struct Beside {
    content_type: String,
    user: Vec<(String, String)>,
}

impl FileStore {
    /// A store in a directory, which must exist when it is used.
    pub fn new(name: &str, root: PathBuf) -> FileStore {
        let session = format!("{:016x}", fastrand::u64(..));
        FileStore {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                root,
                session,
                seen: Mutex::new(None),
                known: place::Known::default(),
                fresh: Fresh::default(),
            }),
        }
    }

    /// Runs a blocking call where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        op: &'static str,
        key: &str,
        call: impl FnOnce(&Inner, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (inner, owned) = (self.inner.clone(), key.to_owned());
        match tokio::task::spawn_blocking(move || call(&inner, &owned)).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::new(
                StoreErrorKind::Unreachable,
                &self.inner.name,
                op,
                key,
                "the daemon is stopping",
            )),
        }
    }
}

impl Inner {
    fn path(&self, op: &'static str, key: &str) -> Result<PathBuf> {
        let plain = |c: &str| !matches!(c, "" | "." | "..") && !c.contains('\0');
        if key.split('/').all(plain) {
            return Ok(self.root.join(key));
        }
        let what = "this key is no path below the directory";
        Err(StoreError::new(StoreErrorKind::Unsupported, &self.name, op, key, what))
    }

    fn meta_path(&self, key: &str) -> PathBuf {
        self.root.join(META_DIR).join(key)
    }

    fn io(&self, op: &'static str, key: &str, error: &std::io::Error) -> StoreError {
        let (kind, hint) = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => (
                StoreErrorKind::Denied,
                "let the user of spoolfs read and write the directory".to_owned(),
            ),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                (StoreErrorKind::Unreachable, format!("free space in {}", self.root.display()))
            }
            ErrorKind::InvalidFilename | ErrorKind::Unsupported | ErrorKind::InvalidInput => {
                (StoreErrorKind::Unsupported, "use another file system".to_owned())
            }
            _ => (
                StoreErrorKind::Unreachable,
                format!("look at the file system of {}", self.root.display()),
            ),
        };
        StoreError::new(kind, &self.name, op, key, error.to_string()).hint(hint)
    }

    /// Fails unless the directory is there and, once it was seen, the archive's marker in it.
    fn present(&self, op: &'static str, key: &str) -> Result<()> {
        let Err(what) = self.look() else { return Ok(()) };
        let hint = format!("make or mount {}", self.root.display());
        let kind = StoreErrorKind::Unreachable;
        Err(StoreError::new(kind, &self.name, op, key, what).hint(hint))
    }

    /// Whether the directory is the one that was there before, or why not.
    fn look(&self) -> std::result::Result<(), &'static str> {
        let marker = self.root.join(marker::ARCHIVE_KEY);
        let stat = fs::metadata(&marker).ok().filter(|stat| stat.is_file());
        let mut seen = self.seen.lock();
        match (stat, *seen) {
            (None, Some(_)) => Err("the archive's marker is no longer in this directory"),
            (None, None) if self.root.is_dir() => Ok(()),
            (None, None) => Err("there is no such directory"),
            (Some(stat), Some(seen)) if seen.file == stamp(&stat) => Ok(()),
            (Some(stat), before) => {
                let bytes =
                    fs::read(&marker).map_err(|_| "the archive's marker can not be read")?;
                let now = Seen { file: stamp(&stat), sha256: Sha256::of(&bytes) };
                if before.is_some_and(|before| before.sha256 != now.sha256) {
                    return Err("the marker of another archive is in this directory now");
                }
                *seen = Some(now);
                Ok(())
            }
        }
    }

    /// The error of a look-up: not found only if the directory is the right one.
    fn missing_or(&self, op: &'static str, key: &str, error: &std::io::Error) -> StoreError {
        let missing = [ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::IsADirectory];
        if !missing.contains(&error.kind()) {
            return self.io(op, key, error);
        }
        match self.present(op, key) {
            Err(absent) => absent,
            Ok(()) => {
                StoreError::new(StoreErrorKind::NotFound, &self.name, op, key, "no such object")
            }
        }
    }

    fn open(&self, op: &'static str, key: &str) -> Result<(File, u64)> {
        let path = self.path(op, key)?;
        let file = File::open(path).map_err(|e| self.missing_or(op, key, &e))?;
        let stat = file.metadata().map_err(|e| self.io(op, key, &e))?;
        if !stat.is_file() {
            return Err(self.missing_or(op, key, &ErrorKind::IsADirectory.into()));
        }
        // The marker itself is what tells whose directory this is now.
        if key != marker::ARCHIVE_KEY {
            self.present(op, key)?;
        }
        Ok((file, stat.len()))
    }

    fn head(&self, key: &str) -> Result<Head> {
        let (_, size) = self.open("head", key)?;
        let user = match fs::read(self.meta_path(key)) {
            Ok(bytes) => {
                serde_json::from_slice::<Beside>(&bytes).map(|b| b.user).unwrap_or_default()
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Vec::new()
            }
            // An object that says nothing of itself is left alone for good.
            Err(e) => return Err(self.io("head", key, &e)),
        };
        Ok(Head { size, sha256: None, user })
    }

    fn get(&self, key: &str, range: &Range<u64>) -> Result<Bytes> {
        let (file, size) = self.open("get", key)?;
        let len = range.end.min(size).saturating_sub(range.start);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        match file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes.into()),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Err(StoreError::new(
                StoreErrorKind::Corrupt,
                &self.name,
                "get",
                key,
                "the file became shorter while it was read",
            )),
            Err(e) => Err(self.io("get", key, &e)),
        }
    }

    fn put(&self, key: &str, body: &Body, sha256: Sha256, meta: &ObjectMeta) -> Result<()> {
        self.present("put", key)?;
        let path = self.path("put", key)?;
        let user = meta.user.clone();
        let beside = Beside { content_type: meta.content_type.clone(), user };
        // A map of strings always serialises.
        let beside = serde_json::to_vec(&beside).unwrap_or_default();
        if !self.is_there(key, &path)? {
            // First: an object without it tells nobody what it is.
            self.write_meta(key, &path, &beside)?;
        }
        match self.place(key, &path, body, sha256) {
            Ok(()) => {
                if !self.has_meta(key, &beside) {
                    // Of somebody who put the same key at the same time.
                    self.replace_meta(key, &beside)?;
                }
                self.fresh.note(key);
                Ok(())
            }
            Err(place::Failure::Taken) if self.is_there(key, &path)? => {
                // Who is told so may rely on what is there.
                self.settle(key)?;
                Err(self.taken(key))
            }
            Err(failure) => {
                if matches!(path.try_exists(), Ok(false)) {
                    let _stays_and_is_replaced = fs::remove_file(self.meta_path(key));
                }
                Err(self.not_placed(key, failure))
            }
        }
    }

    /// The name of an object that is there may be one that a daemon made who died before he synced
    /// its directory, or for whom that failed.
    fn settle(&self, key: &str) -> Result<()> {
        if self.fresh.take(key) {
            return Ok(());
        }
        place::settle((&self.root, &self.known), &self.path("verify", key)?)
            .map_err(|failure| self.not_placed(key, failure))
    }

    fn place(
        &self,
        key: &str,
        path: &Path,
        body: &Body,
        sha256: Sha256,
    ) -> std::result::Result<(), place::Failure> {
        place::place((&self.root, &self.known), &self.temp_name(key), path, body, sha256)
    }

    fn taken(&self, key: &str) -> StoreError {
        StoreError::new(StoreErrorKind::Exists, &self.name, "put", key, "the name is taken")
    }

    fn not_placed(&self, key: &str, failure: place::Failure) -> StoreError {
        match failure {
            place::Failure::Taken => self.taken(key),
            place::Failure::WrongBody(what) => {
                StoreError::new(StoreErrorKind::Corrupt, &self.name, "put", key, what)
            }
            place::Failure::Unreadable(e) => StoreError::unreadable(&self.name, key, &e),
            place::Failure::Io(e) => self.io("put", key, &e),
        }
    }

    /// The metadata of an object that is not there yet, at `path`.
    fn write_meta(&self, key: &str, path: &Path, beside: &[u8]) -> Result<()> {
        let body = Body::Bytes(Bytes::copy_from_slice(beside));
        match self.place(key, &self.meta_path(key), &body, Sha256::of(beside)) {
            Ok(()) => Ok(()),
            Err(place::Failure::Taken) if self.is_there(key, path)? => Err(self.taken(key)),
            // A put or a delete that was cut off left it.
            Err(place::Failure::Taken) if self.has_meta(key, beside) => Ok(()),
            Err(place::Failure::Taken) => self.replace_meta(key, beside),
            Err(failure) => Err(self.not_placed(key, failure)),
        }
    }

    /// Whether there is an object. Who took an error for no would write over its metadata.
    fn is_there(&self, key: &str, path: &Path) -> Result<bool> {
        match path.try_exists() {
            // A file where a directory is needed.
            Err(e) if e.kind() == ErrorKind::NotADirectory => Ok(false),
            there => there.map_err(|e| self.io("put", key, &e)),
        }
    }

    fn has_meta(&self, key: &str, beside: &[u8]) -> bool {
        fs::read(self.meta_path(key)).is_ok_and(|found| found == beside)
    }

    fn replace_meta(&self, key: &str, beside: &[u8]) -> Result<()> {
        let meta = self.meta_path(key);
        let _not_there = fs::remove_file(&meta);
        let body = Body::Bytes(Bytes::copy_from_slice(beside));
        self.place(key, &meta, &body, Sha256::of(beside))
            .map_err(|failure| self.not_placed(key, failure))
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.present("delete", key)?;
        for path in [self.path("delete", key)?, self.meta_path(key)] {
            match fs::remove_file(&path) {
                Ok(()) => place::sync_parent(&path).map_err(|e| self.io("delete", key, &e))?,
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                // A directory of this name is no object.
                Err(_) if path.is_dir() => {}
                Err(e) => return Err(self.io("delete", key, &e)),
            }
        }
        Ok(())
    }

    /// Names of temporary files begin with the node that makes them.
    fn temp_name(&self, key: &str) -> String {
        format!("{}~{}-{:016x}", owner(key), self.session, fastrand::u64(..))
    }

    fn remove_orphans(&self, node: &str) -> Result<usize> {
        self.present("list", TEMP_DIR)?;
        let entries = match fs::read_dir(self.root.join(TEMP_DIR)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(self.io("list", TEMP_DIR, &e)),
        };
        let mut removed = 0;
        for entry in entries {
            let entry = entry.map_err(|e| self.io("list", TEMP_DIR, &e))?;
            let name = entry.file_name();
            let orphan = name
                .to_str()
                .and_then(|n| n.rsplit_once('~'))
                .is_some_and(|(who, rest)| who == node && !rest.starts_with(&self.session));
            if orphan {
                fs::remove_file(entry.path()).map_err(|e| self.io("delete", TEMP_DIR, &e))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn stamp(stat: &fs::Metadata) -> (u64, u64, i64, i64) {
    (stat.dev(), stat.ino(), stat.mtime(), stat.mtime_nsec())
}

/// The node that writes this key; at most 128 bytes, so that a temporary name fits NAME_MAX.
fn owner(key: &str) -> &str {
    let mut parts = key.split('/');
    let first = match (parts.next(), parts.next(), parts.next()) {
        (Some(".spoolfs"), Some("journal" | "audit"), Some(node)) => node,
        (Some(".spoolfs"), Some("nodes"), Some(file)) => file.trim_end_matches(".json"),
        (Some(first), ..) => first,
        _ => "",
    };
    let mut end = first.len().min(super::key::NODE_BYTES_MAX);
    while !first.is_char_boundary(end) {
        end -= 1;
    }
    first.get(..end).unwrap_or_default()
}

#[async_trait]
impl Store for FileStore {
    fn name(&self) -> &str {
        &self.inner.name
    }

    fn prefix(&self) -> &str {
        ""
    }

    fn url(&self, key: &str) -> String {
        format!("file://{}", self.inner.root.join(key).display())
    }

    async fn probe(&self, nonce: &str) -> Result<Capabilities> {
        let key = format!("{}{nonce}", marker::PROBE_DIR);
        let probe = Body::Bytes(Bytes::from_static(b"spoolfs"));
        let sha256 = Sha256::of(b"spoolfs");
        self.put(&key, probe, sha256, &ObjectMeta::default()).await?;
        self.delete(&key).await?;
        Ok(Capabilities { conditional_put: true, checksum: false })
    }

    async fn put(&self, key: &str, body: Body, sha256: Sha256, meta: &ObjectMeta) -> Result<()> {
        let meta = meta.clone();
        self.blocking("put", key, move |inner, key| inner.put(key, &body, sha256, &meta)).await
    }

    async fn head(&self, key: &str) -> Result<Head> {
        self.blocking("head", key, Inner::head).await
    }

    async fn get(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.blocking("get", key, move |inner, key| inner.get(key, &range)).await
    }

    async fn settle(&self, key: &str) -> Result<()> {
        self.blocking("verify", key, Inner::settle).await
    }

    async fn list(&self, prefix: &str, after: &str) -> Result<Vec<Listed>> {
        let after = after.to_owned();
        let list = move |inner: &Inner, prefix: &str| {
            inner.present("list", prefix)?;
            list::list(&inner.root, prefix, &after).map_err(|e| inner.io("list", prefix, &e))
        };
        self.blocking("list", prefix, list).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.blocking("delete", key, Inner::delete).await
    }

    async fn abort_orphans(&self, node: &str) -> Result<usize> {
        let node = super::key::node_component(node);
        self.blocking("list", TEMP_DIR, move |inner, _| inner.remove_orphans(&node)).await
    }
}

#[cfg(test)]
mod tests;
