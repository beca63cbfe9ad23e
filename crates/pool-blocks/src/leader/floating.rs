//! Which address an owner gets.

use std::collections::BTreeSet;

use net_types::{Addr, AddrRange, AddrSet, Family};

use crate::{Geometry, Key, Leader, Owner, Place, PoolSnapshot, Request, Spec};

impl Leader {
    /// Creates a floating address for an owner who has none in this pool; `None`: no address is free for it.
    ///
    /// It is chosen where it is in nobody's way: in a block that has floating addresses and is no node's, in one that nobody has,
    /// or in what a node gave up. Where the view is old and it is somebody's, it waits until that node gives it up. Which of
    /// those is `choice`'s: those who ask for one owner at once are to ask for one address, for several owners for several.
    #[must_use]
    pub fn float(
        geometry: &Geometry,
        family: Family,
        view: &PoolSnapshot,
        owner: &Owner,
        choice: u64,
    ) -> Option<Request> {
        let of_pool = || view.objects.iter().filter(|object| object.key.pool == *geometry.pool());
        let floating: BTreeSet<Addr> = of_pool()
            .filter_map(|object| match object.key.place {
                Place::Address(address) => Some(address),
                Place::Block(_) => None,
            })
            .collect();
        let mut of_nodes = AddrSet::default();
        for object in of_pool() {
            if let Place::Block(block) = object.key.place {
                let held = AddrSet::union([block.range()]).without(&object.spec.released);
                of_nodes = AddrSet::union(of_nodes.iter().chain(held.iter()));
            }
        }
        let taken = AddrSet::union(floating.iter().map(|address| AddrRange::single(*address)));
        let free = geometry.addresses().without(&of_nodes).without(&taken);
        let shared =
            AddrSet::union(floating.iter().filter_map(|address| match geometry.block_of(*address).place {
                Place::Block(block) => Some(block.range()),
                Place::Address(_) => None,
            }));
        let address =
            pick(&free.intersection(&shared), family, choice).or_else(|| pick(&free, family, choice))?;
        let spec = Spec { owner: Some(owner.clone()), ..Spec::default() };
        Some(Request::Create(Key::address(geometry.pool(), address), spec))
    }
}

/// One of the addresses of a family.
fn pick(free: &AddrSet, family: Family, choice: u64) -> Option<Addr> {
    let ranges = || free.iter().filter(|range| range.family() == family);
    let count = ranges().fold(0u128, |sum, range| sum.saturating_add(range.len()));
    let mut index = u128::from(choice).checked_rem(count)?;
    for range in ranges() {
        if index < range.len() {
            return Addr::new(family, range.first().number().checked_add(index)?);
        }
        index -= range.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::addresses;
    use crate::{BlockLengths, Object, ResourceVersion, Uid};

    fn chosen(view: &PoolSnapshot) -> Option<String> {
        let pool =
            Geometry::new("p".into(), BlockLengths { v4: 30, v6: 128 }, addresses(&["10.0.0.0-10.0.0.11"]));
        match Leader::float(&pool, Family::V4, view, &"vm:default/web".into(), 0) {
            Some(Request::Create(key, _)) => Some(key.to_string()),
            _ => None,
        }
    }

    fn object(key: &str, spec: Spec) -> Object {
        let parsed = Key::parse_block(key, |_, _| Some(30)).or_else(|| Key::parse_address(key)).unwrap();
        Object { key: parsed, uid: Uid::from_number(1), version: ResourceVersion(1), spec }
    }

    #[test]
    fn it_is_in_nobodys_way() {
        let mut view = PoolSnapshot::default();
        assert_eq!(chosen(&view).unwrap(), "p.10.0.0.0");
        view.objects.push(object("p.0a000000", Spec::default()));
        assert_eq!(chosen(&view).unwrap(), "p.10.0.0.4");
        view.objects.push(object("p.10.0.0.9", Spec::default()));
        assert_eq!(chosen(&view).unwrap(), "p.10.0.0.8", "beside another one");
        for block in ["p.0a000004", "p.0a000008"] {
            view.objects.push(object(block, Spec::default()));
        }
        assert_eq!(chosen(&view), None);
        view.objects.push(object("p.0a000000", Spec::default()));
        view.objects[0].spec.released = addresses(&["10.0.0.2"]);
        view.objects.pop();
        assert_eq!(chosen(&view).unwrap(), "p.10.0.0.2", "given up by its node");
    }
}
