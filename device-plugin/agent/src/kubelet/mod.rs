//! The kubelet's device plugin API, v1beta1: what this node's pods can be attached to.
//!
//! Every spoke is a resource of its own, `macvtap.k8slan.io/<spoke>`, with one device of the same
//! name; other resources may lead to the same spoke, with the same device. The kubelet wants a socket and a registration per resource; one gRPC server answers on all
//! of them and tells them apart by the socket that a connection came in on.
//!
//! Nothing here knows what a LAN is: [`SpokeProvider`] is the other side.

mod devices;
mod folder;
mod listener;
mod plugin;
mod registrar;
mod service;
mod spokes;

pub use plugin::{DevicePlugins, KubeletError, KubeletState, Status};
pub use proto::kubelet::{API_VERSION, RESOURCE_DOMAIN, ResourceName, resource_name, socket_name, v1beta1};
pub use spokes::{Catalog, DeviceHandle, Grant, Health, Offer, Refusal, SpokeProvider};
