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

/// `RT_SCOPE_LINK` of `linux/rtnetlink.h`; `RT_SCOPE_HOST` and `RT_SCOPE_NOWHERE` are larger.
const SCOPE_LINK: u8 = 253;

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
    /// in the reference plugins. Routes to one destination over several gateways are all made; one that goes by another
    /// interface of the pod already is left as it is.
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

    /// What the link of a guest on a bridge or a veth has of an answer: KubeVirt's bridge binding gives the guest, by
    /// DHCP, the IPv4 addresses and routes that it finds there. IPv6 is off, since nothing makes it silent.
    #[must_use]
    pub fn of_guest(answer: &AddResult) -> AddResult {
        let mut on_link = answer.clone();
        on_link.ips.retain(|ip| ip.address.is_ipv4());
        on_link.routes.retain(|route| route.dst.is_ipv4());
        on_link
    }

    /// Sets what [`Self::of_guest`] leaves of an answer, without telling the neighbours: a guest answers for its
    /// addresses itself, and during a migration its other self still has them.
    ///
    /// # Errors
    /// As [`Self::configure`].
    pub fn configure_for_guest(&self, answer: &AddResult) -> Result<(), PodError> {
        self.configure_silently(&Self::of_guest(answer))
    }

    /// Like [`Self::configure`], without telling the neighbours.
    fn configure_silently(&self, result: &AddResult) -> Result<(), PodError> {
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
            let wanted = self.route(route, &result.ips);
            match self.netlink.add_route(&wanted) {
                Err(error) if error.is_exists() => self.add_beside(&wanted)?,
                done => done?,
            }
        }
        Ok(())
    }

    /// Makes a route to where one goes already, unless that is the same one, or goes by another interface.
    fn add_beside(&self, wanted: &Route) -> Result<(), PodError> {
        let there = self.netlink.routes(Some(self.index))?;
        let mut own = there.iter().filter(|have| is_in_the_place_of(have, wanted)).peekable();
        if own.peek().is_none() || own.any(|have| have.gateway == wanted.gateway) {
            return Ok(());
        }
        match self.netlink.add_route_beside(wanted) {
            Err(error) if !error.is_exists() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Verifies that addresses and routes are as promised.
    ///
    /// A later plugin of the chain may have changed routes (SPEC.md, section "CHECK"): one that goes by this interface to
    /// the same place through the same gateway is the promised one, whatever its table and metric.
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
        let mut there = self.netlink.routes(Some(self.index))?;
        let mut take = |fits: &dyn Fn(&Route) -> bool| match there.iter().position(fits) {
            Some(at) => there.swap_remove(at).index.is_some(),
            None => false,
        };
        let mut wanted: Vec<Route> = Vec::with_capacity(promised.routes.len());
        for route in promised.routes.iter().map(|route| self.route(route, &promised.ips)) {
            // Promised twice, it is made once.
            if !wanted.iter().any(|other| is_in_the_place_of(other, &route) && other.gateway == route.gateway)
            {
                wanted.push(route);
            }
        }
        // Each route answers one promise: first those that are as they were made.
        let others: Vec<Route> = wanted
            .into_iter()
            .filter(|wanted| {
                !take(&|have| is_in_the_place_of(have, wanted) && have.gateway == wanted.gateway)
            })
            .collect();
        let mut elsewhere = None;
        for wanted in others {
            if take(&|have| is_to(have, &wanted) && have.gateway == wanted.gateway) {
                continue;
            }
            let all = match &mut elsewhere {
                Some(all) => all,
                none => none.insert(self.netlink.routes(None)?),
            };
            // One that was there before, by another link, is why ADD left it out.
            let instead = |have: &Route| have.index != Some(self.index) && is_in_the_place_of(have, &wanted);
            if !all.iter().any(instead) {
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
        let gateway = match route.gw {
            // Written out, none is none.
            Some(gateway) => Some(gateway).filter(|gateway| !gateway.is_unspecified()),
            // Nobody is asked for what is on the link, or on the host.
            None if route.scope.is_some_and(|scope| scope >= SCOPE_LINK) => None,
            None => ips.iter().filter_map(|ip| ip.gateway).find(of_family),
        };
        let mut wanted = Route::new(route.dst, gateway, Some(self.index));
        wanted.metric = route.priority;
        wanted.mtu = route.mtu;
        wanted.advmss = route.advmss;
        // 0 stands for the main one.
        wanted.table = route.table.filter(|table| *table != 0).unwrap_or(Route::MAIN);
        wanted.scope = route.scope;
        wanted.onlink = gateway.is_some_and(|gateway| is_onlink(gateway, ips));
        wanted
    }
}

/// Whether a gateway is on the link although no network of its addresses has it: one that the IPAM plugin calls the gateway
/// of an address, or any where an address is a network by itself. Others are mistakes, which the kernel refuses.
fn is_onlink(gateway: IpAddr, ips: &[IpConfig]) -> bool {
    let link_local = matches!(gateway, IpAddr::V6(gateway) if gateway.is_unicast_link_local());
    let alone = |ip: &IpConfig| ip.address.prefix() == if ip.address.is_ipv4() { 32 } else { 128 };
    !link_local
        && !ips.iter().any(|ip| ip.address.contains(gateway))
        && ips
            .iter()
            .any(|ip| ip.gateway == Some(gateway) || ip.address.is_ipv4() == gateway.is_ipv4() && alone(ip))
}

/// Whether the kernel takes one for the other when it looks whether there is a route already.
fn is_in_the_place_of(have: &Route, wanted: &Route) -> bool {
    is_to(have, wanted) && have.table == wanted.table && metric(have) == metric(wanted)
}

fn is_to(have: &Route, wanted: &Route) -> bool {
    network(have.destination) == network(wanted.destination)
}

/// As the kernel has it where none is given; IPv6 takes 0 for none.
fn metric(route: &Route) -> u32 {
    let given = route.metric.unwrap_or(0);
    if given == 0 && route.destination.is_ipv6() { 1024 } else { given }
}

fn network(address: IpNetwork) -> (IpAddr, u8) {
    (address.network(), address.prefix())
}
