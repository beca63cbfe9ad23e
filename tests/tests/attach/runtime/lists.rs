//! Network lists of several versions: this containerd speaks CNI up to 1.0.0.

use k8slan_tests::containerd::{Containerd, Handler, KubePod, cluster_network};
use serde_json::json;
use testnet::{Node, Outcome, Stop, Trial, tests};

use crate::runtime::check;
use crate::runtime::host::{Host, on_lan, start};

pub(crate) fn trials() -> Vec<Trial> {
    tests![a_list_with_versions_is_taken_and_a_newer_one_refused_cleanly]
}

fn a_list_with_versions_is_taken_and_a_newer_one_refused_cleanly() -> Outcome {
    let host = Host::new(Node::new("worker1")?, ["pod1", "pod2"])?;
    let mut several = on_lan("pod1");
    several["cniVersions"] = json!(["0.4.0", "1.0.0", "1.1.0"]);
    let mut newest = on_lan("pod2");
    newest["cniVersion"] = json!("1.1.0");
    let handlers = [
        Handler::new("pod1", &[cluster_network(), several]),
        Handler::new("pod2", &[cluster_network(), newest]),
    ];
    let containerd = Containerd::start(&host.worker, &handlers)?;
    let kubelet = host.kubelet()?;
    start(&kubelet, &containerd, &KubePod::new("pod1"))?;
    match start(&kubelet, &containerd, &KubePod::new("pod2")) {
        Ok(_) => println!("this containerd takes results of CNI 1.1.0"),
        Err(Stop::Failed(said)) => check!(said.contains("1.1.0"), "{said}"),
        Err(skipped) => return Err(skipped),
    }
    containerd.delete_pod(&KubePod::new("pod1"))?;
    containerd.delete_pod(&KubePod::new("pod2"))?;
    let left = host.worker.netns(&host.lan.netns())?.link_names()?;
    check!(left == ["br2", "vx2"], "left in the LAN: {left:?}");
    Ok(())
}
