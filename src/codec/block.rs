//! Samples from any position on.
//!
//! A decoder of GSM or G.722 remembers what it decoded before. So that the same sample comes out
//! whoever asks and in whatever order, the file is cut into stretches of ten seconds, and each is
//! decoded from one second before it with a decoder that has seen nothing. By then it hears what a
//! decoder would that had begun at the start. `packed.rs` has the same for frames of any length.

use super::{Audio, Coding, g711, g722, mp3, ogg};
use crate::sys::gsm::{self, Decoder};
use bytes::Bytes;
use std::ops::Range;

/// Frames of a stretch, and of what is decoded before it only to be heard; both even, because
/// wav49 has two in a block.
const STRETCH: u64 = 500;
const BEFORE: u64 = 50;

/// Decodes samples of a recording, mixed to one channel. `read` gives bytes of the file; fewer
/// than asked for only if it is shorter than it was.
///
/// # Errors
/// What `read` fails with. Fewer samples than asked for mean that it was shorter, or that there
/// was no memory.
pub fn decode<E>(
    audio: &Audio,
    samples: Range<u64>,
    read: super::ReadAt<'_, E>,
) -> Result<Vec<i16>, E> {
    let samples = samples.start..samples.end.min(audio.samples);
    if samples.is_empty() {
        return Ok(Vec::new());
    }
    match audio.coding {
        Coding::Gsm | Coding::Wav49 | Coding::G722 => frames(audio, samples, read),
        Coding::Mp3 | Coding::Opus { .. } => packed(audio, samples, read),
        _ => single(audio, samples, read),
    }
}

/// Codings whose samples stand by themselves.
fn single<E>(
    audio: &Audio,
    samples: Range<u64>,
    read: super::ReadAt<'_, E>,
) -> Result<Vec<i16>, E> {
    let block = audio.block_bytes();
    let bytes = read_blocks(audio, samples, read)?;
    let value: fn(&[u8]) -> i32 = match audio.coding {
        Coding::Pcm8 => |b| b.first().map_or(0, |b| (i32::from(*b) - 128) << 8),
        Coding::Ulaw => |b| b.first().map_or(0, |b| g711::from_ulaw(*b).into()),
        Coding::Alaw => |b| b.first().map_or(0, |b| g711::from_alaw(*b).into()),
        // The upper 16 bits of 16, 24 or 32.
        _ => |b| b.last_chunk().map_or(0, |b| i16::from_le_bytes(*b).into()),
    };
    let width = audio.coding.block_bytes() as usize;
    let channels = i32::from(audio.channels);
    // Rounded down on both sides of zero, so that mixing two equal channels changes nothing.
    let mix = |b: &[u8]| b.chunks_exact(width).map(value).sum::<i32>().div_euclid(channels);
    // An average of what fits, fits.
    Ok(bytes.chunks_exact(block as usize).map(|b| mix(b) as i16).collect())
}

/// The bytes of some blocks.
fn read_blocks<E>(
    audio: &Audio,
    blocks: Range<u64>,
    read: super::ReadAt<'_, E>,
) -> Result<Bytes, E> {
    let block = audio.block_bytes();
    let at = audio.at + blocks.start * block;
    let len = usize::try_from((blocks.end - blocks.start) * block).unwrap_or(0);
    read(at, len)
}

fn frames<E>(
    audio: &Audio,
    samples: Range<u64>,
    read: super::ReadAt<'_, E>,
) -> Result<Vec<i16>, E> {
    let frame = match audio.coding {
        Coding::G722 => (g722::FRAME_BYTES * g722::SAMPLES) as u64,
        _ => gsm::FRAME_SAMPLES as u64,
    };
    let mut out = Vec::new();
    let mut at = samples.start;
    while at < samples.end {
        let stretch = at / (STRETCH * frame);
        let end = ((stretch + 1) * STRETCH * frame).min(samples.end);
        let first = (stretch * STRETCH).saturating_sub(BEFORE);
        let decoded = decode_frames(audio, first..end.div_ceil(frame), read)?;
        let skip = usize::try_from(at - first * frame).unwrap_or(usize::MAX);
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX);
        let Some(found) = decoded.get(skip..) else { break };
        out.extend(found.iter().take(wanted));
        if found.len() < wanted {
            break;
        }
        at = end;
    }
    Ok(out)
}

/// Codings whose frames have no fixed length.
fn packed<E>(
    audio: &Audio,
    mut samples: Range<u64>,
    read: super::ReadAt<'_, E>,
) -> Result<Vec<i16>, E> {
    let mut out = Vec::new();
    while let Some(span) = audio.frames.as_ref().and_then(|frames| frames.span(&samples)) {
        let len = usize::try_from(span.bytes.end - span.bytes.start).unwrap_or(0);
        let bytes = read(span.bytes.start, len)?;
        if bytes.len() < len {
            break;
        }
        let mut decoded = match audio.coding {
            Coding::Opus { gain } => ogg::decode(audio, gain, &span, &bytes),
            _ => mp3::decode(audio, &span, &bytes),
        };
        let skip = usize::try_from(span.skip).unwrap_or(usize::MAX);
        let wanted = usize::try_from(span.samples).unwrap_or(usize::MAX);
        // What was a frame when it was looked for, and is none to the decoder, is silence.
        decoded.resize(skip.saturating_add(wanted), 0);
        out.extend(decoded.drain(skip..));
        samples.start += span.samples;
    }
    Ok(out)
}

/// Decodes these frames with a decoder that has seen nothing.
fn decode_frames<E>(
    audio: &Audio,
    frames: Range<u64>,
    read: super::ReadAt<'_, E>,
) -> Result<Vec<i16>, E> {
    if audio.coding == Coding::G722 {
        let octet = |frame: u64| (frame * g722::FRAME_BYTES as u64).min(audio.samples.div_ceil(2));
        let bytes = read_blocks(audio, octet(frames.start)..octet(frames.end), read)?;
        let mut decoder = g722::Decoder::new();
        return Ok(bytes.iter().flat_map(|octet| decoder.decode(*octet)).collect());
    }
    let paired = audio.coding == Coding::Wav49;
    let blocks = if paired { frames.start / 2..frames.end.div_ceil(2) } else { frames };
    let bytes = read_blocks(audio, blocks, read)?;
    let mut out = Vec::with_capacity(bytes.len() / gsm::FRAME_BYTES * gsm::FRAME_SAMPLES);
    let Some(mut decoder) = Decoder::new() else { return Ok(out) };
    if paired {
        for block in bytes.as_chunks::<65>().0 {
            for frame in unpack(block) {
                out.extend(decoder.decode(&frame));
            }
        }
    } else {
        for frame in bytes.as_chunks::<{ gsm::FRAME_BYTES }>().0 {
            out.extend(decoder.decode(frame));
        }
    }
    Ok(out)
}

/// Bits of a frame's parameters, in their order: eight reflection coefficients, then four times
/// the lag, its gain, the grid, the largest amplitude and thirteen pulses (GSM 06.10, table 1.1).
const COEFFICIENTS: [u32; 8] = [6, 6, 5, 5, 4, 4, 3, 3];
const SUBFRAME: [u32; 17] = [7, 2, 2, 6, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3];

/// The two frames of a Microsoft block: the same parameters, the lowest bit first, without the
/// four bits that begin a frame, so that two frames of 260 bits fill 65 bytes.
fn unpack(block: &[u8; 65]) -> [[u8; gsm::FRAME_BYTES]; 2] {
    let mut from = 0usize;
    let mut frames = [[0; gsm::FRAME_BYTES]; 2];
    for frame in &mut frames {
        let mut to = 0usize;
        let mut put = |value: u32, bits: u32| {
            for bit in (0..bits).rev() {
                if let Some(byte) = frame.get_mut(to / 8) {
                    *byte |= ((value >> bit & 1) as u8) << (7 - to % 8);
                }
                to += 1;
            }
        };
        put(0xd, 4);
        let subframes = SUBFRAME.iter().cycle().take(4 * SUBFRAME.len());
        for bits in COEFFICIENTS.iter().chain(subframes) {
            let mut value = 0;
            for bit in 0..*bits {
                let byte = block.get(from / 8).copied().unwrap_or(0);
                value |= u32::from(byte >> (from % 8) & 1) << bit;
                from += 1;
            }
            put(value, *bits);
        }
    }
    frames
}
