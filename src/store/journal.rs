//! Journal segments (docs/FORMAT.md, "Journal"): what happened on a node, so that its catalog can
//! be rebuilt from a target alone.

use super::{Body, ObjectMeta, Proof, Store, StoreError, StoreErrorKind, key, verify};
use crate::codec::Unreadable;
use crate::codec::seal::{self, Identities, Recipients};
use crate::limits;
use crate::recording::{ErrorClass, Sha256};
use crate::store::meta::{
    FORMAT_FLAC, FORMAT_HOLDS, FORMAT_PATCHED, FORMAT_PLAIN, FORMAT_SEALED, FORMAT_VERSION,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

const KIND: &str = "journal";

/// First line of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Always `journal`: tells the file's kind.
    spoolfs: String,
    /// Version of the format.
    format: u32,
    /// Identity of the archive.
    pub archive: String,
    /// The machine that wrote it.
    pub node: String,
    /// Tells machines of the same name apart.
    pub instance: String,
    /// Counts the catalogs of the machine.
    pub epoch: u64,
    /// Number of the segment within the epoch, from 1, without a gap.
    pub segment: u64,
    /// Sequence number of the first line.
    pub first: u64,
    /// Sequence number of the last line.
    pub last: u64,
    /// How many lines follow.
    lines: usize,
}

/// One segment: its header, and the catalog's lines of JSON without line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first line.
    pub header: Header,
    /// The others.
    pub lines: Vec<String>,
}

/// A segment as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shipment {
    /// The key of its object.
    pub key: String,
    /// What is in it.
    pub bytes: Bytes,
    /// SHA-256 of that.
    pub sha256: Sha256,
}

/// What a target has under a segment's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The segment.
    Segment(Segment),
    /// It is sealed, and there is no key: why, and the SHA-256 of its object.
    Locked(Unreadable, Sha256),
}

/// The writer of segments.
#[derive(Clone, Debug)]
pub struct Author {
    /// Identity of the archive.
    pub archive: String,
    /// The machine.
    pub node: String,
    /// Tells machines of the same name apart.
    pub instance: String,
    /// Counts the catalogs of the machine.
    pub epoch: u64,
}

/// Why a segment can not be made or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// The first line is not a header.
    #[error("not a spoolfs journal segment: {0}")]
    Foreign(String),
    /// Written by a newer spoolfs.
    #[error(
        "journal segment of format version {0}; this spoolfs reads up to {FORMAT_VERSION}, install a newer one"
    )]
    Newer(u32),
    /// Lines are missing or too many, or the last one is torn.
    #[error("the journal segment is damaged: {0}")]
    Damaged(String),
    /// A line that can not be in a segment.
    #[error("line {line} can not go into a journal segment: {reason}")]
    BadLine {
        /// Counted from 1, after the header.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

impl JournalError {
    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        match self {
            JournalError::Damaged(_) => ErrorClass::Corrupt,
            _ => ErrorClass::Permanent,
        }
    }
}

impl Segment {
    /// A segment of these lines; `first` and `last` are the sequence numbers of the first and
    /// the last one.
    ///
    /// # Errors
    /// `BadLine` if a line is no JSON object on one line; there must be at least one.
    pub fn new(
        author: &Author,
        segment: u64,
        first: u64,
        last: u64,
        lines: Vec<String>,
    ) -> Result<Segment, JournalError> {
        if lines.is_empty() {
            return Err(JournalError::BadLine { line: 0, reason: "there are none".into() });
        }
        for (i, line) in lines.iter().enumerate() {
            check_line(i + 1, line)?;
        }
        // A field's name: text within a line has its quotes escaped.
        let any = |text: &str| lines.iter().any(|line| line.contains(text));
        let (encoded, flac) = (any("\"encoding\":"), any("\"encoding\":\"flac"));
        let header = Header {
            spoolfs: KIND.into(),
            format: match (any("\"hold\":"), encoded, flac) {
                _ if any("\"encoding\":\"age") => FORMAT_SEALED,
                (true, ..) => FORMAT_HOLDS,
                (_, false, _) => FORMAT_PLAIN,
                (_, true, false) => FORMAT_PATCHED,
                (_, true, true) => FORMAT_FLAC,
            },
            archive: author.archive.clone(),
            node: author.node.clone(),
            instance: author.instance.clone(),
            epoch: author.epoch,
            segment,
            first,
            last,
            lines: lines.len(),
        };
        Ok(Segment { header, lines })
    }

    /// As it is stored. The same segment always gives the same bytes.
    pub fn encode(&self) -> Bytes {
        // Strings and numbers always serialise.
        let mut out = serde_json::to_string(&self.header).unwrap_or_default();
        out.push('\n');
        for line in &self.lines {
            out.push_str(line);
            out.push('\n');
        }
        out.into()
    }

    /// As it is stored below a prefix, sealed to `recipients` if there are any: then the same segment
    /// gives other bytes each time.
    ///
    /// # Errors
    /// It can not be sealed.
    pub fn shipment(
        &self,
        prefix: &str,
        recipients: Option<&Recipients>,
    ) -> std::io::Result<Shipment> {
        let header = &self.header;
        let key = key_of(prefix, &header.node, header.epoch, header.segment);
        let (key, bytes) = match recipients {
            Some(to) => (key::sealed(&key), seal::seal_all(to, &self.encode())?.into()),
            None => (key, self.encode()),
        };
        let sha256 = Sha256::of(&bytes);
        Ok(Shipment { key, bytes, sha256 })
    }

    /// The inverse of `encode`. Fields of the header that are not known are passed over.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Segment, JournalError> {
        let text = std::str::from_utf8(bytes).map_err(|e| {
            JournalError::Damaged(format!("not UTF-8 after byte {}", e.valid_up_to()))
        })?;
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let header = decode_header(first)?;
        if !text.ends_with('\n') {
            return Err(JournalError::Damaged("the last line is torn".into()));
        }
        let lines: Vec<String> = rest.lines().map(str::to_owned).collect();
        if lines.len() != header.lines {
            let what = format!("{} lines, the header promises {}", lines.len(), header.lines);
            return Err(JournalError::Damaged(what));
        }
        for (i, line) in lines.iter().enumerate() {
            check_line(i + 1, line).map_err(|e| JournalError::Damaged(e.to_string()))?;
        }
        Ok(Segment { header, lines })
    }
}

/// What can be read of a segment, also of a damaged one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// Number (from 1, the header's) and text of each line that is JSON.
    pub lines: Vec<(usize, String)>,
    /// Number of each line that is not what it should be, and why.
    pub damage: Vec<(usize, String)>,
}

/// Reads a segment line by line, so that a damaged line costs no other.
///
/// # Errors
/// `Newer`: it is not for this program to guess what such a segment says.
pub fn salvage(bytes: &[u8]) -> Result<Salvage, JournalError> {
    let mut found = Salvage::default();
    let (mut lines, mut promised) = (0, None);
    for (i, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        lines = i;
        let number = i + 1;
        let text = match line.strip_suffix(b"\n").map(std::str::from_utf8) {
            Some(Ok(text)) => text,
            Some(Err(_)) => {
                found.damage.push((number, "not UTF-8".into()));
                continue;
            }
            None => {
                found.damage.push((number, "torn".into()));
                continue;
            }
        };
        if i > 0 {
            match check_line(i, text) {
                Ok(()) => found.lines.push((number, text.to_owned())),
                Err(error) => found.damage.push((number, error.to_string())),
            }
            continue;
        }
        match decode_header(text) {
            Ok(header) => promised = Some(header.lines),
            Err(error @ JournalError::Newer(_)) => return Err(error),
            Err(error) => found.damage.push((number, error.to_string())),
        }
    }
    match promised {
        Some(promised) if promised != lines => {
            let what = format!("{lines} lines, the header promises {promised}");
            found.damage.push((lines + 1, what));
        }
        None if found.damage.is_empty() => found.damage.push((1, "it is empty".into())),
        _ => {}
    }
    Ok(found)
}

fn decode_header(line: &str) -> Result<Header, JournalError> {
    /// What every version of the header has.
    #[derive(Deserialize)]
    struct Any {
        spoolfs: String,
        format: u32,
    }
    let foreign = |e: serde_json::Error| JournalError::Foreign(e.to_string());
    let any: Any = serde_json::from_str(line).map_err(foreign)?;
    if any.spoolfs != KIND {
        return Err(JournalError::Foreign(format!("it is a {:?}", any.spoolfs)));
    }
    if any.format > FORMAT_VERSION {
        return Err(JournalError::Newer(any.format));
    }
    serde_json::from_str(line).map_err(foreign)
}

fn check_line(number: usize, line: &str) -> Result<(), JournalError> {
    let bad = |reason: String| JournalError::BadLine { line: number, reason };
    if line.contains(['\n', '\r']) {
        return Err(bad("it contains a line end".into()));
    }
    if !line.starts_with('{') {
        return Err(bad("it is no JSON object".into()));
    }
    serde_json::from_str::<serde::de::IgnoredAny>(line).map_err(|e| bad(e.to_string()))?;
    Ok(())
}

/// The directory of a node's segments.
pub fn directory(prefix: &str, node: &str) -> String {
    format!("{prefix}{}/journal/{}/", key::RESERVED, key::node_component(node))
}

/// The key of a segment that is not sealed.
pub fn key_of(prefix: &str, node: &str, epoch: u64, segment: u64) -> String {
    format!("{}{epoch:06}-{segment:010}.jsonl", directory(prefix, node))
}

/// Epoch and number of the segment with this key, sealed or not.
pub fn parse_key(key: &str) -> Option<(u64, u64)> {
    let (epoch, segment) =
        key::unsealed(key).rsplit('/').next()?.strip_suffix(".jsonl")?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if epoch.len() < 6 || segment.len() < 10 || !digits(epoch) || !digits(segment) {
        return None;
    }
    Some((epoch.parse().ok()?, segment.parse().ok()?))
}

/// Writes a segment and proves it. One that is already there, byte for byte, is success: the
/// answer to an earlier try was lost. `free`: its number was surely never used; otherwise the target
/// is asked first, because it may be one that ignores conditions, or have it sealed and not sealed.
///
/// # Errors
/// `Exists`, with the key that is taken, if another segment has its number; whatever the target
/// answers.
pub async fn ship(store: &dyn Store, shipment: &Shipment, free: bool) -> Result<Proof, StoreError> {
    let Shipment { key, bytes, sha256 } = shipment;
    let taken = |key: &str| {
        let what = "a segment of this number is there";
        StoreError::new(StoreErrorKind::Exists, store.name(), "put", key, what)
    };
    let plain = key::unsealed(key);
    let other = if plain == key { key::sealed(key) } else { plain.to_owned() };
    if !free && is_there(store, &other).await? {
        return Err(taken(&other));
    }
    let taken = match free || !is_there(store, key).await? {
        true => put(store, key, bytes.clone(), *sha256).await?,
        false => Some(taken(key)),
    };
    match (verify(store, key, bytes.len() as u64, *sha256).await, taken) {
        (Err(e), Some(taken))
            if matches!(e.kind, StoreErrorKind::Corrupt | StoreErrorKind::Locked) =>
        {
            Err(taken
                .hint("another daemon or an older catalog wrote this segment: start a new epoch"))
        }
        (answer, _) => answer,
    }
}

async fn is_there(store: &dyn Store, key: &str) -> Result<bool, StoreError> {
    match store.head(key).await {
        Ok(_) => Ok(true),
        Err(e) if e.kind == StoreErrorKind::Locked => Ok(true),
        Err(e) if e.kind == StoreErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Puts a segment; the error if its key is taken.
async fn put(
    store: &dyn Store,
    key: &str,
    bytes: Bytes,
    sha256: Sha256,
) -> Result<Option<StoreError>, StoreError> {
    let sealed = key::unsealed(key) != key;
    let kind = if sealed { "application/octet-stream" } else { "application/x-ndjson" };
    let meta = ObjectMeta { content_type: kind.into(), ..ObjectMeta::default() };
    match store.put(key, Body::Bytes(bytes), sha256, &meta).await {
        Ok(()) => Ok(None),
        Err(e) if e.kind == StoreErrorKind::Exists => Ok(Some(e)),
        Err(e) => Err(e),
    }
}

/// What the bytes under a segment's key are as text, opened if they are sealed.
///
/// # Errors
/// They are not what was sealed, or there is no key.
pub fn opened(bytes: Bytes, identities: &Identities) -> Result<Bytes, Unreadable> {
    match seal::is_sealed(&bytes) {
        true => Ok(seal::open_all(&bytes, identities)?.into()),
        false => Ok(bytes),
    }
}

/// Reads a segment.
///
/// # Errors
/// Whatever the target answers; `Corrupt` if it is no valid segment, `Unsupported` if newer.
pub async fn fetch(
    store: &dyn Store,
    key: &str,
    identities: &Identities,
) -> Result<Fetched, StoreError> {
    let bad = |kind, what: String| StoreError::new(kind, store.name(), "get", key, what);
    let bytes = store.get(key, 0..limits::JOURNAL_SEGMENT_BYTES_MAX).await?;
    let text = match opened(bytes.clone(), identities) {
        Ok(text) => text,
        Err(why) if why.is_locked() => return Ok(Fetched::Locked(why, Sha256::of(&bytes))),
        Err(why) => return Err(bad(StoreErrorKind::Corrupt, why.to_string())),
    };
    Segment::decode(&text).map(Fetched::Segment).map_err(|e| match e.class() {
        ErrorClass::Corrupt => bad(StoreErrorKind::Corrupt, e.to_string()),
        _ => bad(StoreErrorKind::Unsupported, e.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{Fault, MemoryStore, Operation};
    use age::secrecy::ExposeSecret;

    fn segment(number: u64, lines: &[&str]) -> Segment {
        let author =
            Author { archive: "aa".into(), node: "pbx".into(), instance: "bb".into(), epoch: 3 };
        let lines = lines.iter().map(|l| (*l).to_owned()).collect();
        Segment::new(&author, number, 5, 9, lines).unwrap()
    }

    #[test]
    fn a_segment_is_lines_of_json_and_comes_back() {
        let segment = segment(7, &[r#"{"op":"a"}"#, r#"{"op":"ü"}"#]);
        let bytes = segment.encode();
        for line in std::str::from_utf8(&bytes).unwrap().lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        assert_eq!(Segment::decode(&bytes).unwrap(), segment);
    }

    #[test]
    fn damage_is_found_and_named() {
        let bytes = segment(7, &[r#"{"n":1}"#, r#"{"n":2}"#]).encode();
        for end in 0..bytes.len() {
            assert!(Segment::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let newer =
            String::from_utf8(bytes.to_vec()).unwrap().replace("\"format\":1", "\"format\":7");
        assert_eq!(Segment::decode(newer.as_bytes()), Err(JournalError::Newer(7)));
        let other = String::from_utf8(bytes.to_vec()).unwrap().replace("journal", "archive");
        assert!(matches!(Segment::decode(other.as_bytes()), Err(JournalError::Foreign(_))));
        let mut flipped = bytes.to_vec();
        let last = flipped.len() - 2;
        flipped[last] = 0xff;
        assert_eq!(Segment::decode(&flipped).unwrap_err().class(), ErrorClass::Corrupt);
    }

    #[test]
    fn a_segment_that_tells_of_sealed_objects_is_not_read_by_who_does_not_know_them() {
        let sealed = r#"{"n":1,"objects":[{"encoding":"age:AAAA;flac:1x16"}]}"#;
        let held = r#"{"hold":1}"#;
        for (lines, format) in [(&[sealed][..], 5), (&[held, sealed], 5), (&[held], 4)] {
            assert_eq!(segment(7, lines).header.format, format);
        }
    }

    #[test]
    fn a_damaged_line_costs_no_other() {
        let bytes = segment(7, &[r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#]).encode();
        assert_eq!(salvage(&bytes).unwrap().damage, []);
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let whole: Vec<_> = text.lines().skip(1).map(str::to_owned).collect();
        let numbers = |s: &Salvage| s.lines.iter().map(|(n, _)| *n).collect::<Vec<_>>();
        let torn = salvage(&bytes[..bytes.len() - 2]).unwrap();
        assert_eq!((numbers(&torn), torn.damage.len()), (vec![2, 3], 1));
        let mut flipped = bytes.to_vec();
        let middle = text.find("\"n\":2").unwrap();
        flipped[middle] = 0xff;
        let flipped = salvage(&flipped).unwrap();
        assert_eq!((numbers(&flipped), flipped.damage[0].0), (vec![2, 4], 3));
        assert_eq!(flipped.lines[1].1, whole[2]);
        // Lines without their header, a line that is missing, and nothing at all.
        let headless = salvage(&bytes[1..]).unwrap();
        assert_eq!((numbers(&headless), headless.damage[0].0), (vec![2, 3, 4], 1));
        let short = text.lines().take(3).map(|l| format!("{l}\n")).collect::<String>();
        let short = salvage(short.as_bytes()).unwrap();
        assert_eq!((numbers(&short), short.damage.len()), (vec![2, 3], 1));
        assert_eq!(salvage(b"").unwrap().damage.len(), 1);
        let newer = text.replace("\"format\":1", "\"format\":7");
        assert_eq!(salvage(newer.as_bytes()), Err(JournalError::Newer(7)));
    }

    #[test]
    fn what_is_no_line_of_json_is_refused_when_written() {
        let author =
            Author { archive: "a".into(), node: "n".into(), instance: "i".into(), epoch: 1 };
        for bad in ["", "1", "{", "{}\n{}", "{} {}"] {
            assert!(Segment::new(&author, 1, 1, 1, vec![bad.into()]).is_err(), "{bad:?}");
        }
        assert!(Segment::new(&author, 1, 1, 1, Vec::new()).is_err());
    }

    #[test]
    fn keys_sort_as_the_numbers_do() {
        let key = key_of("p/", "pbx", 2, 17);
        assert_eq!(key, "p/.spoolfs/journal/pbx/000002-0000000017.jsonl");
        assert_eq!(parse_key(&key), Some((2, 17)));
        assert!(key_of("", "n", 2, 99) < key_of("", "n", 2, 100));
        assert!(key_of("", "n", 2, 100) < key_of("", "n", 10, 1));
        for bad in ["x", "000002-0000000017.json", "2-17.jsonl", "00000a-0000000001.jsonl"] {
            assert_eq!(parse_key(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn shipping_twice_is_success_and_another_segment_is_not_replaced() {
        let store = MemoryStore::new("m", "p/");
        store.fail_next_of(".spoolfs/", Operation::Put, 1, Fault::ReplyLost);
        let ours = segment(1, &[r#"{"n":1}"#]);
        let plain = |segment: &Segment| segment.shipment("p/", None).unwrap();
        ship(&store, &plain(&ours), true).await.unwrap_err();
        assert_eq!(ship(&store, &plain(&ours), true).await.unwrap(), Proof::Checksum);
        let other = plain(&segment(1, &[r#"{"n":2}"#]));
        assert_eq!(ship(&store, &other, true).await.unwrap_err().kind, StoreErrorKind::Exists);
        let key = key_of("p/", "pbx", 3, 1);
        let fetched = async || fetch(&store, &key, &Identities::default()).await;
        assert_eq!(fetched().await.unwrap(), Fetched::Segment(ours));
        store.corrupt(&key, 0);
        assert!(fetched().await.is_err());
    }

    #[tokio::test]
    async fn a_sealed_segment_is_read_with_the_key_and_has_its_number_for_itself() {
        let secret = age::x25519::Identity::generate();
        let to = Recipients::parse(&[secret.to_public().to_string()]).unwrap();
        let secret = secret.to_string();
        let keys = Identities::parse(secret.expose_secret().as_bytes(), "a test").unwrap();
        let store = MemoryStore::new("m", "p/");
        let ours = segment(1, &[r#"{"n":1,"path":"out-5551212.wav"}"#]);
        let sealed = ours.shipment("p/", to.as_ref()).unwrap();
        assert_eq!(sealed.key, "p/.spoolfs/journal/pbx/000003-0000000001.jsonl.age");
        assert_eq!(parse_key(&sealed.key), Some((3, 1)));
        ship(&store, &sealed, true).await.unwrap();
        assert!(!sealed.bytes.windows(7).any(|part| part == b"5551212"));
        let fetched = fetch(&store, &sealed.key, &keys).await.unwrap();
        assert_eq!(fetched, Fetched::Segment(ours.clone()));
        let fetched = fetch(&store, &sealed.key, &Identities::default()).await.unwrap();
        assert!(matches!(fetched, Fetched::Locked(_, found) if found == sealed.sha256));
        // The same number is not given to one that is not sealed, nor to another sealing of it.
        for again in [None, to.as_ref()] {
            let again = ours.shipment("p/", again).unwrap();
            let error = ship(&store, &again, false).await.unwrap_err();
            assert_eq!((error.kind, error.key), (StoreErrorKind::Exists, sealed.key.clone()));
        }
        store.corrupt(&sealed.key, sealed.bytes.len() - 1);
        let error = fetch(&store, &sealed.key, &keys).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Corrupt);
    }
}
