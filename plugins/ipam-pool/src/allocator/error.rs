use crate::store::StoreError;
use crate::{Addr, AddrRange, AddrSet, Owner, Refusal};

#[derive(Debug, thiserror::Error)]
pub enum AllocError {
    #[error("no address is free in {pool}{}: release some ('ipam-pool leases'), or widen the pool",
        resting.map_or_else(String::new, |ms| format!(" (the next one rests for another {:.1} s)", seconds(ms))))]
    Exhausted {
        /// This node's part of the ranges.
        pool: String,
        /// In how many milliseconds the cooldown of the next address ends.
        resting: Option<u64>,
        /// Addresses that could be given if this node held their blocks.
        wanted: AddrSet,
    },
    /// The requested address is leased to another owner.
    #[error("{address} is held by {holder}")]
    Held { address: Addr, holder: String },
    /// A pod that is not its launcher asks for a running machine's address, or a launcher for one that another pod has.
    #[error(
        "{address} is the address of {owner}, which {holder} has now: two pods have it at once only while the \
         machine migrates, when both are its launcher pods. A pod that only names the machine (args.cni.vm) gets \
         the address while nobody else has it: stop one of the two"
    )]
    VmInUse { address: Addr, owner: Owner, holder: String },
    /// Another pod with the owner's name still exists.
    #[error(
        "{address} is the address of {owner}, which {holder} still has: its network namespace is still on \
         this node, so both would answer for it. Try again: the address is given as soon \
         as the runtime has removed that sandbox (DEL), or its namespace is gone"
    )]
    StillInUse { address: Addr, owner: Owner, holder: String },
    /// The requested address is never handed out, or not to this owner.
    #[error("{address} is not handed out: it is {}", describe_refusal(refusal))]
    Refused { address: Addr, refusal: Refusal },
    /// Another host on the link uses the address.
    #[error(
        "{address} is in use by another host on the link: {mac} answered the probe; the address is not \
         given out until that host stops using it"
    )]
    Conflict { address: Addr, mac: String },
    /// Another address than the one that is held was requested.
    #[error("{requested} was requested, but {holder} already holds {current}: release {current} first")]
    HoldsAnother { requested: Addr, holder: String, current: Addr },
    /// The held address is in no subnet of the pool, which was changed after it was leased.
    #[error(
        "{holder} holds {address}, but no subnet of {pool} contains it: the pool was changed while the \
         address was leased. Release it first (DEL, or 'ipam-pool release {address}'), or add the subnet \
         again"
    )]
    SubnetRemoved {
        address: Addr,
        holder: String,
        /// The pool's current ranges.
        pool: String,
    },
    /// Only another node knows the VM's address.
    #[error(
        "{owner} is migrating to this node and keeps its address, which {pool} on this node does not know: \
         reserve it (reservations: {{\"{}\": <address>}} in the pool; a reservation holds on every node), \
         or stop the machine and start it on this node; until then it stays on the node where it runs", owner.in_any_network()
    )]
    Migrating {
        owner: Owner,
        /// This node's part of the ranges.
        pool: String,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl AllocError {
    /// The addresses whose blocks this node would have to hold for the request to succeed.
    #[must_use]
    pub fn wanted(&self) -> Option<AddrSet> {
        match self {
            Self::Exhausted { wanted, .. } => Some(wanted.clone()),
            Self::Refused { address, refusal: Refusal::BlockNotHeld } => {
                Some(AddrSet::union([AddrRange::single(*address)]))
            }
            _ => None,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn describe_refusal(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Gateway => "a gateway".to_owned(),
        Refusal::Excluded => "excluded from the pool".to_owned(),
        Refusal::Reserved(owner) => format!("reserved for {owner}"),
        Refusal::OtherNode(node) => format!("handed out by {node}, not by this node"),
        Refusal::NoNode => "in no node's part of the pool".to_owned(),
        Refusal::BlockNotHeld => "in a block that this node does not hold".to_owned(),
    }
}
