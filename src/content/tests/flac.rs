//! Reading recordings that are stored as FLAC.

use super::requests::BreaksOff;
use super::*;
use crate::codec::{self, Coding, flac::Encoder};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A call of 16 bits with so many bytes of samples, and something behind them.
fn call(bytes: u64, behind: usize) -> Vec<u8> {
    let mut wav = codec::wav_header(Coding::Pcm16, 8000, 1, bytes);
    let mut random = fastrand::Rng::with_seed(bytes);
    let tone = |n: u64| ((n as f64 / 7.0).sin() * 3000.0) as i16 + random.i16(-90..90);
    wav.extend((0..bytes / 2).map(tone).flat_map(i16::to_le_bytes));
    wav.extend(vec![7; behind]);
    wav
}

fn encoded(bytes: &[u8]) -> (Vec<u8>, Encoding) {
    let mut read = |at: u64, len: usize| {
        let at = (at as usize).min(bytes.len());
        Ok::<_, String>(Bytes::copy_from_slice(&bytes[at..(at + len).min(bytes.len())]))
    };
    let found = codec::flac::candidate(b"a.wav", bytes.len() as u64, &mut read).unwrap();
    let file: File = tempfile::tempfile().unwrap();
    let mut encoder = Encoder::new(found.unwrap(), &file).unwrap();
    encoder.push(bytes).unwrap();
    let map = encoder.finish().unwrap().unwrap();
    let mut stored = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut stored, 0).unwrap();
    (stored, map.into())
}

/// A recording that the first target has as FLAC, and the second perhaps as it is.
fn world(audio: Vec<u8>, second: bool) -> World {
    let mut world = World::with(1);
    world.audio = audio;
    world.rows.0.lock().clear();
    world.archive(0, 2, &world.audio);
    let (stored, encoding) = encoded(&world.audio);
    let (size, sha256) = (stored.len() as u64, Sha256::of(&stored));
    world.stores[0].tamper("n/a~2.wav", Some(&stored));
    world.rows.0.lock()[0].stored = Stored { encoding, size, sha256 };
    if second {
        world.archive(1, 2, &world.audio);
    }
    world
}

#[test]
fn any_range_of_what_is_stored_as_flac_is_what_was_archived() {
    for (bytes, behind) in [(2, 0), (65_536 - 44, 3), (327_680 - 44, 10_000), (1_500_000, 9)] {
        let world = world(call(bytes, behind), false);
        let (content, len) = (world.plain(), world.audio.len());
        let mut rng = fastrand::Rng::with_seed(bytes);
        for _ in 0..40 {
            let (start, want) = (rng.usize(0..len + 10), rng.usize(0..900_000));
            let got = read(&content, start as u64, want).unwrap();
            let start = start.min(len);
            assert!(got == world.audio[start..(start + want).min(len)], "{start} {want}");
        }
        // And where nothing was read before.
        let chunk = chunk_range(chunk_at(len as u64 - 1), len as u64);
        let got = read(&world.plain(), chunk.start, 300_000).unwrap();
        assert!(got == world.audio[chunk.start as usize..]);
        let mut all = Vec::new();
        let mut sink = |_, bytes: &[u8]| {
            all.extend_from_slice(bytes);
            Ok(())
        };
        world.plain().fetch_all(ID, path(), &mut sink).unwrap();
        assert!(all == world.audio);
    }
}

#[test]
fn what_is_stored_as_flac_costs_no_more_requests() {
    let world = world(call(10_000_000, 0), false);
    let content = world.plain();
    read(&content, 0, 8192).unwrap();
    assert_eq!((world.gets(), content.stats().fetched), (1, 1), "the first 8 KiB");
    for offset in (8192..10_000_000u64).step_by(8192) {
        read(&content, offset, 8192).unwrap();
    }
    assert_eq!(content.stats().fetched, 40, "each chunk is decoded once, and the head");
    assert!(world.gets() <= 20, "{} requests for 1,221 reads", world.gets());
    let (before, content) = (world.gets(), world.plain());
    for offset in [0, 9_990_000, 9_999_900, 0, 4096, 44, 16_384] {
        read(&content, offset, 4096).unwrap();
    }
    // The head, the tail, and the first chunk behind the head.
    assert_eq!((world.gets() - before, content.stats().ahead), (3, 0));
}

#[test]
fn what_lies_behind_the_samples_is_known_without_a_request() {
    let world = world(call(327_680 - 44, 10_000), false);
    let content = world.plain();
    assert_eq!(read(&content, 327_680, 20_000).unwrap(), vec![7; 10_000]);
    assert_eq!((world.gets(), content.stats().corrupt), (0, 0));
}

#[test]
fn a_spoiled_flac_object_is_never_served() {
    let alone = world(call(700_000, 0), false);
    let whole = alone.stores[0].bytes("n/a~2.wav").unwrap();
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut refused, mut right) = (0, 0);
    for _ in 0..60 {
        let mut bad = whole.to_vec();
        let at = rng.usize(0..bad.len());
        bad[at] ^= 1 << rng.u8(0..8);
        alone.stores[0].tamper("n/a~2.wav", Some(&bad));
        match read(&alone.plain(), 0, 1 << 20) {
            // Of what only other programs read, such as the MD5.
            Ok(got) => right += u64::from(got == alone.audio),
            Err(error) => refused += u64::from(error.class == ErrorClass::Corrupt),
        }
    }
    assert_eq!(refused + right, 60);
    assert!(refused > 50, "{refused}");
    alone.stores[0].tamper("n/a~2.wav", Some(&whole[..whole.len() / 2]));
    assert_eq!(read(&alone.plain(), 600_000, 10).unwrap_err().class, ErrorClass::Corrupt);
    let both = world(call(700_000, 0), true);
    both.stores[0].tamper("n/a~2.wav", Some(&whole[..whole.len() / 2]));
    let content = both.plain();
    assert!(read(&content, 0, 1 << 20).unwrap() == both.audio);
    assert!(content.stats().corrupt > 0);
}

#[test]
fn an_answer_of_flac_that_breaks_off_costs_a_request_for_each_chunk_that_is_missing() {
    for (after, wrong) in [(0, false), (30_000, false), (120_000, false), (0, true)] {
        let world = world(call(900_000, 0), true);
        let breaks = BreaksOff::new(world.stores[0].clone(), after, wrong);
        let stores: Vec<Arc<dyn Store>> = vec![Arc::new(breaks), world.stores[1].clone()];
        let content = Content::new(
            Options { read_timeout: Duration::from_secs(5), ..Options::default() },
            world.rows.clone(),
            stores,
            world.runtime.handle().clone(),
            world.clock.clone(),
        );
        assert!(read(&content, 0, 1 << 20).unwrap() == world.audio, "{after} {wrong}");
        assert_eq!(world.stores[1].calls(Operation::Get), u64::from(wrong));
        assert_eq!(content.stats().corrupt, u64::from(wrong));
    }
}

#[test]
fn an_object_whose_parts_are_not_known_is_not_guessed_at() {
    let world = world(call(700_000, 0), false);
    world.rows.0.lock()[0].stored.encoding = Encoding::Flac(None);
    let error = read(&world.plain(), 0, 100).unwrap_err();
    assert!(error.detail.contains("spoolfs rebuild"), "{error}");
    assert_eq!((error.class, world.gets()), (ErrorClass::Permanent, 0));
}
