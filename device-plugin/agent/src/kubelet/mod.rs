//! The kubelet's device plugin API, v1beta1: what this node's pods can be attached to.
//!
//! Every spoke is a resource of its own, `macvtap.k8slan.io/<spoke>`, with one device of the same name; other resources
//! may lead to the same spoke, with the same device. The kubelet needs a socket and a registration per resource. One
//! gRPC server answers on all sockets, and identifies the resource by the socket of the connection.
//!
//! This module does not know LANs; it gets spokes from a [`SpokeProvider`].

mod devices;
mod folder;
mod listener;
mod plugin;
mod registrar;
mod registrations;
mod service;
mod spokes;

pub use plugin::{DevicePlugins, KubeletError};
pub use proto::kubelet::{API_VERSION, RESOURCE_DOMAIN, ResourceName, resource_name, socket_name, v1beta1};
pub use registrations::{KubeletState, Status};
pub use spokes::{Catalog, DeviceHandle, Grant, Health, Offer, Refusal, SpokeProvider};
