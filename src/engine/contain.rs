//! A fault in one step must not end a thread that all recordings need.

use super::error::{EngineError, Result};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a step; a panic in it becomes an error. What a step shares with others is kept in the
/// catalog and under locks that a panic releases, and every step can be begun again.
pub(super) fn contained<T>(doing: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| {
        let why = words(&*panic);
        tracing::error!(doing, why, "a fault in spoolfs; please report it");
        Err(EngineError::Panicked { doing, why })
    })
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no reason is known").to_owned()
}
