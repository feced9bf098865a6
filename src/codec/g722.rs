//! G.722 at 64 kbit/s, as ITU-T G.722 (09/2012) describes its decoder: two bands of 8 kHz, ADPCM of six
//! bits for the lower and two for the upper one, put together to 16 kHz. Names of the steps in
//! comments are the recommendation's.

/// Octets of a stretch of 20 ms, as other codecs have frames.
pub(super) const FRAME_BYTES: usize = 160;
/// Samples that an octet makes.
pub(super) const SAMPLES: usize = 2;

/// What the bits of the lower band mean, six and the upper four of them, and those of the upper
/// band: the sign and size of a difference, in units of the quantizer's step of 1/32768.
const QM6: [i32; 64] = [
    -136, -136, -136, -136, -24808, -21904, -19008, -16704, -14984, -13512, -12280, -11192, -10232,
    -9360, -8576, -7856, -7192, -6576, -6000, -5456, -4944, -4464, -4008, -3576, -3168, -2776,
    -2400, -2032, -1688, -1360, -1040, -728, 24808, 21904, 19008, 16704, 14984, 13512, 12280,
    11192, 10232, 9360, 8576, 7856, 7192, 6576, 6000, 5456, 4944, 4464, 4008, 3576, 3168, 2776,
    2400, 2032, 1688, 1360, 1040, 728, 432, 136, -432, -136,
];
const QM4: [i32; 16] = [
    0, -20456, -12896, -8968, -6288, -4240, -2584, -1200, 20456, 12896, 8968, 6288, 4240, 2584,
    1200, 0,
];
const QM2: [i32; 4] = [-7408, -1616, 7408, 1616];
/// How they change the logarithm of the step.
const WL: [i32; 16] =
    [-60, 3042, 1198, 538, 334, 172, 58, -30, 3042, 1198, 538, 334, 172, 58, -30, -60];
const WH: [i32; 4] = [798, -214, 798, -214];
/// 2048 times 2 to the power of n / 32.
const ILB: [i32; 32] = [
    2048, 2093, 2139, 2186, 2233, 2282, 2332, 2383, 2435, 2489, 2543, 2599, 2656, 2714, 2774, 2834,
    2896, 2960, 3025, 3091, 3158, 3228, 3298, 3371, 3444, 3520, 3597, 3676, 3756, 3838, 3922, 4008,
];
/// Every second coefficient of the filter that puts the bands together; the others are the same
/// from the other end.
const QMF: [i32; 12] = [3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11];

/// 16 bits.
fn sat(value: i32) -> i32 {
    value.clamp(-32_768, 32_767)
}

/// The product of two of 16 bits, of which one is a fraction.
fn scaled(a: i32, b: i32) -> i32 {
    (a * b) >> 15
}

fn of<const N: usize>(table: &[i32; N], index: usize) -> i32 {
    table.get(index).copied().unwrap_or(0)
}

/// What a band has been, to predict how it goes on.
#[derive(Clone, Copy, Debug)]
struct Band {
    /// The logarithm of the quantizer's step, and the step.
    log: i32,
    step: i32,
    /// Differences, the newest first, and what each counts.
    d: [i32; 6],
    b: [i32; 6],
    /// What was put together, the newest first, and what each counts.
    r: [i32; 2],
    a: [i32; 2],
    /// Signs of the last two differences with what the first six predicted.
    p: [i32; 2],
    /// What the six predict, and what all predict.
    sz: i32,
    s: i32,
}

impl Band {
    fn new(step: i32) -> Band {
        Band { log: 0, step, d: [0; 6], b: [0; 6], r: [0; 2], a: [0; 2], p: [1; 2], sz: 0, s: 0 }
    }

    /// LOGSCL and SCALEL, or LOGSCH and SCALEH: the next step, for which the logarithm changes so,
    /// up to `most`; `shift` says what unit the step has.
    fn rescale(&mut self, change: i32, most: i32, shift: i32) {
        self.log = (scaled(self.log, 32_512) + change).clamp(0, most);
        let fraction = usize::try_from(self.log >> 6 & 31).unwrap_or(0);
        let down = shift - (self.log >> 11);
        let whole = of(&ILB, fraction);
        let shifted = if down < 0 { whole << -down } else { whole >> down };
        self.step = shifted << 2;
    }

    /// RECONS to PREDIC: takes the newest difference, and predicts what comes next.
    fn adapt(&mut self, d: i32) {
        let r = sat(self.s + d);
        // Zero counts as positive.
        let sign = |value: i32| if value < 0 { -1 } else { 1 };
        let p = sign(sat(self.sz + d));
        let [p1, p2] = self.p;
        let [a1, a2] = self.a;
        // UPPOL2
        let swing = sat(a1 << 2);
        let swing = if p == p1 { sat(-swing) } else { swing };
        let step = if p == p2 { 128 } else { -128 };
        let next2 = (step + (swing >> 7) + scaled(a2, 32_512)).clamp(-12_288, 12_288);
        // UPPOL1
        let step = if p == p1 { 192 } else { -192 };
        let most = 15_360 - next2;
        let next1 = sat(step + scaled(a1, 32_640)).clamp(-most, most);
        // UPZERO
        for (b, before) in self.b.iter_mut().zip(self.d) {
            let step = match d {
                0 => 0,
                _ if sign(before) == sign(d) => 128,
                _ => -128,
            };
            *b = sat(step + scaled(*b, 32_640));
        }
        // DELAYA
        self.d.rotate_right(1);
        if let Some(newest) = self.d.first_mut() {
            *newest = d;
        }
        let [r1, _] = self.r;
        (self.r, self.p, self.a) = ([r, r1], [p, p1], [next1, next2]);
        // FILTEP, FILTEZ, PREDIC
        let poles = scaled(next1, sat(r + r)) + scaled(next2, sat(r1 + r1));
        self.sz = sat(self.b.iter().zip(self.d).map(|(b, d)| scaled(*b, sat(d + d))).sum());
        self.s = sat(sat(poles) + self.sz);
    }
}

/// A decoder, with what it remembers of the octets before.
#[derive(Clone, Debug)]
pub(super) struct Decoder {
    low: Band,
    high: Band,
    /// Sums and differences of the bands, the newest first.
    sums: [i32; 12],
    differences: [i32; 12],
}

impl Decoder {
    /// One that has seen no octet yet.
    pub fn new() -> Decoder {
        let (low, high) = (Band::new(32), Band::new(8));
        Decoder { low, high, sums: [0; 12], differences: [0; 12] }
    }

    /// The two samples of the next octet.
    pub fn decode(&mut self, octet: u8) -> [i16; SAMPLES] {
        let (six, two) = (usize::from(octet & 63), usize::from(octet >> 6));
        let band = |value: i32| value.clamp(-16_384, 16_383);
        let low = band(self.low.s + scaled(self.low.step, of(&QM6, six)));
        let d = scaled(self.low.step, of(&QM4, six >> 2));
        self.low.rescale(of(&WL, six >> 2), 18_432, 8);
        self.low.adapt(d);
        let d = scaled(self.high.step, of(&QM2, two));
        let high = band(self.high.s + d);
        self.high.rescale(of(&WH, two), 22_528, 10);
        self.high.adapt(d);
        for (kept, new) in [(&mut self.sums, low + high), (&mut self.differences, low - high)] {
            kept.rotate_right(1);
            if let Some(newest) = kept.first_mut() {
                *newest = new;
            }
        }
        let filtered = |sum: i32| sat(sum >> 11) as i16;
        let first = self.differences.iter().zip(QMF).map(|(x, c)| x * c).sum();
        let second = self.sums.iter().zip(QMF.iter().rev()).map(|(x, c)| x * c).sum();
        [filtered(first), filtered(second)]
    }
}
