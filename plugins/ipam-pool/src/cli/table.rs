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
        println!("{}", serde_json::to_string_pretty(rows).unwrap_or_default());
        return Ok(());
    }
    if rows.is_empty() {
        println!("{none}");
        return Ok(());
    }
    let mut table: Vec<Vec<String>> = vec![heading.iter().map(|cell| (*cell).to_owned()).collect()];
    table.extend(rows.iter().map(|row| cells(row).iter().map(|cell| one_line(cell)).collect()));
    let widths: Vec<usize> = (0..heading.len())
        .map(|i| {
            table.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    for row in table {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        println!("{}", line.trim_end());
    }
    Ok(())
}
