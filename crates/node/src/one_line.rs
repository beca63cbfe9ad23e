/// Makes one line of a foreign text that an error or a status quotes: control characters, line ends among them, and
/// rows of blanks become one blank.
#[must_use]
pub fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_control() || c == ' ').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(one_line("line 2:\n  - x\r\n\tand  \u{1b}[31my\u{9b}2J"), "line 2: - x and [31my 2J");
    }
}
