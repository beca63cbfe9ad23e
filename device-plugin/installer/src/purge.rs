use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use node::{Lock, Paths, SafeDir};

use agent::attachments::{
    AttachmentKey, PluginPrograms, Traces, Unseen, find_attachments, find_live_attachments, is_live,
};
use agent::lans::{Declared, Reconciler};
use proto::events::Dirty;
use proto::locks::{DAEMON_LOCK, lock_cluster_part, lock_daemon};

/// How long the removal of the LANs may take.
const LANS_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes sure that no daemon runs or starts while the result is held; `None` if k8slan was never on this node.
///
/// # Errors
/// A daemon is running.
pub(super) fn lock_out_daemons(paths: &Paths) -> Result<Option<[Lock; 2]>> {
    if SafeDir::open(paths.run())?.is_none() && SafeDir::open(paths.state())?.is_none() {
        return Ok(None);
    }
    let run = SafeDir::create(paths.run())?;
    let locks =
        || -> Result<_> { Ok([lock_daemon(&run, DAEMON_LOCK, Duration::ZERO)?, lock_cluster_part()?]) };
    locks().context("delete the DaemonSet k8slan-ds, or stop the service, first").map(Some)
}

/// Removes everything of k8slan from the kernel, on a node where no daemon runs: first what dead pods left, then the
/// LANs. The ports of live pods are set down and stay, since a container keeps its copy of a device node, whose
/// number must not be given to another.
///
/// # Errors
/// All failures; everything else is removed.
pub(super) fn purge(paths: &Paths, programs: &PluginPrograms) -> Result<()> {
    let mut failed = Vec::new();
    for (attachment, Traces { macvtap, vlan_bridge, .. }) in find_attachments(paths, Unseen::Fail)? {
        if is_live(&attachment.netns) {
            continue;
        }
        for plugin in
            [macvtap.then_some("macvtap"), vlan_bridge.then_some("vlan-bridge")].into_iter().flatten()
        {
            if let Err(error) = programs.del(plugin, &AttachmentKey::from_attachment(&attachment)) {
                failed.push(format!("{attachment}: {error:#}"));
            }
        }
    }
    let mut lans = Reconciler::open("uninstalled".to_owned(), paths, false, false)?;
    let deadline = Instant::now() + LANS_TIMEOUT;
    let left = loop {
        // No LAN is declared, so all of them are removed.
        let outcome =
            lans.reconcile(&Declared::default(), &Dirty { everything: true, ..Dirty::default() })?;
        if outcome.netns.is_empty() {
            break Vec::new();
        }
        if Instant::now() >= deadline || outcome.retry.is_none() {
            break outcome.netns.keys().map(ToString::to_string).collect();
        }
        std::thread::sleep(outcome.retry.unwrap_or(Duration::from_millis(100)));
    };
    let live = find_live_attachments(paths, programs)?;
    for who in live.values() {
        failed.push(format!(
            "{who} is still attached; what it holds is silent: delete the pod, or stop its virtual machine"
        ));
    }
    if live.is_empty() && !left.is_empty() {
        failed.push(format!("network namespaces that do not go: {}", left.join(", ")));
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}; then uninstall again", failed.join("; ")) }
}

/// A runtime creates it for the DaemonSet's mount if no administrator did.
const CONFIG: &str = "/etc/k8slan";

/// Removes the folders of k8slan, except for an administrator's files.
///
/// # Errors
/// All failures; everything else is removed.
pub(super) fn remove_files(paths: &Paths) -> Result<()> {
    remove_folder(paths.run(), &|_| false)?;
    // Only if it is empty; its files are the administrator's.
    let _ = fs::remove_dir(CONFIG);
    let pools = paths.pools();
    let has_pools = fs::read_dir(&pools).is_ok_and(|mut entries| entries.next().is_some());
    if has_pools {
        tracing::info!(folder = %pools.display(), "stays: pool files are the administrator's");
    }
    remove_folder(paths.state(), &|path| has_pools && path == pools)
}

/// Removes a folder with its contents, except for entries to keep. Symbolic links are not followed.
fn remove_folder(folder: &Path, keep: &dyn Fn(&Path) -> bool) -> Result<()> {
    let failed = |path: &Path| format!("remove {}", path.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| failed(folder)),
    };
    let mut kept = false;
    for entry in entries {
        let entry = entry.with_context(|| failed(folder))?;
        let path = entry.path();
        if keep(&path) {
            kept = true;
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            fs::remove_dir_all(&path).with_context(|| failed(&path))?;
        } else {
            fs::remove_file(&path).with_context(|| failed(&path))?;
        }
    }
    if kept {
        return Ok(());
    }
    match fs::remove_dir(folder) {
        // A mount point, as in a container, cannot be removed; it is empty.
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(()),
        removed => removed.with_context(|| failed(folder)),
    }
}
