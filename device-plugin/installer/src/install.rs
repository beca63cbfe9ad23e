use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use node::{NodeConfig, SafeDir};

use super::cni_folder::{CniFolder, FileState};
use super::lock_installer;
use super::manifest::{Checksum, Installed, Manifest};
use super::options::InstallOptions;
use super::programs::{K8SLANVETH, PLUGINS, plugins_folder, program_file};
use super::removal_plan::RemovalPlan;
use agent::handed_out::HandedOut;

/// A plugin to install, with its bytes.
struct Plugin {
    name: &'static str,
    bytes: Vec<u8>,
    checksum: Checksum,
}

/// What to do about one plugin.
#[derive(Debug, PartialEq, Eq)]
enum InstallStep {
    /// The installed file is up to date.
    Leave,
    /// There is no file of that name.
    Add,
    /// There is another version of ours.
    Replace,
    /// There is a file of somebody else's, which becomes a backup.
    Keep(FileState),
}

/// Installs the plugins into the CNI folder.
///
/// # Errors
/// The first failure. Unless the error says otherwise, the folder's plugins are unchanged.
pub fn install(options: &InstallOptions) -> Result<()> {
    let paths = NodeConfig::load()?.paths();
    let names = |k8slanveth: bool| PLUGINS.into_iter().chain(k8slanveth.then_some(K8SLANVETH));
    let Some(folder) = CniFolder::open(&options.cni_bin_dir)? else {
        bail!(
            "there is no folder {}: name the one that the container runtime takes CNI plugins from, with --cni-bin-dir",
            options.cni_bin_dir.display()
        );
    };
    if folder.is_empty()? {
        tracing::warn!(
            folder = %folder.path().display(),
            "no other CNI plugin is in this folder: is it the one that the container runtime uses?"
        );
    }
    if options.dry_run {
        let manifest = match SafeDir::open(paths.state())? {
            Some(state) => Manifest::read(&state)?,
            None => Manifest::default(),
        };
        let obsolete = obsolete_k8slanveth(options, paths.state(), &manifest, &folder);
        for plugin in &plugins(options.from.as_deref(), names(options.k8slan_go))? {
            let step = step(&folder, &manifest, plugin)?;
            node::print(&format!("{}: {step}\n", folder.path_of(plugin.name).display()))?;
        }
        if let Some(known) = obsolete {
            RemovalPlan::for_plugin(folder, K8SLANVETH, &known)?.print()?;
        }
        return Ok(());
    }
    let state = SafeDir::create(paths.state())?;
    state.make_private()?;
    let _installer_lock = lock_installer(&state)?;
    state.remove_temporaries(|of| of == super::manifest::FILE)?;
    let mut manifest = Manifest::read(&state)?;
    let is_known = manifest.get(folder.path(), K8SLANVETH).is_some();
    let obsolete = obsolete_k8slanveth(options, paths.state(), &manifest, &folder);
    let stays = options.k8slan_go || is_known && obsolete.is_none();
    if stays && !options.k8slan_go {
        tracing::warn!(
            "{K8SLANVETH} stays until the pods are gone that were attached by it: they could not be taken down without"
        );
    }
    install_plugins(&state, &mut manifest, &folder, &plugins(options.from.as_deref(), names(stays))?)?;
    let Some(known) = obsolete else { return Ok(()) };
    let plan = RemovalPlan::for_plugin(folder, K8SLANVETH, &known)?;
    if let Err(error) = plan.set_aside() {
        plan.restore();
        return Err(error);
    }
    plan.remove(&mut manifest, Some(&state))
}

/// The manifest's entry of `k8slanveth`, if it was installed, is not wanted any more, and no pod needs it for DEL.
fn obsolete_k8slanveth(
    options: &InstallOptions,
    state: &Path,
    manifest: &Manifest,
    folder: &CniFolder,
) -> Option<Installed> {
    let known = manifest.get(folder.path(), K8SLANVETH).filter(|_| !options.k8slan_go)?;
    (!HandedOut::any_veth(state)).then(|| known.clone())
}

/// The most bytes that a plugin can have.
const MAX_PROGRAM: u64 = 256 << 20;

/// Reads the plugins to install.
fn plugins(from: Option<&Path>, names: impl Iterator<Item = &'static str>) -> Result<Vec<Plugin>> {
    let from = plugins_folder(from)?;
    names
        .map(|name| {
            let path = from.join(program_file(name));
            let hint =
                || format!("read {}: name the folder that has the plugins, with --from", path.display());
            let bytes = node::read_regular(&path, MAX_PROGRAM)
                .and_then(|bytes| bytes.ok_or_else(|| node::SafeDirError::NotAFile(path.clone())))
                .with_context(hint)?;
            let checksum = Checksum::compute(&bytes);
            Ok(Plugin { name, bytes, checksum })
        })
        .collect()
}

fn step(folder: &CniFolder, manifest: &Manifest, plugin: &Plugin) -> Result<InstallStep> {
    let known = manifest.get(folder.path(), plugin.name);
    Ok(match folder.read_state(plugin.name)? {
        FileState::Absent => InstallStep::Add,
        FileState::Other => bail!(
            "{} is neither a file nor a link: move away what is there",
            folder.path_of(plugin.name).display()
        ),
        FileState::File { checksum, fit: true } if checksum == plugin.checksum => InstallStep::Leave,
        FileState::File { checksum, .. } if checksum == plugin.checksum => InstallStep::Replace,
        FileState::File { checksum, .. } if known.is_some_and(|known| known.sha256.contains(&checksum)) => {
            InstallStep::Replace
        }
        found => InstallStep::Keep(found),
    })
}

fn install_plugins(
    state: &SafeDir,
    manifest: &mut Manifest,
    folder: &CniFolder,
    plugins: &[Plugin],
) -> Result<()> {
    let mut steps = Vec::new();
    for plugin in plugins {
        steps.push((plugin, step(folder, manifest, plugin)?));
    }
    // All of them first: a full disk is found while every old one is still in its place.
    let staged = steps
        .iter()
        .filter(|(_, step)| *step != InstallStep::Leave)
        .try_for_each(|(plugin, _)| folder.stage(plugin.name, &plugin.bytes));
    // The manifest is written before any file gets its name, so that the next run knows it.
    let known = staged.and_then(|()| {
        for plugin in plugins {
            let known = manifest.entry(folder.path(), plugin.name);
            known.sha256.insert(plugin.checksum.clone());
            known.leaving = false;
        }
        manifest.write(state)
    });
    if let Err(error) = known {
        for plugin in plugins {
            // The first error is the one to report; the next run removes what is left.
            let _ = folder.discard_staged(plugin.name);
        }
        return Err(error);
    }
    for (plugin, step) in &steps {
        let path = folder.path_of(plugin.name);
        match step {
            InstallStep::Leave => {}
            InstallStep::Add | InstallStep::Replace => folder.publish_staged(plugin.name)?,
            InstallStep::Keep(found) => {
                // A program that writes its file again and again has one backup, of the newest.
                let known = manifest.get(folder.path(), plugin.name);
                let backup = match known.and_then(|known| known.replaced.clone()) {
                    Some(backup) => backup,
                    None => folder.choose_backup_name(plugin.name, found)?,
                };
                manifest.entry(folder.path(), plugin.name).replaced = Some(backup.clone());
                manifest.write(state)?;
                folder.link_backup(plugin.name, &backup)?;
                folder.publish_staged(plugin.name)?;
            }
        }
        folder.remove_temporaries(plugin.name)?;
        tracing::info!(path = %path.display(), checksum = %plugin.checksum, "{step}");
    }
    folder.sync()?;
    for plugin in plugins {
        let expected = FileState::File { checksum: plugin.checksum.clone(), fit: true };
        if folder.read_state(plugin.name)? != expected {
            bail!(
                "{} is not what was put there: another program writes to this folder",
                folder.path_of(plugin.name).display()
            );
        }
        let Installed { sha256, .. } = manifest.entry(folder.path(), plugin.name);
        sha256.retain(|checksum| *checksum == plugin.checksum);
    }
    manifest.write(state)
}

impl fmt::Display for InstallStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leave => f.write_str("is up to date"),
            Self::Add => f.write_str("new"),
            Self::Replace => f.write_str("another version of ours is replaced"),
            Self::Keep(FileState::Link(to)) => {
                write!(f, "a link to {} is replaced, and kept beside it", to.display())
            }
            Self::Keep(_) => f.write_str("another program is replaced, and kept beside it"),
        }
    }
}
