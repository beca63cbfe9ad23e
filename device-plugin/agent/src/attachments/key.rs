use node::Attachment;

/// An attachment's name: what CNI's DEL goes by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttachmentKey {
    /// The container's ID, `CNI_CONTAINERID`.
    pub container: String,
    /// The interface in the pod, `CNI_IFNAME`.
    pub ifname: String,
}

impl AttachmentKey {
    /// The key of an attachment.
    pub fn from_attachment(attachment: &Attachment) -> Self {
        Self { container: attachment.container_id.clone(), ifname: attachment.ifname.to_string() }
    }
}

/// Who made something for an attachment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traces {
    /// The plugin `macvtap`.
    pub macvtap: bool,
    /// The plugin `vlan-bridge`.
    pub vlan_bridge: bool,
    /// `ipam-pool`, for whichever plugin.
    pub lease: bool,
}

impl Traces {
    /// What `macvtap` made.
    pub const MACVTAP: Self = Self { macvtap: true, vlan_bridge: false, lease: false };
    /// What `vlan-bridge` made.
    pub const VLAN_BRIDGE: Self = Self { macvtap: false, vlan_bridge: true, lease: false };
    /// An address alone.
    pub const LEASE: Self = Self { macvtap: false, vlan_bridge: false, lease: true };
}
