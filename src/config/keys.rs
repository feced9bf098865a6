//! Every key, in one table: unknown keys, environment variables and documents are held against it.

/// How a key's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text in quotes: names, paths, URLs.
    Text,
    /// A duration in quotes.
    Duration,
    /// A duration in quotes, or "forever".
    Age,
    /// A size in quotes.
    Size,
    /// A share in quotes.
    Percent,
    /// A whole number.
    Number,
    /// true or false.
    Flag,
    /// A list of texts.
    List,
}

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Table and name, as in `write_back.archive_after`; a target's have the table `target`, a
    /// rule's `policy`.
    pub path: &'static str,
    /// How its value is written.
    pub kind: Kind,
    /// The default, as it would be written; empty if there is none.
    pub default: &'static str,
}

impl Key {
    /// The list of tables that it is in, and its name there: of `target` and `policy` there are
    /// several.
    pub(super) fn numbered(&self) -> Option<(&'static str, &'static str)> {
        self.path.split_once('.').filter(|(table, _)| matches!(*table, "target" | "policy"))
    }

    /// The environment variable that sets it; for a target's key, that of the first target.
    pub fn variable(&self) -> String {
        let path = match self.numbered() {
            Some((table, name)) => format!("{table}.0.{name}"),
            None => self.path.to_owned(),
        };
        format!("SPOOLFS_{}", path.replace('.', "__").to_uppercase())
    }
}

const fn key(path: &'static str, kind: Kind, default: &'static str) -> Key {
    Key { path, kind, default }
}

/// Every key there is.
pub const KEYS: &[Key] = &[
    key("mountpoint", Kind::Text, ""),
    key("state_dir", Kind::Text, ""),
    key("runtime_dir", Kind::Text, ""),
    key("node", Kind::Text, ""),
    key("archive", Kind::Text, "\"default\""),
    key("passthrough", Kind::Text, "\"auto\""),
    key("resend", Kind::Text, "\"auto\""),
    key("drain_timeout", Kind::Duration, "\"60s\""),
    key("target.name", Kind::Text, ""),
    key("target.url", Kind::Text, ""),
    key("target.endpoint", Kind::Text, ""),
    key("target.region", Kind::Text, ""),
    key("target.access_key_id", Kind::Text, ""),
    key("target.secret_access_key", Kind::Text, ""),
    key("target.credentials_file", Kind::Text, ""),
    key("target.required", Kind::Flag, "true"),
    key("target.allow_http", Kind::Flag, "false"),
    key("target.price_per_gb_month", Kind::Text, ""),
    key("target.storage_class", Kind::Text, ""),
    key("target.sse", Kind::Text, "\"none\""),
    key("target.sse_kms_key_id", Kind::Text, ""),
    key("target.sse_bucket_key", Kind::Flag, ""),
    key("target.sse_kms_context", Kind::List, "[]"),
    key("target.sse_c_key_file", Kind::Text, ""),
    key("target.sse_c_key_command", Kind::List, "[]"),
    key("write_back.archive_after", Kind::Age, "\"5m\""),
    key("write_back.keep_local", Kind::Age, "\"24h\""),
    key("write_back.adopt_keep_local", Kind::Age, "\"7d\""),
    key("write_back.include", Kind::List, "[]"),
    key("write_back.exclude", Kind::List, "[]"),
    key("write_back.uploads", Kind::Number, "4"),
    key("write_back.bandwidth", Kind::Text, "\"unlimited\""),
    key("write_back.settle", Kind::Duration, "\"2s\""),
    key("write_back.sync_after", Kind::Age, "\"5s\""),
    key("write_back.journal_interval", Kind::Duration, "\"60s\""),
    key("write_back.scrub_every", Kind::Age, "\"90d\""),
    key("write_back.repair_headers", Kind::Flag, "false"),
    key("write_back.compress", Kind::Text, "\"none\""),
    key("write_back.compress_min_gain", Kind::Percent, "\"10%\""),
    key("write_back.encrypt_to", Kind::List, "[]"),
    key("write_back.hide_names", Kind::Flag, "false"),
    key("write_back.snapshot_every", Kind::Age, "\"24h\""),
    key("write_back.snapshot_keep", Kind::Number, "7"),
    key("space.high_water", Kind::Percent, "\"90%\""),
    key("space.low_water", Kind::Percent, "\"85%\""),
    key("space.reserve", Kind::Size, "\"1GiB\""),
    key("delete.delete_mode", Kind::Text, "\"trash\""),
    key("delete.trash_keep", Kind::Age, "\"30d\""),
    key("cache.dir", Kind::Text, ""),
    key("cache.max_size", Kind::Size, "\"10GiB\""),
    key("read.read_timeout", Kind::Duration, "\"15s\""),
    key("read.recordings_per_minute", Kind::Number, "600"),
    key("read.identity_file", Kind::Text, ""),
    key("read.identity_command", Kind::List, "[]"),
    key("holds.hold_settle", Kind::Duration, "\"24h\""),
    key("holds.hold_lift_grace", Kind::Duration, "\"7d\""),
    key("holds.four_eyes", Kind::Flag, "false"),
    key("stitched.enabled", Kind::Flag, "true"),
    key("stitched.directory", Kind::Text, "\"stitched\""),
    key("stitched.listed", Kind::Flag, "true"),
    key("stitched.layout", Kind::Text, "\"concat\""),
    key("stitched.rate", Kind::Text, "\"8000\""),
    key("stitched.riff64", Kind::Flag, "true"),
    key("stitched.archive", Kind::Flag, "false"),
    key("stitched.keep_expired", Kind::Flag, "false"),
    key("calls.preset", Kind::Text, ""),
    key("calls.source", Kind::Text, ""),
    key("calls.path", Kind::Text, ""),
    key("calls.columns", Kind::List, "[]"),
    key("calls.table", Kind::Text, "\"cdr\""),
    key("calls.query", Kind::Text, ""),
    key("calls.cel", Kind::Text, ""),
    key("calls.url", Kind::Text, ""),
    key("calls.password", Kind::Text, ""),
    key("calls.password_file", Kind::Text, ""),
    key("calls.tls_ca", Kind::Text, ""),
    key("calls.time_zone", Kind::Text, "\"local\""),
    key("calls.names", Kind::List, "[]"),
    key("calls.every", Kind::Duration, "\"10s\""),
    key("calls.timeout", Kind::Duration, "\"30s\""),
    key("calls.quiet", Kind::Duration, "\"2m\""),
    key("calls.cache_max_size", Kind::Size, "\"2GiB\""),
    key("calls.same_account", Kind::Flag, "true"),
    key("calls.require_cdr", Kind::Flag, "false"),
    key("calls.require_cdr_for", Kind::Duration, "\"24h\""),
    key("policy.name", Kind::Text, ""),
    key("policy.path", Kind::List, ""),
    key("policy.campaign", Kind::List, ""),
    key("policy.ingroup", Kind::List, ""),
    key("policy.list", Kind::List, ""),
    key("policy.agent", Kind::List, ""),
    key("policy.accountcode", Kind::List, ""),
    key("policy.did", Kind::List, ""),
    key("policy.number", Kind::List, ""),
    key("policy.direction", Kind::List, ""),
    key("policy.disposition", Kind::List, ""),
    key("policy.extension", Kind::List, ""),
    key("policy.duration_min", Kind::Duration, ""),
    key("policy.duration_max", Kind::Duration, ""),
    key("policy.archive_after", Kind::Age, ""),
    key("policy.keep_local", Kind::Age, ""),
    key("policy.expire_after", Kind::Age, ""),
    key("policy.expire_from", Kind::Text, ""),
    key("policy.worm", Kind::Duration, ""),
    key("policy.worm_mode", Kind::Text, ""),
    key("policy.targets", Kind::List, ""),
    key("policy.delete_mode", Kind::Text, ""),
    key("policy.storage_class", Kind::Text, ""),
    key("policy.compress", Kind::Text, ""),
    key("policy.encrypt_to", Kind::List, ""),
    key("metrics.listen", Kind::Text, ""),
    key("retention.max_delete_per_day", Kind::Percent, "\"5%\""),
    key("retention.audit_keep", Kind::Age, "\"forever\""),
    key("encryption.require_local_encryption", Kind::Flag, "false"),
    key("encryption.local_key_file", Kind::Text, ""),
];

/// What a path of the file names.
pub(super) enum Found {
    Key(&'static Key),
    Table,
    /// Unknown; with what may have been meant.
    Unknown(Option<String>),
}

/// Looks up a path whose numbers (`target.0.url`) were left out.
pub(super) fn find(path: &str) -> Found {
    if let Some(key) = KEYS.iter().find(|k| k.path == path) {
        return Found::Key(key);
    }
    if KEYS.iter().any(|k| k.path.split_once('.').is_some_and(|(table, _)| table == path)) {
        return Found::Table;
    }
    Found::Unknown(meant(path))
}

/// The known key or table nearest to `path`: in the same table, or of that name elsewhere.
fn meant(path: &str) -> Option<String> {
    let (table, name) = path.rsplit_once('.').unwrap_or(("", path));
    let elsewhere = KEYS.iter().find_map(|k| match k.path.rsplit_once('.') {
        Some((other, same)) if same == name && other != table => Some(format!(
            "{name} in the table [{}]",
            if k.numbered().is_some() { format!("[{other}]") } else { other.to_owned() }
        )),
        None if k.path == name && !table.is_empty() => {
            Some(format!("{name} before the first table"))
        }
        _ => None,
    });
    let siblings = KEYS.iter().filter_map(|k| match k.path.split_once('.') {
        Some((of, rest)) if of == table => Some(rest),
        Some((of, _)) if table.is_empty() => Some(of),
        None if table.is_empty() => Some(k.path),
        _ => None,
    });
    let nearest = siblings.map(|s| (distance(name, s), s)).min();
    elsewhere.or_else(|| nearest.filter(|(d, s)| *d <= 1 + s.len() / 4).map(|(_, s)| s.to_owned()))
}

/// Insertions, deletions and replacements between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut left = i + 1;
        let mut corner = i;
        for (slot, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *slot;
            left = (corner + usize::from(x != y)).min(above + 1).min(left + 1);
            corner = above;
            *slot = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, d) in
            [("", "", 0), ("abc", "abc", 0), ("abc", "abd", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (d, d));
        }
    }

    #[test]
    fn what_was_meant() {
        for (path, want) in [
            ("mountpiont", Some("mountpoint")),
            ("write_back.archve_after", Some("archive_after")),
            ("writeback", Some("write_back")),
            ("archive_after", Some("archive_after in the table [write_back]")),
            ("url", Some("url in the table [[target]]")),
            ("cache.node", Some("node before the first table")),
            ("colour", None),
        ] {
            assert_eq!(meant(path).as_deref(), want, "{path}");
        }
    }
}
