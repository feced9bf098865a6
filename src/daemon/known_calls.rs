//! Where joined calls get their calls from.

use crate::calls;
use crate::catalog::Catalog;
use crate::recording::{ErrorClass, NodeId};
use crate::stitch::{CallLeg, Calls, Heard, ListedCall, Result, Side, StitchError};
use std::sync::Arc;

/// The calls; none if there is no source of them, and then no joins are shown.
pub(super) fn source(
    calls: Option<&Arc<calls::Calls>>,
    catalog: &Arc<Catalog>,
) -> Option<Arc<dyn Calls>> {
    let written = written(catalog);
    written.or_else(|| Some(Arc::new(Recorded(calls?.clone()))))
}

#[cfg(not(feature = "faults"))]
fn written(_catalog: &Arc<Catalog>) -> Option<Arc<dyn Calls>> {
    None
}

/// The calls of a file that a test wrote, if there is one.
#[cfg(feature = "faults")]
fn written(catalog: &Arc<Catalog>) -> Option<Arc<dyn Calls>> {
    let path = std::env::var_os("SPOOLFS_TEST_CALLS")?.into();
    Some(Arc::new(written::Written { path, catalog: catalog.clone() }))
}

/// A call of one recording can be asked for, and is not listed.
const AT_LEAST: usize = 2;

/// Calls as the PBX recorded them.
struct Recorded(Arc<calls::Calls>);

impl Calls for Recorded {
    fn is_open(&self) -> bool {
        self.0.is_open()
    }

    fn legs(&self, linkedid: &[u8]) -> Result<Vec<CallLeg>> {
        let Ok(id) = std::str::from_utf8(linkedid) else { return Ok(Vec::new()) };
        Ok(call_legs(self.0.joined(id).map_err(unusable)?))
    }

    fn after(&self, cursor: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let page = self.0.list(cursor, AT_LEAST, limit).map_err(unusable)?;
        Ok(page.into_iter().map(|call| (call.id, call.linkedid.into_bytes())).collect())
    }

    fn with_legs(&self, cursor: u64, limit: usize) -> Result<Vec<ListedCall>> {
        let page = self.0.list_joined(cursor, AT_LEAST, limit).map_err(unusable)?;
        let of = |call: calls::Joined| ListedCall {
            cursor: call.id,
            linkedid: call.linkedid.into_bytes(),
            legs: call_legs(call.legs),
        };
        Ok(page.into_iter().map(of).collect())
    }

    fn heard_after(&self, position: u64, limit: usize) -> Result<Heard> {
        let heard = self.0.heard_after(position, limit).map_err(unusable)?;
        let calls = heard.calls.into_iter().map(String::into_bytes).collect();
        Ok(Heard { calls, position: heard.position })
    }

    fn calls_of(&self, node: NodeId) -> Result<Vec<Vec<u8>>> {
        let calls = self.0.calls_of(node).map_err(unusable)?;
        Ok(calls.into_iter().map(String::into_bytes).collect())
    }

    fn is_complete(&self, linkedid: &[u8]) -> Result<bool> {
        let Ok(id) = std::str::from_utf8(linkedid) else { return Ok(false) };
        Ok(self.0.legs(id).map_err(unusable)?.is_some_and(|call| call.complete))
    }
}

fn call_legs(legs: Vec<calls::JoinedLeg>) -> Vec<CallLeg> {
    let leg = |leg: calls::JoinedLeg| CallLeg {
        node: leg.node,
        start: Some(leg.start),
        side: leg.called.map(|called| if called { Side::Agent } else { Side::Caller }),
    };
    legs.into_iter().map(leg).collect()
}

fn unusable(error: calls::CallsError) -> StitchError {
    let detail = format!("call records can not be read: {error}");
    StitchError { leg: "calls".into(), detail, class: ErrorClass::Transient }
}

/// Calls as tests write them down: a line for each, `linkedid<TAB>path@milliseconds@side<TAB>...`.
#[cfg(feature = "faults")]
mod written {
    use crate::catalog::Catalog;
    use crate::clock::Timestamp;
    use crate::recording::{ErrorClass, NodeId};
    use crate::stitch::{CallLeg, Calls, Heard, ListedCall, Result, Side, StitchError};
    use std::path::PathBuf;
    use std::sync::Arc;

    pub(super) struct Written {
        pub path: PathBuf,
        pub catalog: Arc<Catalog>,
    }

    impl Written {
        fn lines(&self) -> Result<Vec<String>> {
            let text = std::fs::read_to_string(&self.path).map_err(|e| unreadable(&e))?;
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
        /// Who reads a FIFO waits until a test writes there.
        fn is_open(&self) -> bool {
            use std::os::unix::fs::FileTypeExt;
            !std::fs::metadata(&self.path).is_ok_and(|file| file.file_type().is_fifo())
        }

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

        fn with_legs(&self, cursor: u64, limit: usize) -> Result<Vec<ListedCall>> {
            let calls = self.after(cursor, limit)?.into_iter();
            let call = |(cursor, linkedid): (u64, Vec<u8>)| {
                Ok(ListedCall { cursor, legs: self.legs(&linkedid)?, linkedid })
            };
            calls.map(call).collect()
        }

        /// All of them whenever the file was written anew.
        fn heard_after(&self, position: u64, _limit: usize) -> Result<Heard> {
            use std::os::unix::fs::MetadataExt;
            let written = std::fs::metadata(&self.path).map_err(|e| unreadable(&e))?;
            let last = written.ino() << 20 ^ written.mtime_nsec().cast_unsigned();
            let calls = match position == last || position == u64::MAX {
                true => Vec::new(),
                false => self.after(0, usize::MAX)?.into_iter().map(|(_, id)| id).collect(),
            };
            Ok(Heard { calls, position: last })
        }

        fn calls_of(&self, node: NodeId) -> Result<Vec<Vec<u8>>> {
            let all = self.after(0, usize::MAX)?.into_iter();
            let of = |id: &Vec<u8>| {
                self.legs(id).is_ok_and(|legs| legs.iter().any(|leg| leg.node == node))
            };
            Ok(all.map(|(_, id)| id).filter(of).collect())
        }

        fn is_complete(&self, _linkedid: &[u8]) -> Result<bool> {
            Ok(true)
        }
    }

    fn unreadable(error: &std::io::Error) -> StitchError {
        StitchError { leg: String::new(), detail: error.to_string(), class: ErrorClass::Transient }
    }
}
