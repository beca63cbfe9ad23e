use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio_stream::StreamExt as _;

use super::dirty::Dirty;
use super::wake::Wake;

/// Watches folders, which need not exist yet.
pub struct FileWatch {
    folders: Vec<WatchedFolder>,
    watches: Watches,
    placed: Arc<Mutex<WatchMap>>,
    wake: Wake,
}

/// A folder to watch.
#[derive(Clone)]
pub struct WatchedFolder {
    path: PathBuf,
    /// Which of its files are watched, by name.
    matters: fn(&str) -> bool,
    /// What may have changed when one of them did.
    dirty: Dirty,
}

/// By watch descriptor.
type WatchMap = BTreeMap<i32, Watch>;

/// A watch, and the folders that it is for: itself, or folders below it that do not exist yet.
struct Watch {
    wd: WatchDescriptor,
    folders: BTreeSet<(usize, bool)>,
}

impl WatchedFolder {
    /// Marks `dirty` when a file in `path` changes for which `matters` is true.
    pub fn new(path: impl Into<PathBuf>, matters: fn(&str) -> bool, dirty: Dirty) -> Self {
        Self { path: path.into(), matters, dirty }
    }
}

impl FileWatch {
    /// # Errors
    /// The kernel provides no inotify instance (`fs.inotify.max_user_instances`).
    pub fn start(folders: Vec<WatchedFolder>, wake: Wake) -> Result<Self> {
        let inotify =
            Inotify::init().context("make an inotify instance (see fs.inotify.max_user_instances)")?;
        let watches = inotify.watches();
        let placed = Arc::new(Mutex::new(WatchMap::new()));
        let mut events = inotify.into_event_stream(vec![0; 16 * 1024]).context("read inotify")?;
        let watch =
            Self { folders: folders.clone(), watches, placed: Arc::clone(&placed), wake: wake.clone() };
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        mark_changes(&folders, &placed, &wake, &event.wd, event.mask, event.name.as_deref())
                    }
                    Err(error) => {
                        tracing::error!("cannot listen for changes of files any more: {error}");
                        return;
                    }
                }
            }
        });
        Ok(watch)
    }

    /// Puts every watch where it belongs. The caller repeats this after each event: a folder may exist now, or may
    /// have been replaced. A folder that gets a watch is marked, for the changes before it.
    pub fn add_missing_watches(&self) {
        for (nth, folder) in self.folders.iter().enumerate() {
            match self.add_watch(nth, &folder.path) {
                Ok(true) => self.wake.mark(folder.dirty.clone()),
                Ok(false) => {}
                Err(error) => tracing::error!("cannot watch {}: {error}", folder.path.display()),
            }
        }
    }

    fn add_watch(&self, nth: usize, path: &Path) -> io::Result<bool> {
        let mask = WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let mut at = path;
        loop {
            match (self.watches.clone().add(at, mask), at.parent()) {
                (Ok(wd), _) => {
                    let key = wd.get_watch_descriptor_id();
                    let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
                    // The watch may have been on a parent folder, or on a folder that was removed.
                    placed.retain(|&other, watch| {
                        if other != key {
                            watch.folders.retain(|(other, _)| *other != nth);
                        }
                        let keep = other == key || !watch.folders.is_empty();
                        if !keep {
                            // An error means that the watch was removed with its folder.
                            let _ = self.watches.clone().remove(watch.wd.clone());
                        }
                        keep
                    });
                    let watch = placed.entry(key).or_insert(Watch { wd, folders: BTreeSet::new() });
                    watch.folders.retain(|&(other, itself)| other != nth || itself == (at == path));
                    return Ok(watch.folders.insert((nth, at == path)));
                }
                (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => at = parent,
                (Err(error), _) => return Err(error),
            }
        }
    }
}

fn mark_changes(
    folders: &[WatchedFolder],
    placed: &Mutex<WatchMap>,
    wake: &Wake,
    wd: &WatchDescriptor,
    mask: EventMask,
    name: Option<&OsStr>,
) {
    if mask.contains(EventMask::Q_OVERFLOW) {
        wake.mark(Dirty { everything: true, ..Dirty::default() });
        return;
    }
    let mut placed = placed.lock().unwrap_or_else(PoisonError::into_inner);
    let key = wd.get_watch_descriptor_id();
    for &(nth, itself) in placed.get(&key).into_iter().flat_map(|watch| &watch.folders) {
        let Some(folder) = folders.get(nth) else { continue };
        let matters = match name.and_then(OsStr::to_str) {
            Some(name) => !itself || (folder.matters)(name),
            None => true,
        };
        if matters {
            let dirty = folder.dirty.clone();
            wake.mark(match name.and_then(OsStr::to_str) {
                Some(name) if itself => dirty.of_file(name),
                _ => dirty,
            });
        }
    }
    if mask.contains(EventMask::IGNORED) {
        placed.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    async fn woken(wake: &Wake) -> bool {
        let woken = tokio::time::timeout(Duration::from_millis(300), wake.wait()).await.is_ok();
        wake.take_changes();
        woken
    }

    #[tokio::test]
    async fn hears_of_the_files_that_matter_also_in_a_folder_that_comes_late() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b");
        let wake = Wake::default();
        let dirty = Dirty { declared: true, ..Dirty::default() };
        let folder = WatchedFolder::new(&dir, |name| name.ends_with(".yaml"), dirty);
        let watch = FileWatch::start(vec![folder], wake.clone()).unwrap();
        watch.add_missing_watches();
        assert!(woken(&wake).await, "a new watch looks for what it missed");
        watch.add_missing_watches();
        assert!(!woken(&wake).await);

        fs::create_dir_all(&dir).unwrap();
        assert!(woken(&wake).await);
        watch.add_missing_watches();
        assert!(woken(&wake).await);
        fs::write(dir.join("x.txt"), "").unwrap();
        assert!(!woken(&wake).await);
        fs::write(dir.join("x.yaml"), "1").unwrap();
        assert!(woken(&wake).await);
        fs::rename(dir.join("x.yaml"), dir.join("y.yaml")).unwrap();
        assert!(woken(&wake).await);

        fs::remove_dir_all(temp.path().join("a")).unwrap();
        assert!(woken(&wake).await);
        watch.add_missing_watches();
        wake.take_changes();
        fs::create_dir_all(&dir).unwrap();
        assert!(woken(&wake).await);
        watch.add_missing_watches();
        wake.take_changes();
        fs::write(dir.join("z.yaml"), "1").unwrap();
        assert!(woken(&wake).await);
    }

    #[tokio::test]
    async fn says_which_record_changed_or_that_any_may_have() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("spokes");
        fs::create_dir(&dir).unwrap();
        let wake = Wake::default();
        let records = || Dirty { records: true, ..Dirty::default() };
        let folder = WatchedFolder::new(&dir, |name| !name.starts_with('.'), records());
        let watch = FileWatch::start(vec![folder], wake.clone()).unwrap();
        watch.add_missing_watches();
        assert_eq!(wake.take_changes(), records());
        fs::write(dir.join(".a.json.7"), "1").unwrap();
        fs::rename(dir.join(".a.json.7"), dir.join("a.json")).unwrap();
        wake.wait().await;
        assert_eq!(
            wake.take_changes(),
            Dirty { record_files: ["a.json".to_owned()].into(), ..Dirty::default() }
        );
        fs::rename(&dir, temp.path().join("away")).unwrap();
        wake.wait().await;
        assert_eq!(wake.take_changes(), records());
    }
}
