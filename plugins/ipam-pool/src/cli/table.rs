use node::columns;
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
    table.extend(rows.iter().map(cells));
    node::print(&columns(&table, "  ")).map_err(CommandError::Output)
}

/// Writes lines to standard output.
pub(super) fn write(lines: String) -> Result<(), CommandError> {
    node::print(&(lines + "\n")).map_err(CommandError::Output)
}
