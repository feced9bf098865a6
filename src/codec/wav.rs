//! WAV: RIFF and RF64, as it should be and as it is found.
//!
//! A recording whose writer died has zeros where its sizes belong, one that went through a pipe
//! 0xffffffff, one of more than 4 GiB what was left after the overflow. All are read by the
//! length of the file.

use super::{Audio, CHANNELS_MAX, Coding, NotAudio, RATES, ReadAt};
use bytes::Bytes;

/// Bytes read at a time: what the kernel has in a page anyway, and one request of a target.
const WINDOW: usize = 4096;
/// The same where the whole file is read.
const WINDOW_FAR: usize = 1 << 18;
/// Chunks looked at.
const CHUNKS_MAX: usize = 256;
/// Sizes that say "unknown".
const UNKNOWN: u32 = u32::MAX;

/// A file, seen through a window.
pub(super) struct Window<'a, E> {
    len: u64,
    read: ReadAt<'a, E>,
    at: u64,
    bytes: Bytes,
    step: usize,
}

impl<'a, E> Window<'a, E> {
    pub fn new(len: u64, read: ReadAt<'a, E>) -> Window<'a, E> {
        Window { len, read, at: 0, bytes: Bytes::new(), step: WINDOW }
    }

    /// For who reads all of it.
    pub fn read_far(&mut self) {
        self.step = WINDOW_FAR;
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// So many bytes from an offset on, not more than are read at a time; none if the file ends before.
    pub fn bytes(&mut self, at: u64, len: usize) -> Result<Option<Bytes>, E> {
        let Some(end) = at.checked_add(len as u64).filter(|end| *end <= self.len) else {
            return Ok(None);
        };
        let seen = self.at..=self.at + self.bytes.len() as u64;
        if !(seen.contains(&at) && seen.contains(&end)) {
            self.bytes = (self.read)(at, (self.len - at).min(self.step as u64) as usize)?;
            self.at = at;
        }
        let from = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        let there = from.saturating_add(len) <= self.bytes.len();
        Ok(there.then(|| self.bytes.slice(from..from + len)))
    }

    /// `N` bytes from an offset on; none if the file ends before.
    pub fn take<const N: usize>(&mut self, at: u64) -> Result<Option<[u8; N]>, E> {
        let Some(end) = at.checked_add(N as u64).filter(|end| *end <= self.len) else {
            return Ok(None);
        };
        let seen = self.at..=self.at + self.bytes.len() as u64;
        if !(seen.contains(&at) && seen.contains(&end)) {
            // Not more than there is: N is small, and within the length.
            let len = (self.len - at).min(self.step as u64) as usize;
            self.bytes = (self.read)(at, len)?;
            self.at = at;
        }
        let from = usize::try_from(at - self.at).unwrap_or(usize::MAX);
        Ok(self.bytes.get(from..).and_then(|b| b.first_chunk::<N>()).copied())
    }
}

/// What the `fmt ` chunk says.
#[derive(Clone, Copy)]
struct Format {
    coding: Coding,
    rate: u32,
    channels: u16,
}

pub(super) fn parse<E>(
    magic: &[u8; 12],
    window: &mut Window<'_, E>,
) -> Result<Result<Audio, NotAudio>, E> {
    let no = |why: &str| Ok(Err(NotAudio(why.to_owned())));
    let [first, _, _, kind, ..] = magic;
    if *kind == b'X' {
        return no("it is a big-endian WAV file (RIFX)");
    }
    if magic.get(8..) != Some(b"WAVE") {
        return no("it is a RIFF file, but no WAV");
    }
    let _riff_or_rf64 = first;
    let (mut at, mut format, mut long, mut fact) = (12u64, None, None, None);
    for _ in 0..CHUNKS_MAX {
        let Some(head) = window.take::<8>(at)? else {
            return no("it ends before its samples (no data chunk)");
        };
        let ([id, size], _) = head.as_chunks::<4>() else { return no("it has no chunks") };
        let size = u32::from_le_bytes(*size);
        let body = at + 8;
        match id {
            b"ds64" => long = window.take::<16>(body)?.map(|b| u64_at(&b, 8)),
            b"fact" => fact = window.take::<4>(body)?.map(u32::from_le_bytes),
            b"fmt " => match parse_format(size, body, window)? {
                Ok(found) => format = Some(found),
                Err(why) => return Ok(Err(why)),
            },
            b"data" => {
                let Some(format) = format else { return no("its samples come before its format") };
                let declared = match (size, long) {
                    (UNKNOWN, Some(long)) => long,
                    _ => u64::from(size),
                };
                let bytes = data_bytes(declared, window.len.saturating_sub(body));
                return Ok(Ok(audio(format, body, bytes, fact)));
            }
            _ => {}
        }
        // Chunks begin at even offsets.
        at = body.saturating_add(u64::from(size)).saturating_add(u64::from(size & 1));
    }
    no("it has too many chunks before its samples")
}

/// Bytes of samples, of those that are there.
fn data_bytes(declared: u64, there: u64) -> u64 {
    let unsaid = declared == 0 || declared > there;
    // A writer that counted with 32 bits.
    let overflowed = there > u64::from(u32::MAX) && there & u64::from(u32::MAX) == declared;
    if unsaid || overflowed { there } else { declared }
}

fn parse_format<E>(
    size: u32,
    body: u64,
    window: &mut Window<'_, E>,
) -> Result<Result<Format, NotAudio>, E> {
    let Some(b) = window.take::<16>(body)? else {
        return Ok(Err(NotAudio("it ends within its format".to_owned())));
    };
    let mut tag = u16_at(&b, 0);
    if tag == 0xfffe && size >= 40 {
        tag = window.take::<26>(body)?.map_or(tag, |b| u16_at(&b, 24));
    }
    let (channels, rate, bits) = (u16_at(&b, 2), u32_at(&b, 4), u16_at(&b, 14));
    let coding = match (tag, bits) {
        (1, 8) => Coding::Pcm8,
        (1, 16) => Coding::Pcm16,
        (1, 24) => Coding::Pcm24,
        (1, 32) => Coding::Pcm32,
        (6, _) => Coding::Alaw,
        (7, _) => Coding::Ulaw,
        (0x31, _) if channels == 1 => Coding::Wav49,
        (1, bits) => return Ok(Err(NotAudio(format!("it is PCM of {bits} bits")))),
        (tag, _) => {
            let why =
                format!("it is a WAV file of the format 0x{tag:04x}, which is not known here");
            return Ok(Err(NotAudio(why)));
        }
    };
    if channels == 0 || channels > CHANNELS_MAX {
        return Ok(Err(NotAudio(format!("it claims to have {channels} channels"))));
    }
    if !RATES.contains(&rate) {
        return Ok(Err(NotAudio(format!("it claims to have {rate} samples a second"))));
    }
    Ok(Ok(Format { coding, rate, channels }))
}

fn audio(format: Format, at: u64, bytes: u64, fact: Option<u32>) -> Audio {
    let Format { coding, rate, channels } = format;
    let blocks = bytes / (coding.block_bytes() * u64::from(channels));
    let whole = blocks.saturating_mul(coding.block_samples());
    // The last block of a compressed file may be filled up.
    let told = fact.map(u64::from).filter(|n| *n < whole && whole - n < coding.block_samples());
    Audio { coding, rate, channels, at, samples: told.unwrap_or(whole), frames: None }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

/// The header of a PCM file with this many bytes of samples: 44 bytes, or the 80 of RF64 if a
/// RIFF header can not say so much. An odd number of bytes of samples needs one zero behind it.
pub fn header(coding: Coding, rate: u32, channels: u16, bytes: u64) -> Vec<u8> {
    let even = bytes + (bytes & 1);
    // Coded as PCM: at most four bytes.
    let (width, bits) = (coding.block_bytes() as u16, coding.block_bytes() as u16 * 8);
    let align = width * channels;
    let mut out = Vec::with_capacity(80);
    let riff = u32::try_from(even + 36).ok();
    match riff {
        Some(size) => {
            out.extend(b"RIFF");
            out.extend(size.to_le_bytes());
            out.extend(b"WAVE");
        }
        None => {
            out.extend(b"RF64");
            out.extend(UNKNOWN.to_le_bytes());
            out.extend(b"WAVEds64");
            out.extend(28u32.to_le_bytes());
            out.extend((even + 72).to_le_bytes());
            out.extend(bytes.to_le_bytes());
            out.extend((bytes / u64::from(align.max(1))).to_le_bytes());
            out.extend(0u32.to_le_bytes());
        }
    }
    out.extend(b"fmt ");
    out.extend(16u32.to_le_bytes());
    out.extend(1u16.to_le_bytes());
    out.extend(channels.to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend((rate.saturating_mul(u32::from(align))).to_le_bytes());
    out.extend(align.to_le_bytes());
    out.extend(bits.to_le_bytes());
    out.extend(b"data");
    let size = riff.and_then(|_| u32::try_from(bytes).ok()).unwrap_or(UNKNOWN);
    out.extend(size.to_le_bytes());
    out
}
