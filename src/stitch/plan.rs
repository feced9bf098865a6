//! What a join is made of, decided once.

use crate::clock::Timestamp;
use crate::codec::{self, Audio, Coding};
use crate::recording::{NodeId, Sha256};
use serde::{Deserialize, Serialize};

/// Legs that begin later than this after the first are taken for undated: a clock was wrong.
const SPAN_MAX: i64 = 24 * 3600 * 1_000_000_000;
/// The highest rate that a join gets by itself.
const HIGHEST: u32 = 48_000;

/// How legs become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One behind the other.
    #[default]
    Concat,
    /// Each at its time, with silence between, mixed where they overlap.
    Timeline,
    /// As `Timeline`, the caller's on the left and the agent's on the right.
    Stereo,
}

/// The rate of a join whose legs have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rate {
    /// This one.
    Fixed(u32),
    /// The highest of its legs.
    Highest,
}

impl Default for Rate {
    fn default() -> Rate {
        Rate::Fixed(8_000)
    }
}

/// What becomes of a join of more than 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LargeFiles {
    /// It is RF64.
    #[default]
    Rf64,
    /// It can not be opened.
    Refuse,
}

/// How joins are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Options {
    /// How legs become one.
    pub layout: Layout,
    /// The rate of a join whose legs have several, or must be decoded.
    pub rate: Rate,
    /// Beyond 4 GiB.
    pub large: LargeFiles,
}

/// Whose voice a leg has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// That of who called.
    Caller,
    /// That of who was called: the agent's, of a call that comes in.
    Agent,
}

/// A recording that belongs to a call, as it was when the plan was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Identity.
    pub node: NodeId,
    /// Its path, relative to the mount: for messages.
    pub path: String,
    /// Its length in bytes then.
    pub size: u64,
    /// Its last change then.
    pub mtime: Timestamp,
    /// When its audio begins.
    pub start: Option<Timestamp>,
    /// Whose voice it has.
    pub side: Option<Side>,
    /// What it is, or why it can not be used.
    pub audio: Result<Audio, String>,
}

/// How a join is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Byte ranges of the legs as they are.
    Mapped {
        /// How their samples are written down.
        coding: Coding,
        /// Their rate.
        rate: u32,
        /// Their channels.
        channels: u16,
    },
    /// 16-bit samples, decoded, brought to one rate and added.
    Mixed {
        /// The rate.
        rate: u32,
        /// One, or two for `Stereo`.
        channels: u16,
    },
}

impl Form {
    /// Samples of each channel in a second.
    pub fn rate(self) -> u32 {
        match self {
            Form::Mapped { rate, .. } | Form::Mixed { rate, .. } => rate,
        }
    }

    fn channels(self) -> u16 {
        match self {
            Form::Mapped { channels, .. } | Form::Mixed { channels, .. } => channels,
        }
    }

    fn coding(self) -> Coding {
        match self {
            Form::Mapped { coding, .. } => coding,
            Form::Mixed { .. } => Coding::Pcm16,
        }
    }

    /// Bytes of a sample of all channels.
    pub fn frame(self) -> u64 {
        self.coding().block_bytes() * u64::from(self.channels())
    }
}

/// A leg in its place, in samples of the join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Which of the legs.
    pub leg: usize,
    /// Where it begins.
    pub at: u64,
    /// How long it is there.
    pub samples: u64,
}

/// A join, decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// All legs, in the order of their time.
    pub legs: Vec<Leg>,
    /// How they are put together.
    pub form: Form,
    /// Those that are heard.
    pub placed: Vec<Placed>,
    /// The WAV header.
    pub header: Vec<u8>,
    /// Bytes of samples.
    pub data: u64,
    /// It is beyond what its file may be.
    pub too_large: bool,
}

impl Plan {
    /// Decides on a join of these legs, which are in the order of their time.
    pub fn new(mut legs: Vec<Leg>, options: &Options) -> Plan {
        let heard = |side: Side| legs.iter().any(|l| l.audio.is_ok() && l.side == Some(side));
        let layout = match options.layout {
            // Else one ear would hear nothing.
            Layout::Stereo if !heard(Side::Caller) || !heard(Side::Agent) => Layout::Timeline,
            layout => layout,
        };
        if layout != Layout::Stereo {
            // What does not count must not make it another join.
            legs.iter_mut().for_each(|leg| leg.side = None);
        }
        let form = mapped(&legs).filter(|_| layout == Layout::Concat).unwrap_or_else(|| {
            let rates = legs.iter().filter_map(|l| l.audio.as_ref().ok()).map(|a| a.rate);
            let rate = match options.rate {
                Rate::Fixed(rate) => rate,
                Rate::Highest => rates.max().unwrap_or(8_000).min(HIGHEST),
            };
            Form::Mixed { rate, channels: if layout == Layout::Stereo { 2 } else { 1 } }
        });
        let placed = place(&mut legs, layout, form.rate());
        let samples = placed.iter().map(|p| p.at.saturating_add(p.samples)).max().unwrap_or(0);
        // Kept below what a position in a file can say.
        let data = samples.saturating_mul(form.frame()).min(i64::MAX as u64 / 2);
        let header = codec::wav_header(form.coding(), form.rate(), form.channels(), data);
        let large = header.starts_with(b"RF64");
        let too_large = large && options.large == LargeFiles::Refuse;
        Plan { legs, form, placed, header, data, too_large }
    }

    /// Length of the file.
    pub fn len(&self) -> u64 {
        self.header.len() as u64 + self.data + (self.data & 1)
    }

    /// Whether nothing is heard.
    pub fn is_empty(&self) -> bool {
        self.data == 0
    }

    /// The last change of any of its legs.
    pub fn mtime(&self) -> Timestamp {
        self.legs.iter().map(|l| l.mtime).max().unwrap_or_default()
    }

    /// Tells it from every other join, and from itself after a leg changed. Names of legs do not
    /// count, nor where they are.
    pub fn digest(&self) -> u64 {
        let legs = self.legs.iter().map(|l| (l.node, l.size, l.mtime, l.side, &l.audio));
        let what = (legs.collect::<Vec<_>>(), self.form, &self.placed, self.too_large);
        // These types have nothing that JSON can not say.
        let bytes = serde_json::to_vec(&what).unwrap_or_default();
        Sha256::of(&bytes).0.first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
    }
}

/// The one form that all legs have that can be used, if it is PCM.
fn mapped(legs: &[Leg]) -> Option<Form> {
    let mut usable = legs.iter().filter_map(|l| l.audio.as_ref().ok());
    let first = usable.next().filter(|a| a.coding.is_pcm())?;
    let same =
        |a: &Audio| (a.coding, a.rate, a.channels) == (first.coding, first.rate, first.channels);
    let Audio { coding, rate, channels, .. } = *first;
    usable.all(same).then_some(Form::Mapped { coding, rate, channels })
}

/// Places the legs that can be used. What has no time begins where the one before it ends.
fn place(legs: &mut [Leg], layout: Layout, rate: u32) -> Vec<Placed> {
    let first = legs.iter().filter(|l| l.audio.is_ok()).find_map(|l| l.start);
    let (mut placed, mut end) = (Vec::new(), 0u64);
    for (index, leg) in legs.iter_mut().enumerate() {
        let Ok(audio) = &leg.audio else { continue };
        let Some(samples) = codec::resampled(audio.samples, audio.rate, rate) else {
            leg.audio = Err(format!("{} samples a second can not be made {rate}", audio.rate));
            continue;
        };
        let since = first.zip(leg.start).map(|(first, start)| start.0.saturating_sub(first.0));
        let at = match since.filter(|s| layout != Layout::Concat && (0..SPAN_MAX).contains(s)) {
            Some(nanos) => offset(nanos, rate),
            None => end,
        };
        placed.push(Placed { leg: index, at, samples });
        end = at.saturating_add(samples);
    }
    placed
}

/// The sample at this time, of not more than a day.
fn offset(nanos: i64, rate: u32) -> u64 {
    let sample = i128::from(nanos) * i128::from(rate) / 1_000_000_000;
    u64::try_from(sample).unwrap_or(0)
}
