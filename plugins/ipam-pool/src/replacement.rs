//! Whether the cluster's pool may take the place of this node's file of the same name: it says the same.

use lan::pool::parse_part;
use net_types::{Addr, AddrRange, AddrSet};
use node::{ClusterPool, Paths};

use crate::{AllowedNamespaces, PoolFile, PoolFileError, Range, RangeSet};

/// A file beside the cluster's pool of its name.
#[derive(Debug, Default)]
pub(crate) struct FileBeside {
    /// What this node hands out by it.
    pub(crate) addresses: AddrSet,
    /// Its routing domain; `None`: it cannot be read.
    pub(crate) domain: Option<String>,
    /// Why the pool does not say the same, a sentence; `None` as well where there is no pool of the name.
    pub(crate) differs: Option<String>,
}

/// What a file says of addresses, on this node.
struct Part {
    /// What this node hands out, reserved or not.
    handed_out: AddrSet,
    ranges: Vec<Range>,
}

impl FileBeside {
    /// Reads it; `None`: there is no file of this name.
    pub(crate) fn read(paths: &Paths, name: &str, node: Option<&str>) -> Option<Self> {
        let of_error = |error: PoolFileError| Self {
            differs: Some(format!("its file cannot be used: {}", cni::chain(&error))),
            ..Self::default()
        };
        let folder = paths.pools();
        if PoolFile::find_duplicates(&folder).is_ok_and(|twice| twice.iter().any(|twice| twice == name)) {
            return Some(of_error(PoolFileError::Twice(name.to_owned())));
        }
        let file = match PoolFile::load(&folder, name) {
            Err(PoolFileError::Unknown { .. }) => return None,
            Err(error) => return Some(of_error(error)),
            Ok(file) => file,
        };
        let addresses = match Part::of(&file, node) {
            Ok(part) => part.handed_out,
            Err(error) => return Some(of_error(error)),
        };
        let differs = match PoolFile::object(paths, name) {
            Ok(None) => None,
            Ok(Some(object)) => difference(&file, &object, node)
                .unwrap_or_else(|error| Some(format!("the LANPool cannot be used: {}", cni::chain(&error)))),
            Err(error) => Some(cni::chain(&error)),
        };
        Some(Self { addresses, domain: Some(file.routing_domain.clone()), differs })
    }
}

impl Part {
    fn of(pool: &PoolFile, node: Option<&str>) -> Result<Self, PoolFileError> {
        let sets = match pool.sets_for_node(node, None) {
            // An inventory, and a node without a part, hand out nothing.
            Err(PoolFileError::Inventory(_) | PoolFileError::NoPart { .. }) => Vec::new(),
            sets => sets?,
        };
        let handed_out = AddrSet::union(sets.iter().flat_map(|set| {
            let reserved =
                set.reserved().keys().copied().filter(|address| set.node_part().contains(*address));
            let reserved: Vec<AddrRange> = reserved.map(AddrRange::single).collect();
            set.allocatable().iter().chain(reserved).collect::<Vec<_>>()
        }));
        let ranges = sets.iter().flat_map(RangeSet::ranges).cloned().collect();
        Ok(Self { handed_out, ranges })
    }
}

/// What the object says otherwise than the file, as far as pods on this node notice; `None`: nothing.
///
/// Whether other nodes hand out the same (`scope: host`), the leader sees, who knows all files. How long addresses rest, and which is next, nobody notices: that is the object's from then on.
///
/// # Errors
/// One of them is invalid.
fn difference(
    file: &PoolFile,
    object: &ClusterPool,
    node: Option<&str>,
) -> Result<Option<String>, PoolFileError> {
    let pool = PoolFile::of_object(object)?;
    let (mine, all) = (Part::of(file, node)?, Part::of(&pool, node)?);
    Ok(of_settings(file, &pool)
        .or_else(|| of_reservations(file, object))
        .or_else(|| of_addresses(file, &mine, &all))
        .or_else(|| of_gateways(&mine, &all)))
}

fn of_settings(file: &PoolFile, pool: &PoolFile) -> Option<String> {
    let sticky = |pool: &PoolFile| pool.sticky.map_or_else(|| "Auto".to_owned(), |sticky| sticky.to_string());
    let told = match () {
        () if file.inventory != pool.inventory => "one of the two is an inventory".to_owned(),
        () if file.routing_domain != pool.routing_domain => {
            format!(
                "routingDomain is {:?} in the file, and {:?} in the LANPool",
                file.routing_domain, pool.routing_domain
            )
        }
        () if file.sticky != pool.sticky => {
            format!("sticky is {} in the file, and {} in the LANPool", sticky(file), sticky(pool))
        }
        () if namespaces(&file.allowed_namespaces) != namespaces(&pool.allowed_namespaces) => {
            "they give addresses to different namespaces (allowedNamespaces)".to_owned()
        }
        () => return None,
    };
    Some(told)
}

/// Their names, in order.
fn namespaces(allowed: &AllowedNamespaces) -> Option<Vec<String>> {
    let mut names = match allowed {
        AllowedNamespaces::All => return None,
        AllowedNamespaces::Listed(names) => names.clone(),
        AllowedNamespaces::Selected { names, .. } => names.iter().cloned().collect(),
        // As many as a name that no namespace has.
        AllowedNamespaces::Unknown { .. } => vec![String::new()],
    };
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// What the file reserves is to be reserved by objects.
fn of_reservations(file: &PoolFile, object: &ClusterPool) -> Option<String> {
    let all = file.restrictions.reservations.iter();
    let mut all = all.flat_map(|(owner, addresses)| addresses.iter().map(move |address| (owner, address)));
    all.find_map(|(owner, text)| {
        let address = text.parse::<std::net::IpAddr>().map(Addr::from).ok()?;
        let name = if owner.starts_with("vm:") { owner.clone() } else { format!("pod:{owner}") };
        let has = object
            .reserved
            .iter()
            .any(|one| one.address == Some(address) && one.owner.as_ref() == Some(&name));
        (!has).then(|| format!("the file reserves {address} for {owner}, and no LANReservation does"))
    })
}

fn of_addresses(file: &PoolFile, mine: &Part, all: &Part) -> Option<String> {
    let more = mine.handed_out.without(&all.handed_out);
    if !more.is_empty() {
        return Some(format!("the file hands out {}, and the LANPool does not", first_of(&more)));
    }
    let kept = file.restrictions.exclude.iter().filter_map(|text| parse_part(text).ok());
    let gateways = file.ranges.iter().filter_map(Range::gateway).map(AddrRange::single);
    let less = AddrSet::union(kept.chain(gateways)).intersection(&all.handed_out);
    (!less.is_empty()).then(|| {
        format!("the file keeps {} back (exclude, gateway), and the LANPool hands that out", first_of(&less))
    })
}

/// What a pod gets beside its address: the length of the subnet, and the gateway.
fn of_gateways(mine: &Part, all: &Part) -> Option<String> {
    let said =
        |gateway: Option<Addr>| gateway.map_or_else(|| "none".to_owned(), |gateway| gateway.to_string());
    for range in &mine.ranges {
        let own = AddrSet::union([range.addresses()]).intersection(&mine.handed_out);
        for other in
            all.ranges.iter().filter(|other| own.shared_with(&AddrSet::union([other.addresses()])).is_some())
        {
            if (range.subnet(), range.prefix()) != (other.subnet(), other.prefix()) {
                return Some(format!(
                    "the subnet of {} has /{} in the file, and /{} in the LANPool",
                    first_of(&own),
                    range.prefix(),
                    other.prefix()
                ));
            }
            if range.gateway() != other.gateway() {
                return Some(format!(
                    "the gateway of {} is {} in the file, and {} in the LANPool",
                    first_of(&own),
                    said(range.gateway()),
                    said(other.gateway())
                ));
            }
        }
    }
    None
}

/// The first range, and whether there are more.
fn first_of(addresses: &AddrSet) -> String {
    let mut ranges = addresses.iter();
    let first = ranges.next().map(|range| range.to_string()).unwrap_or_default();
    match ranges.count() {
        0 => first,
        more => format!("{first} and {more} more ranges"),
    }
}

#[cfg(test)]
mod tests {
    use node::Reserved;
    use serde_json::{Value, json};

    use super::*;

    fn file(spec: &str) -> PoolFile {
        let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        let text = format!(
            "apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata:\n  name: office\nspec:\n{spec}"
        );
        PoolFile::parse("office", &text).unwrap()
    }

    fn object(spec: Value) -> ClusterPool {
        ClusterPool { name: "office".to_owned(), spec, ..ClusterPool::default() }
    }

    fn said(spec: &str, object: &ClusterPool) -> Option<String> {
        difference(&file(spec), object, Some("worker1")).unwrap()
    }

    #[test]
    fn a_file_that_has_a_part_of_the_same_says_the_same() {
        let whole = object(json!({ "subnets": ["10.0.0.0/24"] }));
        for spec in [
            "ranges: [{subnet: 10.0.0.0/24}]",
            "ranges: [{subnet: 10.0.0.0/24, rangeStart: 10.0.0.20, rangeEnd: 10.0.0.99}]\nscope: host",
            "ranges: [{subnet: 10.0.0.0/24}]\nnodes: {worker1: [10.0.0.0/26], worker2: [10.0.0.64/26]}",
            "ranges: [{subnet: 10.0.0.0/24}]\nnodes: {worker2: [10.0.0.64/26]}",
            "ranges: [{subnet: 10.0.0.0/24}]\ncooldown: 5m\norder: lowest\nquarantine: 1h",
        ] {
            assert_eq!(said(spec, &whole), None, "{spec}");
        }
        let listed =
            object(json!({ "subnets": ["10.0.0.0/24"], "allowedNamespaces": ["b", "a"], "sticky": "VM",
            "exclude": ["10.0.0.9"], "routingDomain": "lab" }));
        let spec = "ranges: [{subnet: 10.0.0.0/24}]\nallowedNamespaces: [a, b]\nsticky: vm\nexclude: [10.0.0.9]\nroutingDomain: lab";
        assert_eq!(said(spec, &listed), None);
        let parts = object(json!({ "subnets": ["10.0.0.0/24"], "nodes": { "worker1": ["10.0.0.0/26"] } }));
        assert_eq!(said("ranges: [{subnet: 10.0.0.0/24, rangeEnd: 10.0.0.9}]", &parts), None);
    }

    #[test]
    fn what_differs_is_said() {
        let whole = object(json!({ "subnets": ["10.0.0.0/24"], "exclude": ["10.0.0.50-10.0.0.59"] }));
        let parts = object(json!({ "subnets": ["10.0.0.0/24"], "nodes": { "worker2": ["10.0.0.0/26"] } }));
        let small = "ranges: [{subnet: 10.0.0.0/24, rangeEnd: 10.0.0.20}]";
        for (spec, object, words) in [
            ("ranges: [{subnet: 10.0.0.0/24}]", &whole, "hands out 10.0.0.50-10.0.0.59"),
            (
                "ranges: [{subnet: 10.0.0.0/24, rangeStart: 10.0.0.9, rangeEnd: 10.0.0.20, gateway: 10.0.0.254}]",
                &whole,
                "keeps 10.0.0.254 back",
            ),
            (
                "ranges: [{subnet: 10.0.0.0/24, rangeEnd: 10.0.0.20, gateway: none}]",
                &whole,
                "hands out 10.0.0.1,",
            ),
            (
                "ranges: [{subnet: 10.0.0.0/24, rangeStart: 10.0.0.9, rangeEnd: 10.0.0.20, gateway: none}]",
                &whole,
                "the gateway of 10.0.0.9-10.0.0.20 is none in the file, and 10.0.0.1",
            ),
            ("ranges: [{subnet: 10.0.0.0/25, rangeEnd: 10.0.0.20}]", &whole, "/25 in the file, and /24"),
            (&format!("{small}\nexclude: [10.0.0.200]"), &whole, "keeps 10.0.0.200 back"),
            (&format!("{small}\nsticky: vm"), &whole, "sticky is vm in the file, and Auto"),
            (&format!("{small}\nallowedNamespaces: [a]"), &whole, "allowedNamespaces"),
            (&format!("{small}\nroutingDomain: lab"), &whole, "routingDomain is \"lab\""),
            (&format!("{small}\ninventory: true"), &whole, "inventory"),
            (
                &format!("{small}\nreservations: {{default/web-0: 10.0.0.9}}"),
                &whole,
                "reserves 10.0.0.9 for default/web-0",
            ),
            (small, &parts, "hands out 10.0.0.2-10.0.0.20, and"),
        ] {
            let said = said(spec, object).unwrap_or_default();
            assert!(said.contains(words), "{spec}: {said}");
        }
    }

    #[test]
    fn what_is_reserved_in_the_file_is_to_be_reserved_by_an_object() {
        let spec =
            "ranges: [{subnet: 10.0.0.0/24}]\nreservations: {default/web-0: 10.0.0.9, 'vm:a/b': 10.0.0.8}";
        let reserved = |owner: &str, address: &str| Reserved {
            owner: Some(owner.to_owned()),
            address: Some(address.parse().unwrap()),
        };
        let mut pool = object(json!({ "subnets": ["10.0.0.0/24"] }));
        pool.reserved = vec![reserved("pod:default/web-0", "10.0.0.9")];
        assert!(said(spec, &pool).unwrap().contains("10.0.0.8 for vm:a/b"));
        pool.reserved.push(reserved("vm:a/b", "10.0.0.8"));
        assert_eq!(said(spec, &pool), None);
    }
}
