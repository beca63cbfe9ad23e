use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, linkat, unlinkat};

use super::manifest::Checksum;
use agent::attachments::aside_name;

/// A CNI folder, opened once; its files are used by names relative to it, and no symbolic link in it is followed.
///
/// The path of the folder itself may have symbolic links, since an administrator named it.
pub(super) struct CniFolder {
    dir: File,
    path: PathBuf,
}

/// What exists under a name in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FileState {
    Absent,
    File {
        checksum: Checksum,
        /// Whether it belongs to root, everybody may run it, and only root may write it.
        fit: bool,
    },
    /// A symbolic link to this path.
    Link(PathBuf),
    Other,
}

/// The mode of a plugin: everybody may run it, only root may write it.
const MODE: u32 = 0o755;

/// The most backups of one name.
const MAX_BACKUPS: u32 = 100;

impl CniFolder {
    /// Opens the folder; `None` if it does not exist.
    pub(super) fn open(path: &Path) -> Result<Option<Self>> {
        // Opening a pipe would wait for a writer.
        match File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path) {
            Ok(dir) if dir.metadata().is_ok_and(|meta| meta.is_dir()) => {
                Ok(Some(Self { dir, path: path.to_owned() }))
            }
            Ok(_) => bail!("{} is not a folder", path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("open the CNI folder {}", path.display())),
        }
    }

    /// The folder's path as it was given.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether the folder is empty.
    pub(super) fn is_empty(&self) -> Result<bool> {
        let entries = std::fs::read_dir(&self.path);
        let mut entries = entries.with_context(|| format!("list {}", self.path.display()))?;
        Ok(entries.next().is_none())
    }

    /// Reads what exists under a name.
    pub(super) fn read_state(&self, name: &str) -> Result<FileState> {
        let looked = || format!("look at {}", self.path_of(name).display());
        let stat = match fstatat(self.dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(FileState::Absent),
            Err(errno) => return Err(errno).with_context(looked),
        };
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind == SFlag::S_IFLNK {
            let target = readlinkat(self.dir.as_fd(), name).with_context(looked)?;
            return Ok(FileState::Link(target.into()));
        }
        if kind != SFlag::S_IFREG {
            return Ok(FileState::Other);
        }
        let (file, checksum) = self.checksum(name)?;
        let meta = file.metadata().with_context(looked)?;
        Ok(FileState::File { checksum, fit: meta.uid() == 0 && meta.mode() & 0o7777 == MODE })
    }

    fn checksum(&self, name: &str) -> Result<(File, Checksum)> {
        let failed = || format!("read {}", self.path_of(name).display());
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(self.dir.as_fd(), name, flags, Mode::empty()).with_context(failed)?;
        let mut file = File::from(file);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(failed)?;
        Ok((file, Checksum::compute(&bytes)))
    }

    /// Writes a file under a temporary name, for [`CniFolder::publish_staged`]; when this returns, it is on disk and
    /// was read back. A leftover of an earlier run is replaced.
    pub(super) fn stage(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let staged = staged(name);
        self.remove(&staged)?;
        let written = self.write(&staged, bytes);
        if written.is_err() {
            // The first error is the one to report.
            let _ = self.remove(&staged);
        }
        written
    }

    fn write(&self, staged: &str, bytes: &[u8]) -> Result<()> {
        let failed = || format!("write {}", self.path_of(staged).display());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(MODE);
        let mut file = File::from(openat(self.dir.as_fd(), staged, flags, mode).with_context(failed)?);
        // Independent of the umask.
        fchmod(file.as_fd(), mode).with_context(failed)?;
        file.write_all(bytes).with_context(failed)?;
        file.sync_all().with_context(failed)?;
        drop(file);
        let (_, checksum) = self.checksum(staged)?;
        if checksum != Checksum::compute(bytes) {
            bail!("{} does not read as it was written: the disk is faulty", self.path_of(staged).display());
        }
        Ok(())
    }

    /// Renames a staged file to its name, and replaces what has that name.
    pub(super) fn publish_staged(&self, name: &str) -> Result<()> {
        self.rename(&staged(name), name)
    }

    /// Removes a staged file that was not published.
    pub(super) fn discard_staged(&self, name: &str) -> Result<()> {
        self.remove(&staged(name))
    }

    /// Removes the temporary files that interrupted runs left beside a name, if none of them is needed any more.
    pub(super) fn remove_temporaries(&self, name: &str) -> Result<()> {
        [staged(name), aside_name(name), linked(name)].iter().try_for_each(|left| self.remove(left))
    }

    /// The backup name for what exists under a name: a free one, or the one that an interrupted run gave it.
    pub(super) fn choose_backup_name(&self, name: &str, found: &FileState) -> Result<String> {
        for number in 1..=MAX_BACKUPS {
            let backup = backup_name(name, number);
            let there = self.read_state(&backup)?;
            if there == FileState::Absent || there == *found {
                return Ok(backup);
            }
        }
        let last = backup_name(name, MAX_BACKUPS);
        tracing::warn!(
            path = %self.path_of(&last).display(),
            "is overwritten: there are {MAX_BACKUPS} backups; remove those that nobody needs"
        );
        Ok(last)
    }

    /// Links what exists under a name to the backup name too, and replaces what has that name.
    pub(super) fn link_backup(&self, name: &str, backup: &str) -> Result<()> {
        let linked = linked(name);
        self.remove(&linked)?;
        match linkat(self.dir.as_fd(), name, self.dir.as_fd(), &*linked, AtFlags::empty()) {
            Ok(()) => {
                self.rename(&linked, backup)?;
                // If both are the same file already, rename(2) keeps both names.
                self.remove(&linked)
            }
            // On a file system without hard links, the name is missing for a moment.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK) => self.rename(name, backup),
            Err(errno) => {
                Err(errno).with_context(|| format!("keep {} as {backup}", self.path_of(name).display()))
            }
        }
    }

    /// Sets a file aside: renames it so that nobody can run it any more, until it is restored or removed.
    pub(super) fn set_aside(&self, name: &str) -> Result<()> {
        self.rename(name, &aside_name(name))
    }

    /// Reads what is set aside of a name.
    pub(super) fn read_set_aside(&self, name: &str) -> Result<FileState> {
        self.read_state(&aside_name(name))
    }

    /// Restores the name of a file that was set aside, unless another file has the name by now.
    pub(super) fn restore_set_aside(&self, name: &str) -> Result<()> {
        if self.read_state(name)? == FileState::Absent && self.read_set_aside(name)? != FileState::Absent {
            self.rename(&aside_name(name), name)?;
        }
        Ok(())
    }

    /// Whether a file that was set aside is running: the kernel then refuses to open it for writing.
    pub(super) fn is_run(&self, name: &str) -> Result<bool> {
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(self.dir.as_fd(), &*aside_name(name), flags, Mode::empty()) {
            Ok(_) | Err(Errno::ENOENT | Errno::ELOOP) => Ok(false),
            Err(Errno::ETXTBSY) => Ok(true),
            Err(errno) => {
                Err(errno).with_context(|| format!("see who runs {}", self.path_of(name).display()))
            }
        }
    }

    /// Renames a file, and replaces what has the new name.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<()> {
        renameat(self.dir.as_fd(), from, self.dir.as_fd(), to)
            .with_context(|| format!("rename {} to {to}", self.path_of(from).display()))
    }

    /// Removes a file; a missing file is success.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match unlinkat(self.dir.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno).with_context(|| format!("remove {}", self.path_of(name).display())),
        }
    }

    /// Syncs the folder: when this returns, all renames and removals are on disk.
    pub(super) fn sync(&self) -> Result<()> {
        fsync(self.dir.as_fd()).with_context(|| format!("sync {}", self.path.display()))
    }
}

/// The temporary name of a file before it is published.
fn staged(name: &str) -> String {
    format!(".{name}.k8slan-new")
}

/// The temporary name of a foreign file's hard link, before it gets the backup name.
fn linked(name: &str) -> String {
    format!(".{name}.k8slan-kept")
}

/// The backup name of a foreign file.
fn backup_name(name: &str, number: u32) -> String {
    match number {
        1 => format!("{name}.before-k8slan"),
        _ => format!("{name}.before-k8slan.{number}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    fn folder() -> (tempfile::TempDir, CniFolder) {
        let temp = tempfile::tempdir().unwrap();
        let folder = CniFolder::open(temp.path()).unwrap().unwrap();
        (temp, folder)
    }

    #[test]
    fn a_file_is_staged_and_put() {
        let (temp, folder) = folder();
        fs::write(temp.path().join(".macvtap.k8slan-new"), "half of an earlier o").unwrap();
        folder.stage("macvtap", b"new").unwrap();
        assert_eq!(folder.read_state("macvtap").unwrap(), FileState::Absent);
        folder.publish_staged("macvtap").unwrap();
        let fit = FileState::File { checksum: Checksum::compute(b"new"), fit: true };
        assert_eq!(folder.read_state("macvtap").unwrap(), fit);
        folder.discard_staged("macvtap").unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_the_place_of_a_staged_file_is_not_followed() {
        let (temp, folder) = folder();
        fs::write(temp.path().join("precious"), "text").unwrap();
        symlink("precious", temp.path().join(".macvtap.k8slan-new")).unwrap();
        folder.stage("macvtap", b"new").unwrap();
        assert_eq!(fs::read_to_string(temp.path().join("precious")).unwrap(), "text");
    }

    #[test]
    fn what_is_set_aside_comes_back_unless_its_name_is_taken() {
        let (temp, folder) = folder();
        let write = |name: &str, text: &str| fs::write(temp.path().join(name), text).unwrap();
        let ours = |name: &str| folder.read_state(name).unwrap();
        write("macvtap", "ours");
        let before = ours("macvtap");
        folder.set_aside("macvtap").unwrap();
        assert_eq!(
            (ours("macvtap"), folder.read_set_aside("macvtap").unwrap()),
            (FileState::Absent, before.clone())
        );
        assert!(!folder.is_run("macvtap").unwrap());
        for _ in 0..2 {
            folder.restore_set_aside("macvtap").unwrap();
            assert_eq!(ours("macvtap"), before);
        }
        folder.set_aside("macvtap").unwrap();
        write("macvtap", "theirs");
        folder.restore_set_aside("macvtap").unwrap();
        assert_eq!(fs::read_to_string(temp.path().join("macvtap")).unwrap(), "theirs");
        folder.remove_temporaries("macvtap").unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_run_is_seen() {
        let (temp, folder) = folder();
        let plugin = temp.path().join("macvtap");
        // Written by another process: a child of another test could hold the file open for a moment, and running it
        // would fail.
        assert!(Command::new("cp").arg("/bin/sleep").arg(&plugin).status().unwrap().success());
        let mut run = Command::new(&plugin).arg("60").spawn().unwrap();
        folder.set_aside("macvtap").unwrap();
        assert!(folder.is_run("macvtap").unwrap());
        run.kill().unwrap();
        run.wait().unwrap();
        assert!(!folder.is_run("macvtap").unwrap());
    }

    #[test]
    fn the_hundred_and_first_backup_is_no_failure() {
        let (temp, folder) = folder();
        for number in 1..=MAX_BACKUPS {
            fs::write(temp.path().join(backup_name("macvtap", number)), number.to_string()).unwrap();
        }
        fs::write(temp.path().join("macvtap"), "newest").unwrap();
        let found = folder.read_state("macvtap").unwrap();
        let name = folder.choose_backup_name("macvtap", &found).unwrap();
        folder.link_backup("macvtap", &name).unwrap();
        assert_eq!(folder.read_state("macvtap.before-k8slan.100").unwrap(), found);
        assert_eq!(folder.read_state("macvtap.before-k8slan").unwrap(), {
            FileState::File { checksum: Checksum::compute(b"1"), fit: false }
        });
    }

    #[test]
    fn what_is_kept_is_kept_once_and_nothing_is_overwritten() {
        let (temp, folder) = folder();
        let write = |name: &str, text: &str| fs::write(temp.path().join(name), text).unwrap();
        write("macvtap", "theirs");
        write("macvtap.before-k8slan", "older");
        let theirs = folder.read_state("macvtap").unwrap();
        for _ in 0..2 {
            assert_eq!(folder.choose_backup_name("macvtap", &theirs).unwrap(), "macvtap.before-k8slan.2");
            folder.link_backup("macvtap", "macvtap.before-k8slan.2").unwrap();
        }
        assert_eq!(fs::read_to_string(temp.path().join("macvtap.before-k8slan")).unwrap(), "older");
        symlink("/usr/lib/cni/macvtap", temp.path().join("other")).unwrap();
        let link = folder.read_state("other").unwrap();
        assert_eq!(link, FileState::Link("/usr/lib/cni/macvtap".into()));
        folder.link_backup("other", "kept").unwrap();
        assert_eq!(folder.read_state("kept").unwrap(), link);
    }
}
