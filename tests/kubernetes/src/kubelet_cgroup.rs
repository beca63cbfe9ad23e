//! The control group that a kubelet has as its root.

use std::fs;
use std::io;
use std::path::Path;

const TREES: &str = "/sys/fs/cgroup";

/// Makes the group in every hierarchy, as a kubelet wants to find it.
pub(crate) fn make(group: &str) -> io::Result<()> {
    let relative = group.trim_start_matches('/');
    if Path::new(TREES).join("cgroup.controllers").exists() {
        return fs::create_dir_all(Path::new(TREES).join(relative));
    }
    for entry in fs::read_dir(TREES)?.flatten() {
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let mut path = entry.path();
        for part in relative.split('/') {
            let above = path.clone();
            path.push(part);
            fs::create_dir_all(&path)?;
            // A new group has no processors and no memory, until it is given some.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(above.join(file))
                    && fs::read_to_string(path.join(file)).is_ok_and(|own| own.trim().is_empty())
                {
                    fs::write(path.join(file), value)?;
                }
            }
        }
    }
    Ok(())
}
