//! S3 Object Lock: legal holds and retention periods on versions of objects.

use super::{S3Store, call};
use crate::clock::Timestamp;
use crate::policy::WormMode;
use crate::store::fault::Fault;
use crate::store::{LegalHold, Locks, Retention, StoreErrorKind};
use aws_sdk_s3::types::{
    ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus, ObjectLockRetention,
    ObjectLockRetentionMode, Tag, Tagging,
};
use aws_smithy_types::DateTime;
use aws_smithy_types::error::operation::BuildError;

type Answer<T> = Result<T, Fault>;

/// The version of an object that was there before its bucket kept versions.
const UNVERSIONED: &str = "null";

impl S3Store {
    pub(super) async fn try_locks(&self) -> Answer<Locks> {
        let client = self.client().await;
        let request = client.get_object_lock_configuration().bucket(&self.options.bucket);
        let no = |why: &str| Ok(Locks::No(why.to_owned()));
        match call(0, request.send()).await {
            Ok(answer) => {
                let found = answer.object_lock_configuration();
                let enabled = found.and_then(|found| found.object_lock_enabled());
                match enabled == Some(&ObjectLockEnabled::Enabled) {
                    true => Ok(Locks::Yes),
                    false => no("its bucket has no Object Lock"),
                }
            }
            Err(f) if f.code == "NoSuchBucket" => Err(f),
            Err(f) => match f.kind {
                StoreErrorKind::NotFound => no("its bucket has no Object Lock"),
                StoreErrorKind::Unsupported => no("the service knows no Object Lock"),
                StoreErrorKind::Denied => no("it does not let spoolfs ask for Object Lock \
                        (s3:GetBucketObjectLockConfiguration)"),
                _ => Err(f),
            },
        }
    }

    pub(super) async fn try_legal_hold(
        &self,
        key: &str,
        version: Option<&str>,
    ) -> Answer<LegalHold> {
        let version = match version {
            Some(version) => version.to_owned(),
            None => self.version_now(key).await?,
        };
        let client = self.client().await;
        let request = client
            .get_object_legal_hold()
            .bucket(&self.options.bucket)
            .key(key)
            .version_id(&version);
        let status = match call(0, request.send()).await {
            Ok(answer) => answer.legal_hold().and_then(|hold| hold.status().cloned()),
            // Nobody ever asked for one: 404 as well, as if there were no such object.
            Err(f) if f.kind == StoreErrorKind::NotFound && !names_the_object(&f) => None,
            Err(f) => return Err(f),
        };
        Ok(LegalHold { version, on: status == Some(ObjectLockLegalHoldStatus::On) })
    }

    pub(super) async fn try_set_legal_hold(
        &self,
        key: &str,
        version: &str,
        on: bool,
    ) -> Answer<()> {
        let status =
            if on { ObjectLockLegalHoldStatus::On } else { ObjectLockLegalHoldStatus::Off };
        let client = self.client().await;
        let request = client
            .put_object_legal_hold()
            .bucket(&self.options.bucket)
            .key(key)
            .version_id(version)
            .legal_hold(ObjectLockLegalHold::builder().status(status).build());
        call(0, request.send()).await.map(drop)
    }

    async fn version_now(&self, key: &str) -> Answer<String> {
        let (head, _) = self.head_as(key, None).await?;
        Ok(head.version_id().unwrap_or(UNVERSIONED).to_owned())
    }

    pub(super) async fn try_retain(&self, key: &str, wanted: Retention) -> Answer<Retention> {
        let version = self.version_now(key).await?;
        let found = self.retention(key, &version).await?;
        if let Some(found) = found.filter(|found| found.covers(&wanted)) {
            return Ok(found);
        }
        let wanted = found.map_or(wanted, |found| found.both(wanted));
        let mode = match wanted.mode {
            WormMode::Governance => ObjectLockRetentionMode::Governance,
            WormMode::Compliance => ObjectLockRetentionMode::Compliance,
        };
        let until = DateTime::from_secs(wanted.until.secs());
        let client = self.client().await;
        let request = client
            .put_object_retention()
            .bucket(&self.options.bucket)
            .key(key)
            .version_id(&version)
            .retention(ObjectLockRetention::builder().mode(mode).retain_until_date(until).build());
        call(0, request.send()).await?;
        let none = "it was set and is not there";
        let found = self.retention(key, &version).await?;
        found.ok_or_else(|| Fault::own(StoreErrorKind::Unsupported, none))
    }

    async fn retention(&self, key: &str, version: &str) -> Answer<Option<Retention>> {
        let client = self.client().await;
        let request =
            client.get_object_retention().bucket(&self.options.bucket).key(key).version_id(version);
        let answer = match call(0, request.send()).await {
            Ok(answer) => answer,
            Err(f) if f.kind == StoreErrorKind::NotFound && !names_the_object(&f) => {
                return Ok(None);
            }
            Err(f) => return Err(f),
        };
        let told = |found: &ObjectLockRetention| {
            let mode = match found.mode()? {
                ObjectLockRetentionMode::Governance => WormMode::Governance,
                ObjectLockRetentionMode::Compliance => WormMode::Compliance,
                _ => return None,
            };
            let until = Timestamp::from_parts(found.retain_until_date()?.secs(), 0);
            Some(Retention { until, mode })
        };
        Ok(answer.retention().and_then(told))
    }
}

/// The tag of a version whose legal hold was set from here. It stays when that is taken off, with another
/// value: to remove it would need one more permission, and a legal hold of somebody else's that comes
/// later must not look like ours.
const SIGN: &str = "spoolfs-legal-hold";
const SET: &str = "on";
const TAKEN_OFF: &str = "off";

pub(super) fn is_signed(tags: &[Tag]) -> bool {
    tags.iter().any(|tag| tag.key() == SIGN && tag.value() == SET)
}

impl S3Store {
    pub(super) async fn tags(&self, key: &str, version: &str) -> Answer<Vec<Tag>> {
        let client = self.client().await;
        let request =
            client.get_object_tagging().bucket(&self.options.bucket).key(key).version_id(version);
        match call(0, request.send()).await {
            Ok(answer) => Ok(answer.tag_set().to_vec()),
            Err(f) if f.code == "NoSuchTagSet" => Ok(Vec::new()),
            Err(f) => Err(f),
        }
    }

    /// The tags of others stay.
    pub(super) async fn try_sign(&self, key: &str, version: &str, on: bool) -> Answer<()> {
        let mut tags = self.tags(key, version).await?;
        if is_signed(&tags) == on {
            return Ok(());
        }
        let own = |e: BuildError| Fault::own(StoreErrorKind::Unsupported, e.to_string());
        tags.retain(|tag| tag.key() != SIGN);
        let value = if on { SET } else { TAKEN_OFF };
        tags.push(Tag::builder().key(SIGN).value(value).build().map_err(own)?);
        let (client, bucket) = (self.client().await, &self.options.bucket);
        let tags = Tagging::builder().set_tag_set(Some(tags)).build().map_err(own)?;
        let request = client.put_object_tagging().bucket(bucket).key(key).version_id(version);
        call(0, request.tagging(tags).send()).await.map(drop)
    }
}

/// Whether it is the object that is not there, and not a legal hold on it.
fn names_the_object(fault: &Fault) -> bool {
    matches!(fault.code.as_str(), "NoSuchKey" | "NoSuchVersion" | "NotFound" | "")
}
