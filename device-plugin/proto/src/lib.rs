//! The protocols between the daemon's two parts ([`link`]) and with the kubelet, what is published for people, the
//! sockets, and the names in all of these. No netlink, no Kubernetes client.

#![expect(
    missing_docs,
    reason = "a program's own library: a doc comment that only repeats a name is left out"
)]

pub mod agent_socket;
mod brief;
pub mod events;
pub mod health;
pub mod k8slan_go;
pub mod kubelet;
pub mod link;
pub mod locks;
pub mod published;
pub mod root_socket;

pub use brief::brief;
