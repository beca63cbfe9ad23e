//! What the daemon's two processes and the kubelet say to one another: the kubelet's gRPC, the files that the processes publish
//! for each other and for people, the sockets between them, and the names in all of these. No netlink, no Kubernetes client.

pub mod agent_socket;
pub mod events;
pub mod health;
pub mod k8slan_go;
pub mod kubelet;
pub mod locks;
pub mod published;
pub mod root_socket;
