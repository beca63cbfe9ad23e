use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use net_types::AddrSet;
use node::{Durability, Grants, NetnsRef, Paths, SafeDir};
use serde::Deserialize;
use serde_json::json;

use super::key::AttachmentKey;

/// The folder where runtimes have their plugins.
const CNI_FOLDER: &str = "/opt/cni/bin";
/// The file with the list for `ipam-pool sweep`, in the run folder.
const LIVE_FILE: &str = "live.json";

/// The plugins' executables: beside the daemon's own, or in the runtimes' folder.
pub struct PluginPrograms {
    run: PathBuf,
    folders: Vec<PathBuf>,
}

/// A lease of an attachment.
#[derive(Debug)]
pub struct Lease {
    pub key: AttachmentKey,
    /// The pod's UID, if the runtime stated it.
    pub uid: Option<String>,
    /// The pod in text form, for messages.
    pub pod: Option<String>,
    /// The network namespace of the pod.
    pub netns: Option<NetnsRef>,
}

/// The output of `ipam-pool leases`.
#[derive(Debug, Default)]
pub struct Leases {
    /// The leases that attachments hold.
    pub held: Vec<Lease>,
    /// The owners of kept addresses, held or not.
    pub kept: Vec<StickyOwner>,
}

/// The owner of a kept address.
#[derive(Debug)]
pub struct StickyOwner {
    /// The owner in the form of `ipam-pool`.
    pub owner: String,
    /// Whether no attachment holds the address.
    idle: bool,
}

impl StickyOwner {
    /// The machine, `<namespace>/<name>`, if the owner is one that does not run here.
    pub fn idle_vm(&self) -> Option<&str> {
        let vm = self.owner.strip_prefix("vm:").filter(|_| self.idle)?;
        // The network's name may follow.
        let end = vm.match_indices('/').nth(1).map_or(vm.len(), |(slash, _)| slash);
        vm.get(..end).filter(|vm| vm.contains('/'))
    }
}

impl PluginPrograms {
    /// Uses the programs beside this one and in the runtimes' folder; lists for them are written into `run`.
    pub fn new(run: PathBuf) -> Self {
        let own = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned()));
        Self { run, folders: own.into_iter().chain([CNI_FOLDER.into()]).collect() }
    }

    /// The same, with these folders too.
    pub fn with_folders(mut self, folders: impl IntoIterator<Item = PathBuf>) -> Self {
        self.folders.extend(folders);
        self
    }

    fn find(&self, name: &str) -> Result<(&Path, PathBuf)> {
        // A plugin that uninstall set aside can still be run by the daemon.
        let names = [name.to_owned(), aside_name(name)];
        let all = self.folders.iter().flat_map(|folder| names.iter().map(move |name| (folder, name)));
        let mut all = all.map(|(folder, name)| (folder.as_path(), folder.join(name)));
        let found = all.find(|(_, program)| is_executable(program));
        found.with_context(|| format!("there is no {name} in any of {:?}: install the plugins", self.folders))
    }

    /// Runs a plugin's DEL, which only needs the attachment's key.
    ///
    /// # Errors
    /// The plugin's error.
    pub fn del(&self, plugin: &str, key: &AttachmentKey) -> Result<()> {
        let (folder, program) = self.find(plugin)?;
        let config = json!({ "cniVersion": "1.0.0", "name": "k8slan-sweep", "type": plugin }).to_string();
        let mut command = Command::new(&program);
        command
            .env_clear()
            .env("CNI_COMMAND", "DEL")
            .env("CNI_CONTAINERID", &key.container)
            .env("CNI_IFNAME", &key.ifname)
            .env("CNI_PATH", folder);
        run(command, config.as_bytes()).with_context(|| format!("{plugin} DEL")).map(drop)
    }

    /// All leases; empty if no pool was ever used.
    ///
    /// # Errors
    /// `ipam-pool` cannot be run, or fails.
    pub fn leases(&self, paths: &Paths) -> Result<Leases> {
        if !paths.leases().exists() {
            return Ok(Leases::default());
        }
        let output = self.ipam_pool([OsStr::new("leases"), OsStr::new("--json")])?;
        parse(&output.stdout).context("what ipam-pool leases says")
    }

    /// Frees all leases older than `as_of` that no attachment in the list holds, and that are not kept for an owner
    /// in the list.
    ///
    /// # Errors
    /// `ipam-pool` cannot be run, or fails.
    pub fn free_leases<'a>(
        &self,
        as_of: u64,
        live: impl Iterator<Item = &'a AttachmentKey>,
        owners: impl Iterator<Item = &'a str>,
    ) -> Result<()> {
        let live: Vec<_> =
            live.map(|key| json!({ "containerID": key.container, "ifname": key.ifname })).collect();
        let owners: Vec<_> = owners.collect();
        let text = json!({ "asOf": as_of, "attachments": live, "owners": owners }).to_string();
        SafeDir::create(&self.run)?.write(LIVE_FILE, text.as_bytes(), Durability::UntilReboot)?;
        let path = self.run.join(LIVE_FILE);
        self.ipam_pool([OsStr::new("sweep"), OsStr::new("--live"), path.as_os_str()]).map(drop)
    }

    /// Removes the stores of networks that have nothing in them. Who made them up, and whether they still exist, nobody
    /// says.
    ///
    /// # Errors
    /// `ipam-pool` cannot be run, or fails.
    pub fn remove_unused_stores(&self, paths: &Paths) -> Result<()> {
        if !paths.leases().exists() && !paths.state().join("ipam").exists() {
            return Ok(());
        }
        self.ipam_pool([OsStr::new("sweep")]).map(drop)
    }

    /// What `ipam-pool blocks usage` prints: what the leases use of the cluster's pools.
    ///
    /// # Errors
    /// `ipam-pool` cannot be run, or fails.
    pub fn block_usage(&self) -> Result<Vec<u8>> {
        Ok(self.ipam_pool([OsStr::new("blocks"), OsStr::new("usage")])?.stdout)
    }

    /// Tells `ipam-pool` what it may hand out of a pool of the cluster, under the lock of that pool. With `unless_used` nothing
    /// is changed if something is used that was handed out and would not be any more; what it is is returned.
    ///
    /// # Errors
    /// `ipam-pool` cannot be run, or fails.
    pub fn grant_blocks(&self, pool: &str, grants: &Grants, unless_used: bool) -> Result<AddrSet> {
        #[derive(Deserialize)]
        struct Printed {
            written: bool,
            #[serde(default)]
            used: AddrSet,
        }
        let arguments = ["blocks", "grant", pool].into_iter().chain(unless_used.then_some("--unless-used"));
        let (_, program) = self.find("ipam-pool")?;
        let mut command = Command::new(&program);
        command.env_clear().args(arguments);
        let text = serde_json::to_vec(grants).context("write grants as JSON")?;
        let output = run(command, &text).context("ipam-pool blocks grant")?;
        let printed: Printed =
            serde_json::from_slice(&output.stdout).context("what ipam-pool blocks grant says")?;
        if !printed.written && printed.used.is_empty() {
            bail!("ipam-pool blocks grant neither wrote the grants nor says what is used");
        }
        Ok(if printed.written { AddrSet::default() } else { printed.used })
    }

    fn ipam_pool<'a>(&self, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<Output> {
        let (_, program) = self.find("ipam-pool")?;
        let mut command = Command::new(&program);
        command.env_clear().args(arguments);
        run(command, b"").context("ipam-pool")
    }
}

fn run(mut command: Command, input: &[u8]) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading its input reports the reason itself.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().context("wait for it")?;
    if !output.status.success() {
        let text = [&*output.stdout, &*output.stderr].concat();
        bail!("{}: {}", output.status, String::from_utf8_lossy(&text).trim());
    }
    Ok(output)
}

fn parse(text: &[u8]) -> Result<Leases> {
    #[derive(Deserialize)]
    struct Row {
        owner: Option<String>,
        sticky: bool,
        holders: Vec<Holder>,
    }
    #[derive(Deserialize)]
    struct Holder {
        attachment: Attachment,
        pod: Option<String>,
        uid: Option<String>,
        netns: Option<(PathBuf, u64)>,
    }
    #[derive(Deserialize)]
    struct Attachment {
        container: String,
        interface: String,
    }
    let rows: Vec<Row> = serde_json::from_slice(text)?;
    let kept = rows
        .iter()
        .filter(|row| row.sticky)
        .filter_map(|row| Some(StickyOwner { owner: row.owner.clone()?, idle: row.holders.is_empty() }));
    let kept = kept.collect();
    let holders = rows.into_iter().flat_map(|row| row.holders);
    let held = holders
        .map(|holder| Lease {
            key: AttachmentKey {
                container: holder.attachment.container,
                ifname: holder.attachment.interface,
            },
            uid: holder.uid,
            pod: holder.pod,
            netns: holder.netns.map(|(path, inode)| NetnsRef { path, inode }),
        })
        .collect();
    Ok(Leases { held, kept })
}

/// Whether a file can be executed.
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The name of a file that the installer has set aside.
pub fn aside_name(name: &str) -> String {
    format!(".{name}.k8slan-aside")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_read_as_ipam_pool_writes_them() {
        let text = r#"[{"address":"10.0.0.2","pool":"iot","state":"leased","owner":"default/a/iot","sticky":false,
            "holders":[{"attachment":{"container":"c1","interface":"net1","network":"iot"},"pod":"default/a",
            "uid":"u1","netns":["/run/netns/x",4026533001],"since":12}],"age":"1s"},
            {"address":"10.0.0.3","pool":"iot","state":"resting","sticky":false,"holders":[],"age":"1s"},
            {"address":"10.0.0.4","pool":"iot","state":"leased","owner":"vm:default/vyos/iot","sticky":true,
            "holders":[],"age":"1s"}]"#;
        let Leases { held: leases, kept } = parse(text.as_bytes()).unwrap();
        assert_eq!((leases.len(), kept.len()), (1, 1));
        assert_eq!(kept[0].idle_vm(), Some("default/vyos"));
        for owner in ["default/a/iot", "vm:default"] {
            assert_eq!(StickyOwner { owner: owner.into(), idle: true }.idle_vm(), None, "{owner}");
        }
        assert_eq!(StickyOwner { owner: "vm:default/vyos".into(), idle: false }.idle_vm(), None);
        assert_eq!((leases[0].key.container.as_str(), leases[0].uid.as_deref()), ("c1", Some("u1")));
        assert_eq!(leases[0].netns.as_ref().unwrap().inode, 4_026_533_001);
    }
}
