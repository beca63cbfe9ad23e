//! Who may do what on an API server: requests in RBAC's words, and the rules of roles.

use std::collections::BTreeSet;

use serde_json::Value;

/// A request in RBAC's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// `get`, `list`, `watch`, `create`, `update`, `patch` or `delete`.
    pub verb: String,
    /// The API group; empty for the core's.
    pub group: String,
    /// The plural, and `/<subresource>` where there is one.
    pub resource: String,
    /// The namespace, where it is about one.
    pub namespace: Option<String>,
    /// The object's name, where it is about one.
    pub name: Option<String>,
}

/// The rules of all roles of a file that bindings in it give to one service account.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Rule>);

#[derive(Clone, Debug)]
struct Rule {
    /// The only namespace that it applies to; `None`: all.
    namespace: Option<String>,
    groups: BTreeSet<String>,
    resources: BTreeSet<String>,
    verbs: BTreeSet<String>,
    /// Empty: whatever its name is.
    names: BTreeSet<String>,
}

/// One permission: its namespace (`None`: all), verb, group, resource, and the object's name (`None`: all).
pub type Grant = (Option<String>, String, String, String, Option<String>);

impl Rules {
    /// Reads a file of manifests.
    ///
    /// # Errors
    /// What is wrong with it: no YAML, a binding without its role, a wildcard.
    pub fn of(manifests: &str, account: (&str, &str)) -> Result<Self, String> {
        let documents: Vec<Value> = manifests
            .split("\n---\n")
            .map(|text| serde_saphyr::from_str(text).map_err(|error| error.to_string()))
            .collect::<Result<_, _>>()?;
        let mut rules = Self::default();
        for binding in &documents {
            let role_kind = match binding["kind"].as_str() {
                Some("ClusterRoleBinding") => "ClusterRole",
                Some("RoleBinding") => "Role",
                _ => continue,
            };
            let subjects = binding["subjects"].as_array().into_iter().flatten();
            let mut ours = subjects.filter(|subject| {
                subject["kind"] == "ServiceAccount"
                    && (subject["namespace"].as_str(), subject["name"].as_str())
                        == (Some(account.0), Some(account.1))
            });
            if ours.next().is_none() {
                continue;
            }
            let (of, namespace) = (&binding["roleRef"], &binding["metadata"]["namespace"]);
            let role = documents.iter().find(|role| {
                role["kind"] == role_kind
                    && role["metadata"]["name"] == of["name"]
                    && role["metadata"]["namespace"] == *namespace
            });
            let role = role.ok_or_else(|| format!("{} names no role of the file", binding["metadata"]))?;
            for rule in role["rules"].as_array().into_iter().flatten() {
                rules.0.push(Rule::of(rule, namespace.as_str())?);
            }
        }
        Ok(rules)
    }

    /// Whether a request is allowed.
    #[must_use]
    pub fn allow(&self, access: &Access) -> bool {
        self.0.iter().any(|rule| rule.allows(access))
    }

    /// Every permission that the rules give.
    #[must_use]
    pub fn grants(&self) -> BTreeSet<Grant> {
        let mut grants = BTreeSet::new();
        for rule in &self.0 {
            let names: Vec<Option<String>> = match rule.names.len() {
                0 => vec![None],
                _ => rule.names.iter().cloned().map(Some).collect(),
            };
            for (group, resource) in
                rule.groups.iter().flat_map(|g| rule.resources.iter().map(move |r| (g, r)))
            {
                for (verb, name) in rule.verbs.iter().flat_map(|v| names.iter().map(move |n| (v, n))) {
                    let grant =
                        (rule.namespace.clone(), verb.clone(), group.clone(), resource.clone(), name.clone());
                    grants.insert(grant);
                }
            }
        }
        grants
    }

    /// The permissions that none of these requests needed.
    #[must_use]
    pub fn unused(&self, accesses: &BTreeSet<Access>) -> BTreeSet<Grant> {
        let mut grants = self.grants();
        grants.retain(|(namespace, verb, group, resource, name)| {
            !accesses.iter().any(|access| {
                (verb, group, resource) == (&access.verb, &access.group, &access.resource)
                    && (namespace.is_none() || *namespace == access.namespace)
                    && (name.is_none() || *name == access.name)
            })
        });
        grants
    }
}

impl Rule {
    fn of(rule: &Value, namespace: Option<&str>) -> Result<Self, String> {
        let texts = |field: &str| -> BTreeSet<String> {
            let list = rule[field].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let rule = Self {
            namespace: namespace.map(str::to_owned),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            verbs: texts("verbs"),
            names: texts("resourceNames"),
        };
        let all = [&rule.groups, &rule.resources, &rule.verbs];
        if all.iter().any(|set| set.contains("*") || set.is_empty()) {
            return Err(format!("a rule with a wildcard, or without groups, resources or verbs: {rule:?}"));
        }
        Ok(rule)
    }

    fn allows(&self, access: &Access) -> bool {
        self.groups.contains(&access.group)
            && self.resources.contains(&access.resource)
            && self.verbs.contains(&access.verb)
            && (self.namespace.is_none() || self.namespace == access.namespace)
            // An object that is still to be created has no name that rules could go by.
            && (self.names.is_empty()
                || (access.verb != "create" && access.name.as_ref().is_some_and(|name| self.names.contains(name))))
    }
}
