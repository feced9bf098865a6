//! Which targets are to hold a recording.

use std::collections::BTreeSet;

/// The targets of a recording, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Named by a rule: they must hold it, whatever `required` says of them.
    named: BTreeSet<String>,
    /// Those of the mount as well: the required ones must, the others should.
    usual: bool,
}

impl Default for Targets {
    /// Those of the mount.
    fn default() -> Targets {
        Targets { named: BTreeSet::new(), usual: true }
    }
}

impl Targets {
    /// These, and no others.
    pub fn only<T: Into<String>>(names: impl IntoIterator<Item = T>) -> Targets {
        Targets { named: names.into_iter().map(Into::into).collect(), usual: false }
    }

    /// Those of both: what one of them demands is demanded.
    pub fn and(mut self, other: &Targets) -> Targets {
        self.named.extend(other.named.iter().cloned());
        self.usual |= other.usual;
        self
    }

    /// Whether a rule names this one.
    pub fn names(&self, target: &str) -> bool {
        self.named.contains(target)
    }

    /// Whether they are those of the mount and no others.
    pub fn are_usual(&self) -> bool {
        self.usual && self.named.is_empty()
    }

    /// Whether a target is to have a copy, at once or when it can.
    pub fn want(&self, target: &str) -> bool {
        self.usual || self.names(target)
    }

    /// Those that must hold it; `required` are those of the mount that must.
    pub fn must(&self, required: &[String]) -> Vec<String> {
        let usual = required.iter().filter(|name| self.usual && !self.names(name));
        self.named.iter().chain(usual).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_of_two_rules_demands_is_demanded() {
        let required = ["main".to_owned()];
        let usual = Targets::default();
        assert_eq!(usual.must(&required), ["main"]);
        assert!(usual.want("spare") && usual.are_usual() && !usual.names("main"));

        let vault = Targets::only(["vault"]);
        assert_eq!(vault.must(&required), ["vault"]);
        assert!(!vault.want("main") && !vault.are_usual());

        let both = vault.clone().and(&Targets::only(["abroad"]));
        assert_eq!(both.must(&required), ["abroad", "vault"]);
        assert!(!both.want("main"));

        let unsure = vault.and(&usual);
        assert_eq!(unsure.must(&required), ["vault", "main"]);
        assert!(unsure.want("spare") && !unsure.are_usual());
        assert_eq!(Targets::only(["main"]).and(&usual).must(&required), ["main"]);
    }
}
