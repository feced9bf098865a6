//! Stored joins, as targets tell of them.

use crate::world::{World, audio};
use spoolfs::codec::{Coding, wav_header};
use spoolfs::engine::{JoinOptions, JoinStatus};
use spoolfs::recording::{NodeId, Sha256, Stored};
use spoolfs::stitch::Kept;
use spoolfs::store::joined::JoinLabel;
use spoolfs::store::memory::{Fault, Operation};
use spoolfs::store::{Body, Store};
use std::sync::Arc;

const CALL: &[u8] = b"1795228029.1";

fn joins(world: &World) -> JoinStatus {
    world.engine().status().joins.unwrap()
}

/// It was noted as damaged, and never asked for again: what it has of recordings that have expired could
/// not be heard.
#[test]
fn regression_a_stored_join_that_is_refused_for_a_moment_is_asked_for_again() {
    let state = tempfile::tempdir().unwrap();
    let open = || Arc::new(Kept::open(state.path()).unwrap());
    let (mut world, kept) = (World::with(&["one"]), open());
    world.joins = Ok(Some(kept.clone()));
    world.start();
    // The other has expired in a catalog that is lost.
    let legs = vec![world.archived("a.wav", &audio(900, 1)), NodeId(999_999)];
    let mut join = wav_header(Coding::Pcm16, 8000, 1, 3200);
    join.resize(join.len() + 3200, 7);
    let (size, sha256) = (join.len() as u64, Sha256::of(&join));
    let label = JoinLabel {
        node: world.catalog().identity().node,
        call: CALL.to_vec(),
        legs,
        sha256,
        size,
        mtime: world.now(),
        access: (0o440, 0, 0),
        stored: Stored::plain(size, sha256),
    };
    let (key, meta) = ("p/stitched/1795228029.1.wav", label.to_meta().unwrap());
    let put = world.store().put(key, Body::Bytes(join.into()), sha256, &meta);
    world.runtime.block_on(put).unwrap();

    world.store().fail_next_of("stitched/", Operation::Get, 1000, Fault::Denied);
    let options = || JoinOptions { keep_expired: true, ..JoinOptions::default() };
    world.engine().keep_joins(options()).unwrap();
    world.until("it is told", || joins(&world).unopened == 1);
    // It goes with its recordings all the same.
    let known = kept.about(Some(CALL), &[]).unwrap();
    assert_eq!((known.len(), known[0].legs.len(), joins(&world).bad), (1, 2, 0));
    // Also by the next daemon.
    let kept = open();
    world.joins = Ok(Some(kept.clone()));
    world.restart();
    world.engine().keep_joins(options()).unwrap();
    world.until("it is told again", || joins(&world).unopened == 1);
    world.store().fail_no_more();
    world.until("it is found", || {
        world.pass(60);
        joins(&world).unopened == 0
    });
    world.until("it stands in", || kept.standing_in(CALL, &label.legs).unwrap().is_some());
    let known = kept.about(Some(CALL), &[]).unwrap();
    assert_eq!((known.len(), known[0].sha256, joins(&world).stored), (1, sha256, 1));
}
