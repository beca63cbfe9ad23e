//! The limits of a LAN. The API server requires limits on everything that a CEL rule iterates over.

/// The most spokes of a LAN; the kernel allows 1023 ports on one bridge.
pub const MAX_SPOKES: usize = 1024;
/// The most addresses that a LAN's bridge, and its VXLAN device, learns on a node: a pod that sends from ever new ones costs the
/// node this much of its memory (3 MiB), and no more. Frames to others are flooded.
pub const MAX_LEARNED: u32 = 16_384;
/// The most nodes in `vxlanDevMap`; Kubernetes supports clusters of up to 5,000.
pub(crate) const MAX_NODES: usize = 5000;
/// The most namespaces in `allowedNamespaces`.
pub(crate) const MAX_NAMESPACES: usize = 1024;
