//! What is wrong with a configuration, in one sentence.

use crate::recording::ErrorClass;

/// One fault: where it is, what it is, what to do. Never contains a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}; {cure}")]
pub struct ConfigError {
    /// File, line and column, or the environment variable, or the option.
    pub place: String,
    /// What is wrong; begins with the key.
    pub message: String,
    /// What to do.
    pub cure: String,
}

impl ConfigError {
    pub(super) fn new(
        place: impl std::fmt::Display,
        message: impl Into<String>,
        cure: impl Into<String>,
    ) -> ConfigError {
        ConfigError { place: place.to_string(), message: message.into(), cure: cure.into() }
    }

    /// How it may end.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }
}

/// The system's reason without its number.
pub(super) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((reason, _)) => reason.to_lowercase(),
        None => text,
    }
}
