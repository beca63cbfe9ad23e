//! The folder that LANs are built from follows the API server, and outlives it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use controller::MirrorState;
use k8slan_tests::apiserver::ApiServer;
use serde_json::{Value, json};
use testnet::{Error, Outcome, Trial, eventually, tests};
use tokio::sync::watch;

use crate::cluster::mirrored::mirrored;
use crate::cluster::{Background, check};

const GROUP: &str = "lan.k8slan.io/v1beta1";
const SOON: Duration = Duration::from_secs(2);
/// The first retry comes within a second or two.
const LATER: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        follows_adds_edits_and_deletions,
        a_bad_object_is_kept_for_the_reader_and_harms_no_other,
        the_folder_stays_while_the_server_is_away,
        history_that_is_gone_is_listed_again,
        what_went_while_nobody_listened_goes,
        only_the_named_namespaces,
        a_status_writes_no_file,
        the_nodes_host_name_stands_in_the_files,
        no_lan_is_read_before_the_node_has_its_names,
    ]
}

pub(crate) fn lan(namespace: &str, name: &str, vni: u32) -> Value {
    json!({
        "apiVersion": GROUP, "kind": "LAN", "metadata": { "namespace": namespace, "name": name },
        "spec": {
            "ns": format!("n{vni}"), "bridge": "br", "vxlan": "vx", "vni": vni, "defaultVxlanDev": "eth1",
            "spokes": [format!("s{vni}")],
        },
    })
}

struct Running {
    hearing: watch::Receiver<MirrorState>,
    _background: Background,
}

fn start(server: &ApiServer, dir: &Path, namespaces: &[&str]) -> Result<Running, testnet::Stop> {
    let background = Background::new();
    let client = background.client(&server.url());
    let namespaces = namespaces.iter().map(|&n| n.to_owned()).collect();
    let (mirror, folder) = mirrored(client, "worker1", namespaces, dir)?;
    let hearing = mirror.state();
    background.runtime().spawn(async move { tokio::join!(mirror.run(), folder).0 });
    Ok(Running { hearing, _background: background })
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn files(dir: &Path, wanted: &[&str], limit: Duration) -> Result<(), Error> {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| format!("{name}.yaml")).collect();
    eventually(limit, || match names(dir) {
        found if found == wanted => Ok(()),
        found => Err(format!("{found:?}")),
    })
}

fn contains(dir: &Path, name: &str, words: &str) -> Result<(), Error> {
    eventually(SOON, || {
        let text = std::fs::read_to_string(dir.join(format!("{name}.yaml"))).unwrap_or_default();
        if text.contains(words) { Ok(()) } else { Err(text) }
    })
}

fn follows_adds_edits_and_deletions() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let running = start(&server, dir.path(), &[])?;
    files(dir.path(), &["a.one"], SOON)?;
    server.put("lans", lan("b", "two", 2));
    files(dir.path(), &["a.one", "b.two"], SOON)?;
    let mut edited = lan("a", "one", 1);
    edited["spec"]["spokes"] = json!(["s1", "s9"]);
    server.put("lans", edited);
    contains(dir.path(), "a.one", "s9")?;
    server.delete("lans", GROUP, "a/one");
    files(dir.path(), &["b.two"], SOON)?;
    let hearing = running.hearing.borrow().clone();
    check!(hearing.up_to_date && hearing.error.is_none() && hearing.lans.len() == 1, "{hearing:?}");
    Ok(())
}

fn a_bad_object_is_kept_for_the_reader_and_harms_no_other() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    let mut bad = lan("a", "bad", 1);
    bad["spec"] = json!({ "ns": 7, "spokes": "all" });
    server.put("lans", bad);
    let mut none = lan("a", "none", 3);
    none.as_object_mut().unwrap().remove("spec");
    server.put("lans", none);
    server.put("lans", lan("a", "good", 2));
    let _running = start(&server, dir.path(), &[])?;
    files(dir.path(), &["a.bad", "a.good", "a.none"], SOON)?;
    Ok(())
}

fn is_shown(running: &Running) -> Result<(), Error> {
    eventually(LATER, || match running.hearing.borrow().clone() {
        hearing if hearing.error.is_some() => Ok(()),
        hearing => Err(format!("no error is shown: {hearing:?}")),
    })
}

fn the_folder_stays_while_the_server_is_away() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let running = start(&server, dir.path(), &[])?;
    files(dir.path(), &["a.one"], SOON)?;
    server.fault(|faults| faults.refuse = true);
    server.put("lans", lan("a", "two", 2));
    is_shown(&running)?;
    files(dir.path(), &["a.one"], SOON)?;
    // A daemon that starts meanwhile has what the last one left.
    drop(running);
    let running = start(&server, dir.path(), &[])?;
    files(dir.path(), &["a.one"], SOON)?;
    is_shown(&running)?;
    check!(!running.hearing.borrow().up_to_date, "it has heard nothing");
    server.fault(|faults| faults.refuse = false);
    files(dir.path(), &["a.one", "a.two"], LATER)?;
    eventually(SOON, || match running.hearing.borrow().clone() {
        hearing if hearing.up_to_date && hearing.error.is_none() && hearing.errors > 0 => Ok(()),
        hearing => Err(format!("{hearing:?}")),
    })?;
    for fault in [403, 500] {
        server.fault(|faults| faults.errors = vec![("GET".into(), fault)]);
        server.put("lans", lan("a", &format!("three-{fault}"), u32::from(fault)));
        is_shown(&running)?;
        server.fault(|faults| faults.errors.clear());
        eventually(Duration::from_secs(30), || {
            let name = format!("a.three-{fault}.yaml");
            if names(dir.path()).contains(&name) { Ok(()) } else { Err(format!("{name} is not there")) }
        })?;
    }
    server.fault(|faults| faults.delay = Duration::from_secs(1));
    server.put("lans", lan("a", "slow", 7));
    eventually(LATER, || match names(dir.path()).contains("a.slow.yaml") {
        true => Ok(()),
        false => Err("slow is not there".into()),
    })?;
    Ok(())
}

fn history_that_is_gone_is_listed_again() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    server.put("lans", lan("a", "two", 2));
    let running = start(&server, dir.path(), &[])?;
    files(dir.path(), &["a.one", "a.two"], SOON)?;
    server.fault(|faults| faults.refuse = true);
    server.delete("lans", GROUP, "a/one");
    server.put("lans", lan("a", "three", 3));
    server.forget_history();
    server.fault(|faults| faults.refuse = false);
    files(dir.path(), &["a.two", "a.three"], LATER)?;
    eventually(SOON, || match running.hearing.borrow().lans.len() {
        2 => Ok(()),
        count => Err(format!("{count} LANs are known")),
    })?;
    Ok(())
}

fn what_went_while_nobody_listened_goes() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    server.put("lans", lan("a", "two", 2));
    drop({
        let running = start(&server, dir.path(), &[])?;
        files(dir.path(), &["a.one", "a.two"], SOON)?;
        running
    });
    server.delete("lans", GROUP, "a/one");
    let _running = start(&server, dir.path(), &[])?;
    files(dir.path(), &["a.two"], SOON)?;
    Ok(())
}

fn only_the_named_namespaces() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    for (vni, namespace) in ["a", "b", "c"].into_iter().enumerate() {
        server.put("lans", lan(namespace, "lan", u32::try_from(vni).unwrap() + 1));
    }
    drop({
        let running = start(&server, dir.path(), &["a", "b"])?;
        files(dir.path(), &["a.lan", "b.lan"], SOON)?;
        eventually(SOON, || match running.hearing.borrow().clone() {
            hearing if hearing.up_to_date && hearing.lans.len() == 2 => Ok(()),
            hearing => Err(format!("{hearing:?}")),
        })?;
        running
    });
    let _running = start(&server, dir.path(), &["c", "b"])?;
    files(dir.path(), &["b.lan", "c.lan"], SOON)?;
    Ok(())
}

fn a_status_writes_no_file() -> Outcome {
    use std::os::unix::fs::MetadataExt;
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("lans", lan("a", "one", 1));
    let _running = start(&server, dir.path(), &[])?;
    files(dir.path(), &["a.one"], SOON)?;
    let inode = || std::fs::metadata(dir.path().join("a.one.yaml")).map(|m| m.ino());
    let before = inode()?;
    let mut object = server.get("lans", GROUP, "a/one").unwrap();
    object["status"] = json!({ "nodes": "3/3" });
    server.put("lans", object);
    server.put("lans", lan("a", "two", 2));
    files(dir.path(), &["a.one", "a.two"], SOON)?;
    check!(inode()? == before, "the file was written again");
    Ok(())
}

fn node(hostname: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "worker1", "labels": { "kubernetes.io/hostname": hostname } },
    })
}

fn the_nodes_host_name_stands_in_the_files() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.put("nodes", node("worker1"));
    server.put("lans", lan("a", "one", 1));
    let running = start(&server, dir.path(), &[])?;
    files(dir.path(), &["a.one"], SOON)?;
    let text = std::fs::read_to_string(dir.path().join("a.one.yaml"))?;
    check!(!text.contains("hostname"), "it is the node's name: {text}");
    // It changes while the daemon runs.
    server.put("nodes", node("host-1"));
    contains(dir.path(), "a.one", r#""lan.k8slan.io/hostname": "host-1""#)?;
    // A daemon that may not read nodes goes on with what the last one knew.
    drop(running);
    server.fault(|faults| faults.errors = vec![("/nodes".into(), 403)]);
    server.put("lans", lan("a", "two", 2));
    let _running = start(&server, dir.path(), &[])?;
    contains(dir.path(), "a.two", r#""lan.k8slan.io/hostname": "host-1""#)?;
    contains(dir.path(), "a.one", r#""lan.k8slan.io/hostname": "host-1""#)?;
    Ok(())
}

fn no_lan_is_read_before_the_node_has_its_names() -> Outcome {
    let (server, dir) = (ApiServer::start()?, tempfile::tempdir()?);
    server.fault(|faults| faults.errors = vec![("/nodes".into(), 500)]);
    server.put("nodes", node("host-1"));
    server.put("lans", lan("a", "one", 1));
    let running = start(&server, dir.path(), &[])?;
    is_shown(&running)?;
    check!(names(dir.path()).is_empty(), "a LAN is there without the node's names");
    server.fault(|faults| faults.errors.clear());
    eventually(LATER, || match names(dir.path()).len() {
        1 => Ok(()),
        count => Err(format!("{count} files")),
    })?;
    contains(dir.path(), "a.one", "host-1")?;
    Ok(())
}
