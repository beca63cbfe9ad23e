use node::SafeDirError;

use crate::network_scope::ReadBridgeError;
use crate::{Addr, RangeSetError, Sticky};

/// Why the requested addresses cannot be given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestedIpsError {
    #[error("{} requested, but in no range of {pool}", join_addresses(addresses))]
    NoRange { addresses: Vec<Addr>, pool: String },
    #[error(
        "{first} and {second} were requested, but {pool} gives one address per list of ranges, and both \
         are in the same list: request one of them"
    )]
    OneEach { first: Addr, second: Addr, pool: String },
}

fn join_addresses(addresses: &[Addr]) -> String {
    let texts: Vec<_> = addresses.iter().map(Addr::to_string).collect();
    let verb = if texts.len() == 1 { "was" } else { "were" };
    format!("{} {verb}", texts.join(", "))
}

/// An error in the `ipam` section.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// It is not an object, or has a key twice.
    #[error("the ipam section is not valid: {0}")]
    Syntax(String),
    /// A key's value has the wrong type, or is an unknown word.
    #[error("{key} is not valid: {message}")]
    Value {
        /// The key, with its section: `ipam.order`.
        key: String,
        /// What is wrong with its value.
        message: String,
    },
    #[error("the ipam section has neither pool nor ranges nor subnet: name a pool, or give ranges")]
    NoRanges,
    #[error("the ipam section has both pool and {0}, which the pool's file sets: remove one of the two")]
    PoolAnd(&'static str),
    #[error(
        "the ipam section has both pool and exclude, but {0:?} is a pool of the cluster: set exclude in the \
         LANPool, or name another pool"
    )]
    ExcludeOfCluster(String),
    #[error("invalid ipam section")]
    RangeSet(#[from] RangeSetError),
    #[error(
        "range lists {first} and {second} overlap at {at}: each list gives one address, so they must not \
         overlap"
    )]
    ListsOverlap {
        first: usize,
        /// The index of the other.
        second: usize,
        /// The lowest address of both.
        at: Addr,
    },
    #[error(
        "the network spans nodes ({network}) and has its ranges in its own configuration, so each node \
         would hand out the same addresses: name a pool (\"pool\") that all nodes share, which is a LANPool, \
         or one whose file gives each node its part (nodes), or set \"scope\": \"host\" if the network \
         ends at this host"
    )]
    Spanning {
        /// The network, and why it spans nodes.
        network: String,
    },
    #[error("ipam.scope is {0:?}: the only value is \"host\"; to give each node its part, use a pool")]
    Scope(String),
    #[error(transparent)]
    ReadBridge(#[from] ReadBridgeError),
    #[error("the ipam section has {0} lists of ranges: the maximum is 255")]
    TooMany(usize),
    #[error("cannot use resolvConf {path:?}")]
    ResolvConf {
        path: String,
        /// What is wrong with it.
        source: SafeDirError,
    },
    #[error("resolvConf {0:?} does not exist")]
    NoResolvConf(String),
    #[error(transparent)]
    Pool(#[from] crate::PoolFileError),
    #[error(
        "the network sets sticky: {asked}, but pool {pool:?} has sticky: {kept}: only the pool's file can \
         set it (sticky: {asked}), since a kept address is lost to all other users of the pool"
    )]
    Sticky { pool: String, asked: Sticky, kept: Sticky },
    #[error(
        "pool {pool:?} is an inventory and hands out no addresses, but network {network} requests one for \
         {asker}: name a pool that is a part of it"
    )]
    Inventory {
        pool: String,
        network: String,
        /// The pod, or words for an unknown one.
        asker: String,
    },
}
