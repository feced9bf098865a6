//! Recordings of PCM as FLAC, and back (docs/FORMAT.md, "FLAC").
//!
//! **Invariant:** what is decoded here was encoded by another program, libFLAC: so that what is
//! compared before it is stored is compared with what anybody's decoder makes of it.

use super::{Coding, ReadAt, probe};
use crate::limits::{FLAC_AROUND_BYTES_MAX, FLAC_HEAD_BYTES_MAX};
use crate::recording::flac::{BLOCK_SAMPLES, FlacMap, Mark, Shape};
use crate::sys::flac as sys;
use claxon::frame::FrameReader;
use claxon::input::BufferedReader;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Name of our APPLICATION block.
const APPLICATION: [u8; 4] = *b"spoo";
/// The version of what is in it.
const VERSION: u8 = 1;
/// libFLAC's level: higher ones gain nothing with telephone calls.
const LEVEL: u32 = 5;

/// A recording that can be stored as FLAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    shape: Shape,
    rate: u32,
    prefix: Vec<u8>,
    suffix: Vec<u8>,
}

/// Why bytes are not the FLAC that was expected. The text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFlac(String);

impl BadFlac {
    /// Of an object whose beginning was not looked at.
    pub(super) fn without_map() -> BadFlac {
        BadFlac("it is not known where its parts are; run `spoolfs rebuild`".to_owned())
    }
}

fn bad<T>(what: impl Into<String>) -> Result<T, BadFlac> {
    Err(BadFlac(what.into()))
}

/// Whether the recording of this name and length can be stored as FLAC: PCM of 8, 16 or 24 bits and
/// one or two channels, by the header of a WAV, or by the name of a `.sln`.
///
/// # Errors
/// What `read` fails with.
pub fn candidate<E>(name: &[u8], len: u64, read: ReadAt<'_, E>) -> Result<Option<Candidate>, E> {
    let Ok(audio) = probe(name, len, read)? else { return Ok(None) };
    let width = match audio.coding {
        Coding::Pcm8 => 1,
        Coding::Pcm16 => 2,
        Coding::Pcm24 => 3,
        _ => return Ok(None),
    };
    let by_name = audio.at == 0;
    let suffix = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    if by_name && !suffix.starts_with(b"sln") {
        return Ok(None);
    }
    let channels = u8::try_from(audio.channels).unwrap_or(0);
    let Some(shape) = Shape::new(channels, width, audio.samples) else { return Ok(None) };
    let end = audio.at.saturating_add(shape.bytes());
    let Some(behind) = len.checked_sub(end) else { return Ok(None) };
    if audio.at.saturating_add(behind) > FLAC_AROUND_BYTES_MAX {
        return Ok(None);
    }
    let mut around = |at: u64, len: u64| Ok(read(at, len as usize)?.to_vec());
    let (prefix, suffix): (Vec<u8>, Vec<u8>) = (around(0, audio.at)?, around(end, behind)?);
    let whole = prefix.len() as u64 == audio.at && suffix.len() as u64 == behind;
    Ok(whole.then_some(Candidate { shape, rate: audio.rate, prefix, suffix }))
}

/// Encodes a recording, whose bytes it is given in order.
#[derive(Debug)]
pub struct Encoder<'f> {
    encoder: sys::Encoder<Output<'f>>,
    candidate: Candidate,
    /// Bytes taken.
    offset: u64,
    /// PCM that is no whole sample of all channels yet.
    rest: Vec<u8>,
    samples: Vec<i32>,
}

/// Where the FLAC file goes, and where its frames are.
#[derive(Debug)]
struct Output<'f> {
    file: &'f File,
    frames: u64,
    /// Where the frames begin that parts are looked for by.
    starts: BTreeMap<u64, u64>,
    end: u64,
}

impl sys::Sink for Output<'_> {
    fn write(&mut self, at: u64, bytes: &[u8], frame: bool) -> io::Result<()> {
        if frame {
            if let Some(start) = self.starts.get_mut(&self.frames) {
                *start = at;
            }
            self.frames += 1;
        }
        self.end = self.end.max(at + bytes.len() as u64);
        self.file.write_all_at(bytes, at)
    }
}

impl<'f> Encoder<'f> {
    /// Begins a file, which must be empty.
    ///
    /// # Errors
    /// What writing to it fails with; what libFLAC refuses.
    pub fn new(candidate: Candidate, file: &'f File) -> io::Result<Encoder<'f>> {
        let Candidate { shape, rate, prefix, suffix } = &candidate;
        let frames = seek_frames(*shape, prefix.len() as u64);
        let seek_points: Vec<u64> = frames.iter().map(|frame| frame * BLOCK_SAMPLES).collect();
        let before = u32::try_from(prefix.len()).map_err(io::Error::other)?;
        let content = [&[VERSION], &before.to_be_bytes()[..], prefix, suffix].concat();
        let settings = sys::Settings {
            channels: shape.channels,
            bits: shape.width * 8,
            rate: *rate,
            samples: shape.samples,
            block: BLOCK_SAMPLES as u32,
            level: LEVEL,
            application: (APPLICATION, &content),
            seek_points: &seek_points,
        };
        let starts = frames.into_iter().map(|frame| (frame, 0)).collect();
        let output = Output { file, frames: 0, starts, end: 0 };
        let encoder = sys::Encoder::new(&settings, output)?;
        Ok(Encoder { encoder, candidate, offset: 0, rest: Vec::new(), samples: Vec::new() })
    }

    /// Takes the next bytes of the recording.
    ///
    /// # Errors
    /// As `new`.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Shape { width, .. } = self.candidate.shape;
        let pcm = self.candidate.pcm();
        let within =
            |at: u64| usize::try_from(at.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let (start, end) = (within(pcm.start), within(pcm.end).min(bytes.len()));
        self.offset += bytes.len() as u64;
        self.rest.extend_from_slice(bytes.get(start..end).unwrap_or_default());
        let whole =
            self.rest.len() - self.rest.len() % self.candidate.shape.sample_bytes() as usize;
        self.samples.clear();
        let parts = self.rest.get(..whole).unwrap_or_default();
        match width {
            1 => self.samples.extend(parts.iter().map(|byte| i32::from(*byte) - 128)),
            2 => self
                .samples
                .extend(parts.as_chunks().0.iter().map(|b| i16::from_le_bytes(*b)).map(i32::from)),
            _ => self.samples.extend(
                parts
                    .as_chunks()
                    .0
                    .iter()
                    .map(|[a, b, c]| i32::from_le_bytes([0, *a, *b, *c]) >> 8),
            ),
        }
        self.rest.drain(..whole);
        if self.samples.is_empty() { Ok(()) } else { self.encoder.encode(&self.samples) }
    }

    /// Ends the file; how it holds the recording. That it does so is to be seen by decoding it.
    ///
    /// # Errors
    /// As `new`.
    pub fn finish(self) -> io::Result<Option<FlacMap>> {
        let Candidate { shape, prefix, suffix, .. } = self.candidate;
        let Output { starts, end, .. } = self.encoder.finish()?;
        let start = |frame: u64| starts.get(&frame).copied().unwrap_or(end);
        let crossings = shape.crossings(prefix.len() as u64);
        let marks = crossings.map(|n| Mark { start: start(n), end: start(n + 1) }).collect();
        Ok(FlacMap::new(shape, (prefix, suffix), start(0), end, marks))
    }
}

impl Candidate {
    fn pcm(&self) -> Range<u64> {
        let start = self.prefix.len() as u64;
        start..start + self.shape.bytes()
    }
}

/// The frames that a SEEKTABLE leads to: the first, and where each chunk begins, that one and the
/// next.
fn seek_frames(shape: Shape, prefix: u64) -> Vec<u64> {
    let frames = shape.samples.div_ceil(BLOCK_SAMPLES);
    let crossings = shape.crossings(prefix).flat_map(|frame| [frame, frame + 1]);
    let mut all: Vec<u64> = std::iter::once(0).chain(crossings).filter(|n| *n < frames).collect();
    all.dedup();
    all
}

/// A range of the recording, of what the object has where the map's `piece` of that range is.
///
/// # Errors
/// The bytes are not such frames.
pub fn decode(map: &FlacMap, range: &Range<u64>, stored: &[u8]) -> Result<Vec<u8>, BadFlac> {
    let room = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
    let mut out = Vec::with_capacity(room);
    let (pcm, mut cut) = (map.pcm(), |bytes: &[u8], at: u64| {
        let within = |to: u64| usize::try_from(to.saturating_sub(at)).unwrap_or(usize::MAX);
        let (start, end) = (within(range.start), within(range.end).min(bytes.len()));
        out.extend_from_slice(bytes.get(start..end).unwrap_or_default());
    });
    cut(map.prefix(), 0);
    let piece = map.piece(range);
    let (len, wanted) = (stored.len() as u64, piece.stored.end - piece.stored.start);
    if len != wanted {
        return bad(format!("{len} bytes of frames, {wanted} were asked for"));
    }
    // It was tried with bytes of all kinds by its authors, but it is not ours.
    catch_unwind(AssertUnwindSafe(|| decode_frames(map, pcm.start + piece.at, stored, &mut cut)))
        .unwrap_or_else(|_| bad("the decoder failed"))?;
    cut(map.suffix(), pcm.end);
    Ok(out)
}

/// Hands on the PCM of frames, the first of which begins at `at` in the recording.
fn decode_frames(
    map: &FlacMap,
    mut at: u64,
    stored: &[u8],
    cut: &mut dyn FnMut(&[u8], u64),
) -> Result<(), BadFlac> {
    let (shape, end) = (map.shape(), map.pcm().end);
    let mut reader = FrameReader::new(BufferedReader::new(stored));
    let (mut buffer, mut bytes) = (Vec::new(), Vec::new());
    loop {
        let block = match reader.read_next_or_eof(std::mem::take(&mut buffer)) {
            Ok(Some(block)) => block,
            Ok(None) => return Ok(()),
            Err(error) => return bad(format!("no frame of FLAC: {error}")),
        };
        let left = end.saturating_sub(at) / shape.sample_bytes();
        if block.channels() != u32::from(shape.channels)
            || u64::from(block.duration()) != left.min(BLOCK_SAMPLES)
        {
            return bad("a frame has other channels, or another length");
        }
        bytes.clear();
        for sample in 0..block.duration() {
            for channel in 0..block.channels() {
                let value = block.sample(channel, sample);
                let [a, b, c, _] = value.to_le_bytes();
                match shape.width {
                    1 => bytes.push(a.wrapping_add(128)),
                    2 => bytes.extend([a, b]),
                    _ => bytes.extend([a, b, c]),
                }
            }
        }
        cut(&bytes, at);
        at += bytes.len() as u64;
        buffer = block.into_buffer();
    }
}

/// What the beginning of an object tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// How it holds a recording.
    Map(FlacMap),
    /// So many bytes of it are needed to tell.
    Longer(u64),
}

/// The map of an object of `size` bytes, from the bytes that it begins with.
///
/// # Errors
/// It is no FLAC file that holds a recording.
pub fn head(start: &[u8], size: u64) -> Result<Head, BadFlac> {
    let (mut info, mut around, mut seek) = (None, None, BTreeMap::new());
    let mut at = 4usize;
    loop {
        let Some(header) = start.get(at..).and_then(|b| b.first_chunk::<4>()) else {
            return longer(at + 4, size);
        };
        let [kind, len @ ..] = header;
        let len = len.iter().fold(0usize, |len, byte| len << 8 | usize::from(*byte));
        if start.get(..4) != Some(b"fLaC") {
            return bad("it does not begin as FLAC does");
        }
        at += 4;
        let Some(body) = start.get(at..at + len) else {
            return longer(at + len + 4, size);
        };
        match kind & 0x7f {
            0 => info = shape(body),
            2 if body.starts_with(&APPLICATION) => around = application(body),
            3 => seek.extend(body.as_chunks().0.iter().map(seek_point)),
            _ => {}
        }
        at += len;
        if kind & 0x80 != 0 {
            break;
        }
    }
    let Some((shape, around)) = info.zip(around) else {
        return bad("it is a FLAC file, but not of a recording");
    };
    let (head, samples) = (at as u64, shape.samples);
    let start = |frame: u64| match frame * BLOCK_SAMPLES {
        sample if sample >= samples => Some(size),
        sample => head.checked_add(*seek.get(&sample)?),
    };
    let crossings = shape.crossings(around.0.len() as u64);
    let marks = crossings.map(|n| Some(Mark { start: start(n)?, end: start(n + 1)? }));
    let map = marks.collect::<Option<Vec<Mark>>>();
    match map.and_then(|marks| FlacMap::new(shape, around, head, size, marks)) {
        Some(map) => Ok(Head::Map(map)),
        None => bad("its SEEKTABLE does not lead to its parts"),
    }
}

fn longer(bytes: usize, size: u64) -> Result<Head, BadFlac> {
    let bytes = bytes as u64;
    match bytes <= size.min(FLAC_HEAD_BYTES_MAX) {
        true => Ok(Head::Longer(bytes)),
        false => bad("it ends in its metadata"),
    }
}

/// What a STREAMINFO tells, if it is one of ours.
fn shape(body: &[u8]) -> Option<Shape> {
    let [least_a, least_b, most_a, most_b] = *body.first_chunk()?;
    let (least, most) = ([least_a, least_b], [most_a, most_b]);
    let packed = u64::from_be_bytes(*body.get(10..)?.first_chunk()?);
    let ours = least == most && u64::from(u16::from_be_bytes(least)) == BLOCK_SAMPLES;
    let channels = (packed >> 41 & 7) as u8 + 1;
    let bits = (packed >> 36 & 31) as u8 + 1;
    Shape::new(channels, bits / 8, packed & ((1 << 36) - 1))
        .filter(|_| ours && bits.is_multiple_of(8))
}

/// What was around the PCM.
fn application(body: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let content = body.strip_prefix(&APPLICATION)?.strip_prefix(&[VERSION])?;
    let (len, around) = content.split_first_chunk()?;
    let (prefix, suffix) = around.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    Some((prefix.to_vec(), suffix.to_vec()))
}

/// A sample, and where its frame is behind the first.
fn seek_point(point: &[u8; 18]) -> (u64, u64) {
    let [number, offset] = [point.get(..8), point.get(8..16)].map(|part| {
        part.and_then(|b| b.first_chunk()).map_or(u64::MAX, |b| u64::from_be_bytes(*b))
    });
    (number, offset)
}

#[cfg(test)]
mod tests;
