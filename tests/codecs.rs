//! Recordings in formats that an encoder is needed for: what ffmpeg makes of the fixtures and decodes
//! again is compared with what joins are made of.

mod support;

use bytes::Bytes;
use spoolfs::clock::Timestamp;
use spoolfs::codec::{self, Audio, Coding};
use spoolfs::recording::NodeId;
use spoolfs::stitch::{self, Join, Leg, LegReader, Options, Plan};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn ffmpeg(arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-y"]).args(arguments);
    let output =
        command.output().unwrap_or_else(|e| panic!("ffmpeg: {e}; scripts/test installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Speech of about 23 seconds: the fixtures' legs, behind one another.
fn speech(dir: &Path) -> PathBuf {
    let root = support::fixture("monitor");
    let mut samples = Vec::new();
    for leg in support::fixtures("monitor") {
        samples.extend_from_slice(&fs::read(root.join(leg)).unwrap()[44..]);
    }
    let mut bytes = codec::wav_header(Coding::Pcm16, 8000, 1, samples.len() as u64);
    bytes.extend(samples);
    let path = dir.join("speech.wav");
    fs::write(&path, bytes).unwrap();
    path
}

struct Made {
    name: String,
    bytes: Vec<u8>,
    audio: Audio,
    /// What ffmpeg decodes, mixed to one channel.
    theirs: Vec<i16>,
    /// Farthest that a sample may be off, and how far on average.
    off: (i32, f64),
}

fn reader(bytes: &[u8]) -> impl FnMut(u64, usize) -> Result<Bytes, String> + '_ {
    move |at, len| {
        assert!(len <= 1 << 20, "{len} bytes asked for at once");
        assert!(at + len as u64 <= bytes.len() as u64, "{len} at {at} of {}", bytes.len());
        let from = usize::try_from(at).unwrap();
        Ok(Bytes::copy_from_slice(&bytes[from..from + len]))
    }
}

fn probed(name: &str, bytes: &[u8]) -> Result<Audio, codec::NotAudio> {
    codec::probe(name.as_bytes(), bytes.len() as u64, &mut reader(bytes)).unwrap()
}

fn decoded(made: &Made, from: u64, to: u64) -> Vec<i16> {
    codec::decode(&made.audio, from..to, &mut reader(&made.bytes)).unwrap()
}

fn made(dir: &Path) -> Vec<Made> {
    let speech = speech(dir);
    let speech = speech.to_str().unwrap();
    let of = |name: &str, encode: &[&str], decode: &[&str], off: (i32, f64)| {
        let path = dir.join(name);
        let path = path.to_str().unwrap();
        ffmpeg(&[&["-i", speech][..], encode, &[path]].concat());
        let bytes = fs::read(path).unwrap();
        let audio = probed(name, &bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let raw = ffmpeg(&[decode, &["-i", path, "-f", "s16le", "-"]].concat());
        let sample = |b: &[u8; 2]| i32::from(i16::from_le_bytes(*b));
        let samples: Vec<i32> = raw.as_chunks::<2>().0.iter().map(sample).collect();
        let channels = usize::from(audio.channels);
        let mixed = samples.chunks(channels).map(|c| c.iter().sum::<i32>() / channels as i32);
        let theirs = mixed.map(|s| s as i16).collect();
        Made { name: name.to_owned(), bytes, audio, theirs, off }
    };
    let g722 = ["-ar", "16000", "-f", "g722"];
    // libopus reckons in whole numbers here, ffmpeg's with a point.
    let opus = (1000, 10.0);
    vec![
        // Ten seconds and more: a decoder that began a second before differs in a last bit.
        of("a.g722", &g722, &["-f", "g722"], (4, 0.1)),
        // As a cron job of a PBX makes them.
        of("a.mp3", &["-ar", "8000", "-b:a", "16k"], &[], (3, 0.1)),
        of("b.mp3", &["-ar", "44100", "-ac", "2", "-b:a", "64k"], &[], (3, 0.1)),
        of("c.mp3", &["-ar", "16000", "-q:a", "5"], &[], (3, 0.1)),
        // Without the frame that tells about the others, and behind a title.
        of(
            "d.mp3",
            &["-ar", "22050", "-write_xing", "0", "-metadata", "title=a call"],
            &[],
            (3, 0.1),
        ),
        of(
            "a.opus",
            &["-ar", "48000", "-c:a", "libopus", "-b:a", "24k"],
            &["-c:a", "libopus"],
            opus,
        ),
        of(
            "b.ogg",
            &["-ar", "48000", "-c:a", "libopus", "-b:a", "64k"],
            &["-c:a", "libopus"],
            opus,
        ),
        of("e.MP3", &["-ar", "48000", "-b:a", "320k", "-write_id3v1", "1"], &[], (3, 0.1)),
    ]
}

#[test]
fn packed_formats_sound_as_ffmpeg_decodes_them() {
    let dir = tempfile::tempdir().unwrap();
    for made in made(dir.path()) {
        let ours = decoded(&made, 0, made.audio.samples);
        assert_eq!(ours.len() as u64, made.audio.samples, "{}", made.name);
        assert_eq!(ours.len(), made.theirs.len(), "{}", made.name);
        let off = ours.iter().zip(&made.theirs).map(|(a, b)| (i32::from(*a) - i32::from(*b)).abs());
        let worst = off.clone().max().unwrap();
        let sum: i32 = off.sum();
        let mean = f64::from(sum) / ours.len() as f64;
        println!("{}: {} samples, off by {worst}, {mean:.4} on average", made.name, ours.len());
        assert!(worst <= made.off.0 && mean <= made.off.1, "{}: off by {worst}, {mean}", made.name);
        let loud = made.theirs.iter().filter(|s| s.unsigned_abs() > 1000).count();
        assert!(loud > ours.len() / 100, "{}: nothing is heard", made.name);
    }
}

#[test]
fn packed_formats_are_the_same_from_every_position() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(722);
    for made in made(dir.path()) {
        let whole = decoded(&made, 0, made.audio.samples);
        let json = serde_json::to_vec(&made.audio).unwrap();
        assert_eq!(serde_json::from_slice::<Audio>(&json).unwrap(), made.audio);
        for _ in 0..12 {
            let from = random.u64(..made.audio.samples);
            let to = (from + random.u64(..200_000)).min(made.audio.samples);
            let part = decoded(&made, from, to);
            assert!(part == whole[from as usize..to as usize], "{} {from}..{to}", made.name);
        }
    }
}

struct Legs<'a>(Vec<&'a Made>);

impl LegReader for Legs<'_> {
    fn read(&self, leg: usize, offset: u64, len: usize) -> stitch::Result<Bytes> {
        Ok(reader(&self.0[leg].bytes)(offset, len).unwrap())
    }
}

#[test]
fn joins_of_packed_recordings_are_the_same_from_every_position_in_every_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(6);
    let all = made(dir.path());
    for round in 0..3 {
        let mut legs: Vec<&Made> = all.iter().collect();
        random.shuffle(&mut legs);
        legs.truncate(3);
        let leg = |(number, made): (u64, &&Made)| Leg {
            node: NodeId(100 + number),
            path: made.name.clone(),
            size: made.bytes.len() as u64,
            mtime: Timestamp(1),
            start: None,
            side: None,
            audio: Ok(made.audio.clone()),
        };
        let plan = Plan::new((0..).zip(&legs).map(leg).collect(), &Options::default());
        let names: Vec<_> = legs.iter().map(|made| &made.name).collect();
        let mut expected = plan.header.clone();
        for made in &legs {
            let samples = decoded(made, 0, made.audio.samples);
            let (from, to) = (made.audio.rate, plan.form.rate());
            let out = codec::resampled(made.audio.samples, from, to).unwrap();
            let samples = codec::Resampler::new(from, to).unwrap().run(0..out, &samples, 0);
            expected.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
        }
        let (join, legs) = (Join::new(plan), Legs(legs));
        assert_eq!(join.plan().len(), expected.len() as u64, "{round}: {names:?}");
        for _ in 0..12 {
            let from = random.usize(..expected.len());
            let len = [1, 2, 4_096, 8_191, 131_072][random.usize(..5)];
            let found = join.read(&legs, from as u64, len).unwrap();
            let wanted = &expected[from..(from + len).min(expected.len())];
            assert!(found == wanted, "{round}: {len} bytes at {from} of {names:?}");
        }
    }
}

#[test]
fn whatever_a_packed_file_holds_nothing_is_read_beyond_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let all = made(dir.path());
    for round in 0..200 {
        let Made { name, bytes: good, .. } = &all[random.usize(..all.len())];
        // A part, with bytes in it changed, taken away and put in.
        let from = if random.bool() { 0 } else { random.usize(..good.len().min(3000)) };
        let mut bytes = good[from..].to_vec();
        bytes.truncate(random.usize(..20_000));
        for _ in 0..random.usize(..30) {
            let at = random.usize(..bytes.len().max(1));
            match bytes.get_mut(at) {
                Some(byte) if random.bool() => *byte = random.u8(..),
                Some(_) if random.bool() => {
                    bytes.remove(at);
                }
                Some(_) => bytes.insert(at, random.u8(..)),
                None => {}
            }
        }
        let Ok(audio) = probed(name, &bytes) else { continue };
        let made = Made { name: String::new(), bytes, audio, theirs: Vec::new(), off: (0, 0.0) };
        let ours = decoded(&made, 0, made.audio.samples);
        assert_eq!(ours.len() as u64, made.audio.samples, "round {round}");
        let from = random.u64(..made.audio.samples);
        let part = decoded(&made, from, made.audio.samples);
        assert!(part == ours[from as usize..], "round {round}");
    }
}

#[test]
fn opus_is_decoded_at_the_rate_that_it_was_made_from() {
    let dir = tempfile::tempdir().unwrap();
    let speech = speech(dir.path());
    let path = dir.path().join("a.opus");
    ffmpeg(&["-i", speech.to_str().unwrap(), "-c:a", "libopus", path.to_str().unwrap()]);
    let bytes = fs::read(path).unwrap();
    let audio = probed("a.opus", &bytes).unwrap();
    let spoken = fs::read(speech).unwrap()[44..].to_vec();
    assert_eq!((audio.rate, audio.samples), (8000, spoken.len() as u64 / 2));
    let ours = codec::decode(&audio, 0..audio.samples, &mut reader(&bytes)).unwrap();
    let level = |samples: &mut dyn Iterator<Item = i16>| {
        samples.map(|s| f64::from(s).powi(2)).sum::<f64>().sqrt()
    };
    let samples = spoken.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b));
    let ratio = level(&mut ours.iter().copied()) / level(&mut samples.clone());
    assert!((0.9..1.1).contains(&ratio), "{ratio}");
    // In step with what was spoken, too.
    let off = ours.iter().zip(samples.clone()).map(|(a, b)| a.saturating_sub(b));
    let off = level(&mut off.collect::<Vec<_>>().into_iter()) / level(&mut samples.clone());
    assert!(off < 0.7, "{off}");
}
