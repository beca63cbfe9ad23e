use std::collections::{BTreeMap, BTreeSet};

use node::SelectedNamespaces;

/// The namespaces whose pods may have addresses of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedNamespaces {
    #[default]
    All,
    /// As the pool lists them.
    Listed(Vec<String>),
    /// Those that had the selector's labels when this node was told last.
    Selected { selector: String, names: BTreeSet<String> },
    /// The pool has a selector, and this node has not been told whom it selects.
    Unknown { reason: String },
}

/// A pod's namespace gets no addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pool {pool:?} gives no addresses to {}: {why}", self.pods())]
pub struct NamespaceError {
    pub pool: String,
    /// The pod's namespace, if it is known.
    pub namespace: Option<String>,
    pub why: NamespaceRefusal,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum NamespaceRefusal {
    #[error("its allowedNamespaces does not list the namespace")]
    NotListed,
    #[error(
        "its namespaceSelector asks for {0}, which the namespace did not have when this node was told last: label the namespace, and \
         the next attempt gets an address"
    )]
    NotSelected(String),
    #[error("it has a namespaceSelector, and {0}")]
    Unknown(String),
}

impl NamespaceError {
    /// Whether it may end without anybody's doing.
    pub(crate) const fn is_temporary(&self) -> bool {
        matches!(self.why, NamespaceRefusal::Unknown(_))
    }

    fn pods(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("pods of namespace {namespace:?}"),
            None => "a pod whose namespace the runtime does not pass (K8S_POD_NAMESPACE)".to_owned(),
        }
    }
}

impl From<Option<Vec<String>>> for AllowedNamespaces {
    fn from(listed: Option<Vec<String>>) -> Self {
        listed.map_or(Self::All, Self::Listed)
    }
}

impl AllowedNamespaces {
    /// By a selector; `known`: what the daemon says of it.
    pub(crate) fn selected(selector: &BTreeMap<String, String>, known: Option<&SelectedNamespaces>) -> Self {
        let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        match known {
            Some(SelectedNamespaces::Names(names)) => {
                Self::Selected { selector: labels.join(","), names: names.clone() }
            }
            Some(SelectedNamespaces::Unknown(reason)) => Self::Unknown { reason: reason.clone() },
            None => {
                let reason = "this node has not been told yet which namespaces it selects".to_owned();
                Self::Unknown { reason }
            }
        }
    }

    /// # Errors
    /// Why a pod of this namespace gets no address.
    pub(crate) fn check(&self, pool: &str, namespace: Option<&str>) -> Result<(), NamespaceError> {
        let why = match self {
            Self::All => return Ok(()),
            Self::Listed(names) if names.iter().any(|name| Some(name.as_str()) == namespace) => return Ok(()),
            Self::Selected { names, .. } if namespace.is_some_and(|namespace| names.contains(namespace)) => {
                return Ok(());
            }
            Self::Listed(_) => NamespaceRefusal::NotListed,
            Self::Selected { selector, .. } => NamespaceRefusal::NotSelected(selector.clone()),
            Self::Unknown { reason } => NamespaceRefusal::Unknown(reason.clone()),
        };
        Err(NamespaceError { pool: pool.to_owned(), namespace: namespace.map(str::to_owned), why })
    }

    /// Why no pod gets an address.
    pub(crate) fn for_nobody(&self) -> Option<String> {
        match self {
            Self::Listed(names) if names.is_empty() => {
                Some("allowedNamespaces is empty: no pod gets an address".to_owned())
            }
            Self::Selected { selector, names } if names.is_empty() => Some(format!(
                "no namespace has the labels {selector} of namespaceSelector: no pod gets an address"
            )),
            Self::Unknown { reason } => {
                Some(format!("no pod gets an address: {}", NamespaceRefusal::Unknown(reason.clone())))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(known: Option<SelectedNamespaces>) -> AllowedNamespaces {
        let selector = [("team".to_owned(), "a".to_owned()), ("env".to_owned(), String::new())].into();
        AllowedNamespaces::selected(&selector, known.as_ref())
    }

    fn names(names: &[&str]) -> Option<SelectedNamespaces> {
        Some(SelectedNamespaces::Names(names.iter().map(|name| (*name).to_owned()).collect()))
    }

    #[test]
    fn who_is_not_selected_is_refused_and_who_is_not_known_waits() {
        let blue = selected(names(&["blue"]));
        assert_eq!(blue.check("office", Some("blue")), Ok(()));
        for namespace in [Some("red"), None] {
            let error = blue.check("office", namespace).unwrap_err();
            assert!(!error.is_temporary() && error.to_string().contains("asks for env=,team=a"), "{error}");
        }
        for known in [None, Some(SelectedNamespaces::Unknown("the daemon may not list them".to_owned()))] {
            let error = selected(known).check("office", Some("blue")).unwrap_err();
            assert!(error.is_temporary() && error.to_string().contains("namespaceSelector"), "{error}");
        }
        assert!(blue.for_nobody().is_none() && selected(names(&[])).for_nobody().is_some());
    }

    #[test]
    fn an_empty_list_is_nobody_and_no_list_everybody() {
        let listed =
            |names: &[&str]| AllowedNamespaces::from(Some(names.iter().map(|n| (*n).to_owned()).collect()));
        assert_eq!(AllowedNamespaces::from(None).check("iot", None), Ok(()));
        assert_eq!(listed(&["blue"]).check("iot", Some("blue")), Ok(()));
        for (list, namespace) in [(&["blue"][..], None), (&["blue"], Some("red")), (&[], Some("blue"))] {
            let error = listed(list).check("iot", namespace).unwrap_err();
            assert_eq!(error.why, NamespaceRefusal::NotListed);
        }
        assert!(listed(&[]).for_nobody().is_some());
    }
}
