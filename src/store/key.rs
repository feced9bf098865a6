//! Object keys (docs/FORMAT.md, "Keys"): the path of a recording as people know it, made safe.
//!
//! **Invariant:** a key is valid UTF-8 of at most `KEY_BYTES_MAX` bytes, each component at most
//! `KEY_COMPONENT_BYTES_MAX` bytes and neither empty, "." nor "..", and none lies in the
//! reserved `.spoolfs/`. Who needs a fresh key takes the first candidate that was never used.

use crate::limits::{KEY_BYTES_MAX, KEY_COMPONENT_BYTES_MAX};
use crate::recording::{Encoding, Generation, Sha256};
use std::borrow::Cow;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// The directory of the archive's own objects, below the prefix.
pub const RESERVED: &str = ".spoolfs";
/// What is added to the name of a recording that is stored as FLAC, and of one that is sealed.
const FLAC_SUFFIX: &str = ".flac";
const SEALED_SUFFIX: &str = ".age";
/// Where joined calls are stored, below the prefix.
pub const JOINED: &str = "stitched/";
/// Longest prefix of a target's URL, in bytes.
pub const PREFIX_BYTES_MAX: usize = 512;
/// Longest component made of a node's name, in bytes.
pub const NODE_BYTES_MAX: usize = 128;
/// Longest suffix that is kept when a name is cut, in bytes, with its dot.
const SUFFIX_BYTES_MAX: usize = 24;

/// The key of what is told of an archive, if it is sealed.
pub fn sealed(key: &str) -> String {
    format!("{key}{SEALED_SUFFIX}")
}

/// The key that it would have if it were not sealed.
pub fn unsealed(key: &str) -> &str {
    key.strip_suffix(SEALED_SUFFIX).unwrap_or(key)
}

/// The path that the key of an object is made from: that of the recording, with the suffix of what is
/// stored of it.
pub fn object_path<'a>(path: &'a Path, encoding: &Encoding) -> Cow<'a, Path> {
    let suffix = suffix(encoding);
    if suffix.is_empty() {
        return Cow::Borrowed(path);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    Cow::Owned(name.into())
}

/// What is added to the name of a recording that is stored like this.
pub fn suffix(encoding: &Encoding) -> String {
    match encoding {
        Encoding::Flac(_) => FLAC_SUFFIX.to_owned(),
        Encoding::Sealed(sealed) => suffix(sealed.inner()) + SEALED_SUFFIX,
        Encoding::Plain | Encoding::Patched(_) => String::new(),
    }
}

/// Keys for one generation of the recording at `path` (relative to the mount), best first: the
/// plain one; one for each of `random`, told apart by `~<generation>-<8 hex>` before the suffix;
/// and last the plain path below a directory of that name, for a directory target that has a
/// file where the path needs a directory.
pub fn candidates(
    prefix: &str,
    node: &str,
    path: &Path,
    generation: Generation,
    random: &[u32],
) -> Vec<String> {
    let base = format!("{prefix}{}/", node_component(node));
    let (dirs, name) = encoded(path);
    let tag = |n: &u32| format!("~{}-{n:08x}", generation.0);
    let mut keys = vec![assemble(&base, &dirs, &name, "")];
    keys.extend(random.iter().map(|n| assemble(&base, &dirs, &name, &tag(n))));
    if let Some(n) = random.last() {
        let mut below: Vec<String> = vec![tag(n)];
        below.extend(dirs);
        keys.push(assemble(&base, &below, &name, ""));
    }
    keys
}

/// The key of a stored join (docs/FORMAT.md, "Joined calls") whose file has this name; with a number
/// that tells it apart, if the plain key is taken.
pub fn joined(prefix: &str, name: &str, number: Option<u64>) -> String {
    let tag = number.map(|n| format!("~{n:016x}")).unwrap_or_default();
    format!("{prefix}{JOINED}{}", fit(name, &tag, KEY_COMPONENT_BYTES_MAX))
}

/// The component of keys that stands for a node.
pub fn node_component(node: &str) -> String {
    match encode(node.replace('/', "%").as_bytes()) {
        name if name == RESERVED => format!("%2E{}", RESERVED.trim_start_matches('.')),
        name => fit(&name, "", NODE_BYTES_MAX),
    }
}

/// A name with its odd bytes written as `%XX`: control characters, bytes that are no UTF-8, what
/// XML can not carry, `\` (SeaweedFS makes it a `/`), `%` itself, and the dots of "." and "..".
/// Reversed by `decode`.
pub fn encode(name: &[u8]) -> String {
    if name == b"." || name == b".." {
        return "%2E".repeat(name.len());
    }
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || matches!(c, '%' | '\\' | '\u{fffe}' | '\u{ffff}') {
                percent(&mut out, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                out.push(c);
            }
        }
        percent(&mut out, chunk.invalid());
    }
    out
}

/// The name that `encode` was given; `None` if this is no encoded name.
pub fn decode(component: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(component.len());
    let mut parts = component.split('%');
    out.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if digits.contains(|c: char| !matches!(c, '0'..='9' | 'A'..='F')) {
            return None;
        }
        out.push(u8::from_str_radix(digits, 16).ok()?);
        out.extend_from_slice(rest.as_bytes());
    }
    Some(out)
}

fn percent(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String can not fail.
        let _infallible = write!(out, "%{byte:02X}");
    }
}

fn encoded(path: &Path) -> (Vec<String>, String) {
    let mut parts: Vec<String> = path
        .components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(encode(name.as_bytes())),
            // Not in a path relative to the mount; kept harmless all the same.
            Component::ParentDir => Some(encode(b"..")),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        })
        .collect();
    let name = parts.pop().unwrap_or_else(|| "%".into());
    (parts, name)
}

/// Joins what fits: directories too many for the whole key become one that is named by a hash.
fn assemble(base: &str, dirs: &[String], name: &str, tag: &str) -> String {
    let dirs: Vec<Cow<'_, str>> = dirs
        .iter()
        .map(|d| match d.len() <= KEY_COMPONENT_BYTES_MAX {
            true => Cow::Borrowed(d.as_str()),
            false => Cow::Owned(fit(d, "", KEY_COMPONENT_BYTES_MAX)),
        })
        .collect();
    let name = fit(name, tag, KEY_COMPONENT_BYTES_MAX);
    let whole: String = dirs.iter().map(|d| format!("{d}/")).collect();
    if base.len() + whole.len() + name.len() <= KEY_BYTES_MAX {
        return format!("{base}{whole}{name}");
    }
    let stand_in = format!("~{}/", short_hash(&whole));
    let mut room = KEY_BYTES_MAX.saturating_sub(base.len() + stand_in.len() + name.len());
    let mut kept = String::new();
    for dir in &dirs {
        if dir.len() + 1 > room {
            break;
        }
        room -= dir.len() + 1;
        kept.push_str(dir);
        kept.push('/');
    }
    format!("{base}{kept}{stand_in}{name}")
}

/// `name` with `tag` before its suffix, in at most `max` bytes: what is cut from the middle is
/// replaced by a hash of the whole name.
fn fit(name: &str, tag: &str, max: usize) -> String {
    let (stem, suffix) = split_suffix(name);
    if name.len() + tag.len() <= max {
        return format!("{stem}{tag}{suffix}");
    }
    let hash = short_hash(name);
    let room = max.saturating_sub(1 + hash.len() + tag.len() + suffix.len());
    format!("{}~{hash}{tag}{suffix}", cut(stem, room))
}

fn split_suffix(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= SUFFIX_BYTES_MAX => name.split_at(dot),
        _ => (name, ""),
    }
}

/// The longest beginning of at most `room` bytes that splits neither a character nor a `%XX`.
fn cut(text: &str, room: usize) -> &str {
    let mut end = room.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let kept = text.get(..end).unwrap_or_default();
    match kept.rfind('%') {
        Some(at) if kept.len() - at < 3 => kept.get(..at).unwrap_or_default(),
        _ => kept,
    }
}

fn short_hash(text: &str) -> String {
    let mut hex = Sha256::of(text.as_bytes()).to_string();
    hex.truncate(16);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::ffi::OsStr;
    use std::path::PathBuf;

    fn keys(path: &str, random: &[u32]) -> Vec<String> {
        candidates("p/", "pbx-1", Path::new(path), Generation(2), random)
    }

    #[test]
    fn a_key_is_the_path_people_know_and_then_one_told_apart() {
        assert_eq!(
            keys("2024/11/12/a b+c#ü.wav", &[0xdeadbeef, 7]),
            [
                "p/pbx-1/2024/11/12/a b+c#ü.wav",
                "p/pbx-1/2024/11/12/a b+c#ü~2-deadbeef.wav",
                "p/pbx-1/2024/11/12/a b+c#ü~2-00000007.wav",
                "p/pbx-1/~2-00000007/2024/11/12/a b+c#ü.wav",
            ]
        );
        assert_eq!(keys("foo.wav.flac", &[1])[1], "p/pbx-1/foo.wav~2-00000001.flac");
        let flac = object_path(Path::new("a/foo.wav"), &Encoding::Flac(None));
        assert_eq!(flac, Path::new("a/foo.wav.flac"));
        for (words, name) in [("age", "a/foo.wav.age"), ("age;flac", "a/foo.wav.flac.age")] {
            let sealed = Encoding::parse(words, 1000).unwrap();
            assert_eq!(object_path(Path::new("a/foo.wav"), &sealed), Path::new(name));
        }
        assert_eq!(keys("foo.wav.flac.age", &[1])[1], "p/pbx-1/foo.wav.flac~2-00000001.age");
        assert_eq!(keys(".hidden", &[1])[1], "p/pbx-1/.hidden~2-00000001");
    }

    #[test]
    fn odd_bytes_are_escaped_and_come_back() {
        for (name, want) in [
            (&b"a%b"[..], "a%25b"),
            (b"a\nb\x7f", "a%0Ab%7F"),
            (b"\xff\xc3(", "%FF%C3("),
            (b"a\\b", "a%5Cb"),
            (b".", "%2E"),
            (b"..", "%2E%2E"),
            (b"...", "..."),
            ("\u{85}\u{ffff}".as_bytes(), "%C2%85%EF%BF%BF"),
        ] {
            assert_eq!(encode(name), want);
            assert_eq!(decode(want).as_deref(), Some(name));
        }
        for bad in ["%", "%4", "%zz", "%2e", "a%+1"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_node_name_reaches_the_reserved_directory() {
        for node in [".spoolfs", "..", ".", "a/b", "x\0y"] {
            let key = &candidates("", node, Path::new("journal/x"), Generation(1), &[])[0];
            assert!(!key.starts_with(".spoolfs/") && key.split('/').count() == 3, "{key}");
            assert!(key.split('/').all(|c| c != ".." && c != "."), "{key}");
        }
    }

    #[test]
    fn long_names_keep_their_suffix_and_stay_different() {
        let long = |tail: &str| format!("{}{tail}.wav", "ä%".repeat(200));
        let (a, b) = (keys(&long("1"), &[9]), keys(&long("2"), &[9]));
        for key in a.iter().chain(&b) {
            let name = key.rsplit('/').next().unwrap();
            assert!(name.len() <= KEY_COMPONENT_BYTES_MAX && name.ends_with(".wav"), "{name}");
        }
        assert_ne!(a[0], b[0]);
        assert!(a[1].ends_with("~2-00000009.wav"));
    }

    #[test]
    fn deep_paths_keep_their_beginning_and_stay_different() {
        let deep = |last: &str| format!("{}/{last}/a.wav", vec!["d".repeat(90); 20].join("/"));
        let (a, b) = (&keys(&deep("x"), &[])[0], &keys(&deep("y"), &[])[0]);
        assert!(a.len() <= KEY_BYTES_MAX && a.starts_with("p/pbx-1/ddd") && a.ends_with("/a.wav"));
        assert_ne!(a, b);
    }

    /// Names of all kinds: bytes at random, nearly "..", percent signs, long, not UTF-8.
    fn random_name(rng: &mut fastrand::Rng) -> Vec<u8> {
        let longest = [3, 20, 255][rng.usize(0..3)];
        let len = rng.usize(1..=longest);
        let pool: &[u8] = [&b"."[..], b"%2E.", b"a.wav~", b"\xc3\xa4\n\x7f", b""][rng.usize(0..5)];
        let mut byte = || match pool {
            [] => rng.u8(1..),
            pool => pool[rng.usize(0..pool.len())],
        };
        let name: Vec<u8> =
            (0..len).map(|_| byte()).map(|b| if b == b'/' { b'_' } else { b }).collect();
        match &name[..] {
            b"." | b".." => b"...".to_vec(),
            _ => name,
        }
    }

    #[test]
    fn every_name_can_be_encoded_and_decoded() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let name = random_name(&mut rng);
            let encoded = encode(&name);
            assert_eq!(decode(&encoded).unwrap(), name);
            assert!(!encoded.contains(|c: char| c.is_control() || matches!(c, '/' | '\\')));
        }
    }

    #[test]
    fn every_path_gives_valid_keys_that_differ_from_those_of_other_paths() {
        let mut rng = fastrand::Rng::with_seed(2);
        let mut paths = HashSet::new();
        let mut plain = HashSet::new();
        for _ in 0..5_000 {
            let deepest = [2, 4, 14][rng.usize(0..3)];
            let depth = rng.usize(1..=deepest);
            let path: PathBuf =
                (0..depth).map(|_| OsStr::from_bytes(&random_name(&mut rng)).to_owned()).collect();
            let prefix = ["", "p/", &format!("{}/", "x".repeat(511))][rng.usize(0..3)].to_owned();
            let node = ["n", &"ü".repeat(200)][rng.usize(0..2)].to_owned();
            let keys = candidates(&prefix, &node, &path, Generation(1), &[rng.u32(..), 2]);
            for key in &keys {
                assert!(key.len() <= KEY_BYTES_MAX, "{} {key}", key.len());
                assert!(key.starts_with(&prefix));
                for component in key.split('/').skip(usize::from(!prefix.is_empty())) {
                    assert!(!matches!(component, "" | "." | ".."), "{key}");
                    assert!(component.len() <= KEY_COMPONENT_BYTES_MAX);
                }
            }
            assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
            if paths.insert((prefix, node, path)) {
                assert!(plain.insert(keys[0].clone()), "{}", keys[0]);
            }
        }
    }
}
