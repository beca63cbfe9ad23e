//! The health of a LAN as Argo CD computes it, by Lua.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, finish_reading, needs, tests};

use crate::manifests::{install, read};

pub(crate) fn trials() -> Vec<Trial> {
    tests![the_config_map_has_the_script, a_lan_is_as_healthy_as_its_conditions]
}

fn script() -> Result<String, Stop> {
    Ok(fs::read_to_string(install().join("argocd/lan-health.lua"))?)
}

fn the_config_map_has_the_script() -> Outcome {
    let patch = read("argocd/argocd-cm.yaml")?;
    assert_eq!(
        patch[0]["data"]["resource.customizations.health.lan.k8slan.io_LAN"].as_str(),
        Some(&*script()?)
    );
    Ok(())
}

/// A value as Lua writes it: what is null is not there.
fn lua(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Array(items) => format!("{{{}}}", items.iter().map(lua).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("[\"{name}\"] = {}", lua(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

fn health(status: &Value) -> Result<(String, String), Stop> {
    let object = json!({ "metadata": { "name": "lan-test", "generation": 3 }, "status": status });
    let program = format!(
        "obj = {}\nlocal function health()\n{}end\nlocal hs = health()\nprint(hs.status)\nprint(hs.message)\n",
        lua(&object),
        script()?
    );
    let output = finish_reading(Command::new("lua5.4").arg("-"), program.as_bytes())?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}\n{program}", String::from_utf8_lossy(&output.stderr));
    let (status, message) = said.trim_end().split_once('\n').unwrap_or((&said, ""));
    Ok((status.to_owned(), message.to_owned()))
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, generation: i64) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": generation })
}

fn a_lan_is_as_healthy_as_its_conditions() -> Outcome {
    needs("lua5.4")?;
    let accepted = || condition("Accepted", "True", "Accepted", "", 3);
    let ready = |generation| condition("Ready", "True", "Built", "built on 2 nodes", generation);
    let of =
        |conditions: Vec<Value>| json!({ "observedGeneration": 3, "nodes": "2/2", "conditions": conditions });
    let missing = condition("Ready", "False", "UnderlayMissing", "worker1: underlay eth1 does not exist", 3);
    let nobody = condition("Ready", "Unknown", "NoNode", "no node has looked at it yet", 3);
    let refused = condition("Accepted", "False", "Conflict", "VNI 222 belongs to LAN x/first", 3);
    let definitions =
        condition("NetworkAttachments", "False", "Incomplete", "default/pod1 is not k8slan's", 3);
    let deleting = condition("Deleting", "True", "InUse", "waits for one attachment", 3);
    let shared = condition("SpokesShared", "True", "OnSeveralNodes", "spoke pod1", 3);
    for (status, expected, words) in [
        (Value::Null, "Progressing", "no node has looked at it yet"),
        (json!({}), "Progressing", "no node has looked at it yet"),
        (of(vec![accepted(), ready(3)]), "Healthy", "ready on 2/2 nodes"),
        (of(vec![accepted(), ready(3), shared]), "Healthy", "ready on 2/2 nodes"),
        (of(vec![accepted(), ready(2)]), "Progressing", "newest specification"),
        (of(vec![accepted(), nobody]), "Progressing", "no node"),
        (
            of(vec![accepted(), missing.clone()]),
            "Degraded",
            "UnderlayMissing: worker1: underlay eth1 does not exist",
        ),
        (of(vec![refused, missing.clone()]), "Degraded", "Conflict: VNI 222"),
        (of(vec![accepted(), ready(3), definitions]), "Degraded", "Incomplete: default/pod1"),
        (of(vec![accepted(), missing, deleting]), "Progressing", "InUse: waits for one attachment"),
    ] {
        let (health, message) = health(&status)?;
        assert!(health == expected && message.contains(words), "{status}: {health}, {message}");
    }
    Ok(())
}
