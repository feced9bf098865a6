//! What an object says of itself (docs/FORMAT.md, "Object metadata"): enough to find its way home
//! when there is nothing else.

use super::ObjectMeta;
use crate::clock::Timestamp;
use crate::recording::{Encoding, ErrorClass, Generation, NodeId, Sha256, Stored};
use std::path::Path;

/// The newest version of the format that this program reads and writes.
pub const FORMAT_VERSION: u32 = 6;
/// The version of objects whose names and metadata are hidden (`super::hidden`).
pub(super) const FORMAT_HIDDEN: u32 = 6;
/// The version of sealed objects, and of what tells of one.
pub(super) const FORMAT_SEALED: u32 = 5;
/// The version of a journal segment or snapshot that tells of legal holds: a program that does not
/// know them would bring a catalog back without them.
pub const FORMAT_HOLDS: u32 = 4;
/// The version of FLAC objects, and of what tells of one.
pub(super) const FORMAT_FLAC: u32 = 3;
/// The version of what holds no FLAC.
pub(super) const FORMAT_PATCHED: u32 = 2;
/// The version of everything in which nothing is encoded: older programs read it.
pub(super) const FORMAT_PLAIN: u32 = 1;

pub(super) const FORMAT: &str = "spoolfs-format";
pub(super) const NODE: &str = "spoolfs-node";
const ID: &str = "spoolfs-id";
const GENERATION: &str = "spoolfs-generation";
pub(super) const SHA256: &str = "spoolfs-sha256";
pub(super) const SIZE: &str = "spoolfs-size";
pub(super) const MTIME: &str = "spoolfs-mtime";
const ENCODING: &str = "spoolfs-encoding";
const STORED_SHA256: &str = "spoolfs-stored-sha256";
const STORED_SIZE: &str = "spoolfs-stored-size";

/// The way home of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The machine it was recorded on.
    pub node: String,
    /// Identity of the recording there.
    pub id: NodeId,
    /// Which of its contents.
    pub generation: Generation,
    /// SHA-256 of the recording.
    pub sha256: Sha256,
    /// Length of the recording in bytes.
    pub size: u64,
    /// Last change of its content.
    pub mtime: Timestamp,
    /// What is stored of it.
    pub stored: Stored,
}

/// Why metadata can not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A field is not there: not written by spoolfs, or the target dropped it.
    #[error("the object has no {0:?} in its metadata: it was not written by spoolfs")]
    Missing(&'static str),
    /// A field is not what it should be.
    #[error("the object's metadata says {field} = {value:?}, which is not valid")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What it holds.
        value: String,
    },
    /// Written by a newer spoolfs.
    #[error(
        "the object has format version {0}; this spoolfs reads up to {FORMAT_VERSION}, install a newer one"
    )]
    Newer(u32),
    /// It is hidden, and there is no name key for it.
    #[error("the object's metadata is sealed: {0}")]
    Hidden(String),
}

impl LabelError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }
}

impl Label {
    /// As it is written beside the object of the recording at `path`.
    pub fn to_meta(&self, path: &Path) -> ObjectMeta {
        let field = |name: &str, value: String| (name.to_owned(), value);
        let mut user = vec![
            field(FORMAT, self.stored.encoding.format().to_string()),
            field(NODE, ascii(&super::key::node_component(&self.node))),
            field(ID, self.id.to_string()),
            field(GENERATION, self.generation.0.to_string()),
            field(SHA256, self.sha256.to_string()),
            field(SIZE, self.size.to_string()),
            field(MTIME, self.mtime.0.to_string()),
        ];
        user.extend(stored_fields(&self.stored));
        let path = super::key::object_path(path, &self.stored.encoding);
        ObjectMeta { content_type: content_type(&path).to_owned(), user, storage_class: None }
    }

    /// From the user metadata of an object. `node` comes back as it is in keys, FLAC without a map.
    ///
    /// # Errors
    /// A field is missing or wrong, or the format is newer.
    pub fn from_user(user: &[(String, String)]) -> Result<Label, LabelError> {
        let format: u32 = number(user, FORMAT)?;
        if format > FORMAT_VERSION {
            return Err(LabelError::Newer(format));
        }
        let node = text(user, NODE)?;
        let (size, sha256) = (number(user, SIZE)?, digest(user, SHA256)?);
        let stored = match format {
            FORMAT_PLAIN => Stored::plain(size, sha256),
            _ => stored(user)?,
        };
        let node = super::key::decode(node)
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| invalid(NODE, node))?;
        Ok(Label {
            node,
            id: NodeId(number(user, ID)?),
            generation: Generation(number(user, GENERATION)?),
            sha256,
            size,
            mtime: Timestamp(number(user, MTIME)?),
            stored,
        })
    }
}

/// What is said of bytes that are not the recording's.
pub(super) fn stored_fields(stored: &Stored) -> Vec<(String, String)> {
    if stored.is_plain() {
        return Vec::new();
    }
    let field = |name: &str, value: String| (name.to_owned(), value);
    vec![
        field(ENCODING, stored.encoding.label()),
        field(STORED_SHA256, stored.sha256.to_string()),
        field(STORED_SIZE, stored.size.to_string()),
    ]
}

pub(super) fn stored(user: &[(String, String)]) -> Result<Stored, LabelError> {
    let (words, size) = (text(user, ENCODING)?, number(user, STORED_SIZE)?);
    let encoding = Encoding::parse(words, size).map_err(|_| invalid(ENCODING, words))?;
    Ok(Stored { encoding, size, sha256: digest(user, STORED_SHA256)? })
}

pub(super) fn digest(user: &[(String, String)], field: &'static str) -> Result<Sha256, LabelError> {
    let value = text(user, field)?;
    Sha256::from_hex(value).ok_or_else(|| invalid(field, value))
}

pub(super) fn text<'a>(
    user: &'a [(String, String)],
    field: &'static str,
) -> Result<&'a str, LabelError> {
    let found = user.iter().find(|(name, _)| name.eq_ignore_ascii_case(field));
    found.map(|(_, value)| value.as_str()).ok_or(LabelError::Missing(field))
}

pub(super) fn number<T: std::str::FromStr>(
    user: &[(String, String)],
    field: &'static str,
) -> Result<T, LabelError> {
    let value = text(user, field)?;
    value.parse().map_err(|_| invalid(field, value))
}

pub(super) fn invalid(field: &'static str, value: &str) -> LabelError {
    LabelError::Invalid { field, value: value.to_owned() }
}

/// Metadata travels in HTTP headers: what is not ASCII is escaped once more, as in keys.
pub(super) fn ascii(text: &str) -> String {
    text.chars()
        .map(|c| match c.is_ascii() {
            true => c.to_string(),
            false => c.encode_utf8(&mut [0; 4]).bytes().map(|b| format!("%{b:02X}")).collect(),
        })
        .collect()
}

/// The content type by which a browser plays or shows the file.
pub fn content_type(path: &Path) -> &'static str {
    let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref().unwrap_or_default() {
        "wav" | "wav49" => "audio/wav",
        "mp3" => "audio/mpeg",
        "ogg" | "opus" | "oga" => "audio/ogg",
        "flac" => "audio/flac",
        "m4a" | "mp4" => "audio/mp4",
        "gsm" => "audio/x-gsm",
        "ulaw" | "ul" | "pcm" | "au" => "audio/basic",
        "txt" | "md5" | "sha256" | "vtt" | "srt" => "text/plain",
        "csv" => "text/csv",
        "json" => "application/json",
        "xml" => "application/xml",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(node: &str) -> Label {
        Label {
            node: node.into(),
            id: NodeId(u64::MAX),
            generation: Generation(u32::MAX),
            sha256: Sha256::of(b"x"),
            size: u64::MAX,
            mtime: Timestamp(-1),
            stored: Stored::plain(u64::MAX, Sha256::of(b"x")),
        }
    }

    /// The longest that an encoding can be.
    fn encoded(node: &str) -> Label {
        let places = (0..16).map(|i| (u64::MAX / 32 + 16 * i, vec![255; 16])).collect();
        let encoding = Encoding::Patched(crate::recording::Patch::new(places).unwrap());
        let stored = Stored { encoding, size: u64::MAX, sha256: Sha256::of(b"y") };
        Label { stored, ..label(node) }
    }

    #[test]
    fn a_label_survives_and_is_small_plain_ascii() {
        for node in ["pbx-1", "büro 100%", &"ü".repeat(24)] {
            let meta = label(node).to_meta(Path::new("a/b.WAV"));
            assert_eq!(meta.content_type, "audio/wav");
            let bytes: usize = meta.user.iter().map(|(k, v)| k.len() + v.len()).sum();
            assert!(bytes <= 2000, "{bytes}");
            assert!(meta.user.iter().all(|(k, v)| k.is_ascii() && v.is_ascii()));
            assert_eq!(Label::from_user(&meta.user).unwrap(), label(node));
            assert_eq!(meta.user[0].1, "1", "older programs read it");
            let meta = encoded(node).to_meta(Path::new("a"));
            assert_eq!(Label::from_user(&meta.user).unwrap(), encoded(node));
            assert_eq!(meta.user[0].1, "2", "older programs leave it alone");
        }
        let flac = Stored { encoding: Encoding::Flac(None), ..encoded("n").stored };
        let flac = Label { stored: flac, ..label("n") };
        let meta = flac.to_meta(Path::new("a/b.wav"));
        assert_eq!((meta.content_type.as_str(), &*meta.user[0].1), ("audio/flac", "3"));
        assert_eq!(Label::from_user(&meta.user).unwrap(), flac);
        let sealed = Encoding::parse("age;flac", u64::MAX).unwrap();
        let sealed = Label { stored: Stored { encoding: sealed, ..flac.stored }, ..label("n") };
        let meta = sealed.to_meta(Path::new("a/b.wav"));
        assert_eq!((&*meta.content_type, &*meta.user[0].1), ("application/octet-stream", "5"));
        assert_eq!(Label::from_user(&meta.user).unwrap(), sealed);
        let longest = encoded(&"\u{1}".repeat(300)).to_meta(Path::new(""));
        assert!(longest.user.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>() <= 2000);
    }

    #[test]
    fn what_is_missing_wrong_or_newer_is_named() {
        let user = encoded("n").to_meta(Path::new("x")).user;
        for i in 0..user.len() {
            let mut less = user.clone();
            let (name, _) = less.remove(i);
            let error = Label::from_user(&less).unwrap_err();
            assert!(error.to_string().contains(&name), "{error}");
            let mut wrong = user.clone();
            wrong[i].1 = "%zz".into();
            assert!(matches!(Label::from_user(&wrong), Err(LabelError::Invalid { .. })), "{name}");
        }
        let mut newer = user;
        newer[0].1 = "7".into();
        assert_eq!(Label::from_user(&newer), Err(LabelError::Newer(7)));
    }
}
