//! The elements of a drawing.

use std::fmt::Write as _;

use super::text::{Face, escape, fit};

/// A drawing in progress.
#[derive(Default)]
pub(super) struct Canvas {
    body: String,
}

/// The style sheet: explicit backgrounds, and colours with enough contrast in both schemes.
const STYLE: &str = "\
svg{--bg:#fff;--card:#f6f8fa;--box:#fff;--line:#d0d7de;--text:#1f2328;--dim:#59636e;--ok:#1a7f37;--warn:#9a6700;--bad:#cf222e;\
--a0:#0969da;--a1:#8250df;--a2:#0a7d70;--a3:#bc4c00;--a4:#bf3989;--a5:#57606a}\
@media (prefers-color-scheme:dark){svg{--bg:#0d1117;--card:#161b22;--box:#0d1117;--line:#3d444d;--text:#f0f6fc;--dim:#9198a1;--ok:#3fb950;\
--warn:#d29922;--bad:#f85149;--a0:#4493f8;--a1:#ab7df8;--a2:#2dba9f;--a3:#f0883e;--a4:#db61a2;--a5:#9198a1}}";

/// For viewers without custom properties, each class has its light colour first.
const CLASSES: [(&str, &str, &str, &str); 17] = [
    ("bg", "fill", "#fff", "--bg"),
    ("card", "fill", "#f6f8fa", "--card"),
    ("box", "fill", "#fff", "--box"),
    ("edge", "stroke", "#d0d7de", "--line"),
    ("t", "fill", "#1f2328", "--text"),
    ("d", "fill", "#59636e", "--dim"),
    ("ok", "fill", "#1a7f37", "--ok"),
    ("warn", "fill", "#9a6700", "--warn"),
    ("bad", "fill", "#cf222e", "--bad"),
    ("sbad", "stroke", "#cf222e", "--bad"),
    ("swarn", "stroke", "#9a6700", "--warn"),
    ("a0", "fill", "#0969da", "--a0"),
    ("a1", "fill", "#8250df", "--a1"),
    ("a2", "fill", "#0a7d70", "--a2"),
    ("a3", "fill", "#bc4c00", "--a3"),
    ("a4", "fill", "#bf3989", "--a4"),
    ("a5", "fill", "#57606a", "--a5"),
];

/// A rectangle in pixels.
#[derive(Clone, Copy)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) w: f64,
    pub(super) h: f64,
}

/// A line of text with its style.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) text: &'a str,
    pub(super) size: f64,
    pub(super) face: Face,
    /// The class of its colour.
    pub(super) colour: &'a str,
    /// Whether its position is its right end.
    pub(super) from_right: bool,
}

impl<'a> Line<'a> {
    pub(super) fn new(text: &'a str, size: f64, face: Face, colour: &'a str) -> Self {
        Self { text, size, face, colour, from_right: false }
    }

    pub(super) fn right(self) -> Self {
        Self { from_right: true, ..self }
    }
}

impl Canvas {
    /// Draws a rectangle with round corners.
    pub(super) fn rect(&mut self, area: Area, radius: f64, class: &str) {
        let Area { x, y, w, h } = area;
        let _ = writeln!(
            self.body,
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}" rx="{radius:.1}"/>"#
        );
    }

    /// Draws a vertical or horizontal bar between two points.
    pub(super) fn bar(&mut self, from: (f64, f64), to: (f64, f64), thick: f64, class: &str) {
        let half = thick / 2.0;
        let (x, y) = (from.0.min(to.0) - half, from.1.min(to.1) - half);
        let (w, h) = ((to.0 - from.0).abs() + thick, (to.1 - from.1).abs() + thick);
        self.rect(Area { x, y, w, h }, half, class);
    }

    /// Draws the bar dashed: what it stands for does not work.
    pub(super) fn dashes(&mut self, from: (f64, f64), to: (f64, f64), thick: f64, class: &str) {
        const PIECE: f64 = 5.0;
        let length = (to.0 - from.0).abs().max((to.1 - from.1).abs());
        let (x, y) = ((to.0 - from.0) / length.max(1.0), (to.1 - from.1) / length.max(1.0));
        let mut at = 0.0;
        while at < length {
            let end = (at + PIECE).min(length);
            self.bar((from.0 + x * at, from.1 + y * at), (from.0 + x * end, from.1 + y * end), thick, class);
            at += 2.0 * PIECE;
        }
    }

    /// Draws text with its base line at `(x, y)`, cut to `room`; a tooltip has the whole text.
    pub(super) fn text(&mut self, (x, y): (f64, f64), room: f64, line: Line<'_>) {
        let Line { text, size, face, colour, from_right } = line;
        let shown = fit(text, size, face, room);
        let family = if face == Face::Mono { " m" } else { "" };
        let weight = if face == Face::Bold { " b" } else { "" };
        let anchor = if from_right { r#" text-anchor="end""# } else { "" };
        let whole = if shown == text { String::new() } else { format!("<title>{}</title>", escape(text)) };
        let _ = writeln!(
            self.body,
            r#"<text class="{colour}{family}{weight}" x="{x:.1}" y="{y:.1}" font-size="{size}"{anchor}>{whole}{}</text>"#,
            escape(&shown)
        );
    }

    /// The complete SVG document.
    pub(super) fn finish(self, w: f64, h: f64, title: &str) -> String {
        let mut style = STYLE.to_owned();
        for (class, property, light, variable) in CLASSES {
            let _ = write!(style, ".{class}{{{property}:{light};{property}:var({variable})}}");
        }
        style.push_str(
            ".edge,.sbad,.swarn{stroke-width:1}.dash{stroke-dasharray:4 3}.b{font-weight:600}\
             text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}\
             .m{font-family:ui-monospace,'SF Mono',Menlo,'DejaVu Sans Mono',monospace}",
        );
        let title = escape(title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w:.0} {h:.0}\" width=\"{w:.0}\" height=\"{h:.0}\" \
             role=\"img\">\n<title>{title}</title>\n<style>{style}</style>\n\
             <rect class=\"bg\" width=\"{w:.0}\" height=\"{h:.0}\"/>\n{}</svg>\n",
            self.body
        )
    }
}
