//! Every mistake that ipam-pool can be given: each has its own code and its own words, and costs no lease.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};
use testnet::{CniCall, CniError, Node, Outcome, Pod, Stop, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        in_ranges,
        in_exclusions_and_reservations,
        in_words_and_types,
        in_pool_names,
        in_pool_files,
        in_a_pool_file_that_changed_while_leases_live,
        in_node_yaml,
        in_a_store_from_a_newer_version,
        no_code_means_two_things,
    ]
}

const POOLS: &str = "/var/lib/k8slan/pools.d";
const STORE: &str = "/run/k8slan/ipam/networks/held.mdb";

fn network(name: &str, ipam: &Value) -> Value {
    let mut ipam = ipam.clone();
    ipam["type"] = json!("ipam-pool");
    // Ranges of a network's own are for networks that end at the host.
    let main = if ipam.get("pool").is_some() { "macvlan" } else { "bridge" };
    json!({ "cniVersion": "1.0.0", "name": name, "type": main, "ipam": ipam })
}

/// A node where one pod holds an address, which no mistake may cost it.
struct Scene<'a> {
    pod: Pod<'a>,
    held: (Value, Value),
}

impl<'a> Scene<'a> {
    fn new(node: &'a Node) -> Result<Self, Stop> {
        let pod = node.pod("p")?;
        let config = network("held", &json!({ "subnet": "10.9.0.0/24", "sticky": "pod" }));
        let result = pod.add("ipam-pool", "held", &config)?;
        Ok(Self { pod, held: (config, result) })
    }

    /// One case: what it is called, what is asked, the code and a part of the message.
    fn refuses(&self, case: &str, ipam: &Value, code: u64, part: &str) -> Outcome {
        let answer = self.pod.add("ipam-pool", "net1", &network("net", ipam));
        is(case, answer, code, part)?;
        assert_eq!(self.pod.add("ipam-pool", "held", &self.held.0)?, self.held.1, "{case} cost a lease");
        Ok(())
    }
}

fn is(case: &str, answer: Result<Value, CniError>, code: u64, part: &str) -> Outcome {
    match answer {
        Err(error) if error.code == code && error.text().contains(part) => Ok(()),
        other => Err(Stop::Failed(format!("{case}: expected code {code} with {part:?}, got {other:?}"))),
    }
}

fn put_pool(node: &Node, name: &str, spec: &str) -> Outcome {
    let mut text =
        format!("apiVersion: lan.k8slan.io/v1beta1\nkind: IPPool\nmetadata:\n  name: {name}\nspec:\n");
    for line in spec.lines() {
        let _ = writeln!(text, "  {line}");
    }
    node.write(&format!("{POOLS}/{name}.yaml"), text)?;
    Ok(())
}

fn range(start: &str, end: &str, gateway: &str) -> Value {
    let mut range = json!({ "subnet": "10.0.0.0/24" });
    for (key, text) in [("rangeStart", start), ("rangeEnd", end), ("gateway", gateway)] {
        if !text.is_empty() {
            range[key] = json!(text);
        }
    }
    json!({ "ranges": [[range]] })
}

fn with(key: &str, value: Value) -> Value {
    json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }]], key: value })
}

fn in_ranges() -> Outcome {
    let node = Node::new("n")?;
    let scene = Scene::new(&node)?;
    for (case, ipam, code, part) in [
        ("no subnet", json!({ "subnet": "10.0.0.0" }), 100, "is not a subnet"),
        ("host bits set", json!({ "subnet": "10.0.0.5/24" }), 101, "host bits set: write 10.0.0.0/24"),
        ("no address", range("", "x", ""), 102, "rangeEnd \"x\" is not an IP address"),
        ("range outside the subnet", range("10.0.1.1", "", ""), 103, "rangeStart 10.0.1.1 is outside"),
        ("range reversed", range("10.0.0.9", "10.0.0.8", ""), 104, "is reversed"),
        (
            "range of the broadcast address",
            range("10.0.0.255", "10.0.0.255", ""),
            105,
            "has no usable address",
        ),
        (
            "gateway of no router",
            range("", "", "224.0.0.1"),
            106,
            "gateway 224.0.0.1 cannot be the address of a router",
        ),
        (
            "two families in one list",
            json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }, { "subnet": "fd00::/64" }]] }),
            107,
            "two families",
        ),
        (
            "lists that overlap",
            json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "10.0.0.0/25" }]] }),
            108,
            "overlap at 10.0.0.1",
        ),
        ("neither pool nor ranges", json!({}), 115, "neither pool nor ranges"),
        ("an empty list", json!({ "ranges": [[]] }), 168, "a list of ranges is empty"),
        ("no list", json!({ "ranges": "10.0.0.0/24" }), 117, "ipam.ranges is not valid"),
        ("unknown key in a range", json!({ "ranges": [[{ "subnt": "10.0.0.0/24" }]] }), 117, "subnt"),
        (
            "more lists than queues",
            json!({ "ranges": (0..256).map(|i| json!([{ "subnet": format!("10.1.{i}.0/24") }])).collect::<Vec<_>>() }),
            167,
            "256 lists",
        ),
    ] {
        scene.refuses(case, &ipam, code, part)?;
    }
    Ok(())
}

fn in_exclusions_and_reservations() -> Outcome {
    let node = Node::new("n")?;
    let scene = Scene::new(&node)?;
    for (case, ipam, code, part) in [
        ("exclude is none", with("exclude", json!(["here"])), 109, "exclude \"here\""),
        ("exclude is no list", with("exclude", json!("10.0.0.5")), 109, "ipam.exclude"),
        ("exclude outside", with("exclude", json!(["10.0.1.0/24"])), 110, "outside all subnets"),
        ("reservation is none", with("reservations", json!({ "a/b": "x" })), 111, "no valid address"),
        ("reservations are no object", with("reservations", json!(["10.0.0.9"])), 111, "ipam.reservations"),
        (
            "reservation outside",
            with("reservations", json!({ "a/b": "10.0.1.1" })),
            112,
            "outside the pool's ranges",
        ),
        (
            "address reserved twice",
            with("reservations", json!({ "a/b": "10.0.0.9", "c/d": "10.0.0.9" })),
            113,
            "10.0.0.9 is reserved twice",
        ),
        ("gateway reserved", with("reservations", json!({ "a/b": "10.0.0.1" })), 114, "is the gateway"),
        (
            "owner with two reservations",
            with("reservations", json!({ "a/b": ["10.0.0.9", "10.0.0.10"] })),
            169,
            "has two reservations",
        ),
    ] {
        scene.refuses(case, &ipam, code, part)?;
    }
    Ok(())
}

fn in_words_and_types() -> Outcome {
    let node = Node::new("n")?;
    let scene = Scene::new(&node)?;
    node.exec(&["mkfifo", "/run/pipe"])?;
    node.exec(&["ln", "-s", "/dev/zero", "/run/device"])?;
    node.write("/run/large", "# as long as a file may not be\n".repeat(3000))?;
    for (case, ipam, code, part) in [
        ("sticky", with("sticky", json!("yes")), 160, "choose one of none, pod, vm"),
        ("order", with("order", json!("random")), 161, "choose one of oldest, lowest"),
        ("cooldown", with("cooldown", json!("soon")), 162, "\"soon\" is not a duration"),
        ("probe", with("probe", json!({ "cont": 3 })), 163, "ipam.probe"),
        ("routes", with("routes", json!([{ "dst": "everywhere" }])), 164, "ipam.routes"),
        ("dns", with("dns", json!("10.0.0.53")), 165, "ipam.dns"),
        ("resolvConf that never ends", with("resolvConf", json!("/dev/zero")), 118, "not a regular file"),
        ("resolvConf that is a folder", with("resolvConf", json!("/etc")), 118, "not a regular file"),
        ("resolvConf that waits", with("resolvConf", json!("/run/pipe")), 118, "not a regular file"),
        (
            "resolvConf that leads to a device",
            with("resolvConf", json!("/run/device")),
            118,
            "not a regular file",
        ),
        ("resolvConf of another kind", with("resolvConf", json!("/run/large")), 118, "65536"),
        ("resolvConf that is not there", with("resolvConf", json!("/nowhere")), 118, "/nowhere"),
        ("both pool and ranges", with("pool", json!("p")), 116, "both pool and ranges"),
    ] {
        scene.refuses(case, &ipam, code, part)?;
    }
    let mut config = network("net", &json!({}));
    config["runtimeConfig"] = json!({ "ipRanges": "10.0.0.0/24" });
    is("ipRanges", scene.pod.add("ipam-pool", "net1", &config), 166, "runtimeConfig.ipRanges")?;
    config["ipam"] = json!(["ipam-pool"]);
    match scene.pod.add("ipam-pool", "net1", &config) {
        Err(error) if error.code == 6 || error.code == 7 => Ok(()),
        other => Err(Stop::Failed(format!("ipam is a list: {other:?}"))),
    }
}

fn in_pool_names() -> Outcome {
    let node = Node::new("n")?;
    let scene = Scene::new(&node)?;
    scene.refuses(
        "unknown pool",
        &json!({ "pool": "unknown" }),
        120,
        "\"/var/lib/k8slan/pools.d/unknown.yaml\" does not exist",
    )?;
    scene.refuses("name with /", &json!({ "pool": "a/b" }), 121, "invalid pool name \"a/b\"")?;
    scene.refuses("name that climbs", &json!({ "pool": "../b" }), 121, "\"../b\"")?;
    scene.refuses("no text", &json!({ "pool": 7 }), 121, "ipam.pool")
}

fn in_pool_files() -> Outcome {
    let node = Node::new("n")?;
    let scene = Scene::new(&node)?;
    let subnet = "scope: host\nranges: [{subnet: 10.0.0.0/24}]\n";
    for (case, spec, code, part) in [
        ("unknown key", format!("{subnet}cooldwn: 5m"), 122, "cooldwn"),
        ("value of a wrong type", format!("{subnet}cooldown: soon"), 170, "not a duration"),
        ("no YAML", "ranges: [".to_owned(), 170, "is not valid"),
        (
            "no value, of namespaces",
            format!("{subnet}allowedNamespaces:\n"),
            170,
            "allowedNamespaces stands there without a value: leave it out for all namespaces, write [] for none",
        ),
        ("no value, of owners", format!("{subnet}sticky: ~"), 170, "sticky"),
        (
            "no value, of reservations",
            format!("{subnet}reservations: null"),
            170,
            "reservations stands there",
        ),
        ("no node", "ranges: [{subnet: 10.0.0.0/24}]\nnodes: {}".to_owned(), 172, "nodeName"),
        (
            "gateway of no router",
            "scope: host\nranges: [{subnet: 10.0.0.0/24, gateway: 10.0.0.255}]".to_owned(),
            106,
            "gateway",
        ),
        ("exclude outside", format!("{subnet}exclude: [10.0.1.1]"), 110, "outside all subnets"),
        (
            "parts that overlap",
            "ranges: [{subnet: 10.0.0.0/24}]\nnodes: {a: [10.0.0.0/25], b: [10.0.0.5]}".to_owned(),
            128,
            "overlaps with a part of node a",
        ),
        ("nodes and scope", format!("{subnet}nodes: {{a: [10.0.0.0/25]}}"), 173, "both nodes and scope"),
        ("another scope", "scope: cluster\nranges: [{subnet: 10.0.0.0/24}]".to_owned(), 174, "unknown scope"),
        ("spans nodes", "ranges: [{subnet: 10.0.0.0/24}]".to_owned(), 126, "scope: host"),
        ("inventory", format!("{subnet}inventory: true"), 127, "is an inventory"),
        (
            "no name for this node",
            "ranges: [{subnet: 10.0.0.0/24}]\nnodes: {a: [10.0.0.0/25]}".to_owned(),
            172,
            "nodeName",
        ),
    ] {
        put_pool(&node, "p", &spec)?;
        scene.refuses(case, &json!({ "pool": "p" }), code, part)?;
    }
    node.write("/etc/k8slan/node.yaml", "nodeName: worker9\n")?;
    for nodes in ["{a: [10.0.0.0/25]}", "{}", "{worker9: []}"] {
        put_pool(&node, "p", &format!("ranges: [{{subnet: 10.0.0.0/24}}]\nnodes: {nodes}"))?;
        let no_part = "no part for node \"worker9\"";
        scene.refuses("no part for this node", &json!({ "pool": "p" }), 125, no_part)?;
    }
    put_pool(&node, "p", subnet)?;
    let path = format!("{POOLS}/p.yaml");
    let text = node.read(&path)?;
    node.write(&path, text.replace("kind: IPPool", "kind: LAN"))?;
    scene.refuses("another kind", &json!({ "pool": "p" }), 171, "is LAN in")?;
    node.write(&path, text.replace("name: p", "name: q"))?;
    scene.refuses("another name", &json!({ "pool": "p" }), 123, "has metadata.name \"q\"")?;
    node.write(&path, &text)?;
    put_pool(&node, "wide", "scope: host\nranges: [{subnet: 10.0.0.0/16}]\n")?;
    scene.refuses(
        "pools that overlap",
        &json!({ "pool": "p" }),
        124,
        "\"p\" and \"wide\" overlap at 10.0.0.1",
    )?;
    node.run(|| std::fs::remove_file(format!("{POOLS}/wide.yaml")))?;
    node.exec(&["chmod", "666", &path])?;
    scene.refuses("a file that others can write", &json!({ "pool": "p" }), 129, "could be written by others")
}

fn in_a_pool_file_that_changed_while_leases_live() -> Outcome {
    let node = Node::new("n")?;
    let scene = Scene::new(&node)?;
    put_pool(&node, "p", "scope: host\nranges: [{subnet: 10.0.0.0/24}]\n")?;
    let config = network("net", &json!({ "pool": "p" }));
    let before = scene.pod.add("ipam-pool", "net1", &config)?;
    put_pool(&node, "p", "scope: host\nranges: [{subnet: 10.1.0.0/24}]\n")?;
    scene.refuses(
        "another subnet",
        &json!({ "pool": "p" }),
        139,
        "the pool was changed while the address was leased",
    )?;
    put_pool(&node, "p", "scope: host\nranges: [{subnet: 10.0.0.0/24}]\n")?;
    assert_eq!(scene.pod.add("ipam-pool", "net1", &config)?, before);
    Ok(())
}

fn in_node_yaml() -> Outcome {
    let node = Node::new("n")?;
    let scene = Scene::new(&node)?;
    node.write("/etc/k8slan/node.yaml", "nodName: x\n")?;
    let answer = scene.pod.add("ipam-pool", "net1", &network("net", &json!({ "subnet": "10.0.0.0/24" })));
    is("unknown key in node.yaml", answer, 119, "nodName")?;
    for nothing in ["policy:\n", "policy: ~\n", "policy: null\n"] {
        node.write("/etc/k8slan/node.yaml", nothing)?;
        let answer = scene.pod.add("ipam-pool", "net1", &network("net", &json!({ "subnet": "10.0.0.0/24" })));
        is("a policy without a value", answer, 119, "policy stands there without a value")?;
    }
    Ok(())
}

/// The other mistakes of a store (damage 140, a full disk 142, a read-only folder 143) are in `ipam_pool_faults`.
fn in_a_store_from_a_newer_version() -> Outcome {
    let node = Node::new("n")?;
    let scene = Scene::new(&node)?;
    // The record that says what the others are, in its only form: a checksum, then text.
    let before = node.run(|| std::fs::read(STORE))?;
    let newer = with_version(&before, 2)
        .ok_or_else(|| Stop::Failed("the store does not say its version".to_owned()))?;
    node.run(|| std::fs::write(STORE, &newer))?;
    let answer = scene.pod.add("ipam-pool", "held", &scene.held.0);
    is("a newer store", answer, 141, "of version 2, this ipam-pool knows up to 1")?;
    assert_eq!(node.run(|| std::fs::read(STORE))?, newer, "it is left alone");
    node.run(|| std::fs::write(STORE, &before))?;
    assert_eq!(scene.pod.add("ipam-pool", "held", &scene.held.0)?, scene.held.1);
    // A newer journal, of this boot or of what is kept, which is read where there is no index.
    node.run(|| std::fs::rename(STORE, "/run/held.mdb"))?;
    for journal in ["/run/k8slan/ipam/networks/held.journal", "/var/lib/k8slan/ipam/networks/held.journal"] {
        let before = node.read(journal)?;
        let (_, rest) = before.split_once('\n').unwrap_or_default();
        let newer = format!("{}{rest}", line(0, r#"{"version":2,"of":"who knows"}"#));
        node.write(journal, &newer)?;
        let answer = scene.pod.add("ipam-pool", "held", &scene.held.0);
        is("a newer journal", answer, 141, "of version 2, this ipam-pool knows up to 1")?;
        assert_eq!(node.read(journal)?, newer, "it is left alone");
        node.write(journal, before)?;
    }
    node.run(|| std::fs::rename("/run/held.mdb", STORE))?;
    assert_eq!(scene.pod.add("ipam-pool", "held", &scene.held.0)?, scene.held.1);
    node.write("/run/k8slan/ipam/x", "")?;
    node.exec(&["chmod", "777", "/run/k8slan/ipam/networks"])?;
    let answer = scene.pod.add("ipam-pool", "held", &scene.held.0);
    is("a folder that others can write", answer, 144, "could be written by others")
}

/// The bytes of a store with another version in every copy of its first record.
fn with_version(store: &[u8], version: u8) -> Option<Vec<u8>> {
    const TEXT: &[u8] = b"{\"version\":1,";
    // Before a record's checksum: the lower and upper half of its length, flags, the key's length, the key (struct
    // MDB_node of LMDB's mdb.c).
    const NODE: usize = 8 + 1 + 8;
    let mut bytes = store.to_vec();
    let found: Vec<usize> =
        store.windows(TEXT.len()).enumerate().filter(|(_, at)| *at == TEXT).map(|(at, _)| at).collect();
    for at in &found {
        let length = store.get(at - NODE..at - NODE + 4)?.try_into().ok().map(u32::from_le_bytes)?;
        let end = at - 8 + usize::try_from(length).ok()?;
        bytes[at + TEXT.len() - 2] = b'0' + version;
        let sum = checksum(&[b"m", bytes.get(*at..end)?].concat());
        bytes.get_mut(at - 8..*at)?.copy_from_slice(&sum.to_be_bytes());
    }
    (!found.is_empty()).then_some(bytes)
}

/// A line of a journal.
fn line(number: u64, text: &str) -> String {
    let sum = checksum(&[number.to_be_bytes().as_slice(), text.as_bytes()].concat());
    format!("{number} {sum:016x} {text}\n")
}

/// FNV-1a of 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The table in the plugin's README: each code once.
fn no_code_means_two_things() -> Outcome {
    let readme = std::fs::read_to_string(testnet::workspace().join("plugins/ipam-pool/README.md"))?;
    let mut codes = BTreeMap::new();
    for line in readme.lines().filter(|line| line.starts_with("| 1")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, code, what, ..] = cells.as_slice() {
            let before = codes.insert((*code).to_owned(), (*what).to_owned());
            assert_eq!(before, None, "code {code} stands twice in the table");
        }
    }
    for code in [101, 103, 104, 106, 110, 112, 113, 120, 121, 122, 139, 141, 142, 143] {
        assert!(codes.contains_key(&code.to_string()), "code {code} is not in the table");
    }
    let node = Node::new("n")?;
    let call = CniCall { config: String::new(), ..node.pod("p")?.call("net1", &json!({})) };
    let answer = node.cni("ipam-pool", "ADD", &call);
    assert!(matches!(&answer, Err(error) if error.code == 6), "no document: {answer:?}");
    let help = node.exec(&[program("ipam-pool").to_str().unwrap_or_default(), "--help"])?;
    assert!(help.contains("backup") && help.contains("sweep"), "{help}");
    Ok(())
}
