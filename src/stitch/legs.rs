//! Plans of calls, made for many at once: how their recordings stand is one question, and what
//! they are another, however many there are.

use super::Result;
use super::given::{CallLeg, Standing, Tier};
use super::memory::Key;
use super::plan::{Leg, Plan};
use super::service::{Missing, Stitched};
use crate::codec;
use crate::limits;
use crate::recording::{Attr, Kind, NodeId};

/// Why a leg is left out that will not be for long.
pub(super) const GROWING: &str = "it is still being recorded";

/// The plan of a call as it is now, and what `stat` shows of it.
pub(super) type Planned = std::result::Result<(Plan, Attr), Missing>;

/// A recording of a call that is there.
pub(super) struct Found {
    leg: Leg,
    attr: Attr,
    tier: Tier,
    growing: bool,
    /// What it is was found out just now.
    new: bool,
    missing: Option<Missing>,
}

impl Found {
    pub fn new(of: &CallLeg, standing: Standing) -> Found {
        let CallLeg { node, start, side } = *of;
        let Standing { path, attr, tier, growing } = standing;
        let path = path.to_string_lossy().into_owned();
        let why = if growing { GROWING } else { "" };
        let audio = Err(why.to_owned());
        let leg = Leg { node, path, size: attr.size, mtime: attr.mtime, start, side, audio };
        Found { leg, attr, tier, growing, new: false, missing: None }
    }

    pub fn node(&self) -> NodeId {
        self.leg.node
    }

    /// Its header could not be read.
    pub fn failed(&self) -> bool {
        matches!(self.missing, Some(Missing::Failed(_)))
    }

    fn name(&self) -> &str {
        self.leg.path.rsplit('/').next().unwrap_or_default()
    }

    fn key(&self) -> Key<'_> {
        let suffix = self.name().rsplit_once('.').map_or("", |(_, suffix)| suffix);
        Key { node: self.leg.node, size: self.leg.size, mtime: self.leg.mtime, suffix }
    }
}

impl Stitched {
    /// The plan of a call, as it is shown.
    pub(super) fn plan(&self, linkedid: &[u8], wait: bool) -> Planned {
        let legs = self.calls.legs(linkedid)?;
        let planned = self.plans(std::slice::from_ref(&legs), wait).pop();
        self.or_kept(linkedid, &legs, planned.unwrap_or(Err(Missing::NoCall)))
    }

    /// The plans of calls with these legs. A header that was never read is, of a local leg; that
    /// of another only with `wait`.
    pub(super) fn plans(&self, calls: &[Vec<CallLeg>], wait: bool) -> Vec<Planned> {
        let mut found = self.found(calls);
        let mut legs: Vec<&mut Found> =
            found.iter_mut().flatten().flatten().filter(|leg| !leg.growing).collect();
        self.learn(&mut legs, wait);
        found.into_iter().map(|legs| self.decide(legs?)).collect()
    }

    /// Finds out what recordings are and keeps it; of one that is not local only with `wait`.
    pub(super) fn learn(&self, legs: &mut [&mut Found], wait: bool) {
        let keys: Vec<Key<'_>> = legs.iter().map(|leg| leg.key()).collect();
        let known = self.memory.recall(&keys);
        for (leg, known) in legs.iter_mut().zip(known) {
            match known {
                Some(audio) => leg.leg.audio = audio,
                None if leg.tier != Tier::Local && !wait => leg.missing = Some(Missing::MustWait),
                None => match self.probe(leg) {
                    Ok(audio) => (leg.leg.audio, leg.new) = (audio, true),
                    Err(error) => leg.missing = Some(error.into()),
                },
            }
        }
        let new = legs.iter().filter(|leg| leg.new);
        self.memory.keep(&new.map(|leg| (leg.key(), &leg.leg.audio)).collect::<Vec<_>>());
    }

    /// The recordings of each call that are there.
    fn found(&self, calls: &[Vec<CallLeg>]) -> Vec<Result<Vec<Found>>> {
        let some = |legs: &Vec<CallLeg>| legs.len().min(limits::STITCH_LEGS_MAX);
        let nodes = calls.iter().flat_map(|legs| legs.iter().take(some(legs)).map(|leg| leg.node));
        let mut standings = self.recordings.standings(&nodes.collect::<Vec<_>>()).into_iter();
        let of_call = |legs: &Vec<CallLeg>| {
            // All of this call's are taken, whatever the first of them says.
            let standings: Vec<_> = standings.by_ref().take(some(legs)).collect();
            let found = legs
                .iter()
                .zip(standings)
                .map(|(leg, standing)| Ok(standing?.map(|standing| Found::new(leg, standing))));
            found.filter_map(Result::transpose).collect()
        };
        calls.iter().map(of_call).collect()
    }

    /// What a recording is, from its header.
    fn probe(&self, found: &Found) -> Result<std::result::Result<codec::Audio, String>> {
        let source = self.recordings.open(&found.leg)?;
        let mut read = |offset, len| source.read(offset, len);
        let audio = codec::probe(found.name().as_bytes(), found.leg.size, &mut read)?;
        Ok(audio.map_err(|e| e.to_string()))
    }

    fn decide(&self, mut found: Vec<Found>) -> Planned {
        if let Some(missing) = found.iter_mut().find_map(|leg| leg.missing.take()) {
            return Err(missing);
        }
        let attrs = found.iter().map(|leg| &leg.attr);
        let Some(attr) = joined_attr(attrs) else { return Err(Missing::NoCall) };
        let legs = found.into_iter().map(|found| found.leg).collect();
        let plan = Plan::new(legs, &self.setting.join);
        let mtime = plan.mtime();
        let attr = Attr { size: plan.len(), mtime, ctime: mtime, atime: mtime, ..attr };
        Ok((plan, attr))
    }
}

/// Who may read a join: who may read every leg. Nobody may write it.
pub(super) fn joined_attr<'a>(mut legs: impl Iterator<Item = &'a Attr>) -> Option<Attr> {
    let first = legs.next()?;
    let (mut mode, mut same) = (first.mode & 0o444, true);
    for leg in legs {
        mode &= leg.mode;
        same &= (leg.uid, leg.gid) == (first.uid, first.gid);
    }
    let everybody = mode & 0o004;
    // Owners that differ have no right in common but everybody's.
    let (uid, gid, mode) = match same {
        true => (first.uid, first.gid, mode),
        false => (0, 0, 0o400 | everybody | everybody << 3),
    };
    Some(Attr { kind: Kind::File, mode, uid, gid, nlink: 1, blocks: 1, ..first.clone() })
}
