use super::*;
use bytes::Bytes;
use std::path::Path;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// Reads as a file does, and fails if more is asked for than there may be.
fn reader(bytes: &[u8]) -> impl FnMut(u64, usize) -> Result<Bytes, String> + '_ {
    move |at, len| {
        assert!(len <= 1 << 20, "{len} bytes asked for at once");
        let from = usize::try_from(at).unwrap().min(bytes.len());
        Ok(Bytes::copy_from_slice(&bytes[from..(from + len).min(bytes.len())]))
    }
}

fn probed(name: &str, bytes: &[u8]) -> Result<Audio, NotAudio> {
    let mut read = reader(bytes);
    let mut inside = |at: u64, len: usize| {
        assert!(at + len as u64 <= bytes.len() as u64, "{len} at {at} of {}", bytes.len());
        read(at, len)
    };
    probe(name.as_bytes(), bytes.len() as u64, &mut inside).unwrap()
}

fn all(audio: &Audio, bytes: &[u8]) -> Vec<i16> {
    decode(audio, 0..audio.samples, &mut reader(bytes)).unwrap()
}

fn wav(format: &[u8], chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut body = b"WAVE".to_vec();
    for (id, bytes) in [(b"fmt ", format.to_vec())].iter().chain(chunks) {
        body.extend(*id);
        body.extend((bytes.len() as u32).to_le_bytes());
        body.extend(bytes);
        body.extend(vec![0; bytes.len() & 1]);
    }
    let mut out = b"RIFF".to_vec();
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(body);
    out
}

fn format(tag: u16, channels: u16, rate: u32, bits: u16) -> Vec<u8> {
    let align = channels * bits / 8;
    let mut out = Vec::new();
    out.extend(tag.to_le_bytes());
    out.extend(channels.to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend((rate * u32::from(align)).to_le_bytes());
    out.extend(align.to_le_bytes());
    out.extend(bits.to_le_bytes());
    out
}

const FIXTURES: [(&str, Coding, u32, u64); 8] = [
    ("formats/in-3001-02079460001-20261121-022738-1795228058.0.WAV", Coding::Wav49, 8_000, 40_000),
    (
        "formats/in-3001-02079460001-20261121-022745-1795228065.0.wav16",
        Coding::Pcm16,
        16_000,
        79_680,
    ),
    ("formats/in-3001-02079460001-20261121-022751-1795228071.0.gsm", Coding::Gsm, 8_000, 40_000),
    ("formats/in-3001-02079460001-20261121-022758-1795228078.0.ulaw", Coding::Ulaw, 8_000, 40_000),
    ("formats/in-3001-02079460001-20261121-022805-1795228085.0.alaw", Coding::Alaw, 8_000, 40_000),
    ("formats/in-3001-02079460001-20261121-022812-1795228092.0.sln", Coding::Pcm16, 8_000, 40_000),
    (
        "monitor/2026/11/21/exten-4001-02079460001-20261121-022712-1795228032.23.wav",
        Coding::Pcm16,
        8_000,
        24_000,
    ),
    // Its Asterisk was killed: the sizes are zero.
    ("crashed/in-3001-02079460001-20261121-022819-1795228099.0.wav", Coding::Pcm16, 8_000, 32_768),
];

#[test]
fn what_asterisk_writes_is_known_with_its_length() {
    for (name, coding, rate, samples) in FIXTURES {
        let bytes = file(name);
        let audio = probed(name, &bytes).unwrap();
        assert_eq!((audio.coding, audio.rate, audio.channels), (coding, rate, 1), "{name}");
        assert_eq!(audio.samples, samples, "{name}");
        assert_eq!(all(&audio, &bytes).len() as u64, samples, "{name}");
    }
}

#[test]
fn the_same_call_sounds_alike_in_every_format() {
    let decoded = |index: usize| {
        let (name, ..) = FIXTURES[index];
        let bytes = file(name);
        all(&probed(name, &bytes).unwrap(), &bytes)
    };
    let level = |samples: &[i16]| {
        let sum: f64 = samples.iter().map(|s| f64::from(*s).powi(2)).sum();
        (sum / samples.len() as f64).sqrt()
    };
    let plain = level(&decoded(5));
    for index in [0, 2, 3, 4] {
        let ratio = level(&decoded(index)) / plain;
        assert!((0.9..1.1).contains(&ratio), "{}: {ratio}", FIXTURES[index].0);
    }
}

#[test]
fn sizes_that_lie_are_read_by_the_length() {
    let samples: Vec<u8> = (0..100).collect();
    let good = wav(&format(1, 1, 8000, 16), &[(b"data", samples)]);
    let with = |size: u32| {
        let mut bytes = good.clone();
        bytes[40..44].copy_from_slice(&size.to_le_bytes());
        probed("a.wav", &bytes).unwrap()
    };
    for size in [0, 100, 101, 4000, 0x7fff_ffff, u32::MAX] {
        assert_eq!((with(size).at, with(size).samples), (44, 50), "{size}");
    }
    assert_eq!(with(61).samples, 30);
}

#[test]
fn chunks_around_the_samples_are_stepped_over() {
    let odd = wav(
        &format(1, 2, 44_100, 16),
        &[
            (b"LIST", vec![1; 9001]),
            (b"fact", vec![3, 0, 0, 0]),
            (b"data", vec![5; 12]),
            (b"LIST", vec![7; 40]),
        ],
    );
    let audio = probed("a.wav", &odd).unwrap();
    assert_eq!((audio.channels, audio.samples), (2, 3));
    assert_eq!(all(&audio, &odd), [0x0505; 3]);
}

#[test]
fn more_than_four_gibibytes_are_counted() {
    const BYTES: u64 = (1 << 32) + 1000;
    let written = header(Coding::Pcm16, 8000, 1, BYTES);
    let overflowed = [&header(Coding::Pcm16, 8000, 1, 1000)[..], &[0; 80]].concat();
    for (head, at) in [(&written, 80), (&overflowed, 44)] {
        let len = at + BYTES;
        let mut read = |from: u64, len: usize| {
            let head = head.iter().copied().chain(std::iter::repeat(0));
            Ok::<_, String>(head.skip(from as usize).take(len).collect::<Bytes>())
        };
        let audio = probe(b"a.wav", len, &mut read).unwrap().unwrap();
        assert_eq!((audio.at, audio.samples), (at, BYTES / 2));
    }
}

use super::wav::header;

#[test]
fn g711_and_gsm_in_wav_are_known() {
    let ulaw = wav(&format(7, 1, 8000, 8), &[(b"data", vec![0xff, 0x00])]);
    assert_eq!(all(&probed("a.wav", &ulaw).unwrap(), &ulaw), [0, -32124]);
    let alaw = wav(&format(6, 2, 8000, 8), &[(b"data", vec![0xd5, 0xd5, 0xaa, 0x2a])]);
    assert_eq!(all(&probed("a.wav", &alaw).unwrap(), &alaw), [8, 0]);
    let mut gsm = format(0x31, 1, 8000, 0);
    gsm.extend([2, 0, 0x40, 1]);
    let one = wav(&gsm, &[(b"fact", 300u32.to_le_bytes().to_vec()), (b"data", vec![0; 65])]);
    assert_eq!(probed("a.wav", &one).unwrap().samples, 300);
    let extensible = [format(0xfffe, 1, 8000, 16), vec![22, 0, 16, 0, 4, 0, 0, 0, 1], vec![0; 15]];
    let extensible = wav(&extensible.concat(), &[(b"data", vec![1, 0])]);
    assert_eq!(all(&probed("a.wav", &extensible).unwrap(), &extensible), [1]);
}

#[test]
fn wide_and_narrow_pcm_keep_their_upper_bits() {
    for (bits, bytes) in [
        (8, vec![128u8, 255, 0]),
        (16, vec![0, 0, 0, 0x7f, 0, 0x80]),
        (24, vec![9, 0, 0, 9, 0, 0x7f, 9, 0, 0x80]),
        (32, vec![9, 9, 0, 0, 9, 9, 0, 0x7f, 9, 9, 0, 0x80]),
    ] {
        let file = wav(&format(1, 1, 8000, bits), &[(b"data", bytes)]);
        assert_eq!(all(&probed("a.wav", &file).unwrap(), &file), [0, 0x7f00, -0x8000], "{bits}");
    }
}

#[test]
fn what_is_no_audio_says_why() {
    let float = wav(&format(3, 1, 8000, 32), &[(b"data", vec![0; 4])]);
    let no_data = wav(&format(1, 1, 8000, 16), &[]);
    let deaf = wav(&format(1, 0, 8000, 16), &[(b"data", vec![0; 4])]);
    for (name, bytes, why) in [
        ("a.wav", &float[..], "0x0003"),
        ("a.wav", &no_data, "no data chunk"),
        ("a.wav", &deaf, "0 channels"),
        ("a.wav", b"", "empty"),
        ("a.wav", b"<html>", "RIFF"),
        ("a.txt", b"<html>", "\"txt\""),
    ] {
        let error = probed(name, bytes).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// Headers put together at random from good and bad parts, then spoiled.
#[test]
fn whatever_a_header_says_nothing_is_read_beyond_the_file() {
    let mut random = fastrand::Rng::with_seed(20_261_121);
    let fixtures: Vec<_> = FIXTURES.iter().map(|(name, ..)| (*name, file(name))).collect();
    for _ in 0..30_000 {
        let (name, mut bytes) = if random.bool() {
            let (name, bytes) = &fixtures[random.usize(..fixtures.len())];
            (*name, bytes[..random.usize(..400).min(bytes.len())].to_vec())
        } else {
            let tag = [1, 1, 6, 7, 0x31, 0xfffe][random.usize(..6)];
            let mut fmt = format(tag, random.u16(..4), random.u32(..50_000), 16);
            fmt.extend(vec![1; random.usize(..40)]);
            let data = vec![random.u8(..); random.usize(..300)];
            let list = vec![0; random.usize(..30)];
            ("x.wav", wav(&fmt, &[(b"LIST", list), (b"data", data), (b"fact", vec![9; 4])]))
        };
        for _ in 0..random.usize(..6) {
            let at = random.usize(..bytes.len().max(1));
            let value = [0, 0xff, 0x80, 1, random.u8(..)][random.usize(..5)];
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let Ok(audio) = probed(name, &bytes) else { continue };
        let blocks = audio.samples.div_ceil(audio.coding.block_samples());
        assert!(audio.at + blocks * audio.block_bytes() <= bytes.len() as u64, "{audio:?}");
        let decoded = all(&audio, &bytes);
        assert_eq!(decoded.len() as u64, audio.samples, "{audio:?}");
    }
}

#[test]
fn a_file_that_became_shorter_gives_fewer_samples() {
    for (name, ..) in FIXTURES {
        let bytes = file(name);
        let audio = probed(name, &bytes).unwrap();
        let cut = &bytes[..bytes.len() / 2];
        let left = all(&audio, cut).len() as u64;
        assert!(left < audio.samples && left > audio.samples / 3, "{name}: {left}");
    }
}

/// A minute of GSM, the fixture again and again.
fn long_gsm() -> (Audio, Vec<u8>) {
    let bytes = file(FIXTURES[2].0).repeat(12);
    let audio = probed("a.gsm", &bytes).unwrap();
    (audio, bytes)
}

#[test]
fn gsm_is_the_same_from_every_position() {
    let (audio, bytes) = long_gsm();
    let whole = all(&audio, &bytes);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let from = random.u64(..audio.samples);
        let to = (from + random.u64(..200_000)).min(audio.samples);
        let part = decode(&audio, from..to, &mut reader(&bytes)).unwrap();
        assert_eq!(part, whole[from as usize..to as usize], "{from}..{to}");
    }
}

#[test]
fn gsm_sounds_as_if_decoded_from_the_start() {
    let (audio, bytes) = long_gsm();
    let mut decoder = crate::sys::gsm::Decoder::new().unwrap();
    let frames = bytes.as_chunks::<33>().0;
    let reference: Vec<i16> = frames.iter().flat_map(|f| decoder.decode(f)).collect();
    let whole = all(&audio, &bytes);
    let differ = reference.iter().zip(&whole).filter(|(a, b)| a != b).count();
    let most = reference.iter().zip(&whole).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(most <= 16 && differ < reference.len() / 100, "{differ} differ, by {most} at most");
}

#[test]
fn a_tone_keeps_its_pitch_and_loudness_at_another_rate() {
    for (from, to) in [(16_000, 8_000), (48_000, 8_000), (44_100, 8_000), (8_000, 16_000)] {
        let tone = |rate: u32, len: u64| -> Vec<f64> {
            let angle = |n: u64| n as f64 * 1000.0 * 2.0 * std::f64::consts::PI / f64::from(rate);
            (0..len).map(|n| angle(n).sin() * 10_000.0).collect()
        };
        let len = u64::from(from);
        let input: Vec<i16> = tone(from, len).iter().map(|s| s.round() as i16).collect();
        let out = resampled(len, from, to).unwrap();
        assert_eq!(out, u64::from(to));
        let resampler = Resampler::new(from, to).unwrap();
        let output = resampler.run(0..out, &input, 0);
        let expected = tone(to, out);
        // Beside the ends, where there is silence before and after.
        let worst = output.iter().zip(&expected).skip(200).take(out as usize - 400);
        let worst = worst.map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(worst < 5.0, "{from} to {to}: off by {worst} of 10000");
    }
}

#[test]
fn what_would_alias_is_not_heard() {
    let tone =
        |n: u64| ((n as f64 * 6000.0 / 16_000.0 * 2.0 * std::f64::consts::PI).sin() * 2e4) as i16;
    let input: Vec<i16> = (0..16_000).map(tone).collect();
    let output = Resampler::new(16_000, 8_000).unwrap().run(100..7_900, &input, 0);
    assert!(output.iter().all(|s| s.abs() < 10), "{:?}", output.iter().max());
}

#[test]
fn resampling_is_the_same_from_every_position() {
    let mut random = fastrand::Rng::with_seed(3);
    let input: Vec<i16> = (0..5_000).map(|_| random.i16(..)).collect();
    let there = input.len() as u64;
    for (from, to) in [(16_000, 8_000), (44_100, 8_000), (8_000, 48_000), (11_025, 8_000), (8, 8)] {
        let resampler = Resampler::new(from, to).unwrap();
        let out = resampled(there, from, to).unwrap();
        let whole = resampler.run(0..out, &input, 0);
        for _ in 0..100 {
            let start = random.u64(..out);
            let part = start..(start + random.u64(..900)).min(out);
            let needs = resampler.needs(&part, there);
            let known = &input[needs.start as usize..needs.end as usize];
            let found = resampler.run(part.clone(), known, needs.start);
            assert_eq!(found, whole[part.start as usize..part.end as usize], "{from} to {to}");
        }
    }
}

#[test]
fn the_filter_is_the_same_everywhere() {
    let resampler = Resampler::new(44_100, 8_000).unwrap();
    let input: Vec<i16> = (0..9_000u32).map(|n| (n.wrapping_mul(40_503) >> 3) as i16).collect();
    let output = resampler.run(0..1_600, &input, 0);
    let bytes: Vec<u8> = output.iter().flat_map(|s| s.to_le_bytes()).collect();
    assert_eq!(
        crc32fast::hash(&bytes),
        4_238_091_010,
        "the same bytes of a join are promised for ever"
    );
}
