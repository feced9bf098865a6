use super::*;
use crate::policy::RuleError;
use std::slice;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn words(words: &[&str]) -> Words {
    Words::new(words).unwrap()
}

fn numbers(numbers: &[&str]) -> Numbers {
    Numbers::new(numbers).unwrap()
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// A call of which everything is known.
fn call() -> CallFacts {
    CallFacts {
        campaign: text("SALES"),
        ingroup: text(""),
        list: text("9001"),
        agent: text("1001"),
        accountcode: text("acct1"),
        did: text("442079461234"),
        numbers: Some(vec!["02079460001".into(), "3001".into()]),
        extensions: Some(vec!["1001".into(), "2002".into()]),
        direction: Some(Direction::Outbound),
        disposition: text("SALE"),
        duration: Some(MINUTE),
        ended: Some(Timestamp::from_parts(5000, 0)),
    }
}

fn fit(matches: &Matches, call: &CallFacts) -> Sure {
    matches.fit(Path::new("2026/a.wav"), call)
}

fn none() -> Matches {
    Matches::default()
}

/// Each key with what fits the call above, and what does not.
fn keys() -> Vec<(&'static str, Matches, Matches)> {
    use Direction::{Inbound, Internal, Outbound};
    vec![
        (
            "campaign",
            Matches { campaign: words(&["sales"]), ..none() },
            Matches { campaign: words(&["SALES2"]), ..none() },
        ),
        (
            "ingroup",
            Matches { campaign: words(&["SALES"]), ..none() },
            Matches { ingroup: words(&["*"]), ..none() },
        ),
        (
            "list",
            Matches { list: words(&["1", "90*"]), ..none() },
            Matches { list: words(&["1"]), ..none() },
        ),
        (
            "agent",
            Matches { agent: words(&["1001"]), ..none() },
            Matches { agent: words(&["100"]), ..none() },
        ),
        (
            "accountcode",
            Matches { accountcode: words(&["ACCT?"]), ..none() },
            Matches { accountcode: words(&["acct2"]), ..none() },
        ),
        (
            "disposition",
            Matches { disposition: words(&["sale"]), ..none() },
            Matches { disposition: words(&["NO ANSWER"]), ..none() },
        ),
        (
            "did",
            Matches { did: numbers(&["2079461234"]), ..none() },
            Matches { did: numbers(&["02079460001"]), ..none() },
        ),
        (
            "number",
            Matches { number: numbers(&["3001"]), ..none() },
            Matches { number: numbers(&["001"]), ..none() },
        ),
        (
            "extension",
            Matches { extension: words(&["2002"]), ..none() },
            Matches { extension: words(&["3001"]), ..none() },
        ),
        (
            "direction",
            Matches { direction: vec![Inbound, Outbound], ..none() },
            Matches { direction: vec![Inbound, Internal], ..none() },
        ),
        (
            "duration_min",
            Matches { duration_min: Some(MINUTE), ..none() },
            Matches { duration_min: Some(MINUTE + Duration::from_nanos(1)), ..none() },
        ),
        (
            "duration_max",
            Matches { duration_max: Some(MINUTE), ..none() },
            Matches { duration_max: Some(MINUTE - Duration::from_nanos(1)), ..none() },
        ),
    ]
}

#[test]
fn every_key_is_compared_and_not_sure_while_it_is_not_known() {
    for (key, fits, fits_not) in keys() {
        assert_eq!(fit(&fits, &call()), Sure::Yes, "{key}");
        assert_eq!(fit(&fits_not, &call()), Sure::No, "{key}");
        for one in [&fits, &fits_not] {
            assert_eq!(fit(one, &CallFacts::default()), Sure::Maybe, "{key}");
            assert!(one.asks_for_calls(), "{key}");
        }
    }
    assert_eq!(fit(&none(), &CallFacts::default()), Sure::Yes);
    assert!(!none().asks_for_calls());
    let path = Matches { path: Patterns::new(&["x/*"]).unwrap(), ..none() };
    assert!(!path.asks_for_calls());
    assert_eq!(fit(&path, &call()), Sure::No);
    assert_eq!(path.fit(Path::new("x/a.wav"), &CallFacts::default()), Sure::Yes);
}

#[test]
fn all_that_is_given_must_fit_and_one_that_does_not_is_enough() {
    for (key, fits, fits_not) in keys().into_iter().filter(|(key, ..)| *key != "agent") {
        let agent = words(&["1001"]);
        let both = Matches { agent: agent.clone(), ..fits.clone() };
        assert_eq!(fit(&both, &call()), Sure::Yes, "{key}");
        assert_eq!(fit(&Matches { agent, ..fits_not.clone() }, &call()), Sure::No, "{key}");
        let other = Matches { agent: words(&["9"]), ..fits };
        assert_eq!(fit(&other, &call()), Sure::No, "{key}");
        // What is known to differ differs, whatever else is not known.
        let only_agent = CallFacts { agent: text("1001"), ..CallFacts::default() };
        assert_eq!(fit(&other, &only_agent), Sure::No, "{key}");
        assert_eq!(fit(&both, &only_agent), Sure::Maybe, "{key}");
    }
}

#[test]
fn what_fitted_is_told() {
    let said = |matches: &Matches| matches.words(Path::new("2026/a.wav"), &call()).join("; ");
    for (matches, want) in [
        (Matches { campaign: words(&["s*"]), ..none() }, "campaign \"SALES\""),
        (Matches { number: numbers(&["2079460001"]), ..none() }, "number \"02079460001\""),
        (Matches { extension: words(&["2*"]), ..none() }, "extension \"2002\""),
        (Matches { direction: vec![Direction::Outbound], ..none() }, "direction \"outbound\""),
        (Matches { duration_min: Some(MINUTE), ..none() }, "duration 60 s"),
        (Matches { duration_max: Some(MINUTE), ..none() }, "duration 60 s"),
        (
            Matches { path: Patterns::new(&["*.wav"]).unwrap(), list: words(&["9*"]), ..none() },
            "path \"*.wav\"; list \"9001\"",
        ),
        (none(), ""),
    ] {
        assert_eq!(said(&matches), want);
    }
}

fn treatment(archive: u64, keep: u64, expire: Option<Expiry>) -> Treatment {
    Treatment {
        archive_after: Some(MINUTE * u32::try_from(archive).unwrap()),
        keep_local: Some(HOUR * u32::try_from(keep).unwrap()),
        adopt_keep_local: Some(DAY * u32::try_from(keep).unwrap()),
        expire,
        ..Treatment::default()
    }
}

fn expiry(days: u32, from: ExpireFrom) -> Option<Expiry> {
    Some(Expiry { after: DAY * days, from })
}

fn policy(name: &str, matches: Matches, treatment: Treatment) -> Policy {
    Policy { name: name.into(), matches, treatment }
}

/// Sales are kept for 30 days, agent 1001's for 10, everything of 2026 for 20.
fn rules() -> Rules {
    let path = Patterns::new(&["2026/**"]).unwrap();
    Rules {
        archive_after: Some(MINUTE * 5),
        keep_local: Some(HOUR * 5),
        adopt_keep_local: Some(DAY * 5),
        policies: vec![
            policy(
                "sales",
                Matches { campaign: words(&["SALES"]), ..none() },
                treatment(9, 9, expiry(30, ExpireFrom::Close)),
            ),
            policy(
                "agent",
                Matches { agent: words(&["1001"]), ..none() },
                treatment(3, 3, expiry(10, ExpireFrom::CallEnd)),
            ),
            policy(
                "year",
                Matches { path, ..none() },
                treatment(4, 4, expiry(20, ExpireFrom::Close)),
            ),
        ],
        ..Rules::default()
    }
}

fn known(campaign: &str, agent: &str) -> CallFacts {
    CallFacts { campaign: text(campaign), agent: text(agent), ..CallFacts::default() }
}

#[test]
fn the_first_rule_that_fits_wins_and_the_mount_has_the_rest() {
    let rules = rules();
    for (path, call, name, archive) in [
        ("2026/a.wav", known("SALES", "1001"), "\"sales\"", 9),
        ("2026/a.wav", known("OTHER", "1001"), "\"agent\"", 3),
        ("2026/a.wav", known("OTHER", "1"), "\"year\"", 4),
        ("2025/a.wav", known("OTHER", "1"), "the mount's", 5),
    ] {
        let chosen = rules.choose(Path::new(path), &call);
        assert_eq!((chosen.name().as_str(), chosen.is_sure()), (name, true));
        assert_eq!(chosen.treatment.archive_after, Some(MINUTE * archive), "{name}");
        assert_eq!(chosen.treatment.keep_for(false), Some(HOUR * archive), "{name}");
        assert_eq!(chosen.treatment.keep_for(true), Some(DAY * archive), "{name}");
    }
    let chosen = rules.choose(Path::new("2025/a.wav"), &known("SALES", "1"));
    assert_eq!(chosen.because, ["campaign \"SALES\""]);
}

#[test]
fn what_is_not_known_gets_the_safest_of_all_that_it_could_be() {
    let rules = rules();
    let nothing = CallFacts::default();
    let chosen = rules.choose(Path::new("2026/a.wav"), &nothing);
    assert_eq!(chosen.name(), "\"sales\" or \"agent\" or \"year\"");
    assert!(!chosen.is_sure() && chosen.because.is_empty());
    // The earliest archive, the longest keep, the latest expiry.
    assert_eq!(chosen.treatment, treatment(3, 9, expiry(30, ExpireFrom::Close)));
    // Elsewhere the mount's own rules could be it, too, and by those nothing ever expires.
    let chosen = rules.choose(Path::new("2025/a.wav"), &nothing);
    assert_eq!(chosen.name(), "\"sales\" or \"agent\" or the mount's");
    assert_eq!(chosen.treatment, treatment(3, 9, None));
    assert_eq!(expires(&chosen, Some(0)), None);
    // What is known already leaves fewer.
    let no_sale = CallFacts { campaign: text("OTHER"), ..CallFacts::default() };
    let chosen = rules.choose(Path::new("2026/a.wav"), &no_sale);
    assert_eq!(chosen.name(), "\"agent\" or \"year\"");
    assert_eq!(chosen.treatment, treatment(3, 4, expiry(20, ExpireFrom::Close)));
}

#[test]
fn what_could_be_locked_is_locked_for_the_longest_and_in_the_stricter_mode() {
    let worm = |days, mode| Some(Worm { after: DAY * days, mode });
    let of = |worm| Treatment { worm, ..treatment(1, 1, None) };
    let (long, strict) = (worm(9, WormMode::Governance), worm(2, WormMode::Compliance));
    for (all, want) in [
        (vec![None], None),
        (vec![None, long], long),
        (vec![long, strict], worm(9, WormMode::Compliance)),
        (vec![strict, None, long], worm(9, WormMode::Compliance)),
    ] {
        let all: Vec<Treatment> = all.into_iter().map(of).collect();
        assert_eq!(safest(&all).unwrap().worm, want, "{all:?}");
    }
}

#[test]
fn some_rule_locks_if_any_does() {
    let lock = Some(Worm { after: DAY, mode: WormMode::Governance });
    let locking = Treatment { worm: lock, ..treatment(1, 1, None) };
    let of = |all: &[Treatment]| {
        let policies = all.iter().map(|t| policy("a", Matches::default(), t.clone())).collect();
        Rules { policies, ..Rules::default() }
    };
    assert!(!of(&[treatment(1, 1, None)]).has_worm());
    let one = of(&[treatment(1, 1, None), locking]);
    assert!(one.has_worm() && one.hurried().has_worm());
}

#[test]
fn what_is_not_known_goes_to_the_targets_of_all_that_it_could_be() {
    let mut rules = rules();
    for (rule, names) in rules.policies.iter_mut().zip([&["vault"][..], &["main", "abroad"]]) {
        rule.treatment.targets = Targets::only(names.iter().copied());
    }
    let required = ["main".to_owned(), "second".to_owned()];
    let must = |path: &str, call: &CallFacts| {
        rules.choose(Path::new(path), call).treatment.targets.must(&required)
    };
    assert_eq!(must("2025/a.wav", &known("SALES", "1")), ["vault"]);
    assert_eq!(must("2025/a.wav", &known("OTHER", "9")), ["main", "second"]);
    let all = ["abroad", "main", "vault", "second"];
    assert_eq!(must("2025/a.wav", &CallFacts::default()), all);
    assert!(rules.name_targets() && rules.name_target("abroad") && !rules.name_target("second"));
}

#[test]
fn what_is_not_known_is_stored_as_flac_only_if_every_rule_says_so() {
    use crate::units::Percent;
    let flac = |percent| Some(Compress::Flac { min_gain: Percent(percent) });
    let of = |compress| Treatment { compress, ..Treatment::default() };
    let stored = |all: &[Treatment]| safest(all).expect("one").compress;
    assert_eq!(stored(&[of(flac(5)), of(flac(5))]), flac(5));
    assert_eq!(stored(&[of(flac(5)), of(None)]), None);
    assert_eq!(stored(&[of(None), of(flac(5))]), None);
    assert_eq!(stored(&[of(flac(5)), of(flac(9))]), None);
}

#[test]
fn the_mount_says_what_no_rule_does_and_whether_any_rule_says_otherwise() {
    use crate::units::Percent;
    let compress = Some(Compress::Flac { min_gain: Percent(5) });
    let seal_to = SealTo::new(&["age1mount"]);
    let mount = Rules {
        delete_mode: DeleteMode::Refuse,
        compress,
        seal_to: seal_to.clone(),
        ..Rules::default()
    };
    let own = mount.by_path(Path::new("a.wav")).treatment;
    assert_eq!(
        (own.delete_mode, own.compress, &own.seal_to),
        (DeleteMode::Refuse, compress, &seal_to)
    );

    let with =
        |treatment| Rules { policies: vec![policy("one", none(), treatment)], ..mount.clone() };
    let same = with(mount.treatment());
    assert!(!same.name_compression() && !same.name_sealing() && !same.name_targets());
    assert!(with(Treatment { compress: None, ..own.clone() }).name_compression());
    assert!(with(Treatment { seal_to: None, ..own.clone() }).name_sealing());
    assert!(with(Treatment { targets: Targets::only(["t"]), ..own.clone() }).name_targets());

    let keep = Treatment { delete_mode: DeleteMode::Keep, ..own };
    assert!(!with(keep.clone()).only_keep() && !mount.only_keep());
    let mount = Rules { delete_mode: DeleteMode::Keep, ..Rules::default() };
    assert!(mount.only_keep());
    let trash = Treatment { delete_mode: DeleteMode::Trash, ..keep };
    assert!(!Rules { policies: vec![policy("one", none(), trash)], ..mount }.only_keep());
}

#[test]
fn what_is_not_known_is_deleted_in_the_mode_that_loses_the_least() {
    let mut rules = rules();
    let modes = [DeleteMode::Delete, DeleteMode::Keep, DeleteMode::Refuse];
    for (rule, mode) in rules.policies.iter_mut().zip(modes) {
        rule.treatment.delete_mode = mode;
    }
    let mode =
        |path: &str, call: &CallFacts| rules.choose(Path::new(path), call).treatment.delete_mode;
    assert_eq!(mode("2025/a.wav", &known("SALES", "1")), DeleteMode::Delete);
    assert_eq!(mode("2025/a.wav", &known("OTHER", "9")), DeleteMode::Trash);
    assert_eq!(mode("2026/a.wav", &known("OTHER", "9")), DeleteMode::Refuse);
    // By its path alone it could be one of the first two, or none; in 2026 the third.
    let by_path = |path: &str| rules.by_path(Path::new(path)).treatment.delete_mode;
    assert_eq!(by_path("2025/a.wav"), DeleteMode::Trash);
    assert_eq!(by_path("2026/a.wav"), DeleteMode::Refuse);
    assert!(!rules.only_keep());
}

#[test]
fn never_and_forever_are_the_safest_but_archiving_is_not_kept_from_by_never() {
    let never = Treatment::default();
    let some = treatment(3, 3, expiry(1, ExpireFrom::Close));
    let both = safest(&[never.clone(), some.clone()]).unwrap();
    assert_eq!(both, Treatment { archive_after: some.archive_after, ..never.clone() });
    assert_eq!(safest(&[some, never.clone()]), Some(both));
    assert_eq!(safest(slice::from_ref(&never)), Some(never));
    assert_eq!(safest(&[]), None);
}

fn at(days: i64) -> Timestamp {
    Timestamp::from_parts(days * 86_400, 0)
}

/// Closed on day 100, changed on day 99, and over on the day given.
fn expires(chosen: &Chosen<'_>, ended: Option<i64>) -> Option<Timestamp> {
    chosen.expires(at(100), at(99), ended.map(at), || None)
}

#[test]
fn an_expiry_counts_from_what_its_rule_says() {
    let one = |expire| Rules {
        policies: vec![policy("one", none(), treatment(1, 1, expire))],
        ..Rules::default()
    };
    let path = Path::new("a.wav");
    let nothing = CallFacts::default();
    let close = one(expiry(30, ExpireFrom::Close));
    let close = close.choose(path, &nothing);
    assert_eq!(expires(&close, None), Some(at(130)));
    let end = one(expiry(30, ExpireFrom::CallEnd));
    let end = end.choose(path, &nothing);
    assert_eq!(expires(&end, None), None, "the call is not known to be over");
    assert_eq!(expires(&end, Some(105)), Some(at(135)));
    // Its content was written until day 99.
    assert_eq!(expires(&end, Some(98)), Some(at(129)));
    let last = one(expiry(30, ExpireFrom::LastCallOfAccount));
    let last = last.choose(path, &nothing);
    assert_eq!(expires(&last, Some(100)), None, "the account is not known");
    let asked = last.expires(at(100), at(99), None, || Some(at(500)));
    assert_eq!(asked, Some(at(530)));
    let never = one(None);
    assert_eq!(expires(&never.choose(path, &nothing), Some(1)), None);
}

#[test]
fn of_several_that_it_could_be_the_latest_expiry_counts() {
    let rules = rules();
    let no_sale = CallFacts { campaign: text("OTHER"), ..CallFacts::default() };
    let chosen = rules.choose(Path::new("2026/a.wav"), &no_sale);
    // Ten days after the end of the call, or twenty after the close on day 100.
    assert_eq!(expires(&chosen, None), None);
    assert_eq!(expires(&chosen, Some(109)), Some(at(120)));
    assert_eq!(expires(&chosen, Some(111)), Some(at(121)));
}

#[test]
fn calls_are_asked_for_only_where_it_depends_on_them() {
    let path = |text: &str| Patterns::new(&[text]).unwrap();
    let sales = || words(&["SALES"]);
    let plain =
        |text: &str| policy("p", Matches { path: path(text), ..none() }, treatment(1, 1, None));
    let asking = |text: &str| {
        let matches = Matches { path: path(text), campaign: sales(), ..none() };
        policy("c", matches, treatment(1, 1, None))
    };
    let asks = |policies: Vec<Policy>, of: &str| {
        Rules { policies, ..Rules::default() }.asks_for_calls(Path::new(of))
    };
    assert!(!asks(vec![], "a/x"));
    assert!(asks(vec![asking("a/*")], "a/x"));
    assert!(!asks(vec![asking("a/*")], "b/x"));
    assert!(!asks(vec![plain("a/*"), asking("a/*")], "a/x"), "the first is sure");
    assert!(asks(vec![plain("b/*"), asking("a/*")], "a/x"));
    let all = policy("c", Matches { campaign: sales(), ..none() }, treatment(1, 1, None));
    assert!(asks(vec![all], "x"));
    // Which rule it is depends on nothing, and when it expires on the end of the call.
    for from in ExpireFrom::ALL {
        let matches = Matches { path: path("a/*"), ..none() };
        let one = policy("e", matches, treatment(1, 1, expiry(1, from)));
        assert_eq!(asks(vec![one], "a/x"), from == ExpireFrom::CallEnd, "{from:?}");
    }
}

#[test]
fn the_bounds_are_the_shortest_of_all_rules() {
    let rules = rules();
    assert_eq!(rules.shortest_archive(), Some(MINUTE * 3));
    assert_eq!(rules.shortest_keep(), Some(HOUR * 3));
    assert_eq!(rules.shortest_expiry(), Some(DAY * 10));
    let plain = Rules { archive_after: None, keep_local: None, ..Rules::default() };
    assert_eq!(plain.shortest_archive(), None);
    assert_eq!(plain.shortest_keep(), Some(DAY * 7));
    let forever = Rules { adopt_keep_local: None, ..plain };
    assert_eq!((forever.shortest_keep(), forever.shortest_expiry()), (None, None));
    let own = Rules { archive_after: Some(MINUTE), ..rules };
    assert_eq!(own.shortest_archive(), Some(MINUTE));
}

#[test]
fn in_a_hurry_rules_wait_for_nothing_but_never_and_expiry_stay_what_they_are() {
    let never = Treatment { archive_after: None, keep_local: None, ..treatment(1, 1, None) };
    let mut rules = rules();
    rules.policies.push(policy("never", none(), never));
    let hurried = rules.hurried();
    let first = &hurried.policies[0].treatment;
    assert_eq!(first.archive_after, Some(Duration::ZERO));
    assert_eq!(
        (first.keep_for(false), first.keep_for(true)),
        (Some(Duration::ZERO), Some(Duration::ZERO))
    );
    assert_eq!(first.expire, expiry(30, ExpireFrom::Close));
    let last = &hurried.policies[3].treatment;
    assert_eq!((last.archive_after, last.keep_local), (None, None));
}

#[test]
fn words_of_a_wrong_rule_are_named() {
    assert!(matches!(Words::new(&["["]), Err(RuleError::Pattern { .. })));
    for way in Direction::ALL {
        assert_eq!(way.to_string().parse(), Ok(way));
    }
    assert_eq!("sideways".parse::<Direction>(), Err(()));
}
