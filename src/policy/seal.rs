//! Whom recordings are sealed to.

use std::collections::BTreeSet;

/// Public keys that recordings are sealed to, in the words of the configuration, which has seen
/// that they are keys. There is one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealTo(BTreeSet<String>);

impl SealTo {
    /// These; `None` if there are none.
    pub fn new<T: AsRef<str>>(keys: &[T]) -> Option<SealTo> {
        let keys: BTreeSet<String> =
            keys.iter().map(|key| key.as_ref().trim().to_owned()).collect();
        (!keys.is_empty()).then_some(SealTo(keys))
    }

    /// Those of both.
    pub fn and(mut self, other: &SealTo) -> SealTo {
        self.0.extend(other.0.iter().cloned());
        self
    }

    /// Each one.
    pub fn keys(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}

/// Those of all that there are; `None`: of none.
pub(super) fn union<'a>(all: impl Iterator<Item = &'a Option<SealTo>>) -> Option<SealTo> {
    all.flatten().cloned().reduce(|one, other| one.and(&other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_sealed_is_sealed_to_all_who_may_open_it() {
        let to = |keys: &[&str]| SealTo::new(keys);
        assert_eq!(to(&[]), None);
        assert_eq!(to(&["b", " a", "b"]), to(&["a", "b"]));
        assert_eq!(union([to(&["a"]), None, to(&["b", "a"])].iter()), to(&["a", "b"]));
        assert_eq!(union([None, to(&["a"])].iter()), to(&["a"]), "plain or not: sealed");
        assert_eq!(union([None, None].iter()), None);
    }
}
