//! Prints the findings as a table.

use std::fmt::Write as _;

use super::finding::{Finding, Level};

/// The table, with a summary in the last line.
pub(super) fn table(findings: &[Finding]) -> String {
    let widest = findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, result, found, advice } in findings {
        let _ = writeln!(text, "{:<13} {check:<widest$}  {found}", word(*result));
        if let Some(advice) = advice {
            let _ = writeln!(text, "{:<13} {:<widest$}  -> {advice}", "", "");
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.result == level).count();
    let _ = writeln!(
        text,
        "\n{} failed, {} with a warning, {} fine, {} not looked at",
        count(Level::Failure),
        count(Level::Warning),
        count(Level::Fine),
        count(Level::NotLookedAt)
    );
    text
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Fine => "fine",
        Level::NotLookedAt => "not looked at",
        Level::Warning => "WARNING",
        Level::Failure => "FAILURE",
    }
}
