use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// Which shared things of the node the attachments of a pod namespace may use.
///
/// Keys are pod namespaces; `"*"` stands for every namespace without a key of its own. What a
/// namespace's entry does not list, it may not use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Policy(BTreeMap<String, Allowed>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Allowed {
    #[serde(default)]
    masters: Vec<String>,
    #[serde(default)]
    pools: Vec<String>,
}

/// A shared thing of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A link of the node that a macvtap is put on.
    Master(&'a str),
    /// A named address pool.
    Pool(&'a str),
}

/// The policy says no.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not in the namespace's entry.
    #[error("pod namespace {namespace:?} may not use {resource}: the policy in node.yaml does not list it")]
    NotAllowed {
        /// The pod's namespace.
        namespace: String,
        /// What it asked for.
        resource: String,
    },
    /// A policy is set, and nobody says whose pod it is.
    #[error(
        "the policy in node.yaml decides by pod namespace, but the runtime states none (K8S_POD_NAMESPACE), so {0} is refused"
    )]
    NoNamespace(String),
}

impl Policy {
    /// Whether a pod of `namespace` may use `resource`.
    ///
    /// # Errors
    /// It may not, or the runtime states no namespace.
    pub fn check(&self, namespace: Option<&str>, resource: Resource<'_>) -> Result<(), PolicyError> {
        let namespace = namespace.ok_or_else(|| PolicyError::NoNamespace(resource.to_string()))?;
        let listed = self.0.get(namespace).or_else(|| self.0.get("*")).is_some_and(|allowed| {
            let (list, name) = match resource {
                Resource::Master(name) => (&allowed.masters, name),
                Resource::Pool(name) => (&allowed.pools, name),
            };
            list.iter().any(|entry| entry == name)
        });
        if listed {
            return Ok(());
        }
        Err(PolicyError::NotAllowed { namespace: namespace.to_owned(), resource: resource.to_string() })
    }
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Master(name) => write!(f, "master {name:?}"),
            Self::Pool(name) => write!(f, "pool {name:?}"),
        }
    }
}
