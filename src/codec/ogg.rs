//! Opus in Ogg (RFC 7845): which packets there are and how long, and what they hold.
//!
//! A page tells how many samples were there by its end, but for cut and joined files; so the length of
//! a recording is that of its packets, as each says itself.

use super::packed::{Frames, Span};
use super::wav::Window;
use super::{Audio, Coding, NotAudio};
use crate::sys::opus::Decoder;
use bytes::Bytes;
use std::convert::Infallible;

/// Samples of a second in which all lengths are told, whatever rate is decoded to.
const RATE: u32 = 48_000;
/// Longest packet, in these.
const PACKET_MAX: u64 = 5_760;
/// Longest file that is walked through.
const BYTES_MAX: u64 = 1 << 30;

/// A page.
#[derive(Debug)]
struct Page {
    /// It begins with the rest of a packet.
    continued: bool,
    granule: u64,
    serial: u32,
    /// Lengths of what is in it, in the way of 3.2.
    lacing: Bytes,
    /// Where that begins, and where the page ends.
    body: u64,
    end: u64,
}

impl Page {
    /// RFC 3533, 6. None where there is none, or it is cut.
    fn at<E>(window: &mut Window<'_, E>, at: u64) -> Result<Option<Page>, E> {
        let Some(head) = window.take::<27>(at)? else { return Ok(None) };
        let [b'O', b'g', b'g', b'S', 0, flags, rest @ ..] = head else { return Ok(None) };
        let (Some(granule), Some(serial)) = (rest.first_chunk(), rest.get(8..12)) else {
            return Ok(None);
        };
        let serial = serial.first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        let parts = rest.last().map_or(0, |n| usize::from(*n));
        let Some(lacing) = window.bytes(at + 27, parts)? else { return Ok(None) };
        let body = at + 27 + parts as u64;
        let end = body + lacing.iter().map(|n| u64::from(*n)).sum::<u64>();
        let granule = u64::from_le_bytes(*granule);
        let page = Page { continued: flags & 1 != 0, granule, serial, lacing, body, end };
        Ok((end <= window.len()).then_some(page))
    }

    /// Where its parts of packets begin, how long they are, and whether the packet ends there.
    fn parts(&self) -> Vec<(u64, u64, bool)> {
        let (mut at, mut len, mut parts) = (self.body, 0, Vec::new());
        for lace in &self.lacing {
            len += u64::from(*lace);
            if *lace < 255 {
                parts.push((at, len, true));
                (at, len) = (at + len, 0);
            }
        }
        if len > 0 {
            parts.push((at, len, false));
        }
        parts
    }
}

/// Samples of a packet at 48 kHz, by its first two bytes (RFC 6716, 3.1).
fn packet_samples(first: u8, second: u8) -> u64 {
    let config = first >> 3;
    let of = |lengths: &[u64]| {
        let index = usize::from(config) & (lengths.len() - 1);
        lengths.get(index).copied().unwrap_or(0)
    };
    let frame = match config {
        0..12 => of(&[480, 960, 1920, 2880]),
        12..16 => of(&[480, 960]),
        _ => of(&[120, 240, 480, 960]),
    };
    let frames = match first & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u64::from(second & 63),
    };
    let samples = frame * frames;
    if samples > PACKET_MAX { 0 } else { samples }
}

/// The rate to decode to: what it was encoded from needs no more.
fn rate_for(original: u32) -> u32 {
    let rates = [8_000, 12_000, 16_000, 24_000];
    rates.into_iter().find(|rate| (1..=*rate).contains(&original)).unwrap_or(RATE)
}

/// What a file is, by all of its packets.
pub(super) fn parse<E>(window: &mut Window<'_, E>) -> Result<Result<Audio, NotAudio>, E> {
    let no = |why: &str| Ok(Err(NotAudio(why.to_owned())));
    if window.len() > BYTES_MAX {
        return no("it is an Ogg file of more than 1 GiB");
    }
    let Some(first) = Page::at(window, 0)? else { return no("its first Ogg page is damaged") };
    let Some(head) = window.take::<19>(first.body)?.filter(|head| head.starts_with(b"OpusHead"))
    else {
        return no("it is an Ogg file, but not of Opus");
    };
    let [.., version, channels, skip_a, skip_b, a, b, c, d, gain_a, gain_b, family] = head;
    if version & 0xf0 != 0 || family != 0 || !(1..=2).contains(&channels) {
        return no("it is an Opus file of a kind that is not known here");
    }
    let skip = u64::from(u16::from_le_bytes([skip_a, skip_b]));
    let gain = i16::from_le_bytes([gain_a, gain_b]);
    let rate = rate_for(u32::from_le_bytes([a, b, c, d]));
    let of_rate = |samples: u64| samples * u64::from(rate) / u64::from(RATE);
    // A second is more than the 80 ms that are asked for.
    let mut frames = Frames::new(rate, u64::from(rate));
    let (mut at, mut titles, mut granule, mut begin) = (first.end, true, 0, None);
    while let Some(page) = Page::at(window, at)? {
        let here = at;
        at = page.end;
        if page.serial != first.serial {
            continue;
        }
        if titles {
            // The next packet begins on a page of its own.
            titles = page.lacing.iter().all(|lace| *lace == 255);
            continue;
        }
        let parts = page.parts();
        let fresh = parts.iter().skip(usize::from(page.continued));
        let mut samples = 0;
        for (byte, len, _) in fresh.filter(|(_, len, _)| *len > 0) {
            let [first] = window.take::<1>(*byte)?.unwrap_or_default();
            let second =
                if *len > 1 { window.take::<1>(byte + 1)?.unwrap_or_default() } else { [0] };
            samples += of_rate(packet_samples(first, second[0]));
        }
        begin.get_or_insert(here);
        granule = page.granule;
        frames.add(here, samples, !page.continued);
    }
    let skip = of_rate(skip);
    let told = Some(of_rate(granule)).filter(|told| (skip..=frames.total()).contains(told));
    let samples = told.unwrap_or(frames.total()).saturating_sub(skip);
    let Some(begin) = begin.filter(|_| samples > 0) else { return no("it has no sound") };
    let Some(frames) = frames.done(at, skip) else { return no("its pages are far apart") };
    let (coding, frames) = (Coding::Opus { gain }, Some(Box::new(frames)));
    Ok(Ok(Audio { coding, rate, channels: 1, at: begin, samples, frames }))
}

/// The samples of the packets that begin in these bytes; silence for those that can not be decoded.
pub(super) fn decode(audio: &Audio, gain: i16, span: &Span, bytes: &Bytes) -> Vec<i16> {
    let mut out = Vec::new();
    let Some(mut decoder) = Decoder::new(audio.rate, gain) else { return out };
    let mut read = |at: u64, len: usize| {
        let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        Ok::<_, Infallible>(bytes.slice(from..from.saturating_add(len).min(bytes.len())))
    };
    let mut window = Window::new(bytes.len() as u64, &mut read);
    let mut heard = vec![0; PACKET_MAX as usize];
    let (mut at, mut packet, mut serial) = (0, Vec::new(), None);
    while let Ok(Some(page)) = Page::at(&mut window, at) {
        at = page.end;
        if *serial.get_or_insert(page.serial) != page.serial || out.len() >= span.decoded() {
            continue;
        }
        let parts = page.parts();
        for (index, (byte, len, ends)) in parts.into_iter().enumerate() {
            if !(page.continued && index == 0) {
                packet.clear();
            } else if packet.is_empty() {
                // Its beginning is missing.
                continue;
            }
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
            packet.extend_from_slice(bytes.get(place(byte)..place(byte + len)).unwrap_or(&[]));
            if !ends {
                continue;
            }
            let second = packet.get(1).copied().unwrap_or(0);
            let samples = packet.first().map_or(0, |first| packet_samples(*first, second));
            let samples = samples * u64::from(audio.rate) / u64::from(RATE);
            let made = decoder.decode(&packet, &mut heard);
            let before = out.len();
            out.extend_from_slice(heard.get(..made).unwrap_or(&[]));
            out.resize(before + usize::try_from(samples).unwrap_or(0), 0);
            packet.clear();
        }
    }
    out
}
