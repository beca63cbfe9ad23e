//! The record of each port, `/run/k8slan/ports/<port>.json`: what ADD decided and DEL removes. It is written before
//! anything is created and removed after everything is gone, so that a kill at any moment leaves either nothing or a
//! record of what to clean up. It also holds the VLANs of a trunk after a change.

use std::cell::OnceCell;
use std::time::Duration;

use attach::stable_mac;
use ipnetwork::IpNetwork;
use net_types::{IfName, MacAddr, VlanId, VlanSet};
use netplumb::{BridgeVlans, PortGuard};
use node::{Attachment, Durability, Lock, Paths, SafeDir, SafeDirError};
use serde::{Deserialize, Serialize, Serializer};

use crate::Error;

/// How long a program waits for another one that works on the same bridge.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
const SUFFIX: &str = ".json";
const PORTS: &str = "ports";

/// The record of a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortRecord {
    /// The owner, as in the alias of the link.
    pub attachment: String,
    pub bridge: IfName,
    /// Its VLANs; `None`: the configuration has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlans: Option<BridgeVlans>,
    /// The uplinks that it needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<RecordedUplink>,
    /// Uplinks that ports brought which are gone by now: this port's record has them until it goes, or the bridge does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_uplinks: Vec<JoinedUplink>,
    /// The node's own links and addresses that it needs.
    #[serde(rename = "legs", default, skip_serializing_if = "Vec::is_empty")]
    pub host_interfaces: Vec<RecordedHostInterface>,
    /// The addresses that it may send from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<RecordedGuard>,
    /// The pod's addresses that are masqueraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masquerade: Vec<IpNetwork>,
    /// The links by which their packets reach the node; records of an earlier version have none, and their rules hold
    /// for every link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masquerade_from: Vec<IfName>,
    /// Whether this plugin made the bridge promiscuous.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub promisc: bool,
    /// The IPAM plugin, empty if there is none; absent in records of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<String>,
}

/// An uplink that a port needs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RecordedUplink {
    pub name: IfName,
    /// Whether it carries all VLANs of the port.
    #[serde(default)]
    pub follow: bool,
    /// The VLANs that it must carry if it does not follow.
    #[serde(default)]
    pub fixed: VlanSet,
    /// The VLANs that this plugin added to it: only these are ever removed.
    #[serde(default)]
    pub added: VlanSet,
    /// Whether this plugin made it a port, and how it was before; `None` also in records of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<Joined>,
}

/// A link that this plugin made a port of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// Whether it was down, as the node's administrator or nobody had left it.
    pub was_down: bool,
}

/// The same with the link's name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct JoinedUplink {
    pub name: IfName,
    #[serde(flatten)]
    pub joined: Joined,
}

/// A link or an address of the node in a VLAN.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RecordedHostInterface {
    /// The link: the bridge itself or a VLAN device on it.
    pub link: IfName,
    /// The VLAN of the device, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpNetwork>,
    /// Whether this plugin added the address.
    #[serde(default)]
    pub added: bool,
    /// Whether this plugin made the bridge itself carry the VLAN.
    #[serde(default)]
    pub joined: bool,
}

/// The form of [`PortGuard`] in the file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct RecordedGuard {
    /// Allowed source MAC addresses; `None`: any.
    pub macs: Option<Vec<MacAddr>>,
    /// Allowed source IP addresses; `None`: any. Single ones are written without a prefix length, as the previous version reads
    /// them.
    #[serde(serialize_with = "without_length")]
    pub addresses: Option<Vec<IpNetwork>>,
    /// Its own MAC addresses, if any source is allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<MacAddr>,
    /// What the rules are that were put on the port ([`PortGuard::rules_hash`]): another version may make others of the same
    /// guard. Absent in what an earlier version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn without_length<S: Serializer>(
    addresses: &Option<Vec<IpNetwork>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let text = |network: &IpNetwork| match network.prefix() == if network.is_ipv4() { 32 } else { 128 } {
        true => network.ip().to_string(),
        false => network.to_string(),
    };
    addresses.as_ref().map(|all| all.iter().map(text).collect::<Vec<_>>()).serialize(serializer)
}

impl RecordedGuard {
    /// The guard of a port with its final addresses.
    pub(crate) fn of_port(&self, port: &IfName) -> PortGuard {
        let (own, check_macs) = match &self.macs {
            Some(macs) => (macs.clone(), true),
            None => (self.own.clone(), false),
        };
        PortGuard { port: port.clone(), own, check_macs, addresses: self.addresses.clone(), asking: false }
    }

    /// The guard while addresses are probed, which may be done from another MAC address.
    pub(crate) fn of_asking_port(&self, port: &IfName, asker: Option<MacAddr>) -> PortGuard {
        let mut guard = self.of_port(port);
        guard.own.extend(asker);
        guard.asking = true;
        guard
    }
}

impl PortRecord {
    /// The uplinks that this plugin made ports of the bridge, as far as this record has them.
    pub(crate) fn joined_uplinks(&self) -> impl Iterator<Item = JoinedUplink> + use<'_> {
        let own = self.uplinks.iter().filter_map(|uplink| {
            uplink.joined.map(|joined| JoinedUplink { name: uplink.name.clone(), joined })
        });
        own.chain(self.left_uplinks.iter().cloned())
    }

    /// The owner of the port; `None` if the text is not a tag.
    #[must_use]
    pub fn attachment(&self) -> Option<Attachment> {
        Attachment::parse_tag(&self.attachment)
    }

    /// All VLANs of the port, tagged and untagged.
    #[must_use]
    pub fn all_vlans(&self) -> VlanSet {
        self.vlans.as_ref().map(BridgeVlans::all).unwrap_or_default()
    }
}

/// The name of an attachment's port: `vb` and twelve hexadecimal digits, always the same.
#[must_use]
pub fn port_name(container_id: &str, ifname: &IfName) -> IfName {
    use std::fmt::Write;
    let digits = stable_mac(&["vlan-bridge port", container_id, ifname.as_str()]).octets();
    let name = digits.iter().fold("vb".to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    });
    name.parse().unwrap_or_else(|_| unreachable!("vb and twelve digits are a name"))
}

/// The folder of the records, with the locks of the bridges.
pub struct RecordStore {
    ports: SafeDir,
    locks: OnceCell<SafeDir>,
    paths: Paths,
}

impl RecordStore {
    /// Opens the records, and creates their folder if it is missing.
    ///
    /// # Errors
    /// Others than root may write the folder.
    pub fn open(paths: &Paths) -> Result<Self, Error> {
        let ports = SafeDir::create(&paths.run().join(PORTS)).map_err(Error::Records)?;
        Ok(Self { ports, locks: OnceCell::new(), paths: paths.clone() })
    }

    /// Opens the records if there are any; nothing is created.
    ///
    /// # Errors
    /// Others than root may write the folder.
    pub fn existing(paths: &Paths) -> Result<Option<Self>, Error> {
        let ports = SafeDir::open(&paths.run().join(PORTS)).map_err(Error::Records)?;
        Ok(ports.map(|ports| Self { ports, locks: OnceCell::new(), paths: paths.clone() }))
    }

    /// The folders of the node.
    pub(crate) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The folder of the locks, created when the first one is needed.
    fn locks(&self) -> Result<&SafeDir, SafeDirError> {
        if let Some(locks) = self.locks.get() {
            return Ok(locks);
        }
        let locks = SafeDir::create(&self.paths.run().join("bridges"))?;
        Ok(self.locks.get_or_init(|| locks))
    }

    /// Acquires the lock of a bridge, which keeps other programs away until it is dropped.
    ///
    /// # Errors
    /// Another program holds it for longer than thirty seconds.
    pub fn lock(&self, bridge: &IfName) -> Result<Lock, Error> {
        Ok(Lock::acquire(self.locks().map_err(Error::Records)?, &format!("{bridge}.lock"), LOCK_TIMEOUT)?)
    }

    /// Acquires the lock of the guards, which all bridges share. No bridge has a `:` in its name.
    pub(crate) fn lock_guards(&self) -> Result<Lock, Error> {
        Ok(Lock::acquire(self.locks().map_err(Error::Records)?, "guards:.lock", LOCK_TIMEOUT)?)
    }

    /// The record of a port; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read, or is not one of this plugin's.
    pub fn read(&self, port: &IfName) -> Result<Option<PortRecord>, Error> {
        let Some(text) = self.ports.read(&file(port)).map_err(Error::Records)? else { return Ok(None) };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| Error::RecordText { port: port.clone(), source })
    }

    /// Writes the whole record of a port.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, port: &IfName, record: &PortRecord) -> Result<(), Error> {
        let text =
            serde_json::to_vec(record).map_err(|source| Error::RecordText { port: port.clone(), source })?;
        self.ports.write(&file(port), &text, Durability::UntilReboot).map_err(Error::Records)
    }

    /// Removes the record of a port; a missing one is success.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, port: &IfName) -> Result<(), Error> {
        self.ports.remove_with_leftovers(&file(port)).map_err(Error::Records)
    }

    /// All records except damaged ones, which do not say what their ports need.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn all(&self) -> Result<Vec<(IfName, PortRecord)>, Error> {
        let names = self.ports.names().map_err(Error::Records)?;
        let ports = names.iter().filter_map(|name| name.strip_suffix(SUFFIX)?.parse::<IfName>().ok());
        Ok(ports.filter_map(|port| Some((port.clone(), self.read(&port).ok()??))).collect())
    }

    /// Removes files of programs that died, and the locks of deleted bridges. Errors are ignored; the next GC tries
    /// again.
    pub(crate) fn tidy(&self, is_there: impl Fn(&str) -> bool) {
        let _ = self.ports.remove_old_temporaries();
        let gone = |bridge: &str| !bridge.contains(':') && !is_there(bridge);
        if let Ok(Some(locks)) = SafeDir::open(&self.paths.run().join("bridges")) {
            let _ = locks.remove_locks(gone);
        }
    }

    /// The records of a bridge's other ports.
    pub(crate) fn others(&self, bridge: &IfName, port: &IfName) -> Result<Vec<PortRecord>, Error> {
        Ok(self.named_others(bridge, port)?.into_iter().map(|(_, record)| record).collect())
    }

    /// The same with the ports' names.
    pub(crate) fn named_others(
        &self,
        bridge: &IfName,
        port: &IfName,
    ) -> Result<Vec<(IfName, PortRecord)>, Error> {
        let all = self.all()?.into_iter();
        Ok(all.filter(|(name, record)| name != port && record.bridge == *bridge).collect())
    }
}

fn file(port: &IfName) -> String {
    format!("{port}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ports_name_is_its_attachments() {
        let eth0 = "eth0".parse().unwrap();
        let name = port_name("c1", &eth0);
        assert_eq!(name, port_name("c1", &eth0));
        assert_ne!(name, port_name("c2", &eth0));
        assert_ne!(name, port_name("c1", &"eth1".parse().unwrap()));
        assert_eq!(name.as_str().len(), 14);
    }

    #[test]
    fn a_record_reads_back() {
        let record = PortRecord {
            attachment: "k8slan:attach c net1 1 /x 0000000000000001".to_owned(),
            bridge: "br0".parse().unwrap(),
            vlans: Some(BridgeVlans {
                tagged: "10,20-30".parse().unwrap(),
                untagged: "1".parse().unwrap(),
                pvid: "1".parse().ok(),
            }),
            uplinks: vec![RecordedUplink {
                name: "eth0".parse().unwrap(),
                follow: true,
                fixed: VlanSet::EMPTY,
                added: "10".parse().unwrap(),
                joined: Some(Joined { was_down: true }),
            }],
            left_uplinks: vec![JoinedUplink {
                name: "eth1".parse().unwrap(),
                joined: Joined { was_down: false },
            }],
            host_interfaces: Vec::new(),
            guard: Some(RecordedGuard {
                macs: None,
                addresses: Some(vec!["10.0.0.5/32".parse().unwrap(), "fe80::/64".parse().unwrap()]),
                own: vec!["02:00:00:00:00:01".parse().unwrap()],
                rules: Some("0123456789abcdef".into()),
            }),
            masquerade: vec!["10.0.0.5/24".parse().unwrap()],
            masquerade_from: vec!["br0.20".parse().unwrap()],
            promisc: true,
            ipam: Some(String::new()),
        };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<PortRecord>(&text).unwrap(), record);
        assert!(text.contains(r#""addresses":["10.0.0.5","fe80::/64"]"#), "{text}");
        assert_eq!(record.all_vlans().to_string(), "1,10,20-30");
        assert!(record.attachment().is_some());
    }

    /// Of the programs before this version (`tests/tests/daemon/upgrade.rs`).
    #[test]
    fn a_record_of_the_version_before_reads() {
        let text =
            include_str!("../../../tests/fixtures/version-before/run/k8slan/ports/vbce6a1f300cc1.json");
        let record: PortRecord = serde_json::from_str(text).unwrap();
        assert!(record.attachment().is_some() && record.ipam.is_none());
        let [gateway] = record.host_interfaces.as_slice() else { panic!("{record:?}") };
        assert_eq!(gateway.link.as_str(), "br0");
        let guard = record.guard.unwrap();
        assert_eq!(guard.addresses.as_deref(), Some(&["10.4.0.3/32".parse().unwrap()][..]));
        assert!(guard.macs.is_some_and(|macs| macs.len() == 1) && guard.rules.is_none());
    }
}
