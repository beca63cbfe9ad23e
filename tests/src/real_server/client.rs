//! An API server as one user sees it.

use std::path::Path;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::config::KubeConfigOptions;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use testnet::{Node, Outcome, Stop, eventually, workspace};
use tokio::runtime::Runtime;

/// How long the server may take to start, and to take in what it was given.
const LIMIT: Duration = Duration::from_secs(60);

/// A client on a node.
pub struct ClusterClient<'a> {
    node: &'a Node,
    runtime: Runtime,
    client: Client,
}

impl<'a> ClusterClient<'a> {
    /// With what a kubeconfig says.
    ///
    /// # Errors
    /// It is none.
    pub fn new(node: &'a Node, kubeconfig: &Value) -> Result<Self, Stop> {
        // A socket is of the namespace of the thread that opens it, so there is one.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = serde_json::from_value(kubeconfig.clone())?;
        let client = runtime.block_on(async {
            let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
            Ok::<_, Stop>(Client::try_from(config?)?)
        })?;
        Ok(Self { node, runtime, client })
    }

    /// The same with a kubeconfig's file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_file(node: &'a Node, kubeconfig: &Path) -> Result<Self, Stop> {
        Self::new(node, &serde_json::from_slice(&std::fs::read(kubeconfig)?)?)
    }

    /// The client itself, for what is asked with [`Self::ask`].
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The answer to a question, from the node.
    pub fn ask<T: Send>(&self, question: impl Future<Output = T> + Send) -> T {
        self.node.run(|| self.runtime.block_on(question))
    }

    /// The objects of a kind, as `<apiVersion> <Kind>`.
    #[must_use]
    pub fn api(&self, kind: &str, namespace: Option<&str>) -> Api<DynamicObject> {
        let (version, kind) = kind.split_once(' ').unwrap_or_default();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        // The one plural that is not made by rule.
        if kind == "NetworkAttachmentDefinition" {
            resource.plural = "network-attachment-definitions".to_owned();
        }
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// `kubectl apply --server-side --validate=strict`.
    ///
    /// # Errors
    /// What the server answers.
    pub fn apply(&self, object: &Value) -> Result<DynamicObject, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = format!("{} {}", text(&object["apiVersion"]), text(&object["kind"]));
        let api = self.api(&kind, object["metadata"]["namespace"].as_str());
        let name = text(&object["metadata"]["name"]);
        let params = PatchParams {
            field_manager: Some("test".into()),
            ..PatchParams::apply("test").validation_strict()
        };
        let answer = self.ask(async { api.patch(&name, &params, &Patch::Apply(object)).await });
        answer.map_err(|error| format!("{kind} {name}: {error}"))
    }

    /// An object; `None`: there is none of this name. Without a namespace: "".
    ///
    /// # Errors
    /// What the server answers.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>, String> {
        let api = self.api(kind, Some(namespace).filter(|namespace| !namespace.is_empty()));
        let found = self.ask(async { api.get_opt(name).await }).map_err(|error| error.to_string())?;
        found.map(|object| serde_json::to_value(object).map_err(|error| error.to_string())).transpose()
    }

    /// Applies what `install/` has: the definitions, the daemon's account and rights, the policies; and what Multus defines.
    /// Waits for the server to start.
    ///
    /// # Errors
    /// The server refuses some of it.
    pub fn install(&self) -> Outcome {
        let mut manifests = String::new();
        for file in ["install/crds.yaml", "install/k8slan.yaml"] {
            manifests.push_str(&std::fs::read_to_string(workspace().join(file))?);
            manifests.push_str("\n---\n");
        }
        for document in manifests.split("\n---\n") {
            let object: Value =
                serde_saphyr::from_str(document).map_err(|error| Stop::Failed(error.to_string()))?;
            if !object.is_null() {
                // The first of them waits for the server to start, later ones for what earlier ones define.
                eventually(LIMIT, || self.apply(&object).map(drop))?;
            }
        }
        eventually(LIMIT, || self.apply(&definitions_of_multus()).map(drop))?;
        Ok(())
    }

    /// A token of the daemon's account that is bound to this node, as the kubelet gets one for the daemon's pod.
    ///
    /// # Errors
    /// The server refuses.
    pub fn daemon_token(&self, node: &str) -> Result<String, Stop> {
        let object = self.get("v1 Node", "", node).map_err(Stop::Failed)?;
        let uid = object.map(|node| node["metadata"]["uid"].clone()).unwrap_or_default();
        let asked = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "expirationSeconds": 86_400,
                "boundObjectRef": { "apiVersion": "v1", "kind": "Node", "name": node, "uid": uid },
            },
        });
        let url = "/api/v1/namespaces/k8slan-system/serviceaccounts/k8slan/token";
        let request = hyper::Request::post(url)
            .header("content-type", "application/json")
            .body(asked.to_string().into_bytes())
            .map_err(|error| Stop::Failed(error.to_string()))?;
        let made: Value = self.ask(async { self.client.request(request).await })?;
        Ok(made["status"]["token"].as_str().unwrap_or_default().to_owned())
    }
}

/// As Multus' own, which knows its one field.
#[must_use]
pub fn definitions_of_multus() -> Value {
    let spec = json!({ "type": "object", "properties": { "config": { "type": "string" } } });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "network-attachment-definitions.k8s.cni.cncf.io" },
        "spec": {
            "group": "k8s.cni.cncf.io", "scope": "Namespaced",
            "names": {
                "plural": "network-attachment-definitions", "singular": "network-attachment-definition",
                "kind": "NetworkAttachmentDefinition", "shortNames": ["net-attach-def"],
            },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } },
            }],
        },
    })
}
