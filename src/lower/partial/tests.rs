use super::*;
use crate::lower::Looks;
use crate::recording::Kind;

const ARCHIVED: u64 = 300_000;
const ID: NodeId = NodeId(77);

fn attr(size: u64) -> Attr {
    let at = Timestamp(1_700_000_000_000_000_000);
    Attr {
        kind: Kind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size,
        mtime: at,
        atime: at,
        ctime: at,
        nlink: 1,
        rdev: 0,
        blocks: 1,
        special: 0,
    }
}

fn noise(rng: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

fn lower(dir: &tempfile::TempDir) -> Arc<Lower> {
    Lower::open(dir.path()).unwrap()
}

fn begin(lower: &Lower) -> Arc<Partial> {
    lower.begin_partial(ID, Generation(3), &attr(ARCHIVED)).unwrap()
}

/// What a user sees of it.
fn read(partial: &Partial, archived: &[u8], offset: u64, len: usize) -> Vec<u8> {
    let wanted = partial.missing(offset..offset + len as u64);
    let brought = wanted.map(|r| (r.start, &archived[r.start as usize..r.end as usize]));
    partial.read(offset, len, brought).unwrap()
}

fn write(partial: &Partial, offset: u64, bytes: &[u8]) {
    let file = partial.open(OFlags::WRONLY).unwrap();
    let mut change = partial.change();
    file.write_all_at(bytes, offset).unwrap();
    change.wrote(offset, bytes.len() as u64).unwrap();
}

fn resize(partial: &Partial, len: u64) {
    let file = partial.open(OFlags::WRONLY).unwrap();
    let mut change = partial.change();
    file.set_len(len).unwrap();
    change.resized(len).unwrap();
}

fn put_all(partial: &Partial, archived: &[u8]) {
    for gap in partial.gaps() {
        partial.put(gap.start, &archived[gap.start as usize..gap.end as usize]).unwrap();
    }
}

/// Whatever is written, cut, fetched and read in whatever order, with the daemon killed in
/// between: it is the file that a plain one would be.
#[test]
fn a_partial_recording_is_what_a_whole_one_would_be() {
    for seed in 0..30 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let archived = noise(&mut rng, ARCHIVED as usize);
        let mut model = archived.clone();
        let dir = tempfile::tempdir().unwrap();
        let mut below = lower(&dir);
        let mut partial = begin(&below);
        for step in 0..120 {
            let len = model.len() as u64;
            match rng.u8(..12) {
                0..4 => {
                    let at = rng.u64(..=len);
                    let count = rng.usize(1..20_000);
                    let bytes = noise(&mut rng, count);
                    let end = at as usize + bytes.len();
                    model.resize(model.len().max(end), 0);
                    model[at as usize..end].copy_from_slice(&bytes);
                    write(&partial, at, &bytes);
                }
                4 if rng.u8(..3) == 0 => {
                    let to = rng.u64(..ARCHIVED * 2);
                    model.resize(to as usize, 0);
                    resize(&partial, to);
                }
                4..7 => {
                    let at = rng.usize(..archived.len());
                    let end = (at + rng.usize(..90_000)).min(archived.len());
                    partial.put(at as u64, &archived[at..end]).unwrap();
                }
                7 => {
                    drop((partial, below));
                    below = lower(&dir);
                    partial = below.partial(ID).unwrap();
                }
                _ => {
                    let (at, count) = (rng.u64(..=len), rng.usize(..100_000));
                    let end = model.len().min(at as usize + count);
                    let seen = read(&partial, &archived, at, count);
                    assert!(seen == model[at as usize..end], "seed {seed}, step {step}");
                }
            }
            assert_eq!(partial.live().unwrap().size, model.len() as u64, "seed {seed}");
        }
        put_all(&partial, &archived);
        assert!(partial.gaps().is_empty());
        let whole = partial.read(0, model.len() + 9, None).unwrap();
        assert!(whole == model, "seed {seed}");
    }
}

#[test]
fn a_whole_one_gets_its_name_and_an_incomplete_one_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let below = lower(&dir);
    let partial = begin(&below);
    let archived = vec![7; ARCHIVED as usize];
    partial.writer_came();
    write(&partial, ARCHIVED, b"more");
    let written = partial.live().unwrap().mtime;
    assert!(written > attr(0).mtime);
    let place = |wanted: bool| {
        let looks = Looks { attr: Attr { mode: 0o640, ..attr(ARCHIVED) }, xattrs: Vec::new() };
        let wanted = || wanted.then(|| looks.clone());
        let writers = std::cell::Cell::new(None);
        let at = (NodeId::ROOT, Path::new("a.wav"));
        let placed = below.place_partial(&partial, at, &wanted, &|n| writers.set(Some(n)));
        (placed, writers.get())
    };
    assert!(matches!(place(true), (Err(LowerError::Changed { .. }), None)));
    put_all(&partial, &archived);
    assert!(matches!(place(false), (Err(LowerError::Changed { .. }), None)));
    std::fs::write(dir.path().join("a.wav"), b"another").unwrap();
    assert!(matches!(place(true), (Err(LowerError::Changed { .. }), None)));
    std::fs::remove_file(dir.path().join("a.wav")).unwrap();
    let (stat, writers) = place(true);
    let stat = stat.unwrap();
    assert_eq!((stat.node, stat.attr.mode, writers), (Some(ID), 0o640, Some(1)));
    assert_eq!(stat.attr.mtime, written);
    let bytes = std::fs::read(dir.path().join("a.wav")).unwrap();
    assert!(bytes == [&archived[..], b"more"].concat());
    assert!(below.partial(ID).is_none() && partial.writer_left().is_none());
    assert_eq!(std::fs::read_dir(dir.path().join(".spl/partial")).unwrap().count(), 0);
}

#[test]
fn what_was_not_synced_when_the_power_went_is_as_archived() {
    let dir = tempfile::tempdir().unwrap();
    let archived = vec![7; ARCHIVED as usize];
    let below = lower(&dir);
    let partial = begin(&below);
    write(&partial, 10, b"synced");
    partial.sync(false).unwrap();
    write(&partial, 100, b"not synced");
    drop((partial, below));
    // As another boot finds it, its bytes lost.
    let log =
        dir.path().join(format!(".spl/partial/{}.log", partial_name(ID, Generation(3), ARCHIVED)));
    let mut bytes = std::fs::read(&log).unwrap();
    let other = Log::of_boot(5);
    bytes[..other.len()].copy_from_slice(&other);
    std::fs::write(&log, bytes).unwrap();
    for _ in 0..2 {
        let below = lower(&dir);
        let partial = below.partial(ID).unwrap();
        let seen = read(&partial, &archived, 0, 200);
        assert_eq!(&seen[10..16], b"synced");
        assert!(seen[16..].iter().all(|b| *b == 7));
    }
}

#[test]
fn one_that_nobody_changed_is_dropped_and_one_in_the_way_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let below = lower(&dir);
    let partial = begin(&below);
    partial.writer_came();
    assert_eq!(partial.writer_left(), Some(true));
    below.drop_partial(&partial);
    assert!(below.partial(ID).is_none());
    let partial = begin(&below);
    partial.writer_came();
    write(&partial, 5, b"bytes");
    assert_eq!(partial.writer_left(), Some(false));
    drop(partial);
    let below = lower(&dir);
    let kept = below.set_aside_partial(&below.partial(ID).unwrap()).unwrap();
    assert_eq!(&std::fs::read(dir.path().join(kept)).unwrap()[5..10], b"bytes");
    assert!(lower(&dir).partials().is_empty());
}
