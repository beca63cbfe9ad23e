use super::*;

#[test]
fn a_pool_excludes_what_pods_have_and_is_closed() {
    let plan = dual().import(Plugin::Whereabouts);
    let Some(Change::Create(object)) = &plan.steps[0].change else { panic!("{plan:#?}") };
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(
        object["spec"],
        json!({
            "ranges": [
                { "subnet": "192.168.2.224/28", "gateway": "192.168.2.225" },
                { "subnet": "fd00:2::/64", "gateway": "none", "rangeStart": "fd00:2::10" },
            ],
            "exclude": [
                "192.168.2.228-192.168.2.231", "192.168.2.236",
                "192.168.2.226-192.168.2.227", "192.168.2.233", "192.168.2.238",
                "fd00:2::10", "fd00:2::ffff:ffff:ffff:fffe",
            ],
            "allowedNamespaces": [],
        })
    );
    has(
        &text(&plan),
        &[
            "LANPool iot: made; of whereabouts pods have 6 addresses (192.168.2.226-192.168.2.227, ",
            r#"    default/iot: "ipam": {"type": "ipam-pool", "pool": "iot", "routes": [{"dst":"10.0.0.0/8"}]}"#,
            "then 'kubectl k8slan import whereabouts --pool iot' excludes what whereabouts gave meanwhile, and opens it",
        ],
    );
    assert_eq!(plan.notes, Vec::<String>::new());
}

#[test]
fn it_opens_when_no_definition_is_left_with_what_was_given_meanwhile() {
    let cluster = dual();
    let cluster = cluster.clone().after(&cluster.import(Plugin::Whereabouts));
    // Again, with nothing changed.
    let again = cluster.import(Plugin::Whereabouts);
    assert_eq!(again.steps[0].change, None, "{again:#?}");
    has(&text(&again), &["LANPool iot: nothing to change", "now change in these definitions"]);
    let meanwhile = [("2", "default/web-0"), ("9", "shop/db"), ("10", "shop/new")];
    let cluster =
        cluster.without_definition("default/iot").ip_pool("192.168.2.224-28", "192.168.2.224/28", &meanwhile);
    let plan = cluster.import(Plugin::Whereabouts);
    let cluster = cluster.after(&plan);
    let pool = cluster.lan_pool("iot");
    assert!(pool["spec"].get("allowedNamespaces").is_none(), "{pool}");
    // What ended stays excluded until somebody says so.
    has(
        &pool["spec"]["exclude"].to_string(),
        &["\"192.168.2.226-192.168.2.227\"", "\"192.168.2.233-192.168.2.234\""],
    );
    has(
        &text(&plan),
        &[
            "LANPool iot: opened: pods get addresses of it from now on; 1 address (192.168.2.234), which whereabouts gave since, excluded as well",
            "    192.168.2.234 pod shop/new",
        ],
    );
    assert!(!text(&plan).contains("attention"), "{}", text(&plan));
    let again = cluster.import(Plugin::Whereabouts);
    assert_eq!(again.steps[0].change, None, "{}", text(&again));
}

#[test]
fn what_is_given_beside_an_open_pool_is_told() {
    let cluster = dual();
    let cluster =
        cluster.clone().after(&cluster.import(Plugin::Whereabouts)).without_definition("default/iot");
    let cluster = cluster.clone().after(&cluster.import(Plugin::Whereabouts));
    let cluster = cluster.ip_pool("192.168.2.224-28", "192.168.2.224/28", &[("13", "shop/late")]);
    let plan = cluster.import(Plugin::Whereabouts);
    has(
        &text(&plan),
        &["attention: the pool was open when whereabouts gave these", "    192.168.2.237 pod shop/late"],
    );
    let refused = cluster.finish(Plugin::Whereabouts);
    has(
        &text(&refused),
        &["LANPool iot: refused: pods have 192.168.2.237 from whereabouts, which the pool does not exclude"],
    );
}

#[test]
fn networks_of_names_are_pools_of_their_own() {
    let of =
        |network: &str| json!({ "type": "whereabouts", "range": "10.0.0.0/24", "network_name": network });
    let cluster = Cluster::default()
        .definition("a/red", of("red"))
        .definition("b/red", of("red"))
        .definition("a/plain", json!({ "type": "whereabouts", "range": "10.0.0.0/24" }))
        .ip_pool("red-10.0.0.0-24", "10.0.0.0/24", &[("5", "a/x")])
        .ip_pool("10.0.0.0-24", "10.0.0.0/24", &[("6", "a/y")])
        // Of a node, with node_slice_size.
        .ip_pool("red-worker1-10.0.0.64-26", "10.0.0.64/26", &[("1", "a/z")])
        .ip_pool("worker2-10.0.0.128-26", "10.0.0.128/26", &[("2", "a/w")])
        .reservation("red-10.0.0.7", "a/v")
        .reservation("blue-10.0.0.8", "a/u");
    let plan = cluster.import(Plugin::Whereabouts);
    let cluster = cluster.after(&plan);
    let (red, plain) = (cluster.lan_pool("red"), cluster.lan_pool("plain"));
    assert_eq!(red["spec"]["routingDomain"], "red");
    assert_eq!(red["spec"]["exclude"], json!(["10.0.0.5", "10.0.0.7", "10.0.0.65"]));
    assert_eq!(plain["spec"].get("routingDomain"), None);
    // A node may be called red-worker1, so that counts for both.
    assert_eq!(plain["spec"]["exclude"], json!(["10.0.0.6", "10.0.0.65", "10.0.0.130"]));
    has(
        &text(&plan),
        &[
            "note: OverlappingRangeIPReservation kube-system/blue-10.0.0.8 names no address of a known network",
        ],
    );
    has(&text(&plan), &["    a/red: ", "    b/red: "]);
}

#[test]
fn ranges_are_what_whereabouts_makes_of_them() {
    for (ipam, ranges) in [
        (
            json!({ "range": "192.168.2.10-192.168.2.50/24" }),
            json!([{ "subnet": "192.168.2.0/24", "gateway": "none", "rangeStart": "192.168.2.10", "rangeEnd": "192.168.2.50" }]),
        ),
        // What is outside is ignored.
        (
            json!({ "range": "192.168.2.0/24", "range_start": "192.168.3.10", "range_end": "192.168.2.99", "gateway": "192.168.2.254" }),
            json!([{ "subnet": "192.168.2.0/24", "gateway": "192.168.2.254", "rangeEnd": "192.168.2.99" }]),
        ),
        (
            json!({ "range": "fd00::/112", "gateway": "192.168.2.254" }),
            json!([{ "subnet": "fd00::/112", "gateway": "none" }]),
        ),
    ] {
        let mut ipam = ipam;
        ipam["type"] = json!("whereabouts");
        let cluster = Cluster::default().definition("a/net", ipam);
        let cluster = cluster.clone().after(&cluster.import(Plugin::Whereabouts));
        assert_eq!(cluster.lan_pool("net")["spec"]["ranges"], ranges);
    }
    for (ipam, words) in [
        (json!({ "range": "192.168.2.0/31" }), "has no usable address"),
        (json!({ "range": "192.168.2.0" }), "\"192.168.2.0\" is not a range"),
        (json!({}), "it names no range: a file of the nodes does"),
        (json!({ "range": "192.168.2.0/24", "exclude": ["web"] }), "exclude \"web\" is neither"),
        (json!({ "range": 5 }), "its ipam section is not whereabouts'"),
    ] {
        let mut ipam = ipam;
        ipam["type"] = json!("whereabouts");
        let plan = Cluster::default().definition("a/net", ipam).import(Plugin::Whereabouts);
        has(&text(&plan), &["LANPool net: refused: definition a/net: ", words]);
        assert_eq!(plan.steps[0].change, None);
    }
}

#[test]
fn two_definitions_of_one_range_are_one_pool() {
    let ipam = |start: &str, end: &str, gateway: &str| json!({ "type": "whereabouts", "range": "10.0.0.0/24", "range_start": start, "range_end": end, "gateway": gateway });
    let cluster = Cluster::default()
        .definition("a/one", ipam("10.0.0.10", "10.0.0.100", "10.0.0.1"))
        .definition("b/two", ipam("10.0.0.90", "10.0.0.200", ""))
        .definition("b/three", json!({ "type": "whereabouts", "range": "10.0.0.0/25", "range_start": "10.0.0.95", "range_end": "10.0.0.96" }))
        .definition("c/one", ipam("10.0.0.210", "10.0.0.220", "10.0.0.1"));
    let plan = cluster.import(Plugin::Whereabouts);
    let cluster = cluster.after(&plan);
    assert_eq!(
        cluster.lan_pool("one")["spec"]["ranges"],
        json!([{ "subnet": "10.0.0.0/24", "gateway": "10.0.0.1", "rangeStart": "10.0.0.10", "rangeEnd": "10.0.0.200" }])
    );
    // Another part of the subnet is another pool, with a name of its own.
    assert_eq!(cluster.lan_pool("c-one")["spec"]["ranges"][0]["rangeStart"], "10.0.0.210");
    has(
        &text(&plan),
        &[
            "note: the definitions do not agree on the gateway of 10.0.0.0/24; the pool's is 10.0.0.1",
            "note: the definitions have subnets of two lengths, which overlap at 10.0.0.95",
            "    b/three: ",
        ],
    );
}

#[test]
fn host_locals_files_on_all_nodes_count() {
    let cluster = Cluster::default()
        .definition("default/lab", json!({
            "type": "host-local",
            "ranges": [[{ "subnet": "10.5.0.0/24", "rangeStart": "10.5.0.10" }], [{ "subnet": "fd05::/64" }]],
            "routes": [{ "dst": "0.0.0.0/0" }], "resolvConf": "/etc/resolv.conf",
        }))
        .node("worker1", "lab", &["10.5.0.10", "10.5.0.11", "fd05::2"])
        .node("worker2", "lab", &["10.5.0.11", "10.5.0.20"])
        .node("worker3", "cbr0", &["10.5.0.77"]);
    let plan = cluster.import(Plugin::HostLocal);
    let cluster = cluster.after(&plan);
    let spec = cluster.lan_pool("lab")["spec"].clone();
    assert_eq!(spec["exclude"], json!(["10.5.0.10-10.5.0.11", "10.5.0.20", "fd05::2"]));
    assert_eq!(
        spec["ranges"],
        json!([
            { "subnet": "10.5.0.0/24", "gateway": "10.5.0.1", "rangeStart": "10.5.0.10" },
            { "subnet": "fd05::/64", "gateway": "fd05::1" },
        ])
    );
    has(
        &text(&plan),
        &[
            "note: network lab: 10.5.0.11 is in use on worker1 and on worker2: one pool is for nodes that are on one network",
            r#""ipam": {"type": "ipam-pool", "pool": "lab", "resolvConf": "/etc/resolv.conf", "routes": [{"dst":"0.0.0.0/0"}]}"#,
        ],
    );
    let cluster = cluster.without_definition("default/lab").node("worker1", "lab", &["10.5.0.10"]);
    let cluster = cluster.clone().after(&cluster.import(Plugin::HostLocal));
    let plan = cluster.finish(Plugin::HostLocal);
    has(&text(&plan), &["    10.5.0.10 container 0123456789abc on worker1"]);
    assert_eq!(
        cluster.after(&plan).lan_pool("lab")["spec"]["exclude"],
        json!(["10.5.0.10-10.5.0.11", "10.5.0.20"])
    );
    let elsewhere = Cluster::default()
        .definition("a/net", json!({ "type": "host-local", "subnet": "10.5.0.0/24", "dataDir": "/data" }))
        .import(Plugin::HostLocal);
    has(
        &text(&elsewhere),
        &["its leases are in /data on the nodes, and only /var/lib/cni/networks is looked at"],
    );
}

#[test]
fn what_pods_are_called_makes_no_lines() {
    let cluster = Cluster::default()
        .definition("a/net", json!({ "type": "whereabouts", "range": "10.0.0.0/24" }))
        .ip_pool("10.0.0.0-24", "10.0.0.0/24", &[("5", "a/x\ncreate {\"kind\":\"LANPool\"}\u{1b}[2J")]);
    let mut cluster = cluster.clone().after(&cluster.import(Plugin::Whereabouts)).without_definition("a/net");
    cluster.0.push(json!({ "kind": "NetworkAttachmentDefinition", "metadata": { "namespace": "a", "name": "b" }, "spec": { "config": "{\n\ncreate {}" } }));
    let plan = cluster.import(Plugin::Whereabouts);
    let text = actions(&plan).unwrap();
    assert!(
        text.lines().filter(|line| line.starts_with("create")).count() == 0 && !text.contains('\u{1b}'),
        "{text}"
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("replace {")).count(), 1, "{text}");
    has(
        &text,
        &["say     10.0.0.5 pod a/x create", "say note: definition a/b: its configuration is not JSON"],
    );
    let yaml = yaml(&plan).unwrap();
    let applied: Value = serde_saphyr::from_str(yaml.split("---").next().unwrap()).unwrap();
    assert_eq!(applied["metadata"]["name"], "net");
    assert_eq!(applied["spec"]["exclude"], json!(["10.0.0.5"]), "{yaml}");
}
