//! Who this catalog is, kept beside the database so that it survives it; and the lock that keeps
//! a second daemon out of the state directory.

use super::error::{CatalogError, Result};
use super::shared::Shared;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Keeps the identity when the database is lost.
pub(super) const FILE: &str = "identity.json";

/// What this catalog is, fixed when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of this machine in object keys and journal segments.
    pub node: String,
    /// 16 random bytes in hexadecimal: tells two machines with the same name apart.
    pub instance: String,
    /// Counts the catalogs this machine has had; a restored older one is recognised by it.
    pub epoch: u64,
}

impl Identity {
    /// A new one, for the first catalog in a state directory.
    pub(super) fn fresh(node: &str) -> Identity {
        Identity { node: node.to_owned(), instance: random_hex(), epoch: 1 }
    }

    /// Reads `identity.json`; `None` if it is not there or not readable as such.
    pub(super) fn load(path: &Path) -> Option<Identity> {
        let text = std::fs::read(path).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes `identity.json`, whole or not at all.
    pub(super) fn store(&self, path: &Path) -> std::io::Result<()> {
        let temporary = path.with_extension("json.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        // Otherwise a power cut brings the epoch before back, and with it numbers used since.
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

impl Shared {
    /// Takes an identity that the database has, and keeps it beside it.
    pub(super) fn adopt(&self, identity: Identity) {
        let path = self.options.state_dir.join(FILE);
        if let Err(error) = identity.store(&path) {
            tracing::warn!("{}: {error}", path.display());
        }
        *self.identity.write() = identity;
    }
}

fn random_hex() -> String {
    let mut bytes = [0u8; 16];
    let read = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    if read.is_err() {
        fastrand::fill(&mut bytes);
    }
    hex::encode(bytes)
}

/// Takes the lock of the state directory; it is held until the file is closed.
pub(super) fn lock(state_dir: &Path) -> Result<File> {
    let path = state_dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(CatalogError::io(&path))?;
    if !locked_soon(&file) {
        let mut text = String::new();
        let _unreadable = file.read_to_string(&mut text);
        let pid = text.trim().parse().unwrap_or(0);
        return Err(CatalogError::Locked { path: state_dir.to_owned(), pid });
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    // Only for the other daemon's message: a full disk must not keep this one from starting.
    if let Err(error) = write(&mut file) {
        tracing::warn!("{}: {error}", path.display());
    }
    Ok(file)
}

/// Takes the lock, within a second: a predecessor may be on its way out, and a program that was
/// just started from its process holds a copy of the descriptor for a moment.
fn locked_soon(file: &File) -> bool {
    for _ in 0..100 {
        if rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    false
}
