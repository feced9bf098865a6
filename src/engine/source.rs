//! Stand-in until `content` is there.
use crate::catalog::NodeRow;
use crate::content::ContentError;
use std::path::Path;
use std::time::Duration;

/// Takes bytes at a position.
pub type Sink<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), ContentError>;

/// Where archived bytes come from.
pub trait Source: Send + Sync + std::fmt::Debug {
    /// All bytes, in order.
    ///
    /// # Errors
    /// If no target gives them.
    fn fetch_all(
        &self,
        row: &NodeRow,
        path: &Path,
        within: Duration,
        sink: Sink<'_>,
    ) -> Result<(), ContentError>;
}
