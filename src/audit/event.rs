//! What is on record: who did what to which recording, and why.

use crate::clock::Timestamp;
use crate::recording::{Generation, NodeId, Sha256};
use serde::{Serialize, Serializer};
use serde_json::Value;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What happened. The names in the log are these in snake case, and never change their meaning.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", content = "details", rename_all = "snake_case")]
pub enum Event {
    /// The first line of a log.
    ChainBegun {
        /// Tells this log from every other, at random.
        chain: String,
        /// The machine that it is of.
        node: String,
    },
    /// The daemon began to serve.
    Started {
        /// Its version.
        version: String,
    },
    /// The daemon was told to stop.
    Stopped,
    /// A crash had cut the last line; it was set aside, and nothing that was synced is in it.
    TornTail {
        /// The file of the log.
        file: String,
        /// Where in it.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// What they are.
        sha256: Sha256,
        /// Where they are now, below the directory of the log.
        aside: String,
    },
    /// The log was not as it had been left.
    Damaged {
        /// What is wrong, and where.
        what: String,
    },
    /// Events that could not be written.
    Gap {
        /// How many.
        lost: u64,
        /// The first of them.
        #[serde(serialize_with = "time")]
        since: Timestamp,
        /// The last of them.
        #[serde(serialize_with = "time")]
        until: Timestamp,
    },
    /// The oldest lines leave, with their file: this line stands for them. Before they do.
    LinesLeft {
        /// Which log: its first line, that told it, leaves or left.
        chain: String,
        /// The machine that it is of.
        node: String,
        /// Number of the first line that leaves.
        first: u64,
        /// Number of the last.
        last: u64,
        /// SHA-256 of the last, as the line after it holds it.
        sha256: Sha256,
        /// When the youngest of what they tell happened.
        #[serde(serialize_with = "time")]
        newest: Timestamp,
        /// `audit_keep`.
        audit_keep: String,
    },
    /// The clear text of pseudonyms was erased.
    Erased {
        /// How many.
        count: u64,
        /// The pseudonyms, as many as are named.
        pseudonyms: Vec<String>,
    },
    /// The configuration in force is another one than before.
    PolicyChanged {
        /// SHA-256 of the configuration file that was in force.
        old: Option<Sha256>,
        /// That of the one in force now.
        new: Option<Sha256>,
        /// Keys that take effect only at the next start.
        needs_restart: Vec<String>,
    },
    /// A legal hold was laid.
    HoldAdded {
        /// Its number.
        hold: u64,
        /// The case.
        case: Clear,
        /// What it holds: path, number, campaign, ...
        query: Option<Clear>,
    },
    /// A recording came under a hold.
    Held {
        /// The hold.
        hold: u64,
        /// Until its call is known.
        provisional: bool,
    },
    /// A legal hold was lifted.
    HoldLifted {
        /// Its number.
        hold: u64,
        /// The case.
        case: Clear,
    },
    /// One user wants a hold lifted; another must, too.
    HoldLiftRequested {
        /// Its number.
        hold: u64,
        /// The case.
        case: Clear,
    },
    /// Something that a hold forbids was tried.
    HoldRefused {
        /// What: "unlink", "rename", "open" for writing, or "truncate".
        operation: String,
        /// How often. Without a recording these are those that are not named one by one.
        times: u64,
    },
    /// A hold was written into, or taken from, a target.
    HoldMirrored {
        /// The target.
        target: String,
        /// Whether it is held there now.
        held: bool,
    },
    /// A recording expired: it is deleted from here and from the targets.
    Expired {
        /// The rule.
        rule: String,
        /// The targets that it is deleted from.
        targets: Vec<String>,
    },
    /// What is on record as expired was not deleted after all, for the time being.
    ExpiryFailed,
    /// The stored join of a call is deleted from a target.
    JoinDeleted {
        /// The target.
        target: String,
        /// The key.
        key: Clear,
    },
    /// Deletions were stopped because they were too many.
    DeletionStopped {
        /// Recordings that would have been deleted that day.
        wanted: u64,
        /// How many may be.
        allowed: u64,
    },
    /// Somebody confirmed that deletions go on.
    DeletionConfirmed {
        /// What was confirmed.
        what: String,
    },
    /// A recording was deleted by its user, and is in the trash.
    Trashed {
        /// "unlink" or "rename".
        operation: String,
    },
    /// A recording was deleted by its user, and is not in the trash.
    Deleted {
        /// `delete_mode`.
        mode: String,
    },
    /// A recording came back from the trash.
    Restored,
    /// A recording of the trash is gone for good.
    TrashEmptied {
        /// The rule that let it go, or "command".
        rule: String,
    },
    /// A copy in a target is gone or damaged.
    VerificationFailed {
        /// The target.
        target: String,
        /// The key.
        key: Clear,
    },
    /// A copy that was gone or damaged is good again, replaced, or wanted no more.
    VerificationSettled {
        /// The target.
        target: String,
        /// The key.
        key: Clear,
    },
    /// A bad copy was replaced by a good one.
    ObjectReplaced {
        /// The target.
        target: String,
        /// The new key.
        key: Clear,
        /// The target that had the good one, or "local".
        from: String,
    },
    /// An archived recording was stored anew, otherwise than before.
    ObjectStoredAnew {
        /// The target.
        target: String,
        /// The new key.
        key: Clear,
        /// The key of the object that it took the place of.
        from: Clear,
    },
    /// An object that another took the place of is deleted.
    ObjectRemoved {
        /// The target.
        target: String,
        /// The key.
        key: Clear,
    },
    /// Somebody had recordings stored anew; `after` names them, or the directories that they are in.
    Recompressed,
    /// Somebody had recordings sealed anew; the same.
    Resealed {
        /// Public keys that they are sealed to now.
        added: Vec<String>,
        /// Public keys that they are not sealed to any more.
        removed: Vec<String>,
    },
    /// Anybody can read a recording by an address, for a while.
    UrlIssued {
        /// The target.
        target: String,
        /// The key.
        key: Clear,
        /// Until when; nothing if it does not end by itself.
        #[serde(serialize_with = "time_if_any")]
        expires_at: Option<Timestamp>,
    },
    /// Recordings are kept local; `after` names them, or the directories that they are in.
    Pinned,
    /// Recordings may be released again.
    Unpinned,
    /// Recordings were brought in from elsewhere.
    Imported {
        /// How many.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A recording was read.
    Read,
}

fn time<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&super::line::time(*at))
}

fn time_if_any<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(super::line::time).serialize(serializer)
}

/// Text that tells of a person: a path, a number, a name, a reason. The log holds a pseudonym of
/// it, and a table beside the log what it stands for, until that is erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clear {
    /// What kind of text: "path", "number", "name", "text".
    pub kind: &'static str,
    /// The text.
    pub text: Vec<u8>,
}

/// The only member of what a [`Clear`] is until the log gives it a pseudonym.
pub(super) const MARK: &str = "\u{0}clear";

impl Clear {
    /// A number that is called, or calls.
    pub fn number(text: impl Into<String>) -> Clear {
        Clear { kind: "number", text: text.into().into_bytes() }
    }

    /// The name of a person or case.
    pub fn name(text: impl Into<String>) -> Clear {
        Clear { kind: "name", text: text.into().into_bytes() }
    }

    /// A path or key.
    pub fn path(path: &Path) -> Clear {
        Clear { kind: "path", text: path.as_os_str().as_bytes().to_vec() }
    }

    /// The key of an object: it has the path in it.
    pub fn key(key: &str) -> Clear {
        Clear { kind: "key", text: key.as_bytes().to_vec() }
    }

    /// What somebody typed.
    pub fn text(text: impl Into<String>) -> Clear {
        Clear { kind: "text", text: text.into().into_bytes() }
    }
}

impl Serialize for Clear {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(MARK, &(self.kind, hex::encode(&self.text)))?;
        map.end()
    }
}

/// Who did it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// spoolfs, by its rules.
    #[default]
    Engine,
    /// A process: of a command, or one that uses the mount.
    User(User),
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct User {
    /// Its user.
    pub uid: u32,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The user who had logged in, which `sudo` does not change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// Its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

impl User {
    /// Who sent a request of the file system: from a thread of a process, which waits for the
    /// answer. Reads `/proc`.
    pub fn of_request(uid: u32, gid: u32, thread: u32) -> User {
        let told = |file: &str| std::fs::read_to_string(format!("/proc/{thread}/{file}")).ok();
        let status = told("status").unwrap_or_default();
        let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let login = told("loginuid").and_then(|text| text.trim().parse().ok());
        User {
            uid,
            gid: Some(gid),
            // AUDIT_UID_UNSET of the kernel: nobody logged in.
            login_uid: login.filter(|login| *login != u32::MAX),
            pid: process.and_then(|text| text.trim().parse().ok()),
            program: told("comm").map(|text| text.trim_end().to_owned()),
        }
    }
}

/// Which recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its identity.
    pub id: NodeId,
    /// Where it was, relative to the mount.
    pub path: PathBuf,
    /// Which of its contents.
    pub generation: Generation,
    /// What that is.
    pub sha256: Option<Sha256>,
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut map = serializer.serialize_struct("Subject", 4)?;
        map.serialize_field("id", &self.id)?;
        map.serialize_field("path", &Clear::path(&self.path))?;
        map.serialize_field("generation", &self.generation)?;
        map.serialize_field("sha256", &self.sha256)?;
        map.end()
    }
}

/// An event with all that is known of it: `Entry::new(Event::Restored).by(who).on(subject)`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    who: Who,
    #[serde(flatten)]
    event: Event,
    #[serde(skip_serializing_if = "Option::is_none")]
    recording: Option<Subject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

impl From<Event> for Entry {
    fn from(event: Event) -> Entry {
        Entry::new(event)
    }
}

impl Entry {
    /// Of the engine, of no recording.
    pub fn new(event: Event) -> Entry {
        Entry { who: Who::Engine, event, recording: None, why: None, before: None, after: None }
    }

    /// Who did it.
    #[must_use]
    pub fn by(mut self, who: impl Into<Who>) -> Entry {
        self.who = who.into();
        self
    }

    /// Which recording.
    #[must_use]
    pub fn on(mut self, recording: Subject) -> Entry {
        self.recording = Some(recording);
        self
    }

    /// Why, in words of the program; nobody is named in it.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Entry {
        self.why = Some(Value::String(why.into()));
        self
    }

    /// Why, in words that may tell of people: what somebody typed, an error with a path.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Entry {
        self.why = serde_json::to_value(Clear::text(why)).ok();
        self
    }

    /// What was changed, from and to. [`Clear`] may be anywhere in it.
    #[must_use]
    pub fn change(mut self, before: impl Serialize, after: impl Serialize) -> Entry {
        let told = |value: serde_json::Result<Value>| value.ok().filter(|v| !v.is_null());
        self.before = told(serde_json::to_value(before));
        self.after = told(serde_json::to_value(after));
        self
    }
}
