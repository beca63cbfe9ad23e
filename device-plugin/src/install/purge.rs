use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use node::{Attachment, Paths, SafeDir};

use super::attached::attached;
use crate::daemon::only_cluster_part;
use crate::lans::{Declared, Dirty, NodeLans};
use crate::standalone::{DAEMON_LOCK, only_one};

/// The plugins that leave something outside pods.
const ATTACHING: [&str; 2] = ["macvtap", "vlan-bridge"];

/// How long the LANs may take to go.
const PATIENCE: Duration = Duration::from_secs(20);

/// Takes away all that k8slan has in the kernel, on a node where no daemon runs: what dead pods left, then the LANs.
/// What a live pod holds falls silent and stays, since its container keeps its copy of a device node, whose number
/// must not be another's.
///
/// # Errors
/// What could not be taken away; the rest is.
pub(super) fn purge(paths: &Paths, plugins: &Path) -> Result<()> {
    if SafeDir::open(paths.run())?.is_none() && SafeDir::open(paths.state())?.is_none() {
        return Ok(());
    }
    let run = SafeDir::create(paths.run())?;
    let none_runs =
        || -> Result<_> { Ok((only_one(&run, DAEMON_LOCK, Duration::ZERO)?, only_cluster_part()?)) };
    let _none_runs = none_runs().context("delete the DaemonSet k8slan-ds, or stop the service, first")?;
    let mut failed = Vec::new();
    for attachment in attached(paths)?.into_iter().filter(|attachment| !attachment.is_live()) {
        for plugin in ATTACHING {
            if let Err(error) = detach(&plugins.join(plugin), &attachment) {
                failed.push(format!("{plugin}, {attachment}: {error:#}"));
            }
        }
    }
    let mut lans = NodeLans::open("uninstalled".to_owned(), paths, false)?;
    let deadline = Instant::now() + PATIENCE;
    let left = loop {
        // Nothing declares any LAN: all of them go.
        let outcome = lans.pass(&Declared::default(), &Dirty { everything: true, ..Dirty::default() })?;
        if outcome.netns.is_empty() {
            break Vec::new();
        }
        if Instant::now() >= deadline || outcome.retry.is_none() {
            break outcome.netns.keys().map(ToString::to_string).collect();
        }
        std::thread::sleep(outcome.retry.unwrap_or(Duration::from_millis(100)));
    };
    let live: Vec<Attachment> = attached(paths)?.into_iter().filter(Attachment::is_live).collect();
    for attachment in &live {
        failed.push(format!("{attachment} is still attached; what it holds is silent: delete the pod"));
    }
    if live.is_empty() && !left.is_empty() {
        failed.push(format!("network namespaces that do not go: {}", left.join(", ")));
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}; then uninstall again", failed.join("; ")) }
}

/// Runs a plugin's DEL: it finds by marks and records what there is to take away, and needs no configuration.
fn detach(plugin: &Path, attachment: &Attachment) -> Result<()> {
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_COMMAND", "DEL")
        .env("CNI_CONTAINERID", &attachment.container_id)
        .env("CNI_IFNAME", attachment.ifname.as_str())
        .env("CNI_PATH", plugin.parent().unwrap_or(Path::new("/")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}", plugin.display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Why it did not read all of it, it says itself.
        let _ = stdin.write_all(br#"{"cniVersion":"1.0.0","name":"uninstalled","type":"uninstalled"}"#);
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{}", String::from_utf8_lossy(&output.stdout).trim())
}

/// Removes the folders of k8slan, but for files that an administrator put there.
///
/// # Errors
/// What could not be removed; the rest is.
pub(super) fn remove_files(paths: &Paths) -> Result<()> {
    remove_folder(paths.run(), &|_| false)?;
    let pools = paths.pools();
    let has_pools = fs::read_dir(&pools).is_ok_and(|mut entries| entries.next().is_some());
    if has_pools {
        tracing::info!(folder = %pools.display(), "stays: pool files are the administrator's");
    }
    remove_folder(paths.state(), &|path| has_pools && path == pools)
}

/// Removes a folder with all that is in it, but for entries to keep. No link is followed.
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
        // A mount, as in a container: it is empty, which is all that can be had.
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(()),
        removed => removed.with_context(|| failed(folder)),
    }
}
