use std::collections::{BTreeMap, btree_map::Entry};
use std::fmt;

use net_types::{SpokeName, Vni};

use crate::{Lan, LanKey, NetnsName};

/// Something that only one LAN can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// The name of its network namespace.
    Ns(NetnsName),
    /// The network identifier of its VXLAN device.
    Vni(Vni),
    /// The name of one of its spokes.
    Spoke(SpokeName),
}

/// A claim of two LANs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// What both LANs claim.
    pub claim: Claim,
    /// The accepted LAN that has it.
    pub with: LanKey,
}

/// Whether a LAN is accepted beside the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that it claims belongs to another LAN.
    Accepted,
    /// Another LAN has something that it claims. The LAN is not built, and its claims do not count.
    Refused(Vec<Conflict>),
}

impl Lan {
    /// Everything that only this LAN can have.
    pub fn claims(&self) -> impl Iterator<Item = Claim> + '_ {
        [Claim::Ns(self.netns.clone()), Claim::Vni(self.vni)]
            .into_iter()
            .chain(self.spokes.keys().cloned().map(Claim::Spoke))
    }
}

/// Decides which of all LANs are accepted. Every node decides the same.
///
/// LANs are ordered by rank, the smallest first, and by key if ranks are equal: in a cluster the rank is the time of
/// creation. A LAN that claims something of an accepted one is refused, and its claims do not count, so that it keeps
/// no third LAN from being built. The order of the input does not matter; keys must be unique.
pub fn decide<'a, R: Ord>(lans: impl IntoIterator<Item = (R, &'a Lan)>) -> BTreeMap<LanKey, Verdict> {
    let mut lans: Vec<_> = lans.into_iter().collect();
    lans.sort_by(|(a_rank, a), (b_rank, b)| a_rank.cmp(b_rank).then_with(|| a.key.cmp(&b.key)));
    let mut taken: BTreeMap<Claim, &LanKey> = BTreeMap::new();
    let mut verdicts = BTreeMap::new();
    for (_, lan) in lans {
        let conflicts: Vec<Conflict> = lan
            .claims()
            .filter_map(|claim| {
                let with = (*taken.get(&claim)?).clone();
                Some(Conflict { claim, with })
            })
            .collect();
        let verdict = if conflicts.is_empty() {
            taken.extend(lan.claims().map(|claim| (claim, &lan.key)));
            Verdict::Accepted
        } else {
            Verdict::Refused(conflicts)
        };
        match verdicts.entry(lan.key.clone()) {
            Entry::Vacant(entry) => drop(entry.insert(verdict)),
            Entry::Occupied(_) => debug_assert!(false, "{} stands there twice", lan.key),
        }
    }
    verdicts
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ns(ns) => write!(f, "ns {ns}"),
            Self::Vni(vni) => write!(f, "vni {vni}"),
            Self::Spoke(spoke) => write!(f, "spoke {spoke}"),
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} belongs to LAN {} already", self.claim, self.with)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{document, key};

    fn lan(name: &str, ns: &str, vni: i64, spokes: &[&str]) -> Lan {
        let mut spec = document();
        spec.ns = ns.into();
        spec.vni = vni;
        spec.spokes = spokes.iter().map(|&s| s.to_owned()).collect();
        Lan::new(key(&format!("t/{name}")), &spec).unwrap()
    }

    fn refused(verdicts: &BTreeMap<LanKey, Verdict>, name: &str) -> Vec<String> {
        match &verdicts[&key(&format!("t/{name}"))] {
            Verdict::Accepted => Vec::new(),
            Verdict::Refused(conflicts) => conflicts.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn the_older_one_has_it() {
        let (a, b) = (lan("a", "x", 1, &["p"]), lan("b", "y", 1, &["p", "q"]));
        let verdicts = decide([(2, &a), (1, &b)]);
        assert_eq!(refused(&verdicts, "b"), [""; 0]);
        let expected = ["vni 1 belongs to LAN t/b already", "spoke p belongs to LAN t/b already"];
        assert_eq!(refused(&verdicts, "a"), expected);
    }

    #[test]
    fn between_equals_the_name_decides() {
        let (a, b) = (lan("a", "x", 1, &[]), lan("b", "x", 2, &[]));
        let verdicts = decide([((), &b), ((), &a)]);
        assert_eq!(refused(&verdicts, "b"), ["ns x belongs to LAN t/a already"]);
    }

    #[test]
    fn a_loser_is_in_nobodys_way() {
        let (a, b, c) = (lan("a", "x", 1, &[]), lan("b", "y", 1, &["p"]), lan("c", "z", 3, &["p"]));
        let verdicts = decide([((), &a), ((), &b), ((), &c)]);
        assert_eq!(refused(&verdicts, "b").len(), 1);
        assert_eq!(verdicts[&c.key], Verdict::Accepted);
    }

    fn lans() -> impl Strategy<Value = Vec<(u8, Lan)>> {
        let one = (0_u8..3, 0..6, 1_i64..8, proptest::collection::btree_set(0..8, 0..3));
        proptest::collection::vec(one, 0..10).prop_map(|lans| {
            lans.into_iter()
                .enumerate()
                .map(|(n, (rank, ns, vni, spokes))| {
                    let spokes: Vec<String> = spokes.iter().map(|s| format!("s{s}")).collect();
                    let spokes: Vec<&str> = spokes.iter().map(String::as_str).collect();
                    (rank, lan(&format!("l{n}"), &format!("n{ns}"), vni, &spokes))
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_order_of_the_input_does_not_matter(
            (lans, shuffled) in lans().prop_flat_map(|l| (Just(l.clone()), Just(l).prop_shuffle()))
        ) {
            let of = |lans: &[(u8, Lan)]| decide(lans.iter().map(|(rank, lan)| (*rank, lan)));
            prop_assert_eq!(of(&lans), of(&shuffled));
        }

        #[test]
        fn accepted_ones_share_nothing_and_refused_ones_had_to_be(lans in lans()) {
            let verdicts = decide(lans.iter().map(|(rank, lan)| (*rank, lan)));
            let accepted = |lan: &Lan| verdicts[&lan.key] == Verdict::Accepted;
            let mut owners = BTreeMap::new();
            for (_, lan) in lans.iter().filter(|(_, lan)| accepted(lan)) {
                for claim in lan.claims() {
                    prop_assert!(owners.insert(claim, &lan.key).is_none());
                }
            }
            for (rank, loser) in &lans {
                let Verdict::Refused(conflicts) = &verdicts[&loser.key] else { continue };
                prop_assert!(!conflicts.is_empty());
                for conflict in conflicts {
                    prop_assert!(loser.claims().any(|claim| claim == conflict.claim));
                    let (winners_rank, winner) = lans.iter().find(|(_, lan)| lan.key == conflict.with).unwrap();
                    prop_assert!(accepted(winner));
                    prop_assert!((winners_rank, &winner.key) < (rank, &loser.key));
                }
            }
        }
    }
}
