//! What the object of a stored join says of itself (docs/FORMAT.md, "Joined calls"): enough to find
//! it again, and to know of whom it is, when there is nothing else.

use super::ObjectMeta;
use super::meta::{
    FORMAT, FORMAT_PLAIN, FORMAT_VERSION, LabelError, MTIME, NODE, SHA256, SIZE, ascii, digest,
    invalid, number, stored, stored_fields, text,
};
use crate::clock::Timestamp;
use crate::recording::{NodeId, Sha256, Stored};
use std::path::Path;

const CALL: &str = "spoolfs-call";
const LEGS: &str = "spoolfs-legs";
const ACCESS: &str = "spoolfs-access";
/// All names and values of one object, together.
const BYTES_MAX: usize = 2000;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinLabel {
    /// The machine that the call was recorded on.
    pub node: String,
    /// The id of the call.
    pub call: Vec<u8>,
    /// The recordings that it was made of.
    pub legs: Vec<NodeId>,
    /// SHA-256 of the join.
    pub sha256: Sha256,
    /// Its length in bytes.
    pub size: u64,
    /// The last change of any of its legs.
    pub mtime: Timestamp,
    /// Who may read it: mode, owner, group.
    pub access: (u32, u32, u32),
    /// What is stored of it.
    pub stored: Stored,
}

impl JoinLabel {
    /// As it is written beside the object; none if there are more legs than can be told.
    pub fn to_meta(&self) -> Option<ObjectMeta> {
        let field = |name: &str, value: String| (name.to_owned(), value);
        let legs: Vec<String> = self.legs.iter().map(|leg| leg.0.to_string()).collect();
        let (mode, uid, gid) = self.access;
        let mut user = vec![
            field(FORMAT, self.stored.encoding.format().to_string()),
            field(NODE, ascii(&super::key::node_component(&self.node))),
            field(CALL, ascii(&super::key::encode(&self.call))),
            field(LEGS, legs.join(",")),
            field(SHA256, self.sha256.to_string()),
            field(SIZE, self.size.to_string()),
            field(MTIME, self.mtime.0.to_string()),
            field(ACCESS, format!("{mode:o},{uid},{gid}")),
        ];
        user.extend(stored_fields(&self.stored));
        let bytes: usize = user.iter().map(|(name, value)| name.len() + value.len()).sum();
        let name = format!("join.wav{}", super::key::suffix(&self.stored.encoding));
        let content_type = super::meta::content_type(Path::new(&name)).to_owned();
        (bytes <= BYTES_MAX).then_some(ObjectMeta { content_type, user, storage_class: None })
    }

    /// From the user metadata of an object.
    ///
    /// # Errors
    /// A field is missing or wrong, or the format is newer.
    pub fn from_user(user: &[(String, String)]) -> Result<JoinLabel, LabelError> {
        let format: u32 = number(user, FORMAT)?;
        if format > FORMAT_VERSION {
            return Err(LabelError::Newer(format));
        }
        let decoded = |field: &'static str| {
            let value = text(user, field)?;
            super::key::decode(value).ok_or_else(|| invalid(field, value))
        };
        let node = String::from_utf8(decoded(NODE)?);
        let node = node.map_err(|_| invalid(NODE, text(user, NODE).unwrap_or_default()))?;
        let words = text(user, LEGS)?;
        let legs = words.split(',').map(|leg| leg.parse().map(NodeId));
        let legs = legs.collect::<Result<_, _>>().map_err(|_| invalid(LEGS, words))?;
        let words = text(user, ACCESS)?;
        let (size, sha256) = (number(user, SIZE)?, digest(user, SHA256)?);
        let stored = match format {
            FORMAT_PLAIN => Stored::plain(size, sha256),
            _ => stored(user)?,
        };
        Ok(JoinLabel {
            node,
            call: decoded(CALL)?,
            legs,
            sha256,
            size,
            stored,
            mtime: Timestamp(number(user, MTIME)?),
            access: access(words).ok_or_else(|| invalid(ACCESS, words))?,
        })
    }
}

fn access(words: &str) -> Option<(u32, u32, u32)> {
    let mut parts = words.split(',');
    let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
    Some((mode, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Encoding;

    #[test]
    fn what_a_stored_join_says_of_itself_is_read_again() {
        let label = |call: &[u8], legs: u64| JoinLabel {
            node: "pbx-1".into(),
            call: call.to_vec(),
            legs: (1..=legs).map(|n| NodeId(n * 1_000_000_000)).collect(),
            sha256: Sha256::of(b"x"),
            size: u64::MAX,
            mtime: Timestamp(-5),
            access: (0o440, 100, 101),
            stored: Stored::plain(u64::MAX, Sha256::of(b"x")),
        };
        for call in [&b"1795228029.1"[..], b"a/b %\n", "b\u{fc}ro".as_bytes(), &[0xff; 149]] {
            let meta = label(call, 3).to_meta().unwrap();
            assert!(meta.user.iter().all(|(name, value)| name.is_ascii() && value.is_ascii()));
            assert_eq!(JoinLabel::from_user(&meta.user).unwrap(), label(call, 3));
        }
        let encoding = Encoding::parse("age", 1000).unwrap();
        let stored = Stored { encoding, size: 1000, sha256: Sha256::of(b"sealed") };
        let sealed = JoinLabel { stored, ..label(b"1.1", 3) };
        let meta = sealed.to_meta().unwrap();
        assert_eq!(meta.content_type, "application/octet-stream");
        assert_eq!(JoinLabel::from_user(&meta.user), Ok(sealed));
        assert!(label(b"1.1", 100).to_meta().is_some());
        assert_eq!(label(b"1.1", 300).to_meta(), None);
        let mut user = label(b"1.1", 1).to_meta().unwrap().user;
        user.retain(|(name, _)| name != LEGS);
        assert_eq!(JoinLabel::from_user(&user), Err(LabelError::Missing(LEGS)));
    }

    #[test]
    fn keys_of_stored_joins_are_told_apart_and_fit() {
        let key = super::super::key::joined;
        assert_eq!(key("p/", "1.2.wav", None), "p/stitched/1.2.wav");
        assert_eq!(key("p/", "1.2.wav", Some(7)), "p/stitched/1.2~0000000000000007.wav");
        let long = format!("{}.wav", "x".repeat(251));
        assert_ne!(key("", &long, Some(1)), key("", &long, Some(2)));
        assert!(key("", &long, Some(1)).len() <= crate::limits::KEY_COMPONENT_BYTES_MAX + 9);
    }
}
