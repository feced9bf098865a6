//! Whether sealed recordings can be read here.

use super::Finding;
use crate::config::Config;

pub(super) fn examine(config: &Config) -> Option<Finding> {
    let (what, sealed) = ("identity_file", config.write_back.encrypt_to.as_ref());
    let identities = match crate::daemon::identities(config) {
        Ok(identities) => identities,
        Err(why) => {
            let cure = "give it keys of age, one a line, readable by root alone, or remove it";
            return Some(Finding::failed(what, why, cure));
        }
    };
    match sealed {
        None if identities.is_empty() => None,
        None => Some(Finding::ok(what, "has keys for what was sealed before")),
        Some(_) if identities.is_empty() => {
            let detail = "none: recordings are sealed, and can not be read here once released";
            Some(Finding::ok(what, detail))
        }
        Some(to) if identities.open_what_is_for(to) => {
            Some(Finding::ok(what, "opens what is sealed to encrypt_to"))
        }
        Some(_) => {
            let detail = "no key in it opens what is sealed to encrypt_to";
            let cure = "add the public key of one of them to encrypt_to, unless it is meant";
            Some(Finding::warning(what, detail, cure))
        }
    }
}
