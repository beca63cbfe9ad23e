//! What `install/` puts into a cluster.

use k8slan_kubernetes_tests::{Cluster, condition, failed};
use testnet::{Outcome, Trial};

use crate::check;
use crate::shared::beside;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("apply_of_the_one_file_and_its_rollout", apply_of_the_one_file_and_its_rollout),
        beside("every_overlay_is_admitted", every_overlay_is_admitted),
    ]
}

fn apply_of_the_one_file_and_its_rollout(cluster: &Cluster) -> Outcome {
    let said = cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=10s")?;
    check!(said.contains("successfully rolled out"), "{said}");
    let pods = cluster.list("/api/v1/namespaces/k8slan-system/pods").map_err(failed)?;
    check!(pods.len() == cluster.workers.len(), "a pod on each node: {pods:#?}");
    for pod in &pods {
        check!(condition(pod, "Ready") == Some("True"), "{pod:#}");
        let restarts: Vec<_> = pod["status"]["containerStatuses"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|container| container["restartCount"].clone())
            .collect();
        check!(restarts == [0, 0], "restarts {restarts:?}");
    }
    for worker in &cluster.workers {
        for plugin in ["macvtap", "vlan-bridge", "ipam-pool"] {
            worker.exec(&["test", "-x", &format!("/opt/cni/bin/{plugin}")])?;
        }
    }
    // What was applied once is as the file says.
    let again = cluster.kubectl("apply -f install/k8slan.yaml")?;
    check!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    Ok(())
}

/// By the API server's own schemas and admission, without being made.
fn every_overlay_is_admitted(cluster: &Cluster) -> Outcome {
    let folder = testnet::workspace().join("install/overlays");
    let mut overlays: Vec<_> =
        std::fs::read_dir(folder)?.flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
    overlays.sort();
    check!(overlays.len() >= 4, "{overlays:?}");
    for overlay in overlays {
        let said = cluster.kubectl(&format!("apply --dry-run=server -k install/overlays/{overlay}"))?;
        check!(said.contains("daemonset.apps/k8slan-ds"), "{overlay}: {said}");
        check!(!said.contains("Warning"), "{overlay}: {said}");
    }
    Ok(())
}
