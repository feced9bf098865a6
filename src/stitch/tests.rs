use super::*;
use crate::clock::Timestamp;
use crate::codec::{self, Audio, Coding};
use crate::recording::NodeId;
use bytes::Bytes;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Legs in memory.
struct Files {
    files: Vec<Bytes>,
    reads: AtomicUsize,
}

impl LegReader for Files {
    fn read(&self, leg: usize, offset: u64, len: usize) -> Result<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let file = &self.files[leg];
        let from = usize::try_from(offset).unwrap();
        assert!(from + len <= file.len(), "read {len} at {offset} of {}", file.len());
        Ok(file.slice(from..from + len))
    }
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn leg(index: usize, name: &str, bytes: &[u8], start_ms: i64) -> Leg {
    let mut read = |at: u64, len: usize| {
        let from = usize::try_from(at).unwrap().min(bytes.len());
        Ok::<_, ()>(Bytes::copy_from_slice(&bytes[from..(from + len).min(bytes.len())]))
    };
    let audio = codec::probe(name.as_bytes(), bytes.len() as u64, &mut read).unwrap();
    Leg {
        node: NodeId(100 + index as u64),
        path: name.to_owned(),
        size: bytes.len() as u64,
        mtime: Timestamp(1_000_000_000 * index as i64),
        start: Some(Timestamp(start_ms * 1_000_000)),
        side: None,
        audio: audio.map_err(|e| e.to_string()),
    }
}

fn join(files: &[(&str, Vec<u8>, i64)], options: &Options) -> (Join, Files) {
    let legs = files.iter().enumerate().map(|(i, (name, bytes, at))| leg(i, name, bytes, *at));
    let plan = Plan::new(legs.collect(), options);
    let files = files.iter().map(|(_, bytes, _)| bytes.clone().into()).collect();
    (Join::new(plan), Files { files, reads: AtomicUsize::new(0) })
}

/// All of a join, in pieces of this length.
fn whole(join: &Join, files: &Files, step: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let bytes = join.read(files, out.len() as u64, step).unwrap();
        if bytes.is_empty() {
            assert_eq!(out.len() as u64, join.plan().len());
            return out;
        }
        out.extend_from_slice(&bytes);
    }
}

/// The join as one would write it down: every leg decoded from its first to its last sample,
/// brought to the rate, put in its place, added.
fn reference(join: &Join, files: &Files, layout: Layout) -> Vec<u8> {
    let plan = join.plan();
    let usable = || {
        plan.legs.iter().zip(&files.files).filter_map(|(l, f)| Some((l, l.audio.as_ref().ok()?, f)))
    };
    let data: Vec<u8> = match plan.form {
        Form::Mapped { .. } => usable()
            .flat_map(|(_, a, f)| {
                let len = usize::try_from(a.samples * a.block_bytes()).unwrap();
                f.slice(a.at as usize..a.at as usize + len)
            })
            .collect(),
        Form::Mixed { rate, channels } => {
            let first = usable().find_map(|(l, ..)| l.start).unwrap_or_default();
            let mut sum: Vec<[i32; 2]> = Vec::new();
            for (leg, audio, file) in usable() {
                let mut read = |at, len| files.read_of(file, at, len);
                let samples = codec::decode(audio, 0..audio.samples, &mut read).unwrap();
                let out = codec::resampled(audio.samples, audio.rate, rate).unwrap();
                let samples =
                    codec::Resampler::new(audio.rate, rate).unwrap().run(0..out, &samples, 0);
                let at = match layout {
                    Layout::Concat => sum.len(),
                    _ => (leg.start.unwrap().0 - first.0) as usize * rate as usize / 1_000_000_000,
                };
                sum.resize(sum.len().max(at + samples.len()), [0; 2]);
                let side = leg.side.filter(|_| channels == 2);
                for (n, sample) in samples.iter().enumerate() {
                    let [left, right] = &mut sum[at + n];
                    *left += if side == Some(Side::Agent) { 0 } else { i32::from(*sample) };
                    *right += if side == Some(Side::Caller) { 0 } else { i32::from(*sample) };
                }
            }
            let clamp = |s: i32| s.clamp(-32_768, 32_767) as i16;
            let frame = |s: &[i32; 2]| {
                s[..usize::from(channels)]
                    .iter()
                    .flat_map(|s| clamp(*s).to_le_bytes())
                    .collect::<Vec<_>>()
            };
            sum.iter().flat_map(frame).collect()
        }
    };
    let (coding, channels) = match plan.form {
        Form::Mapped { coding, channels, .. } => (coding, channels),
        Form::Mixed { channels, .. } => (Coding::Pcm16, channels),
    };
    let mut out = codec::wav_header(coding, plan.form.rate(), channels, data.len() as u64);
    out.extend(&data);
    out.extend(vec![0; data.len() & 1]);
    out
}

impl Files {
    fn read_of(&self, file: &Bytes, at: u64, len: usize) -> std::result::Result<Bytes, ()> {
        let from = (at as usize).min(file.len());
        Ok(file.slice(from..(from + len).min(file.len())))
    }
}

fn wav(
    coding: Coding,
    rate: u32,
    channels: u16,
    samples: usize,
    random: &mut fastrand::Rng,
) -> Vec<u8> {
    let len = samples * usize::from(channels) * coding.block_bytes() as usize;
    let mut bytes = codec::wav_header(coding, rate, channels, len as u64);
    bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(len));
    bytes
}

/// A leg of any kind, also one that can not be used.
fn any_leg(random: &mut fastrand::Rng) -> (&'static str, Vec<u8>) {
    let samples = [0, 1, random.usize(..5_000), 20_001][random.usize(..4)];
    let noise = |random: &mut fastrand::Rng, len| {
        std::iter::repeat_with(|| random.u8(..)).take(len).collect()
    };
    match random.u8(..16) {
        0 | 1 => ("a.wav", wav(Coding::Pcm16, 8_000, 1, samples, random)),
        2 => ("a.wav16", wav(Coding::Pcm16, 16_000, 1, samples, random)),
        3 => ("a.wav", wav(Coding::Pcm8, 8_000, 1, samples, random)),
        4 => ("a.wav", wav(Coding::Pcm16, 44_100, 2, samples, random)),
        5 => ("a.ulaw", noise(random, samples)),
        6 => ("a.sln48", noise(random, samples * 2 + 1)),
        7 => ("a.gsm", fixture("formats/in-3001-02079460001-20261121-022751-1795228071.0.gsm")),
        8 => ("a.WAV", fixture("formats/in-3001-02079460001-20261121-022738-1795228058.0.WAV")),
        9 => ("a.wav", b"no audio at all".to_vec()),
        10 => ("a.g722", noise(random, samples)),
        11 => ("a.wav", wav(Coding::Pcm16, 48_000, 1, samples, random)),
        12 => {
            let coding = [Coding::Pcm24, Coding::Pcm32][random.usize(..2)];
            ("a.wav", wav(coding, [8_000, 32_000][random.usize(..2)], 1, samples, random))
        }
        13 => {
            // 7: mu-law, 6: A-law (WAVE_FORMAT_MULAW, WAVE_FORMAT_ALAW).
            let mut bytes = wav(Coding::Pcm8, 8_000, 1, samples, random);
            bytes[20] = random.u8(6..8);
            ("a.wav", bytes)
        }
        14 => (["a.alaw", "a.sln", "a.sln16"][random.usize(..3)], noise(random, samples)),
        _ => {
            // Its writer died.
            let mut bytes = wav(Coding::Pcm16, 8_000, 1, samples, random);
            bytes[4..8].fill(0);
            bytes[40..44].fill(0);
            ("a.wav", bytes)
        }
    }
}

#[test]
fn every_read_of_every_join_equals_the_join_made_the_simple_way() {
    let mut random = fastrand::Rng::with_seed(6_006);
    let (mut mapped, mut mixed, mut odd, mut only_headers) = (0, 0, 0, 0);
    for round in 0..72 {
        let kinds: Vec<_> = (0..random.usize(1..5)).map(|_| any_leg(&mut random)).collect();
        let mut at = 0;
        let same = round % 3 == 0;
        let files: Vec<_> = kinds
            .into_iter()
            .map(|(name, bytes)| {
                at += random.i64(0..4_000);
                match same {
                    true => (
                        "a.wav",
                        wav(Coding::Pcm16, 8_000, 1, random.usize(..9_000), &mut random),
                        at,
                    ),
                    false => (name, bytes, at),
                }
            })
            .collect();
        let layout = [Layout::Concat, Layout::Timeline, Layout::Stereo][random.usize(..3)];
        let rate = [Rate::default(), Rate::Highest, Rate::Fixed(16_000)][random.usize(..3)];
        let options = Options { layout, rate, large: LargeFiles::Rf64 };
        let legs = files.iter().enumerate().map(|(i, (name, bytes, at))| Leg {
            side: [None, Some(Side::Caller), Some(Side::Agent)][random.usize(..3)],
            ..leg(i, name, bytes, *at)
        });
        let legs: Vec<_> = legs.collect();
        let join = Join::new(Plan::new(legs, &options));
        let files = Files {
            files: files.into_iter().map(|(_, bytes, _)| bytes.into()).collect(),
            reads: AtomicUsize::new(0),
        };
        match join.plan().form {
            Form::Mapped { .. } => mapped += 1,
            Form::Mixed { .. } => mixed += 1,
        }
        odd += files.files.iter().filter(|file| file.len() % 2 == 1).count();
        only_headers += files.files.iter().filter(|file| file.len() == 44).count();
        let expected = reference(&join, &files, layout);
        assert_eq!(join.plan().len(), expected.len() as u64, "round {round}: {:?}", join.plan());
        assert!(whole(&join, &files, 131_072) == expected, "round {round}: {:?}", join.plan());
        for _ in 0..40 {
            let from = random.usize(..expected.len() + 10);
            let len = [1, 2, 43, 44, 45, 4_096, 8_191][random.usize(..7)];
            let found = join.read(&files, from as u64, len).unwrap();
            let from = from.min(expected.len());
            assert!(
                found == expected[from..(from + len).min(expected.len())],
                "round {round}: {len} bytes at {from} of {:?}",
                join.plan()
            );
        }
    }
    assert!(mapped > 4 && mixed > 40, "{mapped} mapped, {mixed} mixed");
    assert!(odd > 10 && only_headers > 4, "{odd} of odd length, {only_headers} of 44 bytes");
}

#[test]
fn a_mapped_join_reads_only_the_leg_it_needs() {
    let mut random = fastrand::Rng::with_seed(1);
    let leg =
        |random: &mut fastrand::Rng| ("a.wav", wav(Coding::Pcm16, 8_000, 1, 40_000, random), 0);
    let legs = [leg(&mut random), leg(&mut random), leg(&mut random)];
    let (join, files) = join(&legs, &Options::default());
    join.read(&files, 0, 8_192).unwrap();
    assert_eq!(files.reads.load(Ordering::Relaxed), 1);
    join.read(&files, 44 + 80_000 + 10, 100).unwrap();
    assert_eq!(files.reads.load(Ordering::Relaxed), 2);
}

#[test]
fn what_can_not_be_decoded_is_left_out() {
    let mut random = fastrand::Rng::with_seed(1);
    let good = wav(Coding::Pcm16, 8_000, 1, 100, &mut random);
    let legs = [("a.wav", good.clone(), 0), ("b.wav", b"RIFF".to_vec(), 1), ("c.txt", vec![1], 2)];
    let (joined, files) = join(&legs, &Options::default());
    assert_eq!(whole(&joined, &files, 1_000), good);
    assert!(joined.plan().legs[1].audio.is_err() && joined.plan().legs[2].audio.is_err());
    let (none, files) = join(&legs[1..], &Options::default());
    assert_eq!(whole(&none, &files, 100).len(), 44, "an empty file, not a failed one");
}

#[test]
fn a_leg_that_became_shorter_is_an_error() {
    struct Short;
    impl LegReader for Short {
        fn read(&self, _: usize, _: u64, len: usize) -> Result<Bytes> {
            Ok(vec![0; len / 2].into())
        }
    }
    let mut random = fastrand::Rng::with_seed(1);
    for name in ["a.wav", "a.wav16"] {
        let rate = if name == "a.wav" { 8_000 } else { 16_000 };
        let other = ("b.ulaw", vec![1; 50], 0);
        let legs = [(name, wav(Coding::Pcm16, rate, 1, 1_000, &mut random), 0), other];
        let (joined, _) = join(&legs[..usize::from(rate == 16_000) + 1], &Options::default());
        let error = joined.read(&Short, 0, 1_000).unwrap_err();
        assert_eq!(error.class(), crate::recording::ErrorClass::Corrupt);
    }
}

#[test]
fn more_than_four_gibibytes_are_rf64_or_refused() {
    let (coding, samples) = (Coding::Pcm16, 1 << 31);
    let audio = Audio { coding, rate: 8_000, channels: 1, at: 44, samples, frames: None };
    let long = Leg { audio: Ok(audio), ..leg(0, "a.wav", b"", 0) };
    let plan = |large| Plan::new(vec![long.clone(); 2], &Options { large, ..Options::default() });
    let plan_rf64 = plan(LargeFiles::Rf64);
    assert!(!plan_rf64.too_large && plan(LargeFiles::Refuse).too_large);
    let mut read = |at: u64, len: usize| {
        let bytes = plan_rf64.header.iter().copied().chain(std::iter::repeat(0));
        Ok::<_, ()>(bytes.skip(at as usize).take(len).collect::<Bytes>())
    };
    let again = codec::probe(b"a.wav", plan_rf64.len(), &mut read).unwrap().unwrap();
    assert_eq!(again.samples, 1 << 32);
}

#[test]
fn a_join_is_told_by_its_legs_not_by_their_names() {
    let mut random = fastrand::Rng::with_seed(1);
    let bytes = wav(Coding::Pcm16, 8_000, 1, 100, &mut random);
    let made = |change: &dyn Fn(&mut Leg)| {
        let mut second = leg(1, "a.wav", &bytes, 10);
        change(&mut second);
        Plan::new(vec![leg(0, "a.wav", &bytes, 0), second], &Options::default()).digest()
    };
    let first = made(&|_| ());
    assert_eq!(made(&|l| l.path = "b.wav".into()), first);
    assert_ne!(made(&|l| l.mtime.0 += 1), first);
    assert_ne!(made(&|l| l.size += 1), first);
    assert_ne!(made(&|l| l.node.0 += 1), first);
    let plan = Plan::new(vec![leg(0, "a.wav", &bytes, 0)], &Options::default());
    let again: Plan = serde_json::from_slice(&serde_json::to_vec(&plan).unwrap()).unwrap();
    assert_eq!(again, plan);
}

#[test]
fn stereo_needs_both_sides_and_no_other_layout_heeds_them() {
    let mut random = fastrand::Rng::with_seed(4);
    let bytes = wav(Coding::Pcm16, 8_000, 1, 100, &mut random);
    let made = |layout, sides: [Option<Side>; 2]| {
        let legs = sides.iter().enumerate().map(|(n, side)| {
            let start = 20 * n as i64;
            Leg { side: *side, ..leg(n, "a.wav", &bytes, start) }
        });
        Plan::new(legs.collect(), &Options { layout, ..Options::default() })
    };
    let (caller, agent) = (Some(Side::Caller), Some(Side::Agent));
    let both = made(Layout::Stereo, [caller, agent]);
    assert_eq!(both.form, Form::Mixed { rate: 8_000, channels: 2 });
    let files = Files { files: vec![bytes.clone().into(); 2], reads: AtomicUsize::default() };
    let join = Join::new(both);
    let read = whole(&join, &files, 1_000);
    // The second leg begins 160 samples later, when the first is over.
    let frame = |n: usize| read[44 + n * 4..][..4].to_vec();
    let sample = |n: usize| &bytes[44 + n * 2..][..2];
    for n in 0..100 {
        assert_eq!(frame(n), [sample(n), &[0, 0]].concat());
        assert_eq!(frame(160 + n), [&[0, 0][..], sample(n)].concat());
    }
    let timeline = made(Layout::Timeline, [None, None]);
    for sides in [[caller, caller], [None, agent], [None, None]] {
        assert_eq!(made(Layout::Stereo, sides), timeline);
    }
    let concat = made(Layout::Concat, [None, None]);
    assert_eq!(made(Layout::Concat, [agent, caller]).digest(), concat.digest());
}

#[test]
fn every_id_has_a_name_and_every_name_its_id() {
    assert_eq!(file_name(b"1795228029.0"), "1795228029.0.wav");
    assert_eq!(file_name(b"pbx-1.2/../x y"), "pbx-1.2%2F..%2Fx%20y.wav");
    assert_eq!(file_name(b".."), "%2E..wav");
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..2_000 {
        let id: Vec<u8> = (0..random.usize(1..149)).map(|_| random.u8(..)).collect();
        let name = file_name(&id);
        assert!(name.len() <= 255 && !name.contains('/') && !name.starts_with('.'), "{name}");
        if name.starts_with("%-") {
            assert!(is_hashed(name.as_bytes(), &id) && linkedid(name.as_bytes()).is_none());
        } else {
            assert_eq!(linkedid(name.as_bytes()), Some(id));
        }
    }
    for bad in [&b".wav"[..], b"a.mp3", b"%4.wav", b"%zz.wav"] {
        assert_eq!(linkedid(bad), None);
    }
}
