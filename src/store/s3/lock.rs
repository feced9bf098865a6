//! S3 Object Lock: legal holds on versions of objects.

use super::fault::Fault;
use super::{S3Store, call};
use crate::store::{LegalHold, Locks, StoreErrorKind};
use aws_sdk_s3::types::{ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus};

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
            None => {
                let client = self.client().await;
                let request = client.head_object().bucket(&self.options.bucket).key(key);
                let head = call(0, request.send()).await?;
                head.version_id().unwrap_or(UNVERSIONED).to_owned()
            }
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
}

/// Whether it is the object that is not there, and not a legal hold on it.
fn names_the_object(fault: &Fault) -> bool {
    matches!(fault.code.as_str(), "NoSuchKey" | "NoSuchVersion" | "NotFound" | "")
}
