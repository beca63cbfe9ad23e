//! What a LAN is, as data: nothing here does I/O.
//!
//! [`SpokeRecord`] is what the node's daemon tells the plugin about a spoke; [`TapIndices`] keeps
//! which spoke has which `/dev/tapN` on a node. [`LanSpec`] is a LAN as its author wrote it, [`Lan`]
//! what it means.
//!
//! Features: `crd` makes a custom resource of [`LanSpec`], `yaml` reads it from files.

#[cfg(feature = "crd")]
pub mod crd;
mod key;
mod lan;
mod limits;
#[cfg(feature = "yaml")]
pub mod manifest;
mod names;
mod record;
mod spec;
mod tap_index;
#[cfg(test)]
mod testing;
mod validate;

pub use key::{LanKey, LanKeyError};
pub use lan::{Lan, NoRoom, Spoke};
pub use names::{Group, GroupError, NetnsName, NetnsNameError};
pub use record::{RecordError, SpokeRecord, SpokeState};
#[cfg(feature = "crd")]
pub use spec::LanObject;
pub use spec::{LanSpec, SpokeOverride};
pub use tap_index::{SharedTapIndex, TapIndex, TapIndexError, TapIndices};
pub use validate::Mistake;
