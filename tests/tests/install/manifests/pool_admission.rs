//! The policy on blocks, evaluated as the API server does: each daemon writes its own node's.

use std::collections::HashMap;

use kube_cel::KubeCelExt;
use kube_cel::cel::{self, Context, Value as Cel};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, tests};

use crate::manifests::admission::{evaluate, program};
use crate::manifests::{of_kind, read};

const ACCOUNT: &str = "system:serviceaccount:k8slan-system:k8slan";

pub(crate) fn trials() -> Vec<Trial> {
    tests![each_daemon_writes_its_own_nodes_blocks, people_are_left_to_their_roles]
}

/// What of the policy says about a request.
struct Said {
    matches: bool,
    admitted: bool,
    message: String,
}

fn ask(operation: &str, user: &Value, before: &Value, after: &Value) -> Result<Said, Stop> {
    let documents = read("base/pool-admission.yaml")?;
    let spec = &of_kind(&documents, "ValidatingAdmissionPolicy")?["spec"];
    let mut context = Context::default();
    context.register_all();
    let mut put = |name: &str, value: &Value| -> Outcome {
        let value = cel::to_value(value).map_err(|e| Stop::Failed(format!("{name}: {e}")))?;
        context.add_variable_from_value(name, value);
        Ok(())
    };
    let object = |spec: &Value| if spec.is_null() { Value::Null } else { json!({ "spec": spec }) };
    put("object", &object(after))?;
    put("oldObject", &object(before))?;
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
