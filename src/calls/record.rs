//! What a call record says, in one form for all sources.

use crate::clock::Timestamp;
use crate::limits;
use crate::recording::{NodeId, Sha256, State};
use std::path::PathBuf;

/// Where a record comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A call detail record.
    #[default]
    Cdr,
    /// The name of a recording.
    Name,
    /// A channel event that names a recording.
    Cel,
}

impl Origin {
    pub(super) fn code(self) -> i64 {
        match self {
            Origin::Cdr => 1,
            Origin::Name => 2,
            Origin::Cel => 3,
        }
    }

    pub(super) fn from_code(code: i64) -> Origin {
        match code {
            2 => Origin::Name,
            3 => Origin::Cel,
            _ => Origin::Cdr,
        }
    }
}

/// One record of a call. What a source does not have is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRecord {
    /// Where it comes from.
    pub origin: Origin,
    /// The channel.
    pub uniqueid: String,
    /// The oldest channel of the call, as it was known when the record was written.
    pub linkedid: String,
    /// Order among the records of one Asterisk.
    pub sequence: Option<i64>,
    /// When the leg began.
    pub start: Timestamp,
    /// When it was answered.
    pub answer: Option<Timestamp>,
    /// When it ended.
    pub end: Timestamp,
    /// Seconds from the answer to the end.
    pub billsec: i64,
    /// Somebody talked.
    pub answered: bool,
    /// "ANSWERED", "NO ANSWER", "BUSY", ... or a dialler's status.
    pub disposition: String,
    /// The caller's number.
    pub src: String,
    /// The number called.
    pub dst: String,
    /// The caller as shown.
    pub clid: String,
    /// Its context.
    pub dcontext: String,
    /// The channel's name.
    pub channel: String,
    /// The name of the other channel.
    pub dstchannel: String,
    /// Whom it is charged to.
    pub accountcode: String,
    /// The recording: a name, or a path.
    pub recordingfile: String,
    /// The number dialled from outside.
    pub did: String,
    /// Of a dialler: the campaign.
    pub campaign: String,
    /// Of a dialler: the list.
    pub list: String,
    /// The agent or user.
    pub agent: String,
    /// Of a dialler: the lead.
    pub lead: String,
    /// Of a dialler: the customer's number.
    pub phone: String,
    /// Of a dialler: the queue that calls come in by.
    pub ingroup: String,
    /// In a table whose rows are numbered and change: the number. It is not kept.
    pub number: Option<i64>,
}

impl CallRecord {
    /// The texts, in the order of the columns of the table.
    pub(super) fn texts(&self) -> [&String; 18] {
        [
            &self.uniqueid,
            &self.linkedid,
            &self.disposition,
            &self.src,
            &self.dst,
            &self.clid,
            &self.dcontext,
            &self.channel,
            &self.dstchannel,
            &self.accountcode,
            &self.recordingfile,
            &self.did,
            &self.campaign,
            &self.list,
            &self.agent,
            &self.lead,
            &self.phone,
            &self.ingroup,
        ]
    }

    /// The same, to be filled.
    pub(super) fn texts_mut(&mut self) -> [&mut String; 18] {
        [
            &mut self.uniqueid,
            &mut self.linkedid,
            &mut self.disposition,
            &mut self.src,
            &mut self.dst,
            &mut self.clid,
            &mut self.dcontext,
            &mut self.channel,
            &mut self.dstchannel,
            &mut self.accountcode,
            &mut self.recordingfile,
            &mut self.did,
            &mut self.campaign,
            &mut self.list,
            &mut self.agent,
            &mut self.lead,
            &mut self.phone,
            &mut self.ingroup,
        ]
    }

    /// Cuts what is longer than any field of a real record.
    pub(super) fn cut(&mut self) {
        for text in self.texts_mut() {
            if text.len() > limits::CALL_FIELD_BYTES_MAX {
                let end =
                    (0..=limits::CALL_FIELD_BYTES_MAX).rev().find(|i| text.is_char_boundary(*i));
                text.truncate(end.unwrap_or(0));
            }
        }
    }

    /// What makes it the same record when it is read again.
    pub(super) fn key(&self) -> i64 {
        if let Some(number) = self.number {
            return digest(&[&self.origin.code().to_string(), "number", &number.to_string()]);
        }
        let (sequence, start) = (self.sequence.unwrap_or(-1).to_string(), self.start.0.to_string());
        digest(&[
            &self.origin.code().to_string(),
            &self.uniqueid,
            &sequence,
            &start,
            &self.channel,
            &self.dstchannel,
            &self.src,
            &self.dst,
            &self.recordingfile,
        ])
    }

    /// Changes with anything in it.
    pub(super) fn content(&self) -> i64 {
        let numbers = format!(
            "{:?} {:?} {} {} {}",
            self.sequence, self.answer, self.end.0, self.billsec, self.answered
        );
        let mut parts: Vec<&str> = self.texts().into_iter().map(String::as_str).collect();
        parts.push(&numbers);
        digest(&parts)
    }

    /// The ids that tie it to others, without repetition.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        let linked = Some(self.linkedid.as_str()).filter(|l| *l != self.uniqueid);
        [Some(self.uniqueid.as_str()), linked].into_iter().flatten().filter(|id| !id.is_empty())
    }

    /// The numbers by which it is found.
    pub(super) fn numbers(&self) -> Vec<String> {
        let mut keys: Vec<String> = [&self.src, &self.dst, &self.did, &self.phone]
            .into_iter()
            .filter_map(|number| number_key(number))
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

/// Eight bytes of a hash of several texts.
pub(super) fn digest(parts: &[&str]) -> i64 {
    let mut bytes = Vec::with_capacity(256);
    for part in parts {
        bytes.extend_from_slice(part.as_bytes());
        // No text of a source has this byte in it.
        bytes.push(0xff);
    }
    let hash = Sha256::of(&bytes);
    let mut first = [0u8; 8];
    for (to, from) in first.iter_mut().zip(hash.0) {
        *to = from;
    }
    i64::from_le_bytes(first)
}

/// A number as it is looked for: backwards, because people know how it ends and not how it was
/// dialled. "+44 20 7946-0001" and "02079460001" end alike. What has no digit is no number.
pub(super) fn number_key(text: &str) -> Option<String> {
    let word = text.chars().any(|c| c.is_alphabetic());
    let kept = |c: &char| if word { c.is_alphanumeric() } else { c.is_ascii_digit() };
    let key: String = text.chars().rev().filter(kept).flat_map(char::to_lowercase).collect();
    let digits = key.bytes().any(|b| b.is_ascii_digit());
    (digits || (word && key.len() > 2)).then_some(key)
}

/// One recording of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Its row in the catalog.
    pub node: NodeId,
    /// Relative to the mount, as it was when last looked.
    pub path: PathBuf,
    /// Where it stands; unknown: the catalog could not say.
    pub state: Option<State>,
    /// When it began: the first record that names it.
    pub start: Timestamp,
    /// Order among legs that began in the same second.
    pub sequence: Option<i64>,
    /// When the last record that names it ended.
    pub end: Timestamp,
    /// The records that name it, the earliest first; without one, what its name says.
    pub records: Vec<CallRecord>,
}

/// A call: all that is tied together by uniqueid and linkedid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// A number of this cache, good until it is made anew; the cursor of `list`.
    pub id: u64,
    /// The linkedid of its earliest record: its name.
    pub linkedid: String,
    /// When it began.
    pub start: Timestamp,
    /// When its last record ended.
    pub end: Timestamp,
    /// Its recordings in order: by start, then by sequence.
    pub legs: Vec<Leg>,
    /// Its records, the earliest first.
    pub records: Vec<CallRecord>,
    /// Nothing more is to come, as far as can be told.
    pub complete: bool,
    /// Recordings that belong to another accountcode and are not in `legs`.
    pub apart: usize,
}

/// What the records say of one recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The record that says most of it.
    pub record: CallRecord,
    /// The name of its call; empty if nothing ties it to one.
    pub linkedid: String,
    /// A call record names it, not only its own name.
    pub matched: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_end() {
        let key = |text| number_key(text).unwrap_or_default();
        assert!(key("+44 20 7946-0001").starts_with(&key("7946 0001")));
        assert!(key("02079460001").starts_with(&key("2079460001")));
        assert_eq!(key("s"), "");
        assert_eq!(key("*97"), "79");
        assert_eq!(key("Alice1"), "1ecila");
        assert_eq!(key(""), "");
    }

    #[test]
    fn a_long_field_is_cut_at_a_character() {
        let mut record = CallRecord { src: "ü".repeat(2000), ..CallRecord::default() };
        record.cut();
        assert!(record.src.len() <= limits::CALL_FIELD_BYTES_MAX && record.src.len() > 500);
    }

    #[test]
    fn a_record_is_the_same_when_it_is_read_again_and_not_when_a_field_moves() {
        let one = CallRecord { src: "1".into(), dst: "23".into(), ..CallRecord::default() };
        let other = CallRecord { src: "12".into(), dst: "3".into(), ..CallRecord::default() };
        assert_eq!(one.key(), one.clone().key());
        assert_ne!(one.key(), other.key());
        let longer = CallRecord { billsec: 3, ..one.clone() };
        assert_eq!(one.key(), longer.key());
        assert_ne!(one.content(), longer.content());
    }
}
