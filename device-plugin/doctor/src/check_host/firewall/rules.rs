//! A filter as chains of rules, and its verdict on a packet.

use std::collections::BTreeMap;

use super::packet::Tri;

/// One filter: a base chain and the chains that it jumps to.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// Its name in messages: `table inet filter, chain input`.
    pub(super) name: String,
    /// The chain that packets enter.
    pub(super) base: String,
    /// Whether its policy drops packets that no rule decides about.
    pub(super) drops: bool,
    /// All chains, evaluated for one packet.
    pub(super) chains: BTreeMap<String, Vec<Rule>>,
}

/// A rule, evaluated for one packet.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Whether it matches the packet.
    pub(super) applies: Tri,
    pub(super) verdict: Verdict,
    /// Its name in messages, with its chain.
    pub(super) name: String,
}

/// The verdict of a matching rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No verdict: it counts, logs or marks.
    Continue,
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// A statement that is not known here: the packet may be accepted, dropped, or neither.
    Unknown,
}

/// What can happen to a packet, with the rule that does it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) accepted: Option<String>,
    pub(super) dropped: Option<String>,
}

/// The kernel's limit on nested jumps (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

impl Filter {
    /// The verdict on the packet.
    pub(super) fn fate(&self) -> Fate {
        let mut fate = Fate::default();
        if self.walk(&self.base, 0, &mut fate) {
            let policy = format!("the policy of {}", self.name);
            let end = if self.drops { &mut fate.dropped } else { &mut fate.accepted };
            end.get_or_insert(policy);
        }
        fate
    }

    /// Evaluates a chain that the packet enters, or may enter; returns whether it may leave the chain undecided.
    fn walk(&self, chain: &str, depth: usize, fate: &mut Fate) -> bool {
        let Some(rules) = self.chains.get(chain).filter(|_| depth < DEPTH) else { return true };
        let mut comes_out = false;
        for rule in rules.iter().filter(|rule| rule.applies != Tri::No) {
            let surely = rule.applies == Tri::Yes;
            let ends = match &rule.verdict {
                Verdict::Continue => false,
                Verdict::Accept => {
                    fate.accepted.get_or_insert_with(|| rule.name.clone());
                    true
                }
                Verdict::Drop => {
                    fate.dropped.get_or_insert_with(|| rule.name.clone());
                    true
                }
                Verdict::Unknown => {
                    fate.accepted.get_or_insert_with(|| rule.name.clone());
                    fate.dropped.get_or_insert_with(|| rule.name.clone());
                    false
                }
                Verdict::Return => {
                    comes_out = true;
                    true
                }
                Verdict::Jump(target) => !self.walk(target, depth + 1, fate),
                Verdict::Goto(target) => {
                    comes_out |= self.walk(target, depth + 1, fate);
                    true
                }
            };
            if surely && ends {
                return comes_out;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(applies: Tri, verdict: Verdict, name: &str) -> Rule {
        Rule { applies, verdict, name: name.into() }
    }

    fn fate(drops: bool, chains: &[(&str, &[Rule])]) -> (Option<String>, Option<String>) {
        let chains = chains.iter().map(|(name, rules)| ((*name).to_owned(), rules.to_vec())).collect();
        let Fate { accepted, dropped } =
            Filter { name: "it".into(), base: "in".into(), drops, chains }.fate();
        (accepted, dropped)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.into())
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        use Tri::{No, Yes};
        let rules = [
            rule(No, Verdict::Drop, "a"),
            rule(Yes, Verdict::Continue, "b"),
            rule(Yes, Verdict::Accept, "c"),
            rule(Yes, Verdict::Drop, "d"),
        ];
        assert_eq!(fate(true, &[("in", &rules)]), (some("c"), None));
        assert_eq!(fate(true, &[("in", &rules[..2])]), (None, some("the policy of it")));
        assert_eq!(fate(false, &[("in", &[])]), (some("the policy of it"), None));
    }

    #[test]
    fn what_is_not_known_leaves_both() {
        use Tri::{Unknown, Yes};
        let rules = [
            rule(Unknown, Verdict::Accept, "a"),
            rule(Yes, Verdict::Drop, "b"),
            rule(Yes, Verdict::Accept, "c"),
        ];
        assert_eq!(fate(false, &[("in", &rules)]), (some("a"), some("b")));
        assert_eq!(fate(true, &[("in", &rules[..1])]), (some("a"), some("the policy of it")));
        let odd = [rule(Yes, Verdict::Unknown, "odd")];
        assert_eq!(fate(false, &[("in", &odd)]), (some("odd"), some("odd")));
    }

    #[test]
    fn chains_lead_to_chains() {
        use Tri::{Unknown, Yes};
        let jump = |to: &str| rule(Yes, Verdict::Jump(to.into()), "jump");
        let sub = [rule(Yes, Verdict::Return, "back"), rule(Yes, Verdict::Drop, "never")];
        let input = [jump("sub"), rule(Yes, Verdict::Accept, "after")];
        assert_eq!(fate(true, &[("in", &input), ("sub", &sub)]), (some("after"), None));
        let ends = [rule(Yes, Verdict::Drop, "in sub")];
        assert_eq!(fate(false, &[("in", &input), ("sub", &ends)]), (None, some("in sub")));
        let perhaps = [rule(Unknown, Verdict::Drop, "perhaps")];
        assert_eq!(fate(true, &[("in", &input), ("sub", &perhaps)]), (some("after"), some("perhaps")));
        // A goto does not return.
        let goto = [rule(Yes, Verdict::Goto("sub".into()), "goto"), rule(Yes, Verdict::Drop, "never")];
        assert_eq!(fate(false, &[("in", &goto), ("sub", &[])]), (some("the policy of it"), None));
        // A cycle of jumps ends.
        assert_eq!(fate(false, &[("in", &[jump("in")])]), (some("the policy of it"), None));
    }
}
