use std::ops::Deref;

use cni::{Request, Target};
use netplumb::Netlink;

use crate::{Config, Error};

/// A request about an attachment whose namespace exists, with a socket in the node's namespace, where its port is.
pub(crate) struct Call<'a> {
    container: attach::Call<'a, Config>,
    /// A netlink socket in the node's namespace.
    pub(crate) host: Netlink,
}

impl<'a> Call<'a> {
    /// Reads the node's configuration and opens both namespaces.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub(crate) fn open(request: &'a Request<Config>, target: &'a Target) -> Result<Self, Error> {
        Ok(Self { container: attach::Call::open(request, target)?, host: Netlink::open_current()? })
    }
}

impl<'a> Deref for Call<'a> {
    type Target = attach::Call<'a, Config>;

    fn deref(&self) -> &Self::Target {
        &self.container
    }
}
