//! The name of a join's file: any bytes that a linkedid may have, as one name of at most 255.

use crate::recording::Sha256;

/// Longest name of a file, in bytes.
const NAME_MAX: usize = 255;
/// What every name ends with.
const SUFFIX: &str = ".wav";
/// What a name begins with that is a hash. No other can: `%` is always followed by two digits.
const HASHED: &str = "%-";
const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Bytes that stand for themselves.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~+@:,=".contains(&byte)
}

/// The name of the file that joins a call. Bytes beyond letters, digits and a few signs become
/// `%XX`, a point at the beginning too; where that is more than 255 bytes, the SHA-256 of the id
/// stands in its place.
pub fn file_name(linkedid: &[u8]) -> String {
    let mut name = String::with_capacity(linkedid.len() + SUFFIX.len());
    for (at, byte) in linkedid.iter().enumerate() {
        if is_plain(*byte) && !(at == 0 && matches!(byte, b'.' | b'-')) {
            name.push(char::from(*byte));
        } else {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            name.push('%');
            name.push(char::from(digit(byte >> 4)));
            name.push(char::from(digit(byte & 15)));
        }
    }
    name.push_str(SUFFIX);
    if name.len() > NAME_MAX { hashed_name(linkedid) } else { name }
}

/// The name with a hash, which every id has.
fn hashed_name(linkedid: &[u8]) -> String {
    format!("{HASHED}{}{SUFFIX}", Sha256::of(linkedid))
}

/// The id that a name says; none if it says none, or only the hash of one.
pub fn linkedid(name: &[u8]) -> Option<Vec<u8>> {
    let mut rest = name.strip_suffix(SUFFIX.as_bytes()).filter(|id| !id.is_empty())?;
    let mut id = Vec::with_capacity(rest.len());
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            id.push(*byte);
            continue;
        }
        let ([high, low], after) = rest.split_first_chunk::<2>()?;
        let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        id.push(digit(*high)? << 4 | digit(*low)?);
        rest = after;
    }
    Some(id)
}

/// Whether a name is the hash of this id.
pub fn is_hashed(name: &[u8], linkedid: &[u8]) -> bool {
    name.starts_with(HASHED.as_bytes()) && hashed_name(linkedid).as_bytes() == name
}
