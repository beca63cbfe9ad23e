//! The policy on blocks, evaluated as the API server does: each daemon writes its own node's.

use std::collections::HashMap;

use kube_cel::KubeCelExt;
use kube_cel::cel::{self, Context, Value as Cel};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, tests};

use crate::manifests::admission::{evaluate, program};
use crate::manifests::read;

const ACCOUNT: &str = "system:serviceaccount:k8slan-system:k8slan";

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        each_daemon_writes_its_own_nodes_blocks,
        each_daemon_writes_its_own_node_in_addresses,
        what_others_act_on_is_not_a_daemons,
        people_are_left_to_their_roles,
    ]
}

/// What of the policy says about a request.
struct Said {
    matches: bool,
    admitted: bool,
    message: String,
}

/// `before` and `after` are specifications.
fn ask(operation: &str, user: &Value, before: &Value, after: &Value) -> Result<Said, Stop> {
    let object =
        |spec: &Value| if spec.is_null() { Value::Null } else { json!({ "metadata": {}, "spec": spec }) };
    ask_policy("k8slan-blocks", operation, user, &object(before), &object(after))
}

fn ask_policy(
    policy: &str,
    operation: &str,
    user: &Value,
    before: &Value,
    after: &Value,
) -> Result<Said, Stop> {
    let documents = read("base/pool-admission.yaml")?;
    let is_it = |document: &&Value| {
        document["kind"] == "ValidatingAdmissionPolicy" && document["metadata"]["name"] == policy
    };
    let found = documents.iter().find(is_it);
    let spec = &found.ok_or_else(|| Stop::Failed(format!("no policy {policy}")))?["spec"];
    let mut context = Context::default();
    context.register_all();
    let mut put = |name: &str, value: &Value| -> Outcome {
        let value = cel::to_value(value).map_err(|e| Stop::Failed(format!("{name}: {e}")))?;
        context.add_variable_from_value(name, value);
        Ok(())
    };
    put("object", after)?;
    put("oldObject", before)?;
    put("request", &json!({ "operation": operation, "userInfo": user }))?;
    let bool = |text: &Value, context: &Context<'_>| match evaluate(&program(text)?, context)? {
        Cel::Bool(holds) => Ok(holds),
        other => Err(Stop::Failed(format!("{text} is {other:?}"))),
    };
    let matches = bool(&spec["matchConditions"][0]["expression"], &context)?;
    let mut variables: HashMap<String, Cel> = HashMap::new();
    for variable in spec["variables"].as_array().into_iter().flatten() {
        let value = evaluate(&program(&variable["expression"])?, &context)?;
        variables.insert(variable["name"].as_str().unwrap_or_default().to_owned(), value);
        context.add_variable_from_value("variables", variables.clone());
    }
    let validation = &spec["validations"][0];
    let admitted = bool(&validation["expression"], &context)?;
    let message = match evaluate(&program(&validation["messageExpression"])?, &context)? {
        Cel::String(text) => text.to_string(),
        other => return Err(Stop::Failed(format!("the message is {other:?}"))),
    };
    Ok(Said { matches, admitted, message })
}

fn daemon(node: &str) -> Value {
    json!({ "username": ACCOUNT, "extra": { "authentication.kubernetes.io/node-name": [node] } })
}

fn block(node: &str, edit: Value) -> Value {
    let mut block = json!({
        "pool": "office", "prefix": "10.0.0.0/28", "holder": { "node": node, "uid": "u", "term": 1, "fenced": false },
    });
    for (field, value) in edit.as_object().into_iter().flatten() {
        match field.as_str() {
            "released" | "contested" => block[field] = value.clone(),
            field => block["holder"][field] = value.clone(),
        }
    }
    block
}

fn each_daemon_writes_its_own_nodes_blocks() -> Outcome {
    let none = Value::Null;
    let own = block("worker1", json!({}));
    let other = |edit: Value| block("worker2", edit);
    let fenced = other(json!({ "fenced": true }));
    for (what, operation, before, after, admitted) in [
        ("its own is made", "CREATE", &none, &own, true),
        ("another's is made", "CREATE", &none, &other(json!({})), false),
        (
            "its own is changed",
            "UPDATE",
            &own,
            &block("worker1", json!({ "term": 2, "released": ["10.0.0.1"] })),
            true,
        ),
        ("its own is given away", "UPDATE", &own, &other(json!({})), false),
        ("another's is taken", "UPDATE", &other(json!({})), &own, false),
        ("a fenced one is taken", "UPDATE", &fenced, &own, false),
        ("another's is changed", "UPDATE", &other(json!({})), &other(json!({ "term": 2 })), false),
        ("it is released", "UPDATE", &other(json!({})), &other(json!({ "released": ["10.0.0.1"] })), false),
        ("it is contested", "UPDATE", &other(json!({})), &other(json!({ "contested": ["worker1"] })), true),
        (
            "so it is beside another",
            "UPDATE",
            &other(json!({ "contested": ["worker3"] })),
            &other(json!({ "contested": ["worker3", "worker1"] })),
            true,
        ),
        ("for another", "UPDATE", &other(json!({})), &other(json!({ "contested": ["worker3"] })), false),
        ("no more", "UPDATE", &other(json!({ "contested": ["worker1"] })), &other(json!({})), true),
        ("the leader fences", "UPDATE", &other(json!({})), &fenced, true),
        ("nobody but the node takes that back", "UPDATE", &fenced, &other(json!({})), false),
        ("its own is deleted", "DELETE", &own, &none, true),
        ("another's is deleted", "DELETE", &other(json!({})), &none, false),
        ("the leader frees", "DELETE", &fenced, &none, true),
    ] {
        let said = ask(operation, &daemon("worker1"), before, after)?;
        assert!(said.matches, "{what}");
        assert_eq!(said.admitted, admitted, "{what}: {}", said.message);
    }
    let said = ask("DELETE", &daemon("worker1"), &other(json!({})), &none)?;
    assert!(
        said.message.contains("held by node worker2, and the daemon of node worker1"),
        "{}",
        said.message
    );
    for unbound in [json!({ "username": ACCOUNT }), json!({ "username": ACCOUNT, "extra": {} })] {
        let said = ask("CREATE", &unbound, &none, &own)?;
        assert!(
            said.matches && !said.admitted && said.message.contains("bound to no node"),
            "{}",
            said.message
        );
    }
    Ok(())
}

fn each_daemon_writes_its_own_node_in_addresses() -> Outcome {
    let of = |owner: &str, holders: &[(&str, u64, bool)], contested: &[&str]| {
        let holders: Vec<Value> = holders
            .iter()
            .map(|(node, term, fenced)| json!({ "node": node, "uid": "u", "term": term, "fenced": fenced }))
            .collect();
        let owner = json!({ "kind": "VirtualMachine", "namespace": "a", "name": owner });
        json!({ "metadata": {}, "spec": {
            "pool": "office", "address": "10.0.0.5", "owner": owner, "holders": holders, "contested": contested } })
    };
    let none = Value::Null;
    let free = of("web", &[], &[]);
    let other = of("web", &[("worker2", 3, false)], &[]);
    let fenced = of("web", &[("worker2", 3, true)], &[]);
    let both = of("web", &[("worker2", 3, false), ("worker1", 1, false)], &[]);
    for (what, operation, before, after, admitted) in [
        ("one is made", "CREATE", &none, &free, true),
        ("its node is in it at once", "CREATE", &none, &of("web", &[("worker1", 0, false)], &[]), true),
        ("another's is", "CREATE", &none, &other, false),
        ("it joins", "UPDATE", &other, &both, true),
        (
            "it takes it again",
            "UPDATE",
            &both,
            &of("web", &[("worker2", 3, false), ("worker1", 2, false)], &[]),
            true,
        ),
        ("it leaves", "UPDATE", &both, &other, true),
        ("another leaves", "UPDATE", &both, &of("web", &[("worker1", 1, false)], &[]), false),
        ("another joins", "UPDATE", &free, &other, false),
        ("another's term", "UPDATE", &other, &of("web", &[("worker2", 4, false)], &[]), false),
        ("the leader fences", "UPDATE", &other, &fenced, true),
        ("nobody takes that back", "UPDATE", &fenced, &other, false),
        ("the leader frees", "UPDATE", &fenced, &free, true),
        ("it goes to another owner", "UPDATE", &other, &of("db", &[("worker2", 3, false)], &[]), false),
        ("what nobody has does", "UPDATE", &free, &of("db", &[], &[]), true),
        ("it contests", "UPDATE", &other, &of("web", &[("worker2", 3, false)], &["worker1"]), true),
        ("for another", "UPDATE", &other, &of("web", &[("worker2", 3, false)], &["worker3"]), false),
        ("what nobody has is deleted", "DELETE", &free, &none, true),
        ("what somebody has is", "DELETE", &fenced, &none, false),
    ] {
        let said = ask_policy("k8slan-addresses", operation, &daemon("worker1"), before, after)?;
        assert!(said.matches, "{what}");
        assert_eq!(said.admitted, admitted, "{what}: {}", said.message);
    }
    Ok(())
}

/// A reference to an owner that is not there would let the garbage collector delete the object.
fn what_others_act_on_is_not_a_daemons() -> Outcome {
    let address = json!({
        "pool": "office", "address": "10.0.0.5",
        "owner": { "kind": "VirtualMachine", "namespace": "a", "name": "web" } });
    for (policy, spec) in [("k8slan-blocks", block("worker2", json!({}))), ("k8slan-addresses", address)] {
        let with = |metadata: Value| json!({ "metadata": metadata, "spec": spec });
        for metadata in [
            json!({ "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "u" }] }),
            json!({ "finalizers": ["example.org/x"] }),
            json!({ "labels": { "lan.k8slan.io/node": "worker3" } }),
            json!({ "annotations": { "a": "b" } }),
        ] {
            let user = daemon("worker1");
            for (before, after) in [(json!({}), metadata.clone()), (metadata, json!({}))] {
                let said = ask_policy(policy, "UPDATE", &user, &with(before), &with(after.clone()))?;
                assert!(!said.admitted, "{policy} {after}");
            }
        }
    }
    Ok(())
}

fn people_are_left_to_their_roles() -> Outcome {
    for (name, matches) in [
        ("admin", false),
        ("system:serviceaccount:k8slan-uninstall:k8slan-cluster-uninstall", false),
        ("system:serviceaccount:elsewhere:k8slan", true),
    ] {
        let user = json!({ "username": name, "extra": {} });
        let said = ask("DELETE", &user, &block("worker1", json!({})), &Value::Null)?;
        assert_eq!(said.matches, matches, "{name}");
    }
    Ok(())
}
