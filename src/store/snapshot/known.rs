//! Which snapshots a target was given: kept in a setting of the catalog, so that old ones can be
//! deleted by the very names that they were written under.

use crate::clock::Timestamp;
use crate::recording::Sha256;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A snapshot that a target was given, or was going to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Its full key.
    pub key: String,
    /// The epoch that it is of.
    pub epoch: u64,
    /// The last journal row in it.
    pub seq: u64,
    /// When it was taken.
    pub at: Timestamp,
    /// The target was proved to hold it.
    pub proved: bool,
    /// Its length and its SHA-256; `None` of those that were given by earlier versions, or found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<(u64, Sha256)>,
}

/// What is known of the snapshots in a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// From when the time to the first one counts.
    pub since: Option<Timestamp>,
    /// Oldest first.
    pub given: Vec<Given>,
}

impl Known {
    /// From the text of the setting; nothing is known where there is none.
    pub fn parse(text: Option<String>) -> Known {
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// The text of the setting.
    pub fn text(&self) -> String {
        // Numbers and strings always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The name of the setting for a target.
    pub fn setting(target: &str) -> String {
        format!("snapshot.{target}")
    }

    /// The newest one that was proved.
    pub fn newest(&self) -> Option<&Given> {
        self.given.iter().rev().find(|g| g.proved)
    }

    /// Whether one is due: the time is over, or a new epoch began, whose journal counts anew.
    pub fn is_due(&self, now: Timestamp, every: Duration, epoch: u64) -> bool {
        match (self.newest(), self.since) {
            (Some(newest), _) => newest.epoch != epoch || newest.at.plus(every) <= now,
            // After a rebuild it is not known which are whole.
            (None, Some(_)) if self.given.last().is_some_and(|g| g.epoch != epoch) => true,
            (None, Some(since)) => since.plus(every) <= now,
            (None, None) => false,
        }
    }

    /// Those that are not among the newest `keep` that were proved, but older.
    pub fn too_old(&self, keep: usize) -> Vec<String> {
        let mut proved = self.given.iter().enumerate().rev().filter(|(_, g)| g.proved);
        let Some((oldest, _)) = proved.nth(keep.saturating_sub(1)) else { return Vec::new() };
        self.given.iter().take(oldest).map(|g| g.key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_parts(secs, 0)
    }

    fn known(given: &[(u64, i64, bool)]) -> Known {
        let given = given.iter().enumerate().map(|(i, (epoch, secs, proved))| Given {
            key: format!("k{i}"),
            epoch: *epoch,
            seq: i as u64,
            at: at(*secs),
            proved: *proved,
            bytes: None,
        });
        Known { since: Some(at(100)), given: given.collect() }
    }

    #[test]
    fn what_an_earlier_version_knew_is_known() {
        let text = "{\"since\":1,\"given\":[{\"key\":\"k\",\"epoch\":1,\"seq\":2,\"at\":3,\"proved\":true}]}";
        let known = Known::parse(Some(text.to_owned()));
        assert_eq!(known.text(), text);
        let mut newest = known.newest().unwrap().clone();
        newest.bytes = Some((7, Sha256::of(b"seven")));
        let known = Known { given: vec![newest], ..known };
        assert_eq!(Known::parse(Some(known.text())), known);
    }

    #[test]
    fn one_is_due_after_its_time_and_in_a_new_epoch() {
        let day = Duration::from_secs(86_400);
        assert!(!Known::default().is_due(at(1 << 40), day, 1));
        assert!(!known(&[]).is_due(at(86_499), day, 1));
        assert!(known(&[]).is_due(at(86_500), day, 1));
        let one = known(&[(1, 1000, true), (1, 90_000, false)]);
        assert!(!one.is_due(at(87_399), day, 1));
        assert!(one.is_due(at(87_400), day, 1), "what was not proved does not count");
        assert!(one.is_due(at(1001), day, 2));
        let rebuilt = known(&[(1, 1000, false)]);
        assert!(rebuilt.is_due(at(1001), day, 2) && !rebuilt.is_due(at(1001), day, 1));
    }

    #[test]
    fn only_what_is_older_than_the_newest_proved_ones_goes() {
        assert_eq!(known(&[]).too_old(1), Vec::<String>::new());
        let some = known(&[(1, 1, true), (1, 2, false), (1, 3, true), (1, 4, true), (1, 5, false)]);
        assert_eq!(some.too_old(2), ["k0", "k1"]);
        assert_eq!(some.too_old(1), ["k0", "k1", "k2"]);
        assert_eq!(some.too_old(0), some.too_old(1));
        assert_eq!(some.too_old(3), Vec::<String>::new());
        assert_eq!(some.too_old(4), Vec::<String>::new(), "there are not enough yet");
        let none = known(&[(1, 1, false), (1, 2, false)]);
        assert_eq!(none.too_old(1), Vec::<String>::new(), "nothing was proved yet");
    }
}
