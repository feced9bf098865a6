//! The bytes of an object to be written.

use super::StoreErrorKind;
use super::fault::Fault;
use crate::limits;
use bytes::Bytes;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Most parts of an upload: S3's limit; Azure's is 50,000.
pub(super) const PARTS_MAX: u64 = 10_000;

/// The bytes of an object to be written.
#[derive(Clone, Debug)]
pub enum Body {
    /// In memory.
    Bytes(Bytes),
    /// The first `len` bytes of a file, read by position; it may be read more than once.
    File {
        /// The file.
        file: Arc<File>,
        /// How many of its bytes.
        len: u64,
    },
}

impl Body {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Body::Bytes(b) => b.len() as u64,
            Body::File { len, .. } => *len,
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` of its bytes from `offset` on, in memory.
    pub(super) async fn region(&self, offset: u64, len: u64) -> Result<Bytes, Fault> {
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        match self {
            Body::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..start.saturating_add(size).min(bytes.len())))
            }
            Body::File { file, .. } => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; size];
                    file.read_exact_at(&mut bytes, offset).map(|()| Bytes::from(bytes))
                });
                match read.await {
                    Ok(Ok(bytes)) => Ok(bytes),
                    Ok(Err(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(changed()),
                    Ok(Err(e)) => {
                        let what = format!("the local file can not be read: {e}");
                        Err(Fault::own(StoreErrorKind::Unreadable, what))
                    }
                    Err(_) => {
                        Err(Fault::own(StoreErrorKind::Unreachable, "the daemon is stopping"))
                    }
                }
            }
        }
    }
}

/// What was read is not what was meant.
pub(super) fn changed() -> Fault {
    Fault::own(StoreErrorKind::Corrupt, "the file changed while it was read")
}

/// The size of all parts but the last: the same for all (R2 wants that), and few enough.
pub(super) fn part_size(len: u64) -> u64 {
    limits::PART_BYTES.max(len.div_ceil(PARTS_MAX).next_multiple_of(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_uniform_and_never_too_many() {
        assert_eq!(part_size(9 << 20), limits::PART_BYTES);
        for len in [80 << 30, 100 << 30, 5 << 40] {
            let size = part_size(len);
            assert!(len.div_ceil(size) <= PARTS_MAX && size.is_multiple_of(1 << 20), "{len}");
        }
    }
}
