use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Opens a regular file of a store. Links are not followed, and opening a pipe or a device does not block.
pub(crate) fn open_regular(options: &mut OpenOptions, path: &Path) -> std::io::Result<(File, Metadata)> {
    let file = options.custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    Ok((file, metadata))
}

/// The name under which a file is written before it takes its own by rename.
pub(crate) fn temporary_of(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// Removes a file; one that is absent is success.
pub(crate) fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::write(at("file"), b"text").unwrap();
        nix::unistd::mkfifo(&at("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink("/dev/zero", at("device")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        assert_eq!(open_regular(File::options().read(true), &at("file")).unwrap().1.len(), 4);
        for name in ["pipe", "link", "device", "folder"] {
            for write in [false, true] {
                let opened = open_regular(File::options().read(!write).append(write), &at(name));
                assert!(opened.is_err(), "{name}: {opened:?}");
            }
        }
        assert!(open_regular(File::options().read(true), Path::new("/dev/zero")).is_err());
    }
}
