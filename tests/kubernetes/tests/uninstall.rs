//! What stays: nothing that was asked for and not given, and nothing on the nodes.

use std::collections::BTreeSet;

use k8slan_kubernetes_tests::Cluster;
use serde_json::Value;
use testnet::{Outcome, Trial};

use crate::check;
use crate::shared::alone;

pub(crate) fn trials() -> Vec<Trial> {
    vec![alone("no_request_of_the_daemon_was_forbidden", no_request_of_the_daemon_was_forbidden)]
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
    let asked: BTreeSet<String> = requests
        .iter()
        .map(|request| {
            let text = |field: &str| request["objectRef"][field].as_str().unwrap_or_default();
            let verb = request["verb"].as_str().unwrap_or_default();
            format!(
                "{verb} {}{}{}",
                text("resource"),
                if text("subresource").is_empty() { "" } else { "/" },
                text("subresource")
            )
        })
        .collect();
    // The log has what there was: a daemon that did without these would not have worked.
    for right in [
        "watch lans",
        "patch lans/status",
        "patch lannodes",
        "watch nodes",
        "watch pods",
        "create network-attachment-definitions",
        "update leases",
    ] {
        check!(asked.contains(right), "nobody asked for '{right}': {asked:?}");
    }
    Ok(())
}
