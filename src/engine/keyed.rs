//! Which targets may hold objects that are encrypted with a key of ours (SSE-C).
//!
//! **Invariant:** that is not forgotten with the keys: a target that had such keys is asked for its objects
//! before a local copy is released, whatever its configuration is by then.

use super::error::Result;
use super::shared::Shared;
use super::target::Target;

/// A rebuild keeps those that begin so.
fn setting(target: &str) -> String {
    format!("target.{target}.sse_c")
}

/// Remembers that the target has such keys, or an object that needs one.
pub(super) fn remember(shared: &Shared, target: &str) -> Result<()> {
    let setting = setting(target);
    if shared.catalog.setting(&setting)?.is_none() {
        shared.catalog.set_setting(&setting, "")?;
    }
    Ok(())
}

/// Whether it is to be seen that an object there can be read, before something relies on that.
pub(super) fn is_to_be_asked(shared: &Shared, target: &Target) -> Result<bool> {
    Ok(target.store.needs_key() || shared.catalog.setting(&setting(target.name()))?.is_some())
}
