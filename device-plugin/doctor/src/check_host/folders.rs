//! Checks of the folders and sockets of container runtime and kubelet.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use serde_json::Value;

use super::finding::Finding;
use super::host_snapshot::HostSnapshot;

/// The most bytes that a plugin can have.
const MAX_PROGRAM: u64 = 256 << 20;
/// The most bytes that a network's configuration can have.
const MAX_CONFIG: u64 = 10 << 20;

/// The plugins that k8slan installs into the CNI folder.
const PLUGINS: [&str; 3] = ["macvtap", "vlan-bridge", "ipam-pool"];
/// A text that every one of them contains, and no other program.
const MARK: &[u8] = b"k8slan";

/// Checks the folder of CNI plugins, and which programs have our plugins' names.
pub(super) fn cni_bin(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let dir = &host.options.cni_bin_dir;
    let check = "CNI folder";
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            let advice = "make it, or name the runtime's with --cni-bin-dir";
            return vec![Finding::failure(check, format!("{}: {error}", dir.display()), advice)];
        }
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    let mut findings = Vec::new();
    let contents = if names.is_empty() { "nothing is in it".to_owned() } else { names.join(" ") };
    let found = format!("{}: {contents}", dir.display());
    findings.push(match access(dir, AccessFlags::W_OK) {
        Ok(()) => Finding::fine(check, found),
        Err(error) => Finding::failure(
            check,
            format!("{} cannot be written to: {error}", dir.display()),
            "on a node whose /opt is read-only, configure another folder in the runtime, and name it with --cni-bin-dir",
        ),
    });
    for plugin in PLUGINS {
        let check = format!("CNI plugin {plugin}");
        let path = dir.join(plugin);
        findings.push(match node::read_regular(&path, MAX_PROGRAM) {
            Ok(None) => Finding::not_looked_at(check, "it is not installed yet"),
            Err(error) => Finding::not_looked_at(check, error.to_string()),
            Ok(Some(program)) if contains(&program, MARK) => Finding::fine(check, "k8slan's"),
            Ok(Some(_)) => Finding::failure(
                check,
                format!("{} is another program of that name", path.display()),
                format!("find out who uses it (networks with \"type\": \"{plugin}\"); both cannot be in one folder"),
            ),
        });
    }
    findings
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Checks the folder of CNI configurations, and whether Multus comes first in it.
pub(super) fn cni_conf(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let dir = &host.options.cni_conf_dir;
    let check = "CNI configuration";
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            let advice =
                "install the cluster's network and Multus, or name the runtime's folder with --cni-conf-dir";
            return vec![Finding::warning(check, format!("{}: {error}", dir.display()), advice)];
        }
    };
    let mut files: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_config(path)).collect();
    files.sort_unstable();
    let advice = "install Multus: without it pods have no second network";
    let Some(first) = files.first() else {
        return vec![Finding::warning(check, format!("nothing is configured in {}", dir.display()), advice)];
    };
    let multus = files.iter().find(|file| types(file).iter().any(|kind| kind.starts_with("multus")));
    vec![match multus {
        Some(file) if file == first => Finding::fine(check, format!("Multus, in {}", file.display())),
        Some(file) => Finding::warning(
            check,
            format!("runtimes take the first file, {}; Multus is in {}", first.display(), file.display()),
            "let Multus' file come first, as 00-multus.conf does",
        ),
        None => Finding::warning(
            check,
            format!("no Multus in {}; {} is used", dir.display(), first.display()),
            advice,
        ),
    }]
}

fn is_config(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "conf" || end == "conflist" || end == "json")
}

/// The types of the plugins that a file configures.
fn types(file: &Path) -> Vec<String> {
    let text = node::read_regular(file, MAX_CONFIG).ok().flatten().unwrap_or_default();
    let config: Value = serde_json::from_slice(&text).unwrap_or_default();
    let list = config["plugins"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all = std::iter::once(&config).chain(list);
    all.filter_map(|plugin| plugin["type"].as_str().map(str::to_owned)).collect()
}

/// Checks the kubelet's socket for device plugins.
pub(super) fn kubelet(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let dir = &host.options.kubelet_dir;
    let socket = dir.join("kubelet.sock");
    let check = "kubelet";
    let advice = "start the kubelet, or name its folder with --kubelet-dir; a host without Kubernetes is checked with --single-host";
    let is_socket = match fs::metadata(&socket) {
        Ok(meta) => meta.file_type().is_socket(),
        Err(error) => {
            return vec![Finding::failure(check, format!("{}: {error}", socket.display()), advice)];
        }
    };
    vec![match is_socket.then(|| UnixStream::connect(&socket)) {
        None => Finding::failure(check, format!("{} is not a socket", socket.display()), advice),
        Some(Err(error)) => {
            Finding::failure(check, format!("{}: nobody answers: {error}", socket.display()), advice)
        }
        Some(Ok(_)) => match access(dir, AccessFlags::W_OK) {
            Ok(()) => Finding::fine(check, format!("it listens on {}", socket.display())),
            Err(error) => Finding::failure(
                check,
                format!("{} cannot be written to: {error}", dir.display()),
                "the daemon has a socket of its own there for every resource: mount it writable",
            ),
        },
    }]
}
