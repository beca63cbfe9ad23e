//! A real Kubernetes in namespaces of this machine: etcd, API server, controller manager, scheduler, and nodes with
//! containerd and a kubelet, all of them processes of the test and gone with it.
//!
//! The nodes are named `worker1`, `worker2`, … and have the links that the k8slan document names: `eth1`, `eth2` and
//! `eth0.10`, all on one wire. The cluster's own network is `eth0`.

mod certificates;
mod cluster;
mod control;
mod kubelet_cgroup;
mod meta_plugin;
pub mod multus;
mod pods;
mod programs;
mod worker;

pub use cluster::{Cluster, audits_of_the_ended, condition};
pub use meta_plugin::Multus;
pub use pods::PodOf;
pub use programs::Programs;
pub use worker::{CONTAINERD, KUBELET, Worker};

use std::time::Duration;

/// How long anything may take: a kubelet that has lost the API server twice lists pods again only after two minutes.
pub const TIMEOUT: Duration = Duration::from_secs(240);

/// A failure from a text.
pub fn failed(text: impl ToString) -> testnet::Stop {
    testnet::Stop::Failed(text.to_string())
}
