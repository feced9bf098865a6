//! What the rules ask of calls, answered from the call records.

use crate::calls::Calls;
use crate::engine::CallSource;
use crate::policy::CallFacts;
use crate::recording::NodeId;
use std::path::Path;
use std::sync::Arc;

/// The call records of this daemon.
#[derive(Debug)]
struct Recorded(Arc<Calls>);

impl CallSource for Recorded {
    fn call_of(&self, id: NodeId, path: &Path) -> Result<Option<CallFacts>, String> {
        self.0.known_of(id, path).map_err(|error| error.to_string())
    }
}

/// Who knows what calls recordings are of, if call records are kept.
pub(super) fn source(calls: Option<&Arc<Calls>>) -> Option<Arc<dyn CallSource>> {
    Some(Arc::new(Recorded(calls?.clone())))
}
