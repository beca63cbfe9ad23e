//! Properties of the diff of any observed namespace.

use proptest::prelude::*;

use super::model::{apply, link};
use super::*;
use crate::testing::{desired, key};

const NAMES: [&str; 10] =
    ["br2", "vx2", "pod1", "pod2", "pod3", "+40000001", "+40000002", "+40000003", "eth7", "sit0"];

/// A link or a pair in a namespace, before names and indexes are assigned.
#[derive(Clone, Debug)]
enum Thing {
    Single(usize, LinkKind, Attributes),
    Pair(usize, usize, Attributes, Attributes),
    /// A veth whose peer is in another namespace.
    Half(usize, Attributes),
}

#[derive(Clone, Debug)]
struct Attributes {
    group: bool,
    alias: Alias,
    up: bool,
    mtu: u32,
    /// Which of the bridges it is a port of, by number.
    master: Option<usize>,
    mask: u16,
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let attachment = |live| Alias::Attachment { live, who: "x".into() };
    let alias = prop_oneof![
        Just(Alias::None),
        Just(Alias::Other),
        Just(Alias::Lan(desired().lan)),
        Just(Alias::Lan(key("a/b"))),
        Just(attachment(true)),
        Just(attachment(false)),
    ];
    let mtu = prop_oneof![Just(1426_u32), Just(1500)];
    let mask = prop_oneof![Just(0_u16), Just(GROUP_FWD_MASK)];
    (any::<bool>(), alias, any::<bool>(), mtu, proptest::option::of(0..2_usize), mask)
        .prop_map(|(group, alias, up, mtu, master, mask)| Attributes { group, alias, up, mtu, master, mask })
}

fn kind() -> impl Strategy<Value = LinkKind> {
    let vxlan = (
        222_u32..224,
        prop_oneof![Just("ff02::14"), Just("239.1.1.1")],
        proptest::option::of(7..9_u32),
        any::<bool>(),
    )
        .prop_map(|(vni, group, underlay, learning)| {
            LinkKind::Vxlan(Vxlan {
                vni,
                group: Some(group.parse().unwrap()),
                port: 4789,
                underlay,
                learning,
            })
        });
    let bridge = (any::<(bool, bool)>(), prop_oneof![Just(Some(0)), Just(Some(MAX_LEARNED))]).prop_map(
        |((stp, mcast_snooping), max_learned)| LinkKind::Bridge { stp, mcast_snooping, max_learned },
    );
    prop_oneof![vxlan, bridge, Just(LinkKind::Other("dummy".into()))]
}

fn observed() -> impl Strategy<Value = Observed> {
    let name = || 0..NAMES.len();
    let thing = prop_oneof![
        (name(), kind(), attributes())
            .prop_map(|(name, kind, attributes)| Thing::Single(name, kind, attributes)),
        (name(), name(), attributes(), attributes()).prop_map(|(a, b, x, y)| Thing::Pair(a, b, x, y)),
        (name(), attributes()).prop_map(|(name, attributes)| Thing::Half(name, attributes)),
    ];
    let lan = || NetnsOwner::Lan(desired().lan);
    let netns = prop_oneof![
        4 => Just(NetnsState::Mounted(lan())),
        1 => Just(NetnsState::Mounted(NetnsOwner::Unknown)),
        1 => Just(NetnsState::Unmounted(lan())),
        1 => Just(NetnsState::Mounted(NetnsOwner::Lan(key("a/b")))),
        1 => Just(NetnsState::Foreign),
        1 => Just(NetnsState::Absent),
    ];
    let settings = proptest::collection::vec(proptest::option::of("[01]"), SETTINGS.len());
    (netns, settings, attributes(), proptest::collection::vec(thing, 0..8)).prop_map(
        |(netns, settings, lo, things)| {
            if netns == NetnsState::Absent {
                return Observed::absent();
            }
            let settings = SETTINGS
                .iter()
                .zip(settings)
                .filter_map(|(setting, value)| Some((setting.path, value?)))
                .collect();
            Observed { netns, settings, links: links(lo, things) }
        },
    )
}

fn links(lo: Attributes, things: Vec<Thing>) -> Vec<Link> {
    let mut links = Vec::new();
    let mut masters = Vec::new();
    let mut used = BTreeSet::new();
    let mut put = |links: &mut Vec<Link>, name: &str, kind, attributes: Attributes| {
        let mut new = link(u32::try_from(links.len()).unwrap() + 1, name, kind, attributes.mtu);
        (new.group, new.alias, new.up) = (attributes.group, attributes.alias, attributes.up);
        masters.push((attributes.master, attributes.mask));
        links.push(new);
    };
    put(&mut links, "lo", LinkKind::Other(String::new()), Attributes { master: None, ..lo });
    for thing in things {
        let next = u32::try_from(links.len()).unwrap() + 1;
        match thing {
            Thing::Single(name, kind, attributes) if used.insert(name) => {
                put(&mut links, NAMES[name], kind, attributes)
            }
            Thing::Pair(a, b, x, y) if a != b && !used.contains(&a) && !used.contains(&b) => {
                used.extend([a, b]);
                put(&mut links, NAMES[a], LinkKind::Veth { peer: Some(next + 1) }, x);
                put(&mut links, NAMES[b], LinkKind::Veth { peer: Some(next) }, y);
            }
            Thing::Half(name, attributes) if used.insert(name) => {
                put(&mut links, NAMES[name], LinkKind::Veth { peer: None }, attributes);
            }
            _ => {}
        }
    }
    let bridges: Vec<u32> = links
        .iter()
        .filter(|link| matches!(link.kind, LinkKind::Bridge { .. }))
        .map(|link| link.index)
        .collect();
    for (link, (master, mask)) in links.iter_mut().zip(masters) {
        let master = master.and_then(|nth| bridges.get(nth)).copied();
        if !matches!(link.kind, LinkKind::Bridge { .. }) {
            link.group_fwd_mask = master.map(|_| mask);
            link.master = master;
        }
    }
    links
}

fn wanted() -> impl Strategy<Value = Desired> {
    let underlay = proptest::option::weighted(0.9, 7..9_u32);
    let mtu = proptest::option::weighted(0.9, prop_oneof![Just(1426_u64), Just(1500)]);
    let spokes = proptest::collection::btree_set(1..4_u32, 0..3);
    (underlay, mtu, spokes, any::<bool>()).prop_map(|(underlay, mtu, spokes, swapped)| {
        let (bridge, vxlan) = if swapped { ("vx2", "br2") } else { ("br2", "vx2") };
        Desired {
            underlay,
            mtu: mtu.map(|mtu| Mtu::try_from(mtu).unwrap()),
            spokes: spokes
                .iter()
                .map(|n| (format!("pod{n}").parse().unwrap(), format!("+4000000{n}").parse().unwrap()))
                .collect(),
            bridge: bridge.parse().unwrap(),
            vxlan: vxlan.parse().unwrap(),
            ..desired()
        }
    })
}

/// The LAN's own links of a namespace, without indexes, each with its master's name.
fn own(desired: &Desired, lan: &Observed) -> Vec<(Link, Option<String>)> {
    ["lo", desired.bridge.as_str(), desired.vxlan.as_str()]
        .iter()
        .map(|name| {
            let mut link = lan.link(name).unwrap_or_else(|| panic!("no {name} in {lan:#?}")).clone();
            let master = link.master.map(|master| lan.link_at(master).unwrap().name.clone());
            (link.index, link.master) = (0, None);
            if *name == "lo" {
                link.mtu = 0;
            }
            (link, master)
        })
        .collect()
}

/// Foreign links, which must not change, except that their bridge may be removed.
fn foreign(lan: &Observed) -> Vec<Link> {
    let ours: BTreeSet<u32> = lan
        .spokes()
        .iter()
        .flat_map(|spoke| [spoke.end, spoke.port])
        .flatten()
        .map(|link| link.index)
        .collect();
    let mut links: Vec<Link> = lan
        .links
        .iter()
        .filter(|link| !link.is_ours() && !ours.contains(&link.index) && link.name != "lo")
        .cloned()
        .collect();
    for link in &mut links {
        (link.master, link.group_fwd_mask) = (None, None);
    }
    links
}

fn in_use(lan: &Observed) -> BTreeSet<u32> {
    lan.spokes()
        .iter()
        .filter(|spoke| matches!(spoke.holder(), Holder::Live(_)))
        .flat_map(|spoke| [spoke.end, spoke.port])
        .flatten()
        .map(|link| link.index)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn doing_the_steps_gives_what_is_desired(desired in wanted(), before in observed()) {
        let plan = diff(Some(&desired), &before);
        let after = apply(before.clone(), &plan.steps);
        let again = diff(Some(&desired), &after);
        prop_assert_eq!(&again.steps, &[]);
        prop_assert_eq!(&again.obstacles, &plan.obstacles);
        prop_assert_eq!(foreign(&after), foreign(&before));
        let used = in_use(&before);
        prop_assert!(after.links.iter().filter(|link| used.contains(&link.index)).count() == used.len());

        let blocked = plan.obstacles.iter().any(Obstacle::blocks_lan);
        if !blocked && desired.underlay.is_some() && desired.mtu.is_some() {
            let clean = apply(Observed::absent(), &diff(Some(&desired), &Observed::absent()).steps);
            prop_assert_eq!(own(&desired, &after), own(&desired, &clean));
            for setting in SETTINGS {
                prop_assert!(after.settings.get(setting.path).is_none_or(|value| value == setting.value));
            }
        }
    }

    #[test]
    fn nothing_is_done_where_everything_is_right(desired in wanted(), before in observed()) {
        let after = apply(before.clone(), &diff(Some(&desired), &before).steps);
        let once_more = apply(after.clone(), &diff(Some(&desired), &after).steps);
        prop_assert_eq!(once_more, after);
    }

    #[test]
    fn a_bridge_of_the_right_name_is_never_made_anew(desired in wanted(), before in observed()) {
        let there = before.link(desired.bridge.as_str()).is_some_and(|link| {
            link.is_ours() && matches!(link.kind, LinkKind::Bridge { .. })
        });
        let plan = diff(Some(&desired), &before);
        let made_anew = plan.steps.iter().any(|step| match step {
            Step::CreateBridge { .. } => true,
            Step::RemoveLink(target) => target.name == desired.bridge.as_str(),
            _ => false,
        });
        prop_assert!(!(there && made_anew), "{:#?}", plan);
    }

    #[test]
    fn removal_leaves_nothing_but_what_it_must(before in observed()) {
        let plan = diff(None, &before);
        let after = apply(before.clone(), &plan.steps);
        prop_assert_eq!(&diff(None, &after).steps, &[]);
        if matches!(before.netns, NetnsState::Absent | NetnsState::Foreign) {
            prop_assert_eq!(after, before);
        } else if plan.obstacles.is_empty() {
            prop_assert_eq!(after, Observed::absent());
        } else {
            prop_assert_eq!(foreign(&after), foreign(&before));
            prop_assert_eq!(in_use(&after), in_use(&before));
            for link in after.links.iter().filter(|link| link.is_ours()) {
                prop_assert!(!matches!(link.kind, LinkKind::Vxlan(_)), "{:?}", link);
            }
            for spoke in after.spokes() {
                prop_assert!(spoke.port.is_none_or(|port| !port.up), "{:?}", spoke);
            }
        }
    }
}
