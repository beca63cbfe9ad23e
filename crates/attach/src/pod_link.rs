use std::net::IpAddr;
use std::time::{Duration, Instant};

use cni::{AddResult, IpConfig};
use ipnetwork::IpNetwork;
use net_types::{IfName, MacAddr};
use netplumb::{
    Conf, Errno, LinkChange, Netlink, Netns, NewAddress, Route, Sysctl, announce_from_now, announce_own,
};

/// An interface in a pod that is up, and gets the addresses and routes of the IPAM plugin's result.
#[derive(Clone, Copy)]
pub struct PodLink<'a> {
    /// The network namespace of the pod.
    pub netns: &'a Netns,
    /// A netlink socket in that namespace.
    pub netlink: &'a Netlink,
    /// The index of the interface in that namespace.
    pub index: u32,
    /// The name of the interface in that namespace.
    pub name: &'a IfName,
    /// The Ethernet address of the interface.
    pub mac: MacAddr,
}

/// An error about a pod's addresses and routes.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum PodError {
    #[error(transparent)]
    Net(#[from] netplumb::Error),
    /// Every address that was given is taken.
    #[error(transparent)]
    Conflict(#[from] crate::ConflictError),
    #[error("interface {ifname} is still looking whether others have its addresses after {} s", DETECTION_TIMEOUT.as_secs())]
    StillTentative { ifname: IfName },
    #[error(
        "interface {ifname} has no address {address}, which was promised: delete the pod, so that it is attached anew"
    )]
    NoAddress { ifname: IfName, address: IpNetwork },
    #[error("address {address} of interface {ifname} is not used: another host on this network has it")]
    Duplicate { ifname: IfName, address: IpNetwork },
    #[error(
        "interface {ifname} has no route to {destination}{}, which was promised: delete the pod, so that it is attached anew",
        gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default()
    )]
    NoRoute { ifname: IfName, destination: IpNetwork, gateway: Option<IpAddr> },
}

/// How long to wait for duplicate address detection, as the reference plugins do.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

impl PodLink<'_> {
    /// Sets the link of a VM's guest up, together with another change, so that the launcher pod's stack neither sends
    /// nor answers on it, and so that it accepts the multicast groups that the guest joins: a macvtap only accepts
    /// the groups of its own link, and nobody joins the guest's there.
    ///
    /// # Errors
    /// The kernel refuses a change.
    pub fn set_up_silently(&self, change: LinkChange) -> netplumb::Result<()> {
        // Before the link is up, since the kernel then sends router solicitations and duplicate address detection at
        // once.
        self.netns.sysctl_set(&self.setting("disable_ipv6"), "1")?;
        let silent = LinkChange { noarp: Some(true), allmulti: Some(true), up: Some(true), ..change };
        self.netlink.set_link(self.index, &silent)
    }

    /// Sets addresses and routes, and announces the addresses.
    ///
    /// `detecting`: IPv6 addresses are usable only after duplicate address detection (RFC 4862, section 5.4), which takes a
    /// second or two. Otherwise addresses are usable at once: it is the IPAM plugin's task to make sure that no other host
    /// has them. A route without a next hop goes through the gateway of an address of its family, as in the reference
    /// plugins. Of several routes to one destination over different gateways all are added; one that exists over another
    /// interface of the pod is left as it is.
    ///
    /// # Errors
    /// The kernel refuses a change, or another host has an address; what was set before stays, since the interface is
    /// removed with its pod.
    pub(crate) fn configure(&self, result: &AddResult, detecting: bool) -> Result<(), PodError> {
        if detecting {
            let settings = ["accept_dad", "enhanced_dad"].map(|setting| (self.setting(setting), "1"));
            self.netns.sysctl_set_all(&settings)?;
        }
        if !result.ips.is_empty() {
            // Neighbours may still have the previous owner of an address in their caches.
            announce_from_now(self.netns, self.name)?;
        }
        self.add_addresses(&result.ips, !detecting)?;
        if detecting {
            self.wait_for_detection()?;
        }
        self.add_routes(result)?;
        if result.ips.iter().any(|ip| ip.address.is_ipv4()) {
            announce_own(self.netlink, self.index, self.mac)?;
        }
        Ok(())
    }

    /// The part of a result that a guest's link on a bridge or a veth gets: KubeVirt's bridge binding gives the
    /// guest, by DHCP, the IPv4 addresses and routes that it finds there. IPv6 is off, since it cannot be made
    /// silent.
    #[must_use]
    pub fn of_guest(answer: &AddResult) -> AddResult {
        let mut on_link = answer.clone();
        on_link.ips.retain(|ip| ip.address.is_ipv4());
        on_link.routes.retain(|route| route.dst.is_ipv4());
        on_link
    }

    /// Sets what [`Self::of_guest`] returns, without announcing the addresses: a guest announces its addresses
    /// itself, and during a migration it still has them elsewhere.
    ///
    /// # Errors
    /// As [`Self::configure`].
    pub(crate) fn configure_for_guest(&self, answer: &AddResult) -> Result<(), PodError> {
        let on_link = Self::of_guest(answer);
        self.add_addresses(&on_link.ips, true)?;
        self.add_routes(&on_link)
    }

    fn add_addresses(&self, ips: &[IpConfig], nodad: bool) -> Result<(), PodError> {
        for ip in ips {
            let mut address = NewAddress::new(ip.address);
            address.nodad = nodad;
            match self.netlink.add_address(self.index, &address) {
                // A runtime without IPv6 of its own disables it in every sandbox.
                Err(error) if ip.address.is_ipv6() && error.errno() == Some(Errno::EACCES) => {
                    self.enable_ipv6()?;
                    self.netlink.add_address(self.index, &address)?;
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// On the interface, and on the loopback, through which the pod reaches its own addresses.
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
        let end = Instant::now() + DETECTION_TIMEOUT;
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

    /// Adds a route where one to the same destination exists, unless that is identical or over another interface.
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
    /// A later plugin of the chain may have changed routes (SPEC.md, section "CHECK"): a route over this interface to
    /// the same destination through the same gateway counts as the promised one, whatever its table and metric.
    ///
    /// # Errors
    /// The first difference.
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
            // A route that is promised twice exists once.
            if !wanted.iter().any(|other| is_in_the_place_of(other, &route) && other.gateway == route.gateway)
            {
                wanted.push(route);
            }
        }
        // Each route fulfils one promise: first those that are exactly as promised.
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
            // ADD left a route out if one over another link existed before.
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
            // An unspecified gateway means none.
            Some(gateway) => Some(gateway).filter(|gateway| !gateway.is_unspecified()),
            // Destinations on the link or on the host need no gateway.
            None if route.scope.is_some_and(|scope| scope >= Route::SCOPE_LINK) => None,
            None => ips.iter().filter_map(|ip| ip.gateway).find(of_family),
        };
        let mut wanted = Route::new(route.dst, gateway, Some(self.index));
        wanted.metric = route.priority;
        wanted.mtu = route.mtu;
        wanted.advmss = route.advmss;
        // Table 0 means the main one.
        wanted.table = route.table.filter(|table| *table != 0).unwrap_or(Route::MAIN);
        wanted.scope = route.scope;
        wanted.onlink = gateway.is_some_and(|gateway| is_onlink(gateway, ips));
        wanted
    }
}

/// Whether a gateway is on the link although none of its networks contains it: the IPAM plugin calls it the gateway
/// of an address, or an address is a network by itself. Otherwise it is a mistake, which the kernel refuses.
fn is_onlink(gateway: IpAddr, ips: &[IpConfig]) -> bool {
    let link_local = matches!(gateway, IpAddr::V6(gateway) if gateway.is_unicast_link_local());
    let alone = |ip: &IpConfig| ip.address.prefix() == if ip.address.is_ipv4() { 32 } else { 128 };
    !link_local
        && !ips.iter().any(|ip| ip.address.contains(gateway))
        && ips
            .iter()
            .any(|ip| ip.gateway == Some(gateway) || ip.address.is_ipv4() == gateway.is_ipv4() && alone(ip))
}

/// Whether the kernel takes one route for the other when it checks whether a route exists.
fn is_in_the_place_of(have: &Route, wanted: &Route) -> bool {
    is_to(have, wanted) && have.table == wanted.table && metric(have) == metric(wanted)
}

fn is_to(have: &Route, wanted: &Route) -> bool {
    network(have.destination) == network(wanted.destination)
}

/// The metric that the kernel uses if none is given; for IPv6, 0 means none.
fn metric(route: &Route) -> u32 {
    let given = route.metric.unwrap_or(0);
    if given == 0 && route.destination.is_ipv6() { 1024 } else { given }
}

fn network(address: IpNetwork) -> (IpAddr, u8) {
    (address.network(), address.prefix())
}
