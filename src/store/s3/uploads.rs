//! Uploads in parts that nobody will finish.

use super::{S3Store, call};
use crate::limits;
use crate::store::StoreErrorKind;
use crate::store::fault::Fault;

impl S3Store {
    /// Ends those below `prefix` that this store is not working on. A node has one daemon, so
    /// what is not ours is left from an earlier one.
    pub(super) async fn abort_below(&self, prefix: &str) -> Result<usize, Fault> {
        let client = self.client().await;
        let (mut key_marker, mut id_marker) = (None, None);
        let mut aborted = 0;
        for _ in 0..limits::ORPHAN_PAGES_MAX {
            let request = client
                .list_multipart_uploads()
                .bucket(&self.options.bucket)
                .prefix(prefix)
                .set_key_marker(key_marker)
                .set_upload_id_marker(id_marker);
            let page = match call(0, request.send()).await {
                // A service without such uploads has no orphans.
                Err(f) if f.status == 501 => return Ok(aborted),
                answer => answer?,
            };
            for upload in page.uploads() {
                let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                if key.starts_with(prefix) && !self.in_flight.contains(key) {
                    match self.abort(key, id).await {
                        Err(f) if f.kind == StoreErrorKind::NotFound => {}
                        answer => answer?,
                    }
                    aborted += 1;
                }
            }
            key_marker = page.next_key_marker().map(str::to_owned);
            id_marker = page.next_upload_id_marker().map(str::to_owned);
            if page.is_truncated() != Some(true) || key_marker.is_none() {
                break;
            }
        }
        Ok(aborted)
    }
}
