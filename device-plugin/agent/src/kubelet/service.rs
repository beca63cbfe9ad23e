//! The device plugin's answers to the kubelet's calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net_types::{Attach, SpokeName};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::devices::DeviceLists;
use super::listener::Endpoint;
use super::v1beta1::device_plugin_server::DevicePlugin;
use super::v1beta1::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, ContainerPreferredAllocationResponse,
    DevicePluginOptions, DeviceSpec, Empty, PreStartContainerRequest, PreStartContainerResponse,
    PreferredAllocationRequest, PreferredAllocationResponse,
};
use super::{Grant, Refusal, ResourceName, SpokeProvider, resource_name};
use proto::kubelet::variable;

/// How long to wait for a LAN to be built before the container's start fails.
const GRANT_DEADLINE: Duration = Duration::from_secs(10);

pub(super) struct Service<S> {
    spokes: Arc<S>,
    streams: AtomicU64,
}

/// A device needs no reset before its container starts, and with only one device there is no preference.
pub(super) const OPTIONS: DevicePluginOptions =
    DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: false };

impl<S: SpokeProvider> Service<S> {
    pub(super) fn new(spokes: Arc<S>) -> Self {
        Self { spokes, streams: AtomicU64::new(0) }
    }

    /// Checks that these devices are those of the called socket, and gets them.
    async fn grant(&self, endpoint: &Endpoint, ids: &[String]) -> Result<Grant, Status> {
        let (handed, spoke) = (&endpoint.handed, &endpoint.handed.spoke);
        let resource = resource_name(&handed.resource);
        if ids.is_empty() {
            return Err(Status::invalid_argument(format!("{resource}: no device is asked for")));
        }
        for id in ids {
            if id == spoke.as_str() {
                continue;
            }
            let other = id.parse::<SpokeName>().ok();
            let foreign =
                other.filter(|other| self.spokes.catalog().borrow().contains_key(&ResourceName::from(other)));
            return Err(match foreign {
                Some(other) => Status::invalid_argument(format!(
                    "{resource}: device {other} is not of this resource but of {}",
                    resource_name(&other)
                )),
                None => Status::not_found(format!(
                    "{resource}: there is no device {id:?}, the only one is {spoke}"
                )),
            });
        }
        match tokio::time::timeout(GRANT_DEADLINE, self.spokes.grant(handed)).await {
            Ok(Ok(grant)) => Ok(grant),
            Ok(Err(refusal)) => {
                let text = format!("{resource}: {refusal}");
                Err(match refusal {
                    Refusal::Unknown(_) => Status::not_found(text),
                    Refusal::NotReady { .. } => Status::failed_precondition(text),
                })
            }
            Err(_) => Err(Status::deadline_exceeded(format!(
                "{resource}: the LAN was not built within {} s; the daemon's log on this node says what it waits for",
                GRANT_DEADLINE.as_secs()
            ))),
        }
    }
}

fn endpoint<T>(request: &Request<T>) -> Result<Arc<Endpoint>, Status> {
    let endpoint = request.extensions().get::<Arc<Endpoint>>().cloned();
    endpoint.ok_or_else(|| Status::internal("a call came in on no spoke's socket"))
}

fn answer(spoke: &SpokeName, grant: &Grant) -> ContainerAllocateResponse {
    let devices = match grant.attach {
        Attach::Macvtap => {
            let path = format!("/dev/tap{}", grant.tap_index.get());
            vec![DeviceSpec { container_path: path.clone(), host_path: path, permissions: "rw".into() }]
        }
        Attach::Veth => Vec::new(),
    };
    let mut envs = BTreeMap::from([
        (variable("SPOKE", spoke), spoke.to_string()),
        (variable("MTU", spoke), grant.mtu.to_string()),
    ]);
    if grant.attach == Attach::Macvtap {
        envs.insert(variable("TAP_INDEX", spoke), grant.tap_index.get().to_string());
    }
    ContainerAllocateResponse { envs, devices, ..ContainerAllocateResponse::default() }
}

#[tonic::async_trait]
impl<S: SpokeProvider> DevicePlugin for Service<S> {
    type ListAndWatchStream = DeviceLists;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(OPTIONS))
    }

    async fn list_and_watch(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let endpoint = endpoint(&request)?;
        let id = self.streams.fetch_add(1, Ordering::Relaxed);
        let changes = WatchStream::new(endpoint.devices.clone());
        Ok(Response::new(DeviceLists::new(endpoint.handed.clone(), id, changes, endpoint.events.clone())))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        endpoint(&request)?;
        let mut container_responses = Vec::new();
        for wanted in request.into_inner().container_requests {
            let size = usize::try_from(wanted.allocation_size).unwrap_or(0);
            let mut chosen = wanted.must_include_device_i_ds;
            let rest: Vec<_> =
                wanted.available_device_i_ds.into_iter().filter(|id| !chosen.contains(id)).collect();
            let missing = size.saturating_sub(chosen.len());
            chosen.extend(rest.into_iter().take(missing));
            container_responses.push(ContainerPreferredAllocationResponse { device_i_ds: chosen });
        }
        Ok(Response::new(PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let endpoint = endpoint(&request)?;
        let mut container_responses = Vec::new();
        for container in request.into_inner().container_requests {
            let grant = self.grant(&endpoint, &container.devices_ids).await.inspect_err(|status| {
                tracing::warn!(resource = %endpoint.handed.resource, status = status.message(), "refused an allocation");
            })?;
            container_responses.push(answer(&endpoint.handed.spoke, &grant));
        }
        if container_responses.is_empty() {
            let resource = resource_name(&endpoint.handed.resource);
            return Err(Status::invalid_argument(format!("{resource}: no container asks for a device")));
        }
        tracing::debug!(resource = %endpoint.handed.resource, "allocated");
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        let endpoint = endpoint(&request)?;
        self.grant(&endpoint, &request.get_ref().devices_ids).await?;
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
