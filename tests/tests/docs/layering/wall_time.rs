//! Somebody sets a node's clock, and nothing is handed out by it that was not before: what decides about the addresses of the
//! cluster's pools knows CLOCK_BOOTTIME alone.

use std::fs;

use super::length::sources;

/// Who decides: the protocol, the node that drives it, and who gives the addresses out.
const DECIDE: [&str; 3] =
    ["crates/pool-blocks/src", "device-plugin/agent/src/blocks", "plugins/ipam-pool/src"];
/// Says when the machine was booted, for people.
const TELLS: [&str; 1] = ["plugins/ipam-pool/src/cli/sweep.rs"];

/// By what wall time is read.
const WALL_TIME: [&str; 6] = ["SystemTime", "Timestamp::", "CLOCK_REALTIME", "Utc::now", "jiff", "chrono"];

#[test]
fn no_wall_time_decides_about_addresses() {
    let top = testnet::workspace();
    let mut all = Vec::new();
    for folder in DECIDE {
        sources(&top.join(folder), &mut all);
    }
    assert!(all.len() > DECIDE.len(), "{all:?}");
    all.retain(|path| !TELLS.iter().any(|tells| path.ends_with(tells)));
    let reads = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        WALL_TIME.iter().any(|word| text.contains(word))
    };
    let found: Vec<_> = all.iter().filter(|path| reads(path)).collect();
    assert!(found.is_empty(), "{found:#?} name wall time");
}
