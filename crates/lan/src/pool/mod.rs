//! Pools of the cluster, as objects: what people write ([`LanPool`], [`LanReservation`]) and what the daemons do ([`LanBlock`],
//! [`LanAddress`]). Nothing reads them yet: the protocol is the crate `pool-blocks`.

mod claims;
mod crds;
mod reservation;
mod schema;
mod spec;

pub use claims::{AddressOwner, BlockHolder, LanAddress, LanAddressSpec, LanBlock, LanBlockSpec};
pub use crds::crds;
pub use reservation::{LanReservation, LanReservationSpec, LanReservationStatus, ReservationOwner};
pub use spec::{LanPool, LanPoolSpec, LanPoolStatus, PoolOrder, PoolRange, PoolSticky};
