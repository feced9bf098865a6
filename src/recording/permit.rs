//! The permit to remove local bytes. Promise 2: the last copy is never removed.

use super::{Generation, LowerVersion, NodeId, Sha256, State};

/// What is known about a recording at the moment somebody wants its local copy gone.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    /// The recording.
    pub node: NodeId,
    /// Its state in the catalog.
    pub state: State,
    /// Its current generation.
    pub generation: Generation,
    /// The SHA-256 of that generation.
    pub sha256: Option<Sha256>,
    /// The stamp of the local file when that generation was hashed.
    pub hashed: Option<LowerVersion>,
    /// The stamp of the local file now, taken under a read lease: the kernel has no writer.
    pub present: LowerVersion,
    /// Targets that must hold it, by configuration.
    pub required: &'a [String],
    /// Targets where an object of exactly this generation was verified.
    pub verified: &'a [String],
    /// Syncing the local file failed, and the disk was not proved to hold it since.
    pub suspect: bool,
    /// A rule against it (a hold, `keep_local = "forever"`), in words.
    pub forbidden: Option<String>,
}

/// Why a permit was refused; the text is shown to operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not archived.
    #[error("it is {0}, not archived")]
    NotArchived(State),
    /// It changed since it was hashed, or was never hashed.
    #[error("the local file changed after it was hashed")]
    Changed,
    /// Syncing it failed: what was hashed may have been right in memory only, or wrong.
    #[error("syncing it to the disk failed, and the disk was not proved to hold it since")]
    Suspect,
    /// Local only: no target is configured that must hold it.
    #[error("no target is configured, so the local copy is the only one")]
    NoTarget,
    /// A required target lacks it.
    #[error("target {0:?} does not hold this generation, verified")]
    NotVerified(String),
    /// A rule forbids it.
    #[error("{0}")]
    Forbidden(String),
}

/// Permission to remove the local bytes of exactly one version of one recording. It can only be
/// had through [`ReleasePermit::grant`], and `lower` removes nothing of a recording without it.
#[derive(Debug, PartialEq, Eq)]
pub struct ReleasePermit {
    node: NodeId,
    version: LowerVersion,
    required: Vec<String>,
}

impl ReleasePermit {
    /// Judges the evidence.
    ///
    /// # Errors
    /// The first reason against it.
    pub fn grant(evidence: &Evidence<'_>) -> Result<ReleasePermit, Refusal> {
        if !matches!(evidence.state, State::Archived | State::Released) {
            return Err(Refusal::NotArchived(evidence.state));
        }
        if evidence.sha256.is_none() || evidence.hashed != Some(evidence.present) {
            return Err(Refusal::Changed);
        }
        if evidence.suspect {
            return Err(Refusal::Suspect);
        }
        if evidence.required.is_empty() {
            return Err(Refusal::NoTarget);
        }
        if let Some(missing) = evidence.required.iter().find(|t| !evidence.verified.contains(t)) {
            return Err(Refusal::NotVerified(missing.clone()));
        }
        if let Some(rule) = &evidence.forbidden {
            return Err(Refusal::Forbidden(rule.clone()));
        }
        Ok(ReleasePermit {
            node: evidence.node,
            version: evidence.present,
            required: evidence.required.to_vec(),
        })
    }

    /// The recording it is for.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The version of the local file it is for; any other is kept.
    pub fn version(&self) -> LowerVersion {
        self.version
    }

    /// The targets that it rests on.
    pub fn required(&self) -> &[String] {
        &self.required
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn version(size: u64) -> LowerVersion {
        LowerVersion { ino: 9, size, mtime: Timestamp(5), ctime: Timestamp(6) }
    }

    fn evidence<'a>(required: &'a [String], verified: &'a [String]) -> Evidence<'a> {
        Evidence {
            node: NodeId(7),
            state: State::Archived,
            generation: Generation(1),
            sha256: Some(Sha256::of(b"x")),
            hashed: Some(version(1)),
            present: version(1),
            required,
            verified,
            suspect: false,
            forbidden: None,
        }
    }

    #[test]
    fn promise_2_a_permit_needs_every_condition() {
        let both = ["a".to_owned(), "b".to_owned()];
        let good = evidence(&both, &both);
        let permit = ReleasePermit::grant(&good).expect("all conditions hold");
        assert_eq!((permit.node(), permit.version()), (NodeId(7), version(1)));

        let one = &both[..1];
        assert_eq!(
            ReleasePermit::grant(&evidence(&both, one)),
            Err(Refusal::NotVerified("b".into()))
        );
        assert_eq!(ReleasePermit::grant(&evidence(&[], &both)), Err(Refusal::NoTarget));
        for state in [State::Recording, State::Closed, State::Deleted] {
            let e = Evidence { state, ..good.clone() };
            assert_eq!(ReleasePermit::grant(&e), Err(Refusal::NotArchived(state)));
        }
        let changed = Evidence { present: version(2), ..good.clone() };
        assert_eq!(ReleasePermit::grant(&changed), Err(Refusal::Changed));
        let unhashed = Evidence { sha256: None, ..good.clone() };
        assert_eq!(ReleasePermit::grant(&unhashed), Err(Refusal::Changed));
        let suspect = Evidence { suspect: true, ..good.clone() };
        assert_eq!(ReleasePermit::grant(&suspect), Err(Refusal::Suspect));
        let held = Evidence { forbidden: Some("held".into()), ..good };
        assert_eq!(ReleasePermit::grant(&held), Err(Refusal::Forbidden("held".into())));
    }
}
