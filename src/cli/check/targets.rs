//! Each target, by writing, reading, listing and deleting small objects in it.

use super::Finding;
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::config::{Config, Target};
use crate::recording::Sha256;
use crate::store::s3::Sse;
use crate::store::{
    self, Body, Locks, ObjectMeta, Store, StoreError, StoreErrorKind, TargetOptions, marker,
};
use bytes::Bytes;
use std::time::Duration;

/// Longest time for all of one target.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Clocks further apart than this make signed requests fail sooner or later.
const SKEW_MAX: Duration = Duration::from_secs(60);
const CONTENT: &[u8] = b"spoolfs check";

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    if config.targets.is_empty() {
        return Vec::new();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return vec![Finding::failed("targets", e.to_string(), "try again")],
    };
    let worm = config.policies.iter().any(|policy| policy.treatment.worm.is_some());
    config
        .targets
        .iter()
        .flat_map(|target| {
            let options = crate::daemon::target_options(target);
            let mut found: Vec<_> = unused_keys(target, &options).into_iter().collect();
            match store::open(&options) {
                Ok(store) => runtime.block_on(async {
                    let store = store.as_ref();
                    found.extend(within_time(target, store, &config.archive).await);
                    if worm {
                        found.extend(refuses_worm(target, store).await);
                    }
                }),
                Err(e) => found.push(finding_of(target, "open", &e)),
            }
            found
        })
        .collect()
}

/// Keys of SSE-C that are named and can not be had, though nothing is written with them: with
/// `sse = "c"` what is tried below fails for it.
fn unused_keys(target: &Target, options: &TargetOptions) -> Option<Finding> {
    let keys = options.customer_keys.as_ref().filter(|keys| keys.is_empty())?;
    (target.sse != Some(Sse::C)).then(|| {
        let detail = format!("the keys of SSE-C can not be used: {}", keys.told());
        let cure = "mend that, or what was encrypted with them there can not be read. sse_c_key_file or \
                    sse_c_key_command stays in the target for as long as any object there needs such a key; take it out \
                    only if none was ever put with one";
        Finding::failed(title(target), detail, cure)
    })
}

async fn within_time(target: &Target, store: &dyn Store, archive: &str) -> Vec<Finding> {
    match tokio::time::timeout(TIME_MAX, try_all(target, store, archive)).await {
        Ok(findings) => findings,
        Err(_) => {
            let detail = format!("{} did not answer within a minute", target.url);
            let cure = "check its address, the network and any firewall";
            vec![Finding::failed(title(target), detail, cure)]
        }
    }
}

fn title(target: &Target) -> String {
    format!("target {:?}", target.name)
}

fn finding_of(target: &Target, step: &str, error: &StoreError) -> Finding {
    let cure = if error.hint.is_empty() { cure(error.kind) } else { &error.hint };
    Finding::failed(title(target), format!("{step} {}: {}", target.url, error.detail), cure)
}

fn cure(kind: StoreErrorKind) -> &'static str {
    match kind {
        StoreErrorKind::Unreachable => "check its address, the network and any firewall",
        StoreErrorKind::Denied => {
            "check access_key_id and secret_access_key, and that they may put, get, list and \
             delete below the prefix"
        }
        StoreErrorKind::NotFound => "check that the bucket or directory exists",
        StoreErrorKind::Corrupt => "do not use this target: it does not return what it was given",
        StoreErrorKind::Frozen => {
            "its lifecycle moves new objects to an archive class at once: let it spare .spoolfs/"
        }
        StoreErrorKind::Awaited => "look at what sse_c_key_command asks for the key",
        StoreErrorKind::Locked => "give the target the key that it was encrypted with",
        StoreErrorKind::Unreadable => "look at the disk of this machine",
        StoreErrorKind::Exists | StoreErrorKind::Unsupported => {
            "check the URL, the endpoint and the region"
        }
    }
}

async fn try_all(target: &Target, store: &dyn Store, archive: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(whose(target, store, archive).await);
    if findings.iter().any(|f| f.outcome == super::Outcome::Failed) {
        // Nothing is written to what is not ours.
        return findings;
    }
    let nonce = format!("{:016x}", fastrand::u64(..));
    match store.probe(&nonce).await {
        Ok(can) => findings.extend(abilities(target, &can)),
        Err(e) => {
            findings.push(finding_of(target, "probe", &e));
            return findings;
        }
    }
    let key = format!("{}.spoolfs/check/{nonce}", store.prefix());
    let tried = try_object(target, store, &key).await;
    let failed = tried.is_err();
    match tried {
        Ok(found) => findings.extend(found),
        Err(finding) => findings.push(*finding),
    }
    match store.delete(&key).await {
        Ok(()) if failed => {}
        Ok(()) => findings.push(gone(target, store, &key).await),
        // The first error is the one to mend.
        Err(_) if failed => {}
        Err(e) => findings.push(finding_of(target, "delete", &e)),
    }
    findings
}

/// Whether the target holds our archive, another one, or none yet.
async fn whose(target: &Target, store: &dyn Store, archive: &str) -> Option<Finding> {
    let key = format!("{}{}", store.prefix(), marker::ARCHIVE_KEY);
    let bytes = match store.get(&key, 0..64 << 10).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind == StoreErrorKind::NotFound => {
            let detail = format!("{} holds no archive yet; the first start founds it", target.url);
            return Some(Finding::ok(title(target), detail));
        }
        Err(e) => return Some(finding_of(target, "get", &e)),
    };
    let found: Option<String> = serde_json::from_slice::<serde_json::Value>(&bytes)
        .ok()
        .and_then(|json| Some(json.get("name")?.as_str()?.to_owned()));
    Some(match found {
        Some(name) if name == archive => {
            Finding::ok(title(target), format!("{} holds the archive {name:?}", target.url))
        }
        Some(name) => Finding::failed(
            title(target),
            format!("{} holds the archive {name:?}, not {archive:?}", target.url),
            format!("choose another prefix in url, or set archive = {name:?} to join it"),
        ),
        None => Finding::failed(
            title(target),
            format!("{} is not a marker of spoolfs", store.url(&key)),
            "choose another prefix in url",
        ),
    })
}

fn abilities(target: &Target, can: &store::Capabilities) -> Vec<Finding> {
    let conditional = if can.conditional_put {
        Finding::ok(title(target), "refuses to write a key twice")
    } else {
        let detail = "would overwrite a key, so spoolfs asks before each write";
        Finding::warning(title(target), detail, "give each machine its own node name, as is usual")
    };
    let checksum = if can.checksum {
        Finding::ok(title(target), "checks SHA-256 and returns it")
    } else {
        let detail = "returns no SHA-256, so every object is read back after it was written";
        Finding::ok(title(target), detail)
    };
    vec![conditional, checksum]
}

async fn try_object(
    target: &Target,
    store: &dyn Store,
    key: &str,
) -> Result<Vec<Finding>, Box<Finding>> {
    let fail = |step: &'static str| move |e: StoreError| Box::new(finding_of(target, step, &e));
    let wrong = |detail: String| {
        Box::new(Finding::failed(title(target), detail, cure(StoreErrorKind::Corrupt)))
    };
    let body = || Body::Bytes(Bytes::from_static(CONTENT));
    let meta = ObjectMeta { content_type: "text/plain".to_owned(), ..ObjectMeta::default() };
    let hash = Sha256::of(CONTENT);
    store.put(key, body(), hash, &meta).await.map_err(fail("put"))?;
    let written = SystemClock.now();
    let head = store.head(key).await.map_err(fail("head"))?;
    if head.size != CONTENT.len() as u64 {
        return Err(wrong(format!("wrote {} bytes, it says {}", CONTENT.len(), head.size)));
    }
    let bytes = store.get(key, 0..CONTENT.len() as u64).await.map_err(fail("get"))?;
    if bytes != CONTENT {
        return Err(wrong("what came back is not what was written".to_owned()));
    }
    let listed = store.list(key, "").await.map_err(fail("list"))?;
    if !listed.iter().any(|l| l.key == key) {
        return Err(wrong("the list lacks the object just written".to_owned()));
    }
    match store.put(key, body(), hash, &meta).await {
        Err(e) if e.kind == StoreErrorKind::Exists => {}
        Err(e) => return Err(fail("second put")(e)),
        Ok(()) => return Err(wrong("a key that was taken was written again".to_owned())),
    }
    let mut findings =
        vec![Finding::ok(title(target), "put, head, get, list and a refused second put work")];
    findings.push(locks(target, store, key).await);
    findings.extend(clock(target, store, key, written));
    Ok(findings)
}

/// Whether what is on legal hold can be locked there, by doing it.
async fn locks(target: &Target, store: &dyn Store, key: &str) -> Finding {
    let why = match store.locks().await {
        Ok(Locks::Yes) => {
            return match lock_and_let_go(store, key).await {
                Ok(()) => Finding::ok(title(target), "locks what is on legal hold (Object Lock)"),
                Err(e) => finding_of(target, "legal hold", &e),
            };
        }
        Ok(Locks::No(why)) => why,
        Err(e) => return finding_of(target, "Object Lock", &e),
    };
    let what = "whoever may delete in it can delete what is on legal hold";
    Finding::ok(title(target), format!("can not lock objects: {why}; {what}"))
}

/// Where `worm` of a rule does nothing.
async fn refuses_worm(target: &Target, store: &dyn Store) -> Option<Finding> {
    // What else is wrong with it is told already.
    let asked = tokio::time::timeout(TIME_MAX, store.locks()).await.ok()?.ok()?;
    let Locks::No(why) = asked else { return None };
    let detail = format!("`worm` of [[policy]] does nothing there: {why}");
    Some(Finding::warning(title(target), detail, "use a bucket that was made with Object Lock"))
}

async fn lock_and_let_go(store: &dyn Store, key: &str) -> Result<(), StoreError> {
    let version = store.legal_hold(key, None).await?.version;
    for on in [true, false] {
        store.set_legal_hold(key, &version, on).await?;
        if store.legal_hold(key, Some(&version)).await?.on != on {
            return Err(StoreError {
                kind: StoreErrorKind::Unsupported,
                target: store.name().to_owned(),
                operation: "legal hold",
                key: key.to_owned(),
                detail: "it says that it did, and did not".to_owned(),
                hint: "do not count on Object Lock of this service".to_owned(),
            });
        }
    }
    Ok(())
}

/// Where the target's files can be seen, whether its clock is ours.
fn clock(target: &Target, store: &dyn Store, key: &str, written: Timestamp) -> Option<Finding> {
    let path = url::Url::parse(&store.url(key)).ok()?.to_file_path().ok()?;
    let stamped: Timestamp = std::fs::metadata(path).ok()?.modified().ok()?.into();
    let skew = stamped.age_at(written).max(written.age_at(stamped));
    let detail = format!("its clock is {} from ours", crate::units::humane_duration(skew));
    if skew > SKEW_MAX {
        return Some(Finding::warning(title(target), detail, "run an NTP client on both machines"));
    }
    Some(Finding::ok(title(target), "its clock agrees with ours"))
}

async fn gone(target: &Target, store: &dyn Store, key: &str) -> Finding {
    match store.head(key).await {
        Err(e) if e.kind == StoreErrorKind::NotFound => Finding::ok(title(target), "delete works"),
        Err(e) => finding_of(target, "head after delete", &e),
        Ok(_) => {
            let detail = "an object is still there after it was deleted";
            Finding::failed(title(target), detail, cure(StoreErrorKind::Corrupt))
        }
    }
}
