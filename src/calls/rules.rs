//! What the rules (`[[policy]]`) ask of the call of a recording.

use super::ingest::same_directory;
use super::reads::{self, KNOWN, Known, all, known};
use super::record::{CallRecord, Facts};
use super::{Asked, Calls, Result, names};
use crate::clock::Timestamp;
use crate::limits;
use crate::policy::{CallFacts, Direction};
use crate::recording::NodeId;
use rusqlite::{Connection, OptionalExtension, params};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

type Sql<T> = rusqlite::Result<T>;

/// A number that has no more digits is a telephone of this PBX.
const EXTENSION_DIGITS_MAX: usize = 6;

/// Contexts that calls from outside come in by, as FreePBX and many dial plans call them.
const FROM_OUTSIDE: &[&str] = &[
    "from-trunk",
    "from-pstn",
    "from-did",
    "from-dahdi",
    "from-zaptel",
    "from-sip-external",
    "ext-did",
];

impl Calls {
    /// What is known of the call of a recording, or of a file that belongs to one; `None`: nothing
    /// yet.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn known_of(&self, node: NodeId, path: &Path) -> Result<Option<CallFacts>> {
        self.with(|conn| {
            let Some(recording) = recording(conn, node, path)? else { return Ok(None) };
            let Some(facts) = reads::facts(conn, &recording)? else { return Ok(None) };
            if !facts.matched && !self.only_names {
                // What a name says can be wrong, and its record may still come.
                return Ok(None);
            }
            let ended = ended(conn, &self.asked(), recording.node)?;
            Ok(Some(facts.for_rules(ended)))
        })
    }

    /// When the last call of the account was over that the call of a recording was about: its lead,
    /// or else its accountcode. `None`: there is none, or a source may know of later calls.
    ///
    /// # Errors
    /// `Unusable`.
    pub fn last_of_account(&self, node: NodeId, path: &Path) -> Result<Option<Timestamp>> {
        let sure = |feed: &super::FeedStatus| feed.caught_up && feed.error.is_none();
        if !self.status().feeds.iter().all(sure) {
            return Ok(None);
        }
        self.with(|conn| {
            let Some(recording) = recording(conn, node, path)? else { return Ok(None) };
            let Some(facts) = reads::facts(conn, &recording)?.filter(|f| f.matched) else {
                return Ok(None);
            };
            let (lead, account) = (facts.record.lead, facts.record.accountcode);
            let last = |text: &str, of: &str| -> Sql<Option<Timestamp>> {
                let ended: Option<i64> =
                    conn.prepare_cached(text)?.query_row([of], |r| r.get(0))?;
                Ok(ended.map(Timestamp))
            };
            match (lead.is_empty(), account.is_empty()) {
                (false, _) => {
                    last("SELECT max(ended) FROM record WHERE lead = ?1 AND lead <> ''", &lead)
                }
                (_, false) => last(
                    "SELECT max(ended) FROM record WHERE accountcode = ?1 AND accountcode <> ''",
                    &account,
                ),
                _ => Ok(None),
            }
        })
    }
}

/// The recording, or the one that a sidecar belongs to.
fn recording(conn: &Connection, node: NodeId, path: &Path) -> Sql<Option<Known>> {
    let text = format!("SELECT {KNOWN} FROM recording n WHERE n.node = ?1");
    let own = conn.prepare_cached(&text)?.query_row([node.0.cast_signed()], known).optional()?;
    if own.is_some() {
        return Ok(own);
    }
    let bytes = path.as_os_str().as_bytes();
    let text =
        format!("SELECT {KNOWN} FROM recording n WHERE n.stem = ?1 ORDER BY n.node LIMIT ?2");
    let limit = limits::CALL_LEGS_MAX as i64;
    let group = all(conn, &text, params![names::stem_of(bytes), limit], known)?;
    Ok(group.into_iter().find(|one| same_directory(bytes, &one.path)))
}

/// When the call of a recording was over; `None`: it is not, as far as can be told.
fn ended(conn: &Connection, asked: &Asked<'_>, node: NodeId) -> Sql<Option<Timestamp>> {
    let Some(call) = reads::call_of_node(conn, node)? else { return Ok(None) };
    let times: Option<(i64, i64)> = conn
        .prepare_cached("SELECT ended, touched FROM call WHERE id = ?1")?
        .query_row([call], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    let Some((end, touched)) = times else { return Ok(None) };
    let over = reads::settled(conn, asked, call, Timestamp(touched.max(end)))?;
    Ok(over.then_some(Timestamp(end)))
}

impl Facts {
    /// What the rules compare. Of what only a name says, that which it does not say is not known.
    fn for_rules(self, ended: Option<Timestamp>) -> CallFacts {
        let (record, sure) = (self.record, self.matched);
        let direction = direction(&record);
        let extensions = extensions(&record);
        let numbers: Vec<String> = [&record.src, &record.dst, &record.did, &record.phone]
            .into_iter()
            .filter(|text| !text.is_empty())
            .cloned()
            .collect();
        let text = |text: String| (sure || !text.is_empty()).then_some(text);
        let texts = |texts: Vec<String>| (sure || !texts.is_empty()).then_some(texts);
        let long = record.start.age_at(record.end);
        CallFacts {
            campaign: text(record.campaign),
            ingroup: text(record.ingroup),
            list: text(record.list),
            agent: text(record.agent),
            accountcode: text(record.accountcode),
            did: text(record.did),
            numbers: texts(numbers),
            extensions: texts(extensions),
            direction: direction.filter(|_| sure),
            disposition: text(record.disposition),
            duration: sure.then(|| Duration::from_secs(long.as_secs())),
            ended: ended.filter(|_| sure),
        }
    }
}

/// Which way it went; `None`: the record does not tell.
fn direction(record: &CallRecord) -> Option<Direction> {
    if !record.did.is_empty() || !record.ingroup.is_empty() {
        return Some(Direction::Inbound);
    }
    if !record.campaign.is_empty() || !record.list.is_empty() || !record.lead.is_empty() {
        return Some(Direction::Outbound);
    }
    let context = record.dcontext.to_ascii_lowercase();
    if FROM_OUTSIDE.iter().any(|known| context.starts_with(known)) {
        return Some(Direction::Inbound);
    }
    match (is_extension(&record.src), is_extension(&record.dst)) {
        _ if record.src.is_empty() || record.dst.is_empty() => None,
        (true, true) => Some(Direction::Internal),
        (true, false) if is_number(&record.dst) => Some(Direction::Outbound),
        (false, true) if is_number(&record.src) => Some(Direction::Inbound),
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    text.bytes().filter(u8::is_ascii_digit).count() > EXTENSION_DIGITS_MAX
}

fn is_extension(text: &str) -> bool {
    (1..=EXTENSION_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

/// The telephones of a call: those of its channels, and numbers as short as theirs.
fn extensions(record: &CallRecord) -> Vec<String> {
    let of_channels =
        [&record.channel, &record.dstchannel].into_iter().filter_map(|c| telephone(c));
    let short = [&record.src, &record.dst].into_iter().filter(|text| is_extension(text)).cloned();
    let mut all: Vec<String> = of_channels.chain(short).collect();
    all.sort();
    all.dedup();
    all
}

/// `1001` of `PJSIP/1001-00000007`, `2002` of `Local/2002@rig-agent-00000006;2`.
fn telephone(channel: &str) -> Option<String> {
    let (_, rest) = channel.split_once('/')?;
    let rest = rest.rsplit_once('-').map_or(rest, |(name, _)| name);
    let name = rest.split_once('@').map_or(rest, |(name, _)| name);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &[(&str, &str)]) -> CallRecord {
        let mut record = CallRecord::default();
        for (key, value) in fields {
            let field = match *key {
                "src" => &mut record.src,
                "dst" => &mut record.dst,
                "did" => &mut record.did,
                "campaign" => &mut record.campaign,
                "ingroup" => &mut record.ingroup,
                "dcontext" => &mut record.dcontext,
                "channel" => &mut record.channel,
                "dstchannel" => &mut record.dstchannel,
                other => panic!("{other}"),
            };
            (*value).clone_into(field);
        }
        record
    }

    #[test]
    fn the_direction_of_usual_records_is_told_and_of_others_not() {
        for (fields, way) in [
            // FreePBX
            (
                &[("src", "02079460001"), ("dst", "3001"), ("did", "442079461234")][..],
                Some(Direction::Inbound),
            ),
            (
                &[("src", "201"), ("dst", "02079460001"), ("dcontext", "from-internal")],
                Some(Direction::Outbound),
            ),
            (
                &[("src", "201"), ("dst", "202"), ("dcontext", "from-internal")],
                Some(Direction::Internal),
            ),
            (
                &[("src", "anonymous"), ("dst", "s"), ("dcontext", "from-trunk")],
                Some(Direction::Inbound),
            ),
            // VICIdial: a closer's call comes in by a group, also one of a campaign.
            (&[("campaign", "SALES"), ("ingroup", "SUPPORT")], Some(Direction::Inbound)),
            (&[("campaign", "SALES")], Some(Direction::Outbound)),
            (&[("src", "02079460001"), ("dst", "02079460002")], None),
            (&[("src", "s"), ("dst", "201")], None),
            (&[("src", "201")], None),
        ] {
            assert_eq!(direction(&record(fields)), way, "{fields:?}");
        }
    }

    #[test]
    fn the_telephones_of_a_call_are_read_from_its_channels() {
        let one = record(&[
            ("channel", "Local/2002@rig-agent-00000006;2"),
            ("dstchannel", "PJSIP/1001-00000007"),
            ("src", "02079460001"),
            ("dst", "3001"),
        ]);
        assert_eq!(extensions(&one), ["1001", "2002", "3001"]);
        assert_eq!(extensions(&record(&[("channel", "nonsense"), ("src", "1234567")])), [""; 0]);
    }

    #[test]
    fn what_a_name_does_not_say_is_not_known() {
        let of = |matched| {
            let record = record(&[("src", "201"), ("dst", "02079460001")]);
            let facts = Facts { record, linkedid: String::new(), matched };
            facts.for_rules(Some(Timestamp(5)))
        };
        let (named, told) = (of(false), of(true));
        assert_eq!((named.campaign, named.duration, named.ended), (None, None, None));
        assert_eq!(named.numbers.as_deref().map(<[_]>::len), Some(2));
        assert_eq!((told.campaign.as_deref(), told.ended), (Some(""), Some(Timestamp(5))));
        assert_eq!(told.direction, Some(Direction::Outbound));
    }
}
