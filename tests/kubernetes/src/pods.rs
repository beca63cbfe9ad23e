//! Manifests of pods.

use serde_json::{Value, json};

/// A pod with attachments: busybox, which can ping.
#[derive(Clone, Debug, Default)]
pub struct PodOf {
    /// The pod's name, also that of its only container.
    pub name: String,
    /// The node that it is to run on; none: any.
    pub node: Option<String>,
    /// The value of `k8s.v1.cni.cncf.io/networks`.
    pub networks: String,
    /// The spokes that it asks for.
    pub spokes: Vec<String>,
}

impl PodOf {
    /// A pod on one network that has the name of its spoke.
    #[must_use]
    pub fn on(name: &str, spoke: &str) -> Self {
        Self { name: name.to_owned(), node: None, networks: spoke.to_owned(), spokes: vec![spoke.to_owned()] }
    }

    /// The same on this node.
    #[must_use]
    pub fn at(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// Its `metadata` without a name, and its `spec`: also a controller's template.
    #[must_use]
    pub fn template(&self) -> Value {
        let limits: serde_json::Map<String, Value> =
            self.spokes.iter().map(|spoke| (format!("macvtap.k8slan.io/{spoke}"), json!("1"))).collect();
        let mut spec = json!({
            "terminationGracePeriodSeconds": 2,
            "containers": [{
                "name": "main", "image": "busybox:1.37", "imagePullPolicy": "IfNotPresent",
                "resources": { "limits": limits },
            }],
        });
        if let Some(node) = &self.node {
            spec["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
        }
        json!({
            "metadata": { "annotations": { "k8s.v1.cni.cncf.io/networks": self.networks } },
            "spec": spec,
        })
    }

    /// Its manifest, in the namespace `default`.
    #[must_use]
    pub fn manifest(&self) -> String {
        let mut pod = self.template();
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(self.name);
        pod.to_string()
    }
}
