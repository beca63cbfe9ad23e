//! The rights of k8slan's accounts, by the API servers' audit logs of all the trials before, on all their clusters: each that
//! was asked for is there, and each that is there was asked for. They stand behind all others, and say nothing without them.

use std::collections::BTreeSet;

use k8slan_kubernetes_tests::failed;
use serde_json::Value;
use testnet::{Outcome, Stop, Trial, workspace};

use crate::check;
use crate::shared::after_all;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        after_all("no_request_of_the_daemon_was_forbidden", |audits| not_forbidden(&DAEMON, audits)),
        after_all("no_right_of_the_daemon_is_unused", |audits| none_is_unused(&DAEMON, audits)),
        after_all("no_request_of_the_uninstallation_was_forbidden", |audits| {
            not_forbidden(&UNINSTALLATION, audits)
        }),
        after_all("no_right_of_the_uninstallation_is_unused", |audits| {
            none_is_unused(&UNINSTALLATION, audits)
        }),
    ]
}

/// Who asks, and where its roles are.
struct Account {
    user: &'static str,
    manifest: &'static str,
    /// Roles and bindings, which have the same names.
    roles: &'static [&'static str],
    /// As few requests as there are in all the trials.
    least: usize,
}

const DAEMON: Account = Account {
    user: "system:serviceaccount:k8slan-system:k8slan",
    manifest: "install/k8slan.yaml",
    roles: &["k8slan", "k8slan-leader"],
    least: 20,
};

/// The Job of `install/uninstall`.
const UNINSTALLATION: Account = Account {
    user: "system:serviceaccount:k8slan-uninstall:k8slan-cluster-uninstall",
    manifest: "install/uninstall/job.yaml",
    roles: &["k8slan-cluster-uninstall"],
    least: 5,
};

impl Account {
    fn asks(&self, request: &Value) -> bool {
        request["user"]["username"] == self.user
    }

    /// Whether the rights were taken away when this request came, as they are when k8slan is deleted.
    fn is_deprived(&self, audit: &[Value], at: usize) -> bool {
        let of_ours = |request: &&Value| {
            let object = &request["objectRef"];
            let named = self.roles.iter().any(|role| object["name"] == *role);
            // A namespace that goes takes what is in it along, without names.
            let whole = object["name"].is_null() && object["namespace"] == "k8slan-system";
            object["apiGroup"] == "rbac.authorization.k8s.io" && (named || whole)
        };
        let last = audit[..at].iter().rev().find(of_ours);
        last.is_some_and(|request| text(&request["verb"]).starts_with("delete"))
    }
}

fn code(request: &Value) -> u64 {
    request["responseStatus"]["code"].as_u64().unwrap_or_default()
}

fn not_forbidden(account: &Account, audits: &[Vec<Value>]) -> Outcome {
    let mut forbidden = Vec::new();
    let mut asked = 0;
    for audit in audits {
        asked += audit.iter().filter(|request| account.asks(request)).count();
        let what = |request: &Value| {
            let object = &request["objectRef"];
            let place = ["resource", "subresource", "namespace", "name"].map(|field| object[field].clone());
            (request["verb"].clone(), place)
        };
        // A server that has just started knows no roles for a moment, and refuses what it allows afterwards.
        let granted_later = |at: usize| {
            let mut later = audit[at..].iter().filter(|request| account.asks(request));
            later.any(|later| code(later) < 300 && what(later) == what(&audit[at]))
        };
        // Nobody may make anything there, with any rights.
        let terminating = |request: &Value| {
            text(&request["responseStatus"]["message"]).contains("because it is being terminated")
        };
        forbidden.extend(
            audit
                .iter()
                .enumerate()
                .filter(|(_, request)| account.asks(request) && [401, 403].contains(&code(request)))
                .filter(|(at, request)| {
                    !terminating(request) && !account.is_deprived(audit, *at) && !granted_later(*at)
                })
                .map(|(_, request)| {
                    let (verb, uri, answer) =
                        (&request["verb"], &request["requestURI"], &request["responseStatus"]);
                    format!("{verb} {uri}: {answer}")
                }),
        );
    }
    check!(asked > account.least, "the audit logs of {} clusters have {asked} requests", audits.len());
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

/// The account's roles, as the manifest has them, which is what the trials apply.
fn roles(account: &Account) -> Result<Vec<Value>, Stop> {
    let text = std::fs::read_to_string(workspace().join(account.manifest))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    let ours = |document: &Value| {
        let kind = ["ClusterRole", "Role"].iter().any(|kind| document["kind"] == *kind);
        kind && account.roles.iter().any(|role| document["metadata"]["name"] == *role)
    };
    let roles: Vec<Value> = documents.into_iter().filter(ours).collect();
    if roles.len() == account.roles.len() { Ok(roles) } else { Err(failed(format!("{roles:#?}"))) }
}

/// A block is changed where its node was gone for longer than it may allocate without the API server, 24 minutes; an address is
/// deleted, and its machine or claim asked for, when no node has had it for an hour. No trial waits for that. No trial yet has an address
/// that follows its owner, a reservation, or a pool that selects namespaces: the trials in `tests/tests` do.
fn takes_long(right: &Right) -> bool {
    let waits = [
        ("lanblocks", "patch"),
        ("lanaddresses", "get"),
        ("lanaddresses", "create"),
        ("lanaddresses", "patch"),
        ("lanaddresses", "delete"),
        ("lanpools", "get"),
        ("lanreservations/status", "patch"),
        ("namespaces", "list"),
        ("namespaces", "watch"),
        ("ipamclaims", "list"),
        ("virtualmachines", "list"),
        ("virtualmachineinstances", "list"),
    ];
    waits.iter().any(|(resource, verb)| right.resource == *resource && right.verb == *verb)
}

fn none_is_unused(account: &Account, audits: &[Vec<Value>]) -> Outcome {
    let requests = audits.iter().flatten().filter(|request| account.asks(request));
    let used: BTreeSet<Right> = requests.flat_map(used_by).collect();
    for role in roles(account)? {
        let rights = rights(&role);
        check!(!rights.is_empty(), "{role:#}");
        let unused: Vec<&Right> = rights.difference(&used).filter(|right| !takes_long(right)).collect();
        check!(unused.is_empty(), "{}: nobody asked for {unused:#?}", role["metadata"]["name"]);
    }
    Ok(())
}
