//! The kubelet's device plugin API, v1beta1: its messages and services, and the names that k8slan's resources have in it.

pub(crate) mod codec;
mod resource;

pub use resource::{
    API_VERSION, RESOURCE_DOMAIN, RESOURCE_PREFIX, ResourceName, resource_name, resource_of_socket,
    socket_name, variable,
};

/// The messages and services of the API, generated from `deviceplugin/v1beta1.proto`.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod v1beta1 {
    include!("generated/v1beta1.rs");
}
