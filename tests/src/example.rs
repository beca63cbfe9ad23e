use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use lan::pool::{LanPool, ParsedPool};
use net_types::{Addr, AddrRange, AddrSet};
use serde_json::{Value, json};
use testnet::{Node, Outcome, Stop, program, workspace};

use crate::Network;

/// A folder of `nad-examples/`: what a user would apply, for a test that builds it.
#[derive(Clone, Debug)]
pub struct Example {
    folder: PathBuf,
}

impl Example {
    /// The folder of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { folder: workspace().join("nad-examples").join(name) }
    }

    /// A file's text.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn text(&self, file: &str) -> Result<String, Stop> {
        let path = self.folder.join(file);
        fs::read_to_string(&path).map_err(|error| Stop::Failed(format!("{}: {error}", path.display())))
    }

    /// The configuration of the NetworkAttachmentDefinition of this name in a file, as Multus hands it to the
    /// plugin: with the network's name, and with the device if it asks for a resource.
    ///
    /// # Errors
    /// If the file has none.
    pub fn network(&self, file: &str, name: &str) -> Result<Value, Stop> {
        let objects: Vec<Value> = serde_saphyr::from_multiple(&self.text(file)?)?;
        let wanted = |object: &&Value| {
            object["kind"] == "NetworkAttachmentDefinition" && object["metadata"]["name"] == name
        };
        let object = objects
            .iter()
            .find(wanted)
            .ok_or_else(|| Stop::Failed(format!("{file} has no network {name}")))?;
        if !object["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"].is_null() {
            return Ok(Network::of_object(object)?.config);
        }
        let mut config: Value = serde_json::from_str(object["spec"]["config"].as_str().unwrap_or_default())?;
        config["name"] = object["metadata"]["name"].clone();
        Ok(config)
    }

    /// The objects of this kind in all files of the folder.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn objects(&self, kind: &str) -> Result<Vec<Value>, Stop> {
        let mut objects = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                let documents: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(&path)?)?;
                objects.extend(documents.into_iter().filter(|document| document["kind"] == kind));
            }
        }
        Ok(objects)
    }

    /// Tells a node its name, and what its daemon has it know of the example's pools: the pools, what is reserved, and blocks. Three
    /// nodes share a pool: the node whose name ends in 2, or begins with `remote`, has the second third of it, and so on.
    ///
    /// # Errors
    /// If that fails.
    pub fn pools_to(&self, node: &Node) -> Outcome {
        node.write("/etc/k8slan/node.yaml", format!("nodeName: {}\n", node.name()))?;
        let third = match node.name().chars().last() {
            Some('2') => 1,
            Some('3') => 2,
            _ if node.name() == "remote" => 1,
            _ => 0,
        };
        let reservations = self.objects("LANReservation")?;
        for object in self.objects("LANPool")? {
            let pool: LanPool = serde_json::from_value(object.clone())?;
            let name = pool.metadata.name.clone().unwrap_or_default();
            let of_pool =
                reservations.iter().filter(|reservation| reservation["spec"]["pool"] == name.as_str());
            let reserved: Vec<Value> = of_pool.map(reserved).collect();
            let written = json!({
                "name": name, "spec": pool.spec, "blocks": { "v4": 32, "v6": 128 }, "reserved": reserved,
            });
            node.write(&format!("/var/lib/k8slan/blocks/pools/{name}.json"), written.to_string())?;
            let addresses = ParsedPool::parse(&pool.spec)?;
            let taken = reserved
                .iter()
                .map(|one| text(one, "address").parse())
                .collect::<Result<Vec<AddrRange>, _>>();
            let free = addresses
                .handed_out()
                .without(&AddrSet::union(taken.map_err(|error| Stop::Failed(error.to_string()))?));
            let floating: Vec<Value> = reserved
                .iter()
                .filter(|one| one["owner"].is_string())
                .map(|one| json!({ "address": one["address"], "owner": one["owner"], "until": FAR }))
                .collect();
            let grants = json!({
                "bootId": fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim(),
                "grants": [{ "addresses": part(&free, third), "until": FAR }],
                "floating": floating,
            });
            let mut command = node.command(program("ipam-pool"));
            command.args(["blocks", "grant", &name]).stdin(Stdio::piped()).stdout(Stdio::null());
            let mut child = command.spawn()?;
            child.stdin.take().map(|mut stdin| stdin.write_all(grants.to_string().as_bytes())).transpose()?;
            let status = child.wait()?;
            if !status.success() {
                return Err(Stop::Failed(format!("blocks of {name} are not granted: {status}")));
            }
        }
        Ok(())
    }
}

/// A moment that no test reaches.
const FAR: u64 = u64::MAX / 2;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// What the daemon says of a reservation.
fn reserved(reservation: &Value) -> Value {
    let owner = &reservation["spec"]["owner"];
    let of = match owner["kind"].as_str() {
        Some("VirtualMachine") => "vm",
        Some(_) => "pod",
        None => return json!({ "address": reservation["spec"]["address"] }),
    };
    let owner = format!("{of}:{}/{}", text(&reservation["metadata"], "namespace"), text(owner, "name"));
    json!({ "address": reservation["spec"]["address"], "owner": owner })
}

/// A third of the addresses, in their order: the first, the second or the rest.
fn part(addresses: &AddrSet, third: u128) -> AddrSet {
    let size = addresses.len() / 3;
    let (mut skip, mut left) = (third * size, if third == 2 { u128::MAX } else { size });
    let mut parts = Vec::new();
    for range in addresses.iter() {
        let skipped = skip.min(range.len());
        skip -= skipped;
        let count = left.min(range.len() - skipped);
        left -= count;
        let at = |offset| Addr::new(range.family(), range.first().number() + offset);
        if count > 0
            && let (Some(first), Some(last)) = (at(skipped), at(skipped + count - 1))
        {
            parts.extend(AddrRange::new(first, last));
        }
    }
    AddrSet::union(parts)
}
