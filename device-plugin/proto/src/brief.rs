/// The beginning of a text, in at most `max` bytes and without control characters, for an event, a log, a status or an answer.
#[must_use]
pub fn brief(text: &str, max: usize) -> String {
    let mut short = String::new();
    for letter in text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }) {
        if short.len() + letter.len_utf8() > max {
            short.push('…');
            break;
        }
        short.push(letter);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_a_letter() {
        assert_eq!(brief("a\nb\u{7f}c", 10), "a b c");
        assert_eq!(brief("ööö", 5), "öö…");
    }
}
