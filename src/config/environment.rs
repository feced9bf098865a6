//! The environment: `SPOOLFS_WRITE_BACK__ARCHIVE_AFTER` sets `write_back.archive_after`, and
//! `SPOOLFS_TARGET__0__URL` the `url` of the first target.

use super::error::ConfigError;
use super::keys::{self, Found, Key, Kind};
use super::source::{Source, without_numbers};

const PREFIX: &str = "SPOOLFS_";

/// The variables of a process that begin with `SPOOLFS_`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Environment {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// Lays the variables over the file; returns a warning for each that means nothing.
    pub(super) fn apply(&self, source: &mut Source) -> Result<Vec<String>, ConfigError> {
        source.check_file()?;
        let mut warnings = Vec::new();
        let mut set = Vec::new();
        for (name, value) in &self.0 {
            let path = name.strip_prefix(PREFIX).unwrap_or(name).replace("__", ".").to_lowercase();
            match keys::find(&without_numbers(&path)) {
                Found::Key(key) if fits(key, &path) => set.push((path, key, name, value)),
                Found::Unknown(Some(meant)) => {
                    warnings.push(format!("{name} sets no known key; did you mean {meant}?"));
                }
                _ => warnings.push(format!("{name} sets no known key; it is ignored")),
            }
        }
        // Target 2 before target 10, so that each follows on the one before.
        set.sort_by_key(|(path, ..)| (path.split('.').nth(1).map(str::len), path.clone()));
        for (path, key, name, value) in set {
            source.set(&path, typed(key, name, value)?, name)?;
        }
        Ok(warnings)
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(all: I) -> Environment {
        let ours = |name: &str| {
            let others = name == "SPOOLFS_LOG" || name.starts_with("SPOOLFS_TEST_");
            name.starts_with(PREFIX) && !others && !crate::faults::is_heeded(name)
        };
        let mut all: Vec<_> = all.into_iter().filter(|(name, _)| ours(name)).collect();
        all.sort();
        Environment(all)
    }
}

/// Whether a path has a number exactly where its key needs one.
fn fits(key: &Key, path: &str) -> bool {
    let number = path.split('.').nth(1).is_some_and(|p| p.parse::<usize>().is_ok());
    let parts = path.split('.').count();
    match key.numbered() {
        Some(_) => number && parts == 3,
        None => path == key.path,
    }
}

/// The text of a variable as the value its key takes.
fn typed(key: &Key, name: &str, text: &str) -> Result<toml::Value, ConfigError> {
    let wrong =
        |is: &str, cure: &str| ConfigError::new(name, format!("{text:?} is not {is}"), cure);
    match key.kind {
        Kind::Flag => text
            .parse()
            .map(toml::Value::Boolean)
            .map_err(|_| wrong("true or false", "write true or false")),
        Kind::Number => text
            .parse()
            .map(toml::Value::Integer)
            .map_err(|_| wrong("a whole number", "write for example 4")),
        Kind::List => Ok(toml::Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| toml::Value::String(item.to_owned()))
                .collect(),
        )),
        Kind::Text | Kind::Duration | Kind::Age | Kind::Size | Kind::Percent => {
            Ok(toml::Value::String(text.to_owned()))
        }
    }
}
