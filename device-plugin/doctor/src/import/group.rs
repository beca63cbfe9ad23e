//! Definitions whose pods get addresses of the same ranges: together they are one pool.

use std::collections::{BTreeMap, BTreeSet};

use lan::pool::PoolRange;
use net_types::{AddrRange, AddrSet};
use node::is_kubernetes_name;

use super::old::{Definition, OldRange};

/// The longest name of a pool.
pub(super) const LONGEST_NAME: usize = 63;

/// Definitions of one domain whose ranges overlap.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group<'a> {
    /// The name of the pool, unless somebody says another one.
    pub(super) name: String,
    pub(super) definitions: Vec<&'a Definition>,
}

impl Group<'_> {
    pub(super) fn domain(&self) -> &str {
        self.definitions.first().map_or("", |definition| &definition.domain)
    }

    pub(super) fn networks(&self) -> BTreeSet<String> {
        self.definitions.iter().flat_map(|definition| definition.networks.iter().cloned()).collect()
    }

    fn ranges(&self) -> impl Iterator<Item = &OldRange> {
        self.definitions.iter().flat_map(|definition| &definition.ranges)
    }

    /// The addresses that the plugin gives pods, or excludes.
    pub(super) fn addresses(&self) -> AddrSet {
        AddrSet::union(self.ranges().map(|range| range.window))
    }

    /// The subnets; of two that overlap both.
    pub(super) fn subnets(&self) -> Vec<AddrRange> {
        self.ranges().map(|range| range.subnet).collect()
    }

    /// What the definitions exclude, each part within one subnet.
    pub(super) fn exclude(&self) -> AddrSet {
        AddrSet::union(self.ranges().flat_map(|range| range.exclude.iter().copied()))
    }

    /// The ranges of the pool, and what the definitions do not agree about. Of two subnets that overlap the larger one has the
    /// addresses of both.
    pub(super) fn pool_ranges(&self) -> (Vec<PoolRange>, Vec<String>) {
        let mut by_subnet: BTreeMap<(u8, AddrRange), Vec<&OldRange>> = BTreeMap::new();
        for range in self.ranges() {
            by_subnet.entry((range.length, range.subnet)).or_default().push(range);
        }
        let (mut ranges, mut notes) = (Vec::new(), Vec::new());
        let mut taken = AddrSet::default();
        for ((length, subnet), of_subnet) in by_subnet {
            let window = AddrSet::union(of_subnet.iter().map(|range| range.window));
            if let Some(at) = taken.shared_with(&window) {
                notes.push(format!(
                    "the definitions have subnets of two lengths, which overlap at {at}: pods get the length of the larger one"
                ));
            }
            let gateways: BTreeSet<_> = of_subnet.iter().filter_map(|range| range.gateway).collect();
            let gateway = gateways.first().copied();
            if gateways.len() > 1
                || (gateway.is_some() && of_subnet.iter().any(|range| range.gateway.is_none()))
            {
                let name = gateway.map_or_else(String::new, |gateway| gateway.to_string());
                notes.push(format!(
                    "the definitions do not agree on the gateway of {}/{length}; the pool's is {name}",
                    subnet.first()
                ));
            }
            for part in window.without(&taken).iter() {
                ranges.push(pool_range(subnet, length, part, gateway.map(|gateway| gateway.to_string())));
            }
            taken = AddrSet::union(taken.iter().chain(window.iter()));
        }
        (ranges, notes)
    }
}

fn pool_range(subnet: AddrRange, length: u8, part: AddrRange, gateway: Option<String>) -> PoolRange {
    let mut range = PoolRange {
        subnet: format!("{}/{length}", subnet.first()),
        gateway: Some(gateway.unwrap_or_else(|| "none".to_owned())),
        ..PoolRange::default()
    };
    // What the pool would take by itself is not written.
    let whole = lan::pool::Range::parse(&range).map(|whole| whole.addresses()).ok();
    if whole.is_none_or(|whole| whole.first() != part.first()) {
        range.range_start = Some(part.first().to_string());
    }
    if whole.is_none_or(|whole| whole.last() != part.last()) {
        range.range_end = Some(part.last().to_string());
    }
    range
}

/// Definitions by the addresses that they share, each group with a name of its own.
pub(super) fn groups(definitions: &[Definition]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for definition in definitions {
        let window = AddrSet::union(definition.ranges.iter().map(|range| range.window));
        let (mut same, others): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| {
            group.domain() == definition.domain && group.addresses().shared_with(&window).is_some()
        });
        let mut members: Vec<&Definition> = same.drain(..).flat_map(|group| group.definitions).collect();
        members.push(definition);
        members.sort_by(|a, b| a.name.cmp(&b.name));
        groups = others;
        groups.push(Group { name: String::new(), definitions: members });
    }
    groups
        .sort_by(|a, b| a.definitions.first().map(|d| &d.name).cmp(&b.definitions.first().map(|d| &d.name)));
    name(&mut groups);
    groups
}

/// A pool is called as its only definition, or the domain of several, or else the first of them; with the namespace where two
/// would have one name.
fn name(groups: &mut [Group<'_>]) {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for group in groups {
        let first = group.definitions.first().map_or("", |definition| &definition.name);
        let (namespace, short) = first.split_once('/').unwrap_or(("", first));
        let shared = Some(group.domain()).filter(|domain| !domain.is_empty() && group.definitions.len() > 1);
        let candidates =
            shared.map(str::to_owned).into_iter().chain([short.to_owned(), format!("{namespace}-{short}")]);
        let numbered = (2..).map(|number| format!("{namespace}-{short}-{number}"));
        let fits =
            |name: &String| name.len() <= LONGEST_NAME && is_kubernetes_name(name) && !taken.contains(name);
        // A name that fits nowhere is refused later, with what to do.
        group.name = candidates.chain(numbered).take(100).find(fits).unwrap_or_else(|| short.to_owned());
        taken.insert(group.name.clone());
    }
}
