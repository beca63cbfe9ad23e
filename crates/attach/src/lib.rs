//! The pod's side of an attachment, which every main plugin needs: its identity, the MAC address, the addresses and
//! routes that the IPAM plugin gave, announcements, and the undo after a failed step.

mod binding;
mod call;
mod conflict;
mod detach;
mod link_up;
mod mac;
mod network_use;
mod node_use;
mod pod_link;
mod port;
mod probing;
mod promised;
mod release;
mod routers;
mod several;
mod undo;

pub use binding::{BindingError, GuestLink};
pub use call::{Call, CallError};
pub use detach::{collect, detach, is_stale, release, release_recorded};
pub use link_up::set_up_again;
pub use mac::stable_mac;
pub use network_use::{InNetwork, NetworkUse};
pub use node_use::NodeUse;
pub use pod_link::{PodError, PodLink};
pub use port::{PortDifference, plain_port, port_difference};
pub use probing::{ConflictError, Probing};
pub use promised::own_part;
pub use release::give_back;
pub use routers::{FromRouters, Undecided};
pub use several::{Combined, NotUndone, Several};
pub use undo::Undo;

/// The names of keys that every main plugin reads, nested ones too; they are accepted in any case.
pub const NAMES: &[&str] = &[
    "acceptRa",
    "acceptRaDefrtr",
    "autoconf",
    "count",
    "interval",
    "keepAddrOnDown",
    "probe",
    "quarantine",
    "wait",
];
