//! The admission policy's expressions, evaluated as the API server does: once for each LAN, and all must hold.

use std::collections::HashMap;

use kube_cel::KubeCelExt;
use kube_cel::cel::{self, Context, Program, Value as Cel};
use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, tests};

use crate::manifests::{of_kind, read};

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        a_pod_of_a_namespace_that_is_not_allowed_is_refused,
        everybody_else_passes,
        k8slan_gos_names_are_a_spokes_too,
        an_error_lets_the_pod_pass_to_the_plugin,
        the_binding_reads_every_lan_of_the_system_namespace,
        the_lan_is_read_by_variables_alone
    ]
}

/// The policy as it is in the manifest.
struct Policy {
    variables: Vec<(String, Program)>,
    expression: Program,
    message: Program,
}

impl Policy {
    fn read() -> Result<Self, Stop> {
        let documents = read("base/admission.yaml")?;
        let spec = &of_kind(&documents, "ValidatingAdmissionPolicy")?["spec"];
        let variables = spec["variables"].as_array().into_iter().flatten();
        let variables = variables
            .map(|variable| {
                let name = variable["name"].as_str().unwrap_or_default().to_owned();
                Ok((name, program(&variable["expression"])?))
            })
            .collect::<Result<_, Stop>>()?;
        let validations = spec["validations"].as_array().map(Vec::as_slice).unwrap_or_default();
        let [validation] = validations else {
            return Err(Stop::Failed(format!("not one validation: {validations:?}")));
        };
        Ok(Self {
            variables,
            expression: program(&validation["expression"])?,
            message: program(&validation["messageExpression"])?,
        })
    }

    /// Whether a pod passes as to one LAN; otherwise the message.
    fn admits(&self, pod: &Value, namespace: &str, lan: &Value) -> Result<Option<String>, Stop> {
        let mut context = Context::default();
        context.register_all();
        let mut put = |name: &str, value: &Value| -> Outcome {
            let value = cel::to_value(value).map_err(|e| Stop::Failed(format!("{name}: {e}")))?;
            context.add_variable_from_value(name, value);
            Ok(())
        };
        put("object", pod)?;
        put("params", lan)?;
        put("request", &json!({"namespace": namespace, "operation": "CREATE"}))?;
        let mut variables: HashMap<String, Cel> = HashMap::new();
        for (name, program) in &self.variables {
            // They are evaluated when they are asked for, and that of the message reads spokes that a LAN may lack.
            if name == "refused" && lan["spec"]["spokes"].is_null() {
                continue;
            }
            variables.insert(name.clone(), evaluate(program, &context)?);
            // Each may use those before it.
            context.add_variable_from_value("variables", variables.clone());
        }
        match evaluate(&self.expression, &context)? {
            Cel::Bool(true) => Ok(None),
            Cel::Bool(false) => match evaluate(&self.message, &context)? {
                Cel::String(text) => Ok(Some(text.to_string())),
                other => Err(Stop::Failed(format!("the message is {other:?}"))),
            },
            other => Err(Stop::Failed(format!("the answer is {other:?}"))),
        }
    }
}

pub(crate) fn program(text: &Value) -> Result<Program, Stop> {
    let text = text.as_str().unwrap_or_default();
    Program::compile(text).map_err(|error| Stop::Failed(format!("{text}: {error}")))
}

pub(crate) fn evaluate(program: &Program, context: &Context<'_>) -> Result<Cel, Stop> {
    program.execute(context).map_err(|error| Stop::Failed(error.to_string()))
}

fn lan(allowed: Option<&[&str]>) -> Value {
    let mut lan = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LAN",
        "metadata": {"namespace": "k8slan-system", "name": "lan-test"},
        "spec": {"ns": "knlvrf", "bridge": "br2", "vxlan": "vx2", "vni": 222, "spokes": ["pod1", "pod2"]},
    });
    if let Some(allowed) = allowed {
        lan["spec"]["allowedNamespaces"] = json!(allowed);
    }
    lan
}

fn k8slan_gos_names_are_a_spokes_too() -> Outcome {
    let policy = Policy::read()?;
    let lan = lan(Some(&["web"]));
    let asks = |name: &str| pod(&[json!({"limits": {format!("macvtap.k8slan.io/{name}"): "1"}})]);
    for name in [
        "k8slan-mac-pod1",
        "k8slan-veth-pod2",
        "k8slan-mac-lan-test-pod1",
        "k8slan-veth-lan-test-pod2",
        "pod1",
    ] {
        let said = policy.admits(&asks(name), "shop", &lan)?;
        assert!(
            said.as_deref().is_some_and(|said| said.contains("macvtap.k8slan.io/pod")),
            "{name}: {said:?}"
        );
        assert_eq!(policy.admits(&asks(name), "web", &lan)?, None, "{name}");
    }
    for other in [
        "k8slan-mac-pod3",
        "k8slan-mac-lan-other-pod1",
        "k8slan-mac-",
        "k8slan-veth-lan-test-",
        "k8slan-mac-lan-testpod1",
    ] {
        assert_eq!(policy.admits(&asks(other), "shop", &lan)?, None, "{other}");
    }
    Ok(())
}

/// A pod whose containers have these limits.
fn pod(containers: &[Value]) -> Value {
    let containers: Vec<Value> = containers
        .iter()
        .map(|resources| match resources {
            Value::Null => json!({"name": "c", "image": "i"}),
            resources => json!({"name": "c", "image": "i", "resources": resources}),
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-"}, "spec": {"containers": containers}})
}

fn wants(spoke: &str) -> Value {
    let resource = format!("macvtap.k8slan.io/{spoke}");
    json!({"limits": {"cpu": "1", &resource: "1"}, "requests": {&resource: "1"}})
}

fn a_pod_of_a_namespace_that_is_not_allowed_is_refused() -> Outcome {
    let policy = Policy::read()?;
    let mut init = pod(&[Value::Null]);
    init["spec"]["initContainers"] = json!([{"name": "i", "image": "i", "resources": wants("pod1")}]);
    for (pod, spoke) in [
        (pod(&[wants("pod1")]), "pod1"),
        (pod(&[Value::Null, json!({"requests": {"cpu": "1"}}), wants("pod2")]), "pod2"),
        (init, "pod1"),
    ] {
        for allowed in [&[][..], &["blue"], &["blue", "reds"]] {
            let message = policy.admits(&pod, "red", &lan(Some(allowed)))?;
            let message = message.ok_or_else(|| Stop::Failed(format!("{pod} passed {allowed:?}")))?;
            assert_eq!(
                message,
                format!(
                    "LAN k8slan-system/lan-test admits no pods of namespace red: add it to the LAN's allowedNamespaces, \
                     or take out the request for macvtap.k8slan.io/{spoke}"
                )
            );
        }
    }
    let both = policy.admits(&pod(&[wants("pod1"), wants("pod2")]), "red", &lan(Some(&[])))?;
    assert!(both.is_some_and(|text| text.ends_with("macvtap.k8slan.io/pod1, macvtap.k8slan.io/pod2")));
    Ok(())
}

fn everybody_else_passes() -> Outcome {
    let policy = Policy::read()?;
    let no_spokes = {
        let mut lan = lan(Some(&[]));
        lan["spec"]["spokes"] = Value::Null;
        lan["spec"].as_object_mut().and_then(|spec| spec.remove("spokes"));
        lan
    };
    for (pod, lan) in [
        // Absent: all.
        (pod(&[wants("pod1")]), lan(None)),
        (pod(&[wants("pod1")]), lan(Some(&["blue", "red"]))),
        // Another LAN's spoke, and one whose name only begins like it.
        (pod(&[wants("other")]), lan(Some(&[]))),
        (pod(&[wants("pod11")]), lan(Some(&[]))),
        (pod(&[Value::Null]), lan(Some(&[]))),
        (pod(&[json!({})]), lan(Some(&["blue"]))),
        (pod(&[json!({"limits": {"cpu": "1"}})]), lan(Some(&["blue"]))),
        (pod(&[wants("pod1")]), no_spokes),
    ] {
        let message = policy.admits(&pod, "red", &lan)?;
        assert_eq!(message, None, "{pod} {lan}");
    }
    Ok(())
}

fn an_error_lets_the_pod_pass_to_the_plugin() -> Outcome {
    let documents = read("base/admission.yaml")?;
    let spec = &of_kind(&documents, "ValidatingAdmissionPolicy")?["spec"];
    // Otherwise no pod at all could be made in a cluster whose CRDs are gone and whose policy is not.
    assert_eq!(spec["failurePolicy"], "Ignore");
    assert_eq!(spec["matchConstraints"]["resourceRules"].as_array().map(Vec::len), Some(1));
    assert_eq!(spec["matchConstraints"]["resourceRules"][0]["resources"], json!(["pods"]));
    Ok(())
}

fn the_binding_reads_every_lan_of_the_system_namespace() -> Outcome {
    let documents = read("base/admission.yaml")?;
    let policy = of_kind(&documents, "ValidatingAdmissionPolicy")?;
    let binding = of_kind(&documents, "ValidatingAdmissionPolicyBinding")?;
    assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
    let crd = &read("crds/lan.k8slan.io_lans.yaml")?[0]["spec"];
    let kind = &policy["spec"]["paramKind"];
    assert_eq!(kind["kind"], crd["names"]["kind"]);
    let version = format!(
        "{}/{}",
        crd["group"].as_str().unwrap_or_default(),
        crd["versions"][0]["name"].as_str().unwrap_or_default()
    );
    assert_eq!(kind["apiVersion"], version);
    // Namespaced parameters without a namespace would be looked for in the pod's own.
    let reference = &binding["spec"]["paramRef"];
    assert_eq!(reference["namespace"], "k8slan-system");
    assert_eq!(reference["selector"], json!({}));
    assert_eq!(reference["parameterNotFoundAction"], "Allow");
    Ok(())
}

/// Kubernetes up to 1.35 declares `params` to its check of types only if the schema of the LANs is published at the moment when
/// the policy comes, looks once, and looks into no variable.
fn the_lan_is_read_by_variables_alone() -> Outcome {
    let documents = read("base/admission.yaml")?;
    let spec = &of_kind(&documents, "ValidatingAdmissionPolicy")?["spec"];
    let checked = ["validations", "auditAnnotations", "matchConditions"].map(|part| spec[part].to_string());
    assert!(checked[0].contains("variables.") && !checked.concat().contains("params"), "{checked:?}");
    Ok(())
}
