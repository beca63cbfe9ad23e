//! What Multus asks the API server.

use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tonic::codegen::http::Request;

use super::call::Call;

pub(super) struct Api {
    runtime: tokio::runtime::Runtime,
    client: kube::Client,
}

impl Api {
    pub(super) fn new(kubeconfig: &str) -> Result<Self, String> {
        let said = |error: &dyn std::error::Error| format!("error getting k8s client: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| said(&error))?;
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(kubeconfig).map_err(|error| said(&error))?;
            let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            kube::Client::try_from(config.map_err(|error| said(&error))?).map_err(|error| said(&error))
        })?;
        Ok(Self { runtime, client })
    }

    fn ask(&self, request: Request<Vec<u8>>) -> Result<Option<Value>, String> {
        match self.runtime.block_on(self.client.request::<Value>(request)) {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn get(&self, path: &str) -> Result<Option<Value>, String> {
        self.ask(Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?)
    }

    /// The pod, if it is still the one that the runtime means.
    pub(super) fn pod(&self, call: &Call) -> Result<Option<Value>, String> {
        let found = self.get(&pod_path(call)).map_err(|error| format!("error waiting for pod: {error}"))?;
        match found {
            Some(pod) if !call.pod_uid.is_empty() && pod["metadata"]["uid"] != *call.pod_uid => Err(format!(
                "expected pod UID {:?} but got {} from Kube API",
                call.pod_uid, pod["metadata"]["uid"]
            )),
            found => Ok(found),
        }
    }

    pub(super) fn definition(&self, namespace: &str, name: &str) -> Result<Value, String> {
        let group = "/apis/k8s.cni.cncf.io/v1";
        let found =
            self.get(&format!("{group}/namespaces/{namespace}/network-attachment-definitions/{name}"))?;
        found.ok_or_else(|| {
            format!("cannot find a network-attachment-definition ({name}) in namespace ({namespace})")
        })
    }

    pub(super) fn set_network_status(&self, call: &Call, statuses: &[Value]) -> Result<(), String> {
        let text = serde_json::to_string_pretty(statuses).map_err(|error| error.to_string())?;
        let patch = json!({ "metadata": { "annotations": { "k8s.v1.cni.cncf.io/network-status": text } } });
        let request = Request::patch(format!("{}/status", pod_path(call)))
            .header("Content-Type", "application/merge-patch+json")
            .body(patch.to_string().into_bytes())
            .map_err(|error| error.to_string())?;
        // That the pod is gone meanwhile is tolerated.
        self.ask(request).map(drop).map_err(|error| format!("error setting the networks status: {error}"))
    }
}

fn pod_path(call: &Call) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", call.pod_namespace, call.pod_name)
}
