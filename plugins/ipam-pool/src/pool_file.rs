//! Pool files: `/var/lib/k8slan/pools.d/<name>.yaml`, or `.yml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use net_types::Timespan;
use node::SafeDir;

use crate::options::Sticky;
use crate::{
    AddrSet, AllowedNamespaces, Family, Order, PoolFileError, Range, RangeSet, RangeSetError, Restrictions,
};

pub(crate) const SUFFIX: &str = ".yaml";
pub(crate) const SHORT_SUFFIX: &str = ".yml";

/// The valid contents of a pool's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFile {
    /// The file's name without its suffix.
    pub name: String,
    pub(crate) ranges: Vec<Range>,
    /// Each node's part; `None`: the pool is not divided.
    pub(crate) nodes: Option<BTreeMap<String, AddrSet>>,
    /// Whether every host has all of the pool for itself.
    pub host_scope: bool,
    /// Whether it is an object of the cluster, and no file.
    pub of_cluster: bool,
    /// Whether its file has the kind `IPPool`, which `LANPool` took the place of.
    pub is_old_kind: bool,
    /// Whether it hands out addresses. One of the cluster that was never accepted does not.
    pub in_charge: bool,
    /// Pools of different domains may overlap.
    pub routing_domain: String,
    /// Whether the pool only documents addresses and hands out none.
    pub inventory: bool,
    pub restrictions: Restrictions,
    pub sticky: Option<Sticky>,
    /// How long a released address rests.
    pub cooldown: Timespan,
    pub order: Order,
    /// How long an address that another station answered for is left alone.
    pub quarantine: Timespan,
    /// The namespaces whose pods may have addresses.
    pub allowed_namespaces: AllowedNamespaces,
    /// The owners for whom the cluster reserves addresses of it, without a network.
    pub reserved: BTreeSet<String>,
}

impl PoolFile {
    /// Checks a pool's name, which becomes part of a path.
    ///
    /// # Errors
    /// The name is invalid.
    pub fn check_name(name: &str) -> Result<(), PoolFileError> {
        let bytes = name.as_bytes();
        let starts = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
        let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if starts && bytes.iter().all(good) && bytes.len() <= 200 {
            Ok(())
        } else {
            Err(PoolFileError::Name(name.to_owned()))
        }
    }

    /// Reads and parses the file of one pool.
    ///
    /// # Errors
    /// It does not exist, others than root may write it, or it is invalid.
    pub fn load(folder: &Path, name: &str) -> Result<Self, PoolFileError> {
        Self::check_name(name)?;
        let file = format!("{name}{SUFFIX}");
        let failed = |error| PoolFileError::Read(name.to_owned(), error);
        let unknown = || PoolFileError::Unknown { name: name.to_owned(), path: folder.join(&file) };
        let dir = SafeDir::open(folder).map_err(failed)?.ok_or_else(unknown)?;
        let bytes = match dir.read(&file).map_err(failed)? {
            Some(bytes) => bytes,
            None => dir.read(&format!("{name}{SHORT_SUFFIX}")).map_err(failed)?.ok_or_else(unknown)?,
        };
        let text = String::from_utf8(bytes)
            .map_err(|e| PoolFileError::Syntax { name: name.to_owned(), message: e.to_string() })?;
        Self::parse(name, &text)
    }

    /// One set for each family that the pool has, undivided.
    ///
    /// # Errors
    /// The ranges, exclusions or reservations are invalid.
    pub fn all_sets(&self) -> Result<Vec<RangeSet>, PoolFileError> {
        let set_error = |error: RangeSetError| PoolFileError::RangeSet(self.name.clone(), error.into());
        let mut sets = Vec::new();
        for family in Family::BOTH {
            let ranges: Vec<_> =
                self.ranges.iter().filter(|range| range.addresses().family() == family).cloned().collect();
            if !ranges.is_empty() {
                // A family's queue has the same number, however the file changes.
                sets.push(RangeSet::new(family.tag(), ranges).map_err(set_error)?);
            }
        }
        if sets.is_empty() {
            return Err(set_error(RangeSetError::Empty));
        }
        RangeSet::restrict(&mut sets, &self.restrictions).map_err(set_error)?;
        Ok(sets)
    }

    /// The sets, limited to the part that this node hands out.
    ///
    /// `spans_nodes`: why the network spans nodes, if it does.
    ///
    /// # Errors
    /// The pool is an inventory, this node has no part, or the pool does not say how nodes share it.
    pub fn sets_for_node(
        &self,
        node: Option<&str>,
        spans_nodes: Option<&str>,
    ) -> Result<Vec<RangeSet>, PoolFileError> {
        if self.inventory {
            return Err(PoolFileError::Inventory(self.name.clone()));
        }
        let Some(nodes) = &self.nodes else {
            return match spans_nodes {
                Some(network) if !self.host_scope => {
                    Err(PoolFileError::Spanning { pool: self.name.clone(), network: network.to_owned() })
                }
                _ => self.all_sets(),
            };
        };
        let name = node.ok_or_else(|| PoolFileError::NoNodeName(self.name.clone()))?;
        let part = nodes
            .get(name)
            .filter(|part| !part.is_empty())
            .ok_or_else(|| PoolFileError::NoPart { pool: self.name.clone(), node: name.to_owned() })?;
        let mut sets = self.sets_as_divided(node)?;
        // Without a part of a family, the node gives no address of that family.
        sets.retain(|set| set.pool().shared_with(part).is_some());
        Ok(sets)
    }

    /// All sets of the pool, with what each node hands out of them; a node that is not listed, or has no name, hands out
    /// nothing of a pool that is divided.
    ///
    /// # Errors
    /// As [`Self::sets_for_node`].
    pub fn sets_as_divided(&self, node: Option<&str>) -> Result<Vec<RangeSet>, PoolFileError> {
        let mut sets = self.all_sets()?;
        let Some(nodes) = &self.nodes else { return Ok(sets) };
        let part = node.and_then(|node| nodes.get(node)).cloned().unwrap_or_default();
        let others = nodes.iter().filter(|(other, _)| Some(other.as_str()) != node);
        let others: Vec<_> =
            others.map(|(other, node_part)| (format!("node {other}"), node_part.clone())).collect();
        for set in &mut sets {
            set.set_node_part(&part, others.clone());
        }
        Ok(sets)
    }

    /// Whether the file says how nodes share the pool.
    #[must_use]
    pub fn is_shared_explicitly(&self) -> bool {
        self.host_scope || self.nodes.is_some()
    }

    /// Whether the file gives each node a part.
    #[must_use]
    pub fn is_divided(&self) -> bool {
        self.nodes.is_some()
    }

    /// All addresses of the pool's ranges.
    #[must_use]
    pub fn addresses(&self) -> AddrSet {
        AddrSet::union(self.ranges.iter().map(Range::addresses))
    }

    /// The nodes with their parts.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &AddrSet)> {
        self.nodes.iter().flatten().map(|(node, node_part)| (node.as_str(), node_part))
    }

    /// Checks that two pools may be used on the same network.
    ///
    /// # Errors
    /// They overlap in the same routing domain, and neither is an inventory that contains the other.
    pub fn check_overlap(&self, other: &Self) -> Result<(), PoolFileError> {
        if self.routing_domain != other.routing_domain || !self.in_charge || !other.in_charge {
            return Ok(());
        }
        let (own, others) = (self.addresses(), other.addresses());
        let Some(at) = own.shared_with(&others) else { return Ok(()) };
        let holds =
            |large: &Self, all: &AddrSet, part: &AddrSet| large.inventory && part.without(all).is_empty();
        if holds(self, &own, &others) || holds(other, &others, &own) {
            return Ok(());
        }
        let (first, second) = if self.name < other.name { (self, other) } else { (other, self) };
        Err(PoolFileError::Overlap { first: first.name.clone(), second: second.name.clone(), at })
    }
}

#[cfg(test)]
mod tests {
    use cni::chain;

    use super::*;
    use crate::pool_file_error::{API_VERSION, KIND, OLD_KIND};

    fn file_of(kind: &str, spec: &str) -> String {
        let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        format!("apiVersion: {API_VERSION}\nkind: {kind}\nmetadata:\n  name: iot\nspec:\n{spec}")
    }

    fn file(spec: &str) -> String {
        file_of(KIND, spec)
    }

    fn parsed(spec: &str) -> Result<PoolFile, PoolFileError> {
        let (new, old) = [KIND, OLD_KIND].map(|kind| PoolFile::parse("iot", &file_of(kind, spec))).into();
        if let (Ok(new), Ok(old)) = (&new, &old) {
            // Where neither says how long, an object's addresses rest for a minute.
            let old = PoolFile { is_old_kind: false, cooldown: new.cooldown, ..old.clone() };
            assert_eq!(*new, old, "{spec}");
        }
        new
    }

    #[test]
    fn each_node_gets_its_part() {
        let pool = parsed(
            "ranges:\n- subnet: 10.0.20.0/24\n- subnet: fd00:20::/64\nnodes:\n  worker1: [10.0.20.0/26, 'fd00:20::1:0/112']\n  \
             worker2: [10.0.20.64-10.0.20.127]\nreservations:\n  default/web-0: 10.0.20.70\n",
        )
        .unwrap();
        let first = pool.sets_for_node(Some("worker1"), Some("macvtap")).unwrap();
        assert_eq!(first[0].allocatable().to_string(), "10.0.20.2-10.0.20.63");
        assert_eq!(first[1].allocatable().to_string(), "fd00:20::1:0-fd00:20::1:ffff");
        let second = pool.sets_for_node(Some("worker2"), None).unwrap();
        assert_eq!(second.len(), 1, "worker2 has no part of IPv6");
        assert_eq!(second[0].allocatable().to_string(), "10.0.20.64-10.0.20.69, 10.0.20.71-10.0.20.127");
        let error = pool.sets_for_node(Some("worker3"), None).unwrap_err().to_string();
        assert!(error.contains("no part for node \"worker3\""), "{error}");
        assert!(matches!(pool.sets_for_node(None, None), Err(PoolFileError::NoNodeName(_))));
    }

    #[test]
    fn a_network_that_spans_nodes_needs_parts_or_the_word() {
        let pool = parsed("ranges: [{subnet: 10.0.20.0/24}]").unwrap();
        assert!(pool.sets_for_node(None, None).is_ok());
        let error = pool.sets_for_node(None, Some("macvtap")).unwrap_err().to_string();
        assert!(error.contains("scope: host") && error.contains("nodes:"), "{error}");
        let pool = parsed("ranges: [{subnet: 10.0.20.0/24}]\nscope: host").unwrap();
        assert!(pool.sets_for_node(None, Some("macvtap")).is_ok());
    }

    #[test]
    fn what_stands_there_empty_is_not_taken_for_absent() {
        let subnet = "ranges: [{subnet: 10.0.20.0/24}]\n";
        for key in [
            "nodes",
            "scope",
            "routingDomain",
            "inventory",
            "exclude",
            "reservations",
            "sticky",
            "allowedNamespaces",
            "quarantine",
            "cooldown",
            "order",
        ] {
            for nothing in ["", " ~", " null", " # later"] {
                let error = chain(&parsed(&format!("{subnet}{key}:{nothing}\n")).unwrap_err());
                assert!(
                    error.contains(&format!("{key} stands there without a value")),
                    "{key}:{nothing}: {error}"
                );
            }
        }
        for (spec, key) in [
            ("ranges: [{subnet: 10.0.20.0/24, rangeStart: }]", "ranges.rangeStart"),
            ("ranges: [{subnet: 10.0.20.0/24, gateway: ~}]", "ranges.gateway"),
            ("ranges: [{subnet: 10.0.20.0/24}]\nnodes: {worker1: ~}", "nodes.worker1"),
        ] {
            let error = chain(&parsed(spec).unwrap_err());
            assert!(error.contains(&format!("{key} stands there")), "{spec}: {error}");
        }
        let error = parsed(&format!("{subnet}allowedNamespaces:")).unwrap_err().to_string();
        assert!(error.contains("leave it out for all namespaces, write [] for none"), "{error}");
        // Empty is none: no namespace, and no node.
        assert_eq!(
            parsed(&format!("{subnet}allowedNamespaces: []")).unwrap().allowed_namespaces,
            AllowedNamespaces::Listed(Vec::new())
        );
        for nodes in ["nodes: {}", "nodes: {worker1: []}", "nodes: {worker2: [10.0.20.9]}"] {
            let pool = parsed(&format!("{subnet}{nodes}")).unwrap();
            assert!(pool.is_divided() && pool.is_shared_explicitly(), "{nodes}");
            for network in [None, Some("macvtap")] {
                let answer = pool.sets_for_node(Some("worker1"), network);
                assert!(matches!(answer, Err(PoolFileError::NoPart { .. })), "{nodes}: {answer:?}");
            }
        }
        for good in ["exclude: []", "reservations: {}", "sticky: None", "quarantine: 0s", "routingDomain: ''"]
        {
            parsed(&format!("{subnet}{good}")).unwrap();
        }
    }

    #[test]
    fn inventories_hold_pools() {
        let of = |name: &str, spec: &str| {
            PoolFile::parse(name, &file(spec).replace("name: iot", &format!("name: {name}"))).unwrap()
        };
        let all = of("all", "ranges: [{subnet: 192.168.6.0/24, gateway: none}]\ninventory: true");
        let lan = of("lan", "ranges: [{subnet: 192.168.6.0/24, rangeEnd: 192.168.6.127, gateway: none}]");
        let online =
            of("online", "ranges: [{subnet: 192.168.6.0/24, rangeStart: 192.168.6.128, gateway: none}]");
        all.check_overlap(&lan).unwrap();
        lan.check_overlap(&all).unwrap();
        lan.check_overlap(&online).unwrap();
        assert!(matches!(all.sets_for_node(None, None), Err(PoolFileError::Inventory(_))));
        let wide = of("wide", "ranges: [{subnet: 192.168.0.0/16, gateway: none}]");
        let error = lan.check_overlap(&wide).unwrap_err().to_string();
        assert!(error.contains("\"lan\" and \"wide\" overlap at 192.168.6.1"), "{error}");
        let other = of("other", "ranges: [{subnet: 192.168.6.0/24}]\nroutingDomain: lab");
        lan.check_overlap(&other).unwrap();
        // An inventory that holds only a part of a pool is a mistake like any other.
        assert!(all.check_overlap(&wide).is_err());
    }

    #[test]
    fn every_mistake_has_its_own_words() {
        let subnet = "ranges: [{subnet: 10.0.20.0/24}]\n";
        for (spec, part) in [
            ("ranges: []".to_owned(), " ranges"),
            (format!("{subnet}cooldwn: 5m"), "cooldwn"),
            ("ranges: [{subnet: 10.0.20.0/24, rangeStrt: 10.0.20.5}]".to_owned(), "rangeStrt"),
            (format!("{subnet}cooldown: soon"), "not a duration"),
            (format!("{subnet}sticky: yes please"), "unknown "),
            (format!("{subnet}order: random"), "unknown "),
            (format!("{subnet}scope: cluster"), "unknown scope"),
            (format!("{subnet}scope: host\nnodes: {{a: [10.0.20.0/25]}}"), "both nodes and scope"),
            (format!("{subnet}nodes: {{a: [10.0.21.0/25]}}"), "outside the pool's ranges"),
            (format!("{subnet}nodes: {{a: [10.0.20.5/25]}}"), "host bits"),
            (format!("{subnet}nodes: {{a: [here]}}"), "is not an address"),
            (
                format!("{subnet}nodes: {{a: [10.0.20.0/25], b: [10.0.20.100-10.0.20.200]}}"),
                "overlaps with a part of node a",
            ),
            (format!("{subnet}exclude: [10.0.21.1]"), "outside all subnets"),
            (format!("{subnet}reservations: {{a/b: 10.0.21.1}}"), "outside the pool's ranges"),
            (format!("{subnet}reservations: {{a/b: 10.0.20.9, c/d: 10.0.20.9}}"), "reserved twice"),
        ] {
            for kind in [KIND, OLD_KIND] {
                let error = PoolFile::parse("iot", &file_of(kind, &spec)).unwrap_err();
                assert!(chain(&error).contains(part), "{kind} {spec}: {}", chain(&error));
            }
        }
        let error = PoolFile::parse("lan", &file(subnet)).unwrap_err().to_string();
        assert!(error.contains("\"lan.yaml\" has metadata.name \"iot\""), "{error}");
        let error = PoolFile::parse("iot", &file(subnet).replace(KIND, "LAN")).unwrap_err().to_string();
        assert!(error.contains("is LAN in"), "{error}");
        for bad in ["a/b", "..", "", ".a", "a b", &"a".repeat(201)] {
            assert!(
                matches!(PoolFile::load(Path::new("/nowhere"), bad), Err(PoolFileError::Name(_))),
                "{bad}"
            );
        }
        assert!(matches!(PoolFile::load(Path::new("/nowhere"), "x"), Err(PoolFileError::Unknown { .. })));
    }

    #[test]
    fn an_object_is_also_a_file() {
        let pool = parsed("subnets: [10.0.20.0/24]\nsticky: VM\norder: Lowest\nblockSize: 16").unwrap();
        assert_eq!(pool.all_sets().unwrap()[0].allocatable().to_string(), "10.0.20.2-10.0.20.254");
        assert_eq!(
            (pool.cooldown.millis(), pool.sticky, pool.is_old_kind),
            (60_000, Some(Sticky::Vm), false)
        );
        let old = PoolFile::parse("iot", &file_of(OLD_KIND, "ranges: [{subnet: 10.0.20.0/24}]\nsticky: vm"))
            .unwrap();
        assert_eq!((old.cooldown.millis(), old.sticky, old.is_old_kind), (0, Some(Sticky::Vm), true));
        for (spec, part) in [
            ("subnets: [10.0.20.0/24]\nnamespaceSelector: {a: b}", "write allowedNamespaces"),
            ("subnets: [10.0.20.0/24]\nnodeSelector: {a: b}", "write nodes"),
            ("subnets: [10.0.20.0/24]\nsticky: vm", "sticky: unknown variant `vm`"),
            ("sticky: VM", "subnets"),
        ] {
            let error = chain(&parsed(spec).unwrap_err());
            assert!(error.contains(part), "{spec}: {error}");
        }
    }
}
