use node::one_line;
use serde::Serialize;

use super::CommandError;

/// Writes rows as a table with a heading, or as a JSON array; `none` is written instead of an empty table.
pub(super) fn print<T: Serialize>(
    json: bool,
    heading: &[&str],
    rows: &[T],
    none: &str,
    cells: impl Fn(&T) -> Vec<String>,
) -> Result<(), CommandError> {
    if json {
        return write(serde_json::to_string_pretty(rows).unwrap_or_default());
    }
    if rows.is_empty() {
        return write(none.to_owned());
    }
    let mut table: Vec<Vec<String>> = vec![heading.iter().map(|cell| (*cell).to_owned()).collect()];
    table.extend(rows.iter().map(|row| cells(row).iter().map(|cell| one_line(cell)).collect()));
    let widths: Vec<usize> = (0..heading.len())
        .map(|i| {
            table.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let lines = table.iter().map(|row| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        padded.collect::<String>().trim_end().to_owned()
    });
    write(lines.collect::<Vec<_>>().join("\n"))
}

/// Writes lines to standard output.
pub(super) fn write(lines: String) -> Result<(), CommandError> {
    node::print(&(lines + "\n")).map_err(CommandError::Output)
}
