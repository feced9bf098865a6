//! Sealing with age and opening again (docs/FORMAT.md, "Sealed objects"; the format itself is
//! https://age-encryption.org/v1).
//!
//! **Invariant:** no byte is handed out that was not authenticated, and nothing here shows a secret.

use super::Unreadable;
use crate::limits::{SEAL_HEAD_BYTES_MAX, SEAL_RECIPIENTS_MAX};
use crate::recording::{Encoding, Sealed};
use age::secrecy::ExposeSecret;
use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient};
use age_core::format::{FileKey, Stanza};
use parking_lot::{Mutex, RwLock};
use std::collections::HashSet;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::Arc;

/// Bytes that age seals together.
const BLOCK: u64 = crate::recording::SEALED_TOGETHER_BYTES;

/// Who can open what is sealed: their public keys.
#[derive(Clone)]
pub struct Recipients {
    words: Vec<String>,
    keys: Arc<Vec<Box<dyn Recipient + Send + Sync>>>,
}

/// Why something is no public key. It is not repeated where it may be a secret one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRecipient(String);

impl PartialEq for Recipients {
    fn eq(&self, other: &Recipients) -> bool {
        self.words == other.words
    }
}

impl Eq for Recipients {}

impl std::fmt::Debug for Recipients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Recipients").field(&self.words).finish()
    }
}

impl Recipients {
    /// From the words of a configuration; `None` if there are none.
    ///
    /// # Errors
    /// The first that is no public key, or too many.
    pub fn parse(words: &[String]) -> Result<Option<Recipients>, BadRecipient> {
        if words.len() > SEAL_RECIPIENTS_MAX {
            let most = SEAL_RECIPIENTS_MAX;
            return Err(BadRecipient(format!("names more than {most} keys")));
        }
        let numbered = words.iter().zip(1..);
        let keys: Result<Vec<_>, BadRecipient> =
            numbered.map(|(word, number)| recipient(word.trim(), number)).collect();
        let keys = Arc::new(keys?);
        Ok((!words.is_empty()).then(|| Recipients { words: words.to_vec(), keys }))
    }

    /// What they were made of: public keys.
    pub fn words(&self) -> &[String] {
        &self.words
    }
}

fn recipient(word: &str, number: usize) -> Result<Box<dyn Recipient + Send + Sync>, BadRecipient> {
    let bad = |why: &str| Err(BadRecipient(why.to_owned()));
    if word.starts_with("age1") {
        return match word.parse::<age::x25519::Recipient>() {
            Ok(key) => Ok(Box::new(key)),
            Err(why) => bad(&format!("{word:?} is no X25519 key of age: {why}")),
        };
    }
    if word.starts_with("ssh-ed25519 ") {
        return match word.parse::<age::ssh::Recipient>() {
            Ok(key) => Ok(Box::new(key)),
            Err(_) => bad(&format!("{word:?} is no key of SSH")),
        };
    }
    if word.starts_with("ssh-") {
        let kind = word.split(' ').next().unwrap_or_default();
        return bad(&format!("has a key of the kind {kind:?}, which nothing is sealed to"));
    }
    if word.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") || word.starts_with("-----") {
        return bad(&format!("has a secret key in place {number}, where its public key belongs"));
    }
    bad(&format!("has something in place {number} that is no public key"))
}

/// What opens sealed objects: secret keys. They are overwritten in memory when they are dropped. All
/// clones have the same, also when they come later.
#[derive(Clone)]
pub struct Identities(Arc<RwLock<Keys>>);

#[derive(Clone)]
struct Keys {
    keys: Arc<Vec<Box<dyn Identity + Send + Sync>>>,
    /// Why there are none; else where they are from.
    told: Arc<str>,
    /// There are none yet, and some are to come.
    awaited: bool,
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys = self.0.read();
        write!(f, "Identities({}, {:?})", keys.keys.len(), keys.told)
    }
}

impl Default for Identities {
    fn default() -> Identities {
        Identities::none("there is no identity_file or identity_command")
    }
}

impl Identities {
    /// None, and why.
    pub fn none(why: &str) -> Identities {
        Identities::of(Vec::new(), why)
    }

    fn of(keys: Vec<Box<dyn Identity + Send + Sync>>, told: &str) -> Identities {
        let keys = Keys { keys: Arc::new(keys), told: told.into(), awaited: false };
        Identities(Arc::new(RwLock::new(keys)))
    }

    /// None yet, and why: some are to come by [`Identities::become_as`].
    pub fn awaited(why: &str) -> Identities {
        let identities = Identities::none(why);
        identities.0.write().awaited = true;
        identities
    }

    /// Whether there are none yet, and some are to come.
    pub fn are_awaited(&self) -> bool {
        self.0.read().awaited
    }

    /// From now on these, and all clones of them, have what `other` has.
    pub fn become_as(&self, other: &Identities) {
        let keys = other.0.read().clone();
        *self.0.write() = keys;
    }

    /// From the text of a file: secret keys of age, one a line, or one of SSH. `from`: its name.
    ///
    /// # Errors
    /// What is wrong with it, without a word of what is in it.
    pub fn parse(text: &[u8], from: &str) -> Result<Identities, String> {
        let keys: Vec<Box<dyn Identity + Send + Sync>> = if text.starts_with(b"-----BEGIN") {
            match age::ssh::Identity::from_buffer(text, None) {
                Ok(age::ssh::Identity::Encrypted(_)) => {
                    return Err(
                        "its key is protected by a passphrase, which nobody can type when \
                                the daemon starts"
                            .to_owned(),
                    );
                }
                Ok(key @ age::ssh::Identity::Unencrypted(_)) => vec![Box::new(key)],
                _ => return Err("it has no key of SSH that can be used".to_owned()),
            }
        } else {
            let file = age::IdentityFile::from_buffer(text);
            let keys = file.ok().and_then(|file| file.into_identities().ok());
            keys.ok_or("it has lines that are no secret key of age (AGE-SECRET-KEY-1...)")?
        };
        if keys.is_empty() {
            return Err("there is no secret key in it".to_owned());
        }
        Ok(Identities::of(keys, from))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.read().keys.is_empty()
    }

    /// Why there are none; else where they are from.
    pub fn told(&self) -> Arc<str> {
        Arc::clone(&self.0.read().told)
    }

    /// Whether what is sealed to these can be opened with them.
    pub fn open_what_is_for(&self, recipients: &Recipients) -> bool {
        seal_all(recipients, b"?").is_ok_and(|sealed| open_all(&sealed, self).is_ok())
    }

    /// What was sealed, behind a header of a length that was looked at.
    fn begin<R: BufRead>(&self, stored: R) -> Result<age::stream::StreamReader<R>, Unreadable> {
        let bad = |e: DecryptError| Unreadable::Bad(format!("it is not what was sealed: {e}"));
        let Keys { keys, .. } = self.0.read().clone();
        if keys.is_empty() {
            return Err(self.locked());
        }
        let keys = keys.iter().map(|key| &**key as &dyn Identity);
        let decryptor = Decryptor::new_buffered(stored).map_err(bad)?;
        decryptor.decrypt(keys).map_err(|error| match error {
            DecryptError::NoMatchingKeys => self.locked(),
            other => bad(other),
        })
    }

    /// What to say of what they do not open.
    pub fn locked(&self) -> Unreadable {
        let Keys { keys, told, .. } = self.0.read().clone();
        Unreadable::Locked(match keys.is_empty() {
            true => told.to_string(),
            false => format!("no key in {told} opens it"),
        })
    }
}

/// The key of one file, as whoever made it knows it.
struct KeyOfFile(Mutex<Option<FileKey>>);

fn copied(key: &FileKey) -> FileKey {
    FileKey::init_with_mut(|copy| copy.copy_from_slice(key.expose_secret()))
}

impl Identity for KeyOfFile {
    fn unwrap_stanza(&self, _: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        self.0.lock().as_ref().map(|key| Ok(copied(key)))
    }
}

/// A recipient that is listened to when it is told the key of a file. It adds nothing to the file.
struct Overheard<'r> {
    recipient: &'r (dyn Recipient + Send + Sync),
    key: &'r KeyOfFile,
}

impl Recipient for Overheard<'_> {
    fn wrap_file_key(
        &self,
        key: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        *self.key.0.lock() = Some(copied(key));
        self.recipient.wrap_file_key(key)
    }
}

/// Seals bytes one after another.
pub struct Sealer<W: Write> {
    to: age::stream::StreamWriter<W>,
    key: KeyOfFile,
}

impl<W: Write> Sealer<W> {
    /// Writes what comes before the first block.
    ///
    /// # Errors
    /// What `to` says, or that there is no recipient.
    pub fn begin(recipients: &Recipients, to: W) -> io::Result<Sealer<W>> {
        let key = KeyOfFile(Mutex::default());
        let keys = recipients.keys.iter();
        let overheard: Vec<_> = keys.map(|r| Overheard { recipient: &**r, key: &key }).collect();
        let all = overheard.iter().map(|r| r as &dyn Recipient);
        let encryptor = Encryptor::with_recipients(all).map_err(io::Error::other)?;
        drop(overheard);
        Ok(Sealer { to: encryptor.wrap_output(to)?, key })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What the writer below says.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)
    }

    /// Writes the rest. What is returned besides the writer opens this one file: so that it can be
    /// compared with what was sealed, also by one who has no key.
    ///
    /// # Errors
    /// What the writer below says.
    pub fn finish(self) -> io::Result<(W, Identities)> {
        let to = self.to.finish()?;
        let keys: Vec<Box<dyn Identity + Send + Sync>> = vec![Box::new(self.key)];
        Ok((to, Identities::of(keys, "memory")))
    }
}

impl<W: Write> std::fmt::Debug for Sealer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

/// What a file of age begins with.
const MAGIC: &[u8] = b"age-encryption.org/v1\n";

/// Whether what begins so is sealed.
pub fn is_sealed(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

/// What is small enough to be sealed in memory, sealed.
///
/// # Errors
/// That there is no recipient.
pub fn seal_all(recipients: &Recipients, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut sealer = Sealer::begin(recipients, Vec::new())?;
    sealer.push(bytes)?;
    Ok(sealer.finish()?.0)
}

/// All that was sealed, of what is small enough to be opened in memory.
///
/// # Errors
/// It is not what was sealed, or there is no key.
pub fn open_all(stored: &[u8], identities: &Identities) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = Vec::new();
    let mut reader = open_reader(stored, identities)?;
    let read = reader.read_to_end(&mut bytes);
    read.map_err(|e| Unreadable::Bad(format!("it is not what was sealed: {e}")))?;
    Ok(bytes)
}

/// What was sealed, as it is read from the beginning to the end.
///
/// # Errors
/// It was not sealed, or there is no key. What it reads fails where it is not what was sealed.
pub fn open_reader<R: BufRead>(
    mut stored: R,
    identities: &Identities,
) -> Result<impl Read + use<R>, Unreadable> {
    let bad = |what: String| Unreadable::Bad(format!("it is not what was sealed: {what}"));
    let mut start = Vec::new();
    let read = stored.by_ref().take(SEAL_HEAD_BYTES_MAX).read_to_end(&mut start);
    read.map_err(|e| bad(e.to_string()))?;
    if head(&start)? == Head::Longer {
        return Err(bad("it ends in its header".to_owned()));
    }
    identities.begin(io::Cursor::new(start).chain(stored))
}

/// What the beginning of an object tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// Its first block begins there.
    Ends(usize),
    /// More of it is needed to tell.
    Longer,
}

/// Where the first block of an object begins, from the bytes that it begins with.
///
/// # Errors
/// It is no age file.
pub fn head(start: &[u8]) -> Result<Head, Unreadable> {
    let bad = |what: &str| Err(Unreadable::Bad(what.to_owned()));
    // What reads it takes far longer with more lines.
    let start = start.get(..SEAL_HEAD_BYTES_MAX as usize).unwrap_or(start);
    if !start.starts_with(MAGIC.get(..start.len().min(MAGIC.len())).unwrap_or_default()) {
        return bad("it does not begin as a file of age does");
    }
    let mut rest = start;
    let found = Decryptor::new_buffered(&mut rest).map(drop);
    match found {
        Ok(()) => Ok(Head::Ends(start.len() - rest.len())),
        Err(DecryptError::Io(_)) if (start.len() as u64) < SEAL_HEAD_BYTES_MAX => Ok(Head::Longer),
        Err(_) => bad("its header is none of age"),
    }
}

/// A range of what was sealed, of the blocks that hold it (`Sealed::blocks`).
///
/// # Errors
/// They are not what was sealed, or there is no key.
pub(super) fn open(
    sealed: &Sealed,
    range: &Range<u64>,
    blocks: &[u8],
    identities: &Identities,
) -> Result<Vec<u8>, Unreadable> {
    let bad = |what: String| Unreadable::Bad(format!("it is not what was sealed: {what}"));
    let Some((head, place)) = sealed.head().zip(sealed.blocks(range)) else {
        return Err(Unreadable::without_map());
    };
    if sealed.inner_bytes().is_none_or(|bytes| range.end > bytes) {
        return Err(bad("it ends before".to_owned()));
    }
    if identities.is_empty() {
        return Err(identities.locked());
    }
    let (len, wanted) = (blocks.len() as u64, place.end - place.start);
    if len != wanted {
        return Err(bad(format!("{len} bytes of blocks, {wanted} were asked for")));
    }
    let file = Pieces { head, at: place.start, blocks, size: sealed.size(), position: 0 };
    let mut reader = identities.begin(file)?;
    let bytes = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    let mut out = vec![0; bytes];
    let mut read = || {
        let first = range.start - range.start % BLOCK;
        if first > 0 {
            // To the very beginning of a block it would only go after a look at the last one.
            reader.seek(SeekFrom::Start(first + 1))?;
        }
        reader.seek(SeekFrom::Start(range.start))?;
        reader.read_exact(&mut out)
    };
    read().map_err(|e| bad(e.to_string()))?;
    Ok(out)
}

/// An age file of which only the beginning and some blocks are here.
struct Pieces<'a> {
    head: &'a [u8],
    /// Where the blocks are in the file.
    at: u64,
    blocks: &'a [u8],
    size: u64,
    position: u64,
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let from = |bytes: &'_ [u8], at: u64| {
            let place = usize::try_from(self.position.checked_sub(at)?).ok()?;
            (place < bytes.len()).then_some(place)
        };
        if let Some(place) = from(self.head, 0) {
            return Ok(self.head.get(place..).unwrap_or_default());
        }
        if let Some(place) = from(self.blocks, self.at) {
            return Ok(self.blocks.get(place..).unwrap_or_default());
        }
        if self.position >= self.size {
            return Ok(&[]);
        }
        Err(io::Error::other("a block that was not asked for is needed"))
    }

    fn consume(&mut self, bytes: usize) {
        self.position = self.position.saturating_add(bytes as u64);
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let here = self.fill_buf()?;
        let bytes = here.len().min(into.len());
        if let (Some(into), Some(here)) = (into.get_mut(..bytes), here.get(..bytes)) {
            into.copy_from_slice(here);
        }
        self.consume(bytes);
        Ok(bytes)
    }
}

impl Seek for Pieces<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.position = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// What is known of a file that was just sealed and begins so.
///
/// # Errors
/// It is none, or not as long as it should be.
pub fn sealed(start: &[u8], inner: Encoding, size: u64) -> Result<Sealed, Unreadable> {
    let torn = || Unreadable::Bad("it ends too early".to_owned());
    let Head::Ends(len) = head(start)? else { return Err(torn()) };
    let head = start.get(..len).unwrap_or_default().to_vec();
    Sealed::new(head, inner, size).ok_or_else(torn)
}

#[cfg(test)]
mod tests;
