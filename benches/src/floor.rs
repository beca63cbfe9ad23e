//! The least that an attachment can cost: the netlink requests of our ADD, from a process that is there
//! already and has its sockets open.

use std::path::Path;
use std::time::{Duration, Instant};

use net_types::{IfName, MacAddr, MacvtapMode, Mtu};
use netplumb::{LinkChange, Macvtap, Netlink, Netns, NewLink, PortChange, TapWatch, Veth};

use crate::Result;
use crate::lab::{BRIDGE, LAN};

/// Of the links that it makes: not k8slan's, or the daemon would take them for leftovers.
const GROUP: u32 = 1;

/// Of the macvtap: no spoke's.
const INDEX: u32 = 1 << 28;

/// As long as ADD waits for the port at most.
const SETTLES: Duration = Duration::from_millis(50);

/// Open sockets, and names that no spoke has.
pub(crate) struct Floor {
    lan: Netlink,
    pod: Netns,
    bridge: IfName,
    port: IfName,
    spoke: IfName,
    inside: IfName,
    mtu: Mtu,
}

impl Floor {
    /// For the LAN of the lab and a pod's namespace.
    pub(crate) fn new(pod: &Path, mtu: Mtu) -> Result<Self> {
        Ok(Self {
            lan: Netlink::open(&Netns::open(Path::new(LAN))?)?,
            pod: Netns::open(pod)?,
            bridge: BRIDGE.parse()?,
            port: "+floor".parse()?,
            spoke: "floor".parse()?,
            inside: "net1".parse()?,
            mtu,
        })
    }

    /// Makes an attachment as ADD does, and takes it away as DEL does; how long each took.
    pub(crate) fn timed(&self) -> Result<(Duration, Duration)> {
        let start = Instant::now();
        let port = self.attach()?;
        let attached = start.elapsed();
        let start = Instant::now();
        self.lan.delete_link(port)?;
        Ok((attached, start.elapsed()))
    }

    fn attach(&self) -> Result<u32> {
        // Is it the LAN's namespace? Its mark is on lo.
        self.lan.link_by_index(1)?;
        let bridge = self.lan.link_by_name(&self.bridge)?.ok_or("the LAN has no bridge")?;
        let mut port = NewLink::new(self.port.clone());
        port.mac = Some(MacAddr::local([0, 0, 0, 0, 0, 1]));
        let mut spoke = NewLink::new(self.spoke.clone());
        spoke.mac = Some(MacAddr::local([0, 0, 0, 0, 0, 2]));
        for end in [&mut port, &mut spoke] {
            end.mtu = Some(self.mtu);
            end.group = GROUP;
            end.up = true;
        }
        let mut pair = Veth::new(port, spoke);
        pair.master = Some(bridge.index);
        let made = self.lan.create_veth(&pair)?;
        let alias = Some(
            "as long as the tag of an attachment: 64 digits of a container ID, a path, and some more of it"
                .to_owned(),
        );
        let forward = PortChange { group_fwd_mask: Some(0xfffd), ..PortChange::default() };
        let change = LinkChange { alias: alias.clone(), port: Some(forward), ..LinkChange::default() };
        self.lan.set_link(made.main, &change)?;
        self.lan.set_link(made.peer, &LinkChange { alias, ..LinkChange::default() })?;
        self.lan.wait_operational(made.main, SETTLES)?;
        let watch = TapWatch::open(&self.pod)?;
        let mut macvtap = Macvtap::new(self.inside.clone(), made.peer, MacvtapMode::Passthru);
        macvtap.link.index = Some(INDEX);
        macvtap.link.up = true;
        macvtap.link.netns = Some(self.pod.clone());
        self.lan.create_macvtap(&macvtap)?;
        watch.device(&self.inside, INDEX)?.ok_or("the macvtap has no device")?;
        Ok(made.main)
    }
}
