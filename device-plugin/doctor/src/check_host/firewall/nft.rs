//! Evaluates `nft --json list ruleset` for one packet.

use std::collections::BTreeMap;

use serde_json::Value;

use super::packet::{Packet, Tri};
use super::rules::{Filter, Rule, Verdict};

/// Statements without influence on the verdict.
const BESIDE: [&str; 6] = ["counter", "log", "mangle", "comment", "notrack", "meter"];

/// The filters that an incoming packet passes, in their order, and whether each is iptables' own.
pub(super) fn filters(ruleset: &Value, packet: &Packet<'_>) -> Vec<(Filter, bool)> {
    let items = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let families = if packet.v6 { ["ip6", "inet"] } else { ["ip", "inet"] };
    let mut bases: Vec<(i64, &Value)> = items
        .iter()
        .map(|item| &item["chain"])
        .filter(|chain| {
            let hook = chain["hook"].as_str();
            let of_family = chain["family"].as_str().is_some_and(|family| families.contains(&family));
            of_family && matches!(hook, Some("prerouting" | "input")) && chain["type"] != "nat"
        })
        .map(|chain| {
            let stage = if chain["hook"] == "input" { 1_i64 << 32 } else { 0 };
            (stage + chain["prio"].as_i64().unwrap_or(0), chain)
        })
        .collect();
    bases.sort_by_key(|(order, _)| *order);
    let filter = |chain: &Value| {
        let text = |field: &str| chain[field].as_str().unwrap_or_default();
        let of_table = |value: &Value| value["family"] == chain["family"] && value["table"] == chain["table"];
        let mut chains: BTreeMap<String, Vec<Rule>> = BTreeMap::new();
        for found in items.iter().map(|item| &item["rule"]).filter(|rule| of_table(rule)) {
            let of = found["chain"].as_str().unwrap_or_default();
            let name = format!(
                "rule {} of table {} {}, chain {of}{}",
                found["handle"],
                text("family"),
                text("table"),
                found["comment"].as_str().map(|comment| format!(" ({comment})")).unwrap_or_default()
            );
            chains.entry(of.to_owned()).or_default().extend(rules(&found["expr"], &name, packet));
        }
        let name = format!("table {} {}, chain {}", text("family"), text("table"), text("name"));
        let filter = Filter { name, base: text("name").to_owned(), drops: chain["policy"] == "drop", chains };
        let of_iptables = text("table") == "filter" && text("name") == "INPUT";
        (filter, of_iptables)
    };
    bases.into_iter().map(|(_, chain)| filter(chain)).collect()
}

/// The rules of an expression; several if a map decides about the verdict.
fn rules(expressions: &Value, name: &str, packet: &Packet<'_>) -> Vec<Rule> {
    let mut applies = Tri::Yes;
    let mut rules = Vec::new();
    let mut extension = false;
    for expression in expressions.as_array().map(Vec::as_slice).unwrap_or_default() {
        let Some((word, value)) = expression.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        let target = || value["target"].as_str().unwrap_or_default().to_owned();
        let verdict = match word.as_str() {
            "match" => {
                applies = applies.and(matches(value, packet));
                continue;
            }
            "vmap" => {
                rules.extend(of_map(value, applies, name, packet));
                continue;
            }
            word if BESIDE.contains(&word) => continue,
            "accept" => Verdict::Accept,
            "drop" | "reject" => Verdict::Drop,
            "return" => Verdict::Return,
            "jump" => Verdict::Jump(target()),
            "goto" => Verdict::Goto(target()),
            // It accepts some packets and passes others to the next rule, or is not known here.
            "limit" | "quota" | "ct count" | "xt" | "set" | "ct helper" | "ct timeout" | "flow" => {
                applies = applies.and(Tri::Unknown);
                extension |= word == "xt";
                continue;
            }
            _ => Verdict::Unknown,
        };
        rules.push(Rule { applies, verdict, name: name.to_owned() });
        return rules;
    }
    // The JSON does not show what an extension of iptables does: a match, or the verdict itself.
    if extension {
        rules.push(Rule { applies, verdict: Verdict::Unknown, name: name.to_owned() });
    }
    rules
}

/// The rules that a verdict map makes, for the values that the packet has or may have.
fn of_map(map: &Value, applies: Tri, name: &str, packet: &Packet<'_>) -> Vec<Rule> {
    let Some(pairs) = map["data"]["set"].as_array() else {
        return vec![Rule {
            applies: applies.and(Tri::Unknown),
            verdict: Verdict::Unknown,
            name: name.to_owned(),
        }];
    };
    let rule = |pair: &Value| {
        let one = serde_json::json!({ "op": "==", "left": map["key"], "right": pair[0] });
        let applies = applies.and(matches(&one, packet));
        rules(&serde_json::json!([pair[1]]), name, packet)
            .into_iter()
            .map(move |rule| Rule { applies, ..rule })
    };
    pairs.iter().flat_map(rule).collect()
}

/// Whether a match expression holds.
fn matches(comparison: &Value, packet: &Packet<'_>) -> Tri {
    let (left, right) = (&comparison["left"], &comparison["right"]);
    let negated = match comparison["op"].as_str() {
        Some("==" | "in") => false,
        Some("!=") => true,
        _ => return Tri::Unknown,
    };
    alternatives(right, &|value| holds(left, value, packet)).negated(negated)
}

/// Whether `ask` holds for one of the values of a set or list.
fn alternatives(right: &Value, ask: &dyn Fn(&Value) -> Tri) -> Tri {
    match (right["set"].as_array(), right.as_array()) {
        (Some(list), _) | (None, Some(list)) => Tri::any(list.iter().map(|value| alternatives(value, ask))),
        (None, None) => match right.get("elem").and_then(|elem| elem.get("val")) {
            Some(value) => alternatives(value, ask),
            None => ask(right),
        },
    }
}

/// Whether a field of the packet has this value.
fn holds(field: &Value, value: &Value, packet: &Packet<'_>) -> Tri {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    if text.starts_with('@') {
        return Tri::Unknown;
    }
    if let Some(key) = field["meta"]["key"].as_str() {
        return match key {
            "iifname" | "iif" => packet.comes_by(&text),
            "l4proto" => packet.has_protocol(&text),
            "nfproto" => Tri::from_bool(text == if packet.v6 { "ipv6" } else { "ipv4" }),
            "protocol" => Tri::from_bool(text == if packet.v6 { "ip6" } else { "ip" }),
            _ => Tri::Unknown,
        };
    }
    if field["ct"]["key"] == "state" {
        return packet.has_state(&text);
    }
    let payload = &field["payload"];
    match (payload["protocol"].as_str(), payload["field"].as_str()) {
        (Some("ip6"), Some("nexthdr")) if packet.v6 => packet.has_protocol(&text),
        (Some("ip"), Some("protocol")) if !packet.v6 => packet.has_protocol(&text),
        // Fields of a protocol that the packet does not have.
        (Some("ip6"), _) if !packet.v6 => Tri::No,
        (Some("ip"), _) if packet.v6 => Tri::No,
        (Some("tcp" | "sctp" | "dccp" | "icmp" | "esp" | "ah"), _) => Tri::No,
        (Some("icmpv6"), Some("type")) => packet.has_icmpv6(&text),
        (Some("udp" | "th"), Some("dport")) => port(value, packet),
        (Some("udp"), _) => packet.has_protocol("udp").and(Tri::Unknown),
        _ => Tri::Unknown,
    }
}

fn port(value: &Value, packet: &Packet<'_>) -> Tri {
    let number = |value: &Value| match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|number| u16::try_from(number).ok()),
    };
    match value["range"].as_array().map(Vec::as_slice) {
        Some([from, to]) => match (number(from), number(to)) {
            (Some(from), Some(to)) => packet.has_port(from, to),
            _ => Tri::Unknown,
        },
        _ => match number(value) {
            Some(number) => packet.has_port(number, number),
            // The name of a service.
            None => packet.has_protocol("udp").and(Tri::Unknown),
        },
    }
}
