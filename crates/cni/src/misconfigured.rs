use crate::environment::Environment;
use crate::{Delegate, Error, NetworkName, Version};

/// DEL of an attachment with a configuration that ADD would refuse, since somebody changed it after ADD or the
/// runtime lost parts of it. It has what could be read; the container and the interface identify the attachment.
#[derive(Debug)]
#[non_exhaustive]
pub struct Misconfigured {
    /// The version of the answer: the configuration's if it is known.
    pub version: Version,
    /// The network's name, if there is one.
    pub network: Option<NetworkName>,
    /// The IPAM plugin that the configuration names.
    pub ipam: IpamName,
    /// The first mistake in the configuration.
    pub error: Error,
    pub(crate) stdin: Vec<u8>,
    pub(crate) environment: Environment,
}

/// What a configuration says about its IPAM plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpamName {
    /// The configuration has no `ipam.type`.
    None,
    /// The configuration's `ipam.type`, as written.
    Plugin(String),
    /// The section cannot be read.
    Unreadable,
}

impl Misconfigured {
    /// Another plugin, by name, to pass this request on to.
    #[must_use]
    pub fn delegate<'a>(&'a self, name: &'a str) -> Delegate<'a> {
        Delegate::new(name, &self.environment, &self.stdin)
    }
}
