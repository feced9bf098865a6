//! The keys of targets whose service encrypts with keys of the client (SSE-C).

use super::secret::{self, Source};
use super::setup;
use crate::config::Target;
use crate::store::TargetOptions;
use crate::store::s3::{CustomerKeys, Sse};

fn source(target: &Target) -> Source<'_> {
    Source {
        file_key: "sse_c_key_file",
        file: target.sse_c_key_file.as_deref(),
        command_key: "sse_c_key_command",
        command: &target.sse_c_key_command,
        credential: format!("sse-c.{}", target.name),
    }
}

/// Those of the configuration, else of a systemd credential; none if the target has no use for any. A
/// command is waited for.
///
/// # Errors
/// What is wrong with the file or the command, or that there is none; what to do.
pub fn customer_keys(target: &Target) -> Result<Option<CustomerKeys>, String> {
    let source = source(target);
    match source.read()? {
        Some(found) => found.parse(CustomerKeys::parse).map(Some),
        None if target.sse == Some(Sse::C) => Err(format!(
            "there is no sse_c_key_file, sse_c_key_command or credential {:?}",
            source.credential
        )),
        None => Ok(None),
    }
}

/// A target as the store wants it, with its keys; without them, each request that needs one says why.
pub fn target_options(target: &Target) -> TargetOptions {
    let keys = customer_keys(target).unwrap_or_else(|why| Some(CustomerKeys::none(&why)));
    TargetOptions { customer_keys: keys, ..setup::target(target) }
}

/// The same; nobody waits for a command: calls are recorded without keys.
pub(super) fn target_options_at_once(target: &Target) -> TargetOptions {
    if target.sse_c_key_command.is_empty() {
        let options = target_options(target);
        tell(target, options.customer_keys.as_ref());
        return options;
    }
    let later = CustomerKeys::awaited("sse_c_key_command has not answered yet");
    let (target_then, found) = (target.clone(), later.clone());
    let ask = move || match customer_keys(&target_then) {
        Ok(keys) => {
            if let Some(keys) = keys {
                found.become_as(&keys);
            }
            true
        }
        Err(why) => {
            found.become_as(&CustomerKeys::awaited(&why));
            tell(&target_then, Some(&found));
            false
        }
    };
    if let Err(error) = secret::ask_until(ask) {
        later.become_as(&CustomerKeys::none(&format!("sse_c_key_command was not run: {error}")));
    }
    TargetOptions { customer_keys: Some(later), ..setup::target(target) }
}

/// Tells of keys that should be there and are not.
fn tell(target: &Target, keys: Option<&CustomerKeys>) {
    if let Some(keys) = keys.filter(|keys| keys.is_empty()) {
        let error = &*keys.told();
        tracing::error!(error, target = target.name, "what is encrypted there can not be read");
    }
}
