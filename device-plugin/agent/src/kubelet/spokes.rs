use std::collections::BTreeMap;
use std::sync::Arc;

use lan::TapIndex;
use net_types::{Attach, Mtu, SpokeName};
use tokio::sync::watch;

use super::ResourceName;

/// The resources that the kubelet may hand out on this node.
pub type Catalog = BTreeMap<ResourceName, Offer>;

/// What a resource stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What the kubelet hands out.
    pub handed: DeviceHandle,
    /// Whether a pod could be attached by it now.
    pub health: Health,
}

/// What the kubelet hands out with a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceHandle {
    /// The resource.
    pub resource: ResourceName,
    /// The spoke that it leads to.
    pub spoke: SpokeName,
    /// What will stand in the pod, where the resource says it, and not the LAN.
    pub attach: Option<Attach>,
}

impl From<SpokeName> for DeviceHandle {
    /// A spoke's own resource.
    fn from(spoke: SpokeName) -> Self {
        Self { resource: (&spoke).into(), spoke, attach: None }
    }
}

/// Whether a pod could be attached to a spoke now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The spoke's LAN is built, or can be.
    Healthy,
    /// It is not accepted, or cannot be built on this node.
    Unhealthy {
        /// Why, for whoever deploys the pod.
        reason: String,
    },
}

/// What a container that was given a spoke needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// What will stand in the pod; a veth has no device node.
    pub attach: Attach,
    /// The N of `/dev/tapN`.
    pub tap_index: TapIndex,
    /// The MTU of the LAN.
    pub mtu: Mtu,
}

/// Why a spoke cannot be handed out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No LAN of this node has that spoke.
    #[error("no LAN on this node has a spoke {0}")]
    Unknown(SpokeName),
    /// Its LAN is not there and cannot be built now.
    #[error("the LAN of spoke {spoke} is not ready on this node: {reason}")]
    NotReady {
        /// The spoke.
        spoke: SpokeName,
        /// Why, and what to do.
        reason: String,
    },
}

/// The side of the daemon that knows LANs, as the kubelet's side needs it.
pub trait SpokeProvider: Send + Sync + 'static {
    /// What can be handed out, now and whenever that changes.
    fn catalog(&self) -> watch::Receiver<Arc<Catalog>>;

    /// Makes sure that the LAN of the spoke is built on this node, and says what the container gets.
    /// Nothing is reserved: whether the spoke is free is decided when the pod is attached.
    ///
    /// # Errors
    /// The spoke is unknown, or its LAN cannot be built.
    fn grant(&self, handed: &DeviceHandle) -> impl Future<Output = Result<Grant, Refusal>> + Send;
}
