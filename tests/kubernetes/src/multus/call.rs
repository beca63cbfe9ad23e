//! A call by the container runtime.

use std::collections::BTreeMap;

/// The environment of the plugin that the runtime runs.
pub(super) type Environment = BTreeMap<String, String>;

const PLUGINS: &str = "/opt/cni/bin";

/// A call by the runtime, or by the daemon in its place.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) container: String,
    pub(super) netns: String,
    pub(super) ifname: String,
    pub(super) pod_namespace: String,
    pub(super) pod_name: String,
    pub(super) pod_uid: String,
    pub(super) infra_container: String,
    /// `CNI_ARGS` as the process that calls the plugins has them in its environment.
    pub(super) inherited: Option<String>,
    /// The `CNI_PATH` that the plugins get.
    pub(super) path: String,
}

impl Call {
    /// As the plugin has it that the runtime runs: `CNI_ARGS` are in its environment, and so in that of its children.
    pub(super) fn to_plugin(environment: &Environment) -> Result<Self, String> {
        let path = format!("{PLUGINS}:{}", read(environment, "CNI_PATH")?);
        let inherited = Some(read(environment, "CNI_ARGS")?);
        Ok(Self { inherited, path, ..Self::to_daemon(environment)? })
    }

    /// As the daemon has it: nothing of the runtime's environment reaches its children but what it says itself.
    pub(super) fn to_daemon(environment: &Environment) -> Result<Self, String> {
        let arguments = read(environment, "CNI_ARGS")?;
        let argument = |key: &str| {
            let found =
                arguments.split(';').filter_map(|pair| pair.split_once('=')).find(|(own, _)| *own == key);
            found.map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        Ok(Self {
            container: read(environment, "CNI_CONTAINERID")?,
            netns: read(environment, "CNI_NETNS").unwrap_or_default(),
            ifname: read(environment, "CNI_IFNAME")?,
            pod_namespace: argument("K8S_POD_NAMESPACE"),
            pod_name: argument("K8S_POD_NAME"),
            pod_uid: argument("K8S_POD_UID"),
            infra_container: argument("K8S_POD_INFRA_CONTAINER_ID"),
            inherited: None,
            path: PLUGINS.to_owned(),
        })
    }
}

fn read(environment: &Environment, name: &str) -> Result<String, String> {
    environment.get(name).cloned().ok_or_else(|| format!("{name} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_has_nothing_of_the_runtimes_environment() {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx";
        let environment: Environment = [
            ("CNI_CONTAINERID", "c"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", arguments),
            ("CNI_PATH", "/usr/lib/cni"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let thin = Call::to_plugin(&environment).unwrap();
        assert_eq!((thin.inherited.as_deref(), &*thin.path), (Some(arguments), "/opt/cni/bin:/usr/lib/cni"));
        let thick = Call::to_daemon(&environment).unwrap();
        assert_eq!((thick.inherited, &*thick.path), (None, "/opt/cni/bin"));
        assert_eq!((&*thick.pod_namespace, &*thick.pod_name), ("default", "nginx"));
    }
}
