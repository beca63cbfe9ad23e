use lan::LanKey;
use net_types::Mtu;
use node::{ClaimRecord, ClusterPool, SetRecord, VmRecord};
use pool_blocks::{Request, RequestId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::published::{NodeStatus, PoolNotes, VmNames};

/// From the cluster's part to the node's part.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FromCluster {
    /// The first message.
    Hello { version: String },
    Change {
        /// Names it in the answer; grows by one.
        number: u64,
        change: Change,
    },
    /// Asks for an [`FromNode::Answer`].
    Ask { number: u64 },
    /// Objects of an answer that is too long for one message; the others, and the rest of it, come next.
    PoolAnswerPart { id: RequestId, objects: Vec<pool_blocks::Object> },
    /// What the API server says to a [`FromNode::PoolRequest`].
    PoolAnswer { id: RequestId, answer: pool_blocks::Answer },
}

/// From the node's part to the cluster's part.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FromNode {
    /// The first message.
    Hello { version: String },
    /// Instead of the first message; then the connection ends.
    Refused { reason: String },
    /// A change was made, and is on disk where it belongs there.
    Ack { number: u64 },
    /// A change was not made.
    Nack { number: u64, reason: String },
    /// What became of every LAN.
    Status(Box<NodeStatus>),
    /// The virtual machines that addresses are kept for while no pod runs them here.
    StickyVms(VmNames),
    /// What this node has to say of pools.
    Pools(PoolNotes),
    /// Is to be asked of the API server.
    PoolRequest { id: RequestId, request: Request },
    Answer {
        number: u64,
        /// Why the node is not ready, a sentence each; empty: it is ready.
        waiting: Vec<String>,
        /// In Prometheus' text format.
        metrics: String,
    },
}

/// A change of what the API server has.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    Put(Object),
    Remove(ObjectKey),
    /// All objects of that kind were sent: what was not does not exist. The API server is heard about that kind.
    Complete(Kind),
    /// The API server is not heard about that kind any more: what it does not send may exist.
    Lost(Kind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    Lan,
    Pod,
    DeletedVm,
    LanPool,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Lan, Self::Pod, Self::DeletedVm, Self::LanPool];
}

/// Something that the API server has, as far as the node needs it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Object {
    /// The second name by which `vxlanDevMap` may mean this node, if it has one. Where nobody sends it, the node's part
    /// keeps the one that it has.
    HostName(Option<String>),
    Lan(LanObject),
    /// A pod of this node.
    Pod {
        /// Of its object.
        uid: String,
        /// Of the pod itself, where it is a static one: its object has another.
        static_uid: Option<String>,
        /// What plugins need to know about it, if it runs a virtual machine.
        vm: Option<VmRecord>,
        /// Whether a StatefulSet made it, where its name is such a one ([`node::has_ordinal`]).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        set: Option<SetRecord>,
        /// Which `IPAMClaim`s it names, where it names networks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        claims: Option<ClaimRecord>,
    },
    /// A virtual machine, `<namespace>/<name>`, that addresses are kept for and that was deleted.
    DeletedVm(String),
    LanPool(ClusterPool),
}

/// Names an [`Object`]. In this order they are sent: a LAN that is built without the host name may be built on another
/// underlay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ObjectKey {
    HostName,
    Lan(LanKey),
    Pod(String),
    DeletedVm(String),
    LanPool(String),
}

/// A LAN's object.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LanObject {
    pub key: LanKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// When it was created, as the API server writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The MTU that all nodes have room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// As its author wrote it: the node's part says what is wrong with it.
    pub spec: Value,
}

impl Object {
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::HostName(_) => ObjectKey::HostName,
            Self::Lan(lan) => ObjectKey::Lan(lan.key.clone()),
            Self::Pod { uid, .. } => ObjectKey::Pod(uid.clone()),
            Self::DeletedVm(vm) => ObjectKey::DeletedVm(vm.clone()),
            Self::LanPool(pool) => ObjectKey::LanPool(pool.name.clone()),
        }
    }
}

impl ObjectKey {
    /// The kind that it is complete with; the host name is not one of many.
    pub const fn kind(&self) -> Option<Kind> {
        match self {
            Self::HostName => None,
            Self::Lan(_) => Some(Kind::Lan),
            Self::Pod(_) => Some(Kind::Pod),
            Self::DeletedVm(_) => Some(Kind::DeletedVm),
            Self::LanPool(_) => Some(Kind::LanPool),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_lans_name_is_no_message() {
        let put = |key: &str| json!({ "change": { "number": 1, "change": { "put": { "lan": { "key": key, "spec": {} } } } } });
        let read = |message: Value| serde_json::from_value::<FromCluster>(message);
        let FromCluster::Change { number: 1, change: Change::Put(object) } = read(put("a/b")).unwrap() else {
            panic!("a change")
        };
        assert_eq!(object.key(), ObjectKey::Lan("a/b".parse().unwrap()));
        for key in ["a/../b", "../b", "a/b/c", "a/.b", "a/", "a/b\n"] {
            assert!(read(put(key)).is_err(), "{key:?}");
        }
    }
}
