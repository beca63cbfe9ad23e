//! The protocols between the daemon's two processes and with the kubelet: the kubelet's gRPC, the files that the
//! processes publish for each other and for people, the sockets between them, and the names in all of these. No
//! netlink, no Kubernetes client.

#![expect(
    missing_docs,
    reason = "a program's own library: a doc comment that only repeats a name is left out"
)]

pub mod agent_socket;
pub mod events;
pub mod health;
pub mod k8slan_go;
pub mod kubelet;
pub mod locks;
pub mod published;
pub mod root_socket;
