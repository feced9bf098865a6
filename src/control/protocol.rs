//! What goes over the socket: a request a line, and for each a line of progress as often as the
//! daemon likes, then exactly one `done` or `failed`.

use super::calls::FindQuery;
use super::holds::HoldRequest;
use super::trash::TrashRequest;
use super::utc;
use crate::clock::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Number of this protocol; raised when an old client would misread a new daemon.
pub const PROTOCOL: u32 = 1;

/// A path relative to the mount; the empty one is the mount itself. In JSON it is text, or, as a
/// file name may be any bytes, `{"hex": "..."}` where it is not UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WirePath(pub PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire {
    Text(String),
    Bytes { hex: String },
}

impl Serialize for WirePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => serializer.serialize_str(text),
            None => Wire::Bytes { hex: hex::encode(self.0.as_os_str().as_bytes()) }
                .serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for WirePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WirePath, D::Error> {
        match Wire::deserialize(deserializer)? {
            Wire::Text(text) => Ok(WirePath(text.into())),
            Wire::Bytes { hex } => hex::decode(hex)
                .map(|bytes| WirePath(OsString::from_vec(bytes).into()))
                .map_err(serde::de::Error::custom),
        }
    }
}

impl From<PathBuf> for WirePath {
    fn from(path: PathBuf) -> WirePath {
        WirePath(path)
    }
}

impl std::fmt::Display for WirePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.as_os_str().is_empty() {
            return f.write_str(".");
        }
        // A name may have a line break in it: it must not look like two.
        f.pad(&self.0.display().to_string().replace('\n', "\\n"))
    }
}

/// What a command asks of the daemon. Paths are relative to the mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Who is there? Answered with a [`VersionReport`].
    Version,
    /// The whole, or one path: a `StatusReport` or a `PathReport`.
    Status {
        /// One path instead of the whole.
        path: Option<WirePath>,
    },
    /// Archive now what is closed: a `MoveReport`.
    Archive {
        /// Files, or directories with all that is below.
        paths: Vec<WirePath>,
    },
    /// Release now what is archived: a `MoveReport`.
    Release {
        /// Files, or directories with all that is below.
        paths: Vec<WirePath>,
    },
    /// Bring released recordings back: a `MoveReport`.
    Recall {
        /// Files, or directories with all that is below.
        paths: Vec<WirePath>,
        /// Only released ones last written at this time or later.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
        /// Only released ones last written at this time or earlier.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// Bring recordings back and never release them: a `MoveReport`.
    Pin {
        /// Files, or directories with all that is below now.
        paths: Vec<WirePath>,
    },
    /// Let them be released again: a `MoveReport`.
    Unpin {
        /// Files, or directories with all that is below.
        paths: Vec<WirePath>,
    },
    /// Read all archived copies and compare their hashes: a `MoveReport`.
    Verify {
        /// Files, or directories with all that is below.
        paths: Vec<WirePath>,
    },
    /// Store archived recordings anew as their rules say: a `RecompressReport`.
    Recompress {
        /// Files, or directories with all that is below.
        paths: Vec<WirePath>,
        /// Only tell what would be done.
        #[serde(default)]
        plan: bool,
    },
    /// Seal archived recordings anew as their rules say: a `RecompressReport`.
    Reseal {
        /// Files, or directories with all that is below.
        paths: Vec<WirePath>,
        /// Only tell what would be done.
        #[serde(default)]
        plan: bool,
        /// Public keys that are new.
        #[serde(default)]
        add: Vec<String>,
        /// Public keys that are not to be any more.
        #[serde(default)]
        remove: Vec<String>,
    },
    /// Why a recording is where it is: a `PathReport`.
    Explain {
        /// The recording.
        path: WirePath,
    },
    /// An address that others can read an archived recording by: a `UrlReport`.
    Url {
        /// The recording.
        path: WirePath,
        /// How long it is to be valid.
        seconds: u64,
        /// Which target; none: the first that can.
        target: Option<String>,
    },
    /// Recordings or calls by what call records say: a `FindReport`.
    Find {
        /// What is looked for.
        query: FindQuery,
    },
    /// Calls without recording and recordings without call: a `GapsReport`.
    Gaps {
        /// Began then or later.
        #[serde(with = "utc")]
        from: Timestamp,
        /// Began before.
        #[serde(with = "utc")]
        to: Timestamp,
    },
    /// Something about the trash.
    Trash(TrashRequest),
    /// Erase the clear text of pseudonyms in the audit log: an `EraseReport`.
    #[serde(rename = "audit_erase")]
    AuditErase {
        /// A name, number or path.
        subject: String,
        /// Only tell what would be erased.
        dry_run: bool,
    },
    /// Recordings were brought in from elsewhere, and count as adopted: how many there are of them.
    Imported {
        /// The recordings.
        paths: Vec<WirePath>,
        /// Their bytes.
        bytes: u64,
    },
    /// Legal holds: a report of its own for each request.
    Hold(HoldRequest),
    /// What the rules of a configuration would do: a `PlanReport`.
    #[serde(rename = "retention_plan")]
    RetentionPlan {
        /// Its file.
        config: WirePath,
        /// Until then; nothing: now.
        #[serde(with = "utc::option", default)]
        at: Option<Timestamp>,
    },
    /// Delete now what the rules let go: a `RetentionReport`.
    Retention {
        /// At once, although the rules changed.
        now: bool,
        /// Also more than may be deleted in a day.
        confirm: bool,
        /// Only what is in the trash.
        #[serde(default)]
        trash: bool,
    },
    /// Read the configuration again: a `ReloadReport`.
    Reload,
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReport {
    /// Version of the daemon.
    pub version: String,
    /// Number of the protocol.
    pub protocol: u32,
    /// Its process.
    pub pid: u32,
}

impl VersionReport {
    /// That of this process.
    pub fn own() -> VersionReport {
        VersionReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            pid: std::process::id(),
        }
    }
}

/// How far a long request has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Files done.
    pub done: u64,
    /// Files in all, as far as known.
    pub total: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Bytes to be moved in all; 0 if it is not known.
    #[serde(default)]
    pub bytes_total: u64,
    /// The file in hand.
    pub current: Option<WirePath>,
}

/// One path that a request failed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathFailure {
    /// Which.
    pub path: WirePath,
    /// Why, in a sentence.
    pub reason: String,
}

/// A request that came to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What happened and what to do, in a sentence.
    pub message: String,
    /// The paths it happened to.
    #[serde(default)]
    pub failures: Vec<PathFailure>,
}

impl Failure {
    /// A failure of the whole.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), failures: Vec::new() }
    }
}

/// One line of the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// More follows.
    Progress(Progress),
    /// The end: the report of the request.
    Done(Value),
    /// The end: nothing came of it.
    Failed(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_look_as_documented() {
        let path = || WirePath("2024/a.wav".into());
        for (request, json) in [
            (Request::Version, r#""version""#),
            (Request::Status { path: None }, r#"{"status":{"path":null}}"#),
            (Request::Archive { paths: vec![path()] }, r#"{"archive":{"paths":["2024/a.wav"]}}"#),
            (Request::Explain { path: path() }, r#"{"explain":{"path":"2024/a.wav"}}"#),
            (Request::Reload, r#""reload""#),
        ] {
            assert_eq!(serde_json::to_string(&request).expect("json"), json);
            assert_eq!(serde_json::from_str::<Request>(json).expect("json"), request);
        }
    }

    #[test]
    fn a_path_of_any_bytes_survives() {
        for bytes in [&b"a\xff\n\"b"[..], b"", "ü".as_bytes(), b" "] {
            let path = WirePath(OsString::from_vec(bytes.to_vec()).into());
            let json = serde_json::to_string(&path).expect("json");
            assert!(!json.contains('\n'));
            assert_eq!(serde_json::from_str::<WirePath>(&json).expect("json"), path);
        }
    }
}
