//! Whether what is on the local disk is encrypted, and stays readable.

use super::Finding;
use crate::config::Config;
use crate::daemon::encryption;
use crate::fscrypt::{LocalKey, Place, Refused, Standing, Tables};

const WHAT: &str = "local encryption";

pub(super) fn examine(config: &Config, running: bool) -> Vec<Finding> {
    // For the recordings directory the mount would answer.
    let places = match running {
        true => encryption::own_places(config).map(Vec::from),
        false => encryption::places(config, None),
    };
    let places = match places {
        Ok(places) => places,
        Err(refused) => return vec![failed(&refused)],
    };
    let mut findings: Vec<Finding> = places.iter().map(|place| one(config, place)).collect();
    let fscrypt = |place: &Place| !matches!(place.standing(), Ok(Standing::Plain));
    if places.iter().any(fscrypt) {
        findings.push(key(config));
    }
    findings
}

fn one(config: &Config, place: &Place) -> Finding {
    let path = place.path.display();
    let standing = match place.standing() {
        Ok(standing) => standing,
        Err(refused) => return failed(&refused),
    };
    match standing {
        Standing::Unlocked(_) => Finding::ok(WHAT, format!("{path}: fscrypt, its key is there")),
        Standing::Old => Finding::ok(WHAT, format!("{path}: fscrypt, with a policy of version 1")),
        Standing::Locked(_) => {
            let detail = format!("{path}: fscrypt, its key is not there: nothing can be recorded");
            let cure = "start spoolfs with local_key_file or the credential `local-key` \
                        (docs/SECURITY.md)";
            Finding::failed(WHAT, detail, cure)
        }
        Standing::Plain => match place.require_encryption(&Tables::default()) {
            Ok(()) => Finding::ok(WHAT, format!("{path}: on an encrypted disk (dm-crypt)")),
            Err(refused) if config.encryption.required => failed(&refused),
            Err(_) => Finding::ok(WHAT, format!("{path}: none, as far as can be told")),
        },
    }
}

fn key(config: &Config) -> Finding {
    let what = "local_key_file";
    match LocalKey::configured(config.encryption.key_file.as_deref()) {
        Ok(Some(key)) => Finding::ok(what, format!("{} can be used", key.path().display())),
        Ok(None) => {
            let detail = "none: the service must have the credential `local-key`";
            let cure = "see that it has, or name the file: without the key nothing can be recorded \
                        after the next start of this machine";
            Finding::warning(what, detail, cure)
        }
        Err(why) => Finding::failed(what, why, "give the file that setup-encryption made"),
    }
}

fn failed(refused: &Refused) -> Finding {
    Finding::failed(WHAT, refused.to_string(), "see docs/SECURITY.md, \"On the local disk\"")
}
