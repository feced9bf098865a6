//! One recording, in words.

use super::output::when;
use crate::control::PathReport;
use crate::units::humane_size;

/// `status PATH`: everything that is known.
pub(super) fn all(name: &str, report: &PathReport) -> String {
    let place = if report.local { "on the local disk" } else { "not on the local disk" };
    let mut text = format!("{name}\n");
    let mut line = |label: &str, value: String| {
        text.push_str(&format!("  {label:<12} {value}\n"));
    };
    line("state", format!("{}, {place}", report.state));
    line("size", humane_size(report.size));
    line("generation", report.generation.0.to_string());
    line("sha256", report.sha256.map_or_else(|| "not hashed yet".to_owned(), |h| h.to_string()));
    line("modified", when(report.modified_at));
    if let Some(rule) = &report.rule {
        line("rule", rule.clone());
    }
    let times = [
        ("closed", report.closed_at),
        ("archived", report.archived_at),
        ("recalled", report.recalled_at),
        ("archive due", report.archive_due),
        ("release due", report.release_due),
        ("expires", report.expire_due),
    ];
    for (label, at) in times {
        if let Some(at) = at {
            line(label, when(at));
        }
    }
    if !report.holds.is_empty() {
        line("legal hold", report.holds.join(", "));
    }
    for object in &report.objects {
        let verified = object
            .verified_at
            .map_or_else(|| "not verified yet".to_owned(), |at| format!("verified {}", when(at)));
        line("object", format!("{} in target {:?}, {verified}", object.url, object.target));
    }
    text + &because(report)
}

/// `explain PATH`: why it is where it is.
pub(super) fn reasons(name: &str, report: &PathReport) -> String {
    let place = if report.local { "on the local disk" } else { "not on the local disk" };
    format!("{name} is {}, {place}.\n", report.state) + &because(report)
}

fn because(report: &PathReport) -> String {
    let mut text = String::new();
    for reason in &report.reasons {
        text.push_str(&format!("  - {reason}\n"));
    }
    if let Some(error) = &report.last_error {
        text.push_str(&format!("  last error {}: {}\n", when(error.at), error.error));
        if let Some(next) = error.next_try {
            text.push_str(&format!("  next try {}\n", when(next)));
        }
    }
    text
}
