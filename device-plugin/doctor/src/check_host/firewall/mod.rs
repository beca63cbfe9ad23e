//! Checks whether the node's own firewall accepts what the LANs need.
//!
//! The rules are read (`nft --json list ruleset`, and `iptables-save` if iptables made them) and evaluated for the
//! packets in question. A match that cannot be evaluated here (addresses, limits, marks, sets) may hold or not; then
//! both possible results are reported.

mod iptables;
mod nft;
mod packet;
mod rules;

use std::io;
use std::process::{Command, Stdio};

use netplumb::{BaseChain, ChainPolicy, Nftables};
use serde_json::Value;

use super::finding::Finding;
use super::host_snapshot::HostSnapshot;
use packet::{MLD_QUERY, NEIGHBOUR_ADVERTISEMENT, NEIGHBOUR_SOLICITATION, Packet, What};
use rules::{Fate, Filter};

const CHECK: &str = "firewall";
const INPUT: u32 = 1;
const FORWARD: u32 = 2;

/// The rules of all filters.
struct Rules {
    /// The ruleset of nftables; `None` if there is no filter that matters.
    nft: Option<Value>,
    /// The output of `iptables-save` and `ip6tables-save`, with the program's name; true for IPv6.
    iptables: Vec<(&'static str, bool, String)>,
}

/// Evaluates the filters for the packets that the LANs need.
pub(super) fn check(host: &HostSnapshot<'_>) -> Vec<Finding> {
    // A kernel without netfilter filters nothing.
    let chains = base_chains(host);
    let legacy =
        [("/proc/thread-self/net/ip_tables_names", false), ("/proc/thread-self/net/ip6_tables_names", true)]
            .into_iter()
            .filter(|(path, _)| {
                std::fs::read_to_string(path).unwrap_or_default().lines().any(|name| name == "filter")
            })
            .map(|(_, v6)| v6)
            .collect::<Vec<_>>();
    let filters = |chain: &&BaseChain| {
        let of_ip = matches!(chain.family.as_str(), "ip" | "ip6" | "inet") && chain.hook <= INPUT;
        of_ip && (chain.rules > 0 || chain.policy == ChainPolicy::Drop)
    };
    let hooked: Vec<&BaseChain> = chains.iter().filter(filters).collect();
    if hooked.is_empty() && legacy.is_empty() {
        return vec![Finding::fine(
            CHECK,
            "nothing filters what comes in (no chain of nftables or iptables does)",
        )];
    }
    let rules = match read(&hooked, &legacy) {
        Ok(rules) => rules,
        Err(why) => {
            let advice = "look at it yourself: UDP to the LANs' port and, for IPv6 groups, MLD and neighbour discovery must come in";
            return vec![Finding::warning(CHECK, why, advice)];
        }
    };
    let mut findings = Vec::new();
    for underlay in host.underlays() {
        for (v6, wanted) in [(true, underlay.is_v6()), (false, underlay.is_v4())] {
            if wanted {
                let device = underlay.name.as_str();
                findings.push(on(device, &packets(host, device, v6), &rules, v6));
            }
        }
    }
    if findings.is_empty() {
        let found = "there are filters on what comes in, and no underlay is known to judge them for";
        findings.push(Finding::not_looked_at(CHECK, found).with_advice("name it with --underlay"));
    }
    findings
}

fn base_chains(host: &HostSnapshot<'_>) -> Vec<BaseChain> {
    Nftables::open(&host.netns).and_then(|nftables| nftables.base_chains()).unwrap_or_default()
}

/// The packets that must be accepted.
fn packets<'a>(host: &HostSnapshot<'_>, device: &'a str, v6: bool) -> Vec<Packet<'a>> {
    let mut what: Vec<What> = host.ports().into_iter().map(What::Udp).collect();
    if v6 {
        what.extend([MLD_QUERY, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT].map(What::Icmpv6));
    } else {
        what.push(What::Igmp);
    }
    what.into_iter().map(|what| Packet { device, v6, what }).collect()
}

/// Reads the rules with the programs that print them.
fn read(hooked: &[&BaseChain], legacy: &[bool]) -> Result<Rules, String> {
    let mut rules = Rules { nft: None, iptables: Vec::new() };
    if !hooked.is_empty() {
        let tables: Vec<String> =
            hooked.iter().map(|chain| format!("{} {}", chain.family, chain.table)).collect();
        let text = print("nft", &["--json", "list", "ruleset"])?.ok_or_else(|| {
            format!(
                "something filters what comes in (tables {}), and no 'nft' is here to read it with",
                tables.join(", ")
            )
        })?;
        let parsed = serde_json::from_str(&text);
        rules.nft = Some(parsed.map_err(|error| format!("what nft prints does not read: {error}"))?);
        for (family, program, v6) in [("ip", "iptables-save", false), ("ip6", "ip6tables-save", true)] {
            let made = hooked.iter().any(|c| c.family == family && c.table == "filter" && c.name == "INPUT");
            if made && let Some(text) = print(program, &["-t", "filter"])? {
                rules.iptables.push((program, v6, text));
            }
        }
    }
    for &v6 in legacy {
        let names = if v6 {
            ["ip6tables-legacy-save", "ip6tables-save"]
        } else {
            ["iptables-legacy-save", "iptables-save"]
        };
        let mut text = None;
        for program in names {
            if let Some(printed) = print(program, &["-t", "filter"])? {
                text = Some((program, v6, printed));
                break;
            }
        }
        rules.iptables.push(text.ok_or_else(|| {
            format!("iptables filters what comes in, and no '{}' is here to read it with", names[1])
        })?);
    }
    Ok(rules)
}

/// The output of a program; `None` if the program does not exist.
fn print(program: &str, arguments: &[&str]) -> Result<Option<String>, String> {
    // The PATH of a service's shell may lack the sbin folders.
    let found = ["", "/usr/sbin/", "/sbin/"].into_iter().find_map(|folder| {
        let output = Command::new(format!("{folder}{program}")).args(arguments).stdin(Stdio::null()).output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other),
        }
    });
    match found {
        None => Ok(None),
        Some(Err(error)) => Err(format!("{program} does not start: {error}")),
        Some(Ok(output)) if output.status.success() => {
            Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
        }
        Some(Ok(output)) => Err(format!(
            "{program} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// The finding for one underlay and one address family.
fn on(device: &str, packets: &[Packet<'_>], rules: &Rules, v6: bool) -> Finding {
    let check = format!("{CHECK}: {device}, {}", if v6 { "IPv6" } else { "IPv4" });
    let (mut dropped, mut unsure) = (Vec::new(), Vec::new());
    let mut judged = Vec::new();
    for packet in packets {
        let mut fates = Vec::new();
        for filter in filters(rules, packet) {
            if !judged.contains(&filter.name) {
                judged.push(filter.name.clone());
            }
            fates.push(filter.fate());
        }
        let certain = fates.iter().find_map(|fate| match fate {
            Fate { accepted: None, dropped: Some(rule) } => Some(rule),
            _ => None,
        });
        let possible = fates.iter().find_map(|fate| fate.dropped.as_ref());
        match (certain, possible) {
            (Some(rule), _) => dropped.push(format!("{packet} ends at {rule}")),
            (None, Some(rule)) => unsure.push(format!("{packet} may end at {rule}")),
            (None, None) => {}
        }
    }
    let names: Vec<String> = packets.iter().map(ToString::to_string).collect();
    let advice = format!(
        "let in by {device}: {}",
        if v6 {
            "UDP to the LANs' port, and ICMPv6 130 to 136 and 143"
        } else {
            "UDP to the LANs' port, and IGMP"
        }
    );
    if dropped.is_empty() && unsure.is_empty() {
        let found = format!("{} come in; judged: {}", names.join(", "), judged.join("; "));
        return Finding::fine(check, found);
    }
    let failed = !dropped.is_empty();
    dropped.extend(unsure);
    let found = dropped.join("; ");
    if failed { Finding::failure(check, found, advice) } else { Finding::warning(check, found, advice) }
}

/// The filters that a packet passes. Rules that iptables made are read with its own program if it exists, since nft
/// cannot print the matches of its extensions.
fn filters(rules: &Rules, packet: &Packet<'_>) -> Vec<Filter> {
    let of_family = || rules.iptables.iter().filter(|(_, v6, _)| *v6 == packet.v6);
    let saved: Vec<Filter> =
        of_family().filter_map(|(program, _, text)| iptables::filter(program, text, packet)).collect();
    let by_nft = rules.nft.as_ref().map(|ruleset| nft::filters(ruleset, packet)).unwrap_or_default();
    let native = by_nft.into_iter().filter(|(_, of_iptables)| !of_iptables || saved.is_empty());
    native.map(|(filter, _)| filter).chain(saved.iter().cloned()).collect()
}

/// Checks bridge netfilter, which sends frames between the ports of the node's bridges through its IP filters.
pub(super) fn bridge_netfilter(host: &HostSnapshot<'_>) -> Vec<Finding> {
    let check = "bridge netfilter";
    let on =
        ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"].into_iter().filter(|path| {
            let value = host.netns.sysctl_get(&netplumb::Sysctl::net(path));
            value.ok().flatten().is_some_and(|value| value != "0")
        });
    let on: Vec<&str> = on.collect();
    if on.is_empty() {
        return vec![Finding::fine(check, "off")];
    }
    let chains = base_chains(host);
    let drops = chains.iter().find(|chain| {
        let of_ip = matches!(chain.family.as_str(), "ip" | "ip6" | "inet");
        of_ip && chain.hook == FORWARD && chain.policy == ChainPolicy::Drop
    });
    vec![match drops {
        Some(chain) => Finding::warning(
            check,
            format!(
                "on, and chain {} of table {} {} drops what no rule accepts: frames between vlan-bridge's ports too",
                chain.name, chain.family, chain.table
            ),
            "accept them there (-m physdev --physdev-is-bridged, or iifname and oifname of the bridge); LANs are not concerned",
        ),
        None => Finding::fine(
            check,
            "on, as Kubernetes wants it; LANs are not concerned, it is off in their namespaces",
        ),
    }]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fate(rules: &Value, policy: &str, what: What) -> Fate {
        let mut items =
            vec![json!({"chain": {"family": "inet", "table": "filter", "name": "input", "handle": 1,
            "type": "filter", "hook": "input", "prio": 0, "policy": policy}})];
        for (handle, expr) in rules.as_array().unwrap().iter().enumerate() {
            items.push(json!({"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": handle, "expr": expr}}));
        }
        let packet = Packet { device: "eth1", v6: true, what };
        let filters = nft::filters(&json!({ "nftables": items }), &packet);
        assert_eq!(filters.len(), 1);
        filters[0].0.fate()
    }

    fn is(left: &Value, right: &Value) -> Value {
        json!({"match": {"op": "==", "left": left, "right": right}})
    }

    #[test]
    fn a_usual_ruleset_is_followed() {
        let meta = |key: &str| json!({"meta": {"key": key}});
        let field = |protocol: &str, field: &str| json!({"payload": {"protocol": protocol, "field": field}});
        let state = json!({"ct": {"key": "state"}});
        let rules = json!([
            [{"match": {"op": "in", "left": state, "right": ["established", "related"]}}, {"accept": null}],
            [{"vmap": {"key": state, "data": {"set": [["invalid", {"drop": null}], ["established", {"accept": null}]]}}}],
            [is(&meta("iifname"), &json!("lo")), {"accept": null}],
            [is(&field("tcp", "dport"), &json!(22)), {"counter": {"packets": 1, "bytes": 1}}, {"accept": null}],
            [is(&field("icmpv6", "type"), &json!({"set": ["nd-neighbor-solicit", "nd-neighbor-advert"]})), {"accept": null}],
            [is(&meta("iifname"), &json!({"set": ["eth0", "eth1"]})),
             is(&field("udp", "dport"), &json!({"set": [53, {"range": [4700, 4800]}]})), {"accept": null}],
            [is(&field("icmpv6", "type"), &json!("mld-listener-query")), {"limit": {"rate": 10}}, {"accept": null}]
        ]);
        let good = |what| fate(&rules, "drop", what).dropped.is_none();
        assert!(good(What::Udp(4789)) && good(What::Icmpv6(NEIGHBOUR_SOLICITATION)));
        let other = fate(&rules, "drop", What::Udp(8472));
        assert_eq!(
            (other.accepted, other.dropped),
            (None, Some("the policy of table inet filter, chain input".into()))
        );
        let limited = fate(&rules, "drop", What::Icmpv6(MLD_QUERY));
        assert!(limited.accepted.is_some() && limited.dropped.is_some());
        assert_eq!(fate(&rules, "accept", What::Udp(8472)).dropped, None);
    }

    #[test]
    fn addresses_and_sets_are_not_known() {
        let from = json!({"payload": {"protocol": "ip6", "field": "saddr"}});
        let rules = json!([[is(&from, &json!({"prefix": {"addr": "fe80::", "len": 10}})), {"accept": null}]]);
        let one = fate(&rules, "drop", What::Udp(4789));
        assert!(one.accepted.is_some() && one.dropped.is_some());
        let port = json!({"payload": {"protocol": "udp", "field": "dport"}});
        let rules = json!([[is(&port, &json!("@allowed")), {"drop": null}]]);
        let one = fate(&rules, "accept", What::Udp(4789));
        assert!(one.accepted.is_some() && one.dropped.is_some());
    }
}
