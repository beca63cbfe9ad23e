use std::path::Path;

use node::NetnsRef;

/// Whether a namespace exists, or may exist: from a container, not everything of the node can be seen.
pub fn is_live(netns: &NetnsRef) -> bool {
    netns.is_live() || !would_be_seen(&netns.path)
}

/// Whether this process would see a namespace at this path of the node.
fn would_be_seen(path: &Path) -> bool {
    if path.starts_with("/proc") {
        return sees_host_processes();
    }
    let below_run = path.strip_prefix("/run").or_else(|_| path.strip_prefix("/var/run")).ok();
    let Some(folder) = below_run.and_then(Path::parent) else { return is_on_host() };
    // The daemon's container has this folder mounted. Any other one is visible if it is mounted: an image has none
    // below /run.
    folder.starts_with("netns")
        || (folder != Path::new("") && Path::new("/run").join(folder).is_dir())
        || is_on_host()
}

/// Whether this process has the mounts of the node's first process, not those of a container.
fn is_on_host() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let mounts = |of: &str| std::fs::metadata(format!("/proc/{of}/ns/mnt")).map(|meta| meta.ino()).ok();
    sees_host_processes() && mounts("1").is_some_and(|first| mounts("self") == Some(first))
}

fn sees_host_processes() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    /// PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h.
    const FIRST: u64 = 0xefff_fffc;
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|meta| meta.ino() == FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> NetnsRef {
        NetnsRef { path: path.into(), inode: 1 }
    }

    #[test]
    fn what_a_container_does_not_see_may_be_there() {
        assert!(!is_live(&at("/run/netns/k8slan-test-none")));
        assert!(!is_live(&at("/var/run/netns/k8slan-test-none")));
        for hidden in
            ["/run/containerd/k8slan-test/netns/a", "/run/k8slan-test-none", "/nowhere/k8slan-test/a"]
        {
            assert_eq!(is_live(&at(hidden)), !is_on_host(), "{hidden}");
        }
        let there = tempfile::tempdir_in("/run").unwrap();
        assert!(!is_live(&at(&there.path().join("gone").to_string_lossy())), "its folder is in sight");
    }
}
