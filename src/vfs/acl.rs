//! POSIX access lists of released recordings, where no file system keeps list and mode in step.
//! The form is that of `linux/posix_acl_xattr.h`; what follows what is in `acl(5)`.

use super::xattrs::Xattrs;

/// The attribute that holds the access list.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";

const VERSION: [u8; 4] = 2u32.to_le_bytes();
const ENTRY: usize = 8;
const OWNER: u16 = 0x01;
const GROUP: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    may: u16,
    id: [u8; 4],
}

fn entries(list: &[u8]) -> Option<Vec<Entry>> {
    let (entries, rest) = list.strip_prefix(&VERSION)?.as_chunks::<ENTRY>();
    let entry = |&[t0, t1, m0, m1, id @ ..]: &[u8; ENTRY]| Entry {
        tag: u16::from_le_bytes([t0, t1]),
        may: u16::from_le_bytes([m0, m1]),
        id,
    };
    rest.is_empty().then(|| entries.iter().map(entry).collect())
}

/// What chmod makes of an access list: the group's bits go to the mask, if it has one.
/// `None` if it is no list.
fn with_mode(list: &[u8], mode: u32) -> Option<Vec<u8>> {
    let mut entries = entries(list)?;
    let masked = entries.iter().any(|e| e.tag == MASK);
    let bits = |shift: u32| u16::try_from(mode >> shift & 7).unwrap_or(0);
    for entry in &mut entries {
        match entry.tag {
            OWNER => entry.may = bits(6),
            MASK => entry.may = bits(3),
            GROUP if !masked => entry.may = bits(3),
            OTHER => entry.may = bits(0),
            _ => {}
        }
    }
    let bytes = entries.iter().flat_map(|e| {
        let (tag, may) = (e.tag.to_le_bytes(), e.may.to_le_bytes());
        tag.into_iter().chain(may).chain(e.id)
    });
    Some(VERSION.into_iter().chain(bytes).collect())
}

/// What setting an access list makes of the mode, and whether the list says no more than that: it
/// is not kept then. `None` if it is no list.
fn mode_with(list: &[u8], mode: u32) -> Option<(u32, bool)> {
    let entries = entries(list)?;
    let bits = |tag| entries.iter().find(|e| e.tag == tag).map(|e| u32::from(e.may & 7));
    let group = bits(MASK).or(bits(GROUP))?;
    let plain = entries.iter().all(|e| matches!(e.tag, OWNER | GROUP | OTHER));
    Some((mode & !0o777 | bits(OWNER)? << 6 | group << 3 | bits(OTHER)?, plain))
}

/// After chmod: whether a list had to follow.
pub(super) fn list_follows_mode(xattrs: &mut Xattrs, mode: u32) -> bool {
    let list = xattrs.iter_mut().find(|(key, _)| key == ACCESS).map(|(_, list)| list);
    let Some(list) = list else { return false };
    let Some(new) = with_mode(list, mode) else { return false };
    let moved = *list != new;
    *list = new;
    moved
}

/// The mode that an access list brings with it, if it has to change. A list that says no more
/// than the mode is not kept.
pub(super) fn mode_follows_list(xattrs: &mut Xattrs, mode: u32) -> Option<u32> {
    let at = xattrs.iter().position(|(key, _)| key == ACCESS)?;
    let (new, plain) = mode_with(&xattrs.get(at)?.1, mode)?;
    if plain {
        xattrs.remove(at);
    }
    (new != mode).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = VERSION.to_vec();
        for (tag, may, id) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(may.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    const NOBODY: u32 = u32::MAX;

    #[test]
    fn chmod_moves_the_mask_and_leaves_named_groups() {
        let before = [
            (OWNER, 6, NOBODY),
            (GROUP, 4, NOBODY),
            (8, 7, 33),
            (MASK, 6, NOBODY),
            (OTHER, 0, NOBODY),
        ];
        let after = [
            (OWNER, 7, NOBODY),
            (GROUP, 4, NOBODY),
            (8, 7, 33),
            (MASK, 1, NOBODY),
            (OTHER, 2, NOBODY),
        ];
        assert_eq!(with_mode(&list(&before), 0o2712), Some(list(&after)));
    }

    #[test]
    fn chmod_moves_the_group_where_there_is_no_mask() {
        let before = [(OWNER, 6, NOBODY), (GROUP, 4, NOBODY), (OTHER, 4, NOBODY)];
        let after = [(OWNER, 6, NOBODY), (GROUP, 0, NOBODY), (OTHER, 0, NOBODY)];
        assert_eq!(with_mode(&list(&before), 0o600), Some(list(&after)));
    }

    #[test]
    fn a_list_gives_the_mode_its_mask() {
        let named = [
            (OWNER, 6, NOBODY),
            (GROUP, 4, NOBODY),
            (8, 7, 33),
            (MASK, 7, NOBODY),
            (OTHER, 1, NOBODY),
        ];
        assert_eq!(mode_with(&list(&named), 0o4600), Some((0o4671, false)));
        let plain = [(OWNER, 6, NOBODY), (GROUP, 4, NOBODY), (OTHER, 0, NOBODY)];
        assert_eq!(mode_with(&list(&plain), 0o777), Some((0o640, true)));
    }

    #[test]
    fn what_is_no_list_is_left_alone() {
        for bytes in [&b""[..], b"\x02\0\0", b"\x03\0\0\0", b"\x02\0\0\0\x01\0"] {
            assert_eq!(with_mode(bytes, 0o600), None);
            assert_eq!(mode_with(bytes, 0o600), None);
        }
    }
}
