//! MPEG audio layer III: where its frames are, and what they hold.
//!
//! Frames have no number and no fixed length, and one may lean on bytes of those before it. So a file is
//! walked through once, from the header of one frame to the next, and it is noted where every ten
//! seconds begin; from there samples are decoded without what comes before.

use super::packed::{Frames, Span};
use super::wav::Window;
use super::{Audio, Coding, NotAudio};
use bytes::Bytes;
use std::convert::Infallible;
use symphonia_bundle_mp3::MpaDecoder;
use symphonia_core::audio::{Audio as _, GenericAudioBufferRef};
use symphonia_core::codecs::audio::well_known::CODEC_ID_MP3;
use symphonia_core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia_core::packet::PacketRef;
use symphonia_core::units::{Duration, Timestamp};

/// Frames decoded before those that are wanted: as many as a frame can lean on at the lowest rates, and
/// what a decoder needs to get into its stride.
const BEFORE: u64 = 24;
/// Bytes between frames that are stepped over, in the whole file.
const GAP_MAX: u64 = 65_536;
/// Samples that a decoder is late by; players leave them out where the encoder says how late it was.
const LATE: u32 = 528 + 1;
/// Longest file that is walked through.
const BYTES_MAX: u64 = 1 << 30;

/// What the header of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    /// Not the first version of MPEG: frames of half the length.
    short: bool,
    rate: u32,
    channels: u16,
    /// With its header.
    bytes: u64,
}

impl Head {
    /// ISO 11172-3, 2.4.1.3, with the extensions of 13818-3 and "2.5". Free format is passed over.
    fn of(bytes: [u8; 4]) -> Option<Head> {
        const LONG: [u32; 14] = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
        const SHORT: [u32; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
        let bits = u32::from_be_bytes(bytes);
        let field = |shift: u32, width: u32| bits >> shift & ((1 << width) - 1);
        // Sync, and layer III.
        if field(21, 11) != 0x7ff || field(17, 2) != 1 {
            return None;
        }
        let (short, divisor) = match field(19, 2) {
            3 => (false, 1),
            2 => (true, 2),
            0 => (true, 4),
            _ => return None,
        };
        let index = usize::try_from(field(12, 4)).ok()?.checked_sub(1)?;
        let (table, size) = if short { (&SHORT, 72_000) } else { (&LONG, 144_000) };
        let kilobits = *table.get(index)?;
        let rate = *[44_100, 48_000, 32_000].get(usize::try_from(field(10, 2)).ok()?)? / divisor;
        let bytes = size * kilobits / rate + field(9, 1);
        let channels = if field(6, 2) == 3 { 1 } else { 2 };
        Some(Head { short, rate, channels, bytes: bytes.into() })
    }

    fn samples(self) -> u32 {
        if self.short { 576 } else { 1152 }
    }

    /// Whether a frame can be of the same stream.
    fn is_like(self, other: Head) -> bool {
        (self.short, self.rate, self.channels) == (other.short, other.rate, other.channels)
    }

    /// Bytes of what comes between the header and the sound: there an encoder tells about the file.
    fn side(self) -> u64 {
        match (self.short, self.channels) {
            (false, 2) => 32,
            (false, _) | (true, 2) => 17,
            (true, _) => 9,
        }
    }
}

/// The frame at a position, or the next behind what is none. Like `like`, if that is given; else it must
/// have another like it behind it.
fn next<E>(
    window: &mut Window<'_, E>,
    from: u64,
    like: Option<Head>,
) -> Result<Option<(u64, Head)>, E> {
    for at in from..from.saturating_add(GAP_MAX) {
        let Some(head) = window.take::<4>(at)? else { return Ok(None) };
        let Some(head) = Head::of(head).filter(|h| like.is_none_or(|like| h.is_like(like))) else {
            continue;
        };
        let end = at + head.bytes;
        if end > window.len() {
            continue;
        }
        if at == from && like.is_some() || end == window.len() {
            return Ok(Some((at, head)));
        }
        // Four bytes that look like a header may be none.
        let behind = window.take::<4>(end)?.map_or(Some(head), Head::of);
        if behind.is_some_and(|behind| behind.is_like(head)) {
            return Ok(Some((at, head)));
        }
    }
    Ok(None)
}

/// Behind the tag that players show the title from.
fn behind_tag<E>(window: &mut Window<'_, E>) -> Result<u64, E> {
    let Some([b'I', b'D', b'3', _, _, flags, a, b, c, d]) = window.take::<10>(0)? else {
        return Ok(0);
    };
    let size = [a, b, c, d].iter().fold(0, |size, byte| size << 7 | u64::from(byte & 127));
    let footer = if flags & 16 != 0 { 10 } else { 0 };
    Ok(10 + size + footer)
}

/// Samples at the beginning and at the end that were not in what was encoded, if the first frame is one
/// in which an encoder tells of the others.
fn told<E>(window: &mut Window<'_, E>, at: u64, head: Head) -> Result<Option<(u32, u32)>, E> {
    let tag = at + 4 + head.side();
    match window.take::<8>(tag)? {
        Some(
            [b'X', b'i', b'n', b'g', _, _, _, flags] | [b'I', b'n', b'f', b'o', _, _, _, flags],
        ) => {
            let parts = [(1, 4), (2, 4), (4, 100), (8, 4)];
            let there = parts.iter().filter(|(flag, _)| flags & flag != 0);
            let encoder = tag + 8 + there.map(|(_, bytes)| bytes).sum::<u64>();
            let known = window.take::<4>(encoder)?.is_some_and(|name| {
                [b"LAME", b"Lavf", b"Lavc"].into_iter().any(|known| *known == name)
            });
            let delays = window.take::<3>(encoder + 21)?.filter(|_| known);
            let [a, b, c] = delays.unwrap_or_default().map(u32::from);
            let (first, last) = (a << 4 | b >> 4, (b & 15) << 8 | c);
            Ok(Some(if delays.is_some() {
                (first + LATE, last.saturating_sub(LATE))
            } else {
                (0, 0)
            }))
        }
        _ => Ok(None),
    }
}

/// What a file is, by all of its frames.
pub(super) fn parse<E>(window: &mut Window<'_, E>) -> Result<Result<Audio, NotAudio>, E> {
    let no = |why: &str| Ok(Err(NotAudio(why.to_owned())));
    if window.len() > BYTES_MAX {
        return no("it is an MP3 file of more than 1 GiB");
    }
    let begin = behind_tag(window)?;
    let Some((mut at, first)) = next(window, begin, None)? else {
        return no("it has no frames of MPEG audio layer III");
    };
    let told = told(window, at, first)?;
    if told.is_some() {
        // It holds no sound.
        at += first.bytes;
    }
    let begin = at;
    let frame = u64::from(first.samples());
    let mut frames = Frames::new(first.rate, BEFORE * frame);
    let mut gaps = 0;
    while let Some((found, head)) = next(window, at, Some(first))? {
        gaps += found - at;
        if gaps > GAP_MAX {
            break;
        }
        frames.add(found, frame, true);
        at = found + head.bytes;
    }
    let (skip, over) = told.unwrap_or_default();
    let samples = frames.total().saturating_sub(u64::from(skip) + u64::from(over));
    if samples == 0 {
        return no("it has no sound");
    }
    let Some(frames) = frames.done(at, skip.into()) else { return no("its frames are far apart") };
    let (coding, rate, channels) = (Coding::Mp3, first.rate, first.channels);
    Ok(Ok(Audio { coding, rate, channels, at: begin, samples, frames: Some(Box::new(frames)) }))
}

/// The samples of the frames in these bytes, mixed to one channel; silence for those that can not be
/// decoded.
pub(super) fn decode(audio: &Audio, span: &Span, bytes: &Bytes) -> Vec<i16> {
    let mut out = Vec::new();
    let mut params = AudioCodecParameters::new();
    params.for_codec(CODEC_ID_MP3);
    let Ok(mut decoder) = MpaDecoder::try_new(&params, &AudioDecoderOptions::default()) else {
        return out;
    };
    let mut read = |at: u64, len: usize| {
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        Ok::<_, Infallible>(bytes.slice(from..from.saturating_add(len).min(bytes.len())))
    };
    let mut window = Window::new(bytes.len() as u64, &mut read);
    let (rate, channels) = (audio.rate, audio.channels);
    let like = Head { short: rate < 32_000, rate, channels, bytes: 0 };
    let frame = if like.short { 576 } else { 1152 };
    let mut at = 0;
    while out.len() < span.decoded() {
        let Ok(Some((found, head))) = next(&mut window, at, Some(like)) else { break };
        at = found + head.bytes;
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let data = bytes.get(place(found)..place(at)).unwrap_or(&[]);
        let before = out.len();
        let packet = PacketRef::new(0, Timestamp::ZERO, Duration::ZERO, data);
        if let Ok(GenericAudioBufferRef::F32(heard)) = decoder.decode_ref(&packet) {
            let planes = (0..usize::from(audio.channels)).filter_map(|n| heard.plane(n));
            let planes: Vec<&[f32]> = planes.collect();
            out.extend((0..heard.frames().min(frame)).map(|n| mixed(&planes, n)));
        }
        out.resize(before + frame, 0);
    }
    out
}

/// A sample of all channels, each rounded first, as a player would write them down.
fn mixed(planes: &[&[f32]], at: usize) -> i16 {
    let whole = |sample: f32| (sample * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i32;
    let sum: i32 = planes.iter().filter_map(|plane| plane.get(at)).map(|s| whole(*s)).sum();
    // An average of what fits, fits.
    sum.div_euclid(i32::try_from(planes.len()).unwrap_or(1).max(1)) as i16
}
