//! Which devices the kubelet gave a pod: its service of pod resources, else the checkpoint of its device manager.

use std::collections::BTreeMap;
use std::path::Path;

use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Endpoint, Uri};

const SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
const CHECKPOINT: &str = "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint";
const LIST: &str = "/v1.PodResourcesLister/List";

/// The device IDs by resource, each taken once, in the order that they are told.
#[derive(Debug, Default)]
pub(super) struct Devices(BTreeMap<String, std::vec::IntoIter<String>>);

impl Devices {
    /// The devices of a pod.
    pub(super) fn of(pod: &Value) -> Result<Self, String> {
        let told = if Path::new(SOCKET).exists() { from_service(pod)? } else { from_checkpoint(pod)? };
        let mut by_resource: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (resource, ids) in told {
            by_resource.entry(resource).or_default().extend(ids);
        }
        Ok(Self(by_resource.into_iter().map(|(resource, ids)| (resource, ids.into_iter())).collect()))
    }

    pub(super) fn take(&mut self, resource: &str) -> Option<String> {
        self.0.get_mut(resource)?.next()
    }
}

/// `k8s.io/kubelet/pkg/apis/podresources/v1`: the fields that are read.
#[derive(Clone, PartialEq, prost::Message)]
struct Everything {
    #[prost(message, repeated, tag = "1")]
    pods: Vec<PodResources>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodResources {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(message, repeated, tag = "3")]
    containers: Vec<ContainerResources>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerResources {
    #[prost(message, repeated, tag = "2")]
    devices: Vec<ContainerDevices>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerDevices {
    #[prost(string, tag = "1")]
    resource: String,
    #[prost(string, repeated, tag = "2")]
    ids: Vec<String>,
}

type Told = Vec<(String, Vec<String>)>;

fn from_service(pod: &Value) -> Result<Told, String> {
    let said = |error: &dyn std::error::Error| format!("error getting pod resources from client: {error}");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| said(&error))?;
    let answer = runtime.block_on(async {
        let connect =
            tower::service_fn(|_: Uri| async { UnixStream::connect(SOCKET).await.map(TokioIo::new) });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await;
        let mut client = tonic::client::Grpc::new(channel.map_err(|error| said(&error))?);
        client.ready().await.map_err(|error| said(&error))?;
        let codec = tonic_prost::ProstCodec::<(), Everything>::default();
        let answer = client.unary(tonic::Request::new(()), PathAndQuery::from_static(LIST), codec).await;
        answer.map_err(|error| said(&error))
    })?;
    let (name, namespace) = (&pod["metadata"]["name"], &pod["metadata"]["namespace"]);
    let pods = answer.into_inner().pods.into_iter();
    let own = pods.filter(|pod| *name == *pod.name && *namespace == *pod.namespace);
    let devices = own.flat_map(|pod| pod.containers).flat_map(|container| container.devices);
    Ok(devices.map(|devices| (devices.resource, devices.ids)).collect())
}

fn from_checkpoint(pod: &Value) -> Result<Told, String> {
    let text = std::fs::read(CHECKPOINT).map_err(|error| format!("{CHECKPOINT}: {error}"))?;
    let checkpoint: Value =
        serde_json::from_slice(&text).map_err(|error| format!("{CHECKPOINT}: {error}"))?;
    let entries = checkpoint["Data"]["PodDeviceEntries"].as_array().cloned().unwrap_or_default();
    let own = entries.iter().filter(|entry| entry["PodUID"] == pod["metadata"]["uid"]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    // By NUMA node.
    let ids = |entry: &Value| -> Vec<String> {
        let by_node = entry["DeviceIDs"].as_object().into_iter().flat_map(|nodes| nodes.values());
        by_node.filter_map(Value::as_array).flatten().filter_map(text).collect()
    };
    Ok(own.filter_map(|entry| Some((text(&entry["ResourceName"])?, ids(entry)))).collect())
}
