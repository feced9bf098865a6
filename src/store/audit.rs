//! What a target is told of an audit log (docs/AUDIT.md, "In the targets"): where it ended, and
//! the lines themselves. Nothing of it is ever written over; only lines are ever deleted, when they left
//! the log.

use super::key;
use crate::recording::Sha256;

/// The digest of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadKey {
    /// Which log.
    pub chain: String,
    /// Number of the line.
    pub seq: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// Some lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartKey {
    /// Which log.
    pub chain: String,
    /// Number of the first line.
    pub first: u64,
    /// Number of the last.
    pub last: u64,
}

/// Below it is all that a target knows of the logs of a machine.
pub fn prefix_of(prefix: &str, node: &str) -> String {
    format!("{prefix}.spoolfs/audit/{}/", key::node_component(node))
}

/// Below it are the lines of a log.
pub fn lines_of(prefix: &str, node: &str, chain: &str) -> String {
    format!("{}{chain}/lines/", prefix_of(prefix, node))
}

/// Where it is written that a log ended in this line, if that is not sealed.
pub fn head_key(prefix: &str, node: &str, head: &HeadKey) -> String {
    let HeadKey { chain, seq, sha256 } = head;
    format!("{}{chain}/heads/{seq:012}-{sha256}.json", prefix_of(prefix, node))
}

/// Where lines are; `sha256` is that of all of them.
pub fn part_key(prefix: &str, node: &str, part: &PartKey, sha256: Sha256) -> String {
    let PartKey { chain, first, last } = part;
    let digest = sha256.to_string();
    let digest = digest.get(..16).unwrap_or_default();
    format!("{}{first:012}-{last:012}-{digest}.jsonl", lines_of(prefix, node, chain))
}

/// Reads a key made by [`head_key`].
pub fn parse_head(key: &str) -> Option<HeadKey> {
    let mut parts = key::unsealed(key).rsplit('/');
    let (name, heads, chain) = (parts.next()?, parts.next()?, parts.next()?);
    let (seq, sha256) = name.strip_suffix(".json")?.split_once('-')?;
    let head = HeadKey {
        chain: chain.to_owned(),
        seq: seq.parse().ok()?,
        sha256: Sha256::from_hex(sha256)?,
    };
    (heads == "heads").then_some(head)
}

/// Reads a key made by [`part_key`].
pub fn parse_part(key: &str) -> Option<PartKey> {
    let mut parts = key::unsealed(key).rsplit('/');
    let (name, lines, chain) = (parts.next()?, parts.next()?, parts.next()?);
    let mut numbers = name.strip_suffix(".jsonl")?.split('-').map(str::parse);
    let part = PartKey {
        chain: chain.to_owned(),
        first: numbers.next()?.ok()?,
        last: numbers.next()?.ok()?,
    };
    (lines == "lines").then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_were_made() {
        let sha256 = Sha256::of(b"x");
        let head = HeadKey { chain: "0af3".into(), seq: 120, sha256 };
        let key = head_key("pbx/", "node.1", &head);
        let digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        let expected = format!("pbx/.spoolfs/audit/node.1/0af3/heads/000000000120-{digest}.json");
        assert_eq!(key, expected);
        assert_eq!((parse_head(&key), parse_part(&key)), (Some(head.clone()), None));
        assert_eq!(parse_head(&key::sealed(&key)), Some(head));
        let part = PartKey { chain: "0af3".into(), first: 1, last: 99 };
        let key = part_key("", "n", &part, sha256);
        let expected = "0af3/lines/000000000001-000000000099-2d711642b726b044.jsonl";
        assert_eq!(key, format!(".spoolfs/audit/n/{expected}"));
        assert_eq!((parse_head(&key), parse_part(&key)), (None, Some(part.clone())));
        assert_eq!(parse_part(&key::sealed(&key)), Some(part));
    }
}
