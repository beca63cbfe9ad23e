//! What `install/` puts into a cluster.

use k8slan_kubernetes_tests::{Cluster, condition, failed};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial};

use crate::check;
use crate::shared::beside;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("apply_of_the_one_file_and_its_rollout", apply_of_the_one_file_and_its_rollout),
        beside("the_policy_has_no_warning_of_types", the_policy_has_no_warning_of_types),
        beside("every_overlay_is_admitted", every_overlay_is_admitted),
        beside("view_edit_and_admin_reach_lans", view_edit_and_admin_reach_lans),
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
    let again = cluster.kubectl("apply -f install/crds.yaml -f install/k8slan.yaml")?;
    check!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    Ok(())
}

/// What kube-controller-manager says of the types in a policy, once it has looked, which it does as soon as the policy is there
/// and never again.
pub(crate) fn warnings_of_types(cluster: &Cluster, policy: &str) -> Result<Value, Stop> {
    let path = format!("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{policy}");
    let policy = cluster
        .until(&path, |policy| policy["status"]["observedGeneration"] == policy["metadata"]["generation"])?;
    Ok(policy["status"]["typeChecking"]["expressionWarnings"].clone())
}

/// The name of the policy in `install/base/admission.yaml`.
pub(crate) const POLICY: &str = "k8slan-allowed-namespaces";

fn the_policy_has_no_warning_of_types(cluster: &Cluster) -> Outcome {
    // Whoever makes a cluster here installs as the README says, one line right behind the other.
    let readme = std::fs::read_to_string(testnet::workspace().join("README.md"))?;
    for file in crate::shared::FILES {
        check!(readme.contains(&format!("`kubectl apply -f {file}`")), "the README does not apply {file}");
    }
    let warnings = warnings_of_types(cluster, POLICY)?;
    check!(warnings.is_null(), "{warnings:#}");
    // The same where the API server has not published the schema of the LANs yet, however long it takes: no kind has this
    // name. And where there is something to warn of, it is told.
    let path = format!("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{POLICY}");
    let policy = cluster.until(&path, |_| true)?;
    let mut copy = json!({
        "apiVersion": policy["apiVersion"], "kind": policy["kind"],
        "metadata": { "name": "copy-unpublished" }, "spec": policy["spec"],
    });
    copy["spec"]["paramKind"]["kind"] = json!("Unpublished");
    cluster.apply(&copy.to_string())?;
    let warnings = warnings_of_types(cluster, "copy-unpublished")?;
    check!(warnings.is_null(), "{warnings:#}");
    copy["metadata"]["name"] = json!("copy-wrong");
    copy["spec"]["validations"] = json!([{ "expression": "object.spec.nonesuch == variables.lan" }]);
    cluster.apply(&copy.to_string())?;
    let warnings = warnings_of_types(cluster, "copy-wrong")?.to_string();
    check!(warnings.contains("undefined field 'nonesuch'"), "{warnings}");
    cluster.kubectl("delete validatingadmissionpolicy copy-unpublished copy-wrong").map(drop)
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

/// Kubernetes' own roles, bound in one namespace.
fn view_edit_and_admin_reach_lans(cluster: &Cluster) -> Outcome {
    for role in ["view", "edit", "admin"] {
        cluster.kubectl(&format!(
            "-n default create rolebinding lans-{role} --clusterrole={role} --user=lans-{role}"
        ))?;
    }
    // (verb, resource, whether view, edit and admin may).
    let rights = [
        ("list", "lans.lan.k8slan.io", [true, true, true]),
        ("watch", "lannodes.lan.k8slan.io", [true, true, true]),
        ("create", "lans.lan.k8slan.io", [false, true, true]),
        ("patch", "lans.lan.k8slan.io", [false, true, true]),
        ("delete", "lans.lan.k8slan.io", [false, true, true]),
        ("patch", "lans.lan.k8slan.io --subresource=status", [false, false, false]),
        ("create", "lannodes.lan.k8slan.io", [false, false, false]),
        ("delete", "lannodes.lan.k8slan.io", [false, false, false]),
    ];
    for (verb, resource, may) in rights {
        for (role, may) in ["view", "edit", "admin"].into_iter().zip(may) {
            // In that namespace, which a controller adds up a moment after the roles came; and in no other.
            for (namespace, may) in [("default", may), ("k8slan-system", false)] {
                let user = format!("--as=lans-{role}");
                let asked: Vec<&str> = ["auth", "can-i", verb]
                    .into_iter()
                    .chain(resource.split(' '))
                    .chain(["-n", namespace, &user])
                    .collect();
                cluster.eventually(|| {
                    let (_, said) = cluster.kubectl_says(&asked, "").map_err(|stop| format!("{stop:?}"))?;
                    let expected = if may { "yes" } else { "no" };
                    match said.lines().any(|line| line == expected) {
                        true => Ok(()),
                        false => Err(format!("{asked:?}: {said}, and not {expected}")),
                    }
                })?;
            }
        }
    }
    cluster.kubectl("-n default delete rolebinding lans-view lans-edit lans-admin").map(drop)
}
