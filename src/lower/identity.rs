//! The identity a lower file carries: an extended attribute `trusted.spoolfs`, invisible to
//! users and through the mount. It holds the node id and the inode number it was given to, so
//! that a copy made with its attributes (`cp -a`, a restored backup) is not taken for the
//! original. docs/decisions/0002-identity.md says why it is not kept in the catalog alone.

use crate::recording::NodeId;

/// Name of the attribute.
pub const XATTR: &str = "trusted.spoolfs";
/// First byte of the value.
const LAYOUT: u8 = 1;
/// Length of the value: layout, node id, lower inode number (both little-endian).
pub const LEN: usize = 17;

/// The value for a file.
pub fn encode(id: NodeId, lower_ino: u64) -> [u8; LEN] {
    let mut value = [LAYOUT; LEN];
    value[1..9].copy_from_slice(&id.0.to_le_bytes());
    value[9..].copy_from_slice(&lower_ino.to_le_bytes());
    value
}

/// The identity in a value, if it was given to the file with this inode number.
pub fn decode(value: &[u8], lower_ino: u64) -> Option<NodeId> {
    let (layout, rest) = value.split_first()?;
    let (id, ino) = rest.split_first_chunk::<8>()?;
    let ino: &[u8; 8] = ino.try_into().ok()?;
    let ours = *layout == LAYOUT && u64::from_le_bytes(*ino) == lower_ino;
    ours.then(|| NodeId(u64::from_le_bytes(*id)))
}

/// What becomes of an extended attribute of the file with inode number `from` on a copy that is to
/// take its place: `None` if it is no identity, else the identity of the copy, if the file had one
/// that was its own.
pub fn of_copy(name: &[u8], value: &[u8], from: u64, to: u64) -> Option<Option<[u8; LEN]>> {
    let identity = name == XATTR.as_bytes();
    identity.then(|| decode(value, from).map(|id| encode(id, to)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_not_inherited_by_a_copy() {
        let value = encode(NodeId(77), 12);
        assert_eq!(decode(&value, 12), Some(NodeId(77)));
        assert_eq!(decode(&value, 13), None);
        assert_eq!(decode(&value[..16], 12), None);
        assert_eq!(decode(&[], 12), None);
    }
}
