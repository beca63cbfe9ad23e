//! A virtual machine in a pod, as KubeVirt's launcher has it.

use std::net::Ipv4Addr;
use std::path::Path;

use k8slan_kubernetes_tests::{Cluster, PodOf};
use serde_json::{Value, json};
use testnet::{Guest, Outcome, Stop, Trial};

use crate::check;
use crate::shared::beside;
use crate::site::{Lan, definitions, delete, give, pings, ready, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![beside(
        "a_guest_without_capabilities_on_the_granted_device",
        a_guest_without_capabilities_on_the_granted_device,
    )]
}

/// What KubeVirt calls the interface: `pod` and eleven hexadecimal digits.
const LINK: &str = "pod37a8eec1ce1";

/// The container: says who it is, opens the device that has its link's number, and becomes QEMU.
const LAUNCH: &str = r#"
id -u
grep CapEff /proc/self/status
tap=/dev/tap$(cat /sys/class/net/LINK/ifindex)
stat -c '%n %u:%g' $tap
ls /dev | grep -c '^tap'
exec 3<>$tap
exec /usr/bin/qemu-system-x86_64 -accel tcg -m 200 -nodefaults -no-reboot -display none -serial stdio \
    -kernel /guest/vmlinuz -initrd /guest/initrd -append 'console=ttyS0 quiet panic=-1' \
    -netdev tap,id=lan,fd=3,vhost=off \
    -device virtio-net-pci,netdev=lan,mac=$(cat /sys/class/net/LINK/address),host_mtu=$(cat /sys/class/net/LINK/mtu),romfile=
"#;

const GUEST: &str = "
ip link set eth0 up
ip addr add 10.145.0.1/24 dev eth0
ping -c 5 -i 0.2 -W 5 10.145.0.2 && echo guest-reaches-pod
ping -c 3 -i 0.2 -W 5 -s 1398 10.145.0.2 && echo guest-reaches-pod-with-the-largest
echo mtu $(cat /sys/class/net/eth0/mtu)
sleep 100000
";

/// As much of KubeVirt as the API server needs to know.
pub(crate) fn machine(cluster: &Cluster, name: &str, spec: &Value) -> Result<Value, Stop> {
    let kinds = [("VirtualMachine", "virtualmachine"), ("VirtualMachineInstance", "virtualmachineinstance")];
    for (kind, singular) in kinds {
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let version =
            json!({ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } });
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{singular}s.kubevirt.io") },
            "spec": {
                "group": "kubevirt.io", "scope": "Namespaced", "versions": [version],
                "names": { "kind": kind, "singular": singular, "plural": format!("{singular}s") },
            },
        });
        cluster.apply(&definition.to_string())?;
        cluster.eventually(|| cluster.list(&format!("/apis/kubevirt.io/v1/{singular}s")))?;
    }
    let machine = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": { "name": name, "namespace": "default" }, "spec": spec,
    });
    cluster.apply(&machine.to_string())?;
    let path = format!("/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances/{name}");
    cluster.until(&path, |_| true)
}

/// This pod as the launcher of an instance that [`machine`] made.
pub(crate) fn launcher(pod: &PodOf, machine: &Value) -> Result<Value, Stop> {
    let mut pod: Value = serde_json::from_str(&pod.manifest())?;
    pod["metadata"]["labels"] = json!({ "kubevirt.io": "virt-launcher" });
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": machine["metadata"]["name"],
        "uid": machine["metadata"]["uid"], "controller": true,
    }]);
    Ok(pod)
}

/// Makes a launcher boot what is in a folder, on the device of its interface `link`.
pub(crate) fn boots(pod: &mut Value, link: &str, folder: &Path) {
    pod["spec"]["securityContext"] = json!({
        "runAsUser": 107, "runAsGroup": 107, "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" },
    });
    let container = &mut pod["spec"]["containers"][0];
    container["command"] = json!(["sh", "-ec", LAUNCH.replace("LINK", link)]);
    container["securityContext"] =
        json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    // QEMU is this machine's.
    let folders = [
        ("usr", "/usr", "/usr".to_owned()),
        ("lib", "/lib", "/usr/lib".to_owned()),
        ("lib64", "/lib64", "/usr/lib64".to_owned()),
        ("alternatives", "/etc/alternatives", "/etc/alternatives".to_owned()),
        ("guest", "/guest", folder.display().to_string()),
    ];
    container["volumeMounts"] = folders
        .iter()
        .map(|(name, inside, _)| json!({ "name": name, "mountPath": inside, "readOnly": true }))
        .collect();
    pod["spec"]["volumes"] =
        folders.iter().map(|(name, _, path)| json!({ "name": name, "hostPath": { "path": path } })).collect();
}

fn a_guest_without_capabilities_on_the_granted_device(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "guest", vni: 1045, spokes: &["guest1", "guest2"] };
    const IN_GUEST: Ipv4Addr = Ipv4Addr::new(10, 145, 0, 1);
    Guest::needs()?;
    let guest = Guest { tap: "", mac: "", mtu: 0, script: GUEST, programs: &[], qemu: &[] };
    let folder = Path::new("/tmp/kubernetes-guest");
    guest.write(folder)?;
    let pool = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": "guest" },
        "spec": {
            "ranges": [{ "subnet": "10.145.0.0/24", "gateway": "none" }],
            "sticky": "VM", "nodes": { "worker2": ["10.145.0.64-10.145.0.127"] },
        },
    });
    cluster.worker("worker2")?.write("/var/lib/k8slan/pools.d/guest.yaml", pool.to_string())?;
    LAN.apply(cluster)?;
    let peer = start(cluster, &PodOf::on("guest-peer", "guest2").at("worker1"))?;
    give(cluster, &peer, "net1", Ipv4Addr::new(10, 145, 0, 2))?;

    let mut lan = LAN.manifest();
    lan["spec"]["networkAttachments"]["ipam"] = json!({ "type": "ipam-pool", "pool": "guest" });
    LAN.apply_as(cluster, &lan)?;
    let path = format!("{}/guest1", definitions("default"));
    cluster.until(&path, |definition| definition["spec"]["config"].to_string().contains("ipam-pool"))?;
    let machine = machine(cluster, "guest", &json!({}))?;
    let mut pod = PodOf::on("virt-launcher-guest-abcde", "guest1").at("worker2");
    pod.networks = format!(r#"[{{"name":"guest1","interface":"{LINK}"}}]"#);
    let mut pod = launcher(&pod, &machine)?;
    boots(&mut pod, LINK, folder);
    cluster.apply(&pod.to_string())?;
    let launcher = ready(cluster, "virt-launcher-guest-abcde")?;
    // The address is for the guest: the network's status has it, the launcher's link has not.
    let told = launcher["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].to_string();
    check!(told.contains("10.145.0.64"), "{told}");
    let addresses = cluster.netns(&launcher)?.ip_json(&format!("-4 addr show dev {LINK}"))?;
    check!(!format!("{addresses:?}").contains("10.145.0."), "{addresses:?}");
    let console = cluster.eventually(|| {
        let console =
            cluster.kubectl("logs virt-launcher-guest-abcde").map_err(|stop| format!("{stop:?}"))?;
        if console.contains("mtu 1426") { Ok(console) } else { Err(console) }
    })?;
    let said: Vec<&str> = console.lines().map(str::trim).collect();
    for line in
        ["107", "CapEff:\t0000000000000000", "1", "guest-reaches-pod", "guest-reaches-pod-with-the-largest"]
    {
        check!(said.contains(&line), "no {line:?}: {console}");
    }
    check!(said.iter().any(|line| line.starts_with("/dev/tap") && line.ends_with(" 107:107")), "{console}");
    pings(cluster, &peer, "net1", IN_GUEST)?;
    for pod in ["virt-launcher-guest-abcde", "guest-peer"] {
        delete(cluster, pod)?;
    }
    cluster.kubectl("delete virtualmachineinstance guest --timeout=60s")?;
    LAN.remove(cluster)
}
