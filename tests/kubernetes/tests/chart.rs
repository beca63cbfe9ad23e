//! The Helm chart, on a cluster of its own.

use k8slan_kubernetes_tests::{Cluster, condition, failed};
use k8slan_tests::go_programs::helm;
use serde_json::json;
use testnet::{Outcome, Trial};

use crate::check;
use crate::install::{POLICY, warnings_of_types};
use crate::shared::elsewhere;

pub(crate) fn trials() -> Vec<Trial> {
    const NAME: &str = "the_chart_is_installed_and_taken_away";
    vec![testnet::test(NAME, || {
        let helm = helm()?;
        elsewhere(NAME, |cluster| installed_and_taken_away(cluster, &helm))
    })]
}

fn installed_and_taken_away(cluster: &Cluster, helm: &std::path::Path) -> Outcome {
    let chart = ["k8slan", "install/chart", "--namespace", "k8slan-system"];
    let more = ["--create-namespace", "--wait", "--timeout", "120s"];
    let said = cluster.tool(helm, &[&["install"][..], &chart, &more].concat())?;
    check!(said.contains("STATUS: deployed") && said.contains("kubectl k8slan status"), "{said}");
    // Whether the schema of the LANs was there in time or not.
    let warnings = warnings_of_types(cluster, POLICY)?;
    check!(warnings.is_null(), "{warnings:#}");
    let lan = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN",
        "metadata": { "name": "charted", "namespace": "k8slan-system" },
        "spec": { "ns": "charted", "bridge": "br0", "vxlan": "vx0", "vni": 1300, "defaultVxlanDev": "eth1", "spokes": ["charted1"] },
    });
    cluster.apply(&lan.to_string())?;
    let path = "/apis/lan.k8slan.io/v1beta1/namespaces/k8slan-system/lans/charted";
    cluster.until(path, |lan| condition(lan, "Ready") == Some("True"))?;
    // Another value, and back.
    let values = ["--set", "resources.node.limits.memory=300Mi", "--wait", "--timeout", "120s"];
    cluster.tool(helm, &[&["upgrade"][..], &chart, &values].concat())?;
    let set = cluster.get("/apis/apps/v1/namespaces/k8slan-system/daemonsets/k8slan-ds").map_err(failed)?;
    let limit = &set.unwrap_or_default()["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        ["memory"];
    check!(limit == "300Mi", "{limit}");
    cluster
        .tool(helm, &["rollback", "k8slan", "--namespace", "k8slan-system", "--wait", "--timeout", "120s"])?;
    let said = cluster.tool(helm, &["uninstall", "k8slan", "--namespace", "k8slan-system", "--wait"])?;
    check!(
        said.contains("customresourcedefinitions") || said.contains("CustomResourceDefinition"),
        "what is kept is not told: {said}"
    );
    cluster.until_gone("/apis/apps/v1/namespaces/k8slan-system/daemonsets/k8slan-ds")?;
    // People's LANs stay.
    cluster.until(path, |_| true).map(drop)
}
