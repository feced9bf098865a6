//! The name key of this machine: a target with hidden names must have it, or after a loss of the machine
//! nothing tells from an object what it is.

use super::targets::{list, unreached};
use super::{Cure, Findings, Options, Result, Severity};
use crate::catalog::{ObjectState, Snapshot};
use crate::codec::seal::{Identities, open_all};
use crate::limits;
use crate::store::hidden::{self, NameKey};
use crate::store::{Store, StoreError, StoreErrorKind};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Checks the target with this number among those of the configuration.
pub(super) async fn check(
    snapshot: &Snapshot,
    store: &dyn Store,
    number: usize,
    options: &Options,
    findings: &mut Findings,
) -> Result<()> {
    let mut hides = false;
    snapshot.objects(store.name(), &mut |object, _| {
        hides |= object.state == ObjectState::Verified && hidden::is_hidden(&object.key);
    })?;
    if !hides {
        return Ok(());
    }
    let file = options.catalog.state_dir.join(hidden::FILE);
    let own = NameKey::load(&file);
    let directory = hidden::directory(store.prefix(), &snapshot.identity().node);
    let known = own.as_ref().ok().and_then(Option::as_ref);
    let setting = snapshot.setting(&hidden::told_setting(store.name()))?;
    // After a rebuild nothing was named with the first key yet.
    let known_with = known.map(|known| (known, setting.is_none()));
    let found = match list(store, &directory).await {
        Ok(listed) => lacks(store, &listed, known_with, &options.identities).await,
        Err(error) => Err(error),
    };
    let found = match found {
        Ok(None) => return Ok(()),
        Ok(Some(found)) => found,
        Err(error) => {
            unreached(&store.url(&directory), &error, findings);
            return Ok(());
        }
    };
    let is_due = known.is_some() && setting.is_some_and(|told| told.is_empty());
    let (severity, cure) = match &own {
        Ok(Some(_)) if is_due => {
            (Severity::Pending, "start spoolfs: it gives it to the target".to_owned())
        }
        Ok(Some(_)) => {
            (Severity::Wrong, "repair it: the next start gives it to the target again".to_owned())
        }
        Ok(None) => (
            Severity::Wrong,
            format!("bring {} back, from a copy or as docs/SECURITY.md says", file.display()),
        ),
        Err(why) => (Severity::Wrong, why.clone()),
    };
    let expected = "the name key of this machine, sealed";
    findings.add((severity, 48), store.url(&directory), expected, found, cure);
    findings.repairable((known.is_some() && !is_due).then_some(Cure::NameKey(number)));
    Ok(())
}

/// What is there instead of the name key. Without a secret key, any copy is taken for it.
async fn lacks(
    store: &dyn Store,
    listed: &BTreeMap<String, u64>,
    own: Option<(&NameKey, bool)>,
    identities: &Identities,
) -> std::result::Result<Option<String>, StoreError> {
    if listed.is_empty() {
        return Ok(Some("nothing".to_owned()));
    }
    let Some((own, or_any)) = own.filter(|_| !identities.is_empty()) else { return Ok(None) };
    let mut closed = false;
    for key in listed.keys() {
        use StoreErrorKind::{Frozen, Locked, NotFound};
        let sealed = match store.get(key, 0..limits::SECRET_BYTES_MAX).await {
            Ok(sealed) => sealed,
            Err(error) if matches!(error.kind, Frozen | Locked | NotFound) => continue,
            Err(error) => return Err(error),
        };
        match open_all(&sealed, identities).map(Zeroizing::new) {
            Ok(text) => {
                let found = NameKey::parse(&text);
                if found.is_ok_and(|found| own.is_known_by(&found, or_any)) {
                    return Ok(None);
                }
            }
            Err(why) => closed |= why.is_locked(),
        }
    }
    // It may be in what the secret keys at hand do not open.
    if closed {
        return Ok(None);
    }
    Ok(Some(format!("{} objects, none of which is that", listed.len())))
}
