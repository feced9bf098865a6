//! Just enough of a reader of Rust and Markdown for the house rules.

use std::path::{Path, PathBuf};

/// One source file, its comments and the content of its strings blanked out.
pub struct Source {
    /// Its path below the folder it was read from.
    pub path: String,
    raw: String,
    code: String,
    shipped: String,
}

impl Source {
    /// Every `.rs` file below a folder, sorted.
    pub fn read_below(folder: &Path) -> Vec<Source> {
        let mut sources = Vec::new();
        for path in files_below(folder) {
            if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(folder).expect("it is below").display().to_string();
                let text = std::fs::read_to_string(&path).expect("a source is readable");
                sources.push(Source::parse(&below, &text));
            }
        }
        mark_tests(&mut sources);
        sources
    }

    /// A source from its text.
    pub fn parse(path: &str, text: &str) -> Source {
        let code = blank(text);
        let shipped = without_tests(&code);
        Source { path: path.to_owned(), raw: text.to_owned(), code, shipped }
    }

    /// The code, without comments and the content of strings.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The code without what is compiled for tests only; nothing, if all of the file is.
    pub fn shipped(&self) -> &str {
        &self.shipped
    }

    /// Where the files of the modules declared here stand.
    fn folder(&self) -> &str {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        match path {
            "lib" | "main" => "",
            _ => path.strip_suffix("/mod").unwrap_or(path),
        }
    }

    /// The room the file belongs to: the first part of its path.
    pub fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Lines before the first part for tests that are neither empty nor a comment.
    pub fn lines_of_code(&self) -> usize {
        let before = self.raw.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        before.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
    }

    /// How deep the file's module stands below the crate's root.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    /// What the file takes from the top of its crate: line and name.
    pub fn crate_paths(&self) -> Vec<(usize, String)> {
        let code = &self.shipped;
        let mut found = Vec::new();
        for root in ["crate::", "spoolfs::"] {
            for (at, _) in code.match_indices(root) {
                if starts_a_word(code, at) {
                    for name in first_names(&code[at + root.len()..]) {
                        found.push((line_of(code, at), name));
                    }
                }
            }
        }
        let mut rest = 0;
        while let Some(at) = code[rest..].find("super::").map(|at| at + rest) {
            let supers = code[at..].split("super::").take_while(|part| part.is_empty()).count();
            let end = at + supers * "super::".len();
            if supers >= self.depth() && starts_a_word(code, at) {
                for name in first_names(&code[end..]) {
                    found.push((line_of(code, at), name));
                }
            }
            rest = end;
        }
        found
    }
}

impl Source {
    /// The string literals that stand right after each `call` in what is shipped; empty where
    /// something else stands.
    pub fn literals_in(&self, call: &str) -> Vec<String> {
        let raw: Vec<char> = self.raw.chars().collect();
        let literal = |(at, _): (usize, &str)| {
            // Blanking keeps the number of characters, not that of bytes.
            let start = self.shipped[..at].chars().count() + call.chars().count();
            let text: String = raw[start..].iter().collect();
            let text = text.trim_start().strip_prefix('"').unwrap_or_default();
            text.split('"').next().unwrap_or_default().to_owned()
        };
        self.shipped.match_indices(call).map(literal).collect()
    }
}

/// Files of modules that are declared for tests only ship nothing.
pub fn mark_tests(sources: &mut [Source]) {
    let mut for_tests = Vec::new();
    for source in sources.iter() {
        for (at, mark) in source.code.match_indices("#[cfg(test)]") {
            let item = source.code[at + mark.len()..].trim_start();
            let Some(name) = item.strip_prefix("mod ").and_then(|name| name.split_once(';')) else {
                continue;
            };
            let path = format!("{}/{}", source.folder(), name.0.trim());
            for_tests.push(path.trim_start_matches('/').to_owned());
        }
    }
    for source in sources {
        let path = source.path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
        // A module for tests, or one below it.
        let below =
            |test: &String| path.strip_prefix(test.as_str()).is_some_and(|p| p.starts_with('/'));
        if for_tests.iter().any(|test| path == test || below(test)) {
            source.shipped.clear();
        }
    }
}

/// Names of the functions that stand under a test attribute.
pub fn test_names(source: &Source) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in source.code().lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        if !is_test {
            continue;
        }
        if let Some((_, after)) = line.split_once("fn ") {
            names.push(after.chars().take_while(|c| is_word(*c)).collect());
            is_test = false;
        }
    }
    names
}

/// Every file below a folder, sorted; none if it is not there.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries {
            let path = entry.expect("a folder is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Where a word or path stands in code; one that starts with a letter must start a word and must
/// not be a method or the definition of a function.
pub fn find<'a>(code: &str, word: &'a str) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(word) {
        let end = code[at + word.len()..].chars().next();
        if word.ends_with(is_word) && end.is_some_and(is_word) {
            continue;
        }
        if word.starts_with(is_word) {
            let before = code[..at].trim_end();
            let own = before.ends_with('.') || before.ends_with(" fn") || before == "fn";
            if own || !starts_a_word(code, at) {
                continue;
            }
        }
        found.push((line_of(code, at), word));
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn starts_a_word(code: &str, at: usize) -> bool {
    !code[..at].ends_with(|c: char| is_word(c) || c == '$')
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The names right after `crate::`: one, or the outer ones of a group in braces.
fn first_names(after: &str) -> Vec<String> {
    let after = after.trim_start();
    let word = |text: &str| text.trim_start().chars().take_while(|c| is_word(*c)).collect();
    let Some(group) = after.strip_prefix('{') else { return vec![word(after)] };
    let mut names = vec![word(group)];
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(word(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Comments and the content of strings and characters become spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = if let Some(end) = comment_end(&bytes, at) {
            end
        } else if let Some(end) = string_end(&bytes, at) {
            end
        } else if let Some(end) = character_end(&bytes, at) {
            end
        } else {
            out.push(bytes[at]);
            at += 1;
            continue;
        };
        out.extend(bytes[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

fn comment_end(text: &[char], at: usize) -> Option<usize> {
    if text[at..].starts_with(&['/', '/']) {
        let end = text[at..].iter().position(|c| *c == '\n');
        return Some(end.map_or(text.len(), |end| at + end));
    }
    if !text[at..].starts_with(&['/', '*']) {
        return None;
    }
    let (mut depth, mut here) = (0, at);
    while here < text.len() {
        if text[here..].starts_with(&['/', '*']) {
            depth += 1;
            here += 2;
        } else if text[here..].starts_with(&['*', '/']) {
            depth -= 1;
            here += 2;
            if depth == 0 {
                break;
            }
        } else {
            here += 1;
        }
    }
    Some(here)
}

fn string_end(text: &[char], at: usize) -> Option<usize> {
    let hashes = match text[at] {
        '"' => return Some(quoted_end(text, at + 1, '"')),
        'r' if at == 0 || !is_word(text[at - 1]) || text[at - 1] == 'b' => {
            text[at + 1..].iter().take_while(|c| **c == '#').count()
        }
        _ => return None,
    };
    let start = at + 1 + hashes;
    if text.get(start) != Some(&'"') {
        return None;
    }
    let mut close = vec!['"'];
    close.extend(std::iter::repeat_n('#', hashes));
    let end = text[start + 1..].windows(close.len()).position(|window| window == close);
    Some(end.map_or(text.len(), |end| start + 1 + end + close.len()))
}

fn quoted_end(text: &[char], mut at: usize, quote: char) -> usize {
    while at < text.len() && text[at] != quote {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// A character, not a lifetime.
fn character_end(text: &[char], at: usize) -> Option<usize> {
    if text[at] != '\'' {
        return None;
    }
    let escaped = text.get(at + 1) == Some(&'\\');
    (escaped || text.get(at + 2) == Some(&'\'')).then(|| quoted_end(text, at + 1, '\''))
}

/// Blanks every item under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    if code.contains("#![cfg(test)]") {
        return String::new();
    }
    let mut out = code.to_owned();
    while let Some(start) = out.find(MARK) {
        let end = item_end(&out, start + MARK.len());
        let blanked: String =
            out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blanked);
    }
    out
}

/// The end of an item: its closing brace, or a semicolon outside any.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[start..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && c == '}' {
                    return start + at + 1;
                }
            }
            ';' if depth == 0 => return start + at + 1,
            _ => {}
        }
    }
    code.len()
}

/// A list item of a document.
pub struct Item<'a> {
    /// Its first line's number.
    pub line: usize,
    /// Its text.
    pub text: &'a str,
    /// The tests it names.
    pub tests: Vec<&'a str>,
}

/// The list items directly under a heading of the second level.
pub fn items_under<'a>(document: &'a str, heading: &str) -> Vec<Item<'a>> {
    let Some(start) = document.find(&format!("\n## {heading}\n")) else { return Vec::new() };
    let start = start + 1;
    let end = document[start..].find("\n## ").map_or(document.len(), |end| start + end);
    let section = &document[start..end];
    let mut starts: Vec<usize> = section.match_indices("\n- ").map(|(at, _)| at + 1).collect();
    starts.push(section.len());
    starts
        .windows(2)
        .map(|pair| {
            let text = &section[pair[0]..pair[1]];
            // What follows an empty line is no longer part of the item.
            let text = text.split("\n\n").next().unwrap_or(text);
            Item { line: line_of(document, start + pair[0]), text, tests: tests_named(text) }
        })
        .collect()
}

/// A part of a document under one heading of the second level or deeper.
pub struct Section<'a> {
    /// Its heading.
    pub heading: &'a str,
    /// The heading's line number.
    pub line: usize,
    /// The tests it names.
    pub tests: Vec<&'a str>,
}

/// The sections of a document; what looks like a heading within a code fence is none.
pub fn sections(document: &str) -> Vec<Section<'_>> {
    let mut starts = Vec::new();
    let (mut at, mut fenced) = (0, false);
    for line in document.split_inclusive('\n') {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        if !fenced && line.starts_with("##") {
            starts.push(at);
        }
        at += line.len();
    }
    starts.push(document.len());
    starts
        .windows(2)
        .map(|pair| {
            let text = &document[pair[0]..pair[1]];
            let heading = text.lines().next().unwrap_or_default();
            Section { heading, line: line_of(document, pair[0]), tests: tests_named(text) }
        })
        .collect()
}

/// Names after `Test:` or `Tests:`, in backquotes, up to the end of the text.
fn tests_named(text: &str) -> Vec<&str> {
    let Some((_, after)) = text.split_once("Test:").or_else(|| text.split_once("Tests:")) else {
        return Vec::new();
    };
    let names = after.split('`').skip(1).step_by(2);
    names.filter(|name| !name.is_empty() && name.chars().all(is_word)).collect()
}
