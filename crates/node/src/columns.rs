use crate::one_line;

/// A table as text: each column is as wide as its widest cell, and each cell is one line ([`one_line`]).
#[must_use]
pub fn columns<R: AsRef<[String]>>(rows: &[R], between: &str) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.as_ref().iter().map(|cell| one_line(cell)).collect()).collect();
    let mut widths = Vec::new();
    for row in &rows {
        widths.resize(row.len().max(widths.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join(between).trim_end())
    };
    rows.iter().map(line).collect()
}
