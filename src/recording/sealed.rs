//! Where the parts of what was sealed are in an age file (docs/FORMAT.md, "Sealed objects").
//!
//! **Invariant:** whatever words it was made of, its offsets are in order and within the object.

use super::Encoding;
use crate::limits::SEAL_HEAD_BYTES_MAX;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use std::ops::Range;
use std::sync::Arc;

/// Bytes that age seals together; fewer in the last block only.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// What is added to each block, by which it is known to be right.
const TAG_BYTES: u64 = 16;
const SEALED_BLOCK_BYTES: u64 = BLOCK_BYTES + TAG_BYTES;

/// How an age file holds what was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its header with the nonce behind it: all that comes before the first block. `None`: it has to
    /// be looked at first.
    head: Option<Vec<u8>>,
    /// How what was sealed comes to be the recording.
    inner: Encoding,
    /// Length of the object.
    size: u64,
}

impl Sealed {
    /// Of an object of `size` bytes that begins with `head`, if they fit together.
    pub fn new(head: Vec<u8>, inner: Encoding, size: u64) -> Option<Sealed> {
        let len = head.len() as u64;
        let small = (1..=SEAL_HEAD_BYTES_MAX).contains(&len);
        let whole = opened_bytes(size.checked_sub(len)?).is_some();
        let once = !matches!(inner, Encoding::Sealed(_));
        (small && whole && once).then_some(Sealed { head: Some(head), inner, size })
    }

    /// Of an object that was not looked at yet.
    fn unknown(inner: Encoding, size: u64) -> Option<Sealed> {
        let once = !matches!(inner, Encoding::Sealed(_));
        once.then_some(Sealed { head: None, inner, size })
    }

    /// What comes before the first block.
    pub fn head(&self) -> Option<&[u8]> {
        self.head.as_deref()
    }

    /// How what was sealed comes to be the recording.
    pub fn inner(&self) -> &Encoding {
        &self.inner
    }

    /// Length of the object.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Length of what was sealed.
    pub fn inner_bytes(&self) -> Option<u64> {
        opened_bytes(self.size.checked_sub(self.head.as_ref()?.len() as u64)?)
    }

    /// The blocks that hold a range of what was sealed, by their place in the object; empty if the
    /// range is.
    pub fn blocks(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let head = self.head.as_ref()?.len() as u64;
        let place =
            |block: u64| block.checked_mul(SEALED_BLOCK_BYTES).and_then(|at| at.checked_add(head));
        let start = place(range.start / BLOCK_BYTES)?.min(self.size);
        if range.is_empty() {
            return Some(start..start);
        }
        Some(start..place(range.end.div_ceil(BLOCK_BYTES))?.min(self.size))
    }

    /// As an encoding is written down in full.
    pub(super) fn words(&self) -> String {
        let head = self.head.as_ref().map(|head| format!(":{}", BASE64.encode(head)));
        let inner = match &self.inner {
            Encoding::Plain => String::new(),
            inner => format!(";{inner}"),
        };
        format!("age{}{inner}", head.unwrap_or_default())
    }

    /// As it is written where there is room for the essential only.
    pub(super) fn label(&self) -> String {
        match &self.inner {
            Encoding::Plain => "age".to_owned(),
            inner => format!("age;{}", inner.label()),
        }
    }

    /// From these words; `None` if there is something wrong with them. `size`: of the object.
    pub(super) fn parse(words: &str, size: u64) -> Option<Sealed> {
        let (head, inner) = match words.split_once(';') {
            Some((head, inner)) => (head, Some(inner)),
            None => (words, None),
        };
        let inner = |size| inner.map_or(Some(Encoding::Plain), |i| Encoding::parse(i, size).ok());
        if head == "age" {
            return Sealed::unknown(inner(size)?, size);
        }
        let head = BASE64.decode(head.strip_prefix("age:")?).ok()?;
        let bytes = opened_bytes(size.checked_sub(head.len() as u64)?)?;
        Sealed::new(head, inner(bytes)?, size)
    }
}

impl From<Sealed> for Encoding {
    fn from(sealed: Sealed) -> Encoding {
        Encoding::Sealed(Arc::new(sealed))
    }
}

/// How long so many bytes are as blocks.
pub fn sealed_bytes(bytes: u64) -> u64 {
    bytes.saturating_add(bytes.div_ceil(BLOCK_BYTES).max(1).saturating_mul(TAG_BYTES))
}

/// How many bytes these blocks hold; `None`: they are none.
fn opened_bytes(blocks: u64) -> Option<u64> {
    let count = blocks.div_ceil(SEALED_BLOCK_BYTES);
    let bytes = blocks.checked_sub(count.checked_mul(TAG_BYTES)?)?;
    (count > 0 && sealed_bytes(bytes) == blocks).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 9] =
        [1, 2, 65_535, 65_536, 65_537, 131_072, 131_073, 1_000_000, (1 << 30) + 7];

    fn sealed(bytes: u64) -> Sealed {
        let head = vec![b'h'; 216];
        Sealed::new(head, Encoding::Plain, 216 + sealed_bytes(bytes)).unwrap()
    }

    #[test]
    fn lengths_are_those_of_age() {
        for bytes in SIZES {
            assert_eq!(sealed(bytes).inner_bytes(), Some(bytes));
        }
        assert_eq!((sealed_bytes(0), sealed_bytes(1), sealed_bytes(65_537)), (16, 17, 65_569));
        for torn in [0, 15, 65_552 + 1, 65_552 + 16, 2 * 65_552 + 15] {
            assert_eq!(opened_bytes(torn), None, "{torn}");
        }
    }

    #[test]
    fn every_part_is_in_the_blocks_that_are_asked_for_it() {
        let mut random = fastrand::Rng::with_seed(4);
        for bytes in SIZES {
            let sealed = sealed(bytes);
            for _ in 0..200 {
                let start = random.u64(..bytes);
                let range = start..random.u64(start + 1..=bytes);
                let Range { start, end } = sealed.blocks(&range).unwrap();
                let (first, rest) = ((start - 216) / 65_552, (start - 216) % 65_552);
                assert_eq!((first, rest), (range.start / 65_536, 0));
                assert!(end == sealed.size() || (end - 216) % 65_552 == 0);
                assert!(end <= sealed.size() && (end - 216).div_ceil(65_552) * 65_536 >= range.end);
            }
            assert!(sealed.blocks(&(bytes..bytes)).unwrap().is_empty());
        }
    }

    #[test]
    fn it_survives_as_words() {
        let size = 216 + sealed_bytes(100);
        let patched = Encoding::parse("patched:4=00000000", 100).unwrap();
        for inner in [Encoding::Plain, patched, Encoding::Flac(None)] {
            let whole = Encoding::from(Sealed::new(vec![7; 216], inner.clone(), size).unwrap());
            let words = whole.to_string();
            assert!(words.starts_with("age:BwcH"), "{words}");
            assert_eq!(Encoding::parse(&words, size), Ok(whole.clone()));
            let label = whole.label();
            let known = Encoding::parse(&label, size).unwrap();
            assert_eq!((&known.label(), known.to_string()), (&label, label.clone()));
            assert!(matches!(&known, Encoding::Sealed(s) if s.head().is_none()));
            assert_eq!((whole.format(), known.format()), (5, 5));
        }
        for bad in ["age:", "age;", "age;age", "age:?", "age:AAAA;age", "age:AAAA;flax", "aged"] {
            assert!(Encoding::parse(bad, size).is_err(), "{bad}");
        }
        let long = BASE64.encode(vec![7; 216]);
        assert!(Encoding::parse(&format!("age:{long}"), 216 + 15).is_err(), "no block fits");
    }
}
