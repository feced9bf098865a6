//! Whether sealed recordings can be read here.

use super::Finding;
use crate::config::Config;

pub(super) fn examine(config: &Config) -> Option<Finding> {
    let (what, sealed) = ("identity_file", config.sealed_to());
    let identities = match crate::daemon::identities(config) {
        Ok(identities) => identities,
        Err(why) => {
            let cure = "give it keys of age, one a line, readable by root alone, or remove it";
            return Some(Finding::failed(what, why, cure));
        }
    };
    let locked = sealed.iter().find(|(_, to)| !identities.open_what_is_for(to));
    match locked {
        None if sealed.is_empty() && identities.is_empty() => None,
        None if sealed.is_empty() => Some(Finding::ok(what, "has keys for what was sealed before")),
        Some(_) if identities.is_empty() => {
            let detail = "none: recordings are sealed, and can not be read here once released";
            Some(Finding::ok(what, detail))
        }
        None => Some(Finding::ok(what, "opens what is sealed to encrypt_to")),
        Some((place, _)) => {
            let detail = format!("no key in it opens what is sealed to encrypt_to of {place}");
            let cure = "add the public key of one of them to encrypt_to, unless it is meant";
            Some(Finding::warning(what, detail, cure))
        }
    }
}
