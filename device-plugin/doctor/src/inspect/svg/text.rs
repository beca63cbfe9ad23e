//! Text in a drawing: its width, cutting, lines and escaping.
//!
//! The viewer's font is not known; the widths are those of DejaVu, the widest of the usual ones.

use std::fmt::Write as _;

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

/// The text, or as much of its beginning and its end as fits, with an ellipsis between: both ends of a long name
/// matter.
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

/// Escapes text for XML and its attributes; characters that XML does not allow become U+FFFD.
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

/// The most lines of free names; the rest is only counted.
const FREE_LINES: usize = 3;

/// Names with their state, in a few lines; the rest is counted.
pub(super) fn name_lines(what: &str, names: &[String], room: f64) -> Vec<String> {
    if names.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!("{what}:")];
    for (at, name) in names.iter().enumerate() {
        let comma = if at == 0 { " " } else { ", " };
        let more = format!(" and {} more", names.len() - at);
        let last = lines.len() == FREE_LINES;
        let line = lines.last_mut().unwrap_or_else(|| unreachable!("it has one"));
        let reserve = if last && at + 1 < names.len() { width(&more, 11.5, Face::Sans) } else { 0.0 };
        if width(&format!("{line}{comma}{name}"), 11.5, Face::Sans) + reserve <= room {
            line.push_str(comma);
            line.push_str(name);
        } else if last {
            line.push_str(&more);
            break;
        } else {
            line.push(',');
            lines.push(name.clone());
        }
    }
    lines
}

/// The text broken into lines; what does not fit into the last is cut off.
pub(super) fn wrapped(text: &str, room: f64, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let count = lines.len();
        let line = lines.last_mut().unwrap_or_else(|| unreachable!("it has one"));
        let longer = format!("{line}{}{word}", if line.is_empty() { "" } else { " " });
        if count == most || line.is_empty() || width(&longer, 12.0, Face::Sans) <= room {
            *line = longer;
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
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

    #[test]
    fn a_thousand_free_spokes_are_three_lines() {
        let names: Vec<String> = (0..1000).map(|number| format!("spoke{number}")).collect();
        let lines = name_lines("free", &names, 400.0);
        assert_eq!(lines.len(), FREE_LINES);
        assert!(lines[2].ends_with("more"), "{lines:?}");
        assert!(lines.iter().all(|line| width(line, 11.5, Face::Sans) <= 405.0), "{lines:?}");
        assert_eq!(name_lines("free", &names[..2], 400.0), ["free: spoke0, spoke1"]);
    }
}
