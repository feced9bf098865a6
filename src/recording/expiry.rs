//! The proof without which no rule deletes a recording.

use super::{LowerVersion, NodeId, State};
use crate::clock::Timestamp;
use std::time::Duration;

/// What a target says of an object that is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectAge {
    /// It is an object of this recording, whose content was changed last at this time.
    Changed(Timestamp),
    /// There is none.
    Gone,
    /// It does not say that it is of this recording; in words.
    Unproved(String),
}

/// What is known of a recording that a rule lets expire.
#[derive(Clone, Debug)]
pub struct ExpiryEvidence<'a> {
    /// Which one.
    pub node: NodeId,
    /// Where it stands.
    pub state: State,
    /// It is in the trash, and at least until then.
    pub in_trash_until: Option<Timestamp>,
    /// Names that it has.
    pub links: u32,
    /// The rule.
    pub rule: &'a str,
    /// How long it is kept, by that rule.
    pub after: Duration,
    /// When it expires, by the catalog and the call records.
    pub due: Timestamp,
    /// The present.
    pub now: Timestamp,
    /// It is on legal hold.
    pub held: bool,
    /// The stamp of the local file now, taken under a read lease; `None`: there is none.
    pub present: Option<LowerVersion>,
    /// What its targets say of its objects.
    pub objects: &'a [ObjectAge],
}

/// Why a recording is not deleted; the text is shown to operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotExpired {
    /// It is being recorded, or deleted already.
    #[error("it is {0}")]
    State(State),
    /// It was deleted a short while ago.
    #[error("it has not been in the trash for `trash_keep`")]
    InTrash,
    /// It has several names.
    #[error("it has several names")]
    Linked,
    /// It is on hold.
    #[error("it is on legal hold")]
    Held,
    /// No rule says so.
    #[error("no rule lets it expire")]
    NoRule,
    /// Its time has not come.
    #[error("its time has not come")]
    TooYoung,
    /// The local file was changed later than the catalog knows.
    #[error("the local file was changed less than that time ago")]
    LocalTooYoung,
    /// An object says that its content was changed later than the catalog knows.
    #[error("an object of it was changed less than that time ago")]
    ObjectTooYoung,
    /// An object does not say how old it is, or that it is of this recording.
    #[error("{0}")]
    Unproved(String),
}

/// Permission to delete one recording everywhere: its objects, its name, and exactly one version of
/// its local bytes. It can only be had through [`ExpiryPermit::grant`].
#[derive(Debug, PartialEq, Eq)]
pub struct ExpiryPermit {
    node: NodeId,
    version: Option<LowerVersion>,
    rule: String,
}

impl ExpiryPermit {
    /// Judges the evidence.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn grant(evidence: &ExpiryEvidence<'_>) -> Result<ExpiryPermit, NotExpired> {
        let ExpiryEvidence { now, after, .. } = *evidence;
        match (evidence.state, evidence.in_trash_until) {
            (State::Closed | State::Archived | State::Released, None) => {}
            (State::Deleted, Some(until)) if until <= now => {}
            (State::Deleted, Some(_)) => return Err(NotExpired::InTrash),
            (state, _) => return Err(NotExpired::State(state)),
        }
        if evidence.links > 1 {
            return Err(NotExpired::Linked);
        }
        if evidence.held {
            return Err(NotExpired::Held);
        }
        if evidence.rule.is_empty() {
            return Err(NotExpired::NoRule);
        }
        if evidence.due > now {
            return Err(NotExpired::TooYoung);
        }
        let old_enough = |changed: Timestamp| changed.plus(after) <= now;
        if evidence.present.is_some_and(|version| !old_enough(version.mtime)) {
            return Err(NotExpired::LocalTooYoung);
        }
        for object in evidence.objects {
            match object {
                ObjectAge::Gone => {}
                ObjectAge::Changed(at) if old_enough(*at) => {}
                ObjectAge::Changed(_) => return Err(NotExpired::ObjectTooYoung),
                ObjectAge::Unproved(why) => return Err(NotExpired::Unproved(why.clone())),
            }
        }
        Ok(ExpiryPermit {
            node: evidence.node,
            version: evidence.present,
            rule: evidence.rule.to_owned(),
        })
    }

    /// The recording it is for.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The version of the local file it is for; any other is kept.
    pub fn version(&self) -> Option<LowerVersion> {
        self.version
    }

    /// The rule it rests on.
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(100);

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_parts(secs, 0)
    }

    fn local(mtime: Timestamp) -> LowerVersion {
        LowerVersion { ino: 9, size: 1, mtime, ctime: mtime }
    }

    fn evidence(objects: &[ObjectAge]) -> ExpiryEvidence<'_> {
        ExpiryEvidence {
            node: NodeId(7),
            state: State::Archived,
            in_trash_until: None,
            links: 1,
            rule: "sales",
            after: AFTER,
            due: at(1100),
            now: at(1100),
            held: false,
            present: Some(local(at(1000))),
            objects,
        }
    }

    #[test]
    fn a_recording_expires_only_on_complete_evidence() {
        let objects = [ObjectAge::Changed(at(1000)), ObjectAge::Gone];
        let good = evidence(&objects);
        let permit = ExpiryPermit::grant(&good).expect("all conditions hold");
        assert_eq!((permit.node(), permit.rule()), (NodeId(7), "sales"));
        assert_eq!(permit.version(), Some(local(at(1000))));
        for state in [State::Closed, State::Released] {
            let none = ExpiryEvidence { state, present: None, ..good.clone() };
            assert_eq!(ExpiryPermit::grant(&none).map(|p| p.version()), Ok(None));
        }
        let refused = |e: ExpiryEvidence<'_>| ExpiryPermit::grant(&e).expect_err("refused");
        for state in [State::Recording, State::Deleted] {
            let e = ExpiryEvidence { state, ..good.clone() };
            assert_eq!(refused(e), NotExpired::State(state));
        }
        assert_eq!(refused(ExpiryEvidence { links: 2, ..good.clone() }), NotExpired::Linked);
        assert_eq!(refused(ExpiryEvidence { held: true, ..good.clone() }), NotExpired::Held);
        assert_eq!(refused(ExpiryEvidence { rule: "", ..good.clone() }), NotExpired::NoRule);
    }

    #[test]
    fn what_is_in_the_trash_expires_only_after_its_time_there() {
        let objects = [ObjectAge::Changed(at(1000))];
        let state = State::Deleted;
        let trashed = |until| ExpiryEvidence {
            state,
            present: None,
            in_trash_until: until,
            ..evidence(&objects)
        };
        assert!(ExpiryPermit::grant(&trashed(Some(at(1100)))).is_ok());
        let refused = |e: &ExpiryEvidence<'_>| ExpiryPermit::grant(e).expect_err("refused");
        assert_eq!(refused(&trashed(Some(Timestamp(at(1100).0 + 1)))), NotExpired::InTrash);
        assert_eq!(refused(&trashed(None)), NotExpired::State(state));
        let named = ExpiryEvidence { state: State::Released, ..trashed(Some(at(1))) };
        assert_eq!(refused(&named), NotExpired::State(State::Released));
        let young = ExpiryEvidence { due: at(1101), ..trashed(Some(at(1100))) };
        assert_eq!(refused(&young), NotExpired::TooYoung);
        let held = ExpiryEvidence { held: true, ..trashed(Some(at(1100))) };
        assert_eq!(refused(&held), NotExpired::Held);
    }

    #[test]
    fn each_age_is_compared_to_the_nanosecond() {
        let objects = [ObjectAge::Changed(at(1000))];
        let good = evidence(&objects);
        let later = |t: Timestamp| Timestamp(t.0 + 1);
        let refused = |e: ExpiryEvidence<'_>| ExpiryPermit::grant(&e).expect_err("refused");
        let due = ExpiryEvidence { due: later(good.due), ..good.clone() };
        assert_eq!(refused(due), NotExpired::TooYoung);
        let present = Some(local(later(at(1000))));
        let e = ExpiryEvidence { present, ..good.clone() };
        assert_eq!(refused(e), NotExpired::LocalTooYoung);
        let young = [ObjectAge::Gone, ObjectAge::Changed(later(at(1000)))];
        let e = ExpiryEvidence { objects: &young, ..good.clone() };
        assert_eq!(refused(e), NotExpired::ObjectTooYoung);
        let strange = [ObjectAge::Unproved("it is another's".into())];
        let e = ExpiryEvidence { objects: &strange, ..good };
        assert_eq!(refused(e), NotExpired::Unproved("it is another's".into()));
    }
}
