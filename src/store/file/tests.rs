use super::*;

fn sum(bytes: &[u8]) -> Sha256 {
    Sha256::of(bytes)
}

fn store() -> (tempfile::TempDir, FileStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = FileStore::new("f", dir.path().to_owned());
    (dir, store)
}

async fn put(store: &FileStore, key: &str, bytes: &'static [u8]) -> Result<()> {
    let meta = ObjectMeta {
        content_type: "audio/wav".into(),
        user: vec![("spoolfs-id".into(), "7".into())],
        ..ObjectMeta::default()
    };
    store.put(key, Body::Bytes(Bytes::from_static(bytes)), sum(bytes), &meta).await
}

#[tokio::test]
async fn an_object_is_a_plain_file_and_leaves_nothing_else_in_a_listing() {
    let (dir, store) = store();
    put(&store, "pbx/a.wav", b"audio").await.unwrap();
    assert_eq!(fs::read(dir.path().join("pbx/a.wav")).unwrap(), b"audio");
    let listed = store.list("", "").await.unwrap();
    assert_eq!(listed, [Listed { key: "pbx/a.wav".into(), size: 5 }]);
    assert_eq!(fs::read_dir(dir.path().join(TEMP_DIR)).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_where_a_directory_is_needed_means_taken() {
    let (_dir, store) = store();
    put(&store, "pbx/x", b"file").await.unwrap();
    assert_eq!(put(&store, "pbx/x/y", b"below").await.unwrap_err().kind, StoreErrorKind::Exists);
    put(&store, "pbx/d/y", b"below").await.unwrap();
    assert_eq!(put(&store, "pbx/d", b"file").await.unwrap_err().kind, StoreErrorKind::Exists);
    assert_eq!(store.head("pbx/d").await.unwrap_err().kind, StoreErrorKind::NotFound);
    assert_eq!(store.head("pbx/x/y").await.unwrap_err().kind, StoreErrorKind::NotFound);
}

#[tokio::test]
async fn a_directory_that_is_gone_is_unreachable_and_not_empty() {
    let (dir, store) = store();
    put(&store, marker::ARCHIVE_KEY, b"{}").await.unwrap();
    put(&store, "pbx/a.wav", b"audio").await.unwrap();
    store.head("pbx/b.wav").await.unwrap_err();
    // As when a network mount goes away: the directory under it is there, and empty.
    let aside = dir.path().with_extension("aside");
    fs::rename(dir.path(), &aside).unwrap();
    for empty_dir in [false, true] {
        if empty_dir {
            fs::create_dir(dir.path()).unwrap();
        }
        let unreachable = StoreErrorKind::Unreachable;
        assert_eq!(store.head("pbx/a.wav").await.unwrap_err().kind, unreachable);
        assert_eq!(store.get("pbx/a.wav", 0..1).await.unwrap_err().kind, unreachable);
        assert_eq!(store.list("", "").await.unwrap_err().kind, unreachable);
        assert_eq!(store.delete("pbx/a.wav").await.unwrap_err().kind, unreachable);
        assert_eq!(put(&store, "pbx/c.wav", b"x").await.unwrap_err().kind, unreachable);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::remove_dir(dir.path()).unwrap();
    fs::rename(&aside, dir.path()).unwrap();
    assert_eq!(store.head("pbx/a.wav").await.unwrap().size, 5);
}

#[tokio::test]
async fn another_archive_mounted_in_its_place_is_neither_read_nor_written() {
    let (dir, store) = store();
    let unreachable = StoreErrorKind::Unreachable;
    put(&store, marker::ARCHIVE_KEY, b"{1}").await.unwrap();
    put(&store, "pbx/a.wav", b"audio").await.unwrap();
    let aside = dir.path().with_extension("aside");
    fs::rename(dir.path(), &aside).unwrap();
    // The other disk has an object under the same key.
    fs::create_dir(dir.path()).unwrap();
    let other = FileStore::new("f", dir.path().to_owned());
    put(&other, marker::ARCHIVE_KEY, b"{2}").await.unwrap();
    put(&other, "pbx/a.wav", b"AUDIO").await.unwrap();
    assert_eq!(store.head("pbx/a.wav").await.unwrap_err().kind, unreachable);
    assert_eq!(store.get("pbx/a.wav", 0..5).await.unwrap_err().kind, unreachable);
    assert_eq!(store.head("pbx/b.wav").await.unwrap_err().kind, unreachable);
    assert_eq!(store.delete("pbx/a.wav").await.unwrap_err().kind, unreachable);
    assert_eq!(put(&store, "pbx/c.wav", b"x").await.unwrap_err().kind, unreachable);
    assert_eq!(store.get(marker::ARCHIVE_KEY, 0..9).await.unwrap(), "{2}", "whose it is, is told");
    // The same archive on a file system that was mounted anew has another device or inode.
    fs::remove_dir_all(dir.path()).unwrap();
    fs::create_dir_all(dir.path().join(".spoolfs")).unwrap();
    fs::create_dir(dir.path().join("pbx")).unwrap();
    for key in [marker::ARCHIVE_KEY, "pbx/a.wav"] {
        fs::copy(aside.join(key), dir.path().join(key)).unwrap();
    }
    assert_eq!(store.get("pbx/a.wav", 0..5).await.unwrap(), "audio");
    fs::remove_dir_all(aside).unwrap();
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn an_object_that_a_put_leaves_when_it_is_cut_off_anywhere_has_its_metadata() {
    let mut cut = 0;
    for nth in 1.. {
        let (_dir, store) = store();
        crate::faults::set(&format!("store.sync_dir:{nth}:EIO:forever")).unwrap();
        let put = put(&store, "pbx/a.wav", b"audio").await;
        crate::faults::clear();
        if let Ok(head) = store.head("pbx/a.wav").await {
            assert_eq!(head.user.len(), 1, "sync {nth}");
        }
        if put.is_ok() {
            break;
        }
        cut += 1;
    }
    assert!(cut > 3, "{cut}");
}

/// What a put left whose last sync failed, or who died before it, was found under its key and taken for
/// proved: after a power cut it was gone, and the local copy released.
#[cfg(feature = "faults")]
#[tokio::test]
async fn regression_an_object_is_proved_only_when_its_name_is_on_the_disk() {
    let (dir, store) = store();
    let verified = async |store: &FileStore| {
        crate::store::verify(store, "pbx/a.wav", 5, sum(b"audio")).await.map_err(|e| e.kind)
    };
    put(&store, "pbx/first.wav", b"x").await.unwrap();
    // After its metadata.
    crate::faults::set("store.sync_dir:2:EIO:forever").unwrap();
    assert_eq!(
        put(&store, "pbx/a.wav", b"audio").await.unwrap_err().kind,
        StoreErrorKind::Unreachable
    );
    assert_eq!(verified(&store).await, Err(StoreErrorKind::Unreachable));
    let again = put(&store, "pbx/a.wav", b"audio").await.unwrap_err();
    assert_eq!(again.kind, StoreErrorKind::Unreachable, "nor is it said to be there");
    crate::faults::set("").unwrap();
    verified(&store).await.unwrap();
    assert_eq!(crate::faults::passed("store.sync_dir"), 1);
    // The next daemon knows nothing of it.
    let next = FileStore::new("f", dir.path().to_owned());
    crate::faults::set("store.sync_dir:1:EIO").unwrap();
    assert_eq!(verified(&next).await, Err(StoreErrorKind::Unreachable));
    verified(&next).await.unwrap();
    // What was put and synced is not synced again.
    put(&next, "pbx/b.wav", b"audio").await.unwrap();
    let before = crate::faults::passed("store.sync_dir");
    crate::store::verify(&next, "pbx/b.wav", 5, sum(b"audio")).await.unwrap();
    assert_eq!(crate::faults::passed("store.sync_dir"), before);
    crate::faults::clear();
}

/// Without it the object was taken for nobody's, and never deleted.
#[tokio::test]
async fn regression_metadata_that_can_not_be_read_now_are_not_missing() {
    let (dir, store) = store();
    put(&store, "pbx/a.wav", b"audio").await.unwrap();
    let (meta, aside) = (dir.path().join(".spoolfs/meta/pbx/a.wav"), dir.path().join("aside"));
    fs::rename(&meta, &aside).unwrap();
    assert_eq!(store.head("pbx/a.wav").await.unwrap().user, [], "there are none");
    // Opening it fails with ELOOP.
    std::os::unix::fs::symlink("a.wav", &meta).unwrap();
    assert_eq!(store.head("pbx/a.wav").await.unwrap_err().kind, StoreErrorKind::Unreachable);
    fs::rename(&aside, &meta).unwrap();
    assert_eq!(store.head("pbx/a.wav").await.unwrap().user.len(), 1);
}

#[tokio::test]
async fn metadata_of_an_object_that_is_gone_are_not_those_of_the_next() {
    let (dir, store) = store();
    put(&store, "pbx/a.wav", b"audio").await.unwrap();
    fs::remove_file(dir.path().join("pbx/a.wav")).unwrap();
    let meta =
        ObjectMeta { user: vec![("spoolfs-id".into(), "8".into())], ..ObjectMeta::default() };
    let again = store.put("pbx/a.wav", Body::Bytes("other".into()), sum(b"other"), &meta);
    again.await.unwrap();
    assert_eq!(store.head("pbx/a.wav").await.unwrap().user, meta.user);
}

#[tokio::test]
async fn who_comes_second_leaves_the_metadata_alone() {
    let (_dir, store) = store();
    put(&store, "pbx/a.wav", b"audio").await.unwrap();
    let (body, meta) = (Body::Bytes("other".into()), ObjectMeta::default());
    let second = store.put("pbx/a.wav", body, sum(b"other"), &meta);
    assert_eq!(second.await.unwrap_err().kind, StoreErrorKind::Exists);
    assert_eq!(store.head("pbx/a.wav").await.unwrap().user.len(), 1);
}

#[tokio::test]
async fn orphans_are_those_of_this_node_and_of_an_earlier_daemon() {
    let (dir, store) = store();
    put(&store, "pbx/a.wav", b"audio").await.unwrap();
    let temp = dir.path().join(TEMP_DIR);
    let ours = store.inner.temp_name("pbx/b.wav");
    let earlier = FileStore::new("f", dir.path().to_owned()).inner.temp_name("pbx/b.wav");
    for name in [&ours, &earlier, "pbx2~0000-11"] {
        fs::write(temp.join(name), "torn").unwrap();
    }
    assert_eq!(store.abort_orphans("pbx").await.unwrap(), 1);
    assert!(temp.join(&ours).exists() && temp.join("pbx2~0000-11").exists());
}

#[tokio::test]
async fn a_body_that_changed_meanwhile_is_never_given_a_name() {
    let (dir, store) = store();
    let wrong =
        store.put("pbx/a", Body::Bytes("x".into()), sum(b"y"), &ObjectMeta::default()).await;
    assert_eq!(wrong.unwrap_err().kind, StoreErrorKind::Corrupt);
    let path = dir.path().join("source");
    fs::write(&path, "short").unwrap();
    let body = Body::File { file: Arc::new(File::open(&path).unwrap()), len: 9 };
    let short = store.put("pbx/a", body, sum(b"short"), &ObjectMeta::default()).await;
    assert_eq!(short.unwrap_err().kind, StoreErrorKind::Corrupt);
    assert!(!dir.path().join("pbx/a").exists());
}

#[tokio::test]
async fn no_key_leads_out_of_the_directory() {
    let (_dir, store) = store();
    for key in ["../x", "/etc/passwd", "a//b", "a/./b", "", "a/\0"] {
        assert_eq!(put(&store, key, b"x").await.unwrap_err().kind, StoreErrorKind::Unsupported);
        assert_eq!(store.head(key).await.unwrap_err().kind, StoreErrorKind::Unsupported, "{key:?}");
    }
}
