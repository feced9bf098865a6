//! From the columns of a source to a record.

use super::record::{CallRecord, Origin};
use super::time::{self, Zone};
use crate::clock::Timestamp;
use std::time::Duration;

/// What a column means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Something that is not kept.
    Ignore,
    /// When it began.
    Start,
    /// When it was answered.
    Answer,
    /// When it ended.
    End,
    /// Seconds in all.
    Duration,
    /// Seconds talked.
    Billsec,
    /// How it ended.
    Disposition,
    /// Order.
    Sequence,
    /// One of the texts.
    Text(Text),
}

/// A text of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the field of CallRecord of that name")]
pub enum Text {
    Uniqueid,
    Linkedid,
    Src,
    Dst,
    Clid,
    Dcontext,
    Channel,
    Dstchannel,
    Accountcode,
    Recordingfile,
    Did,
    Campaign,
    List,
    Agent,
    Lead,
    Phone,
    Ingroup,
}

/// Names of columns, in lower case: Asterisk's, FreePBX's, VICIdial's and those of own queries.
const NAMES: &[(&str, Field)] = &[
    ("start", Field::Start),
    ("calldate", Field::Start),
    ("start_time", Field::Start),
    ("call_date", Field::Start),
    ("answer", Field::Answer),
    ("end", Field::End),
    ("end_time", Field::End),
    ("duration", Field::Duration),
    ("billsec", Field::Billsec),
    ("length_in_sec", Field::Billsec),
    ("disposition", Field::Disposition),
    ("status", Field::Disposition),
    ("sequence", Field::Sequence),
    ("uniqueid", Field::Text(Text::Uniqueid)),
    ("linkedid", Field::Text(Text::Linkedid)),
    ("src", Field::Text(Text::Src)),
    ("dst", Field::Text(Text::Dst)),
    ("clid", Field::Text(Text::Clid)),
    ("dcontext", Field::Text(Text::Dcontext)),
    ("channel", Field::Text(Text::Channel)),
    ("dstchannel", Field::Text(Text::Dstchannel)),
    ("accountcode", Field::Text(Text::Accountcode)),
    ("recordingfile", Field::Text(Text::Recordingfile)),
    ("filename", Field::Text(Text::Recordingfile)),
    ("did", Field::Text(Text::Did)),
    ("campaign", Field::Text(Text::Campaign)),
    ("campaign_id", Field::Text(Text::Campaign)),
    ("list", Field::Text(Text::List)),
    ("list_id", Field::Text(Text::List)),
    ("agent", Field::Text(Text::Agent)),
    ("user", Field::Text(Text::Agent)),
    ("lead", Field::Text(Text::Lead)),
    ("lead_id", Field::Text(Text::Lead)),
    ("phone", Field::Text(Text::Phone)),
    ("phone_number", Field::Text(Text::Phone)),
    ("ingroup", Field::Text(Text::Ingroup)),
];

/// Columns that Asterisk has and that are not kept.
const IGNORED: &[&str] = &[
    "",
    "-",
    "lastapp",
    "lastdata",
    "amaflags",
    "userfield",
    "peeraccount",
    "cnum",
    "cnam",
    "outbound_cnum",
    "outbound_cnam",
    "dst_cnam",
    "acctid",
    "id",
    "tenantid",
    "rowid",
];

impl Field {
    /// The meaning of a column by its name; `None`: nobody knows it.
    pub fn of(name: &str) -> Option<Field> {
        let name = name.trim().to_ascii_lowercase();
        let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, field)| *field);
        known.or_else(|| IGNORED.contains(&name.as_str()).then_some(Field::Ignore))
    }
}

/// Collects the columns of one row.
#[derive(Debug)]
pub(super) struct Row<'a> {
    zone: &'a Zone,
    record: CallRecord,
    start: String,
    answer: String,
    end: String,
    duration: Option<i64>,
    billsec: Option<i64>,
}

impl<'a> Row<'a> {
    pub(super) fn new(zone: &'a Zone) -> Row<'a> {
        let record = CallRecord { origin: Origin::Cdr, ..CallRecord::default() };
        let empty = String::new;
        Row {
            zone,
            record,
            start: empty(),
            answer: empty(),
            end: empty(),
            duration: None,
            billsec: None,
        }
    }

    /// Takes one column.
    pub(super) fn set(&mut self, field: Field, value: &str) {
        let number = || value.trim().split('.').next().unwrap_or_default().parse::<i64>().ok();
        match field {
            Field::Ignore => {}
            Field::Start => value.clone_into(&mut self.start),
            Field::Answer => value.clone_into(&mut self.answer),
            Field::End => value.clone_into(&mut self.end),
            Field::Duration => self.duration = number(),
            Field::Billsec => self.billsec = number(),
            Field::Disposition => value.clone_into(&mut self.record.disposition),
            Field::Sequence => self.record.sequence = number(),
            Field::Text(text) => value.clone_into(self.text(text)),
        }
    }

    fn text(&mut self, text: Text) -> &mut String {
        let record = &mut self.record;
        match text {
            Text::Uniqueid => &mut record.uniqueid,
            Text::Linkedid => &mut record.linkedid,
            Text::Src => &mut record.src,
            Text::Dst => &mut record.dst,
            Text::Clid => &mut record.clid,
            Text::Dcontext => &mut record.dcontext,
            Text::Channel => &mut record.channel,
            Text::Dstchannel => &mut record.dstchannel,
            Text::Accountcode => &mut record.accountcode,
            Text::Recordingfile => &mut record.recordingfile,
            Text::Did => &mut record.did,
            Text::Campaign => &mut record.campaign,
            Text::List => &mut record.list,
            Text::Agent => &mut record.agent,
            Text::Lead => &mut record.lead,
            Text::Phone => &mut record.phone,
            Text::Ingroup => &mut record.ingroup,
        }
    }

    /// The record, if it says when it was.
    pub(super) fn finish(self) -> Result<CallRecord, String> {
        let mut record = self.record;
        let hint = time::epoch_of(&record.uniqueid);
        let parse = |text: &str| self.zone.parse(text, hint);
        let start = parse(&self.start).or_else(|| parse(&self.answer));
        record.start = match start {
            Some(start) => start,
            None if self.start.is_empty() => return Err("it has no time of start".to_owned()),
            None => return Err(format!("{:?} is no time", shown(&self.start))),
        };
        record.answer = parse(&self.answer);
        let seconds = |n: Option<i64>| Duration::from_secs(n.unwrap_or(0).max(0).unsigned_abs());
        let by_length = record.start.plus(seconds(self.duration.or(self.billsec)));
        let end: Option<Timestamp> = parse(&self.end);
        record.end = end.unwrap_or(by_length).max(record.start);
        record.billsec = self.billsec.or(self.duration).unwrap_or(0).max(0);
        // Asterisk says so; a dialler's status means something else in each installation.
        record.answered = match record.disposition.to_ascii_uppercase().as_str() {
            "ANSWERED" => true,
            "NO ANSWER" | "NOANSWER" | "BUSY" | "FAILED" | "CONGESTION" | "CANCEL" => false,
            _ => record.billsec > 0,
        };
        // A plain "none" of a script is no recording.
        if matches!(record.recordingfile.as_str(), "none" | "deleted" | "NULL") {
            record.recordingfile.clear();
        }
        record.cut();
        Ok(record)
    }
}

/// The beginning of what a row holds, for a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pairs: &[(&str, &str)]) -> Result<CallRecord, String> {
        let zone = Zone::utc();
        let mut row = Row::new(&zone);
        for (name, value) in pairs {
            row.set(Field::of(name).expect(name), value);
        }
        row.finish()
    }

    #[test]
    fn a_row_without_end_ends_after_its_duration() {
        let record =
            row(&[("calldate", "2026-11-21 02:27:09"), ("duration", "6"), ("billsec", "3")]);
        let record = record.expect("a record");
        assert_eq!(record.end.secs() - record.start.secs(), 6);
        assert_eq!((record.billsec, record.answered), (3, true));
    }

    #[test]
    fn a_row_without_a_time_is_none() {
        assert_eq!(row(&[("src", "1")]), Err("it has no time of start".to_owned()));
        assert_eq!(row(&[("start", "yesterday")]), Err("\"yesterday\" is no time".to_owned()));
    }

    #[test]
    fn only_an_answered_call_is_answered() {
        for (disposition, billsec, answered) in [
            ("ANSWERED", "0", true),
            ("NO ANSWER", "0", false),
            ("BUSY", "4", false),
            ("SALE", "4", true),
            ("NA", "0", false),
        ] {
            let record = row(&[
                ("start", "2026-11-21 02:27:09"),
                ("disposition", disposition),
                ("billsec", billsec),
            ]);
            assert_eq!(record.expect("a record").answered, answered, "{disposition}");
        }
    }
}
