//! Recordings that are looked at again later, for reasons that the catalog does not remember.

use super::backoff;
use super::workers::Later;
use crate::clock::Timestamp;
use crate::limits;
use crate::recording::NodeId;
use std::collections::HashMap;

#[derive(Clone, Copy, Debug)]
struct Entry {
    until: Timestamp,
    /// How often in a row the work with it was for nothing.
    tries: u32,
}

/// A bounded memory of them; who does not fit in is looked at again at once.
#[derive(Debug, Default)]
pub(super) struct PutOff(HashMap<NodeId, Entry>);

impl PutOff {
    /// A step with it is through.
    pub fn finished(&mut self, id: NodeId, later: Option<Later>, now: Timestamp) {
        let tries = self.0.remove(&id).map_or(0, |entry| entry.tries);
        let (wait, tries) = match later {
            None => return,
            Some(Later::After(wait)) => (wait, tries),
            Some(Later::Patiently) => (backoff::after(tries + 1), tries + 1),
        };
        if self.0.len() < limits::PUT_OFF_MAX {
            self.0.insert(id, Entry { until: now.plus(wait), tries });
        }
    }

    /// Forgets those whose time came and who were not put off for long: the others are to be
    /// remembered for their tries.
    pub fn tidy(&mut self, now: Timestamp) {
        self.0.retain(|_, entry| {
            let forget =
                if entry.tries > 0 { entry.until.plus(limits::BACKOFF_MAX) } else { entry.until };
            forget > now
        });
    }

    /// Whether it is to be left alone now.
    pub fn holds(&self, id: NodeId, now: Timestamp) -> bool {
        self.0.get(&id).is_some_and(|entry| entry.until > now)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn work_for_nothing_is_repeated_ever_less_often() {
        let (mut put_off, id) = (PutOff::default(), NodeId(7));
        let mut now = Timestamp(0);
        let mut tries = 0;
        // An hour, looked at every second, as the planner does.
        for _ in 0..3600 {
            now = now.plus(Duration::from_secs(1));
            put_off.tidy(now);
            if !put_off.holds(id, now) {
                tries += 1;
                put_off.finished(id, Some(Later::Patiently), now);
            }
        }
        assert!((15..=40).contains(&tries), "{tries}");
        // One that went well begins anew.
        put_off.finished(id, None, now);
        put_off.finished(id, Some(Later::Patiently), now);
        assert!(!put_off.holds(id, now.plus(Duration::from_secs(1))));
        put_off.tidy(now.plus(Duration::from_secs(1000)));
        assert_eq!(put_off.len(), 0);
    }
}
