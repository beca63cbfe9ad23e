//! Evaluates `iptables-save -t filter` for one packet.

use std::collections::BTreeMap;

use super::packet::{Packet, Tri};
use super::rules::{Filter, Rule, Verdict};

/// The chain INPUT of the table filter; `None` if the text does not have it.
pub(super) fn filter(program: &str, text: &str, packet: &Packet<'_>) -> Option<Filter> {
    let mut table = "";
    let mut drops = None;
    let mut chains: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        if table != "filter" {
            continue;
        }
        if let Some(policy) = line.strip_prefix(":INPUT ") {
            drops = Some(policy.starts_with("DROP"));
        }
        if let Some(rule) = line.strip_prefix("-A ") {
            let words = split_words(rule);
            let Some((chain, rest)) = words.split_first() else { continue };
            chains.entry(chain.clone()).or_default().push(self::rule(rest, line, packet));
        }
    }
    Some(Filter { name: format!("INPUT ({program})"), base: "INPUT".to_owned(), drops: drops?, chains })
}

/// Splits a line into words; quoted text is one word.
fn split_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut any) = (String::new(), false, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => (quoted, any) = (!quoted, true),
            '\\' if quoted => word.extend(chars.next()),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

fn rule(words: &[String], line: &str, packet: &Packet<'_>) -> Rule {
    let mut applies = Tri::Yes;
    let mut verdict = Verdict::Continue;
    let mut negated = false;
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let value = words.get(at + 1).map(String::as_str).unwrap_or_default();
        at += 2;
        let found = match word.as_str() {
            "!" => {
                negated = true;
                at -= 1;
                continue;
            }
            "-j" | "-g" => {
                verdict = self::verdict(word, value);
                break;
            }
            // The name of the extension of the next options, and comments.
            "-m" | "--comment" => continue,
            "-p" => packet.has_protocol(value),
            "-i" => packet.comes_by(value),
            "--dport" => ports(value, ':', packet),
            "--dports" => Tri::any(value.split(',').map(|range| ports(range, ':', packet))),
            "--ctstate" | "--state" => Tri::any(value.split(',').map(|state| packet.has_state(state))),
            "--icmpv6-type" => packet.has_icmpv6(value),
            _ => {
                // It may have any number of values.
                at -= 1;
                while words.get(at).is_some_and(|next| !next.starts_with('-') && next != "!") {
                    at += 1;
                }
                Tri::Unknown
            }
        };
        applies = applies.and(found.negated(negated));
        negated = false;
    }
    Rule { applies, verdict, name: format!("the rule {line:?}") }
}

fn verdict(word: &str, target: &str) -> Verdict {
    match target {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TRACE" | "AUDIT" | "SET" => Verdict::Continue,
        "NFQUEUE" | "QUEUE" => Verdict::Unknown,
        chain if word == "-g" => Verdict::Goto(chain.to_owned()),
        chain => Verdict::Jump(chain.to_owned()),
    }
}

fn ports(range: &str, between: char, packet: &Packet<'_>) -> Tri {
    let (from, to) = range.split_once(between).unwrap_or((range, range));
    match (from.parse(), to.parse()) {
        (Ok(from), Ok(to)) => packet.has_port(from, to),
        _ => Tri::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::{MLD_QUERY, What};
    use super::super::rules::Fate;
    use super::*;

    const SAVED: &str = "\
*nat
:INPUT DROP [0:0]
COMMIT
*filter
:INPUT DROP [12:3456]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -i eth+ -p udp -m multiport --dports 53,4780:4790 -m comment --comment \"VXLAN -j DROP\" -j ACCEPT
-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 130 -j ACCEPT
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
COMMIT
";

    fn fate(device: &str, what: What) -> Fate {
        let packet = Packet { device, v6: true, what };
        filter("ip6tables-save", SAVED, &packet).unwrap().fate()
    }

    #[test]
    fn rules_are_read() {
        let by_eth = fate("eth1", What::Udp(4789));
        assert!(by_eth.accepted.unwrap().contains("4780:4790"));
        // The rules' addresses are not evaluated.
        assert!(by_eth.dropped.unwrap().contains("KUBE-FIREWALL"));
        let by_other = fate("bond0", What::Udp(4789));
        assert_eq!(by_other.accepted, None);
        assert!(fate("bond0", What::Icmpv6(MLD_QUERY)).accepted.unwrap().contains("icmpv6-type 130"));
        assert_eq!(fate("bond0", What::Icmpv6(135)).accepted, None);
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(
            split_words(r#"-m comment --comment "a \"b\" c" -j X"#),
            ["-m", "comment", "--comment", "a \"b\" c", "-j", "X"]
        );
    }
}
