//! LANs whose specification changes, whose specification is another's, and whose underlay comes and goes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8slan_kubernetes_tests::{Cluster, PodOf, condition, failed};
use serde_json::{Value, json};
use testnet::{Outcome, Ping, Stop, Trial};

use crate::check;
use crate::shared::beside;
use crate::site::{Lan, definitions, delete, give, pings, ready, spoke_is, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside(
            "a_lan_is_edited_in_every_field_while_pods_talk",
            a_lan_is_edited_in_every_field_while_pods_talk,
        ),
        beside("two_lans_want_the_same", two_lans_want_the_same),
        beside(
            "an_underlay_is_missing_appears_shrinks_and_goes",
            an_underlay_is_missing_appears_shrinks_and_goes,
        ),
    ]
}

/// Changes fields of a LAN and waits until all nodes have followed.
fn edit(cluster: &Cluster, lan: &Lan, spec: Value) -> Outcome {
    let patch = json!({ "spec": spec }).to_string();
    cluster.kubectl_with(&["-n", "k8slan-system", "patch", "lan", lan.name, "--type=merge", "-p", &patch])?;
    cluster.until(&lan.path(), |lan| {
        let conditions = lan["status"]["conditions"].as_array().into_iter().flatten();
        let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
        ready.any(|condition| {
            condition["status"] == "True"
                && condition["observedGeneration"] == lan["metadata"]["generation"]
                && lan["status"]["nodes"] == "3/3"
        })
    })?;
    Ok(())
}

/// A link in the LAN's namespace on a node.
fn link(cluster: &Cluster, node: &str, lan: &Lan, name: &str) -> Result<Value, Stop> {
    let worker = cluster.worker(node)?;
    let netns = worker.netns(&format!("/run/netns/{}", lan.name))?;
    netns.link(name)?.ok_or_else(|| failed(format!("{node}: no {name} in {}", lan.name)))
}

/// After each change the kernel has what the field says, and the pods that are attached reach one another.
fn a_lan_is_edited_in_every_field_while_pods_talk(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "edit", vni: 1041, spokes: &["edit1", "edit2"] };
    const ONE: Ipv4Addr = Ipv4Addr::new(10, 141, 0, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(10, 141, 0, 2);
    cluster.apply(
        &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "edited" } }).to_string(),
    )?;
    LAN.apply(cluster)?;
    let one = start(cluster, &PodOf::on("edit-one", "edit1").at("worker1"))?;
    let two = start(cluster, &PodOf::on("edit-two", "edit2").at("worker2"))?;
    give(cluster, &one, "net1", ONE)?;
    give(cluster, &two, "net1", TWO)?;
    pings(cluster, &one, "net1", TWO)?;
    let mut edited = BTreeSet::new();
    let mut change = |fields: &[&str], spec: Value| -> Outcome {
        edited.extend(fields.iter().map(|field| (*field).to_owned()));
        edit(cluster, &LAN, spec)?;
        pings(cluster, &one, "net1", TWO)?;
        pings(cluster, &two, "net1", ONE)
    };

    for (field, spec) in [("ns", json!({ "ns": "other" })), ("vni", json!({ "vni": 999 }))] {
        let said = change(&[field], spec);
        let Err(Stop::Failed(said)) = said else { return Err(failed(format!("{field} can be changed"))) };
        check!(said.contains(&format!("{field} cannot be changed")), "{said}");
    }
    change(&["bridge"], json!({ "bridge": "bridge9" }))?;
    for node in ["worker1", "worker2", "worker3"] {
        let link = link(cluster, node, &LAN, "bridge9")?;
        check!(link["linkinfo"]["info_kind"] == "bridge", "{link:#}");
    }
    let tunnel = |name: &str, node: &str| -> Result<Value, Stop> {
        Ok(link(cluster, node, &LAN, name)?["linkinfo"]["info_data"].clone())
    };
    change(&["vxlan"], json!({ "vxlan": "tunnel9" }))?;
    check!(tunnel("tunnel9", "worker1")?["id"] == LAN.vni, "{:#}", tunnel("tunnel9", "worker1")?);
    change(&["vxlanPort"], json!({ "vxlanPort": 4790 }))?;
    for node in ["worker1", "worker2", "worker3"] {
        check!(tunnel("tunnel9", node)?["port"] == 4790, "{:#}", tunnel("tunnel9", node)?);
    }
    change(&["vxlanGrp"], json!({ "vxlanGrp": "ff02::15" }))?;
    check!(tunnel("tunnel9", "worker2")?["group6"] == "ff02::15", "{:#}", tunnel("tunnel9", "worker2")?);
    change(&["mtu"], json!({ "mtu": 1300 }))?;
    let mtu = |pod: &Value| -> Result<Value, Stop> {
        Ok(cluster.netns(pod)?.link("net1")?.unwrap_or_default()["mtu"].clone())
    };
    cluster.eventually(|| match (mtu(&one), mtu(&two)) {
        (Ok(one), Ok(two)) if one == 1300 && two == 1300 => Ok(()),
        other => Err(format!("the pods' MTU: {other:?}")),
    })?;
    // The cluster's own network: another wire.
    change(
        &["vxlanDevMap", "defaultVxlanDev"],
        json!({ "defaultVxlanDev": "eth0", "vxlanDevMap": { "worker1": "eth0", "worker2": null } }),
    )?;
    for node in ["worker1", "worker2", "worker3"] {
        let index = cluster.worker(node)?.link("eth0")?.unwrap_or_default()["ifindex"].clone();
        // In another namespace than its underlay: ip has the index alone, or takes it for one of that namespace's links.
        let below = tunnel("tunnel9", node)?["link"].as_str().unwrap_or_default().to_owned();
        let taken_for = || Ok::<_, Stop>(link(cluster, node, &LAN, &below)?["ifindex"].clone());
        check!(below == format!("if{index}") || taken_for()? == index, "{node}: on {below}, not on {index}");
    }
    change(&["spokes"], json!({ "spokes": ["edit1", "edit2", "edit3"] }))?;
    spoke_is(cluster, "edit3", "1")?;
    change(&["spokeOverrides"], json!({ "spokeOverrides": { "edit3": { "attach": "veth" } } }))?;
    let kind = |spoke: &str| -> Result<Value, Stop> {
        let pod = start(cluster, &PodOf::on("edit-next", spoke).at("worker3"))?;
        let link = cluster.netns(&pod)?.link("net1")?.unwrap_or_default();
        give(cluster, &pod, "net1", Ipv4Addr::new(10, 141, 0, 3))?;
        pings(cluster, &pod, "net1", ONE)?;
        delete(cluster, "edit-next")?;
        Ok(link["linkinfo"].clone())
    };
    check!(kind("edit3")?["info_kind"] == "veth", "no veth");
    change(&["spokeOverrides"], json!({ "spokeOverrides": null }))?;
    change(&["mode"], json!({ "mode": "bridge" }))?;
    let link = kind("edit3")?;
    check!(link["info_kind"] == "macvtap" && link["info_data"]["mode"] == "bridge", "{link:#}");
    change(&["attach"], json!({ "attach": "veth" }))?;
    check!(kind("edit3")?["info_kind"] == "veth", "no veth");
    change(
        &["networkAttachments"],
        json!({ "networkAttachments": { "namespaces": ["edited"], "ipam": { "type": "static" } } }),
    )?;
    for spoke in ["edit1", "edit2", "edit3"] {
        cluster.until(&format!("{}/{spoke}", definitions("edited")), |definition| {
            definition["spec"]["config"].as_str().is_some_and(|config| config.contains("static"))
        })?;
        cluster.until_gone(&format!("{}/{spoke}", definitions("default")))?;
    }
    change(
        &["allowedNamespaces"],
        json!({ "allowedNamespaces": ["edited"], "networkAttachments": { "namespaces": ["default"], "ipam": null } }),
    )?;
    let refused = |name: &str| -> Result<bool, String> {
        let (code, said) = cluster
            .kubectl_says(&["apply", "--dry-run=server", "-f", "-"], &PodOf::on(name, "edit3").manifest())
            .map_err(|stop| format!("{stop:?}"))?;
        Ok(code != Some(0) && said.contains("admits no pods of namespace default"))
    };
    cluster
        .eventually(|| if refused("edit-refused")? { Ok(()) } else { Err("a pod is admitted".to_owned()) })?;
    change(&["allowedNamespaces"], json!({ "allowedNamespaces": null }))?;
    change(&["deletionPolicy"], json!({ "deletionPolicy": "Force" }))?;

    // That this has all the fields that there are.
    let crd = cluster
        .get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/lans.lan.k8slan.io")
        .map_err(failed)?
        .unwrap_or_default();
    let fields = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    let all: BTreeSet<String> =
        fields.as_object().into_iter().flatten().map(|(field, _)| field.clone()).collect();
    check!(edited == all, "edited {edited:?}, of {all:?}");

    // As `deletionPolicy` says now.
    LAN.remove(cluster)?;
    for pod in ["edit-one", "edit-two"] {
        delete(cluster, pod)?;
    }
    Ok(())
}

/// The older one stands; the younger is refused and says whose it is, and is built when the older is gone.
fn two_lans_want_the_same(cluster: &Cluster) -> Outcome {
    const FIRST: Lan = Lan { name: "conflict-a", vni: 1042, spokes: &["conflict1"] };
    FIRST.apply(cluster)?;
    let later = |name: &'static str, change: &str, value: Value| {
        let mut lan = Lan { name, vni: 1043, spokes: &["conflict2"] }.manifest();
        lan["spec"][change] = value;
        lan
    };
    for (what, manifest) in [
        ("vni", later("conflict-b", "vni", json!(FIRST.vni))),
        ("ns", later("conflict-b", "ns", json!(FIRST.name))),
        ("spokes", later("conflict-b", "spokes", json!(["conflict2", "conflict1"]))),
    ] {
        const SECOND: Lan = Lan { name: "conflict-b", vni: 1043, spokes: &["conflict2"] };
        cluster.apply(&manifest.to_string())?;
        let refused = cluster.until(&SECOND.path(), |lan| condition(lan, "Accepted") == Some("False"))?;
        let told = refused["status"]["conditions"].as_array().into_iter().flatten();
        let told: Vec<&Value> = told.filter(|condition| condition["type"] == "Accepted").collect();
        let message = told[0]["message"].as_str().unwrap_or_default();
        check!(
            told[0]["reason"] == "Conflict" && message.contains("k8slan-system/conflict-a"),
            "{what}: {told:#?}"
        );
        if what != "ns" {
            for worker in &cluster.workers {
                check!(
                    !worker.list("/run/netns").iter().any(|name| name == SECOND.name),
                    "{what}: it is built"
                );
            }
        }
        // The older one does not notice.
        let first = cluster.until(&FIRST.path(), |_| true)?;
        check!(condition(&first, "Ready") == Some("True"), "{what}: {first:#}");
        if what != "spokes" {
            SECOND.remove(cluster)?;
            continue;
        }
        // The daemons stay ready, whatever a LAN is like.
        cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=5s")?;
        FIRST.remove(cluster)?;
        cluster.until(&SECOND.path(), |lan| {
            condition(lan, "Accepted") == Some("True") && condition(lan, "Ready") == Some("True")
        })?;
        spoke_is(cluster, "conflict1", "1")?;
        start(cluster, &PodOf::on("conflict", "conflict1").at("worker1"))?;
        delete(cluster, "conflict")?;
        SECOND.remove(cluster)?;
    }
    Ok(())
}

fn an_underlay_is_missing_appears_shrinks_and_goes(cluster: &Cluster) -> Outcome {
    const LAN: Lan = Lan { name: "underlay", vni: 1044, spokes: &["underlay1", "underlay2"] };
    const ONE: Ipv4Addr = Ipv4Addr::new(10, 144, 0, 1);
    const TWO: Ipv4Addr = Ipv4Addr::new(10, 144, 0, 2);
    let mut manifest = LAN.manifest();
    manifest["spec"]["defaultVxlanDev"] = json!("late0");
    manifest["spec"]["vxlanDevMap"] = json!({});
    cluster.apply(&manifest.to_string())?;
    let is = |reason: &'static str, nodes: &'static str| {
        cluster.until(&LAN.path(), move |lan| {
            lan["status"]["nodes"] == nodes && lan["status"]["reason"] == reason
        })
    };
    let missing = is("UnderlayMissing", "0/3")?;
    check!(missing["status"]["conditions"].to_string().contains("late0"), "{missing:#}");
    // It is the LAN's trouble alone.
    cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=5s")?;

    // A card is put in, on each node.
    let own = |node: &str| match node {
        "worker1" => "eth1",
        "worker2" => "eth2",
        _ => "eth0.10",
    };
    let plug = |node: &str| -> Outcome {
        let worker = cluster.worker(node)?;
        worker.ip(&format!("link add late0 link {} type macvlan mode bridge", own(node)))?;
        worker.ip("link set late0 up")?;
        Ok(())
    };
    for worker in &cluster.workers {
        plug(worker.name())?;
    }
    let whole = |mtu: i64| {
        cluster.until(&LAN.path(), move |lan| {
            lan["status"]["nodes"] == "3/3"
                && condition(lan, "Ready") == Some("True")
                && lan["status"]["mtu"] == mtu
        })
    };
    whole(1426)?;
    for spoke in LAN.spokes {
        spoke_is(cluster, spoke, "1")?;
    }
    let one = start(cluster, &PodOf::on("underlay-one", "underlay1").at("worker1"))?;
    let two = start(cluster, &PodOf::on("underlay-two", "underlay2").at("worker2"))?;
    give(cluster, &one, "net1", ONE)?;
    give(cluster, &two, "net1", TWO)?;
    pings(cluster, &one, "net1", TWO)?;

    // It shrinks on one node, and the LAN on all.
    cluster.worker("worker2")?.ip("link set late0 mtu 1400")?;
    let smaller = whole(1326)?;
    check!(condition(&smaller, "MtuUniform") == Some("False"), "{smaller:#}");
    event_of_lan(cluster, LAN.name, "UnequalMtu")?;
    cluster.eventually(|| {
        for pod in [&one, &two] {
            let link = cluster.netns(pod).map_err(|stop| format!("{stop:?}"))?.link("net1");
            match link {
                Ok(Some(link)) if link["mtu"] == 1326 => {}
                other => return Err(format!("{other:?}")),
            }
        }
        Ok(())
    })?;
    let netns = cluster.netns(&one)?;
    Ping::new(TWO).on("net1").filling(1326).run(&netns)?.perfect().map_err(failed)?;

    // The card is taken out on one node under its pod, and put in again.
    cluster.worker("worker1")?.ip("link delete late0")?;
    is("UnderlayMissing", "2/3")?;
    event_of_lan(cluster, LAN.name, "UnderlayMissing")?;
    cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=5s")?;
    plug("worker1")?;
    whole(1326)?;
    pings(cluster, &one, "net1", TWO)?;
    let same = ready(cluster, "underlay-one")?;
    check!(same["metadata"]["uid"] == one["metadata"]["uid"], "it is another pod");

    for pod in ["underlay-one", "underlay-two"] {
        delete(cluster, pod)?;
    }
    LAN.remove(cluster)?;
    for worker in &cluster.workers {
        worker.ip("link delete late0")?;
    }
    Ok(())
}

/// Waits for an event of a LAN.
fn event_of_lan(cluster: &Cluster, lan: &str, reason: &str) -> Outcome {
    cluster.eventually(|| {
        let events = cluster.list("/apis/events.k8s.io/v1/namespaces/k8slan-system/events")?;
        let mut own = events.iter().filter(|event| event["regarding"]["name"] == lan);
        if own.any(|event| event["reason"] == reason) {
            return Ok(());
        }
        Err(format!("no event {reason} of {lan}: {events:#?}"))
    })?;
    Ok(())
}
