//! Which pools are accepted: of those that overlap in one routing domain one, once and for all.

use net_types::AddrSet;

use crate::PoolName;

/// How far a pool is, as its status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolStage {
    /// Nothing was decided.
    New,
    /// It is to be accepted if no other one is.
    Proposed,
    /// Nodes may claim blocks of it. It stays so.
    Accepted,
}

/// A pool as it asks to be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolClaim {
    /// Its name.
    pub name: PoolName,
    /// The addresses of its ranges.
    pub addresses: AddrSet,
    /// Pools of different domains may overlap. `None`: it is not known, so that it may be any.
    pub routing_domain: Option<String>,
    /// Whether it only documents addresses.
    pub inventory: bool,
    /// How far it is.
    pub stage: PoolStage,
    /// Whether there are blocks or floating addresses of it, which is so after its status was lost.
    pub in_use: bool,
    /// `metadata.creationTimestamp`, RFC 3339.
    pub created: String,
}

/// A write of a pool's status, with the resourceVersion that the decision was made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolStep {
    /// It becomes [`PoolStage::Proposed`].
    Propose(PoolName),
    /// It becomes [`PoolStage::Accepted`].
    Accept(PoolName),
    /// It becomes, or stays, [`PoolStage::New`], and its condition names the other one.
    Refuse(PoolName, PoolName),
}

/// What is to be written, by a *consistent* list of all pools.
///
/// Two leaders for a moment do no harm: a pool is proposed first, and accepted by a list from after that, in which no other one that
/// overlaps is proposed or accepted. So of two pools at least one sees the other, and the one that gives way is written with
/// its resourceVersion, which does not fit any more if it was accepted meanwhile.
#[must_use]
pub fn decide_pools(pools: &[PoolClaim]) -> Vec<PoolStep> {
    pools.iter().filter_map(|pool| decide(pool, pools)).collect()
}

fn decide(pool: &PoolClaim, all: &[PoolClaim]) -> Option<PoolStep> {
    if pool.stage == PoolStage::Accepted {
        return None;
    }
    let rivals = || all.iter().filter(|other| other.name != pool.name && overlap(pool, other));
    let first = rivals().find(|other| other.stage == PoolStage::Accepted || precedes(other, pool));
    if let Some(other) = first {
        return Some(PoolStep::Refuse(pool.name.clone(), other.name.clone()));
    }
    match pool.stage {
        PoolStage::New => Some(PoolStep::Propose(pool.name.clone())),
        // A later one that is proposed is to be withdrawn first, or was accepted by now.
        PoolStage::Proposed if rivals().any(|other| other.stage == PoolStage::Proposed) => None,
        PoolStage::Proposed => Some(PoolStep::Accept(pool.name.clone())),
        PoolStage::Accepted => None,
    }
}

/// One that is in use is never displaced by one that looks older.
fn precedes(a: &PoolClaim, b: &PoolClaim) -> bool {
    (!a.in_use, &a.created, &a.name) < (!b.in_use, &b.created, &b.name)
}

fn overlap(a: &PoolClaim, b: &PoolClaim) -> bool {
    let holds = |large: &PoolClaim, small: &PoolClaim| {
        large.inventory && small.addresses.without(&large.addresses).is_empty()
    };
    let one_domain = match (&a.routing_domain, &b.routing_domain) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    one_domain && a.addresses.shared_with(&b.addresses).is_some() && !holds(a, b) && !holds(b, a)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::geometry::addresses;

    fn pool(name: &str, range: &str, created: &str) -> PoolClaim {
        PoolClaim {
            name: name.into(),
            addresses: addresses(&[range]),
            routing_domain: Some(String::new()),
            inventory: false,
            stage: PoolStage::New,
            in_use: false,
            created: created.to_owned(),
        }
    }

    #[test]
    fn the_older_one_works() {
        let mut pools =
            vec![pool("b", "10.0.0.0-10.0.0.9", "2026-01-02"), pool("a", "10.0.0.9-10.0.0.20", "2026-01-03")];
        assert_eq!(
            decide_pools(&pools),
            [PoolStep::Propose("b".into()), PoolStep::Refuse("a".into(), "b".into())]
        );
        pools[0].stage = PoolStage::Proposed;
        assert_eq!(decide_pools(&pools)[0], PoolStep::Accept("b".into()));
        pools[1].in_use = true;
        assert_eq!(
            decide_pools(&pools)[0],
            PoolStep::Refuse("b".into(), "a".into()),
            "not accepted, and a has blocks"
        );
        pools[0].stage = PoolStage::Accepted;
        assert_eq!(
            decide_pools(&pools),
            [PoolStep::Refuse("a".into(), "b".into())],
            "what is accepted stays"
        );
        pools[1].routing_domain = None;
        assert_eq!(decide_pools(&pools), [PoolStep::Refuse("a".into(), "b".into())]);
        pools[1].routing_domain = Some("dmz".to_owned());
        assert_eq!(decide_pools(&pools), [PoolStep::Propose("a".into())]);
        pools[1].routing_domain = Some(String::new());
        pools[1].inventory = true;
        pools[1].addresses = addresses(&["10.0.0.0-10.0.0.255"]);
        assert_eq!(decide_pools(&pools), [PoolStep::Propose("a".into())], "an inventory of it");
    }

    /// The stages of the pools with their versions, and what each of two leaders read last and has not written yet.
    type State = (Vec<(u8, u8)>, Vec<Vec<(usize, u8, u8)>>);

    /// Every order of reads and writes of two leaders, whose writes are done if the version fits: never are both accepted, and one is
    /// in the end.
    #[test]
    fn two_leaders_accept_one() {
        let base =
            [pool("a", "10.0.0.0-10.0.0.9", "2026-01-01"), pool("b", "10.0.0.5-10.0.0.20", "2026-01-02")];
        let stages = [PoolStage::New, PoolStage::Proposed, PoolStage::Accepted];
        // The younger one is seen alone at first.
        let read = |versions: &[(u8, u8)], seen: usize| {
            let mut pools = base.to_vec();
            pools
                .iter_mut()
                .zip(versions)
                .for_each(|(pool, (stage, _))| pool.stage = stages[usize::from(*stage)]);
            let steps = decide_pools(&pools[seen..]);
            let at = |name: &PoolName| base.iter().position(|pool| pool.name == *name).unwrap();
            let write = |step: &PoolStep| match step {
                PoolStep::Propose(name) => (at(name), 1, versions[at(name)].1),
                PoolStep::Accept(name) => (at(name), 2, versions[at(name)].1),
                PoolStep::Refuse(name, _) => (at(name), 0, versions[at(name)].1),
            };
            steps.iter().map(write).collect::<Vec<_>>()
        };
        let mut seen: BTreeSet<State> = BTreeSet::new();
        let mut open: Vec<State> = vec![(vec![(0, 0), (0, 0)], vec![Vec::new(), Vec::new()])];
        let mut ends = 0;
        while let Some(state) = open.pop() {
            if !seen.insert(state.clone()) {
                continue;
            }
            let (versions, leaders) = &state;
            let accepted = versions.iter().filter(|(stage, _)| *stage == 2).count();
            assert!(accepted <= 1, "{state:?}");
            ends += accepted;
            if versions.iter().any(|(_, version)| *version > 6) {
                continue;
            }
            for (leader, writes) in leaders.iter().enumerate() {
                for from in 0..2 {
                    let mut next = state.clone();
                    next.1[leader] = read(versions, if versions[0].1 == 0 { from } else { 0 });
                    open.push(next);
                }
                for write in 0..writes.len() {
                    let mut next = state.clone();
                    let (at, stage, version) = next.1[leader].remove(write);
                    if next.0[at].1 == version && next.0[at].0 != stage {
                        next.0[at] = (stage, version + 1);
                    }
                    open.push(next);
                }
            }
        }
        assert!(ends > 0);
    }
}
