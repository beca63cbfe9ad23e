//! What the container runtime says.

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
    /// `CNI_PATH` for the plugins.
    pub(super) path: String,
}

impl Call {
    pub(super) fn from_environment(thick: bool) -> Result<Self, String> {
        let read = |name: &str| std::env::var(name).map_err(|_| format!("{name} is missing"));
        let arguments = read("CNI_ARGS")?;
        let argument = |key: &str| {
            let found =
                arguments.split(';').filter_map(|pair| pair.split_once('=')).find(|(own, _)| *own == key);
            found.map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        Ok(Self {
            container: read("CNI_CONTAINERID")?,
            netns: read("CNI_NETNS").unwrap_or_default(),
            ifname: read("CNI_IFNAME")?,
            pod_namespace: argument("K8S_POD_NAMESPACE"),
            pod_name: argument("K8S_POD_NAME"),
            pod_uid: argument("K8S_POD_UID"),
            infra_container: argument("K8S_POD_INFRA_CONTAINER_ID"),
            inherited: Some(arguments.clone()).filter(|_| !thick),
            path: format!("/opt/cni/bin:{}", read("CNI_PATH")?),
        })
    }
}
