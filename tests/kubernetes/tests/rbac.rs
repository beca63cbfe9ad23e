//! The daemon's rights, by the API server's audit log of all the trials before: each that it asked for it has, and each that
//! it has it asked for. They stand behind all others, and say nothing without them.

use std::collections::BTreeSet;

use k8slan_kubernetes_tests::{Cluster, failed};
use serde_json::Value;
use testnet::{Outcome, Trial};

use crate::check;
use crate::shared::alone;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        alone("no_request_of_the_daemon_was_forbidden", no_request_of_the_daemon_was_forbidden),
        alone("no_right_of_the_daemon_is_unused", no_right_of_the_daemon_is_unused),
    ]
}

/// By the API server's audit log of all the trials before.
fn no_request_of_the_daemon_was_forbidden(cluster: &mut Cluster) -> Outcome {
    let requests = cluster.audit()?;
    check!(requests.len() > 20, "the audit log has {} requests", requests.len());
    let code = |request: &Value| request["responseStatus"]["code"].as_u64().unwrap_or_default();
    let asks = |request: &Value| {
        let user = request["user"]["username"].clone();
        [request["verb"].clone(), user, request["objectRef"]["resource"].clone()]
            .into_iter()
            .chain(["subresource", "namespace", "name"].map(|field| request["objectRef"][field].clone()))
            .collect::<Vec<_>>()
    };
    // A server that has just started knows no roles for a moment, and refuses what it allows afterwards.
    let granted_later = |at: usize| {
        requests[at..].iter().any(|later| code(later) < 300 && asks(later) == asks(&requests[at]))
    };
    let forbidden: Vec<String> = requests
        .iter()
        .enumerate()
        .filter(|(at, request)| [401, 403].contains(&code(request)) && !granted_later(*at))
        .map(|(_, request)| {
            format!("{} {}: {}", request["verb"], request["requestURI"], request["responseStatus"])
        })
        .collect();
    check!(forbidden.is_empty(), "{forbidden:#?}");
    Ok(())
}

/// A right, or a use of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    verb: String,
    group: String,
    /// With the subresource, as in a role.
    resource: String,
    /// Of one object, where the role says so.
    name: Option<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// All that a role allows, one by one.
fn rights(role: &Value) -> BTreeSet<Right> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut rights = BTreeSet::new();
    for rule in list(&role["rules"]) {
        let names: Vec<Option<String>> = match list(&rule["resourceNames"]).as_slice() {
            [] => vec![None],
            names => names.iter().map(|name| Some(text(name))).collect(),
        };
        for group in list(&rule["apiGroups"]) {
            for resource in list(&rule["resources"]) {
                for verb in list(&rule["verbs"]) {
                    rights.extend(names.iter().map(|name| Right {
                        verb: text(&verb),
                        group: text(&group),
                        resource: text(&resource),
                        name: name.clone(),
                    }));
                }
            }
        }
    }
    rights
}

/// The rights that a request made use of.
fn used_by(request: &Value) -> Vec<Right> {
    let object = &request["objectRef"];
    let subresource = text(&object["subresource"]);
    let resource = match &*subresource {
        "" => text(&object["resource"]),
        subresource => format!("{}/{subresource}", text(&object["resource"])),
    };
    let verb = text(&request["verb"]);
    // A server-side apply that makes the object needs both.
    let makes = verb == "patch" && request["responseStatus"]["code"] == 201;
    let verbs = [Some(verb), makes.then(|| "create".to_owned())];
    let of = |verb: String, name| Right {
        verb,
        group: text(&object["apiGroup"]),
        resource: resource.clone(),
        name,
    };
    let one = |verb: String| [of(verb.clone(), None), of(verb, Some(text(&object["name"])))];
    verbs.into_iter().flatten().flat_map(one).collect()
}

fn no_right_of_the_daemon_is_unused(cluster: &mut Cluster) -> Outcome {
    let requests = cluster.audit()?;
    let used: BTreeSet<Right> = requests.iter().flat_map(used_by).collect();
    for path in [
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/k8slan",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/k8slan-system/roles/k8slan-leader",
    ] {
        let role = cluster.get(path).map_err(failed)?.unwrap_or_default();
        let rights = rights(&role);
        check!(!rights.is_empty(), "{path}: {role:#}");
        let unused: Vec<&Right> = rights.difference(&used).collect();
        check!(unused.is_empty(), "{path}: nobody asked for {unused:#?}");
    }
    Ok(())
}
