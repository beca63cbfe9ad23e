//! Pools of the cluster, as objects: what people write (`LanPool`, `LanReservation`) and what the daemons do (`LanBlock`,
//! `LanAddress`). The protocol is the crate `pool-blocks`.

#[cfg(feature = "crd")]
mod claims;
#[cfg(feature = "crd")]
mod crds;
#[cfg(feature = "crd")]
mod node;
mod parsed;
mod range;
#[cfg(feature = "crd")]
mod reservation;
#[cfg(feature = "crd")]
mod schema;
mod spec;

#[cfg(feature = "crd")]
pub use claims::{AddressOwner, BlockHolder, LanAddress, LanAddressSpec, LanBlock, LanBlockSpec};
#[cfg(feature = "crd")]
pub use crds::crds;
#[cfg(feature = "crd")]
pub use node::{LanPoolNode, LanPoolNodeSpec};
pub use parsed::{ParsedPool, PoolSpecError};
pub use range::{PartError, Range, RangeError, parse_part, parse_subnet};
#[cfg(feature = "crd")]
pub use reservation::{LanReservation, LanReservationSpec, LanReservationStatus, ReservationOwner};
#[cfg(feature = "crd")]
pub use spec::LanPool;
pub use spec::{LanPoolSpec, LanPoolStatus, PoolOrder, PoolRange, PoolSticky};
