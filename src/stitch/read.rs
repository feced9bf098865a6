//! Bytes of a join, from any position on.

use super::plan::{Form, Leg, Placed, Plan, Side};
use super::{Result, StitchError};
use crate::codec::{self, Resampler};
use crate::recording::ErrorClass;
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::OnceLock;

/// Samples decoded at a time, of each channel.
const AT_ONCE: u64 = 32_768;

/// Where the bytes of legs come from.
pub trait LegReader {
    /// Bytes of a leg of the plan; fewer than asked for only where it ends.
    ///
    /// # Errors
    /// If they can not be had, or are not what they were when the plan was made.
    fn read(&self, leg: usize, offset: u64, len: usize) -> Result<Bytes>;
}

/// A plan, ready to be read.
#[derive(Debug)]
pub struct Join {
    plan: Plan,
    /// By the rate of legs. Made when it is read first: most are only looked at.
    filters: OnceLock<HashMap<u32, Resampler>>,
}

impl Join {
    /// A plan, ready to be read.
    pub fn new(plan: Plan) -> Join {
        Join { plan, filters: OnceLock::new() }
    }

    fn filter(&self, from: u32) -> Option<&Resampler> {
        let make = || {
            let Form::Mixed { rate, .. } = self.plan.form else { return HashMap::new() };
            let rates = self.plan.legs.iter().filter_map(|l| Some(l.audio.as_ref().ok()?.rate));
            // Each once: legs mostly have one rate.
            let rates: HashSet<u32> = rates.collect();
            rates.into_iter().filter_map(|from| Some((from, Resampler::new(from, rate)?))).collect()
        };
        self.filters.get_or_init(make).get(&from)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes from a position on; fewer only at the end. Asks for the bytes that are needed and no
    /// others: of a released leg, the parts that hold them.
    ///
    /// # Errors
    /// What `legs` fails with; corrupt if a leg is shorter than it was.
    pub fn read(&self, legs: &dyn LegReader, offset: u64, len: usize) -> Result<Bytes> {
        let plan = &self.plan;
        let end = offset.saturating_add(len as u64).min(plan.len());
        if offset >= end {
            return Ok(Bytes::new());
        }
        let mut out = BytesMut::with_capacity(usize::try_from(end - offset).unwrap_or(0));
        let header = plan.header.len() as u64;
        let part = |range: Range<u64>| {
            let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            plan.header.get(at(range.start)..at(range.end)).unwrap_or(&[])
        };
        out.extend_from_slice(part(offset.min(header)..end.min(header)));
        let within = |n: u64| n.saturating_sub(header).min(plan.data);
        let data = within(offset)..within(end);
        match plan.form {
            Form::Mapped { .. } => self.copy(legs, data, &mut out)?,
            Form::Mixed { rate: _, channels } => self.mix(legs, data, channels, &mut out)?,
        }
        // What makes an odd number of bytes even.
        out.resize(usize::try_from(end - offset).unwrap_or(0), 0);
        Ok(out.freeze())
    }

    fn copy(&self, legs: &dyn LegReader, data: Range<u64>, out: &mut BytesMut) -> Result<()> {
        let frame = self.plan.form.frame();
        for placed in &self.plan.placed {
            let start = placed.at.saturating_mul(frame);
            let end = start.saturating_add(placed.samples.saturating_mul(frame));
            let wanted = data.start.max(start)..data.end.min(end);
            let Some((leg, audio)) = self.leg(placed).filter(|_| !wanted.is_empty()) else {
                continue;
            };
            let len = usize::try_from(wanted.end - wanted.start).unwrap_or(usize::MAX);
            let bytes = legs.read(placed.leg, audio.at + wanted.start - start, len)?;
            if bytes.len() != len {
                return Err(shorter(leg));
            }
            out.extend_from_slice(&bytes);
        }
        Ok(())
    }

    fn mix(
        &self,
        legs: &dyn LegReader,
        data: Range<u64>,
        channels: u16,
        out: &mut BytesMut,
    ) -> Result<()> {
        let frame = self.plan.form.frame();
        let mut at = data.start / frame;
        let end = data.end.div_ceil(frame);
        while at < end {
            let part = at..end.min(at + AT_ONCE);
            let samples = self.mixed(legs, part.clone(), usize::from(channels))?;
            let bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
            let inside = |n: u64| {
                let n = n.saturating_sub(part.start * frame);
                usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len())
            };
            let wanted = inside(data.start)..inside(data.end);
            out.extend_from_slice(bytes.get(wanted).unwrap_or(&[]));
            at = part.end;
        }
        Ok(())
    }

    /// Samples of all channels, each the sum of what is heard at its time.
    fn mixed(&self, legs: &dyn LegReader, part: Range<u64>, channels: usize) -> Result<Vec<i16>> {
        let len = usize::try_from(part.end - part.start).unwrap_or(0);
        let mut sum = vec![0i32; len * channels];
        for placed in &self.plan.placed {
            let start = part.start.max(placed.at);
            let end = part.end.min(placed.at.saturating_add(placed.samples));
            let Some((leg, _)) = self.leg(placed).filter(|_| start < end) else { continue };
            let samples = self.heard(legs, placed, start - placed.at..end - placed.at)?;
            let skip = usize::try_from(start - part.start).unwrap_or(usize::MAX);
            for (frame, sample) in sum.chunks_exact_mut(channels).skip(skip).zip(samples) {
                let heard = match (leg.side, frame) {
                    (Some(Side::Caller), [left, _]) => std::slice::from_mut(left),
                    (Some(Side::Agent), [_, right]) => std::slice::from_mut(right),
                    (_, both) => both,
                };
                heard.iter_mut().for_each(|s| *s += i32::from(sample));
            }
        }
        let clamp = |s: i32| s.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
        Ok(sum.into_iter().map(clamp).collect())
    }

    /// Samples of a leg at the rate of the join.
    fn heard(&self, legs: &dyn LegReader, placed: &Placed, part: Range<u64>) -> Result<Vec<i16>> {
        let Some((leg, audio)) = self.leg(placed) else { return Ok(Vec::new()) };
        let Some(filter) = self.filter(audio.rate) else { return Ok(Vec::new()) };
        let needs = filter.needs(&part, audio.samples);
        let mut read = |offset, len| legs.read(placed.leg, offset, len);
        let samples = codec::decode(audio, needs.clone(), &mut read)?;
        if samples.len() as u64 != needs.end - needs.start {
            return Err(shorter(leg));
        }
        Ok(filter.run(part, &samples, needs.start))
    }

    fn leg(&self, placed: &Placed) -> Option<(&Leg, &codec::Audio)> {
        let leg = self.plan.legs.get(placed.leg)?;
        Some((leg, leg.audio.as_ref().ok()?))
    }
}

fn shorter(leg: &Leg) -> StitchError {
    StitchError {
        leg: leg.path.clone(),
        detail: "it is shorter than when the join was opened; open the join again".to_owned(),
        class: ErrorClass::Corrupt,
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Options;
    use super::*;
    use crate::clock::Timestamp;
    use crate::codec::{Audio, Coding};
    use crate::recording::NodeId;

    struct Silence;

    impl LegReader for Silence {
        fn read(&self, _: usize, _: u64, len: usize) -> Result<Bytes> {
            Ok(vec![0; len].into())
        }
    }

    #[test]
    fn regression_a_join_that_is_only_looked_at_makes_no_filter() {
        let leg = |rate| {
            let coding = Coding::Pcm16;
            let audio = Audio { coding, rate, channels: 1, at: 44, samples: 9_000, frames: None };
            Leg {
                node: NodeId(rate.into()),
                path: String::new(),
                size: 18_044,
                mtime: Timestamp(1),
                start: None,
                side: None,
                audio: Ok(audio),
            }
        };
        let legs = vec![leg(44_100), leg(16_000), leg(44_100)];
        let join = Join::new(Plan::new(legs, &Options::default()));
        assert!(join.filters.get().is_none());
        assert_eq!(join.read(&Silence, 0, 1 << 20).unwrap().len() as u64, join.plan().len());
        assert_eq!(join.filters.get().unwrap().len(), 2);
    }
}
