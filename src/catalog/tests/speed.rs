//! The call path is fast, also while the catalog is busy. The bounds are wide, for slow machines;
//! the figures are printed.

use super::*;

#[test]
fn an_intent_and_its_outcome_take_microseconds_while_the_engine_syncs() {
    let place = Place::new();
    let catalog = place.open();
    let row = {
        let id = record(&catalog, "s.wav", 44, 2);
        archive(&catalog, id, "s", 44, 2);
        node(&catalog, id)
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut took: Vec<Duration> = Vec::new();
    let syncs = std::thread::scope(|scope| {
        let engine = scope.spawn(|| {
            let mut syncs = 0u32;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                release(&catalog, row.id);
                let stamp = row.hashed.expect("hashed");
                catalog.local_again(row.id, stamp, at(0)).expect("usable");
                syncs += 1;
            }
            syncs
        });
        for i in 0..20_000u64 {
            let op = create(catalog.alloc(), &format!("2026-{i}.wav"), 0, 1);
            let start = Instant::now();
            catalog.intend(i, op).expect("room").done();
            took.push(start.elapsed());
            if i % 100 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        engine.join().expect("no panic")
    });
    took.sort();
    let [p50, p99, worst] = [50, 99, 100].map(|p| took[(took.len() * p / 100).min(took.len() - 1)]);
    println!("intend+done: p50 {p50:?}, p99 {p99:?}, worst {worst:?}; {syncs} synced releases");
    assert!(p50 < Duration::from_millis(1) && p99 < Duration::from_millis(5));
    catalog.close();
    check_rules(&place.database());
}
