//! Lifting a legal hold: by one user, or with `four_eyes` by two.

use super::Daemon;
use super::commands::unusable;
use super::holds::{name, unknown};
use super::record::who;
use crate::audit::{Clear, Entry, Event};
use crate::catalog::{Hold, LiftRequest};
use crate::clock::Timestamp;
use crate::control::{Failure, HoldLiftReport, LiftAskedReport, Peer, utc};
use crate::limits;
use serde_json::json;

type Result<T> = std::result::Result<T, Failure>;

/// Lifts the holds of a case, or one by its number; or remembers that somebody wants that.
pub(super) fn lift(
    daemon: &Daemon,
    (case, id): (Option<&str>, Option<u64>),
    reason: &str,
    peer: &Peer,
) -> Result<HoldLiftReport> {
    let mut ids = match (case, id) {
        (Some(case), _) => daemon.catalog.holds_of_case(case).map_err(unusable)?,
        (None, Some(id)) => vec![id],
        (None, None) => Vec::new(),
    };
    if let (Some(_), Some(id)) = (case, id) {
        ids.retain(|of_case| *of_case == id);
    }
    let user = daemon.config.read().holds.four_eyes.then(|| user(peer)).transpose()?;
    let all = daemon.catalog.all_holds().map_err(unusable)?;
    let requests = daemon.catalog.lift_requests().map_err(unusable)?;
    let now = daemon.clock.now();
    let mut lifted = HoldLiftReport::default();
    let mut again = None;
    for id in ids {
        let hold = all.iter().find(|hold| hold.id == id);
        if hold.is_none_or(|hold| hold.lifted.is_some()) && case.is_none() {
            continue;
        }
        let case = hold.map(|hold| hold.case.as_str()).or(case).unwrap_or_default();
        let asked = requests.get(&id).filter(|asked| is_valid(asked, now));
        match turn(user, asked) {
            Turn::Now(first) => {
                if take(daemon, id, case, (reason, peer), first)? {
                    lifted.lifted.push(id);
                    lifted.recordings += hold.map_or(0, |hold: &Hold| hold.recordings);
                }
            }
            Turn::Again(asked) => again = Some(asked),
            Turn::First(user) => {
                request(daemon, (id, case), user, reason, peer)?;
                lifted.waiting.push(id);
            }
        }
    }
    if lifted.lifted.is_empty() && lifted.waiting.is_empty() {
        return Err(Failure::new(match again {
            None => unknown(case, id),
            Some(asked) => format!(
                "you asked for this at {} UTC; another user must lift it, too, before {} UTC \
                 (`four_eyes`)",
                utc::people(asked.at),
                utc::people(end(asked))
            ),
        }));
    }
    daemon.engine.holds_changed();
    lifted.still_held = daemon.catalog.holds().held() as u64;
    lifted.kept_until = now.plus(daemon.config.read().holds.lift_grace);
    Ok(lifted)
}

/// Whose turn it is.
#[derive(Debug, PartialEq, Eq)]
enum Turn<'a> {
    /// It is lifted; by whom it was asked for before, if it had to be.
    Now(Option<&'a LiftRequest>),
    /// He asked before.
    Again(&'a LiftRequest),
    /// He asks, and another must lift it.
    First(u32),
}

/// `user`: who asks, if two must.
fn turn(user: Option<u32>, asked: Option<&LiftRequest>) -> Turn<'_> {
    match (user, asked) {
        (None, _) => Turn::Now(None),
        (Some(user), None) => Turn::First(user),
        (Some(user), Some(asked)) if asked.user == user => Turn::Again(asked),
        (Some(_), Some(asked)) => Turn::Now(Some(asked)),
    }
}

/// Who sits there: only root can ask, and roots are told apart by whom they logged in as.
fn user(peer: &Peer) -> Result<u32> {
    let known = peer.login_uid.or(Some(peer.uid).filter(|uid| *uid != 0));
    known.ok_or_else(|| {
        Failure::new(
            "`four_eyes` is on, and as whom you logged in is not known (/proc/self/loginuid is not \
             set, as in a service); log in, by ssh or on a console, and use sudo",
        )
    })
}

fn end(asked: &LiftRequest) -> Timestamp {
    asked.at.plus(limits::LIFT_REQUEST_VALID)
}

/// One of the future is not valid: the clock was wrong then, or is now.
fn is_valid(asked: &LiftRequest, now: Timestamp) -> bool {
    asked.at <= now && now < end(asked)
}

fn request(
    daemon: &Daemon,
    (id, case): (u64, &str),
    user: u32,
    reason: &str,
    peer: &Peer,
) -> Result<()> {
    let event = Event::HoldLiftRequested { hold: id, case: Clear::text(case) };
    on_record(daemon, Entry::new(event).by(who(peer)).why(reason), id)?;
    let (by, reason, at) = (name(peer), reason.to_owned(), daemon.clock.now());
    tracing::info!(
        hold = id,
        by,
        reason,
        "somebody wants a legal hold lifted; another user must, too"
    );
    daemon.catalog.request_lift(id, &LiftRequest { user, by, at, reason }).map_err(unusable)
}

/// Lifts one; false if it was lifted meanwhile.
fn take(
    daemon: &Daemon,
    id: u64,
    case: &str,
    (reason, peer): (&str, &Peer),
    first: Option<&LiftRequest>,
) -> Result<bool> {
    let by = match first {
        None => name(peer),
        Some(first) => format!("{}, as {} had asked", name(peer), first.by),
    };
    // What may be deleted soon is on record before.
    let event = Event::HoldLifted { hold: id, case: Clear::text(case) };
    let asked = first.map(|first| {
        let (at, why) = (crate::audit::time(first.at), Clear::text(&first.reason));
        json!({"asked": {"user": first.user, "at": at, "why": why}})
    });
    on_record(daemon, Entry::new(event).by(who(peer)).why(reason).change(asked, ()), id)?;
    match daemon.catalog.lift_hold(id, &by, reason) {
        Ok(true) => {
            tracing::info!(hold = id, by, reason, "a legal hold was lifted");
            Ok(true)
        }
        Ok(false) => Ok(false),
        Err(error) => {
            let event = Event::HoldAdded { hold: id, case: Clear::text(case), query: None };
            let again = Entry::new(event).because("it could not be lifted, and is on");
            daemon.audit.record(again.by(who(peer)));
            Err(unusable(error))
        }
    }
}

/// On the disk when it returns: nothing is lifted that is not on record.
fn on_record(daemon: &Daemon, entry: Entry, id: u64) -> Result<()> {
    daemon.audit.record_synced(entry).map_err(|error| {
        Failure::new(format!(
            "hold {id} is not lifted, because that can not be put on record: {error}"
        ))
    })
}

/// What waits for a second user, for reports.
pub(super) fn report(daemon: &Daemon, asked: &LiftRequest) -> Option<LiftAskedReport> {
    let four_eyes = daemon.config.read().holds.four_eyes;
    (four_eyes && is_valid(asked, daemon.clock.now())).then(|| {
        let LiftRequest { by, at, reason, .. } = asked.clone();
        LiftAskedReport { at, by, reason, until: end(asked) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(user: u32, secs: i64) -> LiftRequest {
        let at = Timestamp::from_parts(secs, 0);
        LiftRequest { user, by: "eve".into(), at, reason: "settled".into() }
    }

    #[test]
    fn two_users_lift_a_hold_and_one_does_not_count_twice() {
        let first = asked(1000, 0);
        assert_eq!(turn(None, None), Turn::Now(None));
        assert_eq!(turn(None, Some(&first)), Turn::Now(None));
        assert_eq!(turn(Some(1000), None), Turn::First(1000));
        assert_eq!(turn(Some(1000), Some(&first)), Turn::Again(&first));
        assert_eq!(turn(Some(1001), Some(&first)), Turn::Now(Some(&first)));
    }

    #[test]
    fn a_request_ends_by_itself_and_counts_only_after_it_was_made() {
        let at = |secs| Timestamp::from_parts(secs, 0);
        let request = asked(1000, 100);
        assert!(!is_valid(&request, at(99)));
        assert!(is_valid(&request, at(100)) && is_valid(&request, at(100 + 7 * 86_400 - 1)));
        assert!(!is_valid(&request, at(100 + 7 * 86_400)));
    }

    #[test]
    fn root_is_told_apart_by_whom_he_logged_in_as() {
        let peer = |uid, login_uid| Peer { uid, login_uid, ..Peer::default() };
        assert_eq!(user(&peer(0, Some(1000))).ok(), Some(1000));
        assert_eq!(user(&peer(0, Some(0))).ok(), Some(0));
        assert_eq!(user(&peer(33, None)).ok(), Some(33));
        assert!(user(&peer(0, None)).is_err());
    }
}
