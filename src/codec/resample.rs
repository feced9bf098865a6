//! Another sampling rate, exactly the same way from any position on.
//!
//! A windowed sinc in whole numbers: each sample that comes out is a sum over a fixed stretch of
//! those that go in, so it does not matter where reading began, nor on which processor it runs.
//! (Resamplers made for streams remember what they saw, and those that use a processor's vector
//! instructions round differently from one to the next.)

use std::f64::consts::PI;
use std::ops::Range;

/// Zeros of the sinc on either side: how steep the filter is.
const ZEROS: f64 = 16.0;
/// Shape of the window: about 80 dB down.
const KAISER: f64 = 8.0;
/// Where the filter begins to close, as a part of half the lower rate.
const PASS: f64 = 0.92;
/// Unity.
const ONE: i64 = 1 << 18;
/// Largest numerator of the ratio: every rate in use has less, and the table stays small.
const PHASES_MAX: u64 = 640;

/// A filter from one rate to another.
#[derive(Clone, Debug)]
pub struct Resampler {
    /// `up` samples come out for `down` that go in.
    up: u64,
    down: u64,
    /// Samples that go into one, on either side of it.
    half: u64,
    /// For each position between two samples, the weight of each.
    weights: Vec<i32>,
}

/// How many samples come out of so many; none if the rates have no ratio that is done here.
pub fn resampled(samples: u64, from: u32, to: u32) -> Option<u64> {
    let (up, down) = ratio(from, to)?;
    let out = u128::from(samples) * u128::from(up) + u128::from(down / 2);
    u64::try_from(out / u128::from(down)).ok()
}

fn ratio(from: u32, to: u32) -> Option<(u64, u64)> {
    let (mut a, mut b) = (u64::from(from), u64::from(to));
    if a == 0 || b == 0 {
        return None;
    }
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let (up, down) = (u64::from(to) / a, u64::from(from) / a);
    // Also what is the same rate, or nearly.
    (up <= PHASES_MAX && down <= up.saturating_mul(64)).then_some((up, down))
}

impl Resampler {
    /// A filter; none if the rates have no ratio that is done here.
    pub fn new(from: u32, to: u32) -> Option<Resampler> {
        let (up, down) = ratio(from, to)?;
        if up == down {
            return Some(Resampler { up: 1, down: 1, half: 0, weights: Vec::new() });
        }
        // Of half the rate that goes in: where the filter closes.
        let cut = PASS * (up as f64 / down as f64).min(1.0);
        let half = (ZEROS / cut).ceil() as u64;
        let mut weights = Vec::with_capacity((up * 2 * half) as usize);
        for phase in 0..up {
            let fraction = phase as f64 / up as f64;
            let exact: Vec<f64> = (0..2 * half)
                .map(|tap| weight(tap as f64 - (half as f64 - 1.0) - fraction, half as f64, cut))
                .collect();
            let sum: f64 = exact.iter().sum();
            let mut rounded: Vec<i32> =
                exact.iter().map(|w| (w / sum * ONE as f64).round() as i32).collect();
            // What rounding left over goes where it is heard least: to the largest.
            let rest = ONE - rounded.iter().map(|w| i64::from(*w)).sum::<i64>();
            if let Some(largest) = rounded.iter_mut().max_by_key(|w| w.unsigned_abs()) {
                *largest += rest as i32;
            }
            weights.extend(rounded);
        }
        Some(Resampler { up, down, half, weights })
    }

    /// Which samples must be known for these to come out, of so many that there are.
    pub fn needs(&self, out: &Range<u64>, there: u64) -> Range<u64> {
        if out.is_empty() {
            return 0..0;
        }
        let first = self.place(out.start).0.saturating_add(1).saturating_sub(self.half);
        let last = self.place(out.end - 1).0.saturating_add(self.half);
        if self.half == 0 {
            out.start.min(there)..out.end.min(there)
        } else {
            first.min(there)..last.saturating_add(1).min(there)
        }
    }

    /// The sample before the place of one that comes out, and how far it is behind it.
    fn place(&self, out: u64) -> (u64, u64) {
        let at = u128::from(out) * u128::from(self.down);
        let up = u128::from(self.up);
        // The remainder is less than `up`; a quotient beyond 64 bits is no sample of any file.
        (u64::try_from(at / up).unwrap_or(u64::MAX), (at % up) as u64)
    }

    /// These samples, from those that `needs` names. What is not there is silence.
    pub fn run(&self, out: Range<u64>, input: &[i16], input_at: u64) -> Vec<i16> {
        if self.half == 0 {
            let skip = usize::try_from(out.start.saturating_sub(input_at)).unwrap_or(usize::MAX);
            let len = usize::try_from(out.end - out.start).unwrap_or(usize::MAX);
            return input.iter().skip(skip).take(len).copied().collect();
        }
        let taps = 2 * self.half as usize;
        let one = |n: u64| {
            let (before, phase) = self.place(n);
            let weights = self.weights.chunks_exact(taps).nth(phase as usize).unwrap_or(&[]);
            // Signed: the first samples reach back before the beginning.
            let first = before as i64 + 1 - self.half as i64 - input_at as i64;
            let skip = usize::try_from(-first).unwrap_or(0);
            let from = usize::try_from(first).unwrap_or(0);
            let heard = input.get(from..).unwrap_or(&[]);
            let sum: i64 = weights
                .iter()
                .skip(skip)
                .zip(heard)
                .map(|(w, s)| i64::from(*w) * i64::from(*s))
                .sum();
            let rounded = (sum + ONE / 2).div_euclid(ONE);
            rounded.clamp(i16::MIN.into(), i16::MAX.into()) as i16
        };
        out.map(one).collect()
    }
}

/// The windowed sinc, `at` samples from its middle.
fn weight(at: f64, half: f64, cut: f64) -> f64 {
    let inside = at / half;
    if inside.abs() >= 1.0 {
        return 0.0;
    }
    let angle = PI * at * cut;
    let sinc = if angle == 0.0 { 1.0 } else { angle.sin() / angle };
    sinc * bessel(KAISER * (1.0 - inside * inside).sqrt()) / bessel(KAISER)
}

/// The modified Bessel function of order zero.
fn bessel(x: f64) -> f64 {
    let (mut sum, mut term, mut n) = (1.0, 1.0, 1.0);
    while term > sum * 1e-16 {
        term *= (x / 2.0 / n) * (x / 2.0 / n);
        sum += term;
        n += 1.0;
    }
    sum
}
