//! What becomes of a stored join, by how its recordings stand.

use super::failed;
use crate::catalog::ObjectState;
use crate::engine::error::Result;
use crate::engine::expiry;
use crate::engine::shared::Shared;
use crate::recording::State;
use crate::stitch::{Kept, KeptJoin, KeptLeg};

/// How a recording of it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has a name.
    There,
    /// Its user deleted it; it is in the trash, or its objects are still there.
    Deleted,
    /// Its user deleted it, and nothing is left of it.
    Erased,
    /// It has expired.
    Expired,
    /// The catalog does not know it: it may have been lost there, or be another's.
    Unknown,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays: nothing is known for sure.
    Unknown,
    /// What it is made of can be joined anew.
    Whole,
    /// It stands in for what has expired.
    Shown,
    /// It would, but what its user deleted is in it, and may come back.
    Hidden,
    /// It is to be deleted: all that it is made of is, or a part by its user.
    Erased,
}

/// What has expired is kept by no stored join, unless that is wanted (`keep_expired`); what its user
/// deleted never is. Then the call is heard as long as one of its recordings is kept.
pub(super) fn decide(legs: &[Standing], keep_expired: bool) -> Fate {
    use Standing::{Deleted, Erased, Expired, There, Unknown};
    let any = |standing: Standing| legs.contains(&standing);
    if any(Erased) || any(Expired) && !keep_expired {
        return Fate::Erased;
    }
    // It may have expired in a catalog that is lost.
    if any(Unknown) && !keep_expired {
        return if any(There) || any(Deleted) { Fate::Hidden } else { Fate::Unknown };
    }
    match (any(There), any(Deleted), any(Expired), any(Unknown)) {
        (false, false, true, _) => Fate::Erased,
        (false, false, false, _) => Fate::Unknown,
        (_, true, false, false) | (true, false, false, false) => Fate::Whole,
        (_, true, ..) => Fate::Hidden,
        (true, false, ..) => Fate::Shown,
    }
}

/// How the recordings of a stored join stand; what users did to them is noted.
pub(super) fn standings(shared: &Shared, kept: &Kept, join: &KeptJoin) -> Result<Vec<Standing>> {
    let mut standings = Vec::with_capacity(join.legs.len());
    for leg in &join.legs {
        let standing = standing(shared, leg)?;
        let erased = match standing {
            Standing::There => false,
            Standing::Deleted => true,
            _ => leg.erased,
        };
        if erased != leg.erased {
            kept.erased(&[leg.node], erased).map_err(failed)?;
        }
        standings.push(standing);
    }
    Ok(standings)
}

fn standing(shared: &Shared, leg: &KeptLeg) -> Result<Standing> {
    let Some(row) = shared.catalog.node(leg.node)? else { return Ok(Standing::Unknown) };
    if row.state != State::Deleted {
        return Ok(Standing::There);
    }
    // Of another catalog the number may be another recording's.
    let content = (row.attr.size, row.attr.mtime);
    if leg.content.is_some_and(|of_then| of_then != content) {
        return Ok(Standing::Unknown);
    }
    let gone = if leg.erased { Standing::Erased } else { Standing::Expired };
    if expiry::is_marked(shared, leg.node)? {
        return Ok(gone);
    }
    let is_left = |state: &ObjectState| *state != ObjectState::Abandoned;
    let left = shared.catalog.objects(leg.node, None)?.iter().any(|o| is_left(&o.state));
    Ok(if left { Standing::Deleted } else { gone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_join_keeps_what_has_expired_only_if_that_is_wanted_and_nothing_against_its_user() {
        use Standing::{Deleted, Erased, Expired, There, Unknown};
        for (legs, kept, else_) in [
            (vec![There, There], Fate::Whole, Fate::Whole),
            (vec![There, Deleted], Fate::Whole, Fate::Whole),
            (vec![Deleted, Deleted], Fate::Whole, Fate::Whole),
            (vec![There, Expired], Fate::Shown, Fate::Erased),
            (vec![There, Unknown], Fate::Shown, Fate::Hidden),
            (vec![There, Expired, Deleted], Fate::Hidden, Fate::Erased),
            (vec![Expired, Deleted], Fate::Hidden, Fate::Erased),
            (vec![Deleted, Unknown], Fate::Hidden, Fate::Hidden),
            (vec![Expired, Expired], Fate::Erased, Fate::Erased),
            (vec![Expired, Unknown], Fate::Erased, Fate::Erased),
            (vec![There, There, Erased], Fate::Erased, Fate::Erased),
            (vec![There, Expired, Erased], Fate::Erased, Fate::Erased),
            (vec![Unknown, Unknown], Fate::Unknown, Fate::Unknown),
            (vec![], Fate::Unknown, Fate::Unknown),
        ] {
            assert_eq!(decide(&legs, true), kept, "{legs:?}");
            assert_eq!(decide(&legs, false), else_, "{legs:?}");
        }
    }
}
