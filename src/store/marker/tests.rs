use super::*;
use crate::store::memory::{Fault, MemoryStore, Operation};
use std::sync::Arc;

fn claim<'a>(expected: Option<&'a str>, node: &'a str, instance: &'a str) -> Claim<'a> {
    Claim { expected, archive_name: DEFAULT_ARCHIVE_NAME, node, instance, now: Timestamp(0) }
}

fn edit(store: &MemoryStore, from: &str, to: &str) -> MemoryStore {
    let bytes = store.bytes("p/.spoolfs/archive.json").unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    filled(text.replace(from, to))
}

fn filled(marker: String) -> MemoryStore {
    let store = MemoryStore::new("m", "p/");
    let sha256 = Sha256::of(marker.as_bytes());
    let put = async {
        let body = Body::Bytes(marker.into());
        store.put("p/.spoolfs/archive.json", body, sha256, &ObjectMeta::default()).await.unwrap();
    };
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(put);
    store
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn founded() -> (MemoryStore, String) {
    let store = MemoryStore::new("m", "p/");
    let id = run(attach(&store, &claim(None, "pbx", "i1"))).unwrap();
    (store, id)
}

#[test]
fn the_first_node_founds_the_archive_and_the_others_join_it() {
    let (store, id) = founded();
    assert_eq!(run(attach(&store, &claim(Some(&id), "pbx", "i1"))).unwrap(), id);
    assert_eq!(run(attach(&store, &claim(None, "pbx2", "i2"))).unwrap(), id);
    let nodes = [".spoolfs/nodes/pbx.json", ".spoolfs/nodes/pbx2.json"].map(|k| format!("p/{k}"));
    assert_eq!(store.keys()[1..], nodes);
}

#[tokio::test]
async fn two_that_start_at_once_agree() {
    let store = Arc::new(MemoryStore::new("m", ""));
    store.set_paused(true);
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                let node = format!("pbx{i}");
                attach(&*store, &claim(None, &node, &node)).await.unwrap()
            })
        })
        .collect();
    store.set_paused(false);
    let mut ids = Vec::new();
    for task in tasks {
        ids.push(task.await.unwrap());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[test]
fn another_archive_is_refused_and_nothing_is_written() {
    let (store, id) = founded();
    let before = store.keys();
    let other = run(attach(&store, &claim(Some("0123"), "new", "i9"))).unwrap_err();
    assert!(matches!(&other, AttachError::Other { found, .. } if *found == id), "{other}");
    let named = Claim { archive_name: "north", ..claim(None, "new", "i9") };
    let other_name = run(attach(&store, &named)).unwrap_err();
    assert!(matches!(other_name, AttachError::OtherName { .. }), "{other_name}");
    assert_eq!(other_name.class(), ErrorClass::Refused);
    assert_eq!(store.keys(), before);
}

#[test]
fn an_archive_that_is_gone_is_not_founded_again() {
    let store = MemoryStore::new("m", "p/");
    let gone = run(attach(&store, &claim(Some("0123"), "pbx", "i1"))).unwrap_err();
    assert!(matches!(gone, AttachError::Missing { .. }), "{gone}");
    assert!(store.keys().is_empty());
}

#[test]
fn a_newer_format_or_a_foreign_file_is_refused() {
    let (store, id) = founded();
    let next = FORMAT_VERSION + 1;
    let newer = edit(&store, "\"format\": 1", &format!("\"format\": {next}"));
    let error = run(attach(&newer, &claim(Some(&id), "pbx", "i1"))).unwrap_err();
    assert!(matches!(error, AttachError::Newer { found, .. } if found == next), "{error}");
    for foreign in ["", "{}", r#"{"spoolfs":"journal","format":1}"#] {
        let store = filled(foreign.into());
        let error = run(attach(&store, &claim(None, "pbx", "i1"))).unwrap_err();
        assert!(matches!(error, AttachError::NoMarker { .. }), "{error}");
        assert_eq!(store.keys().len(), 1);
    }
}

#[test]
fn a_name_in_use_by_another_machine_is_refused_with_the_way_out() {
    let (store, _) = founded();
    let taken = run(attach(&store, &claim(None, "pbx", "i2"))).unwrap_err();
    assert!(matches!(taken, AttachError::NodeTaken { .. }), "{taken}");
    assert!(taken.to_string().contains("set another `node`"));
}

#[test]
fn a_target_that_does_not_answer_is_no_empty_one() {
    let store = MemoryStore::new("m", "p/");
    store.fail_next_of(".spoolfs/", Operation::Get, 1, Fault::Unreachable);
    let down = run(attach(&store, &claim(None, "pbx", "i1"))).unwrap_err();
    assert_eq!(down.class(), ErrorClass::Transient);
    assert!(store.keys().is_empty());
    // Written, and the answer lost: the next start finds it.
    store.fail_next_of(".spoolfs/", Operation::Put, 1, Fault::ReplyLost);
    run(attach(&store, &claim(None, "pbx", "i1"))).unwrap_err();
    run(attach(&store, &claim(None, "pbx", "i1"))).unwrap();
}
