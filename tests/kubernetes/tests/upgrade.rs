//! Another version, and back.

use k8slan_kubernetes_tests::{Cluster, failed};
use testnet::{Outcome, Trial};

use crate::check;
use crate::restarts::Pair;
use crate::shared::alone;
use crate::site::Lan;

pub(crate) fn trials() -> Vec<Trial> {
    vec![alone("an_upgrade_and_a_rollback_under_traffic", an_upgrade_and_a_rollback_under_traffic)]
}

const NOW: &str = "localhost/k8slan:0.1.0";
const NEXT: &str = "localhost/k8slan:next";

/// The next version is the same programs by another name: all that an upgrade does to a node happens.
fn an_upgrade_and_a_rollback_under_traffic(cluster: &mut Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "upgrade", vni: 1046, spokes: &["upgrade1", "upgrade2", "upgrade3"] };
    let cluster = &*cluster;
    for worker in &cluster.workers {
        worker.ctr(&["images", "tag", NOW, NEXT])?;
    }
    let pair = Pair::start(cluster, LAN)?;
    let rolled_out = |image: &str| -> Outcome {
        cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=180s")?;
        let pods = cluster.list("/api/v1/namespaces/k8slan-system/pods").map_err(failed)?;
        let specs = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let images: Vec<_> = specs
            .flat_map(|pod| ["initContainers", "containers"].map(|kind| pod["spec"][kind].as_array()))
            .flatten()
            .flatten()
            .map(|container| container["image"].clone())
            .collect();
        check!(images.len() == 9 && images.iter().all(|own| own == image), "{images:?}");
        Ok(())
    };
    pair.under_traffic(cluster, || {
        cluster.kubectl(&format!("-n k8slan-system set image daemonset/k8slan-ds *={NEXT}"))?;
        rolled_out(NEXT)
    })?;
    pair.untouched(cluster)?;
    pair.one_more(cluster, "after-upgrade")?;
    pair.under_traffic(cluster, || {
        cluster.kubectl("-n k8slan-system rollout undo daemonset/k8slan-ds")?;
        rolled_out(NOW)
    })?;
    pair.untouched(cluster)?;
    pair.one_more(cluster, "after-rollback")?;
    pair.end(cluster)
}
