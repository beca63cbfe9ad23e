use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use node::{NodeConfig, SafeDir};

use super::cni_folder::{CniFolder, Found};
use super::manifest::{Checksum, Installed, Manifest};
use super::purge::{live, purge, remove_files};
use super::put::source;
use super::{PLUGINS, only_installer};

/// What to take away.
#[derive(Debug)]
pub(crate) struct UninstallOptions {
    /// The CNI folder; `None`: every one that plugins were put into.
    pub(crate) cni_bin_dir: Option<PathBuf>,
    /// The folder that has the plugins; `None`: the one of this program.
    pub(crate) from: Option<PathBuf>,
    /// Everything of k8slan, not only the plugins.
    pub(crate) purge: bool,
    /// Also while pods are attached.
    pub(crate) force: bool,
    /// Say what would be done, and do nothing.
    pub(crate) dry_run: bool,
}

/// What becomes of one file.
enum Step {
    /// It is gone already.
    Gone,
    /// It is ours, and goes.
    Remove,
    /// What it replaced gets its name back.
    Restore(String),
    /// It is somebody's, and stays.
    Leave,
    /// The same; an installation that was cut off had only begun to replace it, and its backup goes.
    Unkeep(String),
}

/// Takes the plugins away that [`super::install`] put there, and with `purge` all else that is k8slan's.
///
/// # Errors
/// What it could not do, or for whom it left something standing.
pub(crate) fn uninstall(options: &UninstallOptions) -> Result<()> {
    let paths = NodeConfig::load()?.paths();
    let live = live(&paths)?;
    for who in &live {
        tracing::warn!("{who} is attached");
    }
    if !live.is_empty() && !options.force {
        bail!(
            "{} on this node: their pods could not be taken down without the plugins; delete the pods first, or \
             say --force to cut them off",
            match live.len() {
                1 => "1 interface is attached".to_owned(),
                number => format!("{number} interfaces are attached"),
            }
        );
    }
    if options.dry_run {
        if let Some(state) = SafeDir::open(paths.state())? {
            take_plugins(options, &mut Manifest::read(&state)?, &state)?;
        }
        if options.purge {
            println!("{}, {}: everything of k8slan", paths.run().display(), paths.state().display());
        }
        return Ok(());
    }
    if options.purge {
        // The plugins stay as long as something does: its pod is taken down by them.
        purge(&paths)?;
    }
    if let Some(state) = SafeDir::open(paths.state())? {
        let _only_one = only_installer(&state)?;
        take_plugins(options, &mut Manifest::read(&state)?, &state)?;
    }
    if options.purge { remove_files(&paths) } else { Ok(()) }
}

fn take_plugins(options: &UninstallOptions, manifest: &mut Manifest, state: &SafeDir) -> Result<()> {
    let mut paths: Vec<PathBuf> = manifest.folders.keys().cloned().collect();
    if let Some(only) = &options.cni_bin_dir {
        // Where install.json was lost, it is told by the program's own plugins.
        for name in PLUGINS {
            let known = manifest.entry(only, name);
            known.sha256.extend(own_checksum(options.from.as_deref(), name));
        }
        paths = vec![only.clone()];
    }
    for path in paths {
        let Some(folder) = CniFolder::open(&path)? else {
            manifest.folders.remove(&path);
            continue;
        };
        for (name, known) in manifest.folders.get(&path).cloned().unwrap_or_default() {
            let step = step(&folder, &name, &known)?;
            let what = step.words();
            if options.dry_run {
                println!("{}: {what}", folder.of(&name).display());
                continue;
            }
            folder.unstage(&name)?;
            match step {
                Step::Gone | Step::Leave => {}
                Step::Remove => folder.remove(&name)?,
                Step::Restore(kept) => folder.rename(&kept, &name)?,
                Step::Unkeep(kept) => folder.remove(&kept)?,
            }
            tracing::info!(path = %folder.of(&name).display(), "{what}");
        }
        if !options.dry_run {
            folder.sync()?;
            manifest.folders.remove(&path);
        }
    }
    if options.dry_run { Ok(()) } else { manifest.write(state).context("forget what was installed") }
}

fn own_checksum(from: Option<&Path>, name: &str) -> Option<Checksum> {
    let bytes = std::fs::read(source(from).ok()?.join(name)).ok()?;
    Some(Checksum::of(&bytes))
}

fn step(folder: &CniFolder, name: &str, known: &Installed) -> Result<Step> {
    let kept = match &known.replaced {
        Some(kept) if folder.look(kept)? != Found::Nothing => Some(kept.clone()),
        _ => None,
    };
    Ok(match (folder.look(name)?, kept) {
        (Found::Nothing, None) => Step::Gone,
        (Found::Nothing, Some(kept)) => Step::Restore(kept),
        (Found::File { checksum, .. }, kept) if known.sha256.contains(&checksum) => {
            kept.map_or(Step::Remove, Step::Restore)
        }
        (found, Some(kept)) if folder.look(&kept)? == found => Step::Unkeep(kept),
        _ => Step::Leave,
    })
}

impl Step {
    fn words(&self) -> String {
        match self {
            Self::Gone => "is gone already".to_owned(),
            Self::Remove => "removed".to_owned(),
            Self::Restore(kept) => format!("removed; what it replaced is back from {kept}"),
            Self::Unkeep(_) => "was not replaced yet, and stays".to_owned(),
            Self::Leave => "was changed by somebody else since, and stays".to_owned(),
        }
    }
}
