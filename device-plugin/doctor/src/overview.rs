//! `status`: the LANs of one or of several nodes, one line each.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use node::{columns, one_line};

use lan::{ACCEPTED, Condition, READY};

use crate::inspect::{LanView, NodeView, SpokeState, read_files};
use crate::output::finish;

/// The nodes to show.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Those of the nodes of which 'inspect --json' wrote these files, instead of this node. '-' is standard input; a file
    /// may have several nodes, one after the other.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
}

const HEADINGS: [&str; 7] = ["NODE", "LAN", "READY", "UNDERLAY", "MTU", "SPOKES", "WHY"];
/// The cell of an absent value.
const NOTHING: &str = "-";

/// Prints the table; the exit code is 1 on failure.
pub fn main(options: &Options) -> ExitCode {
    finish("status", run(options))
}

fn run(options: &Options) -> Result<String> {
    let nodes = match options.from.as_slice() {
        [] => vec![NodeView::read_without_pools()?],
        files => read_files(files)?,
    };
    Ok(table(&nodes))
}

/// The table, and below it the nodes' problems and notes.
fn table(nodes: &[NodeView]) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    for node in nodes {
        rows.extend(node.lans.iter().map(|lan| row(node, lan)));
        if node.lans.is_empty() {
            let mut row = HEADINGS.map(|_| NOTHING.to_owned());
            row[0] = node.node.clone();
            row[6] = why(node, "no LAN".to_owned());
            rows.push(row);
        }
    }
    let mut text = columns(&rows, "   ");
    for node in nodes {
        for problem in &node.problems {
            text.push_str(&format!("PROBLEM {}: {}\n", node.node, one_line(problem)));
        }
        for note in &node.notes {
            text.push_str(&format!("note: {}: {}\n", node.node, one_line(note)));
        }
    }
    text
}

fn row(node: &NodeView, lan: &LanView) -> [String; 7] {
    let held = lan.spokes.iter().filter(|spoke| spoke.state == SpokeState::Held).count();
    let (ready, reason) = match (lan.not_true(ACCEPTED), lan.condition(READY)) {
        (Some(accepted), _) => ("False", because(accepted)),
        (_, Some(ready)) if ready.is_true() => ("True", lan.lacks().map(because).unwrap_or_default()),
        (_, Some(ready)) => ("False", because(ready)),
        (_, None) => ("Unknown", "no daemon has said anything about it".to_owned()),
    };
    [
        node.node.clone(),
        lan.lan.clone(),
        ready.to_owned(),
        lan.underlay.as_ref().map_or(NOTHING, |underlay| &underlay.name).to_owned(),
        lan.bridge.as_ref().map_or_else(|| NOTHING.to_owned(), |bridge| bridge.mtu.to_string()),
        format!("{held}/{}", lan.spokes.len()),
        why(node, reason),
    ]
}

fn because(state: &Condition) -> String {
    format!("{}: {}", state.reason, state.message)
}

fn why(node: &NodeView, reason: String) -> String {
    match (node.daemon, reason.is_empty()) {
        (None, true) => "no daemon is seen".to_owned(),
        (None, false) => format!("no daemon is seen; {reason}"),
        (Some(_), true) => NOTHING.to_owned(),
        (Some(_), false) => reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::sample;

    #[test]
    fn several_nodes_are_one_table() {
        let mut nodes = ["worker1", "worker2", "worker3"].map(sample::node);
        sample::deny(&mut nodes[1].lans[0], READY, "UnderlayMissing", "underlay eth1 does not exist");
        nodes[1].lans[0].bridge = None;
        nodes[2] = NodeView { node: "worker3".into(), ..NodeView::default() };
        let text = table(&nodes);
        let expected = "\
NODE      LAN                      READY   UNDERLAY   MTU    SPOKES   WHY
worker1   k8slan-system/lan-test   True    eth1       1426   1/3      -
worker2   k8slan-system/lan-test   False   eth1       -      1/3      UnderlayMissing: underlay eth1 does not exist
worker3   -                        -       -          -      -        no daemon is seen; no LAN
PROBLEM worker1: spoke pod3 in namespace knlvrf is left over: its pod is gone
note: worker1: something was not looked at
PROBLEM worker2: spoke pod3 in namespace knlvrf is left over: its pod is gone
note: worker2: something was not looked at
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn what_a_lan_lacks_that_is_built_is_told() {
        let mut node = sample::node("a");
        let cut_off = Condition::new(READY, true, "UnderlayTaken", "built, MTU 1426; eth1 is a port of br0");
        node.lans[0].conditions.retain(|condition| condition.kind != READY);
        node.lans[0].conditions.push(cut_off);
        let text = table(&[node]);
        let wanted =
            "  True    eth1       1426   1/3      UnderlayTaken: built, MTU 1426; eth1 is a port of br0\n";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn what_others_wrote_makes_no_rows() {
        let mut node = sample::node("a");
        sample::deny(&mut node.lans[0], READY, "X", "a\nworker9   other/lan\u{1b}[2J");
        let text = table(&[node]);
        assert!(text.lines().all(|line| !line.starts_with("worker9")) && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_lan_that_is_refused_is_not_ready() {
        let mut node = sample::node("a");
        sample::deny(&mut node.lans[0], ACCEPTED, "Conflict", "VNI 222 belongs to LAN x/first");
        assert!(
            table(&[node]).contains("  False   eth1       1426   1/3      Conflict: VNI 222 belongs"),
            ""
        );
    }
}
