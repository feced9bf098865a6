//! Between rows of the cache and records.

use super::record::{CallRecord, Origin};
use crate::clock::Timestamp;
use rusqlite::Row;

/// Columns of `record r`, as [`record`] expects them from index 0 on.
pub(super) const RECORD: &str = "r.origin, r.sequence, r.start, r.answer, r.ended, r.billsec, \
     r.answered, r.uniqueid, r.linkedid, r.disposition, r.src, r.dst, r.clid, r.dcontext, \
     r.channel, r.dstchannel, r.accountcode, r.recordingfile, r.did, r.campaign, r.list, r.agent, \
     r.lead, r.phone, r.ingroup";
/// How many those are.
pub(super) const RECORD_COLUMNS: usize = 25;
const TEXTS_FROM: usize = 7;
/// Those that tell which recordings are of a call, and when; as [`brief`] expects them.
pub(super) const BRIEF: &str = "r.origin, r.sequence, r.start, r.ended, r.uniqueid, r.linkedid, \
     r.accountcode, r.recordingfile";

/// A record from the columns of [`RECORD`].
pub(super) fn record(row: &Row<'_>) -> rusqlite::Result<CallRecord> {
    let mut record = CallRecord {
        origin: Origin::from_code(row.get(0)?),
        sequence: row.get(1)?,
        start: Timestamp(row.get(2)?),
        answer: row.get::<_, Option<i64>>(3)?.map(Timestamp),
        end: Timestamp(row.get(4)?),
        billsec: row.get(5)?,
        answered: row.get(6)?,
        ..CallRecord::default()
    };
    for (index, text) in record.texts_mut().into_iter().enumerate() {
        *text = row.get(TEXTS_FROM + index)?;
    }
    Ok(record)
}

/// A record from the columns of [`BRIEF`]; what else it says is empty.
pub(super) fn brief(row: &Row<'_>) -> rusqlite::Result<CallRecord> {
    Ok(CallRecord {
        origin: Origin::from_code(row.get(0)?),
        sequence: row.get(1)?,
        start: Timestamp(row.get(2)?),
        end: Timestamp(row.get(3)?),
        uniqueid: row.get(4)?,
        linkedid: row.get(5)?,
        accountcode: row.get(6)?,
        recordingfile: row.get(7)?,
        ..CallRecord::default()
    })
}
