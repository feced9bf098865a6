//! Snapshots of a catalog (docs/FORMAT.md, "Snapshots"): what the journal rows so far come to, so
//! that a rebuild need not read all of them.
//!
//! **Invariant:** a snapshot that is cut, damaged, of another machine or of a newer format is never
//! taken for a whole one: its last line says how many there are, and what their SHA-256 is.

mod known;

pub use known::{Given, Known};

use super::key;
use super::meta::{FORMAT_FLAC, FORMAT_HOLDS, FORMAT_PATCHED, FORMAT_SEALED, FORMAT_VERSION};
use crate::limits;
use crate::recording::Sha256;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde::{Deserialize, Serialize};
use sha2::Digest;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};

const KIND: &str = "snapshot";
const SUFFIX: &str = ".jsonl.zst";
/// Lines are compressed together up to this length: what a writer and a reader hold in memory.
const FRAME_BYTES: usize = 1 << 20;

/// First line of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Always `snapshot`: tells the file's kind.
    spoolfs: String,
    /// Version of the format.
    format: u32,
    /// The machine whose catalog it is.
    pub node: String,
    /// Tells machines of the same name apart.
    pub instance: String,
    /// Counts the catalogs of the machine.
    pub epoch: u64,
    /// The last journal row whose effect is in it.
    pub seq: u64,
    /// When it was taken, in nanoseconds since 1970. No row that is in it is younger.
    pub at: i64,
    /// By target, the last segment of the epoch that had been shipped: all its rows are in it.
    pub segments: BTreeMap<String, u64>,
}

/// Last line of a snapshot.
#[derive(Serialize, Deserialize)]
struct End {
    /// Lines before this one, the header included.
    end: u64,
    /// SHA-256 of these lines, line ends included.
    sha256: Sha256,
}

impl Header {
    /// The same of a snapshot that tells of legal holds.
    #[must_use]
    pub fn with_holds(self) -> Header {
        Header { format: FORMAT_HOLDS, ..self }
    }

    /// A header of the oldest format that has snapshots.
    pub fn new(
        (node, instance): (&str, &str),
        (epoch, seq): (u64, u64),
        at: i64,
        segments: BTreeMap<String, u64>,
    ) -> Header {
        Header {
            spoolfs: KIND.into(),
            format: FORMAT_PATCHED,
            node: node.to_owned(),
            instance: instance.to_owned(),
            epoch,
            seq,
            at,
            segments,
        }
    }

    /// The header of a snapshot that tells of FLAC objects.
    pub fn with_flac(self) -> Header {
        Header { format: FORMAT_FLAC, ..self }
    }

    /// The same of one that tells of sealed objects.
    #[must_use]
    pub fn with_sealed(self) -> Header {
        Header { format: FORMAT_SEALED, ..self }
    }
}

/// Writes a snapshot line by line.
#[derive(Debug)]
pub struct Writer<W: Write> {
    sink: W,
    frame: Vec<u8>,
    whole: sha2::Sha256,
    /// SHA-256 of what was written.
    written: sha2::Sha256,
    lines: u64,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins with the header.
    ///
    /// # Errors
    /// What `sink` says.
    pub fn begin(sink: W, header: &Header) -> io::Result<Writer<W>> {
        let (whole, written) = (sha2::Sha256::new(), sha2::Sha256::new());
        let mut writer = Writer {
            sink,
            frame: Vec::with_capacity(FRAME_BYTES),
            whole,
            written,
            lines: 0,
            bytes: 0,
        };
        writer.line(&serde_json::to_string(header)?)?;
        Ok(writer)
    }

    /// Adds a line of JSON, without its end.
    ///
    /// # Errors
    /// What the sink says; `FileTooLarge` if it gets longer than a snapshot may be.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        for part in [line.as_bytes(), b"\n"] {
            self.whole.update(part);
            self.frame.extend_from_slice(part);
        }
        self.lines += 1;
        if self.frame.len() < FRAME_BYTES { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> io::Result<()> {
        let frame = compress_to_vec(self.frame.as_slice(), CompressionLevel::Fastest);
        self.frame.clear();
        self.bytes += frame.len() as u64;
        if self.bytes > limits::SNAPSHOT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.written.update(&frame);
        self.sink.write_all(&frame)
    }

    /// Ends it; what it was written to, its length and its SHA-256.
    ///
    /// # Errors
    /// As `line`.
    pub fn finish(mut self) -> io::Result<(W, u64, Sha256)> {
        let end = End { end: self.lines, sha256: Sha256(self.whole.clone().finalize().into()) };
        self.line(&serde_json::to_string(&end)?)?;
        if !self.frame.is_empty() {
            self.flush()?;
        }
        Ok((self.sink, self.bytes, Sha256(self.written.finalize().into())))
    }
}

/// Reads a snapshot: its header, and each line to `each`. What `each` was given counts only if this
/// succeeds.
///
/// # Errors
/// What is wrong with it, in words; what `each` says.
pub fn read(
    source: impl Read,
    each: &mut dyn FnMut(&str) -> Result<(), String>,
) -> Result<Header, String> {
    let mut lines = Lines { source: BufReader::new(source), frame: Vec::new(), at: 0 };
    let mut whole = sha2::Sha256::new();
    let (mut header, mut count) = (None, 0);
    while let Some(line) = lines.next()? {
        let text = std::str::from_utf8(&line).map_err(|_| format!("line {count} is no UTF-8"))?;
        if let Some(header) = &header {
            if text.starts_with("{\"end\":") {
                let end: End = serde_json::from_str(text).map_err(|e| e.to_string())?;
                let sha256 = Sha256(whole.finalize().into());
                return match lines.next()? {
                    None if (end.end, end.sha256) == (count, sha256) => Ok(Header::clone(header)),
                    _ => Err("it is not what its last line says".into()),
                };
            }
            each(text).map_err(|e| format!("line {}: {e}", count + 1))?;
        } else {
            header = Some(decode_header(text)?);
        }
        whole.update(&line);
        whole.update(b"\n");
        count += 1;
    }
    Err(format!("it ends after {count} lines, without saying so"))
}

fn decode_header(line: &str) -> Result<Header, String> {
    /// What every version of the header has.
    #[derive(Deserialize)]
    struct Any {
        spoolfs: String,
        format: u32,
    }
    let foreign = |e: serde_json::Error| format!("not a spoolfs snapshot: {e}");
    let any: Any = serde_json::from_str(line).map_err(foreign)?;
    if any.spoolfs != KIND {
        return Err(format!("not a spoolfs snapshot but a {:?}", any.spoolfs));
    }
    if any.format > FORMAT_VERSION {
        let (found, known) = (any.format, FORMAT_VERSION);
        return Err(format!("it has format version {found}, this spoolfs reads up to {known}"));
    }
    serde_json::from_str(line).map_err(foreign)
}

/// Lines out of frames that were compressed one by one.
struct Lines<R: BufRead> {
    source: R,
    /// What is decoded, and how much of it was handed out.
    frame: Vec<u8>,
    at: usize,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        let words = |e: io::Error| e.to_string();
        while self.at == self.frame.len() {
            if self.source.fill_buf().map_err(words)?.is_empty() {
                return Ok(None);
            }
            self.decode()?;
        }
        let rest = self.frame.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|b| *b == b'\n').ok_or("a line is torn")?;
        let line = rest.get(..end).unwrap_or_default().to_vec();
        self.at += end + 1;
        Ok(Some(line))
    }

    /// A frame holds whole lines, the last of which may be long.
    fn decode(&mut self) -> Result<(), String> {
        let decoder = StreamingDecoder::new(&mut self.source).map_err(|e| e.to_string())?;
        self.frame.clear();
        self.at = 0;
        let most = limits::JOURNAL_SEGMENT_BYTES_MAX;
        let read = decoder.take(most).read_to_end(&mut self.frame).map_err(|e| e.to_string())?;
        if read as u64 == most { Err("a frame is too long".into()) } else { Ok(()) }
    }
}

/// The directory of a node's snapshots.
pub fn directory(prefix: &str, node: &str) -> String {
    format!("{prefix}{}/snapshots/{}/", key::RESERVED, key::node_component(node))
}

/// A key for a snapshot that is not sealed; `random` tells it apart from those of tries before.
pub fn key_of(prefix: &str, header: &Header, random: u32) -> String {
    let (dir, epoch, seq) = (directory(prefix, &header.node), header.epoch, header.seq);
    format!("{dir}{epoch:06}-{seq:010}-{random:08x}{SUFFIX}")
}

/// Epoch and last row of the snapshot with this key, sealed or not.
pub fn parse_key(key: &str) -> Option<(u64, u64)> {
    let mut parts = key::unsealed(key).rsplit('/').next()?.strip_suffix(SUFFIX)?.split('-');
    let (epoch, seq, random) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    if epoch.len() < 6 || seq.len() < 10 || random.len() != 8 || parts.next().is_some() {
        return None;
    }
    if !digits(epoch) || !digits(seq) || !hex(random) {
        return None;
    }
    Some((epoch.parse().ok()?, seq.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header::new(("pbx", "bb"), (3, 12), 5, BTreeMap::from([("one".to_owned(), 4)]))
    }

    fn line(i: u32) -> String {
        let noise: String = (0..200).map(|_| fastrand::alphanumeric()).collect();
        format!("{{\"n\":{i},\"x\":\"{noise}\"}}")
    }

    fn written(lines: &[String]) -> Vec<u8> {
        let mut writer = Writer::begin(Vec::new(), &header()).unwrap();
        lines.iter().for_each(|l| writer.line(l).unwrap());
        let (bytes, size, sha256) = writer.finish().unwrap();
        assert_eq!((size, sha256), (bytes.len() as u64, Sha256::of(&bytes)));
        bytes
    }

    fn lines_of(bytes: &[u8]) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        let found = read(bytes, &mut |l| {
            lines.push(l.to_owned());
            Ok(())
        })?;
        assert_eq!(found, header());
        Ok(lines)
    }

    #[test]
    fn a_snapshot_comes_back_whatever_its_length() {
        // Some of several frames.
        for count in [0, 1, 20_000] {
            let lines: Vec<String> = (0..count).map(line).collect();
            assert_eq!(lines_of(&written(&lines)).unwrap(), lines, "{count}");
        }
        let long = vec![format!("{{\"x\":\"{}\"}}", "y".repeat(3 << 20))];
        let bytes = written(&long);
        assert!(bytes.len() < 100_000, "{}", bytes.len());
        assert_eq!(lines_of(&bytes).unwrap(), long);
    }

    #[test]
    fn a_cut_or_damaged_snapshot_is_never_whole() {
        let lines: Vec<String> = (0..9000).map(line).collect();
        let bytes = written(&lines);
        for end in (0..bytes.len()).step_by(bytes.len() / 40) {
            assert!(lines_of(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in (0..bytes.len()).step_by(bytes.len() / 60) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            // Of a frame's header some bits mean nothing.
            if let Ok(found) = lines_of(&bad) {
                assert_eq!(found, lines, "{at}");
            }
        }
        let twice = [bytes.clone(), bytes.clone()].concat();
        assert!(lines_of(&twice).is_err());
        // Whole frames left out, or lines exchanged.
        let short = written(&lines[..8000]);
        let end = written(&[]);
        assert!(lines_of(&[&short[..], &end[..]].concat()).is_err());
    }

    #[test]
    fn another_kind_and_a_newer_format_are_named() {
        let mut newer = header();
        newer.format = 7;
        let mut other = header();
        other.spoolfs = "journal".into();
        for (header, word) in [(newer, "version 7"), (other, "journal")] {
            let bytes = Writer::begin(Vec::new(), &header).unwrap().finish().unwrap().0;
            let error = read(&bytes[..], &mut |_| Ok(())).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(read(&b"rubbish"[..], &mut |_| Ok(())).is_err());
        assert!(read(&b""[..], &mut |_| Ok(())).unwrap_err().contains("ends after 0"));
    }

    #[test]
    fn keys_sort_by_age() {
        let key = key_of("p/", &header(), 0xbeef);
        assert_eq!(key, "p/.spoolfs/snapshots/pbx/000003-0000000012-0000beef.jsonl.zst");
        assert_eq!(parse_key(&key), Some((3, 12)));
        assert_eq!(parse_key(&key::sealed(&key)), Some((3, 12)));
        for bad in [
            "x",
            "000003-0000000012.jsonl.zst",
            "000003-0000000012-0000beef.jsonl",
            "3-12-0000beef.jsonl.zst",
        ] {
            assert_eq!(parse_key(bad), None, "{bad}");
        }
    }
}
