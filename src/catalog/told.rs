//! Reading journal rows back (docs/CATALOG.md, "Journal rows"): what a rebuild is made from.

use super::encode::{unpercent, xattrs};
use super::holding::{NewHold, Scope};
use crate::clock::Timestamp;
use crate::recording::{ChunkHashes, Encoding, Generation, NodeId, Sha256, Stored};
use serde::Deserialize;

/// One row of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Order of the change on its machine, within an epoch, from 1; 0: a line of a snapshot.
    pub seq: u64,
    /// When it happened.
    pub at: Timestamp,
    /// What it is about.
    pub id: NodeId,
    /// Its path, relative to the mount.
    pub path: Vec<u8>,
    /// What happened.
    pub what: What,
}

/// What happened to a recording or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A generation is archived.
    Archived(Box<Archive>),
    /// It, or a directory with all in it, had another name before.
    Renamed {
        /// The name before.
        from: Vec<u8>,
        /// It is a directory.
        dir: bool,
    },
    /// It got a further name.
    Linked,
    /// It lost one of several names.
    Unlinked,
    /// Its last name is gone.
    Deleted {
        /// It is in the trash.
        trash: bool,
    },
    /// It has a name again.
    Restored(Attributes),
    /// Its objects were deleted.
    Erased,
    /// Its attributes changed.
    Attributes(Attributes),
    /// Its extended attributes changed.
    Xattrs(xattrs::Pairs),
    /// A legal hold was made. About no recording.
    Hold(Box<ToldHold>),
    /// A hold was put on it.
    Held {
        /// Its number.
        hold: u64,
        /// It is not known yet whether the hold means it.
        provisional: bool,
    },
    /// A hold that was on it provisionally does not mean it.
    Unheld {
        /// Its number.
        hold: u64,
    },
    /// A hold was lifted. About no recording.
    Lifted {
        /// Its number.
        hold: u64,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
    },
    /// An operator wants to keep it local.
    Pinned,
    /// That is over.
    Unpinned,
    /// Of a kind that this program does not know.
    Other,
}

/// A generation as the journal tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Which.
    pub generation: Generation,
    /// SHA-256 of the whole.
    pub sha256: Sha256,
    /// SHA-256 of each chunk.
    pub chunks: ChunkHashes,
    /// Attributes at that time.
    pub attributes: Attributes,
    /// Extended attributes at that time.
    pub xattrs: xattrs::Pairs,
    /// Each verified object.
    pub objects: Vec<ToldObject>,
}

/// An object as the journal tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldObject {
    /// The target, as it was called then.
    pub target: String,
    /// Full key.
    pub key: String,
    /// What is there.
    pub stored: Stored,
}

/// A hold as the journal tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldHold {
    /// Its number.
    pub hold: u64,
    /// What it is.
    pub new: NewHold,
}

/// What `stat` showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
}

#[derive(Deserialize)]
struct Raw {
    /// A line of a snapshot has none.
    #[serde(default)]
    seq: u64,
    at: String,
    kind: String,
    id: Option<NodeId>,
    path: Option<String>,
    from: Option<String>,
    #[serde(default)]
    dir: bool,
    #[serde(default)]
    trash: bool,
    generation: Option<Generation>,
    sha256: Option<Sha256>,
    size: Option<u64>,
    mode: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<String>,
    atime: Option<String>,
    xattrs: Option<Vec<(String, String)>>,
    objects: Option<Vec<RawObject>>,
    chunks: Option<ChunkHashes>,
    hold: Option<u64>,
    case: Option<String>,
    reason: Option<String>,
    by: Option<String>,
    scope: Option<Scope>,
    #[serde(default)]
    provisional: bool,
}

#[derive(Deserialize)]
struct RawObject {
    target: String,
    key: String,
    encoding: Option<String>,
    stored_size: Option<u64>,
    stored_sha256: Option<Sha256>,
}

impl Told {
    /// From one line. Fields that are not known are passed over.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(line: &str) -> Result<Told, String> {
        let raw: Raw = serde_json::from_str(line).map_err(|e| e.to_string())?;
        let at = time(&raw.at).ok_or_else(|| lacks("at"))?;
        let what = what(&raw)?;
        // A row of a kind to come may be about no path.
        let (id, path) = match &what {
            What::Other | What::Hold(_) | What::Lifted { .. } => {
                (raw.id.unwrap_or(NodeId(0)), Vec::new())
            }
            _ => (raw.id.ok_or_else(|| lacks("id"))?, name(raw.path.as_ref(), "path")?),
        };
        Ok(Told { seq: raw.seq, at, id, path, what })
    }
}

fn what(raw: &Raw) -> Result<What, String> {
    Ok(match raw.kind.as_str() {
        "archived" => {
            let objects = raw.objects.as_ref().ok_or_else(|| lacks("objects"))?;
            let sha256 = raw.sha256.ok_or_else(|| lacks("sha256"))?;
            let attributes = attributes(raw)?;
            let plain = Stored::plain(attributes.size, sha256);
            let objects = objects.iter().map(|o| object(o, &plain));
            What::Archived(Box::new(Archive {
                generation: raw.generation.ok_or_else(|| lacks("generation"))?,
                sha256,
                chunks: raw.chunks.clone().ok_or_else(|| lacks("chunks"))?,
                attributes,
                xattrs: pairs(raw)?,
                objects: objects.collect::<Result<_, String>>()?,
            }))
        }
        "renamed" => What::Renamed { from: name(raw.from.as_ref(), "from")?, dir: raw.dir },
        "linked" => What::Linked,
        "unlinked" => What::Unlinked,
        "deleted" => What::Deleted { trash: raw.trash },
        "restored" => What::Restored(attributes(raw)?),
        "erased" => What::Erased,
        "attributes" => What::Attributes(attributes(raw)?),
        "xattrs" => What::Xattrs(pairs(raw)?),
        "hold" => What::Hold(Box::new(ToldHold {
            hold: raw.hold.ok_or_else(|| lacks("hold"))?,
            new: NewHold {
                case: raw.case.clone().ok_or_else(|| lacks("case"))?,
                reason: raw.reason.clone().unwrap_or_default(),
                by: raw.by.clone().unwrap_or_default(),
                scope: raw.scope.clone().unwrap_or_default(),
            },
        })),
        "held" => What::Held {
            hold: raw.hold.ok_or_else(|| lacks("hold"))?,
            provisional: raw.provisional,
        },
        "unheld" => What::Unheld { hold: raw.hold.ok_or_else(|| lacks("hold"))? },
        "lifted" => What::Lifted {
            hold: raw.hold.ok_or_else(|| lacks("hold"))?,
            by: raw.by.clone().unwrap_or_default(),
            reason: raw.reason.clone().unwrap_or_default(),
        },
        "pinned" => What::Pinned,
        "unpinned" => What::Unpinned,
        _ => What::Other,
    })
}

fn object(raw: &RawObject, plain: &Stored) -> Result<ToldObject, String> {
    let stored = match &raw.encoding {
        None => plain.clone(),
        Some(words) => {
            let size = raw.stored_size.ok_or_else(|| lacks("stored_size"))?;
            let sha256 = raw.stored_sha256.ok_or_else(|| lacks("stored_sha256"))?;
            Stored { encoding: Encoding::parse(words, size)?, size, sha256 }
        }
    };
    Ok(ToldObject { target: raw.target.clone(), key: raw.key.clone(), stored })
}

fn lacks(field: &str) -> String {
    format!("{field:?} is missing or not valid")
}

fn name(text: Option<&String>, field: &str) -> Result<Vec<u8>, String> {
    text.and_then(|t| unpercent(t)).ok_or_else(|| lacks(field))
}

fn pairs(raw: &Raw) -> Result<xattrs::Pairs, String> {
    xattrs::from_text(raw.xattrs.as_deref().unwrap_or_default()).ok_or_else(|| lacks("xattrs"))
}

fn attributes(raw: &Raw) -> Result<Attributes, String> {
    let mode = raw.mode.as_ref().and_then(|m| u32::from_str_radix(m, 8).ok());
    let stamp = |text: &Option<String>| text.as_ref().and_then(|t| time(t));
    Ok(Attributes {
        mode: mode.ok_or_else(|| lacks("mode"))?,
        uid: raw.uid.ok_or_else(|| lacks("uid"))?,
        gid: raw.gid.ok_or_else(|| lacks("gid"))?,
        size: raw.size.ok_or_else(|| lacks("size"))?,
        mtime: stamp(&raw.mtime).ok_or_else(|| lacks("mtime"))?,
        atime: stamp(&raw.atime).ok_or_else(|| lacks("atime"))?,
    })
}

/// Seconds since 1970 with nine decimals.
fn time(text: &str) -> Option<Timestamp> {
    let (secs, nanos) = text.split_once('.')?;
    (nanos.len() == 9)
        .then(|| Some(Timestamp::from_parts(secs.parse().ok()?, nanos.parse().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_what_is_not_known_is_passed_over() {
        let line = r#"{"seq":7,"at":"-1.500000000","kind":"renamed","id":9,"path":"a%20b","from":"c","dir":true,"new":1}"#;
        let told = Told::parse(line).unwrap();
        assert_eq!((told.seq, told.at, told.id), (7, Timestamp(-500_000_000), NodeId(9)));
        assert_eq!(told.path, b"a b");
        assert_eq!(told.what, What::Renamed { from: b"c".to_vec(), dir: true });
        let other = Told::parse(r#"{"seq":8,"at":"1.000000000","kind":"to come"}"#).unwrap();
        assert_eq!(other.what, What::Other);
    }

    #[test]
    fn an_object_is_the_recording_unless_its_line_says_otherwise() {
        let (whole, other) = (Sha256::of(b"a"), Sha256::of(b"b"));
        let line = |rest: &str| {
            format!(
                r#"{{"seq":1,"at":"1.000000000","kind":"archived","id":9,"path":"a","generation":1,
                "sha256":"{whole}","chunks":[],"mode":"0640","uid":0,"gid":0,"size":50,
                "mtime":"1.000000000","atime":"1.000000000",
                "objects":[{{"target":"t","key":"k"{rest}}}]}}"#
            )
        };
        let of = |rest: &str| match Told::parse(&line(rest)).map(|told| told.what) {
            Ok(What::Archived(archive)) => Ok(archive.objects[0].stored.clone()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        assert_eq!(of(""), Ok(Stored::plain(50, whole)));
        let patched = format!(
            r#","encoding":"patched:4=00000000","stored_size":50,"stored_sha256":"{other}""#
        );
        let stored = of(&patched).unwrap();
        assert_eq!((stored.size, stored.sha256), (50, other));
        assert_eq!(stored.encoding.to_string(), "patched:4=00000000");
        assert!(of(r#","encoding":"patched:4=00000000""#).unwrap_err().contains("stored_size"));
        assert!(of(&patched.replace("patched:", "folded:")).unwrap_err().contains("folded"));
    }

    #[test]
    fn a_row_that_lacks_something_says_what() {
        for (line, field) in [
            (r#"{"seq":7,"at":"1","kind":"deleted","id":9,"path":"a"}"#, "at"),
            (r#"{"seq":7,"at":"1.000000000","kind":"deleted","path":"a"}"#, "id"),
            (r#"{"seq":7,"at":"1.000000000","kind":"deleted","id":1,"path":"%"}"#, "path"),
            (r#"{"seq":7,"at":"1.000000000","kind":"attributes","id":1,"path":"a"}"#, "mode"),
        ] {
            assert!(Told::parse(line).unwrap_err().contains(field), "{field}");
        }
    }
}
