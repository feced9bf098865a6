//! Where the samples of a recording are whose frames have no fixed length.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::ops::Range;

/// Seconds between two places that are noted.
const STRETCH: u64 = 10;

/// Most bytes that may have to be read for one sample.
const BYTES_MAX: u64 = 4 << 20;

/// Where about every ten seconds of a recording begin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frames {
    marks: Vec<Mark>,
    /// Where the last frame ends.
    end: u64,
    /// All samples.
    total: u64,
    /// Samples at the beginning that are left out.
    skip: u64,
    /// Where the last frames begin, and how many samples are before them.
    #[serde(skip)]
    recent: VecDeque<(u64, u64)>,
    /// How many samples there will be before the next mark, and how many are decoded before one.
    #[serde(skip)]
    due: u64,
    #[serde(skip)]
    before: u64,
    #[serde(skip)]
    stretch: u64,
}

/// A place from which on samples can be decoded without what comes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Mark {
    /// Where a decoder begins, in bytes, and how many samples it makes before its stretch.
    #[serde(rename = "f")]
    from: u64,
    #[serde(rename = "w")]
    before: u64,
    /// Where the stretch begins, in bytes and in samples.
    #[serde(rename = "b")]
    byte: u64,
    #[serde(rename = "s")]
    sample: u64,
}

/// What has to be decoded for some samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Bytes of the file.
    pub bytes: Range<u64>,
    /// Samples in them that come before those that are wanted.
    pub skip: u64,
    /// How many are wanted of what can be had from here.
    pub samples: u64,
}

impl Span {
    /// Samples to be decoded.
    pub fn decoded(&self) -> usize {
        usize::try_from(self.skip.saturating_add(self.samples)).unwrap_or(usize::MAX)
    }
}

impl Frames {
    /// Of a recording of this rate, whose decoder needs so many samples to get into its stride.
    pub(super) fn new(rate: u32, before: u64) -> Frames {
        let stretch = (u64::from(rate) * STRETCH).max(before);
        Frames { before, stretch, ..Frames::default() }
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The next frame begins here, and has so many samples. Whether a decoder can begin with it.
    pub(super) fn add(&mut self, byte: u64, samples: u64, entry: bool) {
        if entry {
            self.recent.push_back((byte, self.total));
            let far_enough = self.total.saturating_sub(self.before);
            while self.recent.get(1).is_some_and(|(_, sample)| *sample <= far_enough) {
                self.recent.pop_front();
            }
            if self.total >= self.due {
                let (from, sample) = self.recent.front().copied().unwrap_or((byte, self.total));
                let before = self.total - sample;
                self.marks.push(Mark { from, before, byte, sample: self.total });
                self.due = self.total + self.stretch;
            }
        }
        self.total += samples;
    }

    /// There are no more. None if they are so far apart that no encoder made them.
    pub(super) fn done(self, end: u64, skip: u64) -> Option<Frames> {
        let Frames { marks, total, .. } = self;
        let ends = marks.iter().skip(1).map(|next| next.byte).chain([end]);
        let wide = |(mark, end): (&Mark, u64)| end.saturating_sub(mark.from) > BYTES_MAX;
        let apart = marks.iter().zip(ends).any(wide);
        (!apart).then(|| Frames { marks, total, end, skip, ..Frames::default() })
    }

    /// What the first of these samples need, up to the end of the stretch that they are in.
    pub(super) fn span(&self, samples: &Range<u64>) -> Option<Span> {
        let from = samples.start.checked_add(self.skip)?;
        let index = self.marks.partition_point(|mark| mark.sample <= from).checked_sub(1)?;
        let mark = self.marks.get(index)?;
        let next = self.marks.get(index + 1);
        let last = next.map_or(self.total, |next| next.sample);
        let end = samples.end.checked_add(self.skip)?.min(last);
        let bytes = mark.from..next.map_or(self.end, |next| next.byte);
        let skip = mark.before.checked_add(from - mark.sample)?;
        let some = from < end && bytes.start < bytes.end;
        some.then_some(Span { bytes, skip, samples: end - from })
    }
}
