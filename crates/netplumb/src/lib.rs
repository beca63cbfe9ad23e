//! Network plumbing: the only crate of the workspace that makes network system calls.
//!
//! * [`Netns`]: a network namespace as a value. Open one by path, make one, give it a name.
//! * [`Netlink`]: a blocking netlink socket inside a namespace, used from anywhere. Links, addresses,
//!   routes, neighbours.
//! * [`Sysctl`]: settings below `/proc/sys/net` of a namespace.
//! * [`Nftables`]: guards against forged addresses on bridge ports, and masquerading.
//! * [`announce`] and [`probe`]: telling a LAN where an address is, and asking whether it is taken.
//! * [`TxChecksum`]: who makes the checksums of what a link sends.
//! * [`Capture`]: copies of what goes through a link.
//! * [`tap_device`]: the character device of a macvtap.
//! * `Monitor` (feature `monitor`): what changes in a namespace, as a stream of events.
//! * [`Error`]: what was asked for, of what, and the kernel's own words (its extended acknowledgement).
//!
//! Nothing here depends on the namespace of the calling thread, except where a name says `current`.

mod address;
mod announce;
mod attrs;
mod capture;
mod error;
mod frame;
mod iptables;
mod link;
#[cfg(feature = "monitor")]
mod monitor;
mod neighbour;
mod netlink;
mod netns;
mod netns_mount;
mod nft;
mod offload;
mod packet;
mod probe;
mod route;
mod sysctl;
mod tap;

pub use address::{Address, NewAddress};
pub use announce::{announce_from_now, announce_own};
pub use capture::{Capture, Frame};
pub use error::{DisplayPath, Error, Object, Result};
pub use iptables::legacy_chains_that_drop;
pub use link::{
    AddrGenMode, Bridge, BridgeChange, BridgeInfo, BridgeMember, BridgePort, BridgeVlans, LO, Link,
    LinkChange, LinkKind, LinkSettings, MacvlanInfo, Macvtap, Master, NewLink, PortChange, Veth, VethIndexes,
    VlanFiltering, VlanInfo, VlanLink, VlanProtocol, Vxlan, VxlanInfo,
};
#[cfg(feature = "monitor")]
pub use monitor::{Event, Groups, Monitor};
pub use neighbour::FdbEntry;
pub use netlink::Netlink;
pub use netns::{Netns, NetnsId};
pub use nft::{BaseChain, ChainPolicy, Dropped, DroppingChain, Masquerade, Nftables, PortGuard, RuleState};
pub use nix::errno::Errno;
pub use offload::TxChecksum;
pub use probe::{Taken, probe};
pub use route::Route;
pub use sysctl::{Conf, Sysctl, SysctlSet};
pub use tap::{DevNum, TapWatch, tap_device};
