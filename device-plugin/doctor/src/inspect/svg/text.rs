//! Text in a drawing: how wide it is, cut where it would not fit, escaped.
//!
//! Nobody knows which font a viewer has; the widths are those of DejaVu, the widest of the usual ones.

use std::fmt::Write as _;

/// A face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    Sans,
    Bold,
    Mono,
}

/// The width of a text in pixels.
pub(super) fn width(text: &str, size: f64, face: Face) -> f64 {
    let each = |c: char| match face {
        Face::Mono if c.is_ascii() || "·…═".contains(c) => 0.602,
        Face::Mono => 1.0,
        Face::Sans => sans(c),
        Face::Bold => sans(c) * 1.12,
    };
    text.chars().map(each).sum::<f64>() * size
}

fn sans(c: char) -> f64 {
    match c {
        ' ' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | 'i' | 'j' | 'l' | 'I' | '·' => 0.32,
        'f' | 't' | 'r' | '-' | '(' | ')' | '/' | '[' | ']' => 0.42,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '+' | '=' | '<' | '>' => 0.98,
        'A'..='Z' => 0.76,
        ' '..='~' => 0.64,
        _ => 1.0,
    }
}

/// The text, or as much of its beginning and end as fits, with an ellipsis between: of long names both ends
/// tell something.
pub(super) fn fit(text: &str, size: f64, face: Face, room: f64) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if width(&text, size, face) <= room {
        return text;
    }
    let chars: Vec<char> = text.chars().collect();
    for kept in (1..chars.len()).rev() {
        let tail = kept * 2 / 5;
        let cut: String =
            chars[..kept - tail].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect();
        if width(&cut, size, face) <= room {
            return cut;
        }
    }
    "…".to_owned()
}

/// For text and attributes of XML; characters that XML cannot have become U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => {
                let _ = escaped.write_char(c);
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(fit("nginx", 12.0, Face::Mono, 100.0), "nginx");
        let cut = fit("virt-launcher-windows-server-x7k2p", 12.0, Face::Mono, 140.0);
        assert!(cut.starts_with("virt-launch") && cut.ends_with("x7k2p") && cut.contains('…'), "{cut}");
        assert_eq!(fit("abc", 12.0, Face::Mono, 1.0), "…");
    }

    proptest! {
        #[test]
        fn what_is_fitted_fits(text in ".{0,60}", room in 20.0..200.0_f64) {
            for face in [Face::Sans, Face::Bold, Face::Mono] {
                prop_assert!(width(&fit(&text, 12.0, face, room), 12.0, face) <= room);
            }
        }

        #[test]
        fn nothing_of_xml_is_left(text in ".{0,60}") {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(['<', '>', '"']));
            prop_assert!(!escaped.chars().any(char::is_control));
        }
    }
}
