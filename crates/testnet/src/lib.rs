//! Simulated nodes for tests: dev only.
//!
//! A test binary with `harness = false` hands its trials to [`main`]. The process then moves into a PID,
//! network and mount namespace of its own before it starts a thread, so that everything the trials make
//! dies with it, however it ends; the process that stays outside compares the machine before and after.
//! A binary with the trials of several files hands them to [`run_files`], which does so for each trial.
//!
//! - [`Node`]: a network and mount namespace with its own `/run`, `/var/lib`, `/etc`, `/sys` and `/dev`;
//! - [`Switch`]: an underlay that joins nodes;
//! - [`Pod`]: a network namespace with a path, as a container runtime makes one;
//! - [`Daemon`]: a long-lived process on a node, its log kept;
//! - [`CniCall`]: a CNI plugin run as a runtime runs it;
//! - [`Guest`]: a virtual machine on a tap;
//! - [`Ping`], [`PacketSocket`], [`Tap`]: traffic without a program from a package.
//!
//! Links are created and read with iproute2, so that what the product says about the kernel is checked by a program
//! that shares no code with it.

mod bin;
mod cgroups;
mod cni_call;
mod daemon;
mod error;
mod files;
mod finish;
mod isolate;
mod leaks;
mod mounts;
mod namespaces;
mod needs;
mod node;
mod packet;
mod ping;
mod pod;
mod report;
mod run;
mod socket;
mod switch;
mod tap;
mod times;
pub mod vlan_kernel;
mod vm;
mod wait;

pub use bin::{bin_dir, program, workspace};
pub use cni_call::{CniCall, CniError};
pub use daemon::Daemon;
pub use error::Error;
pub use files::{run_files, run_waiting_files};
pub use finish::{finish, finish_reading};
pub use isolate::isolated;
pub use namespaces::Namespaces;
pub use needs::{needs, needs_found, needs_link_kind};
pub use node::Node;
pub use packet::{Frame, PacketSocket};
pub use ping::{Ping, PingReport};
pub use pod::{Netns, Pod};
pub use run::{Group, Outcome, Stop, Trial, main, main_of_groups, test};
pub use switch::Switch;
pub use tap::Tap;
pub use vm::Guest;
pub use wait::{eventually, stays};
