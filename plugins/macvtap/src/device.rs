//! The device node `/dev/tapN` of a macvtap.

use std::fs::{Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use netplumb::DevNum;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod};
use node::{LockError, SafeDirError};

/// Who may open a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) owner: u32,
    pub(crate) group: u32,
}

/// The owner and the group may read and write, as libvirt needs it.
pub(crate) const MODE: u32 = 0o660;

/// Why a device node could not be provided.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("{operation} {path:?}")]
    Io {
        /// The operation as a verb and its object.
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The path exists and is not a character device.
    #[error("{0:?} is not a device node: something else was put there; remove it")]
    Foreign(PathBuf),
    /// The records of minors cannot be used.
    #[error("cannot keep the record of tap minors")]
    Record(#[from] SafeDirError),
    /// Another program holds the lock of the records.
    #[error("cannot work on the records of tap minors")]
    Lock(#[from] LockError),
}

/// The path of the device node of a macvtap with this ifindex.
pub(crate) fn node_path(index: u32) -> PathBuf {
    format!("/dev/tap{index}").into()
}

/// The index in the name of a device node.
pub(crate) fn index_of(node: &Path) -> Option<u32> {
    node.file_name()?.to_str()?.strip_prefix("tap")?.parse().ok()
}

/// The metadata of what is at the node's path, if anything.
///
/// # Errors
/// The path cannot be examined.
pub(crate) fn node_metadata(path: &Path) -> Result<Option<Metadata>, DeviceError> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("look at", path, source)),
    }
}

/// The device that a node leads to; `None` if it is not a character device.
pub(crate) fn leads_to(meta: &Metadata) -> Option<DevNum> {
    let number = |part: u64| u32::try_from(part).ok();
    if !meta.file_type().is_char_device() {
        return None;
    }
    Some(DevNum { major: number(major(meta.rdev()))?, minor: number(minor(meta.rdev()))? })
}

/// Makes `path` lead to `device` and lets `access` open it. Returns whether this program made the node: the kernel
/// deletes only its own nodes.
///
/// # Errors
/// The path exists and is not a device node, or the kernel refuses.
pub(crate) fn ensure_node(path: &Path, device: DevNum, access: Access) -> Result<bool, DeviceError> {
    let present = node_metadata(path)?;
    if let Some(meta) = &present
        && leads_to(meta).is_none()
    {
        return Err(DeviceError::Foreign(path.to_owned()));
    }
    if let Some(meta) = present.filter(|meta| leads_to(meta) == Some(device)) {
        if (meta.uid(), meta.gid()) != (access.owner, access.group) {
            lchown(path, Some(access.owner), Some(access.group)).map_err(|e| failed("give away", path, e))?;
        }
        if meta.mode() & 0o7777 != MODE {
            set_mode(path)?;
        }
        return Ok(false);
    }
    // Absent (without devtmpfs), or the node of another namespace's macvtap with the same ifindex. The new node is
    // created under a temporary name and renamed, so that the path never leads nowhere and is never open to the wrong
    // owner.
    let temporary = unfinished(path);
    let _ = std::fs::remove_file(&temporary);
    let mode = Mode::from_bits_truncate(0o600);
    let number = makedev(u64::from(device.major), u64::from(device.minor));
    mknod(&temporary, SFlag::S_IFCHR, mode, number).map_err(|e| failed("make the node", path, e.into()))?;
    let place = || -> Result<(), DeviceError> {
        lchown(&temporary, Some(access.owner), Some(access.group))
            .map_err(|e| failed("give away", path, e))?;
        set_mode(&temporary)?;
        std::fs::rename(&temporary, path).map_err(|e| failed("put in place", path, e))
    };
    place().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })?;
    Ok(true)
}

/// The path where a node is created before it gets its name.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.k8slan"))
}

/// Removes the node if it still leads to `device`, and one of this device that an ADD did not finish: the path may be that
/// of another attachment by now, whose ADD makes its node at this moment.
///
/// # Errors
/// The kernel refuses the removal.
pub(crate) fn remove_node(path: &Path, device: DevNum) -> Result<(), DeviceError> {
    for node in [&unfinished(path), path] {
        match node_metadata(node)? {
            Some(meta) if leads_to(&meta) == Some(device) => match std::fs::remove_file(node) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", node, error));
                }
                _ => {}
            },
            _ => {}
        }
    }
    Ok(())
}

fn set_mode(path: &Path) -> Result<(), DeviceError> {
    std::fs::set_permissions(path, Permissions::from_mode(MODE))
        .map_err(|e| failed("set the mode of", path, e))
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> DeviceError {
    DeviceError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: DevNum = DevNum { major: 511, minor: 3 };

    #[test]
    fn the_node_is_made_corrected_and_taken_away() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("tap1073741824");
        let access = Access { owner: 107, group: 107 };
        assert!(ensure_node(&path, DEVICE, access).unwrap());
        assert!(!ensure_node(&path, DEVICE, access).unwrap());
        let other = DevNum { major: 511, minor: 4 };
        assert!(ensure_node(&path, other, access).unwrap());
        let meta = node_metadata(&path).unwrap().unwrap();
        assert_eq!(leads_to(&meta), Some(other));
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (107, 107, 0o660));
        remove_node(&path, DEVICE).unwrap();
        assert!(node_metadata(&path).unwrap().is_some());
        remove_node(&path, other).unwrap();
        assert!(node_metadata(&path).unwrap().is_none());
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_device_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("tap1");
        std::fs::write(&path, "x").unwrap();
        let access = Access { owner: 0, group: 0 };
        assert!(matches!(ensure_node(&path, DEVICE, access), Err(DeviceError::Foreign(_))));
    }
}
