use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use node::SafeDir;

use super::cni_folder::{CniFolder, FileState};
use super::manifest::{Checksum, Installed, Manifest};
use super::options::UninstallOptions;
use super::programs::{K8SLANVETH, PLUGINS, plugins_folder, program_file};

/// How long a plugin may run that was started before it was set aside.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How often to check whether it still runs.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What to do about one file.
enum RemovalStep {
    /// The file is missing already.
    Gone,
    /// The file is ours.
    Remove,
    /// The file is ours; the backup of what it replaced gets its name back.
    Restore(String),
    /// The file is somebody else's now.
    Leave,
    /// The file is somebody else's; an interrupted installation had begun to replace it, and its backup is removed.
    DropBackup(String),
}

/// The plugins to remove.
pub(super) struct RemovalPlan {
    folders: Vec<(CniFolder, Vec<(String, RemovalStep)>)>,
    /// Folders that do not exist any more.
    gone: Vec<PathBuf>,
    force: bool,
}

impl RemovalPlan {
    /// Finds the plugins; in the manifest they get the path of the folder that was asked for.
    ///
    /// # Errors
    /// They are not where they were installed.
    pub(super) fn find(options: &UninstallOptions, manifest: &mut Manifest) -> Result<Self> {
        if let Some(only) = &options.cni_bin_dir {
            adopt(manifest, only)?;
        }
        let installed: Vec<PathBuf> = manifest.folders.keys().cloned().collect();
        if let Some(only) = &options.cni_bin_dir {
            // If install.json is lost, the file is compared with this program's own plugins.
            let there = CniFolder::open(only)?.map(|folder| folder.read_state(K8SLANVETH)).transpose()?;
            let k8slanveth = there.is_some_and(|found| found != FileState::Absent).then_some(K8SLANVETH);
            for name in PLUGINS.into_iter().chain(k8slanveth) {
                let known = manifest.entry(only, name);
                known.sha256.extend(own_checksum(options.from.as_deref(), name));
            }
        }
        let (mut folders, mut gone) = (Vec::new(), Vec::new());
        for (path, files) in &manifest.folders {
            if !options.purge && options.cni_bin_dir.as_ref().is_some_and(|only| only != path) {
                continue;
            }
            let folder = CniFolder::open(path)?;
            let steps = steps(folder.as_ref(), files.iter())?;
            let known = installed.contains(path) && !files.values().any(|known| known.leaving);
            if known && is_elsewhere(&steps) && !options.force {
                bail!(
                    "none of the plugins that were put into {0} are there: a container may have known another folder by that name \
                     (on k3s, /var/lib/rancher/k3s/data/cni); name the container runtime's CNI folder with --cni-bin-dir, or, where \
                     somebody removed them, say --force or remove /var/lib/k8slan/install.json",
                    path.display()
                );
            }
            match folder {
                Some(folder) => folders.push((folder, steps)),
                None if installed.contains(path) => gone.push(path.clone()),
                None => bail!("there is no folder {}", path.display()),
            }
        }
        Ok(Self { folders, gone, force: options.force })
    }

    /// A plan for a single plugin.
    ///
    /// # Errors
    /// The plugin's file cannot be read.
    pub(super) fn for_plugin(folder: CniFolder, name: &str, known: &Installed) -> Result<Self> {
        let steps = steps(Some(&folder), std::iter::once((&name.to_owned(), known)))?;
        Ok(Self { folders: vec![(folder, steps)], gone: Vec::new(), force: false })
    }

    /// Prints what would be done.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub(super) fn print(&self) -> Result<()> {
        let line = |(folder, name, step): (&CniFolder, &str, &RemovalStep)| {
            format!("{}: {}\n", folder.path_of(name).display(), step.describe())
        };
        let text: String = self.steps().map(line).collect();
        node::print(&text).context("write to standard output")
    }

    /// Sets our files aside, and waits until none of them is running.
    ///
    /// # Errors
    /// One runs for too long; the caller must call [`RemovalPlan::restore`], as after any failure.
    pub(super) fn set_aside(&self) -> Result<()> {
        let ours: Vec<_> = self.steps().filter(|(_, _, step)| step.is_ours()).collect();
        for (folder, name, _) in &ours {
            if folder.read_state(name)? != FileState::Absent {
                folder.set_aside(name)?;
            }
        }
        let deadline = Instant::now() + PLUGIN_TIMEOUT;
        for (folder, name, _) in ours {
            while folder.is_run(name)? {
                if Instant::now() >= deadline {
                    if self.force {
                        break;
                    }
                    bail!(
                        "{} has been running for {PLUGIN_TIMEOUT:?}: a pod is being attached or taken down; uninstall again when it ended",
                        folder.path_of(name).display()
                    );
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        Ok(())
    }

    /// Undoes [`RemovalPlan::set_aside`].
    pub(super) fn restore(&self) {
        for (folder, name, _) in self.steps() {
            if let Err(error) = folder.restore_set_aside(name) {
                tracing::error!("{error:#}; uninstall or install again");
            }
        }
    }

    /// Removes what was set aside, restores the backups, and removes both from the manifest.
    ///
    /// # Errors
    /// The failures; a second call continues there.
    pub(super) fn remove(self, manifest: &mut Manifest, state: Option<&SafeDir>) -> Result<()> {
        let remember = |manifest: &mut Manifest| {
            state.map_or(Ok(()), |state| manifest.write(state)).context("write the list of what is installed")
        };
        for (folder, name, _) in self.steps() {
            manifest.entry(folder.path(), name).leaving = true;
        }
        remember(manifest)?;
        for (folder, name, step) in self.steps() {
            match step {
                RemovalStep::Restore(kept) => folder.rename(kept, name)?,
                RemovalStep::DropBackup(kept) => folder.remove(kept)?,
                RemovalStep::Gone | RemovalStep::Remove | RemovalStep::Leave => {}
            }
            folder.remove_temporaries(name)?;
            tracing::info!(path = %folder.path_of(name).display(), "{}", step.describe());
        }
        for (folder, files) in &self.folders {
            folder.sync()?;
            if let Some(known) = manifest.folders.get_mut(folder.path()) {
                known.retain(|known, _| !files.iter().any(|(name, _)| name == known));
            }
        }
        for folder in &self.gone {
            manifest.folders.remove(folder);
        }
        remember(manifest)
    }

    fn steps(&self) -> impl Iterator<Item = (&CniFolder, &str, &RemovalStep)> {
        self.folders
            .iter()
            .flat_map(|(folder, files)| files.iter().map(move |(name, step)| (folder, name.as_str(), step)))
    }
}

/// Renames a folder in the manifest: a container may have another path for it.
fn adopt(manifest: &mut Manifest, path: &Path) -> Result<()> {
    if manifest.folders.contains_key(path) {
        return Ok(());
    }
    for (other, files) in manifest.folders.clone() {
        let there = steps(CniFolder::open(&other)?.as_ref(), files.iter())?;
        let here = steps(CniFolder::open(path)?.as_ref(), files.iter())?;
        if is_elsewhere(&there) && !is_elsewhere(&here) {
            manifest.folders.remove(&other);
            manifest.folders.insert(path.to_owned(), files);
            break;
        }
    }
    Ok(())
}

/// Whether files were installed somewhere, and none of them is in this folder.
fn is_elsewhere(steps: &[(String, RemovalStep)]) -> bool {
    let none = steps.iter().all(|(_, step)| matches!(step, RemovalStep::Gone | RemovalStep::Leave));
    none && steps.iter().any(|(_, step)| matches!(step, RemovalStep::Gone))
}

fn own_checksum(from: Option<&Path>, name: &str) -> Option<Checksum> {
    let bytes = std::fs::read(plugins_folder(from).ok()?.join(program_file(name))).ok()?;
    Some(Checksum::compute(&bytes))
}

fn steps<'a>(
    folder: Option<&CniFolder>,
    files: impl Iterator<Item = (&'a String, &'a Installed)>,
) -> Result<Vec<(String, RemovalStep)>> {
    let step = |(name, known): (&String, _)| {
        let step = folder.map_or(Ok(RemovalStep::Gone), |folder| step(folder, name, known))?;
        Ok((name.clone(), step))
    };
    files.map(step).collect()
}

fn step(folder: &CniFolder, name: &str, known: &Installed) -> Result<RemovalStep> {
    let kept = match &known.replaced {
        Some(kept) if folder.read_state(kept)? != FileState::Absent => Some(kept.clone()),
        _ => None,
    };
    let found = match folder.read_state(name)? {
        // An interrupted run had set it aside.
        FileState::Absent => folder.read_set_aside(name)?,
        found => found,
    };
    Ok(match (found, kept) {
        (FileState::Absent, None) => RemovalStep::Gone,
        (FileState::Absent, Some(kept)) => RemovalStep::Restore(kept),
        (FileState::File { checksum, .. }, kept) if known.sha256.contains(&checksum) => {
            kept.map_or(RemovalStep::Remove, RemovalStep::Restore)
        }
        (found, Some(kept)) if folder.read_state(&kept)? == found => RemovalStep::DropBackup(kept),
        _ => RemovalStep::Leave,
    })
}

impl RemovalStep {
    /// Whether the file is ours.
    fn is_ours(&self) -> bool {
        matches!(self, Self::Remove | Self::Restore(_))
    }

    fn describe(&self) -> String {
        match self {
            Self::Gone => "is gone already".to_owned(),
            Self::Remove => "removed".to_owned(),
            Self::Restore(kept) => format!("removed; what it replaced is back from {kept}"),
            Self::DropBackup(_) => "was not replaced yet, and stays".to_owned(),
            Self::Leave => "was changed by somebody else since, and stays".to_owned(),
        }
    }
}
