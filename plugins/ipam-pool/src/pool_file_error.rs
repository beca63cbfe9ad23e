use std::path::PathBuf;

use lan::pool::PoolSpecError;
use node::SafeDirError;

use crate::{Addr, RangeSetError};

pub(crate) const API_VERSION: &str = "lan.k8slan.io/v1beta1";
/// The kind of a pool's file.
pub(crate) const KIND: &str = "LANPool";
/// What the kind was called before it was one of the cluster's.
pub(crate) const OLD_KIND: &str = "IPPool";

/// An error in a pool's file, or between pool files.
#[derive(Debug, thiserror::Error)]
pub enum PoolFileError {
    #[error("unknown pool {name:?}: {path:?} does not exist")]
    Unknown {
        name: String,
        /// The path of the missing file.
        path: PathBuf,
    },
    #[error("pool {0:?} has two files, {0}.yaml and {0}.yml: remove one of them")]
    Twice(String),
    #[error(
        "invalid pool name {0:?}: a name has letters, digits, '-', '_' and '.', and begins with a letter \
         or digit"
    )]
    Name(String),
    /// The file cannot be read, or others than root may write it.
    #[error("cannot read pool {0:?}")]
    Read(String, #[source] SafeDirError),
    #[error("the file of pool {name:?} has an unknown key: {message}")]
    UnknownKey { name: String, message: String },
    /// It is not YAML, a value has the wrong type, or a key has none.
    #[error("the file of pool {name:?} is not valid: {message}")]
    Syntax { name: String, message: String },
    #[error("the file of pool {name:?} is {found}, it must be {KIND} in {API_VERSION}")]
    Kind { name: String, found: String },
    #[error("the file of pool {pool:?} has {key}, and a host knows no labels: write {instead}")]
    OfCluster {
        pool: String,
        key: &'static str,
        /// What to write in a file.
        instead: &'static str,
    },
    #[error("the file {file:?} has metadata.name {name:?}: rename the file or the pool")]
    Misnamed {
        file: String,
        /// `metadata.name`
        name: String,
    },
    /// What a `LANPool` says of its addresses.
    #[error("invalid pool {0:?}")]
    Spec(String, #[source] Box<PoolSpecError>),
    #[error("invalid pool {0:?}")]
    RangeSet(String, #[source] Box<RangeSetError>),
    #[error("pool {pool:?}: {part:?}, the part of node {node}, {what}")]
    Part {
        pool: String,
        node: String,
        part: String,
        /// What is wrong with it.
        what: String,
    },
    #[error(
        "pool {0:?} has both nodes and scope: remove one of the two (nodes gives each node its part, \
         scope: host gives every host all of it)"
    )]
    NodesAndScope(String),
    #[error(
        "pool {name:?} has the unknown scope {scope:?}: the only value is host; to give each node its \
         part, use nodes"
    )]
    Scope { name: String, scope: String },
    #[error("pool {pool:?} has no part for node {node:?}: add it to the nodes in its file, on every node")]
    NoPart { pool: String, node: String },
    #[error(
        "pool {0:?} gives each node a part, but the name of this node is not known: start \
         k8slan-device-plugin, which records it, or set nodeName in /etc/k8slan/node.yaml"
    )]
    NoNodeName(String),
    #[error(
        "pool {pool:?} is used by a network that spans nodes ({network}), so each node would hand out the \
         same addresses: give each node its own part (nodes: {{worker1: [10.0.0.1-10.0.0.99], ...}}), or \
         set scope: host if the network ends at this host"
    )]
    Spanning {
        pool: String,
        /// Why the network spans nodes.
        network: String,
    },
    #[error("pool {0:?} of the cluster (LANPool) cannot be used: {1}")]
    Object(String, String),
    #[error("pool {0:?} is an inventory and hands out no addresses: name the pool that is a part of it")]
    Inventory(String),
    #[error(
        "pools {first:?} and {second:?} overlap at {at}: change one of them, give them different routingDomains, or \
         make the larger one an inventory"
    )]
    Overlap {
        first: String,
        second: String,
        /// The lowest address of both.
        at: Addr,
    },
}
