//! The CNI main plugin `macvtap`: attaches a pod or a VM to a spoke of a LAN, to any link of the host, or moves
//! an existing macvtap into it.
//!
//! | file | subject |
//! |---|---|
//! | `config` | the plugin's keys, and what they ask for |
//! | `k8slanveth` | the keys of the type of that name, for those who come from k8slan (Go) |
//! | `lower` | what an attachment stands on, decided before anything is made |
//! | `lan_side` | the veth pair in the LAN's namespace |
//! | `tap`, `device`, `minors` | the device of a macvtap: its node `/dev/tapN`, and who has which minor |
//! | `find`, `put_back` | where a macvtap is by now, and back to the host |
//! | `add`, `del`, `check`, `status` | the verbs |

#![expect(
    missing_docs,
    reason = "a program's own library: a doc comment that only repeats a name is left out"
)]

mod add;
mod check;
mod config;
mod del;
mod device;
mod error;
mod find;
mod k8slanveth;
mod lan_side;
mod lower;
mod minors;
mod pod_interface;
mod put_back;
mod status;
mod tap;

use std::path::PathBuf;

use cni::{AddResult, Misconfigured, Plugin, Request, Target, ValidAttachment};

pub use config::{Config, Wanted};
pub use device::DeviceError;
pub use error::Error;
pub use k8slanveth::{InterfaceAddress, K8slanVeth, RouteOverVeth};

/// A request about one attachment.
type Call<'a> = attach::Call<'a, Config>;

#[derive(Clone, Copy, Debug)]
pub struct Macvtap;

impl Plugin for Macvtap {
    type Config = Config;
    type Error = Error;

    const NAME: &'static str = "macvtap";
    const ABOUT: &'static str = "attaches pods and VMs to the spokes of a LAN";
    const NAMES: &'static [&'static [&'static str]] = &[config::NAMES, k8slanveth::NAMES, attach::NAMES];

    fn add(&self, request: &Request<Config>, target: &Target) -> Result<AddResult, Error> {
        add::add(request, target)
    }

    fn del(&self, request: &Request<Config>, target: &Target<Option<PathBuf>>) -> Result<(), Error> {
        del::del(request, target)
    }

    fn del_misconfigured(
        &self,
        request: &Misconfigured,
        target: &Target<Option<PathBuf>>,
    ) -> Option<Result<(), Error>> {
        Some(del::del_misconfigured(request, target))
    }

    fn gc_misconfigured(
        &self,
        request: &Request<()>,
        valid: Option<&[ValidAttachment]>,
    ) -> Option<Result<(), Error>> {
        Some(del::gc(request, valid))
    }

    fn check(&self, request: &Request<Config>, target: &Target, promised: &AddResult) -> Result<(), Error> {
        check::check(request, target, promised)
    }

    fn gc(&self, request: &Request<Config>, valid: Option<&[ValidAttachment]>) -> Result<(), Error> {
        del::gc(request, valid)
    }

    fn status(&self, request: &Request<Config>) -> Result<(), Error> {
        status::status(request)
    }
}
