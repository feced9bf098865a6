//! Whether a service refuses a put under a taken key: seen, not believed.

use super::CloudStore;
use crate::store::fault::Fault;
use crate::store::{Capabilities, ObjectMeta, Result, StoreErrorKind, marker};
use bytes::Bytes;

const BYTES: &[u8] = b"spoolfs";

impl CloudStore {
    /// Neither service computes a SHA-256, so `checksum` is never found.
    pub(super) async fn try_out(&self, nonce: &str) -> Result<Capabilities> {
        let key = format!("{}{}{nonce}-taken", self.options.prefix, marker::PROBE_DIR);
        let conditional_put = self.refuses_taken(&key).await;
        let conditional_put =
            conditional_put.map_err(|f| f.into_error(&self.options.name, "put", &key))?;
        Ok(Capabilities { conditional_put, checksum: false })
    }

    /// Writes an object twice.
    async fn refuses_taken(&self, key: &str) -> std::result::Result<bool, Fault> {
        self.probe_put(key).await?;
        let refused = match self.probe_put(key).await {
            Ok(()) => false,
            Err(f) if f.kind == StoreErrorKind::Exists => true,
            Err(f) => return Err(f),
        };
        // One that can not be deleted (immutable containers) stays, a few bytes long.
        if let Err(left) = self.try_delete(key).await {
            tracing::debug!(target_name = %self.options.name, key, error = ?left, "probe left");
        }
        Ok(refused)
    }

    async fn probe_put(&self, key: &str) -> std::result::Result<(), Fault> {
        match self.send(key, Bytes::from_static(BYTES), &ObjectMeta::default()).await {
            Err(f) if f.kind == StoreErrorKind::NotFound => Err(self.nowhere_to_put(f).await),
            put => put,
        }
    }
}
