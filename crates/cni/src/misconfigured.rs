use crate::environment::Environment;
use crate::{Delegate, Error, NetworkName, Version};

/// DEL of an attachment whose configuration ADD would refuse: somebody changed it since, or a runtime lost parts of it. What
/// can be read of it is here; the attachment itself is told by its container and interface.
#[derive(Debug)]
#[non_exhaustive]
pub struct Misconfigured {
    /// The version to answer in: the configuration's where that is known.
    pub version: Version,
    /// The network's name, if there is one.
    pub network: Option<NetworkName>,
    /// The IPAM plugin.
    pub ipam: IpamName,
    /// The first thing that is wrong.
    pub error: Error,
    pub(crate) stdin: Vec<u8>,
    pub(crate) environment: Environment,
}

/// What a configuration says about its IPAM plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpamName {
    /// There is none.
    None,
    /// This one.
    Plugin(String),
    /// Nothing that can be read.
    Unreadable,
}

impl Misconfigured {
    /// Any plugin to pass this request on to.
    #[must_use]
    pub fn delegate<'a>(&'a self, name: &'a str) -> Delegate<'a> {
        Delegate::new(name, &self.environment, &self.stdin)
    }
}
