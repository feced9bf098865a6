//! Where the parts of a recording are in a FLAC object (docs/FORMAT.md, "FLAC").
//!
//! **Invariant:** whatever words or bytes a map was made of, its offsets are in order and within the
//! object, and each part of the recording lies in the piece that it answers for it.

use super::{Encoding, chunk_at, chunk_range};
use crate::limits::FLAC_AROUND_BYTES_MAX;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use std::ops::Range;
use std::sync::Arc;

/// Samples of each channel in a frame; fewer in the last only.
pub const BLOCK_SAMPLES: u64 = 1024;
/// FLAC counts samples with 36 bits.
const SAMPLES_MAX: u64 = (1 << 36) - 1;

/// The PCM in the middle of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// 1 or 2, interleaved.
    pub channels: u8,
    /// Bytes of a sample, 1 to 3: unsigned if it is one, else signed and little-endian.
    pub width: u8,
    /// Samples of each channel; not 0.
    pub samples: u64,
}

impl Shape {
    /// The shape, if it can be one.
    pub fn new(channels: u8, width: u8, samples: u64) -> Option<Shape> {
        let fits = (1..=2).contains(&channels)
            && (1..=3).contains(&width)
            && (1..=SAMPLES_MAX).contains(&samples);
        fits.then_some(Shape { channels, width, samples })
    }

    /// Bytes of a sample of all channels.
    pub fn sample_bytes(&self) -> u64 {
        u64::from(self.channels) * u64::from(self.width)
    }

    /// Bytes of PCM that a frame holds.
    pub fn block_bytes(&self) -> u64 {
        BLOCK_SAMPLES * self.sample_bytes()
    }

    /// Bytes of PCM.
    pub fn bytes(&self) -> u64 {
        self.samples * self.sample_bytes()
    }

    /// For each chunk but the first that begins in the PCM: the frame that holds its first byte, if
    /// so many bytes are before the PCM.
    pub fn crossings(&self, prefix: u64) -> impl Iterator<Item = u64> + use<> {
        let (bytes, block) = (self.bytes(), self.block_bytes());
        let begin = move |chunk| chunk_range(chunk, u64::MAX).start.saturating_sub(prefix);
        (1..).map(begin).take_while(move |at| *at < bytes).map(move |at| at / block)
    }
}

/// A frame that holds the first byte of a chunk, by offsets in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its first byte.
    pub start: u64,
    /// Its end, where the next frame begins.
    pub end: u64,
}

/// How a FLAC object holds a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlacMap {
    shape: Shape,
    prefix: Vec<u8>,
    suffix: Vec<u8>,
    /// Where the first frame begins.
    head: u64,
    /// Length of the object.
    size: u64,
    marks: Vec<Mark>,
}

/// Frames that hold a part of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they are in the object; empty if the part is not in the PCM.
    pub stored: Range<u64>,
    /// Where what they hold begins in the PCM, in bytes.
    pub at: u64,
}

impl FlacMap {
    /// The map of an object of `size` bytes, if its parts fit together. `marks`: one for each of the
    /// crossings of the shape.
    pub fn new(
        shape: Shape,
        around: (Vec<u8>, Vec<u8>),
        head: u64,
        size: u64,
        marks: Vec<Mark>,
    ) -> Option<FlacMap> {
        let (prefix, suffix) = around;
        let small = (prefix.len() + suffix.len()) as u64 <= FLAC_AROUND_BYTES_MAX;
        let mut at = head;
        for mark in &marks {
            if mark.start < at || mark.end <= mark.start {
                return None;
            }
            at = mark.end;
        }
        let wanted = shape.crossings(prefix.len() as u64).take(marks.len() + 1).count();
        let fits = small && head > 0 && head < size && at <= size && wanted == marks.len();
        fits.then_some(FlacMap { shape, prefix, suffix, head, size, marks })
    }

    /// The PCM.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What is before the PCM.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// What is behind it.
    pub fn suffix(&self) -> &[u8] {
        &self.suffix
    }

    /// Where the first frame begins in the object.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Length of the recording in bytes.
    pub fn recording_bytes(&self) -> u64 {
        self.prefix.len() as u64 + self.shape.bytes() + self.suffix.len() as u64
    }

    /// Where the PCM is in the recording.
    pub fn pcm(&self) -> Range<u64> {
        let start = self.prefix.len() as u64;
        start..start + self.shape.bytes()
    }

    /// The frames that hold a range of the recording, and some around it.
    pub fn piece(&self, range: &Range<u64>) -> Piece {
        let pcm = self.pcm();
        let (start, end) = (range.start.max(pcm.start), range.end.min(pcm.end));
        if start >= end {
            return Piece { stored: self.head..self.head, at: 0 };
        }
        let block = self.shape.block_bytes();
        let frame_at = |at: u64| (at - pcm.start) / block;
        // The mark of a chunk, and the number of its frame.
        let mark = |chunk: u64| {
            let index = usize::try_from(chunk.checked_sub(1)?).ok()?;
            let mark = self.marks.get(index)?;
            Some((frame_at(chunk_range(chunk, u64::MAX).start), *mark))
        };
        let (frame, from) =
            mark(chunk_at(start)).map_or((0, self.head), |(frame, mark)| (frame, mark.start));
        // The next chunk begins in the last frame that is needed, or in one behind it.
        let until = mark(chunk_at(end - 1) + 1).map_or(self.size, |(_, mark)| mark.end);
        Piece { stored: from..until, at: frame * block }
    }

    /// As an encoding is written down in full.
    pub(super) fn words(&self) -> String {
        let Shape { channels, width, samples } = self.shape;
        let [prefix, suffix, marks] =
            [&self.prefix, &self.suffix, &self.packed()].map(|bytes| BASE64.encode(bytes));
        format!("{channels}x{},{samples},{},{prefix},{suffix},{marks}", width * 8, self.head)
    }

    /// From these words; `None` if there is something wrong with them. `size`: of the object.
    pub(super) fn parse(words: &str, size: u64) -> Option<FlacMap> {
        let parts: Vec<&str> = words.split(',').collect();
        let [shape, samples, head, prefix, suffix, marks] = parts[..] else { return None };
        let (channels, bits) = shape.split_once('x')?;
        let bits: u8 = bits.parse().ok().filter(|bits: &u8| bits.is_multiple_of(8))?;
        let shape = Shape::new(channels.parse().ok()?, bits / 8, samples.parse().ok()?)?;
        let bytes = |text: &str| BASE64.decode(text).ok();
        let (head, marks) = (head.parse().ok()?, bytes(marks)?);
        let marks = unpacked(head, &marks)?;
        FlacMap::new(shape, (bytes(prefix)?, bytes(suffix)?), head, size, marks)
    }

    /// The marks: for each how far it begins behind the end of the one before, and its length, seven
    /// bits a byte, the lowest first, the eighth set if another byte follows.
    fn packed(&self) -> Vec<u8> {
        let (mut out, mut at) = (Vec::with_capacity(self.marks.len() * 5), self.head);
        for Mark { start, end } in &self.marks {
            for number in [start - at, end - start] {
                let mut rest = number;
                while rest > 0x7f {
                    out.push(0x80 | (rest & 0x7f) as u8);
                    rest >>= 7;
                }
                out.push(rest as u8);
            }
            at = *end;
        }
        out
    }
}

fn unpacked(head: u64, bytes: &[u8]) -> Option<Vec<Mark>> {
    let (mut numbers, mut number, mut shift) = (Vec::new(), 0u64, 0u32);
    for byte in bytes {
        number |= u64::from(byte & 0x7f).checked_shl(shift).filter(|_| shift < 57)?;
        shift += 7;
        if byte & 0x80 == 0 {
            numbers.push(std::mem::take(&mut number));
            shift = 0;
        }
    }
    let (pairs, rest) = numbers.as_chunks::<2>();
    if shift > 0 || !rest.is_empty() {
        return None;
    }
    let mut at = head;
    let mark = |[gap, len]: &[u64; 2]| {
        let start = at.checked_add(*gap)?;
        at = start.checked_add(*len)?;
        Some(Mark { start, end: at })
    };
    pairs.iter().map(mark).collect()
}

impl From<FlacMap> for Encoding {
    fn from(map: FlacMap) -> Encoding {
        Encoding::Flac(Some(Arc::new(map)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map whose frame `n` would begin at `100 + 10 * n`.
    fn map(prefix: usize, shape: Shape, suffix: usize) -> FlacMap {
        let frames = shape.samples.div_ceil(BLOCK_SAMPLES);
        let start = |frame: u64| 100 + 10 * frame;
        let marks = shape
            .crossings(prefix as u64)
            .map(|frame| Mark { start: start(frame), end: start(frame + 1) })
            .collect();
        let around = (vec![1; prefix], vec![2; suffix]);
        FlacMap::new(shape, around, 100, start(frames), marks).unwrap()
    }

    fn maps() -> Vec<FlacMap> {
        let shape = |channels, width, samples| Shape::new(channels, width, samples).unwrap();
        vec![
            map(44, shape(1, 2, 1), 0),
            map(0, shape(1, 2, 700_000), 0),
            map(44, shape(1, 2, 700_000), 1),
            map(45, shape(2, 3, 300_000), 77),
            map(16_000, shape(1, 1, 400_001), 300),
            map(44, shape(1, 2, (65_536 - 44) / 2), 10),
            map(44, shape(1, 2, (65_536 + 262_144 - 44) / 2 + 1), 0),
        ]
    }

    #[test]
    fn every_part_is_in_the_frames_that_are_asked_for_it() {
        let mut random = fastrand::Rng::with_seed(7);
        for map in maps() {
            let size = map.recording_bytes();
            for turn in 0..2000 {
                let start = random.u64(..size);
                let range = match turn {
                    0 => 0..size,
                    n if n % 2 == 0 => chunk_range(chunk_at(start), size),
                    _ => start..random.u64(start..=size),
                };
                let piece = map.piece(&range);
                let pcm = map.pcm();
                let (start, end) = (range.start.max(pcm.start), range.end.min(pcm.end));
                if start >= end {
                    assert!(piece.stored.is_empty(), "{range:?}");
                    continue;
                }
                let first = (piece.stored.start - 100) / 10 * map.shape.block_bytes();
                assert_eq!(piece.at, first);
                let last = (piece.stored.end - 100) / 10 * map.shape.block_bytes();
                assert!(pcm.start + first <= start && end <= pcm.start + last, "{range:?}");
                if turn > 0 && turn % 2 == 0 {
                    let more = (last - first) - (end - start);
                    assert!(more <= 2 * map.shape.block_bytes(), "{range:?}: {more} bytes more");
                }
            }
        }
    }

    #[test]
    fn a_map_survives_as_words_and_is_small() {
        for map in maps() {
            let words = map.words();
            assert_eq!(FlacMap::parse(&words, map.size), Some(map.clone()), "{words}");
            let around = (map.prefix.len() + map.suffix.len()) * 4 / 3;
            assert!(words.len() <= 60 + around + map.marks.len() * 8, "{}", words.len());
        }
    }

    #[test]
    fn words_that_fit_nothing_are_refused() {
        let map = map(44, Shape::new(1, 2, 700_000).unwrap(), 0);
        let (words, size) = (map.words(), map.size);
        assert!(FlacMap::parse(&words, size).is_some());
        assert!(FlacMap::parse(&words, size - 1000).is_none(), "it ends before its last mark");
        for (what, instead) in [
            ("1x16", "3x16"),
            ("1x16", "1x12"),
            ("1x16", "1x0"),
            ("1x16", "1"),
            ("1x16,700000", "1x16,0"),
            ("1x16,700000", "1x16,70000"),
            ("1x16,700000", "1x16,7000000"),
            ("1x16,700000", "1x16,99999999999999"),
            (",100,", ",0,"),
            (",100,", ",99999999,"),
            (",AQEB", ",?"),
            ("AQE=,", ""),
        ] {
            let bad = words.replacen(what, instead, 1);
            assert_ne!(bad, words);
            assert_eq!(FlacMap::parse(&bad, size), None, "{bad}");
        }
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..20_000 {
            let mut bad = words.clone().into_bytes();
            let at = random.usize(..bad.len());
            bad[at] = random.u8(b'+'..b'z');
            if let Some(map) = FlacMap::parse(&String::from_utf8(bad).unwrap(), size) {
                let all = map.piece(&(0..u64::MAX)).stored;
                assert!(all.start > 0 && all.end <= size && all.start <= all.end);
            }
        }
    }
}
