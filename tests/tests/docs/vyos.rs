//! The VyOS configuration of `nad-examples/zones` says what its stand-in in `vlan_bridge_zones.rs` does: VyOS itself is not
//! to be had here.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::collections::{BTreeMap, BTreeSet};

use k8slan_tests::Example;
use serde_json::Value;

const ZONES: [(&str, u16); 5] = [("lan", 1), ("mgmt", 10), ("iot", 20), ("dmz", 30), ("wan", 91)];
const INSTANCES: [(&str, &str, u8, &str); 2] = [
    ("vyos-blue.yaml", "cloud-config.userdata", 2, "200"),
    ("vyos-green.yaml", "cloud-config-green.userdata", 3, "100"),
];

fn text(file: &str) -> String {
    Example::named("zones").text(file).unwrap_or_else(|stop| panic!("{stop:?}"))
}

/// The commands of an instance, as cloud-init's module of VyOS takes them: `set`, words, and a last one in quotes that may
/// be missing.
fn commands(file: &str) -> Vec<Vec<String>> {
    let text = text(file);
    assert!(text.starts_with("#cloud-config\n") && text.len() < 16384, "{file}");
    let document: BTreeMap<String, Vec<String>> = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(document.keys().collect::<Vec<_>>(), ["vyos_config_commands"]);
    let words = |line: &String| {
        let (path, value) =
            line.split_once(" '").map_or((line.as_str(), None), |(path, value)| (path, Some(value)));
        let value = value.map(|value| value.strip_suffix('\'').unwrap_or_else(|| panic!("{line}")));
        assert!(
            path.starts_with("set ") && !path.contains('\'') && !value.unwrap_or_default().contains('\''),
            "{line}"
        );
        path.split_whitespace().skip(1).chain(value).map(str::to_owned).collect()
    };
    document["vyos_config_commands"].iter().map(words).collect()
}

/// The values of the commands that begin like this.
fn values(commands: &[Vec<String>], path: &str) -> BTreeSet<String> {
    let path: Vec<&str> = path.split(' ').collect();
    let below = commands
        .iter()
        .filter(|words| words.len() > path.len() && words.iter().zip(&path).all(|(a, b)| a == b));
    below.map(|words| words[path.len()..].join(" ")).collect()
}

fn value(commands: &[Vec<String>], path: &str) -> String {
    let found = values(commands, path);
    assert_eq!(found.len(), 1, "{path}: {found:?}");
    found.into_iter().next().unwrap()
}

fn link(vlan: u16) -> String {
    if vlan == 1 { "eth0".to_owned() } else { format!("eth0.{vlan}") }
}

#[test]
fn the_trunk_and_the_machines_fit() {
    let network = Example::named("zones")
        .network("nad-router.yaml", "router")
        .unwrap_or_else(|stop| panic!("{stop:?}"));
    let mut macs = BTreeSet::new();
    for (machine, file, own, _) in INSTANCES {
        let commands = commands(file);
        let vifs: BTreeSet<String> = values(&commands, "interfaces ethernet eth0 vif")
            .iter()
            .map(|rest| rest.split(' ').next().unwrap().to_owned())
            .collect();
        let trunk: BTreeSet<String> =
            network["trunk"].as_str().unwrap().split(',').map(str::to_owned).collect();
        assert_eq!(vifs, trunk, "{file}");
        assert_eq!(value(&commands, "interfaces ethernet eth0 address"), format!("10.0.1.{own}/24"));
        for (vlan, address) in [(10, "172.26.10"), (20, "10.0.20"), (30, "172.26.30")] {
            let path = format!("interfaces ethernet eth0 vif {vlan} address");
            assert_eq!(value(&commands, &path), format!("{address}.{own}/24"));
        }
        let object: Value = serde_saphyr::from_str(&text(machine)).unwrap();
        assert_eq!(object["metadata"]["name"], value(&commands, "system host-name"));
        let spec = &object["spec"]["template"]["spec"];
        assert_eq!(spec["networks"][0]["multus"]["networkName"], "router");
        assert!(spec["domain"]["devices"]["interfaces"][0]["bridge"].is_object(), "{machine}");
        macs.insert(spec["domain"]["devices"]["interfaces"][0]["macAddress"].as_str().unwrap().to_owned());
        let secret = spec["volumes"][1]["cloudInitNoCloud"]["secretRef"]["name"].as_str().unwrap();
        assert_eq!(secret, if own == 2 { "vyos-cloudconfig" } else { "vyos-cloudconfig-green" });
        // What the README has people run.
        let readme = text("README.md");
        assert!(readme.contains(&format!("create secret generic {secret}")), "{secret}");
        assert!(readme.contains(&format!("--from-file=userdata={file}")), "{file}");
        assert!(readme.contains(&format!("kubectl apply -f {machine}")), "{machine}");
    }
    assert_eq!(macs.len(), 2, "both instances have one MAC address");
}

#[test]
fn the_virtual_routers_are_keepaliveds() {
    let keepalived = text("router/keepalived.conf");
    for (_, file, _, priority) in INSTANCES {
        let commands = commands(file);
        for block in keepalived.split("vrrp_instance ").skip(1) {
            let word = |key: &str| {
                let line = block.lines().map(str::trim).find_map(|line| line.strip_prefix(key));
                line.unwrap_or_else(|| panic!("no {key} in {block}")).trim().to_owned()
            };
            let name = block.split(' ').next().unwrap();
            let address = block.lines().map(str::trim).find_map(|line| line.strip_suffix("/32")).unwrap();
            let group = |key: &str| value(&commands, &format!("high-availability vrrp group {name} {key}"));
            assert_eq!(group("vrid"), word("virtual_router_id"));
            assert_eq!(group("priority"), priority);
            assert_eq!(group("address"), format!("{address}/24"));
            assert_eq!(group("interface"), word("interface").replace("net1", "eth0"));
            assert!(values(&commands, "high-availability vrrp sync-group zones member").contains(name));
        }
    }
}

/// From which zone new connections may go to which, as the rules of the stand-in have it.
fn allowed() -> BTreeSet<(&'static str, &'static str)> {
    let rules = text("router/firewall.rules");
    let mut allowed = BTreeSet::new();
    for rule in rules.lines().filter(|line| line.starts_with("-A FORWARD -m mark")) {
        let words: Vec<&str> = rule.split_whitespace().collect();
        let after = |key: &str| words.iter().position(|word| *word == key).map(|at| words[at + 1]);
        let from: u16 = after("--mark").unwrap().parse().unwrap();
        let out = after("-o").map(|link| link.strip_prefix("net1.").unwrap().parse::<u16>().unwrap());
        let (from, _) = ZONES.iter().find(|zone| zone.1 == from).unwrap();
        let to = ZONES.iter().filter(|zone| zone.0 != *from && out.is_none_or(|out| zone.1 == out));
        allowed.extend(to.map(|zone| (*from, zone.0)));
    }
    allowed
}

#[test]
fn the_zones_policy_is_the_firewalls() {
    let allowed = allowed();
    assert_eq!(allowed.len(), 4 + 4 + 2 + 1);
    for (_, file, _, _) in INSTANCES {
        let commands = commands(file);
        assert_eq!(value(&commands, "firewall ipv4 name all default-action"), "accept");
        for set in ["answers", "published", "router"] {
            assert_eq!(value(&commands, &format!("firewall ipv4 name {set} default-action")), "drop");
        }
        // Answers: whatever is established, nothing else.
        let answers = values(&commands, "firewall ipv4 name answers rule");
        assert_eq!(answers.len(), 3, "{answers:?}");
        for (to, vlan) in ZONES {
            assert_eq!(value(&commands, &format!("firewall zone {to} default-action")), "drop");
            assert_eq!(value(&commands, &format!("firewall zone {to} interface")), link(vlan));
            for (from, _) in ZONES.iter().filter(|zone| zone.0 != to) {
                let set = value(&commands, &format!("firewall zone {to} from {from} firewall name"));
                let expected = match (*from, to) {
                    _ if allowed.contains(&(*from, to)) => "all",
                    ("wan", "dmz") => "published",
                    _ => "answers",
                };
                assert_eq!(set, expected, "{file}: {from} to {to}");
            }
        }
    }
}

#[test]
fn the_translations_are_the_firewalls() {
    let rules = text("router/firewall.rules");
    for (_, file, _, _) in INSTANCES {
        let commands = commands(file);
        let rule = |path: &str| value(&commands, &format!("nat {path}"));
        let port = rule("destination rule 10 destination port");
        let to = format!(
            "{}:{}",
            rule("destination rule 10 translation address"),
            rule("destination rule 10 translation port")
        );
        assert_eq!(rule("destination rule 10 inbound-interface name"), "eth0.91");
        assert!(rules.contains(&format!("-i net1.91 -p tcp --dport {port} -j DNAT --to-destination {to}")));
        // What is let through is where the translation leads.
        let published =
            |key: &str| value(&commands, &format!("firewall ipv4 name published rule 20 destination {key}"));
        assert_eq!(format!("{}:{}", published("address"), published("port")), to);
        for (number, out) in [(10, "91"), (20, "30")] {
            assert_eq!(rule(&format!("source rule {number} outbound-interface name")), format!("eth0.{out}"));
            assert_eq!(rule(&format!("source rule {number} translation address")), "masquerade");
            assert!(
                rules
                    .lines()
                    .any(|line| line.contains(&format!("-o net1.{out}")) && line.ends_with("MASQUERADE"))
            );
        }
        let internal = values(&commands, "firewall group network-group internal network");
        assert_eq!(
            internal.into_iter().collect::<Vec<_>>(),
            ["10.0.1.0/24", "10.0.20.0/24", "172.26.10.0/24"]
        );
    }
}
