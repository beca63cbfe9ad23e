//! How much a LAN can have. The API server wants limits on everything that a CEL rule walks.

/// Spokes of a LAN over all nodes; the kernel takes 1023 ports on one bridge.
pub(crate) const MAX_SPOKES: usize = 1024;
/// Nodes in `vxlanDevMap`; Kubernetes is made for clusters of up to 5,000.
pub(crate) const MAX_NODES: usize = 5000;
/// Namespaces in `allowedNamespaces`.
pub(crate) const MAX_NAMESPACES: usize = 1024;
