use node::Attachment;

/// An attachment's name: what CNI's DEL goes by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AttachmentKey {
    pub(crate) container: String,
    pub(crate) ifname: String,
}

impl AttachmentKey {
    pub(crate) fn from_attachment(attachment: &Attachment) -> Self {
        Self { container: attachment.container_id.clone(), ifname: attachment.ifname.to_string() }
    }
}

/// Who made something for an attachment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traces {
    pub(crate) macvtap: bool,
    pub(crate) vlan_bridge: bool,
    pub(crate) lease: bool,
}

impl Traces {
    pub(crate) const MACVTAP: Self = Self { macvtap: true, vlan_bridge: false, lease: false };
    pub(crate) const VLAN_BRIDGE: Self = Self { macvtap: false, vlan_bridge: true, lease: false };
    pub(crate) const LEASE: Self = Self { macvtap: false, vlan_bridge: false, lease: true };
}
