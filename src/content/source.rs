//! What the catalog knows of the copies of a recording.

use super::ContentError;
use crate::catalog::{self, Catalog, ObjectRow, ObjectState};
use crate::limits;
use crate::recording::{
    ChunkHashes, Encoding, ErrorClass, Generation, HEAD_BYTES, NodeId, Sha256, chunk_range,
};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// The part of the catalog that is needed here.
pub trait Objects: Send + Sync + std::fmt::Debug {
    /// The current generation of a node; `None` if there is no such node.
    ///
    /// # Errors
    /// The catalog can not be used.
    fn current(&self, id: NodeId) -> catalog::Result<Option<Generation>>;

    /// The objects of one generation.
    ///
    /// # Errors
    /// The catalog can not be used.
    fn objects_of(&self, id: NodeId, generation: Generation) -> catalog::Result<Vec<ObjectRow>>;
}

impl Objects for Catalog {
    fn current(&self, id: NodeId) -> catalog::Result<Option<Generation>> {
        Ok(self.node(id)?.map(|row| row.generation))
    }

    fn objects_of(&self, id: NodeId, generation: Generation) -> catalog::Result<Vec<ObjectRow>> {
        self.objects_at_once(id, generation)
    }
}

/// One generation, and where it is.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) id: NodeId,
    pub(super) generation: Generation,
    /// Length in bytes.
    pub(super) size: u64,
    pub(super) chunks: ChunkHashes,
    pub(super) copies: Vec<Copy>,
}

/// In the place of a chunk's number: the beginning of the first one, which has a hash of its own.
pub(super) const HEAD: u64 = u64::MAX - 1;

impl Stored {
    /// Where a chunk is.
    pub(super) fn range(&self, index: u64) -> Range<u64> {
        if index == HEAD { 0..HEAD_BYTES.min(self.size) } else { chunk_range(index, self.size) }
    }

    /// Whether somebody is not to read it: nothing of it is put on the disk.
    pub(super) fn is_sealed(&self) -> bool {
        self.copies.iter().any(|copy| copy.encoding.is_sealed())
    }

    /// The digest of a chunk. Every one has its own: a catalog that lacks some is refused.
    pub(super) fn sum(&self, index: u64) -> Option<Sha256> {
        let sum = if index == HEAD { self.chunks.head(self.size) } else { self.chunks.get(index) };
        sum.copied()
    }
}

/// One verified object.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) target: String,
    pub(super) key: String,
    /// How the recording is made of what is there.
    pub(super) encoding: Encoding,
}

/// The catalog, with what was asked last.
#[derive(Debug)]
pub(super) struct Sources {
    objects: Arc<dyn Objects>,
    known: moka::sync::Cache<(NodeId, Generation), Arc<Stored>>,
}

impl Sources {
    pub(super) fn new(objects: Arc<dyn Objects>) -> Sources {
        let known = moka::sync::Cache::builder()
            .max_capacity(limits::SOURCES_BYTES)
            .weigher(|_, stored: &Arc<Stored>| {
                // Of a FLAC object it is known where each chunk begins.
                let parts = stored.chunks.0.len() * (32 + 16 * stored.copies.len());
                u32::try_from(512 + parts).unwrap_or(u32::MAX)
            })
            .time_to_live(limits::SOURCES_TTL)
            .build();
        Sources { objects, known }
    }

    /// The copies of a node's current generation.
    pub(super) fn stored(&self, id: NodeId, path: &Path) -> Result<Arc<Stored>, ContentError> {
        self.of(id, None, path)
    }

    /// The copies of one generation: the current one, if the caller knows none.
    pub(super) fn of(
        &self,
        id: NodeId,
        generation: Option<Generation>,
        path: &Path,
    ) -> Result<Arc<Stored>, ContentError> {
        let unusable = |e: catalog::CatalogError| error(path, e.to_string(), e.class());
        let generation = match generation {
            Some(generation) => generation,
            None => self.objects.current(id).map_err(unusable)?.unwrap_or_default(),
        };
        if let Some(known) = self.known.get(&(id, generation)) {
            return Ok(known);
        }
        let rows = self.objects.objects_of(id, generation).map_err(unusable)?;
        let stored = gather(id, generation, rows)
            .map_err(|detail| error(path, detail.to_owned(), ErrorClass::Permanent))?;
        let stored = Arc::new(stored);
        self.known.insert((id, generation), stored.clone());
        Ok(stored)
    }

    /// The same, without asking anybody.
    pub(super) fn known(&self, id: NodeId, generation: Generation) -> Option<Arc<Stored>> {
        self.known.get(&(id, generation))
    }

    pub(super) fn forget(&self, id: NodeId, generation: Generation) {
        self.known.invalidate(&(id, generation));
    }
}

fn error(path: &Path, detail: String, class: ErrorClass) -> ContentError {
    ContentError { path: path.display().to_string(), detail, class }
}

fn gather(
    id: NodeId,
    generation: Generation,
    rows: Vec<ObjectRow>,
) -> Result<Stored, &'static str> {
    let verified: Vec<_> = rows.into_iter().filter(|r| r.state == ObjectState::Verified).collect();
    let first =
        verified.first().ok_or("there is no verified copy in any target; run `spoolfs check`")?;
    if !first.chunks.fit(first.size) {
        return Err("the catalog has no hashes of its parts; run `spoolfs check`");
    }
    let (size, sha256, hashes) = (first.size, first.sha256, first.chunks.clone());
    let same = verified.into_iter().filter(|r| r.sha256 == sha256 && r.size == size);
    let copies = same.map(|r| Copy { target: r.target, key: r.key, encoding: r.stored.encoding });
    let copies = copies.collect();
    Ok(Stored { id, generation, size, chunks: hashes, copies })
}
