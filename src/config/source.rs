//! The text of the file, and where in it each key stands, so that every error can name its place.

use super::error::ConfigError;
use super::keys::{self, Found};
use super::raw::Raw;
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Where a key was set.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    File { line: usize, column: usize, value: Range<usize> },
    Variable(String),
}

/// The file, overlaid by the environment.
#[derive(Debug)]
pub(super) struct Source {
    pub file: PathBuf,
    text: String,
    origins: HashMap<String, Origin>,
    table: toml::Table,
}

impl Source {
    /// Reads TOML and refuses every key that is not known.
    pub fn read(file: &Path, text: &str) -> Result<Source, ConfigError> {
        let mut source = Source {
            file: file.to_owned(),
            text: text.to_owned(),
            origins: HashMap::new(),
            table: toml::Table::new(),
        };
        let tree = DeTable::parse(text).map_err(|e| source.syntax(&e))?;
        source.walk("", tree.get_ref())?;
        source.table = toml::from_str(text).map_err(|e| source.syntax(&e))?;
        Ok(source)
    }

    fn walk(&mut self, above: &str, table: &DeTable<'_>) -> Result<(), ConfigError> {
        // In the order of the file, so that the first mistake is the one reported.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let path = join(above, name.get_ref());
            let (line, column) = self.line_and_column(name.span().start);
            self.origins.insert(path.clone(), Origin::File { line, column, value: value.span() });
            let found = keys::find(&without_numbers(&path));
            if let Found::Unknown(meant) = found {
                return Err(self.unknown(&path, meant));
            }
            match (value.get_ref(), found) {
                (DeValue::Table(inner), Found::Table) => self.walk(&path, inner)?,
                (DeValue::Array(list), Found::Table) => {
                    for (i, item) in list.iter().enumerate() {
                        if let Some(inner) = item.get_ref().as_table() {
                            self.walk(&format!("{path}.{i}"), inner)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn unknown(&self, path: &str, meant: Option<String>) -> ConfigError {
        let cure = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => "remove it, or see docs/CONFIGURATION.md for the keys there are".to_owned(),
        };
        ConfigError::new(self.place(path), format!("{} is not a known key", people(path)), cure)
    }

    /// File, line and column where `path` was set, or its variable, or the file alone.
    pub fn place(&self, path: &str) -> String {
        match self.origins.get(path) {
            Some(Origin::File { line, column, .. }) => {
                format!("{}:{line}:{column}", self.file.display())
            }
            Some(Origin::Variable(name)) => name.clone(),
            None => match path.rsplit_once('.') {
                // A key missing in a table is the fault of that table.
                Some((table, _)) => self.place(table),
                None => self.file.display().to_string(),
            },
        }
    }

    /// An error at a key.
    pub fn fault(
        &self,
        path: &str,
        message: impl std::fmt::Display,
        cure: impl Into<String>,
    ) -> ConfigError {
        ConfigError::new(self.place(path), format!("{} {message}", people(path)), cure)
    }

    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let (line, column) = self.line_and_column(error.span().map_or(0, |s| s.start));
        ConfigError::new(
            format!("{}:{line}:{column}", self.file.display()),
            error.message().lines().collect::<Vec<_>>().join(", "),
            "correct the TOML there",
        )
    }

    /// The key whose value holds the byte at `offset`.
    fn key_at(&self, offset: usize) -> Option<String> {
        let holds = |origin: &Origin| match origin {
            Origin::File { value, .. } => value.contains(&offset).then(|| value.len()),
            Origin::Variable(_) => None,
        };
        let mut all: Vec<_> =
            self.origins.iter().filter_map(|(path, o)| holds(o).map(|len| (len, path))).collect();
        all.sort();
        all.first().map(|(_, path)| (*path).clone())
    }

    /// Sets a key from a variable and checks at once that the value fits.
    pub fn set(
        &mut self,
        path: &str,
        value: toml::Value,
        variable: &str,
    ) -> Result<(), ConfigError> {
        if insert(&mut self.table, path, value).is_none() {
            return Err(ConfigError::new(
                variable,
                format!("{} does not follow on those there are", people(path)),
                "number them from 0 without a gap",
            ));
        }
        self.origins.insert(path.to_owned(), Origin::Variable(variable.to_owned()));
        match Raw::deserialize(self.table.clone()) {
            Ok(_) => Ok(()),
            Err(e) => Err(misfit(variable, path, e.message())),
        }
    }

    /// The whole as typed, unjudged values.
    pub fn raw(&self) -> Result<Raw, ConfigError> {
        // First from the text, which knows the place of a misfit, then with the environment in it.
        if let Err(e) = toml::from_str::<Raw>(&self.text) {
            return Err(self.misfit_in_file(&e));
        }
        Raw::deserialize(self.table.clone()).map_err(|e| self.syntax(&e))
    }

    /// Refuses values of the wrong type in the file before anything is laid over them.
    pub fn check_file(&self) -> Result<(), ConfigError> {
        toml::from_str::<Raw>(&self.text).map(|_| ()).map_err(|e| self.misfit_in_file(&e))
    }

    fn misfit_in_file(&self, error: &toml::de::Error) -> ConfigError {
        match error.span().and_then(|s| self.key_at(s.start)) {
            Some(path) => misfit(self.place(&path), &path, error.message()),
            None => self.syntax(error),
        }
    }
}

/// A value that does not fit its key. A secret's value is not repeated.
fn misfit(place: impl std::fmt::Display, path: &str, message: &str) -> ConfigError {
    let key = people(path);
    if path.ends_with("secret_access_key") || path.ends_with("password") {
        return ConfigError::new(place, format!("{key} is not text"), "write it in quotes");
    }
    match message.split_once("; ") {
        // The errors of `units` bring their own cure.
        Some((message, cure)) => ConfigError::new(place, format!("{key}: {message}"), cure),
        None => ConfigError::new(place, format!("{key}: {message}"), cure(path, message)),
    }
}

/// What to do about a value of the wrong type.
fn cure(path: &str, message: &str) -> String {
    let name = path.rsplit('.').next().unwrap_or(path);
    match message.strip_suffix(", expected a sequence") {
        Some("invalid type: map") => format!("write it with two brackets: [[{name}]]"),
        Some(_) => format!("write it in brackets, such as {name} = [\"...\"]"),
        None => "see docs/CONFIGURATION.md for how it is written".to_owned(),
    }
}

fn join(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") }
}

fn is_number(part: &str) -> bool {
    part.bytes().all(|b| b.is_ascii_digit())
}

/// `target.0.url` as it is in the table of keys: `target.url`.
pub(super) fn without_numbers(path: &str) -> String {
    path.split('.').filter(|p| !is_number(p)).collect::<Vec<_>>().join(".")
}

/// `target.0.url` as people count: `target 1: url`.
fn people(path: &str) -> String {
    let mut parts = path.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(table), Some(number), rest) if is_number(number) => {
            let number = number.parse::<usize>().map_or(0, |n| n.saturating_add(1));
            format!("{table} {number}: {}", rest.unwrap_or("")).trim_end_matches(": ").to_owned()
        }
        _ => path.to_owned(),
    }
}

/// Puts a value into nested tables; `None` if it would leave a gap in a list of tables.
fn insert(table: &mut toml::Table, path: &str, value: toml::Value) -> Option<()> {
    let Some((head, rest)) = path.split_once('.') else {
        table.insert(path.to_owned(), value);
        return Some(());
    };
    if let Some((index, rest)) = rest.split_once('.')
        && let Ok(index) = index.parse::<usize>()
    {
        let list = table
            .entry(head.to_owned())
            .or_insert_with(|| toml::Value::Array(Vec::new()))
            .as_array_mut()?;
        if index == list.len() {
            list.push(toml::Value::Table(toml::Table::new()));
        }
        return insert(list.get_mut(index)?.as_table_mut()?, rest, value);
    }
    let inner = table
        .entry(head.to_owned())
        .or_insert_with(|| toml::Value::Table(toml::Table::new()))
        .as_table_mut()?;
    insert(inner, rest, value)
}
