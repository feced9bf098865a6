//! Plans that somebody has open, noted in the runtime directory: a successor that takes the mount
//! over goes on with exactly these, whatever call records say by then.
//!
//! One line of JSON for each, appended at its first open and never synced, as with the operation
//! log. A line that was cut off by a kill is passed over: its open was not answered.

use super::plan::Plan;
use crate::limits;
use crate::recording::{Attr, NodeId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const FILE: &str = "stitched";

/// An open join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub id: NodeId,
    pub attr: Attr,
    pub plan: Plan,
}

/// The file of notes.
#[derive(Debug)]
pub(super) struct Notes(Option<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: File,
    bytes: u64,
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)
}

impl Notes {
    /// Opens the file, with what a predecessor left in it if `resume`.
    pub fn open(runtime: Option<&Path>, resume: bool) -> (Notes, Vec<Note>) {
        let Some(path) = runtime.map(|dir| dir.join(FILE)) else {
            return (Notes(None), Vec::new());
        };
        let text = if resume { std::fs::read(&path).unwrap_or_default() } else { Vec::new() };
        let notes: Vec<Note> = text
            .split(|b| *b == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        match create(&path) {
            Ok(file) => {
                let inner = Mutex::new(Inner { path, file, bytes: 0 });
                let kept = Notes(Some(inner));
                notes.iter().for_each(|note| kept.add(note, &mut || Vec::new()));
                (kept, notes)
            }
            Err(error) => {
                tracing::warn!(
                    path = %path.display(), %error,
                    "open joins can not be noted: they end with this daemon"
                );
                (Notes(None), notes)
            }
        }
    }

    /// Notes an open join. `open` gives those that are open still, should the file be too long.
    pub fn add(&self, note: &Note, open: &mut dyn FnMut() -> Vec<Note>) {
        let Some(inner) = &self.0 else { return };
        let mut inner = inner.lock();
        if inner.bytes > limits::STITCH_NOTES_BYTES {
            match create(&inner.path) {
                Ok(file) => (inner.file, inner.bytes) = (file, 0),
                Err(error) => {
                    tracing::debug!(%error, "notes of open joins can not be written anew")
                }
            }
            for other in open() {
                inner.write(&other);
            }
        }
        inner.write(note);
    }
}

impl Inner {
    fn write(&mut self, note: &Note) {
        let Ok(mut line) = serde_json::to_vec(note) else { return };
        line.push(b'\n');
        self.bytes += line.len() as u64;
        if let Err(error) = self.file.write_all(&line) {
            tracing::warn!(%error, "an open join can not be noted: it ends with this daemon");
        }
    }
}
