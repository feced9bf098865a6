//! What is at a path, as the catalog knows it.

use super::commands::unusable;
use crate::catalog::{Catalog, NodeRow};
use crate::control::{Failure, WirePath};
use crate::recording::{Kind, NodeId};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is asked about; a directory has no state.
pub(super) fn recording(catalog: &Catalog, path: &Path) -> Result<NodeRow, Failure> {
    let why = match find(catalog, path)? {
        Some(row) if row.id != NodeId::ROOT && row.attr.kind != Kind::Dir => return Ok(row),
        Some(_) => "it is a directory; name a recording, `spoolfs find` with this path lists them",
        None => "there is no such file",
    };
    Err(Failure::new(format!("{}: {why}", WirePath(path.to_owned()))))
}

pub(super) fn find(catalog: &Catalog, path: &Path) -> Result<Option<NodeRow>, Failure> {
    let mut at = NodeId::ROOT;
    let mut found = catalog.node(at).map_err(unusable)?;
    for name in path.components() {
        found = catalog.lookup(at, name.as_os_str().as_bytes()).map_err(unusable)?;
        match &found {
            Some(row) => at = row.id,
            None => return Ok(None),
        }
    }
    Ok(found)
}
