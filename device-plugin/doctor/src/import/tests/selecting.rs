use super::*;

fn two() -> Cluster {
    Cluster::default()
        .definition("a/one", json!({ "type": "whereabouts", "range": "10.0.0.0/24" }))
        .definition("a/two", json!({ "type": "whereabouts", "range": "10.0.1.0/24" }))
        .ip_pool("10.0.0.0-24", "10.0.0.0/24", &[("5", "a/x")])
}

fn refused(cluster: &Cluster, pool: &str, finish: bool) -> String {
    cluster.ask(Plugin::Whereabouts, pool, finish).unwrap_err().to_string()
}

fn hand_made(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool",
        "metadata": { "name": name, "uid": "u", "resourceVersion": "5" }, "spec": spec,
    })
}

#[test]
fn a_name_chooses_or_is_given() {
    let plan = two().ask(Plugin::Whereabouts, "two", false).unwrap();
    assert_eq!(plan.steps.iter().map(|step| step.pool.as_str()).collect::<Vec<_>>(), ["two"]);
    has(&refused(&two(), "office", false), &["make several pools: one, two; name one of these"]);
    let one = two().without_definition("a/two");
    let plan = one.ask(Plugin::Whereabouts, "office", false).unwrap();
    assert_eq!(one.clone().after(&plan).lan_pool("office")["spec"]["exclude"], json!(["10.0.0.5"]));
    has(&refused(&one, "Office", false), &["\"Office\" is not the name of a pool"]);
    has(&refused(&one, "office", true), &["there is no LANPool office"]);
    has(&refused(&Cluster::default(), "", false), &["no definition that you may read uses whereabouts"]);
    has(&refused(&Cluster::default(), "x", false), &["there is no LANPool x, and no definition"]);
    // What it was called stays.
    let cluster = one.clone().after(&plan).without_definition("a/one");
    assert_eq!(cluster.import(Plugin::Whereabouts).steps[0].pool, "office");
}

#[test]
fn a_pool_of_ones_own_is_filled_when_it_is_named() {
    let cluster = two()
        .without_definition("a/two")
        .pool(hand_made("office", json!({ "subnets": ["10.0.0.0/16"], "exclude": ["10.0.0.0/30"] })));
    let plan = cluster.import(Plugin::Whereabouts);
    has(
        &text(&plan),
        &[
            "LANPool one: refused: LANPool office has these addresses already; 'kubectl k8slan import whereabouts --pool office'",
        ],
    );
    let plan = cluster.ask(Plugin::Whereabouts, "office", false).unwrap();
    let Some(Change::Replace(object)) = &plan.steps[0].change else { panic!("{plan:#?}") };
    // The version that was read, so that no edit is lost; and what it is apart from the import.
    assert_eq!(object["metadata"]["resourceVersion"], "5");
    assert_eq!(object["spec"], json!({ "subnets": ["10.0.0.0/16"], "exclude": ["10.0.0.0/30", "10.0.0.5"] }));
    has(
        &text(&plan),
        &["  change in these definitions; what whereabouts gives until then is not excluded:", "    a/one: "],
    );
    let other =
        two().without_definition("a/two").pool(hand_made("one", json!({ "subnets": ["10.9.0.0/16"] })));
    has(
        &text(&other.import(Plugin::Whereabouts)),
        &["LANPool one: refused: there is a LANPool of this name, with other addresses"],
    );
    // Another domain is another network.
    let other = two()
        .without_definition("a/two")
        .pool(hand_made("x", json!({ "subnets": ["10.0.0.0/16"], "routingDomain": "x" })));
    assert!(matches!(other.import(Plugin::Whereabouts).steps[0].change, Some(Change::Create(_))));
}

#[test]
fn one_plugin_at_a_time() {
    let cluster = two().without_definition("a/two");
    let cluster = cluster.clone().after(&cluster.import(Plugin::Whereabouts));
    let plan = cluster.ask(Plugin::HostLocal, "one", false).unwrap();
    has(&text(&plan), &["refused: it was imported from whereabouts: finish that first"]);
    has(
        &text(&cluster.ask(Plugin::HostLocal, "one", true).unwrap()),
        &["nothing of it was imported from host-local"],
    );
}

#[test]
fn a_pool_that_is_full_or_fragmented_is_told() {
    let full: Vec<(String, String)> = (1..=14).map(|offset| (offset.to_string(), "a/x".to_owned())).collect();
    let full: Vec<(&str, &str)> = full.iter().map(|(offset, pod)| (offset.as_str(), pod.as_str())).collect();
    let cluster = Cluster::default()
        .definition("a/net", json!({ "type": "whereabouts", "range": "10.0.0.0/28" }))
        .ip_pool("10.0.0.0-28", "10.0.0.0/28", &full);
    let plan = cluster.import(Plugin::Whereabouts);
    has(
        &text(&plan),
        &["LANPool net: made", "note: no address of it is left; a pod that is restarted waits until"],
    );
    let cluster = cluster.after(&plan).without_definition("a/net");
    let cluster = cluster.clone().after(&cluster.import(Plugin::Whereabouts));
    let cluster = cluster.ip_pool("10.0.0.0-28", "10.0.0.0/28", &full[1..]);
    let cluster = cluster.clone().after(&cluster.finish(Plugin::Whereabouts));
    assert_eq!(cluster.lan_pool("net")["spec"]["exclude"], json!(["10.0.0.2-10.0.0.14"]));
    // Every other address: more entries than a pool takes, so that neighbours are excluded, too.
    let odd: Vec<(String, String)> =
        (1..2_000).map(|number| ((number * 2).to_string(), "a/x".to_owned())).collect();
    let odd: Vec<(&str, &str)> = odd.iter().map(|(offset, pod)| (offset.as_str(), pod.as_str())).collect();
    let cluster = Cluster::default()
        .definition("a/net", json!({ "type": "whereabouts", "range": "10.0.0.0/16" }))
        .ip_pool("10.0.0.0-16", "10.0.0.0/16", &odd);
    let plan = cluster.import(Plugin::Whereabouts);
    let pool = cluster.after(&plan).lan_pool("net");
    assert_eq!(pool["spec"]["exclude"].as_array().unwrap().len(), 1_024);
    has(&text(&plan), &["1999 addresses (10.0.0.2, 10.0.0.4, ", ", …)"]);
}
