//! Recordings that an operator wants to keep local: recalled, and never released.

use super::error::{EngineError, Result};
use crate::catalog::Catalog;
use crate::limits;
use crate::recording::NodeId;
use parking_lot::RwLock;
use std::collections::HashSet;
use std::path::Path;

/// The pins, as the catalog has them.
#[derive(Debug, Default)]
pub struct Pins {
    known: RwLock<Option<HashSet<NodeId>>>,
}

impl Pins {
    /// Whether a recording is pinned, as far as is known.
    pub fn has(&self, id: NodeId) -> bool {
        self.known.read().as_ref().is_some_and(|pins| pins.contains(&id))
    }

    /// Asks the catalog, once.
    pub(super) fn load(&self, catalog: &Catalog) -> Result<()> {
        if self.known.read().is_some() {
            return Ok(());
        }
        let mut known = self.known.write();
        if known.is_none() {
            *known = Some(catalog.pinned(limits::PINS_MAX)?.into_iter().collect());
        }
        Ok(())
    }

    /// Pins a recording, or ends that; tells whether it was otherwise.
    pub(super) fn set(&self, catalog: &Catalog, id: NodeId, pinned: bool) -> Result<bool> {
        self.load(catalog)?;
        let mut known = self.known.write();
        let Some(pins) = known.as_mut().filter(|pins| pins.contains(&id) != pinned) else {
            return Ok(false);
        };
        if pinned && pins.len() >= limits::PINS_MAX {
            let most = limits::PINS_MAX;
            let what = format!("{most} recordings are pinned, and no more can be; unpin some");
            return Err(EngineError::refused(Path::new(""), what));
        }
        catalog.pin(id, pinned)?;
        if pinned {
            pins.insert(id)
        } else {
            pins.remove(&id)
        };
        Ok(true)
    }
}
