//! What is known of objects, when others change it.

use super::*;
use crate::catalog::ObjectState;

#[test]
fn regression_a_release_looks_at_the_objects_again() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, id, "x", 44, 2);
    let row = node(&catalog, id);
    let permit = permit(&row);
    // The object turns out to be bad after the permit; another target has it, so that the
    // recording stays archived.
    let b = catalog.assign_key(id, row.generation, "b", &["k/b".to_owned()]).expect("a key");
    catalog.verified(b.id, at(500)).expect("usable");
    let objects = catalog.objects(id, None).expect("usable");
    let bad = objects.iter().find(|o| o.target == "a").expect("there");
    catalog.object_bad(bad, true).expect("usable");
    assert_eq!(state(&catalog, id), State::Archived);
    assert!(!catalog.released(&permit, row.attr, Vec::new()).expect("usable"));
    assert_eq!(state(&catalog, id), State::Archived);
}

#[test]
fn regression_a_key_is_not_abandoned_once_it_is_verified() {
    let place = Place::new();
    let catalog = place.open();
    let id = record(&catalog, "a.wav", 44, 2);
    archive(&catalog, id, "x", 44, 2);
    let object = catalog.objects(id, None).expect("usable").pop().expect("one");
    catalog.abandon_key(object.id).expect("usable");
    let object = catalog.objects(id, None).expect("usable").pop().expect("one");
    assert_eq!(object.state, ObjectState::Verified);
}
