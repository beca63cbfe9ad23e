use std::net::IpAddr;
use std::time::{Duration, Instant};

use cni::{AddResult, IpConfig};
use ipnetwork::IpNetwork;
use net_types::{IfName, MacAddr};
use netplumb::{
    Conf, Errno, LinkChange, Netlink, Netns, NewAddress, Route, Sysctl, announce_from_now, announce_own,
};

/// An interface in a pod, made and up, that gets what the IPAM plugin answered.
#[derive(Clone, Copy)]
pub struct PodLink<'a> {
    /// The pod's namespace.
    pub netns: &'a Netns,
    /// A socket in it.
    pub netlink: &'a Netlink,
    /// The interface's index there.
    pub index: u32,
    /// Its name there.
    pub name: &'a IfName,
    /// Its Ethernet address.
    pub mac: MacAddr,
}

/// What goes wrong with a pod's addresses and routes.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The kernel refused.
    #[error(transparent)]
    Net(#[from] netplumb::Error),
    /// No address that nobody else has.
    #[error(transparent)]
    Conflict(#[from] crate::ConflictError),
    /// Duplicate address detection did not come to an end.
    #[error("interface {ifname} is still looking whether others have its addresses after {} s", PATIENCE.as_secs())]
    StillTentative {
        /// The interface.
        ifname: IfName,
    },
    /// CHECK: an address is missing.
    #[error(
        "interface {ifname} has no address {address}, which was promised: delete the pod, so that it is attached anew"
    )]
    NoAddress {
        /// The interface.
        ifname: IfName,
        /// The address.
        address: IpNetwork,
    },
    /// An address is there, but another host has it too.
    #[error("address {address} of interface {ifname} is not used: another host on this network has it")]
    Duplicate {
        /// The interface.
        ifname: IfName,
        /// The address.
        address: IpNetwork,
    },
    /// CHECK: a route is missing.
    #[error(
        "interface {ifname} has no route to {destination}{}, which was promised: delete the pod, so that it is attached anew",
        gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default()
    )]
    NoRoute {
        /// The interface.
        ifname: IfName,
        /// Where to.
        destination: IpNetwork,
        /// Through whom.
        gateway: Option<IpAddr>,
    },
}

/// How long IPv6 may look for duplicates, as in the reference plugins.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

impl PodLink<'_> {
    /// Sets the link of a VM's guest up, together with another change, so that the launcher pod's stack neither
    /// speaks nor answers on it, and so that the guest hears the groups that it joins: a macvtap takes those of its
    /// own link alone, and nobody joins the guest's there.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_up_silently(&self, change: LinkChange) -> netplumb::Result<()> {
        // Before it is up, or the kernel sends router solicitations and duplicate address detection at once.
        self.netns.sysctl_set(&self.setting("disable_ipv6"), "1")?;
        let silent = LinkChange { noarp: Some(true), allmulti: Some(true), up: Some(true), ..change };
        self.netlink.set_link(self.index, &silent)
    }

    /// Sets addresses and routes, and tells the neighbours.
    ///
    /// Addresses are used at once: whether another host has one is the IPAM plugin's business, before it
    /// gives it away. A route without a next hop goes through the gateway of an address of its family, as
    /// in the reference plugins; one that exists already is left as it is.
    ///
    /// # Errors
    /// What the kernel refused; what was set before stays, since the interface goes with its pod.
    pub fn configure(&self, result: &AddResult) -> Result<(), PodError> {
        if !result.ips.is_empty() {
            // Whoever had one of these addresses before may still be in somebody's cache.
            announce_from_now(self.netns, self.name)?;
        }
        self.configure_silently(result)?;
        if result.ips.iter().any(|ip| ip.address.is_ipv4()) {
            announce_own(self.netlink, self.index, self.mac)?;
        }
        Ok(())
    }

    /// Like [`Self::configure`], but IPv6 addresses are used only when the kernel has looked for others that have
    /// them (RFC 4862, section 5.4), which takes a second or two.
    ///
    /// # Errors
    /// As [`Self::configure`], or another host has an address.
    pub fn configure_detecting(&self, result: &AddResult) -> Result<(), PodError> {
        let settings = ["accept_dad", "enhanced_dad"].map(|setting| (self.setting(setting), "1"));
        self.netns.sysctl_set_all(&settings)?;
        if !result.ips.is_empty() {
            announce_from_now(self.netns, self.name)?;
        }
        self.add_addresses(&result.ips, false)?;
        self.wait_for_detection()?;
        self.add_routes(result)?;
        if result.ips.iter().any(|ip| ip.address.is_ipv4()) {
            announce_own(self.netlink, self.index, self.mac)?;
        }
        Ok(())
    }

    /// Like [`Self::configure`], without telling the neighbours: for a guest that answers for its addresses
    /// itself, and whose other self may still have them.
    ///
    /// # Errors
    /// As [`Self::configure`].
    pub fn configure_silently(&self, result: &AddResult) -> Result<(), PodError> {
        self.add_addresses(&result.ips, true)?;
        self.add_routes(result)
    }

    fn add_addresses(&self, ips: &[IpConfig], nodad: bool) -> Result<(), PodError> {
        for ip in ips {
            let mut address = NewAddress::new(ip.address);
            address.nodad = nodad;
            match self.netlink.add_address(self.index, &address) {
                // A runtime without IPv6 of its own switches it off in every sandbox.
                Err(error) if ip.address.is_ipv6() && error.errno() == Some(Errno::EACCES) => {
                    self.enable_ipv6()?;
                    self.netlink.add_address(self.index, &address)?;
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// On the interface, and on the loopback, over which the pod talks to its own addresses.
    fn enable_ipv6(&self) -> Result<(), PodError> {
        self.netns.sysctl_set(&self.setting("disable_ipv6"), "0")?;
        if let Ok(lo) = "lo".parse() {
            self.netns.sysctl_set(&Sysctl::ipv6(Conf::Link(&lo), "disable_ipv6"), "0")?;
        }
        Ok(())
    }

    fn setting(&self, setting: &'static str) -> Sysctl {
        Sysctl::ipv6(Conf::Link(self.name), setting)
    }

    /// Waits until no IPv6 address of the interface is tentative.
    fn wait_for_detection(&self) -> Result<(), PodError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let addresses = self.netlink.addresses(Some(self.index))?;
            if let Some(duplicate) = addresses.iter().find(|have| have.dad_failed) {
                return Err(PodError::Duplicate { ifname: self.name.clone(), address: duplicate.address });
            }
            if !addresses.iter().any(|have| have.tentative) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(PodError::StillTentative { ifname: self.name.clone() });
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn add_routes(&self, result: &AddResult) -> Result<(), PodError> {
        for route in &result.routes {
            match self.netlink.add_route(&self.route(route, &result.ips)) {
                Err(error) if !error.is_exists() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Verifies that addresses and routes are as promised.
    ///
    /// # Errors
    /// The first that is not.
    pub fn verify(&self, promised: &AddResult) -> Result<(), PodError> {
        if promised.ips.is_empty() && promised.routes.is_empty() {
            return Ok(());
        }
        let addresses = self.netlink.addresses(Some(self.index))?;
        for ip in &promised.ips {
            let ifname = self.name.clone();
            let address = ip.address;
            match addresses.iter().find(|have| have.address == address) {
                None => return Err(PodError::NoAddress { ifname, address }),
                Some(have) if have.dad_failed => return Err(PodError::Duplicate { ifname, address }),
                Some(_) => {}
            }
        }
        if promised.routes.is_empty() {
            return Ok(());
        }
        let routes = self.netlink.routes(Some(self.index))?;
        for route in &promised.routes {
            let wanted = self.route(route, &promised.ips);
            let same = |have: &Route| {
                network(have.destination) == network(wanted.destination)
                    && have.gateway == wanted.gateway
                    && have.table == wanted.table
                    && wanted.metric.is_none_or(|metric| have.metric == Some(metric))
            };
            // One that was there before, by another link, is why ADD left it out.
            let instead = |have: &Route| {
                have.index != Some(self.index)
                    && network(have.destination) == network(wanted.destination)
                    && have.table == wanted.table
                    && metric(have) == metric(&wanted)
            };
            if !routes.iter().any(same) && !self.netlink.routes(None)?.iter().any(instead) {
                return Err(PodError::NoRoute {
                    ifname: self.name.clone(),
                    destination: wanted.destination,
                    gateway: wanted.gateway,
                });
            }
        }
        Ok(())
    }

    fn route(&self, route: &cni::Route, ips: &[IpConfig]) -> Route {
        let of_family = |gateway: &IpAddr| gateway.is_ipv4() == route.dst.is_ipv4();
        let gateway = route.gw.or_else(|| ips.iter().filter_map(|ip| ip.gateway).find(of_family));
        let mut wanted = Route::new(route.dst, gateway, Some(self.index));
        wanted.metric = route.priority;
        wanted.mtu = route.mtu;
        wanted.advmss = route.advmss;
        wanted.table = route.table.unwrap_or(Route::MAIN);
        wanted.scope = route.scope.and_then(|scope| u8::try_from(scope).ok());
        wanted
    }
}

/// As the kernel has it where none is given.
fn metric(route: &Route) -> u32 {
    route.metric.unwrap_or(if route.destination.is_ipv4() { 0 } else { 1024 })
}

fn network(address: IpNetwork) -> (IpAddr, u8) {
    (address.network(), address.prefix())
}
