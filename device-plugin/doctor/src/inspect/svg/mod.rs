//! The drawing: LANs as cables, nodes connected to them, spokes and pods inside.
//!
//! One SVG file without scripts, links or fonts of its own; it follows the viewer's light or dark scheme.

mod canvas;
mod layout;
mod text;

use canvas::{Area, Canvas, Line};
use layout::{Card, Row, RowState, Section};
use text::{Face, name_lines, width, wrapped};

use super::view::{NodeView, tell_of_others};

const MARGIN: f64 = 28.0;
const CARD: f64 = 452.0;
const GAP: f64 = 24.0;
const COLUMNS: usize = 3;
/// The margin inside a card.
const PAD: f64 = 16.0;
const LABEL: f64 = 132.0;
const LINE: f64 = 15.0;
const HEAD: f64 = 66.0;
/// The thickness of a cable.
const CABLE: f64 = 7.0;
/// The distance from the cable down to the cards.
const DROP: f64 = 26.0;
/// The distance from a card's left edge to its hub, a vertical line below the title that connects the rows.
const HUB: f64 = PAD + 4.0;
/// The distance from a card's left edge to its text, right of the hub.
const WORDS: f64 = PAD + 22.0;
/// The distance from a card's upper edge to its hub.
const HUB_TOP: f64 = 36.0;
/// Draws the views of nodes.
#[must_use]
pub fn svg(nodes: &[NodeView]) -> String {
    let mut nodes = nodes.to_vec();
    tell_of_others(&mut nodes);
    let nodes = nodes.as_slice();
    let sections = layout::sections(nodes);
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
    draw.legend();
    draw.y += MARGIN - 8.0;
    let names: Vec<&str> = nodes.iter().map(|node| node.node.as_str()).collect();
    draw.canvas.finish(w, draw.y, &format!("k8slan on {}", names.join(", ")))
}

struct Draw {
    canvas: Canvas,
    w: f64,
    /// The upper edge of the next element.
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
        let rows = section.cards.chunks(columns).count();
        let spine = MARGIN - 13.0;
        let first = self.y;
        let mut last = first;
        for cards in section.cards.chunks(columns) {
            let height = cards.iter().map(card_height).fold(0.0, f64::max);
            let cable = self.y;
            if section.cable {
                last = self.y;
                // As wide as the cards below it; if there are several rows, one end is at the line that connects
                // them.
                let begin = if rows > 1 { spine } else { MARGIN + CABLE / 2.0 };
                let end = MARGIN + column_x(cards.len() - 1) + CARD - CABLE / 2.0;
                self.canvas.bar((begin, cable), (end, cable), CABLE, &accent);
                self.y += DROP;
            }
            for (at, card) in cards.iter().enumerate() {
                let area = Area { x: MARGIN + column_x(at), y: self.y, w: CARD, h: card_height(card) };
                self.card(card, area, &accent);
                if section.cable {
                    // From the cable over the card's edge down to the hub.
                    let x = area.x + HUB;
                    let (from, to) = ((x, cable), (x, area.y + HUB_TOP));
                    match card.hangs_well {
                        true => self.canvas.bar(from, to, 3.0, &accent),
                        false => self.canvas.dashes(from, to, 3.0, "bad"),
                    }
                }
            }
            self.y += height + GAP;
        }
        if last > first {
            self.canvas.bar((spine, first), (spine, last), CABLE, &accent);
        }
    }

    fn card(&mut self, card: &Card, area: Area, accent: &str) {
        let inner = area.w - 2.0 * PAD;
        let left = area.x + WORDS;
        let room = area.w - WORDS - PAD;
        let (edge, colour) = match &card.trouble {
            Some(trouble) if trouble.bad => ("card sbad", "bad"),
            Some(_) => ("card swarn", "warn"),
            None => ("card edge", "d"),
        };
        self.canvas.rect(area, 8.0, edge);
        let right = area.x + area.w - PAD;
        let title = width(&card.title, 15.0, Face::Bold).min(room * 0.6);
        self.canvas.text((left, area.y + 24.0), title + 1.0, Line::new(&card.title, 15.0, Face::Bold, "t"));
        let joined = if card.joined_well { "d" } else { "bad" };
        let line = Line::new(&card.joined, 12.0, Face::Sans, joined).right();
        self.canvas.text((right, area.y + 24.0), room - title - 16.0, line);
        let hub = Line::new(&card.hub, 12.0, Face::Mono, accent);
        self.canvas.text((left, area.y + 47.0), room, hub);
        let mut y = area.y + HEAD - 8.0;
        if let Some(trouble) = &card.trouble {
            for line in wrapped(&trouble.text, room, MOST_LINES) {
                self.canvas.text((left, y + 12.0), room, Line::new(&line, 12.0, Face::Sans, colour));
                y += LINE;
            }
            y += 6.0;
        }
        let bar = area.x + HUB;
        let mut joint = area.y + HUB_TOP + 12.0;
        for row in &card.rows {
            let h = row_height(row);
            joint = y + h / 2.0;
            self.row(row, Area { x: bar, y, w: right - bar, h }, accent);
            y += h + 10.0;
        }
        self.canvas.bar((bar, area.y + HUB_TOP), (bar, joint), 8.0, accent);
        for (what, names) in &card.names {
            for line in name_lines(what, names, inner) {
                y += LINE;
                self.canvas.text((area.x + PAD, y - 1.0), inner, Line::new(&line, 11.5, Face::Sans, "d"));
            }
        }
    }

    /// Draws the legend of shapes and colours.
    fn legend(&mut self) {
        const STEP: f64 = 24.0;
        let entries: [(&str, Draws); 7] = [
            ("LAN, from node to node", |canvas, (x, y)| canvas.bar((x, y), (x + 26.0, y), CABLE, "a0")),
            ("bridge on a node", |canvas, (x, y)| {
                canvas.bar((x + 13.0, y - 8.0), (x + 13.0, y + 8.0), 8.0, "a0")
            }),
            ("spoke or port", |canvas, (x, y)| {
                canvas.rect(Area { x, y: y - 8.0, w: 26.0, h: 16.0 }, 8.0, "box edge");
            }),
            ("pod", |canvas, (x, y)| canvas.rect(Area { x, y: y - 8.0, w: 26.0, h: 16.0 }, 4.0, "box edge")),
            ("virtual machine", |canvas, (x, y)| {
                machine(canvas, Area { x, y: y - 8.0, w: 26.0, h: 16.0 }, "box edge")
            }),
            ("down, cut off or left over", |canvas, (x, y)| {
                canvas.rect(Area { x, y: y - 8.0, w: 26.0, h: 16.0 }, 4.0, "box sbad dash");
            }),
            ("works, but lacks something", |canvas, (x, y)| {
                canvas.rect(Area { x, y: y - 8.0, w: 26.0, h: 16.0 }, 4.0, "card swarn");
            }),
        ];
        self.y += 26.0;
        let mut x = MARGIN;
        for (text, draw) in entries {
            let w = width(text, 11.5, Face::Sans);
            if x > MARGIN && x + 34.0 + w > self.w - MARGIN {
                x = MARGIN;
                self.y += STEP;
            }
            draw(&mut self.canvas, (x, self.y));
            self.canvas.text((x + 34.0, self.y + 4.0), w + 1.0, Line::new(text, 11.5, Face::Sans, "d"));
            x += 34.0 + w + 22.0;
        }
        self.y += 8.0;
    }

    /// Draws a row: its chip on the left, connected to the hub; the pod behind it on the right.
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
        let place = Area { x: pod, y: area.y, w, h: area.h };
        match row.is_vm {
            true => machine(&mut self.canvas, place, edge),
            false => self.canvas.rect(place, 6.0, edge),
        }
        let who = match row.state {
            RowState::Up => row.who.clone(),
            RowState::Down => format!("{} (down)", row.who),
            RowState::LeftOver => format!("{} (left over)", row.who),
        };
        let room = w - 20.0;
        let mut y = area.y + 18.0;
        let badge = if row.is_vm { width("VM", 11.0, Face::Bold) + 8.0 } else { 0.0 };
        if row.is_vm {
            let badge = Line::new("VM", 11.0, Face::Bold, accent).right();
            self.canvas.text((pod + w - 10.0, y), room, badge);
        }
        self.canvas.text((pod + 10.0, y), room - badge, Line::new(&who, 12.5, Face::Bold, "t"));
        for text in &row.lines {
            y += LINE;
            self.canvas.text((pod + 10.0, y), room, Line::new(text, 11.0, Face::Mono, "d"));
        }
    }
}

/// Draws a sample of a shape, with its left end at that point.
type Draws = fn(&mut Canvas, (f64, f64));

/// Draws a virtual machine: a screen in a frame.
fn machine(canvas: &mut Canvas, area: Area, class: &str) {
    canvas.rect(area, 6.0, class);
    let Area { x, y, w, h } = area;
    canvas.rect(Area { x: x + 3.0, y: y + 3.0, w: w - 6.0, h: h - 6.0 }, 3.0, class);
}

/// The most lines of one remark.
const MOST_LINES: usize = 3;

/// The left edge of the card with that number in its row.
#[expect(clippy::cast_precision_loss, reason = "at most three")]
fn column_x(at: usize) -> f64 {
    at as f64 * (CARD + GAP)
}

#[expect(clippy::cast_precision_loss, reason = "a few lines")]
fn row_height(row: &Row) -> f64 {
    (16.0 + LINE * (1 + row.lines.len()) as f64).max(30.0)
}

#[expect(clippy::cast_precision_loss, reason = "a few lines")]
fn card_height(card: &Card) -> f64 {
    let inner = CARD - 2.0 * PAD;
    let words = CARD - WORDS - PAD;
    let trouble = card
        .trouble
        .as_ref()
        .map_or(0.0, |trouble| wrapped(&trouble.text, words, MOST_LINES).len() as f64 * LINE + 6.0);
    let rows: f64 = card.rows.iter().map(|row| row_height(row) + 10.0).sum();
    let lines = card.names.iter().map(|(what, names)| name_lines(what, names, inner).len());
    let names = lines.sum::<usize>() as f64 * LINE;
    HEAD - 8.0 + trouble + rows + names + if names > 0.0 { 10.0 } else { 4.0 }
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

    /// Class, left, upper, right and lower edge of every rectangle.
    fn rects(drawing: &str) -> Vec<(String, [f64; 4])> {
        let rect = |line: &str| {
            let line = line.strip_prefix("<rect class=\"")?;
            let (class, rest) = line.split_once('"')?;
            let value = |name: &str| -> Option<f64> {
                rest.split_once(&format!(" {name}=\""))?.1.split('"').next()?.parse().ok()
            };
            let (x, y) = (value("x")?, value("y")?);
            Some((class.to_owned(), [x, y, x + value("width")?, y + value("height")?]))
        };
        drawing.lines().filter_map(rect).collect()
    }

    #[test]
    fn a_cable_is_as_wide_as_its_cards_and_leads_to_their_hubs() {
        for count in 1..=7 {
            let nodes: Vec<NodeView> = (0..count)
                .map(|number| {
                    let mut view = node(&format!("worker{number}"));
                    (view.bridges, view.pools, view.problems) = (Vec::new(), Vec::new(), Vec::new());
                    view
                })
                .collect();
            let all = rects(&svg(&nodes));
            let of = |is: &dyn Fn(&str, &[f64; 4]) -> bool| -> Vec<[f64; 4]> {
                all.iter().filter(|(class, area)| is(class, area)).map(|(_, area)| *area).collect()
            };
            let cards = of(&|class, area| class.starts_with("card") && area[2] - area[0] > CARD - 1.0);
            assert_eq!(cards.len(), count);
            let is = |thick: f64, size: f64| (size - thick).abs() < 0.2;
            let cables =
                of(&|class, area| class == "a0" && is(CABLE, area[3] - area[1]) && area[2] - area[0] > 40.0);
            let drops = of(&|class, area| class == "a0" && is(3.0, area[2] - area[0]));
            let hubs =
                of(&|class, area| class == "a0" && is(8.0, area[2] - area[0]) && area[3] - area[1] > 30.0);
            assert_eq!((cables.len(), drops.len(), hubs.len()), (count.div_ceil(COLUMNS), count, count));
            for cable in &cables {
                let below: Vec<_> =
                    cards.iter().filter(|card| card[1] > cable[3] && card[1] < cable[3] + 40.0).collect();
                let (first, last) = (below.first().unwrap(), below.last().unwrap());
                assert!((cable[2] - last[2]).abs() < 1.0, "of {count} nodes the cable ends at {}", cable[2]);
                if cables.len() == 1 {
                    assert!((cable[0] - first[0]).abs() < 1.0, "of {count} nodes it begins at {}", cable[0]);
                }
            }
            for drop in &drops {
                assert!(
                    cables.iter().any(|cable| cable[1] <= drop[1] + 4.0 && drop[1] <= cable[3]),
                    "{drop:?}"
                );
                let ends = |hub: &&[f64; 4]| {
                    hub[0] < drop[0] && drop[2] < hub[2] && hub[1] < drop[3] && drop[3] < hub[3]
                };
                assert!(hubs.iter().any(|hub| ends(&hub)), "{drop:?} ends in no hub of {hubs:?}");
            }
        }
    }

    #[test]
    fn what_does_not_work_does_not_look_as_if_it_did() {
        let well = svg(&[node("a")]);
        assert!(!well.contains("class=\"card sbad\"") && !well.contains("broken"), "{well}");
        type Damage = fn(&mut crate::inspect::LanView);
        let damages: [(&str, Damage, bool); 6] = [
            ("VXLAN device vx2 is down", |lan| lan.vxlan.as_mut().unwrap().link.up = false, true),
            ("there is no VXLAN device", |lan| lan.vxlan = None, true),
            ("bridge br2 is down", |lan| lan.bridge.as_mut().unwrap().up = false, true),
            (
                "NoRoom: too small",
                |lan| {
                    crate::inspect::sample::deny(lan, lan::READY, "NoRoom", "too small");
                },
                true,
            ),
            (
                "UnderlayTaken: built; eth1 is a port",
                |lan| {
                    lan.conditions.retain(|condition| condition.kind != lan::READY);
                    let built = "built; eth1 is a port";
                    lan.conditions.push(lan::Condition::new(lan::READY, true, "UnderlayTaken", built));
                },
                false,
            ),
            ("eth1 is missing", |lan| lan.underlay.as_mut().unwrap().link = None, false),
        ];
        for (says, damage, bad) in damages {
            let mut view = node("a");
            damage(&mut view.lans[0]);
            let drawing = svg(&[view]);
            assert!(drawing.contains(says), "{says}: {drawing}");
            assert_eq!(drawing.contains("broken on 1 of 1 node"), bad, "{says}");
            assert_eq!(drawing.contains("class=\"card sbad\""), bad, "{says}");
            // The line down from the cable is dashed.
            let drops =
                rects(&drawing).into_iter().filter(|(class, area)| class == "bad" && area[2] - area[0] < 4.0);
            assert!(drops.count() > 3, "{says}");
        }
    }

    #[test]
    fn machines_pools_and_what_others_use_are_told() {
        let mut nodes = [node("worker1"), node("worker2")];
        nodes[0].lans[0].spokes[0].attachment.as_mut().unwrap().vm = Some("default/vyos".into());
        nodes[1].lans[0].spokes[0] =
            crate::inspect::SpokeView { name: "pod1".into(), ..crate::inspect::SpokeView::default() };
        let drawing = svg(&nodes);
        for word in [
            "default/vyos",
            ">VM<",
            "pod default/nginx",
            "used on worker1: pod1",
            "free: pod2",
            "Address pools",
            ">iot<",
            "3 leased, 250 free",
            "1 kept",
            "10.0.0.0/24",
            "virtual machine",
            "spoke or port",
            "1 VM",
        ] {
            assert!(drawing.contains(word), "{word}: {drawing}");
        }
        assert!(!drawing.contains("free: pod1"), "{drawing}");
        let alone = svg(&nodes[1..]);
        assert!(alone.contains("free on this node: pod1, pod2"), "{alone}");
    }
}
