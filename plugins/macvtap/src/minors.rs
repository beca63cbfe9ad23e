//! The records of which attachment has which tap minor.
//!
//! Three properties of the kernel make this necessary (design D2). `/dev/tapN` is named by the macvtap's ifindex,
//! which is unique only within a namespace, in a devtmpfs that all namespaces share. A freed minor is reused at once.
//! And a container keeps its copy of the node as long as it lives.

use std::path::{Path, PathBuf};
use std::time::Duration;

use net_types::{IfName, MacAddr, Mtu};
use netplumb::{DevNum, LinkSettings};
use node::{Attachment, Durability, Lock, SafeDir};
use serde::{Deserialize, Serialize};

use crate::device::{DeviceError, remove_node};

/// How long a program waits for another one that works on the records.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The folder with the records of minors, `/run/k8slan/taps`: one file `<major>:<minor>` each.
#[derive(Debug)]
pub(crate) struct Minors {
    dir: SafeDir,
}

/// The record of a minor: the attachment that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MinorRecord {
    pub(crate) attachment: Attachment,
    /// The path of the node that leads to it.
    pub(crate) node: PathBuf,
    /// Whether this plugin made the node: the kernel deletes only its own.
    pub(crate) made: bool,
    /// For a macvtap of the host that was moved into the pod: its former attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved: Option<Moved>,
    /// The IPAM plugin, empty if there is none; absent in records of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ipam: Option<String>,
    /// The index of the node's link that it is on; `None` for a spoke's macvtap, which the kernel deletes with its
    /// veth pair, and in records of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lower: Option<u32>,
    /// Whether that link was down already, so that the attachment never had a way out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lower_was_down: bool,
    /// The MAC address that it gets in the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<MacAddr>,
}

impl MinorRecord {
    /// Whether the version before wrote it: it is then asked what that one did.
    pub(crate) fn is_of_the_version_before(&self) -> bool {
        self.ipam.is_none()
    }
}

/// The attributes that a macvtap of the host had before it was moved into a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    pub(crate) name: IfName,
    pub(crate) mac: Option<MacAddr>,
    /// Whether it had ARP switched off.
    pub(crate) noarp: bool,
    pub(crate) promisc: bool,
    /// Whether it accepted every multicast; the records of older versions do not say.
    #[serde(default)]
    pub(crate) allmulti: bool,
    /// The records of older versions do not have it.
    pub(crate) mtu: Option<Mtu>,
    /// The records of older versions do not have it.
    #[serde(default)]
    pub(crate) up: bool,
    #[serde(default)]
    pub(crate) group: u32,
    pub(crate) alias: Option<String>,
    /// All that a pod can set on it; the records of older versions have only what is above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) settings: Option<LinkSettings>,
}

/// A minor with its record, or why the record cannot be opened.
pub(crate) type OneGiven = Result<(DevNum, MinorRecord), DeviceError>;

/// The result of a claim.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The minor belongs to this attachment now.
    Ours,
    /// It belongs to a live attachment: its container may still have a node that leads there.
    Taken(Attachment),
}

impl Minors {
    /// Opens the folder, and creates it if it is missing.
    ///
    /// # Errors
    /// It cannot be created, or is not trusted.
    pub(crate) fn open(path: &Path) -> Result<Self, DeviceError> {
        Ok(Self { dir: SafeDir::create(path)? })
    }

    /// Opens the folder if it exists.
    ///
    /// # Errors
    /// It is not trusted.
    pub(crate) fn existing(path: &Path) -> Result<Option<Self>, DeviceError> {
        Ok(SafeDir::open(path)?.map(|dir| Self { dir }))
    }

    /// Gives a minor to an attachment, unless a live one has it. The node of a former attachment is removed, since it
    /// would lead to the new one's traffic.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(crate) fn claim(&self, device: DevNum, given: &MinorRecord) -> Result<Claim, DeviceError> {
        let (name, text) = (file_name(device), given.to_json());
        if self.dir.create_new(&name, &text)? {
            return Ok(Claim::Ours);
        }
        // The owner may change between reading and writing.
        let _lock = Lock::folder(&self.dir, LOCK_TIMEOUT)?;
        // A file that is not a record may belong to a live attachment, so it is not replaced.
        if let Some(other) = self.read(device)?
            && !other.attachment.is(&given.attachment.container_id, &given.attachment.ifname)
        {
            if other.attachment.is_live() {
                return Ok(Claim::Taken(other.attachment));
            }
            if other.made && other.node != given.node {
                remove_node(&other.node, device)?;
            }
        }
        self.dir.write(&name, &text, Durability::UntilReboot)?;
        Ok(Claim::Ours)
    }

    /// The record of a minor. A record that cannot be parsed, or is not trusted, counts as none.
    ///
    /// # Errors
    /// The record cannot be opened.
    pub(crate) fn given(&self, device: DevNum) -> Result<Option<MinorRecord>, DeviceError> {
        match self.read(device) {
            Err(DeviceError::Record(error)) if error.is_foreign() => Ok(None),
            read => read,
        }
    }

    fn read(&self, device: DevNum) -> Result<Option<MinorRecord>, DeviceError> {
        Ok(self.dir.read(&file_name(device))?.as_deref().and_then(MinorRecord::parse))
    }

    /// Removes the record of this attachment's minor, and the node if this plugin made it. If the minor belongs to
    /// another attachment by now, it stays.
    ///
    /// # Errors
    /// The record or the node cannot be removed.
    pub(crate) fn release(&self, device: DevNum, given: &MinorRecord) -> Result<(), DeviceError> {
        let _lock = Lock::folder(&self.dir, LOCK_TIMEOUT)?;
        let attachment = &given.attachment;
        if self.given(device)?.is_some_and(|now| {
            !now.attachment.is(&attachment.container_id, &attachment.ifname)
                || now.attachment.netns != attachment.netns
        }) {
            return Ok(());
        }
        if given.made {
            remove_node(&given.node, device)?;
        }
        Ok(self.dir.remove(&file_name(device))?)
    }

    /// The names of records that cannot be parsed, or are not trusted: the owners of these links are not known.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub(crate) fn unreadable(&self) -> Result<Vec<String>, DeviceError> {
        let unreadable = |name: &String| match self.dir.read(name) {
            Ok(text) => text.is_some_and(|text| MinorRecord::parse(&text).is_none()),
            Err(_) => true,
        };
        Ok(self
            .dir
            .names()?
            .into_iter()
            .filter(|name| parse_file_name(name).is_some())
            .filter(unreadable)
            .collect())
    }

    /// Every record of a minor, or why it cannot be opened.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub(crate) fn all(&self) -> Result<Vec<OneGiven>, DeviceError> {
        let devices = self.dir.names()?.into_iter().filter_map(|name| parse_file_name(&name));
        let given = |device| Ok(self.given(device)?.map(|given| (device, given)));
        Ok(devices.filter_map(|device| given(device).transpose()).collect())
    }
}

impl MinorRecord {
    fn to_json(&self) -> Vec<u8> {
        // An attachment whose tag cannot be written is refused earlier (`Call::open`).
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

fn file_name(device: DevNum) -> String {
    format!("{}:{}", device.major, device.minor)
}

fn parse_file_name(name: &str) -> Option<DevNum> {
    let (major, minor) = name.split_once(':')?;
    Some(DevNum { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use node::{NetnsRef, NetworkId};

    use super::*;
    use crate::device::{Access, ensure_node, node_metadata};

    const DEVICE: DevNum = DevNum { major: 511, minor: 3 };

    fn given(container: &str, live: bool) -> MinorRecord {
        let path = PathBuf::from("/proc/self/ns/net");
        let inode = std::fs::metadata(&path).unwrap().ino() + u64::from(!live);
        let attachment = Attachment {
            container_id: container.into(),
            ifname: "net1".parse().unwrap(),
            netns: NetnsRef { path, inode },
            network: NetworkId::from_name("vlan44"),
            pod: None,
        };
        MinorRecord {
            attachment,
            node: "/dev/tap1073741824".into(),
            made: true,
            moved: None,
            ipam: Some(String::new()),
            lower: Some(3),
            lower_was_down: true,
            mac: None,
        }
    }

    #[test]
    fn a_minor_of_a_live_attachment_is_taken() {
        let temp = tempfile::tempdir().unwrap();
        let minors = Minors::open(&temp.path().join("taps")).unwrap();
        let first = given("a", true);
        assert_eq!(minors.claim(DEVICE, &first).unwrap(), Claim::Ours);
        assert_eq!(minors.claim(DEVICE, &first).unwrap(), Claim::Ours);
        assert_eq!(minors.claim(DEVICE, &given("b", true)).unwrap(), Claim::Taken(first.attachment.clone()));
        let all: Vec<_> = minors.all().unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(all, [(DEVICE, first.clone())]);
        minors.release(DEVICE, &first).unwrap();
        assert_eq!(minors.claim(DEVICE, &given("b", true)).unwrap(), Claim::Ours);
        // A slow DEL: the minor has another owner by now.
        minors.release(DEVICE, &first).unwrap();
        assert_eq!(minors.given(DEVICE).unwrap(), Some(given("b", true)));
    }

    #[test]
    fn a_dead_attachments_node_does_not_lead_to_the_next_one() {
        let temp = tempfile::tempdir().unwrap();
        let minors = Minors::open(temp.path()).unwrap();
        let left = MinorRecord { node: temp.path().join("tap1"), ..given("a", false) };
        ensure_node(&left.node, DEVICE, Access { owner: 107, group: 107 }).unwrap();
        minors.claim(DEVICE, &left).unwrap();
        minors.claim(DEVICE, &MinorRecord { node: temp.path().join("tap2"), ..given("b", true) }).unwrap();
        assert!(node_metadata(&left.node).unwrap().is_none(), "whoever opens it reads the other's traffic");
    }

    #[test]
    fn a_half_made_node_goes_with_its_record() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("tap1");
        let half = temp.path().join(".tap1.k8slan");
        ensure_node(&half, DEVICE, Access { owner: 107, group: 107 }).unwrap();
        // The path is that of another attachment by now, which makes its own node.
        remove_node(&path, DevNum { minor: 4, ..DEVICE }).unwrap();
        assert!(node_metadata(&half).unwrap().is_some());
        remove_node(&path, DEVICE).unwrap();
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_minor_of_a_dead_attachment_is_free() {
        let temp = tempfile::tempdir().unwrap();
        let minors = Minors::open(temp.path()).unwrap();
        assert_eq!(minors.claim(DEVICE, &given("a", false)).unwrap(), Claim::Ours);
        assert_eq!(minors.claim(DEVICE, &given("b", true)).unwrap(), Claim::Ours);
        assert_eq!(minors.given(DEVICE).unwrap(), Some(given("b", true)));
    }

    #[test]
    fn one_record_that_is_not_trusted_is_nobodys_and_keeps_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let minors = Minors::open(temp.path()).unwrap();
        let first = given("a", true);
        minors.claim(DEVICE, &first).unwrap();
        for name in ["511:1", "511:2", "511:4"] {
            std::fs::write(temp.path().join(name), first.to_json()).unwrap();
            std::fs::set_permissions(temp.path().join(name), Permissions::from_mode(0o666)).unwrap();
        }
        std::fs::create_dir(temp.path().join("511:5")).unwrap();
        let all: Vec<_> = minors.all().unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(all, [(DEVICE, first.clone())]);
        // The owner of the device is not known, so no other attachment gets it.
        assert!(minors.claim(DevNum { minor: 4, ..DEVICE }, &given("b", true)).is_err());
    }

    /// Of the programs before this version (`tests/tests/daemon/upgrade.rs`).
    #[test]
    fn records_of_the_version_before_read() {
        let spoke = include_bytes!("../../../tests/fixtures/version-before/run/k8slan/taps/246:3");
        let record = MinorRecord::parse(spoke).unwrap();
        assert_eq!((record.node, record.made), ("/dev/tap1768042688".into(), true));
        assert_eq!(record.attachment.ifname.as_str(), "net1");
        assert_eq!((record.ipam, record.lower, record.mac, record.moved), (None, None, None, None));
        let moved = include_bytes!("../../../tests/fixtures/version-before/run/k8slan/taps/246:1");
        let moved = MinorRecord::parse(moved).unwrap().moved.unwrap();
        assert_eq!(
            (moved.name.as_str(), moved.mac.unwrap().to_string()),
            ("mv0", "aa:f1:52:65:98:6e".to_owned())
        );
    }

    #[test]
    fn a_torn_record_belongs_to_nobody() {
        let temp = tempfile::tempdir().unwrap();
        let minors = Minors::open(temp.path()).unwrap();
        std::fs::write(temp.path().join("511:3"), "{\"attach").unwrap();
        assert_eq!(minors.given(DEVICE).unwrap(), None);
        assert_eq!(minors.claim(DEVICE, &given("a", true)).unwrap(), Claim::Ours);
    }
}
