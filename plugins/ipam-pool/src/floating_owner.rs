//! Whose address follows it over nodes.

use crate::Owner;
use crate::blocks::FloatingOwner;
use crate::network::Network;
use crate::options::Sticky;

impl Network {
    /// Whose address it is on every node, where nodes share the pool: what is reserved for the owner, or what it keeps.
    /// `shared`: whether the owner may be on another node as well.
    pub(crate) fn floating_owner(
        &self,
        owner: &Owner,
        sticky: Sticky,
        shared: bool,
    ) -> Option<FloatingOwner> {
        self.blocks.as_ref()?;
        let in_any_network = Owner::from_text(owner.in_any_network()).floating_name();
        if self.reserved.contains(&in_any_network) {
            return Some(FloatingOwner { name: in_any_network, create: false, shared });
        }
        self.kept_for(owner, sticky, shared)
    }

    /// Whose address it is on every node, where nodes share the pool and nothing is reserved.
    pub(crate) fn kept_for(&self, owner: &Owner, sticky: Sticky, shared: bool) -> Option<FloatingOwner> {
        let keeps = self.blocks.is_some() && sticky != Sticky::No;
        keeps.then(|| FloatingOwner { name: owner.floating_name(), create: true, shared })
    }
}
