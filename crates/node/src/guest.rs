//! Whom an interface of a pod is for: the pod itself, or the guest of a virtual machine that the pod launches.
//!
//! One decision for all plugins, from what the request states and what the node daemon has found about the pod
//! (`/run/k8slan/owners/<pod UID>.json`). Names alone do not tell: KubeVirt calls the interface of a network
//! `pod<hash>`, `net<number>` in older releases, and `eth0` where Multus makes it the pod's default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use net_types::IfName;
use serde::{Deserialize, Serialize};

use crate::{Durability, Paths, Pod, SafeDir, SafeDirError};

/// What the node daemon found about a launcher pod, by the pod's owner, labels and annotations.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmRecord {
    /// The virtual machine's name; its namespace is the pod's.
    pub vm: String,
    /// The launcher pod's own interface, of the cluster's network: KubeVirt leads the guest's traffic through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_network: Option<IfName>,
    /// The machine runs in another pod, and comes to this one by a live migration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub migration_target: bool,
    /// How KubeVirt connects the guest to the pod's interfaces, as far as the VirtualMachineInstance told it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bindings: BTreeMap<IfName, Binding>,
}

/// What KubeVirt connects a guest by to an interface of its launcher pod (`spec.domain.devices.interfaces`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Binding {
    /// A bridge that it makes in the pod, with the interface as its port.
    Bridge,
    /// The macvtap's own character device.
    Tap,
}

/// Why it is not known whom an interface is for.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A record cannot be read, or somebody else than root could have written it.
    #[error(transparent)]
    Read(#[from] SafeDirError),
    /// It does not say what it has to.
    #[error(
        "{path:?} is not {{\"vm\": \"<name>\"}}: {message}; are the daemon and the plugins of one version?"
    )]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// A virtual machine's name that is none.
    #[error(
        "the virtual machine's name {0:?} (args.cni.vm, or the node daemon's record) is not a Kubernetes name"
    )]
    Name(String),
}

/// Whom an interface is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The pod itself.
    #[default]
    Pod,
    /// The guest of a virtual machine, which has its addresses itself.
    Guest,
    /// A launcher pod's interface of an undecided name, and the daemon that knows has not heard of the pod yet.
    Undecided,
}

/// What is known about who is behind an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupant {
    /// Whom the interface is for.
    pub role: Role,
    /// The virtual machine that the pod runs, where anybody says so.
    pub vm: Option<String>,
    /// The pod runs a virtual machine, whether its name is known or not.
    pub launcher: bool,
    /// Not only the request says that the pod runs this machine: the daemon's record does, or, where there is none, the
    /// pod's name is a launcher's.
    pub attested: bool,
    /// The machine still runs in another pod.
    pub migration_target: bool,
    /// What KubeVirt connects the guest by to this interface, where that is known.
    pub binding: Option<Binding>,
    /// A daemon tells of launcher pods here, so what it has not said yet it soon will.
    pub soon: bool,
}

impl VmRecord {
    /// What the daemon says about the pod with this UID, in the folder of [`Paths::owners`].
    ///
    /// # Errors
    /// A record that others than root could have written, or that no daemon wrote.
    pub fn read(owners: &SafeDir, uid: &str) -> Result<Option<Self>, GuestError> {
        let Some(name) = Self::file_name(uid) else { return Ok(None) };
        let Some(text) = owners.read(&name)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| GuestError::Syntax {
            path: owners.path().join(name),
            message: error.to_string(),
        })
    }

    /// Says so; a UID that is no component of a path has no record.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, owners: &SafeDir, uid: &str) -> Result<(), SafeDirError> {
        let Some(name) = Self::file_name(uid) else { return Ok(()) };
        let text = serde_json::to_vec(self).unwrap_or_default();
        owners.write(&name, &text, Durability::UntilReboot)
    }

    /// The file of the record about the pod with this UID; none for what is no UID.
    #[must_use]
    pub fn file_name(uid: &str) -> Option<String> {
        let good = !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        good.then(|| format!("{uid}.json"))
    }
}

impl Occupant {
    /// How KubeVirt calls the pods that run machines (`generateName` in its `pkg/virt-controller/services`).
    pub const LAUNCHER: &str = "virt-launcher-";

    /// Whether KubeVirt gives interfaces such names: `pod` and eleven hexadecimal digits
    /// (`GenerateHashedInterfaceName` in its `pkg/network/namescheme`).
    #[must_use]
    pub fn is_launcher_link(ifname: &IfName) -> bool {
        const DIGITS: usize = 11;
        ifname.as_str().strip_prefix("pod").is_some_and(|hash| {
            hash.len() == DIGITS && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    }

    /// Whom the interface is for. `stated`: the machine that the request names, in `args.cni.vm`.
    ///
    /// # Errors
    /// What the daemon says cannot be used, or a machine's name is none.
    pub fn of(
        paths: &Paths,
        pod: Option<&Pod>,
        ifname: &IfName,
        stated: Option<&str>,
    ) -> Result<Self, GuestError> {
        let uid = pod.and_then(|pod| pod.uid.as_deref());
        // Nothing to be read where nobody is named.
        let owners = uid.map(|_| SafeDir::open(&paths.owners())).transpose()?.flatten();
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

    /// Whether what the interface gets is a virtual machine's, or could be: a launcher pod's interface that is not known to
    /// be the pod's own.
    #[must_use]
    pub fn may_be_guest(&self) -> bool {
        self.launcher && !(self.role == Role::Pod && self.vm.is_some())
    }

    /// Whether the interface is a guest's.
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
                // Without a daemon nobody can say more; with one, the pod would be called otherwise.
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

/// RFC 1123 subdomain: what the name of a VirtualMachine is.
fn is_kubernetes_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= 253 && bytes.iter().copied().all(good) && ends(bytes.first()) && ends(bytes.last())
}

impl Paths {
    /// Which virtual machine a launcher pod runs, a record per pod: the cluster's part of the daemon writes them.
    #[must_use]
    pub fn owners(&self) -> PathBuf {
        self.run().join(OWNERS)
    }
}

/// Below the run folder.
const OWNERS: &str = "owners";

#[cfg(test)]
mod tests {
    use super::*;

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
        for bad in [r#"{"vm":"web","namespace":"x"}"#, r#"{"name":"web"}"#, "", r#"{"vm":null}"#] {
            owners.write("u-1.json", bad.as_bytes(), Durability::UntilReboot).unwrap();
            assert!(matches!(VmRecord::read(&owners, "u-1"), Err(GuestError::Syntax { .. })), "{bad}");
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
