//! KubeVirt's persistent IPs: the `IPAMClaim` that a pod names in its annotation owns the address.

use serde_json::{Value, json};
use testnet::{CniError, Daemon, Outcome, Pod, Stop, Trial, eventually, tests};

use crate::cluster::check;
use crate::cluster::site::{GROUP, SOON, Site};

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        a_claim_owns_the_address_of_the_pods_that_name_it,
        what_is_wrong_with_a_claim_is_told_and_changes_nothing,
        a_claim_that_is_gone_is_asked_for_and_its_status_is_written_once,
    ]
}

const CLAIMS: &str = "k8s.cni.cncf.io/v1alpha1";
/// A claim that KubeVirt's controller makes says no interface.
const ANY: &str = "";

/// A pod of Kubernetes, whose sandbox is one of the node's pods.
struct Named<'a> {
    namespace: &'a str,
    name: &'a str,
    /// What its annotation names.
    claim: Option<&'a str>,
    /// The machine that it runs.
    vm: Option<&'a str>,
}

impl Named<'_> {
    fn put(&self, site: &Site) -> String {
        let Self { namespace, name, .. } = self;
        let mut network = json!({ "name": "lan", "interface": "net1" });
        if let Some(claim) = self.claim {
            network["ipam-claim-reference"] = json!(claim);
        }
        let networks = json!([network]).to_string();
        let mut metadata = json!({
            "namespace": namespace, "name": name, "annotations": { "k8s.v1.cni.cncf.io/networks": networks },
        });
        if let Some(vm) = self.vm {
            metadata["ownerReferences"] = json!([owner(vm)]);
            metadata["labels"] =
                json!({ "kubevirt.io": "virt-launcher", "kubevirt.io/migrationJobUID": "m" });
        }
        let spec = json!({ "nodeName": "worker1" });
        site.server
            .put("pods", json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }));
        let made = site.server.get("pods", "v1", &format!("{namespace}/{name}")).unwrap_or_default();
        made["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
    }
}

fn owner(vm: &str) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": vm, "uid": "u", "controller": true,
    })
}

fn put_claim(site: &Site, key: (&str, &str), network: &str, interface: &str, vm: Option<&str>) {
    let (namespace, name) = key;
    let mut metadata = json!({ "namespace": namespace, "name": name });
    if let Some(vm) = vm {
        metadata["ownerReferences"] = json!([owner(vm)]);
    }
    let spec = json!({ "network": network, "interface": interface });
    site.server.put(
        "ipamclaims",
        json!({ "apiVersion": CLAIMS, "kind": "IPAMClaim", "metadata": metadata, "spec": spec }),
    );
}

fn put_pool(site: &Site, more: &Value) {
    let mut spec = json!({ "subnets": ["10.8.0.0/24"], "cooldown": "0s" });
    spec.as_object_mut()
        .into_iter()
        .for_each(|spec| spec.extend(more.as_object().cloned().unwrap_or_default()));
    site.server.put(
        "lanpools",
        json!({ "apiVersion": GROUP, "kind": "LANPool", "metadata": { "name": "office" }, "spec": spec }),
    );
}

fn run(site: &Site, verb: &str, sandbox: &Pod, pod: &Named<'_>, uid: &str) -> Result<Value, CniError> {
    let network = json!({
        "cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "allowPersistentIPs": true,
        "ipam": { "type": "ipam-pool", "pool": "office" },
    });
    let mut call = sandbox.call("net1", &network);
    let Named { namespace, name, .. } = pod;
    let of = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}");
    call.args = format!("IgnoreUnknown=1;{of}");
    site.node.cni("ipam-pool", verb, &call)
}

/// Tries until the pod has an address, as the kubelet does.
fn added(site: &Site, daemon: &Daemon, sandbox: &Pod, pod: &Named<'_>, uid: &str) -> Result<String, Stop> {
    let add = || run(site, "ADD", sandbox, pod, uid).map_err(|error| format!("{error}\n{}", daemon.log()));
    let added = eventually(6 * SOON, add)?;
    let address = added["ips"][0]["address"].as_str().unwrap_or_default();
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}

fn refused(site: &Site, sandbox: &Pod, pod: &Named<'_>, code: u64, words: &str) -> Outcome {
    let uid = pod.put(site);
    eventually(6 * SOON, || match run(site, "ADD", sandbox, pod, &uid) {
        Err(error) if error.code == code && error.text().contains(words) => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    site.server.delete("pods", "v1", &format!("{}/{}", pod.namespace, pod.name));
    Ok(())
}

fn ips(site: &Site, key: &str) -> Value {
    let claim = site.server.get("ipamclaims", CLAIMS, key).unwrap_or_default();
    claim["status"]["ips"].clone()
}

/// The requests about claims.
fn asked(site: &Site) -> Vec<String> {
    let all = site.server.requests();
    all.into_iter().filter(|request| request.contains("ipamclaims")).collect()
}

fn a_claim_owns_the_address_of_the_pods_that_name_it() -> Outcome {
    let site = Site::without_kubelet()?;
    put_pool(&site, &json!({}));
    let daemon = site.whole()?;
    let sandboxes = [site.node.pod("p")?, site.node.pod("q")?, site.node.pod("r")?];
    // Nothing is asked about claims where no pod names one.
    let plain = Named { namespace: "default", name: "plain", claim: None, vm: None };
    let uid = plain.put(&site);
    let other = added(&site, &daemon, &sandboxes[0], &plain, &uid)?;
    check!(asked(&site).is_empty(), "{:?}", asked(&site));

    // It comes a moment later, as KubeVirt's does.
    let launcher = |name| Named { namespace: "default", name, claim: Some("web.lan"), vm: Some("web") };
    let source = launcher("virt-launcher-web-aaaaa");
    let uid = source.put(&site);
    eventually(6 * SOON, || match run(&site, "ADD", &sandboxes[1], &source, &uid) {
        Err(error)
            if error.code == 11
                && error.text().contains("the IPAMClaim default/web.lan that the pod names does not") =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })?;
    put_claim(&site, ("default", "web.lan"), "lan", ANY, Some("web"));
    let own = added(&site, &daemon, &sandboxes[1], &source, &uid)?;
    check!(own != other, "{own} twice");
    check!(
        ips(&site, "default/web.lan") == json!([format!("{own}/24")]),
        "{}",
        ips(&site, "default/web.lan")
    );
    let object = site.server.get("lanaddresses", GROUP, &format!("/office.{own}")).unwrap_or_default();
    let expected =
        json!({ "kind": "IPAMClaim", "namespace": "default", "name": "web.lan", "network": "lan" });
    check!(object["spec"]["owner"] == expected, "{object}");
    // Both launchers of a migration have it, and no request is made for the second on this node.
    let requests = asked(&site).len();
    let target = launcher("virt-launcher-web-bbbbb");
    let second = target.put(&site);
    check!(added(&site, &daemon, &sandboxes[2], &target, &second)? == own, "the same");
    check!(asked(&site).len() == requests, "{:?}", asked(&site));
    // It stops, and starts under another name.
    for (sandbox, pod, uid) in [(&sandboxes[1], &source, &uid), (&sandboxes[2], &target, &second)] {
        run(&site, "DEL", sandbox, pod, uid).map_err(|error| Stop::Failed(error.to_string()))?;
        site.server.delete("pods", "v1", &format!("default/{}", pod.name));
    }
    let again = launcher("virt-launcher-web-ccccc");
    let uid = again.put(&site);
    check!(added(&site, &daemon, &sandboxes[1], &again, &uid)? == own, "the same");
    check!(asked(&site).len() == requests, "{:?}", asked(&site));
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}

fn what_is_wrong_with_a_claim_is_told_and_changes_nothing() -> Outcome {
    let site = Site::without_kubelet()?;
    put_pool(&site, &json!({}));
    let daemon = site.whole()?;
    let sandbox = site.node.pod("p")?;
    put_claim(&site, ("default", "other.dmz"), "dmz", ANY, None);
    put_claim(&site, ("default", "other.net2"), "lan", "net2", None);
    put_claim(&site, ("default", "db.lan"), "lan", ANY, Some("db"));
    put_claim(&site, ("default", "nobodys"), "lan", ANY, None);
    put_claim(&site, ("red", "web.lan"), "lan", ANY, Some("web"));
    let refused = |claim, vm, code, words: &str| {
        let name = if vm { "virt-launcher-web-aaaaa" } else { "plain" };
        let vm = vm.then_some("web");
        let pod = Named { namespace: "default", name, claim: Some(claim), vm };
        refused(&site, &sandbox, &pod, code, words)
    };
    refused(
        "other.dmz",
        false,
        11,
        r#"is of the network "dmz" (spec.network), and the pod names it for "lan""#,
    )?;
    refused("other.net2", false, 11, r#"is of the interface "net2""#)?;
    refused("db.lan", true, 11, "is the virtual machine db's (ownerReferences), and the pod runs web")?;
    refused("nobodys", true, 11, "does not say that it is the virtual machine web's")?;
    // Another namespace's is none of this pod's, however it is written.
    refused("web.lan", true, 11, "the IPAMClaim default/web.lan that the pod names does not exist")?;
    refused("red/web.lan", false, 183, r#"an IPAMClaim "red/web.lan""#)?;
    put_pool(&site, &json!({ "sticky": "None" }));
    // One that is refused before the node was told of the pool, too.
    refused("other.dmz", false, 185, "keeps no addresses (sticky: None)")?;
    let addresses = site.server.keys("lanaddresses", GROUP);
    check!(addresses.is_empty(), "{addresses:?}");
    for key in ["default/other.dmz", "default/other.net2", "default/db.lan", "default/nobodys", "red/web.lan"]
    {
        check!(ips(&site, key).is_null(), "{key} {}", ips(&site, key));
    }
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}

fn a_claim_that_is_gone_is_asked_for_and_its_status_is_written_once() -> Outcome {
    let site = Site::without_kubelet()?;
    put_pool(&site, &json!({}));
    // Nobody has this one, and its claim is gone.
    let owner = json!({ "kind": "IPAMClaim", "namespace": "default", "name": "gone.lan", "network": "lan" });
    let spec = json!({ "pool": "office", "address": "10.8.0.77", "owner": owner, "holders": [] });
    let metadata = json!({ "name": "office.10.8.0.77" });
    site.server.put(
        "lanaddresses",
        json!({ "apiVersion": GROUP, "kind": "LANAddress", "metadata": metadata, "spec": spec }),
    );
    put_claim(&site, ("default", "web"), "lan", "net1", None);
    let daemon = site.whole()?;
    eventually(4 * SOON, || {
        match asked(&site)
            .iter()
            .any(|request| request.starts_with("GET") && request.contains("/default/ipamclaims?"))
        {
            true => Ok(()),
            false => Err(format!("{:?}", asked(&site))),
        }
    })?;
    // A pod without a machine has it on one node at a time.
    let sandboxes = [site.node.pod("p")?, site.node.pod("q")?];
    let [first, second] =
        ["one", "two"].map(|name| Named { namespace: "default", name, claim: Some("web"), vm: None });
    let uid = first.put(&site);
    let own = added(&site, &daemon, &sandboxes[0], &first, &uid)?;
    let later = second.put(&site);
    eventually(4 * SOON, || match run(&site, "ADD", &sandboxes[1], &second, &later) {
        Err(error) if error.code == 11 && error.text().contains("which pod default/one") => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    run(&site, "DEL", &sandboxes[0], &first, &uid).map_err(|error| Stop::Failed(error.to_string()))?;
    check!(added(&site, &daemon, &sandboxes[1], &second, &later)? == own, "the same");
    let writes = asked(&site).iter().filter(|request| request.starts_with("PATCH")).count();
    check!(writes == 1, "{:?}", asked(&site));
    check!(daemon.terminate()?.success(), "it ends well");
    Ok(())
}
