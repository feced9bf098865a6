use super::*;
use crate::recording::{CHUNK_BYTES, Encoding, FIRST_CHUNK_BYTES, chunk_at, chunk_range};
use bytes::Bytes;
use std::path::Path;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn candidate_of(name: &str, bytes: &[u8]) -> Option<Candidate> {
    let mut read = |at: u64, len: usize| {
        let from = usize::try_from(at).unwrap().min(bytes.len());
        Ok::<_, String>(Bytes::copy_from_slice(&bytes[from..(from + len).min(bytes.len())]))
    };
    candidate(name.as_bytes(), bytes.len() as u64, &mut read).unwrap()
}

/// The FLAC file of a recording, and its map; given in pieces of all lengths.
fn encoded(name: &str, bytes: &[u8], random: &mut fastrand::Rng) -> Option<(Vec<u8>, FlacMap)> {
    let file = tempfile::tempfile().unwrap();
    let mut encoder = Encoder::new(candidate_of(name, bytes)?, &file).unwrap();
    let mut rest = bytes;
    while !rest.is_empty() {
        let longest = [3, 3000, 300_000][random.usize(..3)];
        let (now, later) = rest.split_at(random.usize(1..=longest).min(rest.len()));
        encoder.push(now).unwrap();
        rest = later;
    }
    let map = encoder.finish().unwrap().expect("its parts fit together");
    let mut stored = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut stored, 0).unwrap();
    Some((stored, map))
}

fn part(map: &FlacMap, stored: &[u8], range: &Range<u64>) -> Result<Vec<u8>, BadFlac> {
    let piece = map.piece(range).stored;
    decode(map, range, &stored[piece.start as usize..piece.end as usize])
}

fn comes_back(what: &str, bytes: &[u8], (stored, map): &(Vec<u8>, FlacMap), turns: usize) {
    let size = bytes.len() as u64;
    assert_eq!(map.recording_bytes(), size, "{what}");
    assert_eq!(part(map, stored, &(0..size)).unwrap(), bytes, "{what}");
    let mut random = fastrand::Rng::with_seed(size);
    for _ in 0..turns {
        let start = random.u64(..=size);
        let range = start..random.u64(start..=size);
        let wanted = &bytes[range.start as usize..range.end as usize];
        assert!(part(map, stored, &range).unwrap() == wanted, "{what}: {range:?}");
    }
    for chunk in 0..chunk_at(size.saturating_sub(1)) + 1 {
        let range = chunk_range(chunk, size);
        let wanted = &bytes[range.start as usize..range.end as usize];
        assert!(part(map, stored, &range).unwrap() == wanted, "{what}: chunk {chunk}");
    }
    // What a rebuild finds out is what is known now; and so is what is written down.
    assert_eq!(read_head(stored).unwrap(), *map, "{what}");
    let encoding = Encoding::from(map.clone());
    let words = encoding.to_string();
    assert_eq!(Encoding::parse(&words, stored.len() as u64), Ok(encoding), "{what}");
}

fn read_head(stored: &[u8]) -> Result<FlacMap, BadFlac> {
    let (size, mut have) = (stored.len() as u64, 10);
    loop {
        match head(&stored[..have.min(stored.len())], size)? {
            Head::Map(map) => return Ok(map),
            Head::Longer(bytes) => {
                assert!(bytes > have as u64 && bytes <= size, "{bytes} of {size}");
                have = bytes as usize;
            }
        }
    }
}

/// How a header says that things are.
#[derive(Clone, Copy, Debug)]
struct Kind {
    tag: u16,
    bits: u16,
    channels: u16,
}

impl Kind {
    fn is_pcm(self) -> bool {
        self.tag == 1 && self.bits <= 24 && self.channels <= 2
    }
}

/// A WAV with chunks before and behind its samples, sizes that lie, and its end cut off or followed
/// by something.
fn hostile(random: &mut fastrand::Rng) -> (Kind, Vec<u8>) {
    let (tag, bits) =
        [(1, 8), (1, 16), (1, 16), (1, 24), (1, 32), (3, 32), (7, 8), (0x31, 0)][random.usize(..8)];
    let kind = Kind { tag, bits, channels: [1, 1, 2, 5][random.usize(..4)] };
    let align = kind.channels * bits / 8;
    let rate = [8000, 8000, 16_000, 44_100, 11_025, 96_001, 384_000][random.usize(..7)];
    let mut fmt = Vec::new();
    let extensible = random.u8(..6) == 0 && kind.tag != 0x31;
    fmt.extend(if extensible { 0xfffe } else { tag }.to_le_bytes());
    fmt.extend(kind.channels.to_le_bytes());
    fmt.extend(u32::to_le_bytes(rate));
    fmt.extend((rate * u32::from(align)).to_le_bytes());
    fmt.extend([align.to_le_bytes(), bits.to_le_bytes()].concat());
    if extensible {
        let sub = [vec![22, 0], bits.to_le_bytes().to_vec(), vec![4, 0, 0, 0]].concat();
        fmt.extend([sub, tag.to_le_bytes().to_vec(), vec![0; 14]].concat());
    }
    let chunk = |id: &[u8; 4], bytes: &[u8], size: Option<u32>| {
        let size = size.unwrap_or(bytes.len() as u32);
        [&id[..], &size.to_le_bytes(), bytes, &[0][..bytes.len() & 1]].concat()
    };
    let mut body = b"WAVE".to_vec();
    body.extend(chunk(b"fmt ", &fmt, None));
    for id in [b"LIST", b"fact", b"bext", b"junk"] {
        if random.u8(..3) == 0 {
            let most = [5, 700, 5000][random.usize(..3)];
            body.extend(chunk(id, &vec![random.u8(..); random.usize(..most)], None));
        }
    }
    let data = samples(random, kind);
    let lie = match random.u8(..6) {
        0 => Some(0),
        1 => Some(u32::MAX),
        2 => Some(0x7fff_fff1),
        3 => Some(data.len() as u32 ^ 1),
        4 => Some(random.u32(..=data.len() as u32)),
        _ => None,
    };
    body.extend(chunk(b"data", &data, lie));
    if random.u8(..3) == 0 {
        let most = [5, 700, 20_000][random.usize(..3)];
        body.extend(chunk(b"LIST", &vec![7; random.usize(..most)], None));
    }
    let size = [body.len() as u32, 0, u32::MAX, random.u32(..)][random.usize(..4)];
    let mut file = [&b"RIFF"[..], &size.to_le_bytes(), &body].concat();
    match random.u8(..6) {
        0 => file.truncate(random.usize(..=file.len())),
        1 => file.extend(vec![0xaa; random.usize(..50)]),
        2 => file.truncate(file.len() - (data.len() / 2).min(file.len() - 44)),
        _ => {}
    }
    (kind, file)
}

/// Silence, a tone, noise, or the widest swings; of a length beside the ends of chunks and blocks.
fn samples(random: &mut fastrand::Rng, kind: Kind) -> Vec<u8> {
    let block = usize::from(kind.channels * kind.bits / 8) * 1024;
    let (first, chunk) = (FIRST_CHUNK_BYTES as usize, CHUNK_BYTES as usize);
    let near = [0, 0, 1, 44, block, 3 * block, first, first, first + chunk, first + 2 * chunk];
    let near = near[random.usize(..near.len())] as i64 + random.i64(-150..150);
    let len = near.max(0) as usize;
    let (how, pitch) = (random.u8(..4), random.f64());
    let mut at = 0u32;
    let mut byte = || {
        at += 1;
        match how {
            0 => 0,
            1 => ((f64::from(at) * pitch).sin() * 40.0) as i8 as u8,
            2 => random.u8(..),
            _ => [0x80, 0x00, 0xff, 0x7f][random.usize(..4)],
        }
    };
    (0..len).map(|_| byte()).collect()
}

#[test]
fn every_hostile_wav_comes_back_as_it_was() {
    let mut random = fastrand::Rng::with_seed(20_261_121);
    let (mut stored, mut plain) = (0, 0);
    for turn in 0..240 {
        let (kind, bytes) = hostile(&mut random);
        let what = format!("{turn}: {kind:?}, {} bytes", bytes.len());
        let Some(flac) = encoded("a.wav", &bytes, &mut random) else {
            plain += 1;
            continue;
        };
        assert!(kind.is_pcm(), "{what}");
        stored += 1;
        comes_back(&what, &bytes, &flac, 8);
    }
    assert!(stored > 60 && plain > 60, "{stored} and {plain}");
}

#[test]
fn recordings_of_asterisk_come_back_smaller() {
    let mut random = fastrand::Rng::with_seed(1);
    let wide = "formats/in-3001-02079460001-20261121-022745-1795228065.0.wav16";
    let monitor = "monitor/2026/11/21/exten-4001-02079460001-20261121-022712-1795228032.23.wav";
    let cut = "crashed/in-3001-02079460001-20261121-022819-1795228099.0.wav";
    let slin = "formats/in-3001-02079460001-20261121-022812-1795228092.0.sln";
    for name in [wide, monitor, cut, slin] {
        let bytes = fixture(name);
        let flac = encoded(name, &bytes, &mut random).unwrap();
        comes_back(name, &bytes, &flac, 50);
        assert!(flac.0.len() * 10 < bytes.len() * 9, "{name}: {} of {}", flac.0.len(), bytes.len());
    }
}

#[test]
fn what_is_no_pcm_is_left_alone() {
    for name in [
        "formats/in-3001-02079460001-20261121-022738-1795228058.0.WAV",
        "formats/in-3001-02079460001-20261121-022751-1795228071.0.gsm",
        "formats/in-3001-02079460001-20261121-022758-1795228078.0.ulaw",
        "formats/in-3001-02079460001-20261121-022805-1795228085.0.alaw",
    ] {
        assert_eq!(candidate_of(name, &fixture(name)), None, "{name}");
    }
    for (name, bytes) in [("a.wav", &b""[..]), ("a.sln", b""), ("a.raw", &[0; 900]), ("a", b"x")] {
        assert_eq!(candidate_of(name, bytes), None, "{name}");
    }
    let header = crate::codec::wav_header(Coding::Pcm16, 8000, 1, 100);
    assert_eq!(header.len(), 44);
    assert_eq!(candidate_of("a.wav", &header), None, "there is nothing behind its header");
    let one = [&header[..], &[1, 2, 3]].concat();
    let flac = encoded("a.wav", &one, &mut fastrand::Rng::with_seed(1)).unwrap();
    comes_back("one sample and a half", &one, &flac, 20);
}

#[test]
fn a_part_needs_little_more_than_its_own_frames() {
    let mut random = fastrand::Rng::with_seed(2);
    let pcm: Vec<u8> = (0..3_000_000).map(|_| random.u8(..)).collect();
    let header = crate::codec::wav_header(Coding::Pcm16, 8000, 1, pcm.len() as u64);
    let bytes = [header, pcm].concat();
    let (stored, map) = encoded("a.wav", &bytes, &mut random).unwrap();
    for chunk in 0..=chunk_at(bytes.len() as u64 - 1) {
        let range = chunk_range(chunk, bytes.len() as u64);
        let piece = map.piece(&range).stored;
        let (need, len) = (piece.end - piece.start, range.end - range.start);
        // Noise: what is stored is as long as what it is made from.
        assert!(need < len + 5000, "chunk {chunk}: {need} bytes for {len}");
    }
    assert!(map.piece(&(0..1)).stored.end - map.piece(&(0..1)).stored.start < 68_000);
    assert!(stored.len() < bytes.len() + 30_000);
}

#[test]
fn a_spoiled_object_gives_an_error_or_other_bytes_but_no_more_than_asked_for() {
    let mut random = fastrand::Rng::with_seed(3);
    let bytes = fixture("formats/in-3001-02079460001-20261121-022745-1795228065.0.wav16");
    let (stored, map) = encoded("a.wav16", &bytes, &mut random).unwrap();
    let mut refused = 0;
    for _ in 0..300 {
        let mut spoiled = stored.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..spoiled.len());
            spoiled[at] = random.u8(..);
        }
        let start = random.u64(..bytes.len() as u64);
        let range = start..random.u64(start..=bytes.len() as u64);
        match part(&map, &spoiled, &range) {
            Ok(found) => assert!(found.len() as u64 <= range.end - range.start),
            Err(_) => refused += 1,
        }
        if let Ok(map) = read_head(&spoiled) {
            let _right_or_not = part(&map, &spoiled, &(0..map.recording_bytes().min(1 << 20)));
        }
    }
    assert!(refused > 50, "{refused}");
    assert!(decode(&map, &(0..100), &stored[..50]).is_err(), "too few frames");
}

#[test]
fn other_flac_files_are_not_taken_for_recordings() {
    assert!(read_head(b"RIFF, and so on and so on").is_err());
    assert!(read_head(b"fLaC").is_err());
    let bytes = fixture("formats/in-3001-02079460001-20261121-022812-1795228092.0.sln");
    let mut random = fastrand::Rng::with_seed(4);
    let (stored, _) = encoded("a.sln", &bytes, &mut random).unwrap();
    let at = stored.windows(4).position(|w| w == APPLICATION).unwrap();
    for (at, byte) in [(at, b'x'), (at + 4, 9), (8, 99), (20, 0xff)] {
        let mut other = stored.clone();
        other[at] = byte;
        assert!(read_head(&other).is_err(), "{at}");
    }
    for len in 0..at {
        assert!(read_head(&stored[..len]).is_err(), "{len}");
    }
}
