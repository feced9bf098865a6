use super::*;
use crate::codec::{Restorer, restored, stored_range};
use bytes::Bytes;

/// A pair of keys; as text.
fn pair() -> (String, String) {
    let key = age::x25519::Identity::generate();
    (key.to_public().to_string(), key.to_string().expose_secret().to_owned())
}

fn recipients(words: &[&str]) -> Recipients {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    Recipients::parse(&words).unwrap().unwrap()
}

fn identities(secret: &str) -> Identities {
    Identities::parse(secret.as_bytes(), "a test").unwrap()
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(len as u64).fill(&mut bytes);
    bytes
}

fn seal(recipients: &Recipients, bytes: &[u8]) -> (Vec<u8>, Encoding, Identities) {
    let mut sealer = Sealer::begin(recipients, Vec::new()).unwrap();
    bytes.chunks(10_000).for_each(|part| sealer.push(part).unwrap());
    let (stored, own) = sealer.finish().unwrap();
    let encoding = sealed(&stored, Encoding::Plain, stored.len() as u64).unwrap().into();
    (stored, encoding, own)
}

fn read(
    encoding: &Encoding,
    stored: &[u8],
    range: &Range<u64>,
    keys: &Identities,
) -> Result<Bytes, Unreadable> {
    let place = stored_range(encoding, range).unwrap();
    let part = stored.get(place.start as usize..place.end as usize).unwrap_or_default();
    restored(encoding, range, Bytes::copy_from_slice(part), keys)
}

#[test]
fn any_range_of_what_was_sealed_comes_back() {
    let (public, secret) = pair();
    let (to, keys) = (recipients(&[&public]), identities(&secret));
    let mut random = fastrand::Rng::with_seed(1);
    for len in [1, 65_535, 65_536, 65_537, 131_072, 400_000] {
        let bytes = noise(len);
        let (stored, encoding, own) = seal(&to, &bytes);
        for turn in 0..25 {
            let start = if turn == 0 { 0 } else { random.usize(..len) };
            let end = if turn == 0 { len } else { random.usize(start + 1..=len) };
            let range = start as u64..end as u64;
            assert!(read(&encoding, &stored, &range, &keys).unwrap() == bytes[start..end]);
        }
        // Who sealed it knows the key of the file, and that is all.
        let all = 0..len as u64;
        assert!(read(&encoding, &stored, &all, &own).unwrap() == bytes);
        // And from its beginning to its end, in parts of any size.
        let (mut restorer, mut back) = (Restorer::new(&encoding, &keys), Vec::new());
        for part in stored.chunks(random.usize(1..90_000)) {
            restorer.push(part, &mut |bytes| back.extend_from_slice(bytes)).unwrap();
        }
        assert!(back == bytes, "{len}");
    }
}

#[test]
fn no_byte_comes_out_of_a_block_that_was_changed_moved_or_cut() {
    let (public, secret) = pair();
    let (to, keys) = (recipients(&[&public]), identities(&secret));
    let bytes = noise(300_000);
    let (stored, encoding, _) = seal(&to, &bytes);
    let Encoding::Sealed(sealed) = &encoding else { panic!("{encoding}") };
    let head = sealed.head().unwrap().len();
    let all = 0..bytes.len() as u64;
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..40 {
        let mut bad = stored.clone();
        bad[random.usize(head..stored.len())] ^= 1 << random.u8(..8);
        assert!(matches!(read(&encoding, &bad, &all, &keys), Err(Unreadable::Bad(_))));
    }
    // Blocks are as they were, at another place.
    let mut swapped = stored.clone();
    let (first, second) = swapped[head..].split_at_mut(65_552);
    first.swap_with_slice(&mut second[..65_552]);
    for range in [0..10, 65_536..65_546, all.clone()] {
        assert!(matches!(read(&encoding, &swapped, &range, &keys), Err(Unreadable::Bad(_))));
    }
    assert!(read(&encoding, &swapped, &(140_000..140_010), &keys).is_ok());
    for len in [0, head, head + 100, stored.len() - 1] {
        assert!(matches!(read(&encoding, &stored[..len], &all, &keys), Err(Unreadable::Bad(_))));
    }
}

/// Its metadata may say that the recording is longer than what is sealed.
#[test]
fn regression_what_is_asked_for_behind_the_end_is_no_panic() {
    let (public, secret) = pair();
    let (stored, encoding, _) = seal(&recipients(&[&public]), &noise(100));
    for range in [90..101, 200..300, 70_000..80_000, 65_536..65_537] {
        let answer = read(&encoding, &stored, &range, &identities(&secret));
        assert!(matches!(answer, Err(Unreadable::Bad(_))), "{range:?}: {answer:?}");
    }
}

#[test]
fn what_is_sealed_whole_comes_back_whole_or_not_at_all() {
    let ((public, secret), (_, other)) = (pair(), pair());
    let (to, keys) = (recipients(&[&public]), identities(&secret));
    for len in [0, 1, 65_536, 200_000] {
        let stored = seal_all(&to, &noise(len)).unwrap();
        assert!(is_sealed(&stored) && !is_sealed(&noise(len)));
        assert_eq!(open_all(&stored, &keys).unwrap(), noise(len));
        assert!(open_all(&stored, &identities(&other)).unwrap_err().is_locked());
        assert!(open_all(&stored, &Identities::default()).unwrap_err().is_locked());
        for end in [0, 30, stored.len() / 2, stored.len() - 1] {
            assert!(matches!(open_all(&stored[..end], &keys), Err(Unreadable::Bad(_))), "{end}");
        }
    }
    // What reads a header takes far longer with more lines.
    let endless = [b"age-encryption.org/v1\n".to_vec(), b"-> X25519 A\n".repeat(100_000)].concat();
    assert!(matches!(open_all(&endless, &keys), Err(Unreadable::Bad(_))));
}

#[test]
fn without_the_key_it_is_locked_and_says_so() {
    let ((public, secret), (_, other)) = (pair(), pair());
    let (stored, encoding, _) = seal(&recipients(&[&public]), &noise(1000));
    let read = |keys: &Identities| read(&encoding, &stored, &(0..1000), keys);
    let none = read(&Identities::none("nobody gave one")).unwrap_err();
    assert!(none.is_locked() && none.to_string().contains("nobody gave one"), "{none}");
    let wrong = read(&identities(&other)).unwrap_err();
    assert!(wrong.is_locked() && wrong.to_string().contains("a test"), "{wrong}");
    assert!(read(&identities(&format!("# two\n{other}\n{secret}\n"))).is_ok());
}

#[test]
fn a_key_that_comes_later_is_everybodys() {
    let (public, secret) = pair();
    let (stored, encoding, _) = seal(&recipients(&[&public]), &noise(1000));
    let keys = Identities::none("it is asked for");
    let clone = keys.clone();
    assert!(read(&encoding, &stored, &(0..1000), &clone).unwrap_err().is_locked());
    keys.become_as(&identities(&secret));
    assert!(!clone.is_empty() && &*clone.told() == "a test");
    assert!(read(&encoding, &stored, &(0..1000), &clone).is_ok());
}

#[test]
fn several_keys_open_it_each_alone() {
    let ((one, first), (two, second)) = (pair(), pair());
    let to = recipients(&[&one, &two]);
    let (stored, encoding, _) = seal(&to, &noise(70_000));
    for secret in [first, second] {
        assert!(read(&encoding, &stored, &(0..70_000), &identities(&secret)).is_ok());
        assert!(identities(&secret).open_what_is_for(&to));
    }
    assert!(!identities(&pair().1).open_what_is_for(&to));
}

#[test]
fn a_key_of_ssh_does_as_well() {
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sealed");
    let text = |name: &str| std::fs::read_to_string(format!("{place}/{name}")).unwrap();
    let (to, keys) = (recipients(&[text("key.pub").trim()]), identities(&text("key")));
    let bytes = noise(200_000);
    let (stored, encoding, _) = seal(&to, &bytes);
    assert!(read(&encoding, &stored, &(70_000..70_010), &keys).unwrap() == bytes[70_000..70_010]);
    assert!(keys.open_what_is_for(&to));
    assert!(!keys.open_what_is_for(&recipients(&[&pair().0])));
}

#[test]
fn a_head_is_found_and_nothing_is_taken_for_one() {
    let (stored, encoding, _) = seal(&recipients(&[&pair().0]), &noise(1000));
    let Encoding::Sealed(sealed) = &encoding else { panic!("{encoding}") };
    let len = sealed.head().unwrap().len();
    for (end, found) in [(0, Head::Longer), (7, Head::Longer), (len - 1, Head::Longer)] {
        assert_eq!(head(&stored[..end]), Ok(found), "{end}");
    }
    assert_eq!(head(&stored), Ok(Head::Ends(len)));
    for bad in [&b"RIFF"[..], b"age-encryption.org/v2\n", b"age-encryption.org/v1\nnothing\n\n"] {
        assert!(head(bad).is_err());
    }
    let line = [&b"-> a "[..], &[b'b'; 2000], b"\n\n"].concat();
    let endless = [&b"age-encryption.org/v1\n"[..], &line.repeat(20)].concat();
    assert!(head(&endless).is_err());
}

#[test]
fn what_is_no_public_key_is_refused_and_no_secret_is_repeated() {
    let (public, secret) = pair();
    let mut mistyped = public.clone();
    mistyped.replace_range(10..11, if &public[10..11] == "q" { "p" } else { "q" });
    let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7";
    for (word, told) in [
        (mistyped.as_str(), "X25519"),
        (rsa, "\"ssh-rsa\""),
        ("ssh-ed25519 AAAA", "no key of SSH"),
        (secret.as_str(), "secret key in place 1"),
        ("hunter2", "place 1"),
    ] {
        let error = Recipients::parse(&[word.to_owned()]).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        assert!(!error.contains(&secret) && !error.contains("hunter2"), "{error}");
    }
    assert!(Recipients::parse(&vec![public.clone(); 21]).is_err());
    assert_eq!(Recipients::parse(&[]), Ok(None));
    for bad in ["", "# nothing\n", "hunter2\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"] {
        let error = Identities::parse(bad.as_bytes(), "x").unwrap_err();
        assert!(!error.contains("hunter2") && !error.contains("AAAA"), "{error}");
    }
    let shown = format!("{:?} {:?}", identities(&secret), recipients(&[&public]));
    assert!(shown.contains(&public) && !shown.contains("SECRET"), "{shown}");
}
