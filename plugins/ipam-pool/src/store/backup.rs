use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::AddressState;
use crate::store::StoreError;
use crate::store::dirs::{PoolKey, StoreDirs};
use crate::store::host::{self, PoolFiles};
use crate::store::regular_file::{open_regular, temporary_of};

/// One file of a backup.
#[derive(Debug)]
pub struct BackupFile {
    /// The journal that it is a copy of.
    pub part: BackupPart,
    pub path: PathBuf,
    /// The number of leased or kept addresses in it; or its damage, which the original has as well.
    pub addresses: Result<usize, StoreError>,
}

/// The two journals of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupPart {
    /// The leases of this boot.
    Leases,
    Kept,
}

impl StoreDirs {
    /// Copies a pool's journals into `folder`, as `run/…` and `state/…`, under the pool's lock, so that both are of
    /// the same moment. An existing copy is replaced by rename. The copies are read and checked after the lock was
    /// released.
    ///
    /// # Errors
    /// The pool is locked for too long, or the kernel's refusal.
    pub fn backup_pool(&self, key: &PoolKey, folder: &Path) -> Result<Vec<BackupFile>, StoreError> {
        let lock = self.lock(key)?;
        if !PoolFiles::new(self, key).exist() {
            // It was removed since the stores were listed.
            lock.remove()?;
            return Ok(Vec::new());
        }
        let mut copied = Vec::new();
        for (part, root, name) in
            [(BackupPart::Leases, &self.run, "run"), (BackupPart::Kept, &self.state, "state")]
        {
            let from = self.file(root, key, "journal");
            let to = self.file(&folder.join(name), key, "journal");
            if copy(&from, &to)? {
                copied.push((part, to));
            }
        }
        // The disk was full, or someone removed the journal: 'check' writes it again.
        let missing = !copied.iter().any(|(part, _)| *part == BackupPart::Leases)
            && self.file(&self.run, key, "mdb").exists();
        drop(lock);
        if missing {
            copied.push((BackupPart::Leases, self.file(&self.run, key, "journal")));
        }
        Ok(copied
            .into_iter()
            .map(|(part, path)| {
                let addresses = match part {
                    BackupPart::Leases => host::read_lease_journal(&path).map(|states| {
                        states.values().filter(|state| matches!(state, AddressState::Leased(_))).count()
                    }),
                    BackupPart::Kept => {
                        host::read_kept_journal(&path).map(|kept| kept.map_or(0, |kept| kept.len()))
                    }
                };
                BackupFile { part, path, addresses }
            })
            .collect())
    }
}

/// Copies a file by rename, synced; `false` if it does not exist.
fn copy(from: &Path, to: &Path) -> Result<bool, StoreError> {
    let mut original = match open_regular(File::options().read(true), from) {
        Ok((file, _)) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(StoreError::io("open", from, source)),
    };
    let failed = |source| StoreError::io("copy to", to, source);
    let folder = to.parent().unwrap_or(to);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let temporary = temporary_of(to);
    let mut copy = File::create(&temporary).map_err(failed)?;
    copy.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    std::io::copy(&mut original, &mut copy).map_err(failed)?;
    copy.sync_all().map_err(failed)?;
    fs::rename(&temporary, to).map_err(failed)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::HostStore;

    #[test]
    fn a_missing_journal_is_said_to_be_missing() {
        let temp = tempfile::tempdir().unwrap();
        let (run, state) = (temp.path().join("run"), temp.path().join("state"));
        let dirs = StoreDirs { run, state, lock_timeout: Duration::from_millis(10) };
        let key = PoolKey::Named("p".to_owned());
        drop(HostStore::open(&dirs, &key).unwrap());
        let to = temp.path().join("backup");
        let problems = || -> Vec<bool> {
            dirs.backup_pool(&key, &to).unwrap().iter().map(|copied| copied.addresses.is_err()).collect()
        };
        assert_eq!(problems(), [false]);
        fs::remove_file(dirs.run.join("pools/p.journal")).unwrap();
        assert_eq!(problems(), [true]);
    }
}
