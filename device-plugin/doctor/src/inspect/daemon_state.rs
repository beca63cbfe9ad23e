//! The daemon's latest state: its status file and its records.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use lan::SpokeRecord;
use net_types::SpokeName;
use node::{Paths, SafeDir};

use proto::published::status_file;
use proto::published::{NodeStatus, STATUS_FILE};

/// Reads the status; an error becomes a note.
pub(super) fn status(run: &Path, notes: &mut Vec<String>) -> NodeStatus {
    match status_file::read(run) {
        Ok(Some(status)) => return status,
        Ok(None) => notes.push(format!(
            "there is no {}: no daemon has run since the node's start",
            run.join(STATUS_FILE).display()
        )),
        Err(error) => notes.push(format!("{error:#}")),
    }
    NodeStatus::default()
}

/// Reads the spokes' records; errors become notes.
pub(super) fn records(paths: &Paths, notes: &mut Vec<String>) -> BTreeMap<SpokeName, SpokeRecord> {
    let mut records = BTreeMap::new();
    let dir = match SafeDir::open(&paths.spokes()) {
        Ok(Some(dir)) => dir,
        Ok(None) => return records,
        Err(error) => {
            notes.push(chain(error));
            return records;
        }
    };
    for name in dir.names().unwrap_or_default() {
        let Some(spoke) = name.strip_suffix(".json").and_then(|name| name.parse::<SpokeName>().ok()) else {
            continue;
        };
        let record = match dir.read(&name) {
            Ok(Some(text)) => SpokeRecord::parse(&spoke, &text).map_err(chain),
            // It was removed meanwhile.
            Ok(None) => continue,
            Err(error) => Err(chain(error)),
        };
        match record {
            Ok(record) => drop(records.insert(spoke, record)),
            Err(error) => notes.push(format!("the record of spoke {spoke} is of no use: {error}")),
        }
    }
    records
}

/// The names in a folder of records; empty if the folder is missing.
pub(super) fn names(path: &Path, notes: &mut Vec<String>) -> Vec<String> {
    match SafeDir::open(path).and_then(|dir| dir.map_or(Ok(Vec::new()), |dir| dir.names())) {
        Ok(names) => names,
        Err(error) => {
            notes.push(chain(error));
            Vec::new()
        }
    }
}

/// The process that holds the daemon's lock, from `/proc/locks`: trying the lock would acquire it.
pub(super) fn daemon(run: &Path) -> Option<u32> {
    let meta = std::fs::metadata(run.join("daemon.lock")).ok()?;
    let (major, minor) = (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()));
    let file = format!("{major:02x}:{minor:02x}:{}", meta.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    // `1: FLOCK  ADVISORY  WRITE 708 00:13:31 0 EOF`
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "FLOCK", _, "WRITE", pid, place, ..] if place == file => pid.parse().ok(),
            _ => None,
        }
    })
}

/// The text of an error with its causes.
pub(super) fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}
