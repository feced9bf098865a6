//! Proof that an object is what was meant.

use super::{Proof, Result, Store, StoreError, StoreErrorKind};
use crate::limits;
use crate::recording::Sha256;
use sha2::Digest;

/// Makes sure that the object under `key` has this length and digest: by the checksum that the
/// target computed, else by reading all of it; and that it stays there if the power is cut. An ETag
/// proves nothing and is never asked.
///
/// # Errors
/// `Corrupt` if it is anything else; `NotFound` if it is not there; `Unreachable`, `Denied`.
pub async fn verify(store: &dyn Store, key: &str, size: u64, sha256: Sha256) -> Result<Proof> {
    let head = store.head(key).await?;
    if head.size != size {
        return Err(wrong(store, key, format!("{} bytes, {size} were meant", head.size)));
    }
    let proof = match head.sha256 {
        Some(found) if found == sha256 => Proof::Checksum,
        Some(found) => {
            return Err(wrong(store, key, format!("SHA-256 {found}, {sha256} was meant")));
        }
        None => read_back(store, key, size, sha256).await?,
    };
    store.settle(key).await?;
    Ok(proof)
}

async fn read_back(store: &dyn Store, key: &str, size: u64, sha256: Sha256) -> Result<Proof> {
    let mut whole = sha2::Sha256::new();
    let mut offset = 0;
    while offset < size {
        let end = size.min(offset + limits::READ_BACK_BYTES);
        let bytes = store.get(key, offset..end).await?;
        if bytes.len() as u64 != end - offset {
            return Err(wrong(
                store,
                key,
                format!("it ends after {} bytes", offset + bytes.len() as u64),
            ));
        }
        whole.update(&bytes);
        offset = end;
    }
    let found = Sha256(whole.finalize().into());
    if found != sha256 {
        return Err(wrong(store, key, format!("SHA-256 {found}, {sha256} was meant")));
    }
    Ok(Proof::ReadBack)
}

fn wrong(store: &dyn Store, key: &str, detail: String) -> StoreError {
    let what = format!("the object is not what was written: {detail}");
    StoreError::new(StoreErrorKind::Corrupt, store.name(), "verify", key, what)
        .hint("the recording is kept locally and is archived again under another key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::{Fault, MemoryStore, Operation};
    use crate::store::{Body, ObjectMeta};

    async fn stored(bytes: &'static [u8]) -> MemoryStore {
        let store = MemoryStore::new("m", "");
        store
            .put("k", Body::Bytes(bytes.into()), Sha256::of(bytes), &ObjectMeta::default())
            .await
            .unwrap();
        store
    }

    #[tokio::test]
    async fn a_checksum_is_enough_and_without_one_everything_is_read() {
        let store = stored(b"audio").await;
        let sum = Sha256::of(b"audio");
        assert_eq!(verify(&store, "k", 5, sum).await.unwrap(), Proof::Checksum);
        assert_eq!(store.calls(Operation::Get), 0);
        store.return_checksums(false);
        assert_eq!(verify(&store, "k", 5, sum).await.unwrap(), Proof::ReadBack);
    }

    #[tokio::test]
    async fn a_wrong_length_or_byte_is_corrupt_either_way() {
        for checksums in [true, false] {
            let store = stored(b"audio").await;
            store.return_checksums(checksums);
            for (size, sum) in [(4, Sha256::of(b"audio")), (5, Sha256::of(b"other"))] {
                let error = verify(&store, "k", size, sum).await.unwrap_err();
                assert_eq!(error.kind, StoreErrorKind::Corrupt);
            }
            store.corrupt("k", 2);
            let error = verify(&store, "k", 5, Sha256::of(b"audio")).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Corrupt);
        }
    }

    #[tokio::test]
    async fn not_there_and_not_reached_stay_different() {
        let store = stored(b"audio").await;
        let sum = Sha256::of(b"audio");
        let missing = verify(&store, "other", 5, sum).await.unwrap_err();
        assert_eq!(missing.kind, StoreErrorKind::NotFound);
        store.fail_next(Operation::Head, 1, Fault::Unreachable);
        let down = verify(&store, "k", 5, sum).await.unwrap_err();
        assert_eq!(down.kind, StoreErrorKind::Unreachable);
    }
}
