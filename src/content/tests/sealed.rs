//! Reading recordings that are sealed.

use super::*;
use crate::codec::seal::{Identities, Recipients, Sealer, sealed};
use age::secrecy::ExposeSecret;

/// The first generation is in both targets as it is; the second is sealed in the first target, and
/// perhaps in the other as it is. With the key.
fn world(len: u64, second: bool) -> (World, Identities) {
    let key = age::x25519::Identity::generate();
    let to = Recipients::parse(&[key.to_public().to_string()]).unwrap().unwrap();
    let keys = Identities::parse(key.to_string().expose_secret().as_bytes(), "a test").unwrap();
    let mut world = World::with(len);
    world.audio = noise(2, len);
    world.archive(0, 2, &world.audio);
    let mut sealer = Sealer::begin(&to, Vec::new()).unwrap();
    sealer.push(&world.audio).unwrap();
    let stored = sealer.finish().unwrap().0;
    let (size, sha256) = (stored.len() as u64, Sha256::of(&stored));
    let encoding = sealed(&stored, Encoding::Plain, size).unwrap().into();
    world.stores[0].tamper("n/a~2.wav", Some(&stored));
    world.rows.0.lock().last_mut().unwrap().stored = Stored { encoding, size, sha256 };
    if second {
        world.archive(1, 2, &world.audio);
    }
    (world, keys)
}

fn with(world: &World, identities: &Identities) -> Content {
    let identities = identities.clone();
    let read_timeout = Duration::from_secs(5);
    world.content(Options { read_timeout, identities, ..Options::default() })
}

#[test]
fn any_range_of_what_is_sealed_is_what_was_archived() {
    for len in [1, 65_536, 65_537, 327_680, 1_500_077] {
        let (world, keys) = world(len, false);
        let (content, mut rng) = (with(&world, &keys), fastrand::Rng::with_seed(len));
        let len = world.audio.len();
        for _ in 0..30 {
            let (start, want) = (rng.usize(0..len + 10), rng.usize(0..900_000));
            let got = read(&content, start as u64, want).unwrap();
            let start = start.min(len);
            assert!(got == world.audio[start..(start + want).min(len)], "{start} {want}");
        }
        let mut all = Vec::new();
        let mut sink = |_, bytes: &[u8]| {
            all.extend_from_slice(bytes);
            Ok(())
        };
        with(&world, &keys).fetch_all(ID, path(), &mut sink).unwrap();
        assert!(all == world.audio);
    }
}

#[test]
fn what_is_sealed_costs_no_more_requests() {
    let (world, keys) = world(10_000_000, false);
    let content = with(&world, &keys);
    read(&content, 0, 8192).unwrap();
    assert_eq!((world.gets(), content.stats().fetched), (1, 1), "the first 8 KiB");
    for offset in (8192..10_000_000u64).step_by(8192) {
        read(&content, offset, 8192).unwrap();
    }
    assert_eq!(content.stats().fetched, 40, "each chunk is opened once, and the head");
    assert!(world.gets() <= 20, "{} requests for 1,221 reads", world.gets());
}

#[test]
fn nothing_that_is_sealed_is_put_into_the_disk_cache() {
    let (world, identities) = world(1_000_000, false);
    let content = world.content(Options {
        cache_dir: Some(world.dir.path().to_owned()),
        cache_bytes_max: 64 << 20,
        cache_free_min: 0,
        read_timeout: Duration::from_secs(5),
        identities,
        ..Options::default()
    });
    assert!(read(&content, 0, 1_000_000).unwrap() == world.audio);
    // What is written behind the answers is written in order: those of another come after it.
    let plain = Some(Generation(1));
    content.read_generation(ID, plain, path(), 0, 1_000_000).unwrap();
    let sizes = [65_536, 262_144, 262_144, 262_144, 147_920];
    let all: u64 = sizes.iter().map(|n: &u64| n.next_multiple_of(4096)).sum();
    while content.stats().cache_bytes < all {
        std::thread::yield_now();
    }
    assert_eq!(content.stats().cache_bytes, all);
    let mut hasher = Hasher::default();
    hasher.update(&world.audio);
    for sum in hasher.finish().1.0 {
        let hex = sum.to_string();
        assert!(!world.dir.path().join(&hex[..2]).join(&hex).exists());
    }
}

#[test]
fn without_a_key_nothing_is_asked_for_and_another_copy_is_read() {
    let (alone, _) = world(700_000, false);
    let (_, other) = world(10, false);
    for (keys, told) in
        [(Identities::none("nobody gave one"), "nobody gave one"), (other, "a test")]
    {
        let error = read(&with(&alone, &keys), 0, 1 << 20).unwrap_err();
        assert_eq!(error.class, ErrorClass::Sealed);
        assert!(error.detail.contains(told), "{error}");
        assert_eq!(alone.gets() == 0, keys.is_empty());
    }
    let (both, _) = world(700_000, true);
    let content = both.plain();
    assert!(read(&content, 0, 1 << 20).unwrap() == both.audio);
    assert_eq!(content.stats().corrupt, 0);
    // A target that is away may have a copy that can be read.
    both.stores[1].set_down(true);
    assert_eq!(read(&both.plain(), 0, 100).unwrap_err().class, ErrorClass::Transient);
}

#[test]
fn a_spoiled_sealed_object_is_never_served() {
    let (alone, keys) = world(700_000, false);
    let whole = alone.stores[0].bytes("n/a~2.wav").unwrap();
    let mut rng = fastrand::Rng::with_seed(12);
    for _ in 0..30 {
        let mut bad = whole.to_vec();
        let at = rng.usize(1000..bad.len());
        bad[at] ^= 1 << rng.u8(0..8);
        alone.stores[0].tamper("n/a~2.wav", Some(&bad));
        let error = read(&with(&alone, &keys), 0, 1 << 20).unwrap_err();
        assert_eq!(error.class, ErrorClass::Corrupt, "{at}");
    }
    alone.stores[0].tamper("n/a~2.wav", Some(&whole[..whole.len() / 2]));
    let error = read(&with(&alone, &keys), 600_000, 10).unwrap_err();
    assert_eq!(error.class, ErrorClass::Corrupt);
}
