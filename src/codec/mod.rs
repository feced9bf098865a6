//! What the bytes of a recording mean: its format, where its samples are, how many, and the
//! samples themselves from any position on. Pure: bytes in, values out.
//!
//! **Invariant:** nothing here trusts a header. Whatever the bytes are, there is no panic, no read
//! beyond the length given, and no memory beyond what the caller asked samples for.
//! docs/STITCHED.md lists the formats.

mod block;
pub mod flac;
mod g711;
mod g722;
mod mp3;
mod ogg;
mod packed;
mod resample;
pub mod seal;
mod stored;
mod wav;

pub use block::decode;
pub use packed::Frames;
pub use resample::{Resampler, resampled};
pub use stored::{Restorer, Unreadable, restored, stored_range};
pub use wav::header as wav_header;

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Sampling rates that are believed, in Hz.
pub const RATES: Range<u32> = 1_000..384_001;
/// Channels that are believed.
pub const CHANNELS_MAX: u16 = 8;

/// How samples are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// Unsigned 8 bit.
    Pcm8,
    /// Signed 16 bit, little endian, as are the next two.
    Pcm16,
    /// Signed 24 bit.
    Pcm24,
    /// Signed 32 bit.
    Pcm32,
    /// G.711 mu-law.
    Ulaw,
    /// G.711 A-law.
    Alaw,
    /// GSM 06.10 full rate in frames of 33 bytes.
    Gsm,
    /// GSM 06.10 as Microsoft packs it: two frames in 65 bytes.
    Wav49,
    /// G.722 at 64 kbit/s: two samples of 16 kHz in an octet.
    G722,
    /// MPEG audio layer III.
    Mp3,
    /// Opus in Ogg, decoded to one channel of the rate that `Audio` says.
    Opus {
        /// How much louder it is to be made, in 256ths of a decibel.
        gain: i16,
    },
}

impl Coding {
    /// Bytes of the smallest part that can be decoded, for one channel; 1 where that is not the same
    /// everywhere.
    pub fn block_bytes(self) -> u64 {
        match self {
            Coding::Pcm8 | Coding::Ulaw | Coding::Alaw => 1,
            Coding::G722 | Coding::Mp3 | Coding::Opus { .. } => 1,
            Coding::Pcm16 => 2,
            Coding::Pcm24 => 3,
            Coding::Pcm32 => 4,
            Coding::Gsm => 33,
            Coding::Wav49 => 65,
        }
    }

    /// Samples in it.
    pub fn block_samples(self) -> u64 {
        match self {
            Coding::Gsm => 160,
            Coding::Wav49 => 320,
            Coding::G722 => 2,
            _ => 1,
        }
    }

    /// Whether each sample stands by itself, uncompressed.
    pub fn is_pcm(self) -> bool {
        matches!(self, Coding::Pcm8 | Coding::Pcm16 | Coding::Pcm24 | Coding::Pcm32)
    }
}

/// What a recording is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Audio {
    /// How samples are written down.
    pub coding: Coding,
    /// Samples of each channel in a second.
    pub rate: u32,
    /// Channels, interleaved.
    pub channels: u16,
    /// Where the first block begins in the file, in bytes.
    pub at: u64,
    /// Samples of each channel.
    pub samples: u64,
    /// Where they are, if that can not be reckoned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<Box<Frames>>,
}

/// Why a file is not taken for audio. The text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAudio(pub String);

/// Reads up to so many bytes from an offset on; fewer only at the end of the file.
pub type ReadAt<'a, E> = &'a mut dyn FnMut(u64, usize) -> Result<bytes::Bytes, E>;

/// What the file of this name and length is, by its header; by its suffix where the format has
/// none (`.sln16`, `.ulaw`, `.gsm`). Reads some hundred bytes, 4 KiB at a time; of an MP3 or Opus file
/// all of it.
///
/// # Errors
/// What `read` fails with.
pub fn probe<E>(name: &[u8], len: u64, read: ReadAt<'_, E>) -> Result<Result<Audio, NotAudio>, E> {
    let mut window = wav::Window::new(len, read);
    if len == 0 {
        return Ok(Err(NotAudio("it is empty".to_owned())));
    }
    if let Some(magic) = window.take::<12>(0)? {
        match &magic {
            [b'R', b'I', b'F', b'F' | b'X', ..] | [b'R', b'F', b'6', b'4', ..] => {
                return wav::parse(&magic, &mut window);
            }
            [b'O', b'g', b'g', b'S', ..] => {
                window.read_far();
                return ogg::parse(&mut window);
            }
            _ => {}
        }
    }
    if suffix(name).eq_ignore_ascii_case("mp3") {
        window.read_far();
        return mp3::parse(&mut window);
    }
    Ok(raw(name, len))
}

fn suffix(name: &[u8]) -> String {
    let suffix = name.iter().rposition(|b| *b == b'.').and_then(|at| name.get(at + 1..));
    suffix.map(String::from_utf8_lossy).unwrap_or_default().into_owned()
}

/// A file without a header, by its suffix. Asterisk's names: format_sln.c, format_pcm.c,
/// format_gsm.c. Case counts: `.WAV` is not `.wav`.
fn raw(name: &[u8], len: u64) -> Result<Audio, NotAudio> {
    let suffix = suffix(name);
    let kind = match &*suffix {
        "sln" | "raw" => (Coding::Pcm16, 8_000),
        "sln12" => (Coding::Pcm16, 12_000),
        "sln16" => (Coding::Pcm16, 16_000),
        "sln24" => (Coding::Pcm16, 24_000),
        "sln32" => (Coding::Pcm16, 32_000),
        "sln44" => (Coding::Pcm16, 44_100),
        "sln48" => (Coding::Pcm16, 48_000),
        "sln96" => (Coding::Pcm16, 96_000),
        "sln192" => (Coding::Pcm16, 192_000),
        "ulaw" | "ul" | "mu" | "ulw" | "pcm" => (Coding::Ulaw, 8_000),
        "alaw" | "al" | "alw" => (Coding::Alaw, 8_000),
        "gsm" => (Coding::Gsm, 8_000),
        "g722" => (Coding::G722, 16_000),
        "wav" | "WAV" | "wav16" | "wav49" => {
            return Err(NotAudio("it does not begin with RIFF".to_owned()));
        }
        other => {
            return Err(NotAudio(format!("the suffix \"{other}\" means no format known here")));
        }
    };
    let (coding, rate) = kind;
    let samples = len / coding.block_bytes() * coding.block_samples();
    Ok(Audio { coding, rate, channels: 1, at: 0, samples, frames: None })
}

impl Audio {
    /// Bytes of a block of all channels.
    pub fn block_bytes(&self) -> u64 {
        self.coding.block_bytes() * u64::from(self.channels)
    }

    /// Nanoseconds it lasts.
    pub fn nanos(&self) -> u64 {
        let nanos = u128::from(self.samples) * 1_000_000_000 / u128::from(self.rate.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
