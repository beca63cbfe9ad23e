//! The control groups that a run's container runtimes make on the machine. No namespace removes them when it ends, so
//! they are removed from outside.

use std::fs;
use std::path::{Path, PathBuf};

/// Where they are mounted, on simulated nodes too: one tree (version 2), or one folder for each controller.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// The name of the group above all of the run's.
pub(crate) fn of_run(mark: &str) -> String {
    format!("k8slan-testnet-{mark}")
}

/// Whether a process, by the text of its `/proc/<pid>/cgroup`, is in this group or in one beneath it.
pub(crate) fn is_in(text: &str, group: &str) -> bool {
    text.lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| path.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// Removes a group and those beneath it; returns those that a process is still in.
pub(crate) fn remove(group: &str) -> Vec<PathBuf> {
    let relative = group.trim_start_matches('/');
    let trees = [PathBuf::from(ROOT)].into_iter().chain(folders(Path::new(ROOT)));
    let groups: Vec<PathBuf> = trees.map(|tree| tree.join(relative)).filter(|group| group.is_dir()).collect();
    groups.iter().for_each(|group| remove_tree(group));
    groups.into_iter().filter(|group| group.is_dir()).collect()
}

/// The files in a group cannot be removed and need not be.
fn remove_tree(group: &Path) {
    folders(group).iter().for_each(|inner| remove_tree(inner));
    // A group with a process in it stays, and is reported.
    let _ = fs::remove_dir(group);
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_the_paths_of_its_groups() {
        let text = "2:devices:/k8slan-testnet-7/worker1-1/abc\n0::/\n";
        assert!(is_in(text, "/k8slan-testnet-7/worker1-1"));
        assert!(is_in(text, "/k8slan-testnet-7/worker1-1/abc"));
        assert!(!is_in(text, "/k8slan-testnet-7/worker1"));
        assert!(!is_in("0::/\n", "/k8slan-testnet-7/worker1-1"));
    }
}
