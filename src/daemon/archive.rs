//! The archive as the file system sees it: content for reading, the engine for recalling.

use crate::content::{Content, ContentError};
use crate::engine::Engine;
use crate::recording::{Generation, NodeId, Reader};
use crate::store::Store;
use crate::vfs::{Archive, RemoteError};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct EngineArchive {
    pub content: Content,
    pub engine: Arc<Engine>,
    pub stores: Vec<Arc<dyn Store>>,
    pub read_timeout: Duration,
}

impl From<ContentError> for RemoteError {
    fn from(error: ContentError) -> RemoteError {
        RemoteError { detail: error.to_string(), class: error.class }
    }
}

impl Archive for EngineArchive {
    fn read(
        &self,
        id: NodeId,
        generation: Option<Generation>,
        path: &Path,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, RemoteError> {
        Ok(self.content.read_generation(id, generation, path, offset, len)?)
    }

    fn ready(
        &self,
        id: NodeId,
        generation: Generation,
        path: &Path,
        offset: u64,
        len: usize,
    ) -> Option<Bytes> {
        self.content.ready(id, generation, path, offset, len)
    }

    fn admit(&self, reader: Reader, id: NodeId) {
        self.content.admit(reader, id);
    }

    fn recall(&self, id: NodeId) -> Result<(), RemoteError> {
        let deadline = Instant::now() + self.read_timeout;
        self.engine
            .recall_blocking(id, deadline)
            .map_err(|error| RemoteError { detail: error.to_string(), class: error.class() })
    }

    fn complete(&self) {
        self.engine.complete();
    }

    fn url(&self, target: &str, key: &str) -> String {
        let store = self.stores.iter().find(|s| s.name() == target);
        store.map_or_else(|| key.to_owned(), |s| s.url(key))
    }
}
