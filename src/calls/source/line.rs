//! One line of a CSV file as Asterisk writes it.

/// The fields of a line; `None`: a quote is not closed.
///
/// Quotes within a field are doubled; dial plans that quote by hand leave them single
/// (`""Anna" <100>","200"`). So a quote ends a field only before a comma or the end of the line.
pub(super) fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::with_capacity(24);
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => match rest.split_once(',') {
                Some((field, tail)) => (field.to_owned(), Some(tail)),
                None => (rest.to_owned(), None),
            },
        };
        fields.push(field);
        match after {
            Some(tail) => rest = tail,
            None => return Some(fields),
        }
    }
}

/// All records of a text that keeps to the rules (RFC 4180), where a field may go over several lines;
/// `None`: a quote is not closed.
pub(super) fn records(text: &str) -> Option<Vec<Vec<String>>> {
    let mut records = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut open = false;
        let end = rest.bytes().position(|b| {
            open ^= b == b'"';
            b == b'\n' && !open
        });
        if open && end.is_none() {
            return None;
        }
        let (record, tail) = match end {
            Some(end) => (rest.get(..end)?, rest.get(end + 1..)?),
            None => (rest, ""),
        };
        records.push(fields(record)?);
        rest = tail;
    }
    Some(records)
}

/// A field after its first quote, and what follows the comma behind it.
fn quoted_field(text: &str) -> Option<(String, Option<&str>)> {
    let mut field = String::with_capacity(32);
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('"')?;
        field.push_str(before);
        if after.is_empty() {
            return Some((field, None));
        }
        if let Some(tail) = after.strip_prefix(',') {
            return Some((field, Some(tail)));
        }
        field.push('"');
        rest = after.strip_prefix('"').unwrap_or(after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_asterisk_joined_them() {
        for (line, want) in [
            ("a,b", &["a", "b"][..]),
            ("", &[""]),
            ("\"\",\"\",3", &["", "", "3"]),
            ("\"a,b\",\"c\"\"d\"", &["a,b", "c\"d"]),
            ("\"\"\"Caller 3\"\" <0207>\",\"x\"", &["\"Caller 3\" <0207>", "x"]),
            ("\"\"Caller 3\" <0207>\",\"x\"", &["\"Caller 3\" <0207>", "x"]),
            ("\"\"\"\"", &["\""]),
            ("a,", &["a", ""]),
            ("\"it's \"\"\"", &["it's \""]),
        ] {
            assert_eq!(fields(line).as_deref(), Some(&want.map_owned()[..]), "{line}");
        }
        for broken in ["\"a", "a,\"b", "\"a\"\",b"] {
            assert_eq!(fields(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_field_may_go_over_several_lines() {
        let records = records("a,b\n\"1\n\"\"2\"\"\",\n3,\"\"\n").expect("whole");
        assert_eq!(records, [["a", "b"], ["1\n\"2\"", ""], ["3", ""]]);
        assert_eq!(super::records("a\n\"b\n"), None);
        assert_eq!(super::records(""), Some(vec![]));
    }

    trait Owned {
        fn map_owned(&self) -> Vec<String>;
    }

    impl Owned for &[&str] {
        fn map_owned(&self) -> Vec<String> {
            self.iter().map(|s| (*s).to_owned()).collect()
        }
    }
}
