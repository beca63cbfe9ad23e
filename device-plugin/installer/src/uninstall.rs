use anyhow::{Result, bail};
use node::{NodeConfig, Paths, SafeDir};

use super::lock_installer;
use super::manifest::Manifest;
use super::options::UninstallOptions;
use super::purge::{lock_out_daemons, purge, remove_files};
use super::removal_plan::RemovalPlan;
use agent::attachments::{PluginPrograms, find_live_attachments};

/// Removes the plugins that [`super::install`] installed, and with `purge` everything else of k8slan's.
///
/// # Errors
/// The failures, or the pods because of which something stays.
pub fn uninstall(options: &UninstallOptions) -> Result<()> {
    let paths = NodeConfig::load()?.paths();
    let state = SafeDir::open(paths.state())?;
    let manifest = || state.as_ref().map_or_else(|| Ok(Manifest::default()), Manifest::read);
    let folders = manifest()?.folders.into_keys().chain(options.cni_bin_dir.clone());
    let programs = PluginPrograms::new(paths.run().to_owned())
        .with_folders(options.from.clone().into_iter().chain(folders));
    refuse_while_attached(options, &paths, &programs)?;
    // Held until the last file is removed: no daemon starts, and nobody installs.
    let acts = !options.dry_run;
    let daemons_locked = if acts && options.purge { lock_out_daemons(&paths)? } else { None };
    let _installer_lock = state.as_ref().filter(|_| acts).map(lock_installer).transpose()?;
    let mut manifest = manifest()?;
    let plan = RemovalPlan::find(options, &mut manifest)?;
    if options.dry_run {
        refuse_while_attached(options, &paths, &programs)?;
        plan.print()?;
        if options.purge {
            let (run, state) = (paths.run().display(), paths.state().display());
            node::print(&format!("{run}, {state}: everything of k8slan\n"))?;
        }
        return Ok(());
    }
    let remove_all = || {
        refuse_while_attached(options, &paths, &programs)?;
        plan.set_aside()?;
        // The last calls of a plugin have ended and left their traces; from here on nobody can run one.
        refuse_while_attached(options, &paths, &programs)?;
        if daemons_locked.is_some() { purge(&paths, &programs) } else { Ok(()) }
    };
    if let Err(error) = remove_all() {
        // The plugins are needed for the DEL of those pods.
        plan.restore();
        return Err(error);
    }
    plan.remove(&mut manifest, state.as_ref())?;
    if options.purge { remove_files(&paths) } else { Ok(()) }
}

fn refuse_while_attached(options: &UninstallOptions, paths: &Paths, programs: &PluginPrograms) -> Result<()> {
    let attached = find_live_attachments(paths, programs)?;
    for who in attached.values() {
        tracing::warn!("{who} is attached");
    }
    if attached.is_empty() || options.force {
        return Ok(());
    }
    bail!(
        "{} on this node: their pods could not be taken down without the plugins; delete the pods and stop the virtual machines first, or say --force \
         to cut them off",
        match attached.len() {
            1 => "1 interface is attached".to_owned(),
            number => format!("{number} interfaces are attached"),
        }
    );
}
