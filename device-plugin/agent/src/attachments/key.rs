use node::Attachment;

/// The key of an attachment in CNI's DEL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttachmentKey {
    pub container: String,
    /// The name of the interface in the pod, `CNI_IFNAME`.
    pub ifname: String,
}

impl AttachmentKey {
    /// The key of an attachment.
    pub fn from_attachment(attachment: &Attachment) -> Self {
        Self { container: attachment.container_id.clone(), ifname: attachment.ifname.to_string() }
    }
}

/// Which plugins made something for an attachment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    pub macvtap: bool,
    pub vlan_bridge: bool,
    /// A lease of `ipam-pool`, for either main plugin.
    pub lease: bool,
}

impl Traces {
    pub const MACVTAP: Self = Self { macvtap: true, vlan_bridge: false, lease: false };
    pub const VLAN_BRIDGE: Self = Self { macvtap: false, vlan_bridge: true, lease: false };
    pub const LEASE: Self = Self { macvtap: false, vlan_bridge: false, lease: true };
}
