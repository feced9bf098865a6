//! The bytes of a recording, of what is stored of it (docs/FORMAT.md, "Encodings").

use super::flac::{self, BadFlac};
use crate::recording::{Encoding, chunk_at, chunk_range};
use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// Where a range of the recording is in what is stored, with what has to be read around it. May be
/// empty: then what is stored is not needed for it.
///
/// # Errors
/// The object has to be looked at first.
pub fn stored_range(encoding: &Encoding, range: &Range<u64>) -> Result<Range<u64>, BadFlac> {
    match encoding {
        Encoding::Plain | Encoding::Patched(_) => Ok(range.clone()),
        Encoding::Flac(Some(map)) => Ok(map.piece(range).stored),
        Encoding::Flac(None) => Err(BadFlac::without_map()),
    }
}

/// A range of the recording, of what is stored where `stored_range` says. Fewer bytes only if fewer
/// were given.
///
/// # Errors
/// The bytes are none that this encoding makes.
pub fn restored(encoding: &Encoding, range: &Range<u64>, stored: Bytes) -> Result<Bytes, BadFlac> {
    match encoding {
        Encoding::Flac(Some(map)) => Ok(flac::decode(map, range, &stored)?.into()),
        Encoding::Flac(None) => Err(BadFlac::without_map()),
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
    /// Where `rest` begins in the object.
    at: u64,
    /// What was given and may be needed still.
    rest: BytesMut,
    /// The part of the recording that comes next.
    chunk: u64,
}

impl<'e> Restorer<'e> {
    /// Of an object that was made like this.
    pub fn new(encoding: &'e Encoding) -> Restorer<'e> {
        Restorer { encoding, at: 0, rest: BytesMut::new(), chunk: 0 }
    }

    /// Takes the next bytes of the object, and hands on what they make of the recording.
    ///
    /// # Errors
    /// The bytes are none that this encoding makes.
    pub fn push(&mut self, bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), BadFlac> {
        let Encoding::Flac(map) = self.encoding else {
            let mut bytes = bytes.to_vec();
            self.encoding.restore(self.at, &mut bytes);
            self.at += bytes.len() as u64;
            sink(&bytes);
            return Ok(());
        };
        let map = map.as_ref().ok_or_else(BadFlac::without_map)?;
        self.rest.extend_from_slice(bytes);
        let size = map.recording_bytes();
        while size > 0 && self.chunk <= chunk_at(size - 1) {
            let range = chunk_range(self.chunk, size);
            let Range { start, end } = map.piece(&range).stored;
            let within =
                |to: u64| usize::try_from(to.saturating_sub(self.at)).unwrap_or(usize::MAX);
            let Some(frames) = self.rest.get(within(start)..within(end)) else { return Ok(()) };
            sink(&flac::decode(map, &range, frames)?);
            self.chunk += 1;
            // The next part begins in the last of these frames at the earliest.
            let next = map.piece(&chunk_range(self.chunk, size)).stored.start.max(self.at);
            let over = within(next).min(self.rest.len());
            let _no_more_needed = self.rest.split_to(over);
            self.at += over as u64;
        }
        Ok(())
    }
}
