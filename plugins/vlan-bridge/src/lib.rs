//! The CNI main plugin `vlan-bridge`: attaches a pod or a VM to VLANs of a Linux bridge, as an access port or as a
//! trunk.
//!
//! | file | subject |
//! |---|---|
//! | `config` | the plugin's keys, and the plan that they make |
//! | `vlans` | what has to change so that a member carries other VLANs |
//! | `record` | the file about each port: what ADD decided, what DEL takes away |
//! | `bridge`, `uplink`, `uplink_policy`, `mtu`, `host_interface`, `node_address`, `host_interface_policy`, `guard`, `masquerade`, `port` | the parts of an attachment |
//! | `add`, `remove`, `check`, `status` | the verbs |
//! | `trunk` | the command that changes a trunk while a VM runs |

#![expect(
    missing_docs,
    reason = "a program's own library: a doc comment that only repeats a name is left out"
)]

mod add;
mod bridge;
mod call;
mod check;
mod code;
mod config;
mod error;
mod guard;
mod host_interface;
mod host_interface_policy;
mod masquerade;
mod mtu;
mod node_address;
mod port;
mod record;
mod remove;
mod status;
mod trunk;
mod uplink;
mod uplink_policy;
mod vlans;

use std::path::PathBuf;
use std::process::ExitCode;

use cni::{AddResult, Code, Misconfigured, Plugin, Request, Target, ValidAttachment};

pub use config::{Config, Gateway, Uplink};
pub use error::Error;
pub use record::{PortRecord, RecordStore, port_name};
pub use trunk::change_trunk;
pub use vlans::{Change, diff};

#[derive(Clone, Copy, Debug)]
pub struct VlanBridge;

impl Plugin for VlanBridge {
    type Config = Config;
    type Error = Error;

    const NAME: &'static str = "vlan-bridge";
    const ABOUT: &'static str = "attaches pods and VMs to the VLANs of a bridge";
    const NAMES: &'static [&'static [&'static str]] = &[config::NAMES, attach::NAMES];

    fn code_of_field(field: &str) -> Code {
        code::of_field(field)
    }

    fn add(&self, request: &Request<Config>, target: &Target) -> Result<AddResult, Error> {
        add::add(request, target)
    }

    fn del(&self, request: &Request<Config>, target: &Target<Option<PathBuf>>) -> Result<(), Error> {
        remove::del(request, target)
    }

    fn del_misconfigured(
        &self,
        request: &Misconfigured,
        target: &Target<Option<PathBuf>>,
    ) -> Option<Result<(), Error>> {
        Some(remove::del_misconfigured(request, target))
    }

    fn gc_misconfigured(
        &self,
        request: &Request<()>,
        valid: Option<&[ValidAttachment]>,
    ) -> Option<Result<(), Error>> {
        Some(remove::gc(request, valid))
    }

    fn check(&self, request: &Request<Config>, target: &Target, promised: &AddResult) -> Result<(), Error> {
        check::check(request, target, promised)
    }

    fn gc(&self, request: &Request<Config>, valid: Option<&[ValidAttachment]>) -> Result<(), Error> {
        remove::gc(request, valid)
    }

    fn status(&self, request: &Request<Config>) -> Result<(), Error> {
        status::status(request)
    }

    fn command_line() -> clap::Command {
        trunk::command_line()
    }

    fn by_hand(&self) -> ExitCode {
        trunk::command()
    }
}
