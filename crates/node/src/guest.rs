//! Whether an interface of a pod is for the pod itself, or for the guest of a virtual machine that the pod launches.
//!
//! One decision for all plugins, from what the request states and what the node daemon has recorded about the pod
//! (`/run/k8slan/owners/<pod UID>.json`). Names alone do not decide it: KubeVirt names the interface of a network
//! `pod<hash>`, `net<number>` in older releases, and `eth0` if Multus makes it the pod's default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use net_types::IfName;
use serde::{Deserialize, Serialize};

use crate::{Paths, Pod, PodRecord, PodRecordError, SafeDir};

/// The node daemon's record of a launcher pod, from the pod's owner, labels and annotations.
/// Fields of a newer daemon are ignored: on a rollback the older plugins are installed before the older daemon has written the
/// record again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VmRecord {
    /// The virtual machine's name; its namespace is the pod's.
    pub vm: String,
    /// The launcher pod's own interface in the cluster's network, through which KubeVirt routes the guest's traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_network: Option<IfName>,
    /// The machine still runs in another pod, and is to come to this one by a live migration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub migration_target: bool,
    /// How KubeVirt connects the guest to the pod's interfaces, as far as the VirtualMachineInstance says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bindings: BTreeMap<IfName, Binding>,
}

/// How KubeVirt connects a guest to an interface of its launcher pod (`spec.domain.devices.interfaces`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Binding {
    /// KubeVirt makes a bridge in the pod, with the interface as its port.
    Bridge,
    /// The guest uses the character device of the macvtap.
    Tap,
}

/// Why it is not known what an interface is for.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The daemon's record is not known.
    #[error(transparent)]
    Record(#[from] PodRecordError),
    /// The name of the virtual machine is not valid.
    #[error(
        "the virtual machine's name {0:?} (args.cni.vm, or the node daemon's record) is not a Kubernetes name"
    )]
    Name(String),
}

/// What an interface is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The interface is the pod's own.
    #[default]
    Pod,
    /// The guest of a virtual machine, which configures the addresses itself.
    Guest,
    /// The interface's name does not decide it, and the daemon has no record of the pod yet.
    Undecided,
}

/// What is known about the user of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupant {
    /// Whether the interface is the pod's or the guest's.
    pub role: Role,
    /// The virtual machine that the pod runs, if it is known.
    pub vm: Option<String>,
    /// Whether the pod runs a virtual machine, even if its name is not known.
    pub launcher: bool,
    /// Whether more than the request says that the pod runs this machine: the daemon's record does, or without one
    /// the pod's name is a launcher's.
    pub attested: bool,
    /// Whether the machine still runs in another pod.
    pub migration_target: bool,
    /// Whether the daemon's record says so, and not only the request.
    pub recorded: bool,
    /// How KubeVirt connects the guest to this interface, if it is known.
    pub binding: Option<Binding>,
    /// Whether a daemon records launcher pods here, so that a missing record will come soon.
    pub soon: bool,
}

impl PodRecord for VmRecord {
    const SUFFIX: &str = ".json";
    const SHAPE: &str = "{\"vm\": \"<name>\"}";
}

impl Occupant {
    /// The prefix of the names of pods that run machines (`generateName` in KubeVirt's
    /// `pkg/virt-controller/services`).
    pub const LAUNCHER: &str = "virt-launcher-";

    /// Whether KubeVirt makes such interface names: `pod` and eleven hexadecimal digits
    /// (`GenerateHashedInterfaceName` in its `pkg/network/namescheme`).
    #[must_use]
    pub fn is_launcher_link(ifname: &IfName) -> bool {
        const DIGITS: usize = 11;
        ifname.as_str().strip_prefix("pod").is_some_and(|hash| {
            hash.len() == DIGITS && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    }

    /// Finds out what the interface is for. `stated`: the machine that the request names, in `args.cni.vm`.
    ///
    /// # Errors
    /// The daemon's record cannot be used, or a machine's name is not valid.
    pub fn find(
        paths: &Paths,
        pod: Option<&Pod>,
        ifname: &IfName,
        stated: Option<&str>,
    ) -> Result<Self, GuestError> {
        let uid = pod.and_then(|pod| pod.uid.as_deref());
        // Without a UID there is no record to read.
        let owners =
            uid.map(|_| SafeDir::open(&paths.owners())).transpose().map_err(PodRecordError::from)?.flatten();
        let record = match (&owners, uid) {
            (Some(owners), Some(uid)) => VmRecord::read(owners, uid)?,
            _ => None,
        };
        let occupant = decide(pod.map(|pod| pod.name.as_str()), ifname, stated, record, owners.is_some());
        match &occupant.vm {
            Some(vm) if !is_kubernetes_name(vm) => Err(GuestError::Name(vm.clone())),
            _ => Ok(occupant),
        }
    }

    /// Whether what the interface gets is a virtual machine's, or could be: the interface of a launcher pod is not
    /// known to be the pod's own.
    #[must_use]
    pub fn may_be_guest(&self) -> bool {
        self.launcher && !(self.role == Role::Pod && self.vm.is_some())
    }

    /// Whether the interface is for the guest.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.role == Role::Guest
    }
}

fn decide(
    pod: Option<&str>,
    ifname: &IfName,
    stated: Option<&str>,
    record: Option<VmRecord>,
    daemon: bool,
) -> Occupant {
    let called_launcher = pod.is_some_and(|pod| pod.starts_with(Occupant::LAUNCHER));
    let migration_target = record.as_ref().is_some_and(|record| record.migration_target);
    let binding = record.as_ref().and_then(|record| record.bindings.get(ifname).copied());
    let recorded = record.as_ref().map(|record| record.vm.clone());
    let known = |vm: String, role| Occupant {
        role,
        attested: recorded.as_ref().map_or(called_launcher, |recorded| *recorded == vm),
        vm: Some(vm),
        launcher: true,
        migration_target,
        recorded: recorded.is_some(),
        binding,
        soon: false,
    };
    match (stated, record) {
        (Some(vm), _) => known(vm.to_owned(), Role::Guest),
        (None, Some(record)) if record.pod_network.as_ref() == Some(ifname) => known(record.vm, Role::Pod),
        (None, Some(record)) => known(record.vm, Role::Guest),
        (None, None) => {
            let role = match (called_launcher, Occupant::is_launcher_link(ifname), daemon) {
                (true, true, _) | (false, true, false) => Role::Guest,
                (true, false, true) => Role::Undecided,
                // Without a daemon nothing more is known; with one, the pod would have another name.
                (true, false, false) | (false, true, true) | (false, false, _) => Role::Pod,
            };
            Occupant {
                role,
                launcher: called_launcher,
                soon: called_launcher && daemon,
                ..Occupant::default()
            }
        }
    }
}

/// Whether the name is an RFC 1123 subdomain, as that of a VirtualMachine is.
#[must_use]
pub fn is_kubernetes_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= 253 && bytes.iter().copied().all(good) && ends(bytes.first()) && ends(bytes.last())
}

impl Paths {
    /// The records of launcher pods, one per pod, which the daemon writes from what its cluster's part hears.
    #[must_use]
    pub fn owners(&self) -> PathBuf {
        self.run().join(OWNERS)
    }
}

/// The records' folder, below the run folder.
const OWNERS: &str = "owners";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Durability;

    const HASH: &str = "pod16477688c0e";
    const POD: Option<&str> = Some("virt-launcher-web-x7k2p");

    fn name(text: &str) -> IfName {
        text.parse().unwrap()
    }

    fn record(pod_network: Option<&str>) -> Option<VmRecord> {
        Some(VmRecord {
            vm: "web".into(),
            pod_network: pod_network.map(name),
            migration_target: false,
            bindings: BTreeMap::new(),
        })
    }

    #[test]
    fn only_kubevirts_names() {
        let is = |text: &str| Occupant::is_launcher_link(&name(text));
        assert!(is(HASH));
        assert!(!is("net1") && !is("pod1") && !is("pod16477688C0E") && !is("pod16477688c0e1"));
    }

    #[test]
    fn a_record_tells_whatever_the_interface_is_called() {
        for ifname in [HASH, "eth0", "net1", "lan"] {
            for pod in [POD, Some("some-pod"), None] {
                let is = decide(pod, &name(ifname), None, record(None), true);
                assert_eq!((is.role, is.vm.as_deref()), (Role::Guest, Some("web")), "{ifname} {pod:?}");
                let is = decide(pod, &name(ifname), Some("db"), None, false);
                assert_eq!((is.role, is.vm.as_deref()), (Role::Guest, Some("db")), "{ifname} {pod:?}");
            }
        }
    }

    #[test]
    fn what_the_request_says_alone_is_not_attested() {
        let of = |pod, stated, record| decide(pod, &name(HASH), stated, record, true).attested;
        assert!(of(POD, Some("web"), None) && of(POD, Some("db"), None), "by its name");
        assert!(
            of(POD, None, record(None)) && of(Some("some-pod"), Some("web"), record(None)),
            "by its record"
        );
        assert!(!of(Some("web-0"), Some("web"), None) && !of(None, Some("web"), None));
        assert!(!of(POD, Some("db"), record(None)), "the daemon knows that it runs another machine");
        assert!(!of(POD, None, None) && !of(Some("web-0"), None, None), "no machine");
    }

    #[test]
    fn the_launchers_own_interface_is_the_pods() {
        let of = |ifname| decide(POD, &name(ifname), None, record(Some("eth0")), true);
        assert_eq!((of("eth0").role, of("eth0").vm.as_deref()), (Role::Pod, Some("web")));
        assert_eq!((of(HASH).role, of("net1").role), (Role::Guest, Role::Guest));
    }

    #[test]
    fn without_a_record_names_tell_what_they_can() {
        let of = |pod, ifname, daemon| decide(pod, &name(ifname), None, None, daemon).role;
        assert_eq!(of(POD, HASH, false), Role::Guest);
        assert_eq!(of(POD, HASH, true), Role::Guest);
        assert_eq!(of(POD, "eth0", true), Role::Undecided);
        assert_eq!(of(POD, "eth0", false), Role::Pod);
        assert_eq!(of(Some("web-0"), "eth0", true), Role::Pod);
        assert_eq!(of(Some("web-0"), HASH, true), Role::Pod, "the daemon would have said so");
        assert_eq!(of(Some("web-0"), HASH, false), Role::Guest);
        assert_eq!(of(None, HASH, false), Role::Guest);
    }

    #[test]
    fn whose_addresses_are_a_vms() {
        let may = |pod, ifname, stated, record, daemon| {
            decide(pod, &name(ifname), stated, record, daemon).may_be_guest()
        };
        for ifname in [HASH, "eth0"] {
            assert!(
                may(POD, ifname, None, record(None), true) && may(None, ifname, Some("db"), None, false),
                "{ifname}"
            );
            assert!(may(POD, ifname, None, None, true) && may(POD, ifname, None, None, false), "{ifname}");
            assert!(!may(Some("web-0"), ifname, None, None, true), "{ifname}");
        }
        assert!(!may(POD, "eth0", None, record(Some("eth0")), true));
        assert!(may(POD, HASH, None, record(Some("eth0")), true));
    }

    #[test]
    fn what_is_known_of_a_launcher_without_a_record() {
        let is = decide(POD, &name(HASH), None, None, true);
        assert!(is.launcher && is.soon && is.vm.is_none());
        assert!(!decide(POD, &name(HASH), None, None, false).soon);
        assert!(!decide(Some("web-0"), &name("eth0"), None, None, true).launcher);
    }

    #[test]
    fn a_binding_is_its_interfaces() {
        let bindings = BTreeMap::from([(name(HASH), Binding::Bridge), (name("eth0"), Binding::Tap)]);
        let of = |ifname: &str| {
            let record = record(None).map(|record| VmRecord { bindings: bindings.clone(), ..record });
            decide(POD, &name(ifname), None, record, true).binding
        };
        assert_eq!((of(HASH), of("eth0"), of("net1")), (Some(Binding::Bridge), Some(Binding::Tap), None));
    }

    #[test]
    fn records_are_read_back_and_strangers_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let owners = SafeDir::open(folder.path()).unwrap().unwrap();
        for record in [record(None), record(Some("eth0"))].into_iter().flatten() {
            for migration_target in [false, true] {
                let bindings = BTreeMap::from([(name(HASH), Binding::Bridge), (name("eth0"), Binding::Tap)]);
                let record = VmRecord { migration_target, bindings, ..record.clone() };
                record.write(&owners, "u-1").unwrap();
                assert_eq!(VmRecord::read(&owners, "u-1").unwrap(), Some(record));
            }
        }
        assert_eq!(VmRecord::read(&owners, "u-2").unwrap(), None);
        assert_eq!(VmRecord::read(&owners, "../u-1").unwrap(), None);
        assert_eq!(VmRecord::read(&owners, "").unwrap(), None);
        record(None).unwrap().write(&owners, "u-1").unwrap();
        assert_eq!(owners.read("u-1.json").unwrap().as_deref(), Some(br#"{"vm":"web"}"#.as_slice()));
        // A daemon of a later version may write more.
        owners.write("u-1.json", br#"{"vm":"web","later":{"x":1}}"#, Durability::UntilReboot).unwrap();
        assert_eq!(VmRecord::read(&owners, "u-1").unwrap(), record(None));
        for bad in [r#"{"name":"web"}"#, "", r#"{"vm":null}"#] {
            owners.write("u-1.json", bad.as_bytes(), Durability::UntilReboot).unwrap();
            assert!(matches!(VmRecord::read(&owners, "u-1"), Err(PodRecordError::Syntax { .. })), "{bad}");
        }
    }

    #[test]
    fn a_machines_name_is_kubernetes() {
        for good in ["web", "a", "my.vm-1", &"a".repeat(253)] {
            assert!(is_kubernetes_name(good), "{good}");
        }
        for bad in ["", "../x", "Web", "-web", "web-", "a/b", &"a".repeat(254)] {
            assert!(!is_kubernetes_name(bad), "{bad}");
        }
    }
}
