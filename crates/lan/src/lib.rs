//! LANs as data: nothing here does I/O.
//!
//! [`SpokeRecord`] is the daemon's record of a spoke for the plugin; [`TapIndices`] keeps which spoke has which
//! `/dev/tapN` on a node. [`LanSpec`] is a LAN as its author wrote it, [`Lan`] is its validated form, [`decide`]
//! accepts or refuses each of all LANs, and [`diff`] computes the steps for one node.
//!
//! Features: `crd` makes a custom resource of [`LanSpec`], `yaml` reads it from files.

mod condition;
#[cfg(feature = "crd")]
pub mod crd;
mod desired;
mod diff;
mod drift;
mod key;
mod lan;
mod limits;
#[cfg(feature = "yaml")]
pub mod manifest;
mod names;
/// The observed state of a LAN on a node, in types of this crate's own.
pub mod observed;
mod older_condition;
mod plan;
pub mod pool;
mod record;
#[cfg(feature = "crd")]
mod schema;
mod spec;
mod spokes;
#[cfg(feature = "crd")]
mod status;
mod step;
mod tap_index;
#[cfg(test)]
mod testing;
mod unique;
mod validate;

pub use condition::{ACCEPTED, Condition, ConditionStatus, READY, find_condition, set_transition_times};
pub use desired::{Desired, GROUP_FWD_MASK, SETTINGS, Setting};
pub use diff::diff;
pub use drift::drift;
pub use key::{LanKey, LanKeyError};
pub use lan::{Lan, MtuTooLarge, Spoke};
pub use limits::{MAX_LEARNED, MAX_SPOKES};
pub use names::{Group, GroupError, NetnsName, NetnsNameError};
pub use observed::Observed;
pub use older_condition::OlderCondition;
pub use plan::{Obstacle, Plan, Role};
pub use record::{RecordError, SpokeReadiness, SpokeRecord};
#[cfg(feature = "crd")]
pub use spec::LanObject;
pub use spec::{DeletionPolicy, LanSpec, NetworkAttachments, SpokeOverride};
pub use spokes::{Holder, SpokeLinks};
#[cfg(feature = "crd")]
pub use status::{LanNode, LanNodeSpec, LanNodeStatus, LanStatus, MtuRise, SpokeUse};
pub use step::{Change, Step, Target};
pub use tap_index::{SharedTapIndex, TapIndex, TapIndexError, TapIndices};
pub use unique::{Claim, Conflict, Verdict, decide};
pub use validate::Mistake;
