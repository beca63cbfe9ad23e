use std::collections::BTreeMap;
use std::sync::Arc;

use lan::TapIndex;
use net_types::{Attach, Mtu, SpokeName};
use tokio::sync::watch;

use super::ResourceName;

/// The resources that the kubelet may give out on this node.
pub type Catalog = BTreeMap<ResourceName, Offer>;

/// A resource in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What the kubelet gives out with it.
    pub handed: DeviceHandle,
    /// Whether a pod could be attached by it now.
    pub health: Health,
}

/// What the kubelet gives out with a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceHandle {
    pub resource: ResourceName,
    /// The spoke that it leads to.
    pub spoke: SpokeName,
    /// What the pod gets, if the resource decides it instead of the LAN.
    pub attach: Option<Attach>,
}

impl From<SpokeName> for DeviceHandle {
    fn from(spoke: SpokeName) -> Self {
        Self { resource: (&spoke).into(), spoke, attach: None }
    }
}

/// Whether a pod could be attached to a spoke now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The spoke's LAN is built, or can be.
    Healthy,
    /// The LAN is not accepted, or cannot be built on this node.
    Unhealthy {
        /// The reason, for the person who deploys the pod.
        reason: String,
    },
}

/// What a container gets with a spoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What the pod gets; a veth has no device node.
    pub attach: Attach,
    pub tap_index: TapIndex,
    /// The MTU of the LAN.
    pub mtu: Mtu,
}

/// Why a spoke cannot be given out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No LAN of this node has that spoke.
    #[error("no LAN on this node has a spoke {0}")]
    Unknown(SpokeName),
    /// Its LAN is not built and cannot be built now.
    #[error("the LAN of spoke {spoke} is not ready on this node: {reason}")]
    NotReady {
        spoke: SpokeName,
        /// The reason, and what to do.
        reason: String,
    },
}

/// The interface between the kubelet's side of the daemon and its LANs.
pub trait SpokeProvider: Send + Sync + 'static {
    /// The current catalog, and its changes.
    fn catalog(&self) -> watch::Receiver<Arc<Catalog>>;

    /// Makes sure that the LAN of the spoke is built on this node, and returns what the container gets. Nothing is
    /// reserved: ADD decides whether the spoke is free.
    ///
    /// # Errors
    /// The spoke is unknown, or its LAN cannot be built.
    fn grant(&self, handed: &DeviceHandle) -> impl Future<Output = Result<Grant, Refusal>> + Send;
}
