//! SHA-256 of a recording, whole and by the chunk (docs/FORMAT.md, "Chunks").

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest;

/// Length of the first chunk: small, so that first audio is one small request away.
pub const FIRST_CHUNK_BYTES: u64 = 64 << 10;
/// Length of every chunk after the first; the last may be shorter.
pub const CHUNK_BYTES: u64 = 256 << 10;

/// Length of the beginning that has a hash of its own in recordings of more than one chunk: what the
/// kernel asks for when a program reads its first bytes. On a slow line it is there four times as
/// soon as the first chunk.
pub const HEAD_BYTES: u64 = 16 << 10;

/// How many chunks a file of `size` bytes has.
pub fn chunk_count(size: u64) -> u64 {
    size.checked_sub(1).map_or(0, |last| chunk_at(last) + 1)
}

/// The number of the chunk that holds the byte at `offset`.
pub fn chunk_at(offset: u64) -> u64 {
    match offset.checked_sub(FIRST_CHUNK_BYTES) {
        None => 0,
        Some(rest) => 1 + rest / CHUNK_BYTES,
    }
}

/// First byte and end (exclusive) of chunk `index` in a file of `size` bytes.
pub fn chunk_range(index: u64, size: u64) -> std::ops::Range<u64> {
    let start = match index.checked_sub(1) {
        None => 0,
        Some(n) => FIRST_CHUNK_BYTES.saturating_add(n.saturating_mul(CHUNK_BYTES)),
    };
    let len = if index == 0 { FIRST_CHUNK_BYTES } else { CHUNK_BYTES };
    start.min(size)..start.saturating_add(len).min(size)
}

/// A SHA-256 digest (FIPS 180-4); shown and serialised as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Sha256 {
        Sha256(sha2::Sha256::digest(bytes).into())
    }

    /// From the 32 bytes kept in the catalog.
    pub fn from_slice(bytes: &[u8]) -> Option<Sha256> {
        bytes.try_into().ok().map(Sha256)
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Sha256> {
        hex::decode(text).ok().and_then(|b| Sha256::from_slice(&b))
    }
}

/// Bytes that SHA-256 takes at a time, which HMAC fills its key up to.
const HMAC_BLOCK: usize = 64;

/// HMAC-SHA-256 (RFC 2104) of the parts one after another.
pub fn hmac(key: &[u8], parts: &[&[u8]]) -> Sha256 {
    let mut block = [0; HMAC_BLOCK];
    let short = if key.len() > HMAC_BLOCK { Sha256::of(key).0.to_vec() } else { key.to_vec() };
    block.iter_mut().zip(&short).for_each(|(to, from)| *to = *from);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let mut inner = sha2::Sha256::new_with_prefix(pad(0x36));
    parts.iter().for_each(|part| inner.update(part));
    let outer = sha2::Sha256::new_with_prefix(pad(0x5c)).chain_update(inner.finalize());
    Sha256(outer.finalize().into())
}

impl std::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Sha256::from_hex(&text)
            .ok_or_else(|| serde::de::Error::custom("not a SHA-256 in hexadecimal"))
    }
}

/// The digests of all chunks of one generation, in order; and, if there are several, that of its
/// first [`HEAD_BYTES`]. Generations that were hashed by earlier versions lack that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkHashes(pub Vec<Sha256>);

impl ChunkHashes {
    /// The digest of chunk `index`.
    pub fn get(&self, index: u64) -> Option<&Sha256> {
        usize::try_from(index).ok().and_then(|i| self.0.get(i))
    }

    /// The digest of the first [`HEAD_BYTES`] of a file of `size` bytes, if it has one.
    pub fn head(&self, size: u64) -> Option<&Sha256> {
        let count = chunk_count(size);
        (self.0.len() as u64 == count + 1).then(|| self.get(count)).flatten()
    }

    /// Whether these can be the digests of a file of `size` bytes.
    pub fn fit(&self, size: u64) -> bool {
        self.0.len() as u64 == chunk_count(size) || self.head(size).is_some()
    }

    /// As kept in the catalog: the digests one after another.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|h| h.0).collect()
    }

    /// The inverse of `to_bytes`; `None` if the length is no multiple of 32.
    pub fn from_bytes(bytes: &[u8]) -> Option<ChunkHashes> {
        let (digests, rest) = bytes.as_chunks::<32>();
        rest.is_empty().then(|| ChunkHashes(digests.iter().map(|d| Sha256(*d)).collect()))
    }
}

/// Hashes a file front to back, whole and by the chunk.
#[derive(Clone, Default)]
pub struct Hasher {
    whole: sha2::Sha256,
    chunk: sha2::Sha256,
    done: Vec<Sha256>,
    head: Option<Sha256>,
    offset: u64,
}

impl Hasher {
    /// Takes the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let mut end = chunk_range(chunk_at(self.offset), u64::MAX).end;
            let chunk = end;
            if self.offset < HEAD_BYTES {
                end = HEAD_BYTES;
            }
            let room = usize::try_from(end - self.offset).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.chunk.update(now);
            self.offset += now.len() as u64;
            if self.offset == HEAD_BYTES {
                self.head = Some(Sha256(self.chunk.clone().finalize().into()));
            }
            if self.offset == chunk {
                self.done.push(Sha256(self.chunk.finalize_reset().into()));
            }
            bytes = later;
        }
    }

    /// Bytes taken so far.
    pub fn len(&self) -> u64 {
        self.offset
    }

    /// Whether nothing was taken yet.
    pub fn is_empty(&self) -> bool {
        self.offset == 0
    }

    /// The digest of the whole, and of each chunk (none for an empty file), with that of the head.
    pub fn finish(mut self) -> (Sha256, ChunkHashes) {
        if self.offset > chunk_range(chunk_at(self.offset), u64::MAX).start {
            self.done.push(Sha256(self.chunk.finalize_reset().into()));
        }
        self.done.extend(self.head.filter(|_| self.offset > FIRST_CHUNK_BYTES));
        (Sha256(self.whole.finalize().into()), ChunkHashes(self.done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_a_file_without_gap_or_overlap() {
        for size in [0, 1, FIRST_CHUNK_BYTES, FIRST_CHUNK_BYTES + 1, 1 << 20, (1 << 20) + 77] {
            let mut next = 0;
            let mut index = 0;
            while next < size {
                let range = chunk_range(index, size);
                assert_eq!(range.start, next);
                assert!(range.end > range.start);
                assert_eq!(chunk_at(range.start), index);
                assert_eq!(chunk_at(range.end - 1), index);
                next = range.end;
                index += 1;
            }
            assert_eq!(next, size);
            assert!(chunk_range(index, size).is_empty());
        }
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        for (key, data, digest) in [
            (
                vec![0x0b; 20],
                &b"Hi There"[..],
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            assert_eq!(hmac(&key, &[data]).to_string(), digest);
            assert_eq!(hmac(&key, &[&data[..3], &data[3..]]).to_string(), digest);
        }
    }

    #[test]
    fn hashing_in_pieces_equals_hashing_each_chunk() {
        let bytes: Vec<u8> = (0..700_001u32).map(|i| (i * 31 % 251) as u8).collect();
        for piece in [1 << 20, 65_536, 44, 32_768] {
            let mut hasher = Hasher::default();
            bytes.chunks(piece).for_each(|p| hasher.update(p));
            let (whole, chunks) = hasher.finish();
            assert_eq!(whole, Sha256::of(&bytes));
            let size = bytes.len() as u64;
            assert_eq!(chunks.0.len() as u64, chunk_count(size) + 1);
            assert_eq!(chunks.head(size), Some(&Sha256::of(&bytes[..HEAD_BYTES as usize])));
            for (i, digest) in chunks.0.iter().take(chunk_count(size) as usize).enumerate() {
                let r = chunk_range(i as u64, size);
                assert_eq!(*digest, Sha256::of(&bytes[r.start as usize..r.end as usize]));
            }
            assert_eq!(ChunkHashes::from_bytes(&chunks.to_bytes()), Some(chunks));
        }
    }

    #[test]
    fn a_file_that_ends_on_a_chunk_boundary_has_no_empty_chunk() {
        let mut hasher = Hasher::default();
        hasher.update(&vec![7; FIRST_CHUNK_BYTES as usize]);
        let one = hasher.finish().1;
        assert_eq!(one.0.len(), 1, "the head of what is one chunk needs no digest of its own");
        assert!(one.fit(FIRST_CHUNK_BYTES) && one.head(FIRST_CHUNK_BYTES).is_none());
        assert!(Hasher::default().finish().1.0.is_empty());
    }
}
