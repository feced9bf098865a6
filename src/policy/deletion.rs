//! What a deletion does to a recording: the decision, without the deed.
//!
//! **Invariant:** pure, and made from what the file system has at hand: no question here may wait.

use crate::clock::Timestamp;
use crate::recording::Kind;
use std::time::Duration;

/// A recording closed for less is deleted as on any file system: what sox, ffmpeg or the PBX makes
/// and removes again.
pub const YOUNG: Duration = Duration::from_secs(3600);

/// `delete_mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeleteMode {
    /// The name goes, and the recording into the trash.
    #[default]
    Trash,
    /// The name goes, the archive stays.
    Keep,
    /// The name goes, and then the archive.
    Delete,
    /// It is refused.
    Refuse,
}

impl DeleteMode {
    /// From the one that loses the least on. What is in the trash goes no sooner than its rule and
    /// the time there allow, and can be brought back; with "keep" what was not archived yet is
    /// lost, and nothing can be brought back by name.
    pub const SAFEST: [DeleteMode; 4] =
        [DeleteMode::Refuse, DeleteMode::Trash, DeleteMode::Keep, DeleteMode::Delete];

    /// The one of two that loses less.
    pub fn safer(self, other: DeleteMode) -> DeleteMode {
        let one_of_them = |mode: &DeleteMode| *mode == self || *mode == other;
        DeleteMode::SAFEST.into_iter().find(one_of_them).unwrap_or(self)
    }

    /// All of them.
    pub const ALL: [DeleteMode; 4] =
        [DeleteMode::Trash, DeleteMode::Keep, DeleteMode::Delete, DeleteMode::Refuse];

    /// The word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            DeleteMode::Trash => "trash",
            DeleteMode::Keep => "keep",
            DeleteMode::Delete => "delete",
            DeleteMode::Refuse => "refuse",
        }
    }
}

/// Where the bytes are of what is about to lose its last name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// In the archive alone.
    Released,
    /// Below.
    Local {
        /// Somebody has it open for writing.
        writer: bool,
        /// The earlier of mtime and ctime: no program can set both.
        settled: Timestamp,
    },
}

/// What is about to lose its last name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// What it is.
    pub kind: Kind,
    /// Its length.
    pub size: u64,
    /// Where its bytes are.
    pub bytes: Bytes,
    /// The rules archive it, and there is a target that must have it.
    pub archived_some_day: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The name goes; what is archived stays so, and is not in the trash.
    Kept,
    /// The name goes, and with it local bytes; what is archived is in the trash.
    Trash,
    /// The local file goes into the private directory, and is in the trash.
    Moved,
    /// The name goes; what is archived is deleted.
    Erased,
    /// It is refused.
    Refused,
    /// It is refused if it is archived; only the catalog knows.
    RefusedIfArchived,
}

/// What becomes of a file that is deleted, or replaced by a rename.
pub fn departure(mode: DeleteMode, it: &Leaving, now: Timestamp) -> Departure {
    if it.kind != Kind::File || it.size == 0 {
        return Departure::Kept;
    }
    let old = match it.bytes {
        Bytes::Released => true,
        Bytes::Local { writer, settled } => !writer && settled.age_at(now) >= YOUNG,
    };
    match mode {
        DeleteMode::Keep => Departure::Kept,
        DeleteMode::Delete => Departure::Erased,
        DeleteMode::Refuse if old => Departure::Refused,
        DeleteMode::Refuse => Departure::RefusedIfArchived,
        DeleteMode::Trash if old && it.bytes != Bytes::Released && it.archived_some_day => {
            Departure::Moved
        }
        DeleteMode::Trash => Departure::Trash,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000_000_000);

    fn local(age: Duration) -> Leaving {
        let bytes = Bytes::Local { writer: false, settled: NOW.minus(age) };
        Leaving { kind: Kind::File, size: 44, bytes, archived_some_day: true }
    }

    #[test]
    fn each_mode_does_what_it_says_to_each_kind_of_recording() {
        use Departure::{Erased, Kept, Moved, Refused, RefusedIfArchived, Trash};
        let writer = Bytes::Local { writer: true, settled: NOW.minus(YOUNG * 2) };
        let old = local(YOUNG);
        let table = [
            // What, and what becomes of it in mode trash, keep, delete, refuse.
            (old, [Moved, Kept, Erased, Refused]),
            (local(YOUNG - Duration::from_nanos(1)), [Trash, Kept, Erased, RefusedIfArchived]),
            (local(Duration::ZERO), [Trash, Kept, Erased, RefusedIfArchived]),
            (Leaving { bytes: Bytes::Released, ..old }, [Trash, Kept, Erased, Refused]),
            (Leaving { bytes: writer, ..old }, [Trash, Kept, Erased, RefusedIfArchived]),
            (Leaving { archived_some_day: false, ..old }, [Trash, Kept, Erased, Refused]),
            (Leaving { size: 0, ..old }, [Kept; 4]),
            (Leaving { kind: Kind::Symlink, ..old }, [Kept; 4]),
            (Leaving { kind: Kind::Other, ..old }, [Kept; 4]),
            (Leaving { kind: Kind::Dir, ..old }, [Kept; 4]),
        ];
        for (it, expected) in table {
            for (mode, expected) in DeleteMode::ALL.into_iter().zip(expected) {
                assert_eq!(departure(mode, &it, NOW), expected, "{mode:?} of {it:?}");
            }
        }
    }

    #[test]
    fn of_two_modes_the_one_that_loses_less_is_the_safer() {
        use DeleteMode::{Delete, Keep, Refuse, Trash};
        for (one, other, safer) in [
            (Refuse, Trash, Refuse),
            (Refuse, Delete, Refuse),
            (Trash, Keep, Trash),
            (Trash, Delete, Trash),
            (Keep, Delete, Keep),
            (Delete, Delete, Delete),
        ] {
            assert_eq!((one.safer(other), other.safer(one)), (safer, safer));
        }
    }

    #[test]
    fn a_time_in_the_future_is_young() {
        let bytes = Bytes::Local { writer: false, settled: NOW.plus(YOUNG * 9) };
        let it = Leaving { bytes, ..local(YOUNG) };
        assert_eq!(departure(DeleteMode::Trash, &it, NOW), Departure::Trash);
    }
}
