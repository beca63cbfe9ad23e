use std::collections::BTreeMap;

use lan::pool::{PartError, RangeError, parse_part};

use crate::{Addr, AddrRange, AddrSet, Family, Owner, Range};

/// Ranges of one family, from which an attachment gets one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet {
    queue: u8,
    family: Family,
    ranges: Vec<Range>,
    /// All addresses of the ranges.
    pool: AddrSet,
    /// The part of them that is this node's.
    node_part: AddrSet,
    /// The part of them that is in blocks that this node holds.
    held: AddrSet,
    /// The parts of other nodes, for messages.
    other_nodes: Vec<(String, AddrSet)>,
    /// Those of all sets of the pool.
    gateways: AddrSet,
    excluded: AddrSet,
    reserved: BTreeMap<Addr, String>,
    /// The same by owner.
    reserved_for: BTreeMap<String, Addr>,
    /// Held, and neither a gateway nor excluded nor reserved.
    allocatable: AddrSet,
    /// The same per range, in the order of the ranges.
    allocatable_by_range: Vec<AddrSet>,
}

/// An error in ranges, exclusions or reservations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeSetError {
    #[error("invalid range {0:?}")]
    Range(String, #[source] Box<RangeError>),
    #[error("a list of ranges is empty: add a range, or remove the list")]
    Empty,
    #[error("ranges {0:?} and {1:?} are of two families in one list: use one list per family")]
    Families(String, String),
    #[error("ranges {0:?} and {1:?} overlap at {2}")]
    Overlap(String, String, Addr),
    #[error(
        "exclude {0:?} is neither an address nor a range like 10.0.0.5-10.0.0.9 nor a subnet like 10.0.0.0/28"
    )]
    Exclude(String),
    #[error("exclude {0:?} is outside all subnets of the pool")]
    ExcludeOutside(String),
    #[error("the reservation of {owner:?} has no valid address: {given:?}")]
    Reservation { owner: String, given: String },
    #[error("{address}, reserved for {owner:?}, is outside the pool's ranges")]
    ReservationOutside { owner: String, address: Addr },
    #[error("{address} is reserved twice: for {first:?} and for {second:?}")]
    ReservedTwice { address: Addr, first: String, second: String },
    #[error("{owner:?} has two reservations in one list of ranges: {first} and {second}")]
    OwnerTwice { owner: String, first: Addr, second: Addr },
    #[error("{address}, reserved for {owner:?}, is the gateway")]
    ReservedGateway { owner: String, address: Addr },
}

/// Why a requested address is not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Gateway,
    Excluded,
    Reserved(String),
    /// In the part of the node with this name.
    OtherNode(String),
    NoNode,
    BlockNotHeld,
}

/// Exclusions and reservations as written, not yet checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// Addresses, ranges or CIDRs, as written.
    pub exclude: Vec<String>,
    /// Owner and addresses, as written.
    pub reservations: Vec<(String, Vec<String>)>,
}

impl From<PartError> for RangeSetError {
    fn from(error: PartError) -> Self {
        match error {
            PartError::Form(text) => Self::Exclude(text),
            PartError::Range(text, error) => Self::Range(text, error.into()),
        }
    }
}

impl RangeSet {
    /// Combines ranges of one family. `queue` is the number of the set's queue in the pool's store.
    ///
    /// # Errors
    /// There is no range, there are two families, or ranges overlap.
    pub fn new(queue: u8, ranges: Vec<Range>) -> Result<Self, RangeSetError> {
        let first = ranges.first().ok_or(RangeSetError::Empty)?;
        let family = first.addresses().family();
        for (i, range) in ranges.iter().enumerate() {
            if range.addresses().family() != family {
                return Err(RangeSetError::Families(
                    first.addresses().to_string(),
                    range.addresses().to_string(),
                ));
            }
            if let Some(other) =
                ranges.iter().take(i).find(|other| other.addresses().overlaps(range.addresses()))
            {
                let at = other.addresses().first().max(range.addresses().first());
                return Err(RangeSetError::Overlap(
                    other.addresses().to_string(),
                    range.addresses().to_string(),
                    at,
                ));
            }
        }
        let pool = AddrSet::union(ranges.iter().map(Range::addresses));
        let gateways = AddrSet::union(ranges.iter().filter_map(Range::gateway).map(AddrRange::single));
        let mut set = Self {
            queue,
            family,
            node_part: pool.clone(),
            held: pool.clone(),
            pool,
            other_nodes: Vec::new(),
            ranges,
            gateways,
            excluded: AddrSet::default(),
            reserved: BTreeMap::new(),
            reserved_for: BTreeMap::new(),
            allocatable: AddrSet::default(),
            allocatable_by_range: Vec::new(),
        };
        set.update_allocatable();
        Ok(set)
    }

    /// Applies exclusions and reservations to all sets of a pool, and keeps the gateways of each back in all of them.
    ///
    /// # Errors
    /// One is invalid, or in none of the sets.
    pub fn restrict(sets: &mut [Self], restrictions: &Restrictions) -> Result<(), RangeSetError> {
        let mut excluded = Vec::with_capacity(restrictions.exclude.len());
        for text in &restrictions.exclude {
            let addresses = parse_part(text)?;
            let mut subnets = sets.iter().flat_map(|set| &set.ranges).map(Range::subnet);
            if !subnets.any(|subnet| subnet.covers(addresses)) {
                return Err(RangeSetError::ExcludeOutside(text.clone()));
            }
            excluded.push(addresses);
        }
        let gateways: Vec<AddrRange> = sets.iter().flat_map(|set| set.gateways.iter()).collect();
        for set in &mut *sets {
            let of_family = gateways.iter().copied().filter(|gateway| gateway.family() == set.family);
            set.gateways = AddrSet::union(of_family);
            set.excluded =
                AddrSet::union(excluded.iter().copied().filter(|addresses| addresses.family() == set.family));
        }
        for (owner, addresses) in &restrictions.reservations {
            for given in addresses {
                let address = given.parse::<std::net::IpAddr>().map(Addr::from);
                let address = address
                    .map_err(|_| RangeSetError::Reservation { owner: owner.clone(), given: given.clone() })?;
                let set = sets.iter_mut().find(|set| set.pool.contains(address));
                set.ok_or_else(|| RangeSetError::ReservationOutside { owner: owner.clone(), address })?
                    .reserve(owner, address)?;
            }
        }
        sets.iter_mut().for_each(Self::update_allocatable);
        Ok(())
    }

    fn reserve(&mut self, owner: &str, address: Addr) -> Result<(), RangeSetError> {
        if self.gateways.contains(address) {
            return Err(RangeSetError::ReservedGateway { owner: owner.to_owned(), address });
        }
        if let Some(first) = self.reserved_for.insert(owner.to_owned(), address) {
            return Err(RangeSetError::OwnerTwice { owner: owner.to_owned(), first, second: address });
        }
        match self.reserved.insert(address, owner.to_owned()) {
            None => Ok(()),
            Some(first) => Err(RangeSetError::ReservedTwice { address, first, second: owner.to_owned() }),
        }
    }

    /// Reserves an address for an owner, which has it on whatever node it is. Not for anybody else, whatever else is said about it.
    pub fn reserve_floating(&mut self, owner: &Owner, address: Addr) {
        let name = owner.as_str().to_owned();
        self.reserved.insert(address, name.clone());
        self.reserved_for.insert(name, address);
        self.update_allocatable();
    }

    /// Limits the set to this node's part; `others` are the parts of other nodes.
    pub fn set_node_part(&mut self, held: &AddrSet, others: Vec<(String, AddrSet)>) {
        self.node_part = self.pool.intersection(held);
        self.held.clone_from(&self.node_part);
        self.other_nodes = others;
        self.update_allocatable();
    }

    /// The part of the pool that this node hands out.
    #[must_use]
    pub fn node_part(&self) -> &AddrSet {
        &self.node_part
    }

    /// Limits the set to the blocks that this node holds.
    pub fn restrict_to_blocks(&mut self, blocks: &AddrSet) {
        let held = self.node_part.intersection(blocks);
        if held != self.held {
            self.held = held;
            self.update_allocatable();
        }
    }

    fn update_allocatable(&mut self) {
        let taken = self
            .gateways
            .iter()
            .chain(self.excluded.iter())
            .chain(self.reserved.keys().copied().map(AddrRange::single));
        self.allocatable = self.held.without(&AddrSet::union(taken));
        self.allocatable_by_range = match &*self.ranges {
            [_] => vec![self.allocatable.clone()],
            ranges => ranges
                .iter()
                .map(|range| self.allocatable.intersection(&AddrSet::union([range.addresses()])))
                .collect(),
        };
    }

    /// The queue of its resting addresses.
    #[must_use]
    pub fn queue(&self) -> u8 {
        self.queue
    }

    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// All addresses of the ranges, also those of other nodes.
    #[must_use]
    pub fn pool(&self) -> &AddrSet {
        &self.pool
    }

    /// The addresses that this node may give to any owner.
    #[must_use]
    pub fn allocatable(&self) -> &AddrSet {
        &self.allocatable
    }

    /// The same per range, in the order of the ranges.
    #[must_use]
    pub fn allocatable_by_range(&self) -> &[AddrSet] {
        &self.allocatable_by_range
    }

    #[must_use]
    pub fn reserved(&self) -> &BTreeMap<Addr, String> {
        &self.reserved
    }

    #[must_use]
    pub fn excluded(&self) -> &AddrSet {
        &self.excluded
    }

    /// The range that contains an address, or any range of whose subnet it is, as for an address that was leased
    /// before the range was reduced.
    #[must_use]
    pub fn range_of(&self, address: Addr) -> Option<&Range> {
        let named = self.ranges.iter().find(|range| range.addresses().contains(address));
        named.or_else(|| self.ranges.iter().find(|range| range.subnet().contains(address)))
    }

    /// The address reserved for an owner.
    #[must_use]
    pub fn reservation_of(&self, owner: &Owner) -> Option<Addr> {
        let find = |name: &str| self.reserved_for.get(name).copied();
        find(owner.as_str()).or_else(|| find(owner.in_any_network()))
    }

    /// Checks that an address of the pool may be given to an owner that requests it.
    pub fn check_allowed(&self, address: Addr, owner: Option<&Owner>) -> Result<(), Refusal> {
        if self.gateways.contains(address) {
            return Err(Refusal::Gateway);
        }
        if let Some(name) = self.reserved.get(&address) {
            let own = owner.is_some_and(|owner| owner.is_named(name));
            return if own { Ok(()) } else { Err(Refusal::Reserved(name.clone())) };
        }
        if self.excluded.contains(address) {
            return Err(Refusal::Excluded);
        }
        if !self.node_part.contains(address) {
            let holder = self.other_nodes.iter().find(|(_, addresses)| addresses.contains(address));
            return Err(holder.map_or(Refusal::NoNode, |(node, _)| Refusal::OtherNode(node.clone())));
        }
        if !self.held.contains(address) {
            return Err(Refusal::BlockNotHeld);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RangeSpec;

    fn range(subnet: &str) -> Range {
        RangeSpec { subnet: subnet.to_owned(), ..RangeSpec::default() }.parse().unwrap()
    }

    fn limited(exclude: &[&str], reservations: &[(&str, &[&str])]) -> Result<RangeSet, RangeSetError> {
        let mut sets = [RangeSet::new(0, vec![range("10.0.0.0/29")])?];
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let restrictions = Restrictions {
            exclude: owned(exclude),
            reservations: reservations.iter().map(|(owner, a)| ((*owner).to_owned(), owned(a))).collect(),
        };
        RangeSet::restrict(&mut sets, &restrictions)?;
        let [set] = sets;
        Ok(set)
    }

    #[test]
    fn a_gateway_that_another_list_names_is_kept_back() {
        let one = |subnet: &str, gateway: &str| {
            let spec =
                RangeSpec { subnet: subnet.into(), gateway: Some(gateway.into()), ..RangeSpec::default() };
            spec.parse().unwrap()
        };
        let mut sets = [
            RangeSet::new(0, vec![one("10.5.0.0/24", "10.6.0.2")]).unwrap(),
            RangeSet::new(1, vec![one("fd00::/64", "fd00::1")]).unwrap(),
            RangeSet::new(2, vec![one("10.6.0.0/24", "10.5.0.3")]).unwrap(),
        ];
        RangeSet::restrict(&mut sets, &Restrictions::default()).unwrap();
        let at = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().unwrap());
        assert_eq!(sets[2].check_allowed(at("10.6.0.2"), None), Err(Refusal::Gateway));
        assert_eq!(sets[0].check_allowed(at("10.5.0.3"), None), Err(Refusal::Gateway));
        assert!(!sets[2].allocatable().contains(at("10.6.0.2")));
        assert!(sets[2].allocatable().contains(at("10.6.0.1")));
        let reserved = Restrictions {
            reservations: vec![("default/x".into(), vec!["10.6.0.2".into()])],
            ..Restrictions::default()
        };
        let error = RangeSet::restrict(&mut sets, &reserved).unwrap_err();
        assert!(matches!(error, RangeSetError::ReservedGateway { .. }), "{error}");
    }

    #[test]
    fn what_is_taken_is_not_open() {
        let set = limited(&["10.0.0.3", "10.0.0.0/31"], &[("default/web-0", &["10.0.0.5"])]).unwrap();
        assert_eq!(set.allocatable().to_string(), "10.0.0.2, 10.0.0.4, 10.0.0.6");
        let owner = Owner::pod("default", "web-0", "iot");
        let at = |text: &str| text.parse::<std::net::IpAddr>().unwrap().into();
        assert_eq!(set.reservation_of(&owner), Some(at("10.0.0.5")));
        assert_eq!(set.check_allowed(at("10.0.0.5"), Some(&owner)), Ok(()));
        assert_eq!(
            set.check_allowed(at("10.0.0.5"), None),
            Err(Refusal::Reserved("default/web-0".to_owned()))
        );
        assert_eq!(set.check_allowed(at("10.0.0.1"), None), Err(Refusal::Gateway));
        assert_eq!(set.check_allowed(at("10.0.0.3"), None), Err(Refusal::Excluded));
    }

    #[test]
    fn every_mistake_has_its_own_words() {
        for (exclude, reservations, part) in [
            (vec!["10.0.0"], vec![], "is neither an address"),
            (vec!["10.0.0.9-10.0.0.8"], vec![], "10.0.0.9-10.0.0.8"),
            (vec!["10.0.1.1"], vec![], "outside all subnets"),
            (vec!["10.0.0.1/29"], vec![], "10.0.0.1/29"),
            (vec![], vec![("a/b", vec!["10.0.1.1"])], "is outside the pool's ranges"),
            (vec![], vec![("a/b", vec!["x"])], "has no valid address"),
            (vec![], vec![("a/b", vec!["10.0.0.1"])], "is the gateway"),
            (vec![], vec![("a/b", vec!["10.0.0.2"]), ("c/d", vec!["10.0.0.2"])], "reserved twice"),
            (vec![], vec![("a/b", vec!["10.0.0.2", "10.0.0.3"])], "has two reservations"),
        ] {
            let reservations: Vec<_> = reservations.iter().map(|(o, a)| (*o, a.as_slice())).collect();
            let error = limited(&exclude, &reservations).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let error = RangeSet::new(0, vec![range("10.0.0.0/24"), range("fd00::/64")]).unwrap_err().to_string();
        assert!(error.contains("two families"), "{error}");
        let error =
            RangeSet::new(0, vec![range("10.0.0.0/24"), range("10.0.0.128/25")]).unwrap_err().to_string();
        assert!(error.contains("overlap at 10.0.0.129"), "{error}");
        assert_eq!(RangeSet::new(0, vec![]), Err(RangeSetError::Empty));
    }
}
