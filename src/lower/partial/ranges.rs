//! Sets of bytes of a file.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that neither touch nor overlap, by their beginnings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::lower) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// The first `len` bytes.
    pub fn all(len: u64) -> Ranges {
        let mut all = Ranges::default();
        all.insert(0..len);
        all
    }

    /// Adds a range; tells whether any byte of it was not in the set.
    pub fn insert(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() || self.covers(&range) {
            return false;
        }
        let (mut start, mut end) = (range.start, range.end);
        // Those that touch it become one with it.
        while let Some((&s, &e)) = self.0.range(..=end).next_back().filter(|(_, e)| **e >= start) {
            self.0.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.0.insert(start, end);
        true
    }

    /// Whether all of it is in the set.
    pub fn covers(&self, range: &Range<u64>) -> bool {
        let before = self.0.range(..=range.start).next_back();
        range.is_empty() || before.is_some_and(|(_, end)| *end >= range.end)
    }

    /// What of a range is not in the set, in order.
    pub fn gaps(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let before = self.0.range(..=range.start).next_back().map(|(_, end)| *end);
        at = at.max(before.unwrap_or(at));
        for (start, end) in self.0.range(range.start..range.end.max(range.start)) {
            if *start > at {
                gaps.push(at..*start);
            }
            at = at.max(*end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Takes away what lies at or beyond `end`.
    pub fn clip(&mut self, end: u64) {
        self.0.split_off(&end);
        if let Some(mut last) = self.0.last_entry() {
            let clipped = (*last.get()).min(end);
            *last.get_mut() = clipped;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(start, end)| *start..*end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(ranges: &Ranges, len: u64) -> Vec<bool> {
        (0..len).map(|at| ranges.covers(&(at..at + 1))).collect()
    }

    #[test]
    fn a_set_of_ranges_is_what_a_set_of_bytes_would_be() {
        const LEN: u64 = 64;
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut ranges, mut bytes) = (Ranges::default(), vec![false; LEN as usize]);
            for _ in 0..40 {
                let start = rng.u64(..LEN);
                let end = rng.u64(start..=LEN);
                let at = start as usize..end as usize;
                if rng.u8(..8) == 0 {
                    ranges.clip(start);
                    bytes[start as usize..].fill(false);
                } else {
                    let new = bytes[at.clone()].iter().any(|set| !set);
                    assert_eq!(ranges.insert(start..end), new, "seed {seed}");
                    bytes[at.clone()].fill(true);
                }
                assert_eq!(bits(&ranges, LEN), bytes, "seed {seed}");
                let (from, to) = (rng.u64(..LEN), rng.u64(..=LEN));
                let mut missing = vec![false; LEN as usize];
                for gap in ranges.gaps(from..to) {
                    assert!(!gap.is_empty());
                    missing[gap.start as usize..gap.end as usize].fill(true);
                }
                let wanted = |at: u64| (from..to).contains(&at) && !bytes[at as usize];
                assert_eq!(missing, (0..LEN).map(wanted).collect::<Vec<_>>(), "seed {seed}");
                let sorted: Vec<_> = ranges.iter().collect();
                assert!(sorted.windows(2).all(|w| w[0].end < w[1].start), "seed {seed}");
            }
        }
    }
}
