//! The pod's side of an attachment, which every main plugin needs: its identity, the MAC address, the addresses and
//! routes that the IPAM plugin gave, announcements, and the undo after a failed step.
//!
//! | file | steps |
//! |---|---|
//! | `call` | every verb but DEL: who is attached, where, and whether it is a guest |
//! | `add` | ADD: the IPAM plugin's ADD, what is done with its result, the undo of both, the result |
//! | `detach`, `release` | DEL and GC: the lock, the IPAM plugin's DEL around the removal, what is stale |
//! | `check` | CHECK: what was found compared with what was promised |
//! | `pod_link`, `routers`, `conflict`, `probing` | the interface in the pod: addresses, routes, advertisements, probes |
//! | `node_use`, `network_use`, `binding` | what is refused because of the node or of KubeVirt |

mod add;
mod binding;
mod call;
mod check;
mod conflict;
mod detach;
mod link_up;
mod mac;
mod network_use;
mod node_use;
mod pod_link;
mod probing;
mod promised;
mod release;
mod routers;
mod several;
mod undo;

pub use add::{or_undo, with_ipam};
pub use binding::{BindingError, GuestLink};
pub use call::{Call, CallError};
pub use check::{Mismatch, at_most, check_port, on_or_off, plain_port, same};
pub use detach::{RemovalError, collect, detach, detach_misconfigured, gc};
pub use link_up::set_up_again;
pub use mac::stable_mac;
pub use network_use::{InNetwork, NetworkUse};
pub use node_use::NodeUse;
pub use pod_link::{PodError, PodLink};
pub use probing::{ConflictError, probe_timing};
pub use promised::own_part;
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
