//! Hidden names (docs/FORMAT.md, "Hidden names"): keys of objects that are keyed pseudonyms, and
//! metadata that is sealed to whoever has the name key of the machine.
//!
//! **Invariant:** without the name key a hidden object tells its node, its length and when it was put,
//! and nothing else; nothing here shows the key.

use super::ObjectMeta;
use super::key::{self, JOINED, RESERVED};
use super::meta::{self, FORMAT, FORMAT_HIDDEN, FORMAT_VERSION, LabelError, NODE};
use crate::codec::seal::{self, Identities, Recipients};
use crate::limits;
use crate::private_file;
use crate::recording::{Generation, NodeId, Sha256, hmac};
use age::secrecy::ExposeSecret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use zeroize::Zeroizing;

/// The file of the name key, in the state directory.
pub const FILE: &str = "names.key";
const SUFFIX: &str = ".age";
/// What is sealed of the metadata, and the path, which is only in what is sealed.
const LABEL: &str = "spoolfs-label";
const PATH: &str = "spoolfs-path";
/// What is sealed has this length, so that it does not tell how long a path is: with all that age adds,
/// and the longest name of a node, the metadata has less than 2,000 bytes.
const LABEL_BYTES: usize = 768;
/// Hexadecimal digits of a pseudonym: 128 bits.
const DIGITS: usize = 32;

/// What has a pseudonym.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// One generation of a recording.
    Recording(NodeId, Generation, Sha256),
    /// The stored join of a call, by its id.
    Join(&'a [u8]),
}

/// The name key of a machine: secret keys of age, one a line. The first one names; all open what was
/// sealed to any of them.
#[derive(Clone)]
pub struct NameKey {
    lines: Vec<Zeroizing<String>>,
    to: Recipients,
    identities: Identities,
}

impl std::fmt::Debug for NameKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NameKey({} keys)", self.lines.len())
    }
}

impl NameKey {
    /// A new one.
    ///
    /// # Errors
    /// What it is made of is no key; that can not be.
    pub fn fresh() -> Result<NameKey, String> {
        let key = age::x25519::Identity::generate().to_string();
        NameKey::parse(key.expose_secret().as_bytes())
    }

    /// From the text of its file.
    ///
    /// # Errors
    /// What is wrong, without a word of what is in it.
    pub fn parse(text: &[u8]) -> Result<NameKey, String> {
        let text = std::str::from_utf8(text).map_err(|_| "it is no text")?;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let lines: Vec<_> = lines.map(|line| Zeroizing::new(line.to_owned())).collect();
        let bad = "it has lines that are no secret key of age (AGE-SECRET-KEY-1...)";
        let first = lines.first().ok_or("there is no key in it")?;
        let first = first.parse::<age::x25519::Identity>().map_err(|_| bad)?;
        let to = Recipients::parse(&[first.to_public().to_string()]).ok().flatten().ok_or(bad)?;
        let identities = Identities::parse(text.as_bytes(), FILE)?;
        Ok(NameKey { lines, to, identities })
    }

    /// Reads its file; `None` if there is none.
    ///
    /// # Errors
    /// What is wrong with the file, and what to do.
    pub fn load(path: &Path) -> Result<Option<NameKey>, String> {
        if !path.try_exists().map_err(|e| format!("{}: {e}", path.display()))? {
            return Ok(None);
        }
        let text = private_file::read("the name key", path, limits::SECRET_BYTES_MAX)?;
        let key = NameKey::parse(&text).map_err(|why| {
            format!(
                "the name key {}: {why}; put it back (docs/SECURITY.md, \"Hidden names\"), or move the \
                 file away, so that a new one is made",
                path.display()
            )
        })?;
        Ok(Some(key))
    }

    /// Writes its file, whole or not at all.
    ///
    /// # Errors
    /// What the disk says.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension("key.new");
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    /// What is in its file.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(80 * self.lines.len()));
        self.lines.iter().for_each(|line| {
            text.push_str(line);
            text.push('\n');
        });
        text
    }

    /// This one, which opens what another does, too.
    ///
    /// # Errors
    /// As `parse`.
    pub fn and(&self, other: &NameKey) -> Result<NameKey, String> {
        let mut text = self.text();
        for line in other.lines.iter().filter(|line| !self.lines.contains(line)) {
            text.push_str(line);
            text.push('\n');
        }
        NameKey::parse(text.as_bytes())
    }

    /// Whether another has the key that this one names with; `or_any`: or any of its keys.
    pub fn is_known_by(&self, other: &NameKey, or_any: bool) -> bool {
        let keys = if or_any { self.lines.len() } else { 1 };
        self.lines.iter().take(keys).any(|line| other.lines.contains(line))
    }

    /// What opens what it sealed.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// Keys for an object, best first; those after the first are made with one of `random` each.
    pub fn keys(&self, prefix: &str, node: &str, named: Named<'_>, random: &[u32]) -> Vec<String> {
        let secret = self.lines.first().map(|line| line.as_bytes()).unwrap_or_default();
        let one = |number: Option<&u32>| {
            let text = match named {
                Named::Recording(id, generation, sha256) => {
                    format!("recording:{id}:{}:{sha256}", generation.0)
                }
                Named::Join(call) => format!("join:{}", key::encode(call)),
            };
            let tag = number.map(|number| format!(":{number}")).unwrap_or_default();
            let digest = hmac(secret, &[text.as_bytes(), tag.as_bytes()]).to_string();
            let name = digest.get(..DIGITS).unwrap_or_default();
            match named {
                Named::Recording(..) => {
                    let dir = name.get(..2).unwrap_or_default();
                    format!("{prefix}{}/{dir}/{name}{SUFFIX}", key::node_component(node))
                }
                Named::Join(_) => format!("{prefix}{JOINED}{name}{SUFFIX}"),
            }
        };
        std::iter::once(None).chain(random.iter().map(Some)).map(one).collect()
    }

    /// Metadata that tells who has the key what `open` tells everybody, and the path if there is room
    /// for it; `None` if there is no room for the rest.
    ///
    /// # Errors
    /// It can not be sealed.
    pub fn hide(&self, open: &ObjectMeta, path: Option<&Path>) -> io::Result<Option<ObjectMeta>> {
        let (node, rest): (Vec<_>, Vec<_>) =
            open.user.iter().cloned().partition(|(name, _)| name == NODE);
        let mut text: String =
            rest.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        if let Some(path) = path {
            let line = format!("{PATH}={}\n", written(path));
            if text.len() + line.len() <= LABEL_BYTES {
                text.push_str(&line);
            }
        }
        let Some(room) = LABEL_BYTES.checked_sub(text.len()) else { return Ok(None) };
        text.extend(std::iter::repeat_n('\n', room));
        let label = BASE64.encode(seal::seal_all(&self.to, text.as_bytes())?);
        let mut user = vec![(FORMAT.to_owned(), FORMAT_HIDDEN.to_string())];
        user.extend(node);
        user.push((LABEL.to_owned(), label));
        let content_type = "application/octet-stream".to_owned();
        Ok(Some(ObjectMeta { content_type, user, storage_class: open.storage_class.clone() }))
    }
}

/// User metadata as it was before it was hidden; what is not hidden is as it is.
///
/// # Errors
/// `Hidden`: there is no name key that opens it, or it is not what was sealed.
pub fn revealed<'a>(
    user: &'a [(String, String)],
    names: &Identities,
) -> Result<Cow<'a, [(String, String)]>, LabelError> {
    let Ok(label) = meta::text(user, LABEL) else { return Ok(Cow::Borrowed(user)) };
    let hidden = |why: String| LabelError::Hidden(why);
    match meta::text(user, FORMAT).ok().and_then(|format| format.parse().ok()) {
        Some(newer) if newer > FORMAT_VERSION => return Err(LabelError::Newer(newer)),
        _ => {}
    }
    let sealed = BASE64.decode(label).map_err(|_| hidden("it is no base64".to_owned()))?;
    let text = seal::open_all(&sealed, names).map_err(|why| hidden(why.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| hidden("it is no text".to_owned()))?;
    let field =
        |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    // The version of the format is the one that it would have.
    let open = user.iter().filter(|(name, _)| name.eq_ignore_ascii_case(NODE)).cloned();
    Ok(open.chain(text.lines().filter_map(field)).collect())
}

/// Whether metadata that is hidden says in clear that it is of this machine.
pub fn is_of(user: &[(String, String)], node: &str) -> bool {
    meta::text(user, NODE).is_ok_and(|of| of == key::node_component(node))
}

/// The path that an object was archived with, of what `revealed` gave.
pub fn path(user: &[(String, String)]) -> Option<PathBuf> {
    let path = meta::text(user, PATH).ok()?;
    path.split('/').map(|part| key::decode(part).map(OsString::from_vec)).collect()
}

fn written(path: &Path) -> String {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(key::encode(name.as_bytes())),
        _ => None,
    });
    meta::ascii(&names.collect::<Vec<_>>().join("/"))
}

/// Whether a key is one that `NameKey::keys` makes.
pub fn is_hidden(key: &str) -> bool {
    let mut parts = key.rsplit('/');
    let (Some(name), Some(dir)) = (parts.next(), parts.next()) else { return false };
    let Some(name) = name.strip_suffix(SUFFIX) else { return false };
    let hex = name.len() == DIGITS && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    hex && (name.starts_with(dir) && dir.len() == 2 || format!("{dir}/") == JOINED)
}

/// Where a target has the name keys of a machine, sealed as what is told.
pub fn directory(prefix: &str, node: &str) -> String {
    format!("{prefix}{RESERVED}/names/{}/", key::node_component(node))
}

/// The setting of the catalog that tells what a target was told last of it, and when. Empty: it is to be
/// told again.
pub fn told_setting(target: &str) -> String {
    format!("names.told.{target}")
}

/// A key for the name key; `random` tells it apart from others.
pub fn told_key(prefix: &str, node: &str, random: u32) -> String {
    format!("{}{random:08x}{SUFFIX}", directory(prefix, node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::recording::{Encoding, Stored};
    use crate::store::meta::Label;
    use std::collections::HashSet;

    fn label(node: &str, encoding: &str) -> Label {
        let (size, sha256) = (u64::MAX, Sha256::of(b"x"));
        let stored = Stored { encoding: Encoding::parse(encoding, size).unwrap(), size, sha256 };
        let (id, generation) = (NodeId(u64::MAX), Generation(u32::MAX));
        Label { node: node.into(), id, generation, sha256, size, mtime: Timestamp(-1), stored }
    }

    fn bytes(meta: &ObjectMeta) -> usize {
        meta.user.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    #[test]
    fn who_has_the_key_reads_what_nobody_else_does() {
        let (key, other) = (NameKey::fresh().unwrap(), NameKey::fresh().unwrap());
        let odd = "2026/11/b\u{fc}ro %/out-15551234567-\n.wav";
        let wav = "age;patched:4=00000000,48=00000000,56=00000000";
        for (node, encoding, path, fits) in [
            ("pbx-1", "age", "2026/11/12/out-15551234567-100.wav", true),
            (&*"\u{fc}".repeat(64), "age;flac", odd, true),
            ("n", wav, &*format!("{}/a.wav", "d".repeat(400)), false),
        ] {
            let path = Path::new(path);
            let open = label(node, encoding).to_meta(path);
            for _ in 0..20 {
                let meta = key.hide(&open, Some(path)).unwrap().unwrap();
                assert!(bytes(&meta) <= 2000, "{}", bytes(&meta));
                let said = format!("{meta:?}");
                assert!(meta.user.iter().all(|(k, v)| k.is_ascii() && v.is_ascii()));
                assert!(
                    !said.contains("15551234567") && !said.contains(&Sha256::of(b"x").to_string())
                );
                assert!(meta.content_type == "application/octet-stream");
                let user = revealed(&meta.user, key.identities()).unwrap();
                assert_eq!(Label::from_user(&user), Ok(label(node, encoding)));
                assert_eq!(self::path(&user), fits.then(|| path.to_owned()));
                let error = revealed(&meta.user, other.identities()).unwrap_err();
                assert!(matches!(error, LabelError::Hidden(_)), "{error}");
                let both = other.and(&key).unwrap();
                assert!(revealed(&meta.user, both.identities()).is_ok());
            }
            assert_eq!(&*revealed(&open.user, other.identities()).unwrap(), &*open.user);
        }
        assert!(!format!("{key:?}").contains("AGE"));
    }

    #[test]
    fn what_is_sealed_is_as_long_for_every_path() {
        let key = NameKey::fresh().unwrap();
        let open = label("n", "age").to_meta(Path::new("a"));
        // Some stanzas of random length are in the header.
        let opened = |path: &str| {
            let meta = key.hide(&open, Some(Path::new(path))).unwrap().unwrap();
            let sealed = BASE64.decode(meta::text(&meta.user, LABEL).unwrap()).unwrap();
            seal::open_all(&sealed, key.identities()).unwrap().len()
        };
        assert_eq!((opened("a"), opened(&"a/b".repeat(60))), (LABEL_BYTES, LABEL_BYTES));
        let long = "x".repeat(LABEL_BYTES);
        let mut much = open.clone();
        much.user.push(("spoolfs-more".to_owned(), long));
        assert_eq!(key.hide(&much, None).unwrap(), None);
    }

    #[test]
    fn names_are_the_same_for_the_same_and_tell_nothing() {
        let key = NameKey::fresh().unwrap();
        let again = NameKey::parse(key.text().as_bytes()).unwrap();
        let of = |key: &NameKey, id, generation, content: &[u8]| {
            let named = Named::Recording(NodeId(id), Generation(generation), Sha256::of(content));
            key.keys("p/", "pbx", named, &[7, 8])
        };
        let keys = of(&key, 1, 1, b"a");
        assert_eq!(keys, of(&again, 1, 1, b"a"));
        let join = key.keys("p/", "pbx", Named::Join(b"1795228029.1"), &[7]);
        let all = [
            keys.clone(),
            of(&key, 2, 1, b"a"),
            of(&key, 1, 2, b"a"),
            of(&key, 1, 1, b"b"),
            of(&NameKey::fresh().unwrap(), 1, 1, b"a"),
            join.clone(),
        ]
        .concat();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        assert!(all.iter().all(|key| is_hidden(key)), "{all:?}");
        assert!(keys.iter().all(|key| key.starts_with("p/pbx/") && key.ends_with(".age")));
        assert!(join.iter().all(|key| key.starts_with("p/stitched/")), "{join:?}");
        for plain in ["p/pbx/ab/a.wav.age", "x.age", &keys[0].replace("/pbx/", "/pbx/x"), "a/b"] {
            assert!(!is_hidden(plain), "{plain}");
        }
    }

    #[test]
    fn the_key_is_kept_in_a_file_that_nobody_else_reads() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(NameKey::load(&path).unwrap().is_none());
        let key = NameKey::fresh().unwrap();
        key.store(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o077, 0);
        let loaded = NameKey::load(&path).unwrap().unwrap();
        assert_eq!(*loaded.text(), *key.text());
        let more = loaded.and(&NameKey::fresh().unwrap()).unwrap();
        more.and(&key).unwrap().store(&path).unwrap();
        let loaded = NameKey::load(&path).unwrap().unwrap();
        assert_eq!((loaded.lines.len(), &loaded.lines[0]), (2, &key.lines[0]));
        for bad in ["", "hunter2\n", &format!("{}hunter2\n", *key.text())] {
            std::fs::write(&path, bad).unwrap();
            let why = NameKey::load(&path).unwrap_err();
            assert!(why.contains("put it back") && !why.contains("hunter2"), "{why}");
        }
    }
}
