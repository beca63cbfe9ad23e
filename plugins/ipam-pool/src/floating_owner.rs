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
        if self.is_reserved_for(owner) {
            let name = in_any_network(owner);
            return Some(FloatingOwner { name, create: false, shared, user: None });
        }
        self.kept_for(owner, sticky, shared)
    }

    /// Whether an address is reserved for the owner on every node.
    pub(crate) fn is_reserved_for(&self, owner: &Owner) -> bool {
        self.blocks.is_some() && self.reserved.contains(&in_any_network(owner))
    }

    /// Whose address it is on every node, where nodes share the pool and nothing is reserved.
    pub(crate) fn kept_for(&self, owner: &Owner, sticky: Sticky, shared: bool) -> Option<FloatingOwner> {
        let keeps = self.blocks.is_some() && sticky != Sticky::No;
        keeps.then(|| FloatingOwner { name: owner.floating_name(), create: true, shared, user: None })
    }
}

fn in_any_network(owner: &Owner) -> String {
    Owner::from_text(owner.in_any_network()).floating_name()
}
