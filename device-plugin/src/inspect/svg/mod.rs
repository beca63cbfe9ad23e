//! The drawing: LANs as cables, nodes hanging on them, spokes and pods inside.
//!
//! One SVG file without scripts, links or fonts of its own; it follows the viewer's light or dark scheme.

mod canvas;
mod sheet;
mod text;

use canvas::{Area, Canvas, Line};
use sheet::{Card, Row, RowState, Section};
use text::{Face, width};

use super::view::NodeView;

const MARGIN: f64 = 28.0;
const CARD: f64 = 452.0;
const GAP: f64 = 24.0;
const COLUMNS: usize = 3;
/// Inside of a card.
const PAD: f64 = 16.0;
const LABEL: f64 = 132.0;
const LINE: f64 = 15.0;
const HEAD: f64 = 66.0;
/// From the cable down to the cards.
const DROP: f64 = 26.0;
/// Lines of free names before the rest is only counted.
const FREE_LINES: usize = 3;

/// Draws what nodes have.
#[must_use]
pub fn svg(nodes: &[NodeView]) -> String {
    let sections = sheet::sections(nodes);
    let most = sections.iter().map(|section| section.cards.len()).max().unwrap_or(1);
    let columns = most.clamp(1, COLUMNS);
    #[expect(clippy::cast_precision_loss, reason = "at most three")]
    let w = 2.0 * MARGIN + columns as f64 * (CARD + GAP) - GAP;
    let w = w.max(2.0 * MARGIN + 560.0);
    let mut draw = Draw { canvas: Canvas::default(), w, y: MARGIN };
    draw.title(nodes);
    for section in &sections {
        draw.section(section, columns);
    }
    if sections.is_empty() {
        draw.note("No LAN stands here, and no pod is on a bridge or link of the node.", "d");
    }
    for node in nodes {
        for problem in &node.problems {
            draw.note(&format!("{}: {problem}", node.node), "bad");
        }
    }
    draw.y += MARGIN - 8.0;
    let names: Vec<&str> = nodes.iter().map(|node| node.node.as_str()).collect();
    draw.canvas.finish(w, draw.y, &format!("k8slan on {}", names.join(", ")))
}

struct Draw {
    canvas: Canvas,
    w: f64,
    /// The upper edge of what comes next.
    y: f64,
}

impl Draw {
    fn title(&mut self, nodes: &[NodeView]) {
        let names: Vec<&str> = nodes.iter().map(|node| node.node.as_str()).collect();
        let room = self.w - 2.0 * MARGIN;
        self.canvas.text((MARGIN, self.y + 18.0), room, Line::new("k8slan", 22.0, Face::Bold, "t"));
        let used = width("k8slan", 22.0, Face::Bold) + 14.0;
        let line = Line::new("", 13.0, Face::Sans, "d");
        let names = names.join(", ");
        self.canvas.text((MARGIN + used, self.y + 18.0), room - used, Line { text: &names, ..line });
        self.y += 40.0;
    }

    fn note(&mut self, text: &str, colour: &str) {
        let room = self.w - 2.0 * MARGIN;
        self.y += 5.0;
        for line in wrapped(text, room, MOST_LINES) {
            self.y += LINE;
            self.canvas.text((MARGIN, self.y), room, Line::new(&line, 12.0, Face::Sans, colour));
        }
    }

    fn section(&mut self, section: &Section, columns: usize) {
        let accent = format!("a{}", section.accent);
        let room = self.w - 2.0 * MARGIN;
        self.y += 12.0;
        self.canvas.text((MARGIN, self.y + 16.0), room, Line::new(&section.title, 18.0, Face::Bold, &accent));
        self.canvas.text((MARGIN, self.y + 35.0), room, Line::new(&section.subtitle, 12.0, Face::Sans, "d"));
        self.y += 50.0;
        let cable_x = MARGIN - 13.0;
        let first = self.y;
        let mut last = first;
        for cards in section.cards.chunks(columns) {
            let height = cards.iter().map(card_height).fold(0.0, f64::max);
            if section.cable {
                last = self.y;
                let end = MARGIN + place(cards.len() - 1) + CARD / 2.0;
                self.canvas.bar((cable_x, self.y), (end, self.y), 7.0, &accent);
                for at in 0..cards.len() {
                    let x = MARGIN + place(at) + CARD / 2.0;
                    self.canvas.bar((x, self.y), (x, self.y + DROP), 3.0, &accent);
                }
                self.y += DROP;
            }
            for (at, card) in cards.iter().enumerate() {
                let area = Area { x: MARGIN + place(at), y: self.y, w: CARD, h: card_height(card) };
                self.card(card, area, &accent);
            }
            self.y += height + GAP;
        }
        if last > first {
            self.canvas.bar((cable_x, first), (cable_x, last), 7.0, &accent);
        }
    }

    fn card(&mut self, card: &Card, area: Area, accent: &str) {
        let inner = area.w - 2.0 * PAD;
        self.canvas.rect(area, 8.0, if card.trouble.is_some() { "card sbad" } else { "card edge" });
        let right = area.x + area.w - PAD;
        let title = width(&card.title, 15.0, Face::Bold).min(inner * 0.6);
        self.canvas.text(
            (area.x + PAD, area.y + 24.0),
            title + 1.0,
            Line::new(&card.title, 15.0, Face::Bold, "t"),
        );
        let colour = if card.joined_well { "d" } else { "bad" };
        let line = Line::new(&card.joined, 12.0, Face::Sans, colour).right();
        self.canvas.text((right, area.y + 24.0), inner - title - 16.0, line);
        let hub = Line::new(&card.hub, 12.0, Face::Mono, accent);
        self.canvas.text((area.x + PAD, area.y + 47.0), inner, hub);
        let mut y = area.y + HEAD - 8.0;
        if let Some(trouble) = &card.trouble {
            for line in wrapped(trouble, inner, MOST_LINES) {
                self.canvas.text((area.x + PAD, y + 12.0), inner, Line::new(&line, 12.0, Face::Sans, "bad"));
                y += LINE;
            }
            y += 6.0;
        }
        let bar = area.x + PAD + 4.0;
        let top = y;
        let mut joint = None;
        for row in &card.rows {
            let h = row_height(row);
            let middle = y + h / 2.0;
            self.row(row, Area { x: bar, y, w: right - bar, h }, accent);
            joint = Some(middle);
            y += h + 10.0;
        }
        if let Some(joint) = joint {
            self.canvas.bar((bar, top + 4.0), (bar, joint), 8.0, accent);
        }
        self.free(&card.free, (area.x + PAD, y), inner);
    }

    /// A row: its chip on the left, joined to the hub; who is behind it on the right.
    fn row(&mut self, row: &Row, area: Area, accent: &str) {
        let middle = area.y + area.h / 2.0;
        let chip = area.x + 22.0;
        let pod = chip + LABEL + 18.0;
        let line = match row.state {
            RowState::Up => accent,
            RowState::Down | RowState::LeftOver => "bad",
        };
        self.canvas.bar((area.x, middle), (pod, middle), 2.0, line);
        let edge = if row.state == RowState::Up { "box edge" } else { "box sbad dash" };
        self.canvas.rect(Area { x: chip, y: middle - 12.0, w: LABEL, h: 24.0 }, 12.0, edge);
        let label = Line::new(&row.label, 12.0, Face::Mono, "t");
        self.canvas.text((chip + 11.0, middle + 4.0), LABEL - 20.0, label);
        let w = area.x + area.w - pod;
        self.canvas.rect(Area { x: pod, y: area.y, w, h: area.h }, 6.0, edge);
        let who = match row.state {
            RowState::Up => row.who.clone(),
            RowState::Down => format!("{} (down)", row.who),
            RowState::LeftOver => format!("{} (left over)", row.who),
        };
        let room = w - 20.0;
        let mut y = area.y + 18.0;
        self.canvas.text((pod + 10.0, y), room, Line::new(&who, 12.5, Face::Bold, "t"));
        for text in &row.lines {
            y += LINE;
            self.canvas.text((pod + 10.0, y), room, Line::new(text, 11.0, Face::Mono, "d"));
        }
    }

    fn free(&mut self, names: &[String], (x, y): (f64, f64), room: f64) {
        for (at, line) in free_lines(names, room).iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "a few lines")]
            let y = y + 14.0 + at as f64 * LINE;
            self.canvas.text((x, y), room, Line::new(line, 11.5, Face::Sans, "d"));
        }
    }
}

/// Lines of one remark before it is cut off.
const MOST_LINES: usize = 3;

/// Where the card of that number in its row begins.
#[expect(clippy::cast_precision_loss, reason = "at most three")]
fn place(at: usize) -> f64 {
    at as f64 * (CARD + GAP)
}

#[expect(clippy::cast_precision_loss, reason = "a few lines")]
fn row_height(row: &Row) -> f64 {
    (16.0 + LINE * (1 + row.lines.len()) as f64).max(30.0)
}

#[expect(clippy::cast_precision_loss, reason = "a few lines")]
fn card_height(card: &Card) -> f64 {
    let inner = CARD - 2.0 * PAD;
    let trouble =
        card.trouble.as_ref().map_or(0.0, |text| wrapped(text, inner, MOST_LINES).len() as f64 * LINE + 6.0);
    let rows: f64 = card.rows.iter().map(|row| row_height(row) + 10.0).sum();
    let free = free_lines(&card.free, inner).len() as f64 * LINE;
    HEAD - 8.0 + trouble + rows + free + if free > 0.0 { 10.0 } else { 4.0 }
}

/// The names that nobody uses, in a few lines; the rest is counted.
fn free_lines(names: &[String], room: f64) -> Vec<String> {
    if names.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![String::from("free:")];
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

/// The text in lines of words; what goes beyond the last is cut off there.
fn wrapped(text: &str, room: f64, most: usize) -> Vec<String> {
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
    use super::super::sample::node;
    use super::*;

    #[test]
    fn nodes_share_a_lans_section() {
        let drawing = svg(&[node("worker1"), node("worker2")]);
        assert_eq!(drawing.matches(">k8slan-system/lan-test<").count(), 1, "{drawing}");
        for word in
            ["worker1", "worker2", "default/nginx", "pod1", "VNI 222", "free: pod2", "eth2: VLAN 10,20-30"]
        {
            assert!(drawing.contains(word), "{word}");
        }
    }

    #[test]
    fn what_a_tenant_named_cannot_break_the_drawing() {
        let mut view = node("<b>&\"");
        view.lans[0].spokes[0].name = "</text><script>".into();
        let drawing = svg(&[view]);
        assert!(!drawing.contains("<script>") && !drawing.contains("<b>"), "{drawing}");
    }

    #[test]
    fn a_thousand_free_spokes_are_three_lines() {
        let names: Vec<String> = (0..1000).map(|number| format!("spoke{number}")).collect();
        let lines = free_lines(&names, 400.0);
        assert_eq!(lines.len(), FREE_LINES);
        assert!(lines[2].ends_with("more"), "{lines:?}");
        assert!(lines.iter().all(|line| width(line, 11.5, Face::Sans) <= 405.0), "{lines:?}");
        assert_eq!(free_lines(&names[..2], 400.0), ["free: spoke0, spoke1"]);
    }
}
