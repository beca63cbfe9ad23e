//! Checks of the cluster: Multus' API, our own, and KubeVirt's macvtap binding.

use std::time::Duration;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::finding::Finding;
use controller::list_lan_files;

/// How long a request to the API server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The binding's name, by which VMs choose it.
const BINDING: &str = "macvtap";
/// KubeVirt 1.1 to 1.4 need this gate for bindings; from 1.5 on they are always available.
const BINDING_GATE: &str = "NetworkBindingPlugins";
/// From 1.8 on, KubeVirt can leave it to a webhook to request a network's resource in the VM's pod; from 1.9 on it
/// does so unless this gate is switched off, and from 1.10 on always.
const INJECTION_GATE: &str = "ExternalNetResourceInjection";
const INJECTOR: &str = "network-resources-injector";

/// The LANs of the API server in the form of this node's mirror, or why they cannot be read; `None` if no API server
/// is configured.
pub(super) fn lans(node: &str) -> Option<Result<Vec<(String, String)>, String>> {
    let asked = async {
        let client = Client::try_default().await.ok()?;
        Some(match tokio::time::timeout(REQUEST_TIMEOUT, list_lan_files(&client, node)).await {
            Ok(answer) => answer.map_err(|error| format!("{:#}", anyhow::Error::from(error))),
            Err(_) => Err(format!("no answer within {REQUEST_TIMEOUT:?}")),
        })
    };
    match runtime() {
        Ok(runtime) => runtime.block_on(asked),
        Err(error) => Some(Err(error.to_string())),
    }
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Checks the API server, if one is configured.
pub(super) fn check() -> Vec<Finding> {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Finding::not_looked_at("cluster", error.to_string())],
    };
    runtime.block_on(async {
        let client = match Client::try_default().await {
            Ok(client) => client,
            Err(_) => {
                let why = "there is no kubeconfig here (KUBECONFIG) and this is not a pod";
                return ["Multus' API", "LAN API", "KubeVirt"]
                    .map(|check| Finding::not_looked_at(check, why))
                    .into();
            }
        };
        let mut findings = Vec::new();
        let Some(multus) = group(&client, "k8s.cni.cncf.io/v1", &mut findings).await else { return findings };
        findings.push(match multus {
            Some(kinds) if kinds.iter().any(|kind| kind == "NetworkAttachmentDefinition") => {
                Finding::fine("Multus' API", "NetworkAttachmentDefinition is served")
            }
            _ => Finding::failure(
                "Multus' API",
                "the cluster has no NetworkAttachmentDefinition (k8s.cni.cncf.io/v1)",
                "install Multus, or at least its CRD",
            ),
        });
        let Some(lans) = group(&client, "lan.k8slan.io/v1beta1", &mut findings).await else {
            return findings;
        };
        findings.push(match lans {
            Some(_) => Finding::fine("LAN API", "lan.k8slan.io/v1beta1 is served"),
            None => Finding::warning(
                "LAN API",
                "the cluster has no LAN objects yet",
                "kubectl apply -f install/crds.yaml",
            ),
        });
        let Some(kubevirt) = group(&client, "kubevirt.io/v1", &mut findings).await else { return findings };
        match kubevirt {
            None => findings.push(Finding::fine("KubeVirt", "it is not installed; pods need none")),
            Some(_) => kubevirt_findings(&client, &mut findings).await,
        }
        findings
    })
}

/// The kinds of a version of an API group: `Some(None)` if it is not served, `None` if the request fails, which is
/// added to the findings.
async fn group(client: &Client, version: &str, findings: &mut Vec<Finding>) -> Option<Option<Vec<String>>> {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, client.list_api_group_resources(version)).await;
    let why = match answer {
        Ok(Ok(list)) => {
            return Some(Some(list.resources.into_iter().map(|resource| resource.kind).collect()));
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Some(None),
        Ok(Err(error)) => format!("{:#}", anyhow::Error::from(error)),
        Err(_) => format!("no answer within {REQUEST_TIMEOUT:?}"),
    };
    findings.push(Finding::warning(
        "API server",
        why,
        "mend KUBECONFIG, or unset it to leave the cluster out",
    ));
    None
}

async fn list(client: &Client, group: &str, version: &str, kind: &str) -> Result<Vec<DynamicObject>, String> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    match tokio::time::timeout(REQUEST_TIMEOUT, api.list(&ListParams::default())).await {
        Ok(Ok(list)) => Ok(list.items),
        Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
        Err(_) => Err(format!("no answer within {REQUEST_TIMEOUT:?}")),
    }
}

async fn kubevirt_findings(client: &Client, findings: &mut Vec<Finding>) {
    match list(client, "kubevirt.io", "v1", "KubeVirt").await {
        Err(error) => findings.push(Finding::not_looked_at("KubeVirt", error)),
        Ok(objects) if objects.is_empty() => {
            findings.push(Finding::warning(
                "KubeVirt",
                "its API is served, and no KubeVirt object is there",
                "create it",
            ));
        }
        Ok(objects) => {
            for object in objects {
                let kubevirt = KubeVirt::parse(&object);
                findings.push(kubevirt.binding());
                if kubevirt.leaves_resources_to_a_webhook() {
                    let webhooks =
                        list(client, "admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration")
                            .await;
                    findings.push(kubevirt.injection(webhooks.map(|list| has_injector(&list))));
                }
            }
        }
    }
}

fn has_injector(webhooks: &[DynamicObject]) -> bool {
    let is = |name: Option<&str>| name.is_some_and(|name| name.contains(INJECTOR));
    webhooks.iter().any(|configuration| {
        let hooks = configuration.data["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
        is(configuration.metadata.name.as_deref()) || hooks.iter().any(|hook| is(hook["name"].as_str()))
    })
}

/// What the checks need of a KubeVirt object.
struct KubeVirt {
    namespace: String,
    name: String,
    /// Major and minor number, after KubeVirt has been rolled out.
    version: Option<(u32, u32)>,
    shown_version: String,
    gates: Vec<String>,
    disabled: Vec<String>,
    /// The attachment type of the binding; `None` if there is no such binding.
    binding: Option<String>,
    /// The operator that owns the object and may undo changes.
    owner: Option<String>,
}

impl KubeVirt {
    fn parse(object: &DynamicObject) -> Self {
        let configuration = &object.data["spec"]["configuration"];
        let texts = |value: &Value| -> Vec<String> {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            list.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let developer = &configuration["developerConfiguration"];
        let shown =
            object.data["status"]["observedKubeVirtVersion"].as_str().unwrap_or("of an unknown version");
        let binding = configuration["network"]["binding"].get(BINDING);
        Self {
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
            version: version(shown),
            shown_version: shown.to_owned(),
            gates: texts(&developer["featureGates"]),
            disabled: texts(&developer["disabledFeatureGates"]),
            binding: binding.map(|it| it["domainAttachmentType"].as_str().unwrap_or_default().to_owned()),
            owner: object.metadata.owner_references.iter().flatten().next().map(|owner| owner.kind.clone()),
        }
    }

    /// The command that applies this configuration, with advice.
    fn patch(&self, configuration: &Value) -> String {
        let patch = json!({ "spec": { "configuration": configuration } });
        let mut advice =
            format!("kubectl -n {} patch kubevirt {} --type=merge -p '{patch}'", self.namespace, self.name);
        if let Some(owner) = &self.owner {
            advice.push_str(&format!("; it belongs to a {owner}, which may undo that: set it there if so"));
        }
        advice
    }

    /// Whether VMs can use a macvtap.
    fn binding(&self) -> Finding {
        let check = format!("KubeVirt {}/{}", self.namespace, self.name);
        if self.version.is_some_and(|version| version < (1, 1)) {
            let found = format!("{} has no network bindings", self.shown_version);
            return Finding::failure(check, found, "update KubeVirt to 1.5 or later");
        }
        let has_binding = self.binding.as_deref() == Some("tap");
        let needs_gate = self.version.is_none_or(|version| version < (1, 5));
        let has_gate = !needs_gate || self.gates.iter().any(|gate| gate == BINDING_GATE);
        let mut configuration = json!({});
        let mut missing = Vec::new();
        if !has_binding {
            configuration["network"] = json!({ "binding": { BINDING: { "domainAttachmentType": "tap" } } });
            missing.push(match &self.binding {
                None => format!("it has no network binding {BINDING}"),
                Some(other) => {
                    format!("its network binding {BINDING} has domainAttachmentType {other:?}, not \"tap\"")
                }
            });
        }
        if !has_gate {
            // A merge patch replaces the list, so it has the existing gates too.
            let mut gates = self.gates.clone();
            gates.push(BINDING_GATE.to_owned());
            configuration["developerConfiguration"] = json!({ "featureGates": gates });
            missing.push(format!("its feature gate {BINDING_GATE} is off, which versions before 1.5 need"));
        }
        if missing.is_empty() {
            return Finding::fine(
                check,
                format!("{}, with the network binding {BINDING}", self.shown_version),
            );
        }
        let found = format!("{}: {}", self.shown_version, missing.join(", and "));
        Finding::failure(check, found, self.patch(&configuration))
    }

    /// Whether KubeVirt does not itself request the resource of a network in the VM's pod.
    fn leaves_resources_to_a_webhook(&self) -> bool {
        let has = |list: &[String]| list.iter().any(|gate| gate == INJECTION_GATE);
        match self.version {
            Some(version) if version >= (1, 10) => true,
            Some(version) if version >= (1, 9) => !has(&self.disabled),
            Some(version) if version >= (1, 8) => has(&self.gates),
            _ => false,
        }
    }

    /// Whether a webhook requests the resource instead.
    fn injection(&self, injector: Result<bool, String>) -> Finding {
        let check = format!("KubeVirt {}/{}: devices", self.namespace, self.name);
        match injector {
            Ok(true) => Finding::fine(check, format!("{INJECTOR} asks for the networks' devices")),
            Err(error) => Finding::not_looked_at(
                check,
                format!("{} leaves it to a webhook to ask for the networks' devices, and webhooks cannot be listed: {error}", self.shown_version),
            )
            .with_advice(format!("see to it that {INJECTOR} is installed")),
            Ok(false) => {
                let found = format!(
                    "{} leaves it to {INJECTOR} to ask for the networks' devices, and no such webhook is there: VMs get no tap",
                    self.shown_version
                );
                let mut advice = format!("install {INJECTOR}");
                if self.version.is_some_and(|version| version < (1, 10)) {
                    let mut disabled = self.disabled.clone();
                    disabled.push(INJECTION_GATE.to_owned());
                    let gates: Vec<&String> = self.gates.iter().filter(|gate| *gate != INJECTION_GATE).collect();
                    let mut developer = json!({ "disabledFeatureGates": disabled });
                    if gates.len() < self.gates.len() {
                        developer["featureGates"] = json!(gates);
                    }
                    advice.push_str(", or ");
                    advice.push_str(&self.patch(&json!({ "developerConfiguration": developer })));
                }
                Finding::failure(check, found, advice)
            }
        }
    }
}

/// Major and minor number of a version like `v1.6.0-rc.1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split(['.', '-', '+']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check_host::Level;

    fn kubevirt(version: &str, configuration: &Value) -> KubeVirt {
        let object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
            "metadata": { "name": "kubevirt", "namespace": "kubevirt" },
            "spec": { "configuration": configuration },
            "status": { "observedKubeVirtVersion": version },
        });
        KubeVirt::parse(&serde_json::from_value(object).unwrap())
    }

    fn bound() -> Value {
        json!({ "network": { "binding": { "macvtap": { "domainAttachmentType": "tap" } } } })
    }

    #[test]
    fn what_is_missing_is_in_one_patch_that_takes_nothing_away() {
        let old = kubevirt("v1.4.2", &json!({ "developerConfiguration": { "featureGates": ["Sidecar"] } }));
        let finding = old.binding();
        assert_eq!(finding.result, Level::Failure);
        let advice = finding.advice.unwrap();
        let patch = advice.split_once("-p '").unwrap().1.trim_end_matches('\'');
        let patch: Value = serde_json::from_str(patch).unwrap();
        let configuration = &patch["spec"]["configuration"];
        assert_eq!(configuration["network"], bound()["network"]);
        assert_eq!(
            configuration["developerConfiguration"]["featureGates"],
            json!(["Sidecar", "NetworkBindingPlugins"])
        );
        assert!(advice.starts_with("kubectl -n kubevirt patch kubevirt kubevirt --type=merge"), "{advice}");
    }

    #[test]
    fn the_gate_is_needed_before_1_5() {
        assert_eq!(kubevirt("v1.5.0", &bound()).binding().result, Level::Fine);
        let old = kubevirt("v1.4.0", &bound()).binding();
        assert!(!old.advice.unwrap().contains("domainAttachmentType"));
        assert_eq!(kubevirt("v0.59.0", &bound()).binding().result, Level::Failure);
        let other = json!({ "network": { "binding": { "macvtap": { "sidecarImage": "x" } } } });
        assert!(kubevirt("v1.6.0", &other).binding().found.contains("not \"tap\""));
    }

    #[test]
    fn who_asks_for_the_device_depends_on_the_version() {
        let gate = |list: &str| json!({ "developerConfiguration": { list: [INJECTION_GATE] } });
        let leaves =
            |version, configuration: Value| kubevirt(version, &configuration).leaves_resources_to_a_webhook();
        assert!(!leaves("v1.7.0", json!({})) && !leaves("v1.8.1", json!({})) && leaves("v1.9.0", json!({})));
        assert!(leaves("v1.8.1", gate("featureGates")) && !leaves("v1.9.0", gate("disabledFeatureGates")));
        assert!(leaves("v1.10.0", gate("disabledFeatureGates")));
        let advice = kubevirt("v1.9.0", &json!({})).injection(Ok(false)).advice.unwrap();
        assert!(advice.contains(r#""disabledFeatureGates":["ExternalNetResourceInjection"]"#), "{advice}");
        assert!(!kubevirt("v1.10.0", &json!({})).injection(Ok(false)).advice.unwrap().contains("patch"));
    }
}
