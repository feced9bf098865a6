//! Bytes as text: names in the log and in journal rows, and the checksum of log records.

use super::op::Name;
use crate::recording::NodeId;

/// Percent-encodes everything but the unreserved characters of RFC 3986 and `/`.
pub(super) fn percent(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(bytes.len());
    for &b in bytes {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'/') {
            text.push(char::from(b));
        } else {
            text.push('%');
            for nibble in [b >> 4, b & 15] {
                text.push(DIGITS.get(usize::from(nibble)).map_or('0', |d| char::from(*d)));
            }
        }
    }
    text
}

/// The inverse of [`percent`]; `None` for a `%` without two hexadecimal digits.
pub(super) fn unpercent(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return None };
        let digit = |b: u8| char::from(b).to_digit(16);
        bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
        rest = tail;
    }
    Some(bytes)
}

/// A name as a percent-encoded JSON string.
pub(super) mod name {
    use super::{percent, unpercent};
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&percent(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        unpercent(&text).ok_or_else(|| serde::de::Error::custom("not percent-encoded"))
    }
}

/// A node with its place: identity, directory, name.
pub(super) mod place {
    use super::{Name, NodeId, percent, unpercent};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(v: &(NodeId, NodeId, Name), s: S) -> Result<S::Ok, S::Error> {
        (v.0, v.1, percent(&v.2)).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<(NodeId, NodeId, Name), D::Error> {
        let (id, parent, text) = <(NodeId, NodeId, String)>::deserialize(d)?;
        let name = unpercent(&text).ok_or_else(|| serde::de::Error::custom("not a name"))?;
        Ok((id, parent, name))
    }
}

/// Extended attributes: pairs of percent-encoded strings.
pub(super) mod xattrs {
    use super::{percent, unpercent};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

    pub fn to_text(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| (percent(name), percent(value))).collect()
    }

    pub fn from_text(pairs: &[(String, String)]) -> Option<Pairs> {
        pairs.iter().map(|(name, value)| Some((unpercent(name)?, unpercent(value)?))).collect()
    }

    pub fn serialize<S: Serializer>(v: &[(Vec<u8>, Vec<u8>)], s: S) -> Result<S::Ok, S::Error> {
        to_text(v).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Pairs, D::Error> {
        let pairs = Vec::<(String, String)>::deserialize(d)?;
        from_text(&pairs).ok_or_else(|| serde::de::Error::custom("not percent-encoded"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_value_survives_percent_encoding() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unpercent(&percent(&all)), Some(all));
        assert_eq!(percent(b"2026/in 3001%.wav"), "2026/in%203001%25.wav");
        assert_eq!(unpercent("%4"), None);
        assert_eq!(unpercent("%zz"), None);
    }
}
