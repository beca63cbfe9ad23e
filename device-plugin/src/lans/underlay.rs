use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::Result;
use lan::Lan;
use net_types::{IfName, Mtu};
use netplumb::Netlink;

/// The underlay device of a LAN on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Underlay {
    /// The name that the LAN gives it.
    pub(super) name: IfName,
    /// The device, where there is one.
    pub(super) link: Option<UnderlayLink>,
}

/// What matters of an underlay device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnderlayLink {
    pub(super) index: u32,
    pub(super) mtu: Mtu,
    pub(super) up: bool,
    pub(super) carrier: bool,
}

impl UnderlayLink {
    fn look(name: &IfName, host: &Netlink) -> Result<Option<Self>> {
        Ok(host.link_by_name(name)?.map(|link| Self {
            index: link.index,
            // Loopback's 65536 is no MTU that a LAN could have.
            mtu: Mtu::try_from(u64::from(link.mtu)).unwrap_or(if link.mtu > Mtu::MAX.get() {
                Mtu::MAX
            } else {
                Mtu::MIN
            }),
            up: link.up,
            carrier: link.carrier,
        }))
    }
}

/// The devices that were looked at in one pass, each once however many LANs it carries; `None`: there is none.
pub(super) type Seen = BTreeMap<IfName, Option<UnderlayLink>>;

impl Underlay {
    /// Looks for the underlay that a LAN has on the node; `None` where it has none there.
    pub(super) fn of(lan: &Lan, node: &str, host: &Netlink, seen: &mut Seen) -> Result<Option<Self>> {
        let Some(name) = lan.underlay(node) else { return Ok(None) };
        let link = match seen.entry(name.clone()) {
            Entry::Occupied(link) => link.get().clone(),
            Entry::Vacant(entry) => entry.insert(UnderlayLink::look(name, host)?).clone(),
        };
        Ok(Some(Self { name: name.clone(), link }))
    }

    /// The MTU of the LAN, or one word and a text why there is none.
    pub(super) fn mtu(&self, lan: &Lan) -> Result<Mtu, (&'static str, String)> {
        let Some(link) = &self.link else {
            let message = format!(
                "underlay {} does not exist on this node: create it, or change vxlanDevMap or defaultVxlanDev",
                self.name
            );
            return Err(("UnderlayMissing", message));
        };
        lan.mtu_on(link.mtu).map_err(|error| ("NoRoom", format!("underlay {}: {error}", self.name)))
    }

    /// The largest MTU that the LAN could have.
    pub(super) fn room(&self, lan: &Lan) -> Option<Mtu> {
        lan.room_on(self.link.as_ref()?.mtu)
    }

    /// What keeps frames from crossing although the LAN is built: one word, and a text.
    pub(super) fn complaint(&self) -> Option<(&'static str, String)> {
        let link = self.link.as_ref()?;
        match (link.up, link.carrier) {
            (false, _) => Some(("UnderlayDown", format!("underlay {} is down", self.name))),
            (true, false) => Some(("NoCarrier", format!("underlay {} has no carrier", self.name))),
            (true, true) => None,
        }
    }
}
