//! What the rules mean for the next recording, in words, for `status`, `check` and `reload`.

use crate::units::Age;

/// A target, as far as words go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetName<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it must hold a recording before that is released.
    pub required: bool,
}

/// What will happen to a recording that is closed now and that no glob excludes.
pub fn next_recording(targets: &[TargetName<'_>], archive_after: Age, keep_local: Age) -> String {
    let named = |required: bool| {
        let names: Vec<_> =
            targets.iter().filter(|t| t.required == required).map(|t| t.name).collect();
        list(&names)
    };
    if targets.is_empty() {
        return "A recording closed now stays on the local disk only: no target is configured."
            .to_owned();
    }
    let Age::For(wait) = archive_after else {
        return "A recording closed now stays on the local disk only: archive_after is \
                \"forever\"."
            .to_owned();
    };
    let when = if wait.is_zero() {
        "as soon as it has settled".to_owned()
    } else {
        format!("after {}", archive_after.humane())
    };
    let Some(required) = named(true) else {
        let others = named(false).unwrap_or_default();
        return format!(
            "A recording closed now is archived to {others} {when}, and its local copy is kept \
             forever, as no target is required."
        );
    };
    let also =
        named(false).map_or_else(String::new, |others| format!(" (and, if it can be, {others})"));
    let then = match keep_local {
        Age::Forever => "is kept forever".to_owned(),
        Age::For(keep) if keep.is_zero() => "is released at once".to_owned(),
        Age::For(_) => format!("is released {} after that", keep_local.humane()),
    };
    format!(
        "A recording closed now is archived to {required}{also} {when}, and its local copy {then}."
    )
}

fn list(names: &[&str]) -> Option<String> {
    let (last, others) = names.split_last()?;
    if others.is_empty() {
        return Some(format!("target {last:?}"));
    }
    let others: Vec<_> = others.iter().map(|n| format!("{n:?}")).collect();
    Some(format!("targets {} and {last:?}", others.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_sentence_says_what_the_rules_mean() {
        let target = |name, required| TargetName { name, required };
        let age = |secs| Age::For(Duration::from_secs(secs));
        let (a, b) = (target("a", true), target("b", true));
        let spare = target("spare", false);
        for (targets, after, keep, want) in [
            (
                vec![a],
                age(300),
                age(86_400),
                "A recording closed now is archived to target \"a\" after 5 minutes, and its \
                 local copy is released 24 hours after that.",
            ),
            (
                vec![a, spare, b],
                age(0),
                Age::Forever,
                "A recording closed now is archived to targets \"a\" and \"b\" (and, if it can \
                 be, target \"spare\") as soon as it has settled, and its local copy is kept \
                 forever.",
            ),
            (
                vec![spare],
                age(300),
                age(0),
                "A recording closed now is archived to target \"spare\" after 5 minutes, and its \
                 local copy is kept forever, as no target is required.",
            ),
            (
                vec![],
                age(300),
                age(0),
                "A recording closed now stays on the local disk only: no target is configured.",
            ),
            (
                vec![],
                Age::Forever,
                age(0),
                "A recording closed now stays on the local disk only: no target is configured.",
            ),
            (
                vec![a],
                Age::Forever,
                age(0),
                "A recording closed now stays on the local disk only: archive_after is \
                 \"forever\".",
            ),
        ] {
            assert_eq!(next_recording(&targets, after, keep), want);
        }
    }
}
