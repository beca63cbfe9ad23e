use std::collections::{BTreeMap, BTreeSet};

use lan::{Conflict, Lan, LanKey, NetnsName, Verdict};
use net_types::{Attach, SpokeName};
use proto::brief;

use super::Declared;

/// An existing namespace of ours on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The LAN that it was created for; `None` if its mark was removed.
    pub owner: Option<LanKey>,
    /// The network identifier of its VXLAN device.
    pub vni: Option<u32>,
}

/// The decisions about declared LANs and existing namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decisions {
    /// Every declared LAN, or why it is refused.
    pub lans: BTreeMap<LanKey, Result<Lan, Refusal>>,
    /// Every namespace that exists or should exist.
    pub namespaces: BTreeMap<NetnsName, Goal>,
}

/// Why a declared LAN is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// One word for programs: the condition's reason.
    pub reason: &'static str,
    /// The condition's message for people.
    pub message: String,
    /// The spokes that it lists and no accepted LAN has. No pod can be attached to them, but pods that ask for them
    /// wait for this LAN, and are told so.
    pub spokes: BTreeMap<SpokeName, Attach>,
    /// Whether it names other nodes and not this one.
    pub elsewhere: bool,
}

/// What is to be done with a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// It belongs to this LAN, and is built and kept as declared.
    Build(LanKey),
    /// It stays as it is, neither repaired nor removed, for this reason.
    Leave(String),
    Remove,
}

/// Decides; the same input always gives the same result.
///
/// `recorded` has the LAN that the record of each spoke on this node names.
pub(crate) fn decide(
    node: &str,
    declared: &Declared,
    standing: &BTreeMap<NetnsName, Standing>,
    recorded: &BTreeMap<SpokeName, LanKey>,
) -> Decisions {
    let lans = verdicts(node, declared, standing, recorded);
    let is_here = |lan: &Lan| lan.underlay(node).is_some();
    let accepted = || lans.values().filter_map(|lan| lan.as_ref().ok());
    let mut namespaces = BTreeMap::new();
    for (netns, there) in standing {
        // A namespace whose mark was removed still belongs to its LAN.
        let owner = there.owner.clone().or_else(|| {
            accepted().find(|lan| lan.netns == *netns && is_here(lan)).map(|lan| lan.key.clone())
        });
        let needed =
            accepted().any(|lan| lan.netns == *netns || there.vni.is_some_and(|vni| vni == lan.vni.get()));
        let goal = match owner.as_ref().map(|key| (key, lans.get(key))) {
            Some((key, Some(Ok(lan)))) if lan.netns == *netns && is_here(lan) => Goal::Build(key.clone()),
            Some((_, Some(Ok(_)))) => Goal::Remove,
            Some((_, Some(Err(refusal)))) if !needed => Goal::Leave(refusal.message.clone()),
            Some((_, None)) | None if !declared.unread.is_empty() && !needed => {
                let sources: Vec<&str> = declared.unread.iter().map(|note| &*note.source).collect();
                Goal::Leave(format!(
                    "no file that can be read declares it, but it may be in {}, which cannot",
                    sources.join(", ")
                ))
            }
            _ => Goal::Remove,
        };
        namespaces.insert(netns.clone(), goal);
    }
    for lan in accepted().filter(|lan| is_here(lan)) {
        namespaces.entry(lan.netns.clone()).or_insert_with(|| Goal::Build(lan.key.clone()));
    }
    Decisions { lans, namespaces }
}

fn verdicts(
    node: &str,
    declared: &Declared,
    standing: &BTreeMap<NetnsName, Standing>,
    recorded: &BTreeMap<SpokeName, LanKey>,
) -> BTreeMap<LanKey, Result<Lan, Refusal>> {
    // With times of creation every node decides the same; what exists differs between nodes, and may only count if
    // there is but one.
    let ranked = declared.lans.values().filter_map(|declaration| {
        let lan = declaration.lan.as_ref().ok()?;
        let rank = match declaration.created {
            Some(created) => (created, 0),
            None => (0, novelty(lan, standing, recorded)),
        };
        Some((rank, lan))
    });
    let verdicts = lan::decide(ranked);
    let refusal = |reason, message, spokes, elsewhere| Err(Refusal { reason, message, spokes, elsewhere });
    let elsewhere = |lan: &Lan| lan.underlay(node).is_none();
    let mut outcomes: BTreeMap<LanKey, Result<Lan, Refusal>> = declared
        .lans
        .iter()
        .map(|(key, declaration)| {
            let of = |lan: &Lan| lan.spokes.iter().map(|(name, how)| (name.clone(), how.attach)).collect();
            let outcome = match (&declaration.lan, verdicts.get(key)) {
                (Ok(lan), Some(Verdict::Accepted)) => Ok(lan.clone()),
                (Ok(lan), Some(Verdict::Refused(conflicts))) => {
                    refusal("Conflict", some_of(conflicts), of(lan), elsewhere(lan))
                }
                (Ok(lan), None) => {
                    refusal("Conflict", "it was not decided on".to_owned(), of(lan), elsewhere(lan))
                }
                (Err(mistaken), _) => {
                    let spokes = mistaken.spokes.iter().map(|name| (name.clone(), Attach::Macvtap)).collect();
                    let elsewhere = mistaken.nodes.as_ref().is_some_and(|nodes| !nodes.contains(node));
                    refusal("Invalid", brief(&mistaken.message, MAX_MESSAGE), spokes, elsewhere)
                }
            };
            (key.clone(), outcome)
        })
        .collect();
    // A spoke has one LAN: an accepted one, or otherwise the first that lists it.
    let accepted = outcomes.values().flatten().flat_map(|lan| lan.spokes.keys());
    let mut taken: BTreeSet<SpokeName> = accepted.cloned().collect();
    for refusal in outcomes.values_mut().filter_map(|outcome| outcome.as_mut().err()) {
        refusal.spokes.retain(|name, _| taken.insert(name.clone()));
    }
    outcomes
}

impl Decisions {
    /// Every spoke that a LAN lists.
    pub(crate) fn spokes(&self) -> impl Iterator<Item = &SpokeName> {
        self.lans.values().flat_map(|lan| match lan {
            Ok(lan) => Box::new(lan.spokes.keys()) as Box<dyn Iterator<Item = &SpokeName>>,
            Err(refusal) => Box::new(refusal.spokes.keys()),
        })
    }
}

/// How much of a LAN is new on this node: 0 if it already has all that it claims, 1 if some of it exists, 2 if
/// nothing does. So a LAN that is built has precedence over one that only now claims the same.
fn novelty(
    lan: &Lan,
    standing: &BTreeMap<NetnsName, Standing>,
    recorded: &BTreeMap<SpokeName, LanKey>,
) -> u8 {
    let is_own = |there: &&Standing| there.owner.as_ref() == Some(&lan.key);
    if standing.values().filter(is_own).count() == 0 {
        return 2;
    }
    let as_built = standing
        .get(&lan.netns)
        .filter(is_own)
        .is_some_and(|there| there.vni.is_none_or(|vni| vni == lan.vni.get()))
        && lan.spokes.keys().all(|spoke| recorded.get(spoke) == Some(&lan.key));
    if as_built { 0 } else { 1 }
}

/// The longest message of a refused LAN, in bytes: the status of the node has it.
const MAX_MESSAGE: usize = 1024;
/// How many conflicts it names.
const NAMED: usize = 5;

/// The first conflicts, and how many more there are: a LAN has up to a thousand spokes.
fn some_of(conflicts: &[Conflict]) -> String {
    let named: Vec<String> = conflicts.iter().take(NAMED).map(ToString::to_string).collect();
    let mut text = brief(&named.join("; "), MAX_MESSAGE);
    if conflicts.len() > NAMED {
        text.push_str(&format!("; and {} more", conflicts.len() - NAMED));
    }
    text
}

#[cfg(test)]
mod tests {
    use lan::LanSpec;

    use super::*;
    use crate::lans::{Declaration, Mistaken};
    use proto::published::Note;

    /// Declared LANs and existing namespaces, the input of a decision.
    #[derive(Default)]
    struct World {
        declared: Declared,
        standing: BTreeMap<NetnsName, Standing>,
        recorded: BTreeMap<SpokeName, LanKey>,
    }

    fn key(name: &str) -> LanKey {
        format!("t/{name}").parse().unwrap()
    }

    impl World {
        fn declare(mut self, name: &str, ns: &str, vni: i64, spokes: &[&str]) -> Self {
            let spec: LanSpec = serde_json::from_value(serde_json::json!({
                "ns": ns, "bridge": "br", "vxlan": "vx", "vni": vni, "spokes": spokes,
                "vxlanDevMap": {"here": "eth0"},
            }))
            .unwrap();
            let lan = Ok(Lan::new(key(name), &spec).unwrap());
            self.declared
                .lans
                .insert(key(name), Declaration { source: name.into(), created: None, generation: None, lan });
            self
        }

        fn broken(mut self, name: &str) -> Self {
            let lan = Err("vni: nonsense".to_owned().into());
            self.declared
                .lans
                .insert(key(name), Declaration { source: name.into(), created: None, generation: None, lan });
            self
        }

        fn stands(mut self, name: &str, ns: &str, vni: u32, spokes: &[&str]) -> Self {
            self.standing.insert(ns.parse().unwrap(), Standing { owner: Some(key(name)), vni: Some(vni) });
            self.recorded.extend(spokes.iter().map(|spoke| (spoke.parse().unwrap(), key(name))));
            self
        }

        fn unread(mut self) -> Self {
            self.declared.unread.push(Note { source: "x.yaml".into(), message: "syntax".into() });
            self
        }

        fn created(mut self, name: &str, seconds: i64) -> Self {
            self.declared.lans.get_mut(&key(name)).unwrap().created = Some(seconds);
            self
        }

        fn decide(&self) -> Decisions {
            decide("here", &self.declared, &self.standing, &self.recorded)
        }

        fn goal(&self, ns: &str) -> Goal {
            self.decide().namespaces[&ns.parse::<NetnsName>().unwrap()].clone()
        }

        fn refusal(&self, name: &str) -> String {
            self.decide().lans[&key(name)].as_ref().unwrap_err().message.clone()
        }
    }

    #[test]
    fn many_conflicts_are_one_short_message() {
        let spokes: Vec<String> = (0..500).map(|number| format!("s{number}")).collect();
        let spokes: Vec<&str> = spokes.iter().map(String::as_str).collect();
        let world = World::default().declare("a", "n", 1, &spokes).declare("b", "m", 2, &spokes);
        let message = world.refusal("b");
        assert!(message.len() < 1200 && message.ends_with("; and 495 more"), "{message}");
    }

    #[test]
    fn what_is_declared_is_built_and_what_is_not_goes() {
        let world = World::default().declare("a", "n", 1, &["p"]).stands("old", "o", 9, &[]);
        assert_eq!(world.goal("n"), Goal::Build(key("a")));
        assert_eq!(world.goal("o"), Goal::Remove);
    }

    #[test]
    fn a_lan_that_left_its_namespace_or_the_node_goes_there() {
        let moved = World::default().declare("a", "new", 1, &[]).stands("a", "old", 1, &[]);
        assert_eq!((moved.goal("new"), moved.goal("old")), (Goal::Build(key("a")), Goal::Remove));
        let world = World::default().declare("a", "n", 1, &[]).stands("a", "n", 1, &[]);
        let elsewhere = decide("elsewhere", &world.declared, &world.standing, &world.recorded);
        assert_eq!(elsewhere.namespaces.values().collect::<Vec<_>>(), [&Goal::Remove]);
    }

    /// A LAN for two nodes is not refused on a third one.
    #[test]
    fn a_refused_lan_is_of_the_nodes_that_it_names() {
        let mut world =
            World::default().declare("a", "n", 1, &[]).declare("b", "n", 2, &[]).broken("c").broken("d");
        let named = |nodes: &[&str]| Some(nodes.iter().map(|&node| node.to_owned()).collect());
        for (name, nodes) in [("c", named(&["here", "there"])), ("d", None)] {
            let mistaken = Mistaken { message: "vni".into(), nodes, ..Mistaken::default() };
            world.declared.lans.get_mut(&key(name)).unwrap().lan = Err(mistaken);
        }
        let elsewhere = |node: &str, name: &str| {
            let decisions = decide(node, &world.declared, &world.standing, &world.recorded);
            decisions.lans[&key(name)].as_ref().unwrap_err().elsewhere
        };
        let all = |node| ["b", "c", "d"].map(|name| elsewhere(node, name));
        assert_eq!(all("here"), [false, false, false]);
        // If a LAN cannot be read, its nodes are not known.
        assert_eq!(all("elsewhere"), [true, true, false]);
    }

    #[test]
    fn what_is_built_wins_over_what_comes_first_by_name() {
        for late in [("n", 2, "q"), ("m", 1, "q"), ("m", 2, "p")] {
            let world = World::default().declare("z", "n", 1, &["p"]).stands("z", "n", 1, &["p"]).declare(
                "a",
                late.0,
                late.1,
                &[late.2],
            );
            assert_eq!(world.goal("n"), Goal::Build(key("z")), "{late:?}");
            assert!(world.refusal("a").contains("belongs to LAN t/z already"), "{late:?}");
        }
        let neither = World::default().declare("z", "n", 1, &[]).declare("a", "n", 2, &[]);
        assert_eq!(neither.goal("n"), Goal::Build(key("a")));
    }

    #[test]
    fn a_built_lan_that_reaches_for_anothers_spoke_loses_and_stays_as_it_stands() {
        let world = World::default()
            .declare("a", "n", 1, &["p", "q"])
            .stands("a", "n", 1, &["p"])
            .declare("b", "m", 2, &["q"])
            .stands("b", "m", 2, &["q"]);
        assert_eq!(world.goal("m"), Goal::Build(key("b")));
        assert_eq!(world.goal("n"), Goal::Leave("spoke q belongs to LAN t/b already".into()));
    }

    #[test]
    fn between_objects_age_decides_whatever_stands() {
        let world = World::default()
            .declare("z", "n", 1, &[])
            .stands("z", "n", 1, &[])
            .declare("a", "m", 1, &[])
            .created("z", 20)
            .created("a", 10);
        assert_eq!(world.goal("m"), Goal::Build(key("a")));
        // Two LANs with one VNI would be one network.
        assert_eq!(world.goal("n"), Goal::Remove);
    }

    #[test]
    fn a_broken_declaration_takes_nothing_down() {
        let world = World::default().broken("a").stands("a", "n", 1, &[]);
        assert_eq!(world.goal("n"), Goal::Leave("vni: nonsense".into()));
        // Unless a valid LAN needs what it has.
        assert_eq!(world.declare("b", "m", 1, &[]).goal("n"), Goal::Remove);
    }

    #[test]
    fn a_refused_lans_spokes_wait_for_it_unless_another_has_them() {
        let mut world = World::default()
            .declare("a", "n", 1, &["p"])
            .declare("b", "m", 1, &["p", "q", "r"])
            .declare("c", "n", 9, &["r", "s"])
            .broken("d");
        let mistaken = Mistaken {
            message: "vni".into(),
            spokes: ["s", "t"].map(|s| s.parse().unwrap()).into(),
            nodes: None,
        };
        world.declared.lans.get_mut(&key("d")).unwrap().lan = Err(mistaken);
        let decisions = world.decide();
        let spokes = |name: &str| -> Vec<String> {
            let refusal = decisions.lans[&key(name)].as_ref().unwrap_err();
            refusal.spokes.keys().map(ToString::to_string).collect()
        };
        assert_eq!(
            (spokes("b"), spokes("c"), spokes("d")),
            (vec!["q".into(), "r".into()], vec!["s".into()], vec!["t".into()])
        );
        assert_eq!(decisions.spokes().count(), 5);
    }

    #[test]
    fn nothing_is_unwanted_while_a_file_cannot_be_read() {
        let world = World::default().stands("a", "n", 1, &[]).declare("b", "m", 2, &[]).unread();
        assert!(matches!(world.goal("n"), Goal::Leave(why) if why.contains("x.yaml")));
        assert_eq!(world.goal("m"), Goal::Build(key("b")));
        assert_eq!(world.declare("c", "n", 3, &[]).goal("n"), Goal::Remove);
    }

    #[test]
    fn a_namespace_without_its_mark_is_its_lans() {
        let mut world = World::default().declare("a", "n", 1, &[]).stands("a", "n", 1, &[]);
        world.standing.values_mut().for_each(|there| there.owner = None);
        assert_eq!(world.goal("n"), Goal::Build(key("a")));
    }
}
