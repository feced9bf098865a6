//! Where joined calls get their calls from.

use crate::catalog::Catalog;
use crate::stitch::Calls;
use std::sync::Arc;

/// The calls; none if there is no source of them, and then no joins are shown.
#[cfg(not(feature = "faults"))]
pub(super) fn source(_catalog: &Arc<Catalog>) -> Option<Arc<dyn Calls>> {
    None
}

/// The calls of a file that a test wrote, if there is one.
#[cfg(feature = "faults")]
pub(super) fn source(catalog: &Arc<Catalog>) -> Option<Arc<dyn Calls>> {
    let path = std::env::var_os("SPOOLFS_TEST_CALLS")?.into();
    Some(Arc::new(written::Written { path, catalog: catalog.clone() }))
}

/// Calls as tests write them down: a line for each, `linkedid<TAB>path@milliseconds@side<TAB>...`.
#[cfg(feature = "faults")]
mod written {
    use crate::catalog::Catalog;
    use crate::clock::Timestamp;
    use crate::recording::{ErrorClass, NodeId};
    use crate::stitch::{CallLeg, Calls, Result, Side, StitchError};
    use std::path::PathBuf;
    use std::sync::Arc;

    pub(super) struct Written {
        pub path: PathBuf,
        pub catalog: Arc<Catalog>,
    }

    impl Written {
        fn lines(&self) -> Result<Vec<String>> {
            let text = std::fs::read_to_string(&self.path).map_err(|e| StitchError {
                leg: String::new(),
                detail: e.to_string(),
                class: ErrorClass::Transient,
            })?;
            Ok(text.lines().map(str::to_owned).collect())
        }

        fn leg(&self, text: &str) -> Option<CallLeg> {
            let mut parts = text.split('@');
            let mut node = NodeId::ROOT;
            for name in parts.next()?.split('/') {
                node = self.catalog.lookup(node, name.as_bytes()).ok()??.id;
            }
            let start = parts.next().and_then(|ms| ms.parse::<i64>().ok());
            let side = match parts.next() {
                Some("caller") => Some(Side::Caller),
                Some("agent") => Some(Side::Agent),
                _ => None,
            };
            Some(CallLeg { node, start: start.map(|ms| Timestamp(ms * 1_000_000)), side })
        }
    }

    impl Calls for Written {
        fn legs(&self, linkedid: &[u8]) -> Result<Vec<CallLeg>> {
            let lines = self.lines()?;
            let mut calls = lines.iter().map(|line| line.split('\t'));
            let call = calls.find_map(|mut c| (c.next()?.as_bytes() == linkedid).then_some(c));
            Ok(call.into_iter().flatten().filter_map(|leg| self.leg(leg)).collect())
        }

        fn after(&self, cursor: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
            let lines = self.lines()?;
            let ids = lines.iter().enumerate().filter_map(|(n, line)| {
                let mut parts = line.split('\t');
                let id = parts.next()?.as_bytes().to_vec();
                (parts.count() > 1).then_some((n as u64 + 1, id))
            });
            Ok(ids.filter(|(n, _)| *n > cursor).take(limit).collect())
        }
    }
}
