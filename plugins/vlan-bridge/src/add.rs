//! ADD: its steps in their order.

use std::net::IpAddr;

use attach::{Combined, GuestLink, PodError, Undecided, probe_timing};
use cni::{AddResult, Delegated, Dns, Interface, Request, Route, Target};
use ipnetwork::IpNetwork;
use net_types::{IfName, MacAddr, Mtu};
use netplumb::{BridgeVlans, LinkChange, Netns};
use node::{Lock, Resource};

use crate::bridge::Bridge;
use crate::call::Call;
use crate::host_interface_policy::HostInterfacePolicy;
use crate::port::{self, Port};
use crate::record::{PortRecord, RecordStore, port_name};
use crate::uplink_policy::UplinkPolicy;
use crate::{Config, Error, guard, host_interface, masquerade, mtu, node_address, remove, uplink};

/// Attaches the pod. If a step fails, everything is undone.
///
/// # Errors
/// See [`Error`].
pub(crate) fn add(request: &Request<Config>, target: &Target) -> Result<AddResult, Error> {
    let config = &request.config;
    config.validate(request.ipam().is_some())?;
    request.left_to_others()?;
    let call = Call::open(request, target)?;
    call.suits_guest(GuestLink::Veth)?;
    let vlans = config.port_vlans()?;
    let _lock = call.lock()?;
    let store = RecordStore::open(&call.node.paths())?;
    let name = port_name(target.container_id.as_str(), &target.ifname);
    let asks_for_a_guest = call.is_for_a_guest()
        && request.ipam().is_some()
        && probe_timing(request.document()).map_err(PodError::from)?.is_some();
    let asker = asks_for_a_guest.then(|| call.asker());
    let attaching = Attaching { call: &call, store: &store, name, vlans, asker };
    let made = {
        let lock = store.lock(&config.bridge)?;
        attaching.make(&lock)?
    };
    let undo = || {
        let take_away = || {
            let lock = store.lock(&config.bridge)?;
            remove::take_away(&call.host, &store, &attaching.name, Some(&config.bridge), &lock)
        };
        take_away().err().iter().map(|error: &Error| cni::chain(error)).collect()
    };
    attach::or_undo(undo, |roll_back| attaching.finish(&made, roll_back))
}

/// Checks whether the node's policy lets the pod use the bridge and all VLANs that it would get there, requested or
/// not.
fn allow(call: &Call<'_>, vlans: Option<&BridgeVlans>, bridge: Option<&Bridge>) -> Result<(), Error> {
    let Some(policy) = &call.node.policy else { return Ok(()) };
    let config = &call.request.config;
    let mut all = match (vlans, bridge) {
        (Some(vlans), _) => Some(port::wanted(config, bridge, vlans).all()),
        (None, Some(bridge)) if bridge.info.vlan_filtering => Some(port::at_first(bridge).all()),
        (None, _) => None,
    };
    if let Some(all) = &mut all {
        let of_uplinks = config.uplinks.iter().flat_map(|uplink| uplink.tagged.iter().chain(uplink.untagged));
        for vlan in config.gateway.iter().map(|gateway| gateway.vlan).chain(of_uplinks) {
            all.insert(vlan);
        }
    }
    let namespace = call.pod_namespace();
    policy.check(namespace, Resource::Bridge { name: config.bridge.as_str(), vlans: all.as_ref() })?;
    for uplink in &config.uplinks {
        policy.check(namespace, Resource::Master(uplink.name.as_str()))?;
    }
    Ok(())
}

struct Attaching<'a> {
    call: &'a Call<'a>,
    store: &'a RecordStore,
    name: IfName,
    vlans: Option<BridgeVlans>,
    /// The MAC address from which a guest's addresses are probed.
    asker: Option<MacAddr>,
}

/// The result of the first half of ADD: the port is complete.
struct AttachedPort {
    /// The bridge after the port was added.
    bridge: Bridge,
    port: Port,
    mac: MacAddr,
    mtu: Mtu,
}

impl Attaching<'_> {
    /// The steps under the bridge's lock.
    fn make(&self, lock: &Lock) -> Result<AttachedPort, Error> {
        let (call, store) = (self.call, self.store);
        let config = &call.request.config;
        self.clear(lock)?;
        // Read first: a configuration that does not fit must change nothing.
        let bridge = Bridge::find(&call.host, config)?;
        allow(call, self.vlans.as_ref(), bridge.as_ref())?;
        let uplinks = uplink::find(&call.host, bridge.as_ref(), config, &self.uplink_policy())?;
        if let Some(bridge) = &bridge {
            bridge.suits(&call.host, config, self.vlans.is_some())?;
            if self.vlans.is_some() && !bridge.info.vlan_filtering {
                self.uplink_policy().allows_bridge(&bridge.name, &bridge.link)?;
            }
        }
        let mtu = mtu::decide(config, bridge.as_ref(), &uplinks)?;
        let mac = match call.request.requested_mac()? {
            Some(mac) => mac,
            None => call.stable_mac(&[
                "vlan-bridge",
                call.request.network.as_str(),
                &call.mac_identity(true)?,
                call.target.ifname.as_str(),
            ]),
        };
        let ours = bridge.as_ref().is_none_or(Bridge::is_ours);
        let others = store.others(&config.bridge, &self.name)?;
        let promisc_by_us = bridge.as_ref().is_none_or(|bridge| !bridge.link.promisc)
            || others.iter().any(|other| other.promisc);
        let mut record = PortRecord {
            attachment: call.tag.clone(),
            bridge: config.bridge.clone(),
            vlans: self.vlans.clone(),
            uplinks: Vec::new(),
            host_interfaces: Vec::new(),
            guard: guard::wanted(&self.name, config, mac, &[]),
            masquerade: Vec::new(),
            masquerade_from: Vec::new(),
            left_uplinks: Vec::new(),
            promisc: config.promisc_mode && promisc_by_us,
            ipam: Some(call.request.ipam_type.clone().unwrap_or_default()),
        };
        let mut adds = Vec::new();
        let carried = self.vlans.clone().unwrap_or_default();
        for (wanted, link) in config.uplinks.iter().zip(&uplinks) {
            let have = match &self.vlans {
                Some(_) if link.master.is_some() => call.host.bridge_vlans(link.index)?,
                // Not read if the configuration has no VLANs: the kernel may not support them.
                _ => BridgeVlans::default(),
            };
            let (add, mut entry) = uplink::join(wanted, &carried, &have, &others, ours)?;
            entry.joined = uplink::joined(link, &others);
            adds.push((link, add));
            record.uplinks.push(entry);
        }
        store.write(&self.name, &record)?;
        let made = self.build(bridge, &uplinks, (mac, mtu), &mut record, &adds);
        made.map_err(|error| {
            let undone = remove::take_away(&call.host, store, &self.name, Some(&config.bridge), lock);
            error.and_failure(undone.err())
        })
    }

    /// Which links of the node may become uplinks.
    fn uplink_policy(&self) -> UplinkPolicy<'_> {
        UplinkPolicy::for_pod(&self.call.node, self.call.pod_namespace())
    }

    /// Removes what an earlier ADD of the same attachment left; a complete attachment is an error.
    fn clear(&self, lock: &Lock) -> Result<(), Error> {
        let call = self.call;
        if self.store.read(&self.name)?.is_none() {
            return Ok(());
        }
        let stands = call.host.link_by_name(&self.name)?.is_some_and(|link| link.up);
        if stands && call.netlink.link_by_name(&call.target.ifname)?.is_some() {
            return Err(Error::InterfaceExists(call.target.ifname.clone()));
        }
        remove::take_away(&call.host, self.store, &self.name, Some(&call.request.config.bridge), lock)
    }

    fn build(
        &self,
        bridge: Option<Bridge>,
        uplinks: &[netplumb::Link],
        (mac, mtu): (MacAddr, Option<Mtu>),
        record: &mut PortRecord,
        adds: &[(&netplumb::Link, BridgeVlans)],
    ) -> Result<AttachedPort, Error> {
        let (call, store) = (self.call, self.store);
        let config = &call.request.config;
        let bridge = match bridge {
            Some(bridge) => {
                bridge.prepare(&call.host, config, self.vlans.is_some())?;
                for link in uplinks.iter().filter(|link| link.master.is_none()) {
                    self.uplink_policy().add_to_bridge(&call.host, link, bridge.index)?;
                }
                bridge
            }
            None => {
                Bridge::make(&call.host, config, self.vlans.is_some(), mtu, uplinks, &self.uplink_policy())?
            }
        };
        let mtu = mtu.unwrap_or_else(|| bridge.mtu());
        let port = port::make(call, &bridge, &self.name, mac, mtu)?;
        if let Some(vlans) = &self.vlans {
            let vlans = port::wanted(config, Some(&bridge), vlans);
            if record.vlans.as_ref().is_some_and(|recorded| *recorded != vlans) {
                record.vlans = Some(vlans.clone());
                store.write(&self.name, record)?;
            }
            port::set_vlans(call, &bridge, port.index, &vlans)?;
        }
        for (link, add) in adds {
            uplink::apply(&call.host, link, add)?;
        }
        if let Some(guard) = &record.guard {
            // After ADD, there is no more than the record says.
            let at_first = match call.request.ipam() {
                Some(_) => guard.of_asking_port(&self.name, self.asker),
                None => guard.of_port(&self.name),
            };
            guard::install(store, &at_first)?;
        }
        port::open(call, port.index)?;
        // The address of a bridge without a configured one changes with its ports.
        let bridge = Bridge::read(&call.host, &config.bridge)?
            .ok_or_else(|| Error::BridgeAppeared(config.bridge.clone()))?;
        Ok(AttachedPort { bridge, port, mac, mtu })
    }

    /// Sets the pod's side up, with the IPAM plugin's result. `roll_back` undoes everything, at the moment when the
    /// IPAM plugin can release its addresses.
    fn finish(&self, made: &AttachedPort, roll_back: &mut dyn FnMut()) -> Result<AddResult, Error> {
        let call = self.call;
        let config = &call.request.config;
        let index = made.port.pod_index;
        let link = call.pod_link(index, made.mac);
        let mut undecided = None;
        if !call.is_for_a_guest() {
            undecided = Some(link.before_up(config.from_routers(), call.request.ipam().is_some())?);
        }
        match (config.disable_container_interface, call.is_for_a_guest()) {
            (true, _) => {}
            (false, true) => link.set_up_silently(LinkChange::default())?,
            (false, false) => {
                call.netlink.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
            }
        }
        let Some(ipam) = call.request.ipam() else {
            self.host_interfaces(made, &[], &[])?;
            return Ok(self.result(made, AddResult::default()));
        };
        attach::with_ipam(ipam, roll_back, |delegated| self.configure(made, delegated, undecided))
    }

    fn configure(
        &self,
        made: &AttachedPort,
        delegated: &mut Delegated<'_>,
        undecided: Option<Undecided<'_>>,
    ) -> Result<AddResult, Error> {
        let call = self.call;
        let config = &call.request.config;
        let link = call.pod_link(made.port.pod_index, made.mac);
        call.replace_taken(&link, delegated)?;
        let mut answer = delegated.result().clone();
        let mut gateways = Vec::new();
        if config.is_gateway() {
            for ip in &mut answer.ips {
                let gateway = node_address::of_gateway(ip.address, ip.gateway)?;
                ip.gateway = Some(gateway.ip());
                gateways.push(gateway);
            }
        }
        if config.is_default_gateway {
            for gateway in gateways.iter().map(IpNetwork::ip) {
                let everything = everything(gateway);
                if !answer.routes.iter().any(|route| route.dst == everything) {
                    answer.routes.push(Route::new(everything, Some(gateway)));
                }
            }
        }
        let subnets: Vec<IpNetwork> = answer.ips.iter().map(|ip| ip.address).collect();
        self.host_interfaces(made, &gateways, &subnets)?;
        self.netfilter(made, &answer)?;
        link.set_addresses(undecided, &answer, config.enabledad)?;
        Ok(self.result(made, answer))
    }

    /// The rules that the node's netfilter gets for the pod's addresses.
    fn netfilter(&self, made: &AttachedPort, answer: &AddResult) -> Result<(), Error> {
        let config = &self.call.request.config;
        let addresses: Vec<IpNetwork> = answer.ips.iter().map(|ip| ip.address).collect();
        let masquerade = if config.ip_masq { addresses.as_slice() } else { &[] };
        let guard_changes = config.ipspoofchk || config.macspoofchk && self.asker.is_some();
        if !guard_changes && masquerade.is_empty() {
            return Ok(());
        }
        let _lock = self.store.lock(&config.bridge)?;
        let Some(mut record) = self.store.read(&self.name)? else { return Ok(()) };
        if guard_changes {
            let addresses: Vec<IpAddr> = addresses.iter().map(IpNetwork::ip).collect();
            record.guard = guard::wanted(&self.name, config, made.mac, &addresses);
        }
        if !masquerade.is_empty() {
            record.masquerade = masquerade.to_vec();
            let (host, vlans) = (&self.call.host, self.vlans.as_ref());
            record.masquerade_from = masquerade::ingress(host, &made.bridge, vlans, config.is_gateway())?;
        }
        self.store.write(&self.name, &record)?;
        if let Some(guard) = record.guard.as_ref().filter(|_| guard_changes) {
            guard::install(self.store, &guard.of_port(&self.name))?;
        }
        if !masquerade.is_empty() {
            masquerade::install(self.store, &self.name, &record)?;
        }
        Ok(())
    }

    /// The node's own interfaces in the VLAN; `subnets` are the pod's.
    fn host_interfaces(
        &self,
        made: &AttachedPort,
        gateways: &[IpNetwork],
        subnets: &[IpNetwork],
    ) -> Result<(), Error> {
        let call = self.call;
        let config = &call.request.config;
        let wanted = host_interface::wanted(config, self.vlans.as_ref(), gateways);
        if wanted.is_empty() {
            return Ok(());
        }
        let _lock = self.store.lock(&config.bridge)?;
        let others = self.store.others(&config.bridge, &self.name)?;
        let (interfaces, replaced): (Vec<_>, Vec<_>) = wanted
            .iter()
            .map(|interface| {
                host_interface::plan(&call.host, &made.bridge, interface, &others, config.force_address)
            })
            .collect::<Result<_, _>>()?;
        let policy = HostInterfacePolicy { node: &call.node, namespace: call.pod_namespace(), subnets };
        for interface in &interfaces {
            policy.check(&call.host, interface, &others)?;
        }
        if let Some(mut record) = self.store.read(&self.name)? {
            record.host_interfaces.clone_from(&interfaces);
            self.store.write(&self.name, &record)?;
        }
        made.bridge.keep_address(&call.host)?;
        for (interface, replaced) in interfaces.iter().zip(&replaced) {
            host_interface::ensure(&call.host, &made.bridge, interface, replaced)?;
        }
        let node = Netns::current()?;
        for setting in host_interface::forwarding(config, &interfaces) {
            node.sysctl_set(&setting, "1")?;
        }
        Ok(())
    }

    /// The result: bridge, port and the pod's interface, behind the results of earlier plugins of the chain.
    fn result(&self, made: &AttachedPort, mut answer: AddResult) -> AddResult {
        let call = self.call;
        let mtu = Some(made.mtu.get());
        let bridge = &made.bridge;
        let mut interfaces = [
            Interface::on_host(&bridge.name, bridge.link.mac),
            Interface::on_host(&self.name, Some(made.port.mac)),
            Interface::in_container(&call.target.ifname, Some(made.mac), &call.target.netns),
        ];
        interfaces[0].mtu = Some(bridge.link.mtu);
        interfaces[1].mtu = mtu;
        interfaces[2].mtu = mtu;
        // As in the reference plugin: the network's settings replace the IPAM plugin's.
        if call.request.dns != Dns::default() {
            answer.dns = call.request.dns.clone();
        }
        call.result(interfaces.into(), answer)
    }
}

/// The destination of the default route, in an address's family.
fn everything(gateway: IpAddr) -> IpNetwork {
    let any: IpAddr = match gateway {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNetwork::new(any, 0).unwrap_or_else(|_| unreachable!("0 is a prefix length"))
}
