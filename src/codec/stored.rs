//! The bytes of a recording, of what is stored of it (docs/FORMAT.md, "Encodings").

use super::flac::{self, BadFlac};
use super::seal::{self, Identities};
use crate::recording::{Encoding, Sealed, chunk_at, chunk_range};
use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// Why what is stored does not give the recording.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is not the FLAC that it should be.
    #[error(transparent)]
    Flac(#[from] BadFlac),
    /// It is not what was stored.
    #[error("{0}")]
    Bad(String),
    /// It is sealed, and there is no key; why.
    #[error("it is sealed, and {0}")]
    Locked(String),
}

impl Unreadable {
    /// Of an object whose beginning was not looked at.
    pub(super) fn without_map() -> Unreadable {
        BadFlac::without_map().into()
    }

    /// Whether somebody with the key could read it.
    pub fn is_locked(&self) -> bool {
        matches!(self, Unreadable::Locked(_))
    }
}

/// Where a range of the recording is in what is stored, with what has to be read around it. May be
/// empty: then what is stored is not needed for it.
///
/// # Errors
/// The object has to be looked at first.
pub fn stored_range(encoding: &Encoding, range: &Range<u64>) -> Result<Range<u64>, Unreadable> {
    match encoding {
        Encoding::Plain | Encoding::Patched(_) => Ok(range.clone()),
        Encoding::Flac(Some(map)) => Ok(map.piece(range).stored),
        Encoding::Flac(None) => Err(Unreadable::without_map()),
        Encoding::Sealed(sealed) => {
            let inner = stored_range(sealed.inner(), range)?;
            sealed.blocks(&inner).ok_or_else(Unreadable::without_map)
        }
    }
}

/// A range of the recording, of what is stored where `stored_range` says. Fewer bytes only if fewer
/// were given. `identities` open what is sealed.
///
/// # Errors
/// The bytes are none that this encoding makes, or it is sealed and there is no key.
pub fn restored(
    encoding: &Encoding,
    range: &Range<u64>,
    stored: Bytes,
    identities: &Identities,
) -> Result<Bytes, Unreadable> {
    match encoding {
        Encoding::Flac(Some(map)) => Ok(flac::decode(map, range, &stored)?.into()),
        Encoding::Flac(None) => Err(Unreadable::without_map()),
        Encoding::Sealed(sealed) => {
            let inner = stored_range(sealed.inner(), range)?;
            let opened = match inner.is_empty() {
                true => Bytes::new(),
                false => seal::open(sealed, &inner, &stored, identities)?.into(),
            };
            restored(sealed.inner(), range, opened, identities)
        }
        Encoding::Plain | Encoding::Patched(_) => {
            let end = range.start.saturating_add(stored.len() as u64);
            if !encoding.changes(range.start, end) {
                return Ok(stored);
            }
            let mut bytes = BytesMut::from(stored);
            encoding.restore(range.start, &mut bytes);
            Ok(bytes.freeze())
        }
    }
}

/// The recording, of an object that is read from its beginning to its end.
#[derive(Debug)]
pub struct Restorer<'e> {
    encoding: &'e Encoding,
    identities: &'e Identities,
    /// Where `rest` begins in the object.
    at: u64,
    /// What was given and may be needed still.
    rest: BytesMut,
    /// The part of the recording that comes next; of what is sealed, how much was opened.
    next: u64,
    /// Of what is sealed.
    inner: Option<Box<Restorer<'e>>>,
}

impl<'e> Restorer<'e> {
    /// Of an object that was made like this. `identities` open what is sealed.
    pub fn new(encoding: &'e Encoding, identities: &'e Identities) -> Restorer<'e> {
        let inner = match encoding {
            Encoding::Sealed(sealed) => Some(Box::new(Restorer::new(sealed.inner(), identities))),
            _ => None,
        };
        Restorer { encoding, identities, at: 0, rest: BytesMut::new(), next: 0, inner }
    }

    /// Takes the next bytes of the object, and hands on what they make of the recording.
    ///
    /// # Errors
    /// The bytes are none that this encoding makes, or there is no key.
    pub fn push(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), Unreadable> {
        match self.encoding {
            Encoding::Flac(_) => self.push_flac(bytes, sink),
            Encoding::Sealed(sealed) => self.push_sealed(sealed, bytes, sink),
            Encoding::Plain | Encoding::Patched(_) => {
                let mut bytes = bytes.to_vec();
                self.encoding.restore(self.at, &mut bytes);
                self.at += bytes.len() as u64;
                sink(&bytes);
                Ok(())
            }
        }
    }

    fn within(&self, to: u64) -> usize {
        usize::try_from(to.saturating_sub(self.at)).unwrap_or(usize::MAX)
    }

    fn drop_before(&mut self, to: u64) {
        let over = self.within(to).min(self.rest.len());
        let _no_more_needed = self.rest.split_to(over);
        self.at += over as u64;
    }

    fn push_flac(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), Unreadable> {
        let Encoding::Flac(Some(map)) = self.encoding else {
            return Err(Unreadable::without_map());
        };
        self.rest.extend_from_slice(bytes);
        let size = map.recording_bytes();
        while size > 0 && self.next <= chunk_at(size - 1) {
            let range = chunk_range(self.next, size);
            let Range { start, end } = map.piece(&range).stored;
            let place = self.within(start)..self.within(end);
            let Some(frames) = self.rest.get(place) else { return Ok(()) };
            sink(&flac::decode(map, &range, frames)?);
            self.next += 1;
            // The next part begins in the last of these frames at the earliest.
            let next = map.piece(&chunk_range(self.next, size)).stored.start.max(self.at);
            self.drop_before(next);
        }
        Ok(())
    }

    fn push_sealed(
        &mut self,
        sealed: &Sealed,
        bytes: &[u8],
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Unreadable> {
        let whole = sealed.inner_bytes().ok_or_else(Unreadable::without_map)?;
        self.rest.extend_from_slice(bytes);
        while self.next < whole {
            let end = whole.min(self.next.saturating_add(crate::recording::SEALED_TOGETHER_BYTES));
            let range = self.next..end;
            let place = sealed.blocks(&range).ok_or_else(Unreadable::without_map)?;
            let within = self.within(place.start)..self.within(place.end);
            let Some(block) = self.rest.get(within) else { return Ok(()) };
            let opened = seal::open(sealed, &range, block, self.identities)?;
            if let Some(inner) = &mut self.inner {
                inner.push(&opened, sink)?;
            }
            self.next = end;
            self.drop_before(place.end);
        }
        Ok(())
    }
}
