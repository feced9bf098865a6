//! How the bytes that are stored differ from those of the recording (docs/FORMAT.md, "Encodings").
//!
//! **Invariant:** `restore` undoes exactly what was done to the bytes before they were stored; what
//! can not be undone is not written that way.

use super::Sha256;
use super::flac::FlacMap;
use super::sealed::Sealed;
use std::sync::Arc;

/// Most places that a patch has, and bytes at each: so that it fits into an object's metadata.
const PLACES_MAX: usize = 16;
const PLACE_BYTES_MAX: usize = 16;

/// How the stored bytes of an object come to be the recording again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// They are the recording.
    #[default]
    Plain,
    /// Of the same length, with other bytes in a few places.
    Patched(Patch),
    /// A FLAC file of its PCM, with what was around that. Without a map it has to be looked at
    /// before parts of the recording can be found in it: beside an object there is no room for one.
    Flac(Option<Arc<FlacMap>>),
    /// An age file of what would be stored otherwise.
    Sealed(Arc<Sealed>),
}

/// What the recording has in the places where the stored bytes are others: offsets and bytes, in
/// order and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch(Vec<(u64, Vec<u8>)>);

/// What a target was given for a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// How it was made.
    pub encoding: Encoding,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of it: what the target computes and the scrub finds.
    pub sha256: Sha256,
}

impl Stored {
    /// The recording as it is.
    pub fn plain(size: u64, sha256: Sha256) -> Stored {
        Stored { encoding: Encoding::Plain, size, sha256 }
    }

    /// Whether it is the recording as it is.
    pub fn is_plain(&self) -> bool {
        self.encoding == Encoding::Plain
    }
}

impl Patch {
    /// From offsets and the bytes that the recording has there.
    pub fn new(places: Vec<(u64, Vec<u8>)>) -> Option<Patch> {
        let mut end = 0;
        for (offset, bytes) in &places {
            let fits = !bytes.is_empty() && bytes.len() <= PLACE_BYTES_MAX && *offset >= end;
            end = offset.checked_add(bytes.len() as u64).filter(|_| fits)?;
        }
        (!places.is_empty() && places.len() <= PLACES_MAX).then_some(Patch(places))
    }

    /// Where the last place ends.
    fn end(&self) -> u64 {
        self.0.last().map_or(0, |(offset, bytes)| offset.saturating_add(bytes.len() as u64))
    }
}

impl Encoding {
    /// Whether nobody can read it without a key.
    pub fn is_sealed(&self) -> bool {
        matches!(self, Encoding::Sealed(_))
    }

    /// Whether bytes from `start` to `end` of what is stored are other ones than the recording's.
    pub fn changes(&self, start: u64, end: u64) -> bool {
        let Encoding::Patched(patch) = self else { return false };
        let overlaps = |at: u64, len: usize| at < end && start < at.saturating_add(len as u64);
        start < end && patch.0.iter().any(|(at, bytes)| overlaps(*at, bytes.len()))
    }

    /// Makes stored bytes, the first of which is at `start`, those of the recording.
    pub fn restore(&self, start: u64, stored: &mut [u8]) {
        let Encoding::Patched(patch) = self else { return };
        for (at, bytes) in &patch.0 {
            for (offset, byte) in (*at..).zip(bytes) {
                let place = offset.checked_sub(start).and_then(|at| usize::try_from(at).ok());
                if let Some(place) = place.and_then(|at| stored.get_mut(at)) {
                    *place = *byte;
                }
            }
        }
    }

    /// The version of the format (docs/FORMAT.md) that tells of it.
    pub fn format(&self) -> u32 {
        match self {
            Encoding::Plain => 1,
            Encoding::Patched(_) => 2,
            Encoding::Flac(_) => 3,
            Encoding::Sealed(_) => 5,
        }
    }

    /// As it is written beside the object, where there is room for the essential only.
    pub fn label(&self) -> String {
        match self {
            Encoding::Flac(_) => Encoding::Flac(None).to_string(),
            Encoding::Sealed(sealed) => sealed.label(),
            other => other.to_string(),
        }
    }

    /// As it is written in the catalog, the journal and beside the object; `plain` is left out
    /// there. `size`: the length of what is stored.
    ///
    /// # Errors
    /// What is wrong with the words.
    pub fn parse(text: &str, size: u64) -> Result<Encoding, String> {
        let bad = || format!("{text:?} is no encoding that this spoolfs knows");
        match text {
            "plain" => return Ok(Encoding::Plain),
            "flac" => return Ok(Encoding::Flac(None)),
            _ => {}
        }
        if let Some(words) = text.strip_prefix("flac:") {
            return FlacMap::parse(words, size).map(Encoding::from).ok_or_else(bad);
        }
        if text.starts_with("age") {
            return Sealed::parse(text, size).map(Encoding::from).ok_or_else(bad);
        }
        let places = text.strip_prefix("patched:").ok_or_else(bad)?;
        let place = |text: &str| {
            let (offset, bytes) = text.split_once('=')?;
            Some((offset.parse().ok()?, hex::decode(bytes).ok()?))
        };
        let places: Option<Vec<(u64, Vec<u8>)>> = places.split(',').map(place).collect();
        let patch = places.and_then(Patch::new).filter(|p| p.end() <= size).ok_or_else(bad)?;
        Ok(Encoding::Patched(patch))
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let patch = match self {
            Encoding::Plain => return f.write_str("plain"),
            Encoding::Flac(None) => return f.write_str("flac"),
            Encoding::Flac(Some(map)) => return write!(f, "flac:{}", map.words()),
            Encoding::Sealed(sealed) => return f.write_str(&sealed.words()),
            Encoding::Patched(patch) => patch,
        };
        f.write_str("patched:")?;
        for (i, (offset, bytes)) in patch.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{offset}={}", hex::encode(bytes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched() -> Encoding {
        let places = vec![(4, vec![0; 4]), (40, vec![1, 2, 3, 4])];
        Encoding::Patched(Patch::new(places).unwrap())
    }

    #[test]
    fn an_encoding_survives_as_words() {
        for (encoding, words) in [
            (Encoding::Plain, "plain"),
            (patched(), "patched:4=00000000,40=01020304"),
            (Encoding::Flac(None), "flac"),
        ] {
            assert_eq!(encoding.to_string(), words);
            assert_eq!(Encoding::parse(words, 44), Ok(encoding));
        }
    }

    #[test]
    fn words_that_are_none_are_refused() {
        let many = format!("patched:{}", vec!["1=00"; 20].join(","));
        for words in [
            "",
            "flac:",
            "flac:1x16,1,1",
            "patched:",
            "patched:4",
            "patched:4=",
            "patched:4=0",
            "patched:40=00000000,4=00000000",
            "patched:4=00000000,6=00",
            "patched:41=00000000",
            "patched:18446744073709551615=0000",
            &many,
        ] {
            assert!(Encoding::parse(words, 44).is_err(), "{words}");
        }
    }

    #[test]
    fn any_piece_of_what_is_stored_is_restored() {
        let stored: Vec<u8> = vec![9; 50];
        let mut whole = stored.clone();
        patched().restore(0, &mut whole);
        assert_eq!(whole[3..9], [9, 0, 0, 0, 0, 9]);
        assert_eq!(whole[39..45], [9, 1, 2, 3, 4, 9]);
        for start in 0..50 {
            for end in start..=50 {
                let mut piece = stored[start..end].to_vec();
                patched().restore(start as u64, &mut piece);
                assert_eq!(piece, whole[start..end]);
                let differs = piece != stored[start..end];
                assert_eq!(patched().changes(start as u64, end as u64), differs);
            }
        }
    }
}
