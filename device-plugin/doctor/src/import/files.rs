//! host-local's leases on a node: a folder for each network, and in it a file for each address.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result};
use net_types::Addr;
use serde::{Deserialize, Serialize};

/// The folder of all networks, unless a configuration has another `dataDir`.
pub(super) const FOLDER: &str = "/var/lib/cni/networks";

/// The largest file of a lease, in bytes: a container ID and the name of an interface are much shorter.
const MAX_LEASE: u64 = 64 << 10;

/// What one node has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeLeases {
    pub(super) node: String,
    /// By network; a folder without leases is there as well.
    pub(super) host_local: BTreeMap<String, Vec<FileLease>>,
}

/// The name of a file, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FileLease {
    pub(super) address: Addr,
    /// Empty after a crash of host-local, which does not hand the address out all the same.
    pub(super) container: String,
}

/// Reads the folder; without it there are no leases.
///
/// # Errors
/// Something in it cannot be read.
pub(super) fn read(folder: &Path, node: &str) -> Result<NodeLeases> {
    let mut read = NodeLeases { node: node.to_owned(), ..NodeLeases::default() };
    let networks = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(read),
        networks => networks.with_context(|| format!("read {}", folder.display()))?,
    };
    for network in networks {
        let network = network.with_context(|| format!("read {}", folder.display()))?;
        if let (Ok(name), true) = (network.file_name().into_string(), network.path().is_dir()) {
            let leases = of_network(&network.path());
            read.host_local
                .insert(name, leases.with_context(|| format!("read {}", network.path().display()))?);
        }
    }
    Ok(read)
}

fn of_network(folder: &Path) -> Result<Vec<FileLease>> {
    let mut leases = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        // Not 'lock', nor 'last_reserved_ip.0'.
        let Some(address) = file.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The lease ended since the folder was listed.
        let Some(text) = node::read_regular(&file.path(), MAX_LEASE)? else { continue };
        let text = String::from_utf8_lossy(&text);
        let container = text.lines().next().unwrap_or_default().trim().to_owned();
        leases.push(FileLease { address, container });
    }
    leases.sort();
    Ok(leases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_as_host_local_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let network = folder.path().join("iot");
        fs::create_dir_all(&network).unwrap();
        fs::create_dir_all(folder.path().join("empty")).unwrap();
        for (name, text) in [
            ("10.0.0.5", "0123abcd\r\nnet1"),
            ("fd00::5", "0123abcd\r\nnet1"),
            ("10.0.0.4", ""),
            ("last_reserved_ip.0", "10.0.0.5"),
            ("lock", ""),
        ] {
            fs::write(network.join(name), text).unwrap();
        }
        let read = read(folder.path(), "worker1").unwrap();
        let text = serde_json::to_value(&read).unwrap();
        assert_eq!(
            text,
            serde_json::json!({ "node": "worker1", "hostLocal": { "empty": [], "iot": [
                { "address": "10.0.0.4", "container": "" },
                { "address": "10.0.0.5", "container": "0123abcd" },
                { "address": "fd00::5", "container": "0123abcd" },
            ] } })
        );
        assert_eq!(super::read(&folder.path().join("none"), "a").unwrap().host_local.len(), 0);
    }
}
