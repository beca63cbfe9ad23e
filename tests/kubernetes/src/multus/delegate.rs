//! The plugins that a pod's networks name, and how they are called: libcni's part.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use netplumb::{Netlink, Netns};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::Api;
use super::arguments;
use super::call::Call;
use super::device::Devices;

const KEPT: &str = "/var/lib/cni/multus";

/// A network of the pod, as it is kept for DEL.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Delegate {
    /// The key of its definition, `<namespace>/<name>`.
    name: String,
    ifname: String,
    /// Of one plugin, or a list.
    config: Value,
    /// The first one: the cluster's own network.
    cluster: bool,
    mac: Option<String>,
    #[serde(default)]
    ips: Vec<String>,
    device: Option<String>,
}

/// One network in the pod's annotation.
#[derive(Clone, Debug, Default, Deserialize)]
struct Wanted {
    name: String,
    namespace: Option<String>,
    interface: Option<String>,
    mac: Option<String>,
    #[serde(default)]
    ips: Vec<String>,
    #[serde(rename = "cni-args")]
    cni_args: Option<serde_json::Map<String, Value>>,
}

/// The networks of the pod's annotation.
pub(super) fn of_pod(api: &Api, pod: &Value) -> Result<Vec<Delegate>, String> {
    let text = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"].as_str().unwrap_or_default();
    // As for Multus, nothing is no network.
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let own = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    // Asked for when the first definition names a resource.
    let mut devices: Option<Devices> = None;
    let mut delegates = Vec::new();
    for (number, wanted) in wanted(text)?.into_iter().enumerate() {
        let namespace = wanted.namespace.as_deref().unwrap_or(own);
        let definition = api.definition(namespace, &wanted.name)?;
        let resource = definition["metadata"]["annotations"]["k8s.v1.cni.cncf.io/resourceName"].as_str();
        let device = match (resource, &mut devices) {
            (Some(resource), Some(devices)) => devices.take(resource),
            (Some(resource), none) => none.insert(Devices::of(pod)?).take(resource),
            (None, _) => None,
        };
        let config = definition["spec"]["config"].as_str().unwrap_or_default();
        let mut config: Value = serde_json::from_str(config).map_err(|error| {
            format!(
                "the config of network-attachment-definition {namespace}/{} is no JSON: {error}",
                wanted.name
            )
        })?;
        if config["name"].as_str().is_none_or(str::is_empty) {
            config["name"] = json!(wanted.name);
        }
        for plugin in plugins(&mut config) {
            if let Some(device) = &device {
                plugin["deviceID"] = json!(device);
                plugin["pciBusID"] = json!(device);
            }
            for (key, value) in wanted.cni_args.iter().flatten() {
                plugin["args"]["cni"][key] = value.clone();
            }
        }
        delegates.push(Delegate {
            name: format!("{namespace}/{}", wanted.name),
            ifname: wanted.interface.unwrap_or_else(|| format!("net{}", number + 1)),
            config,
            cluster: false,
            mac: wanted.mac,
            ips: wanted.ips,
            device,
        });
    }
    Ok(delegates)
}

/// JSON, or `<namespace>/<name>@<interface>` with commas in between.
fn wanted(text: &str) -> Result<Vec<Wanted>, String> {
    if text.contains(['[', '{', '"']) {
        return serde_json::from_str(text).map_err(|error| {
            format!("failed to parse pod Network Attachment Selection Annotation JSON format: {error}")
        });
    }
    let one = |item: &str| {
        let (name, interface) =
            item.split_once('@').map_or((item, None), |(name, ifname)| (name, Some(ifname)));
        let (namespace, name) =
            name.split_once('/').map_or((None, name), |(space, name)| (Some(space), name));
        Wanted {
            name: name.trim().to_owned(),
            namespace: namespace.map(|namespace| namespace.trim().to_owned()),
            interface: interface.map(|ifname| ifname.trim().to_owned()),
            ..Wanted::default()
        }
    };
    Ok(text.split(',').map(str::trim).map(one).collect())
}

/// The plugins of a list, or the one that there is.
fn plugins(config: &mut Value) -> Vec<&mut Value> {
    if config["plugins"].is_array() {
        return config["plugins"].as_array_mut().into_iter().flatten().collect();
    }
    vec![config]
}

fn kept(container: &str) -> PathBuf {
    PathBuf::from(KEPT).join(container)
}

/// Keeps the delegates for DEL.
pub(super) fn save(container: &str, delegates: &[Delegate]) -> Result<(), String> {
    let text = serde_json::to_vec(delegates).map_err(|error| error.to_string())?;
    std::fs::create_dir_all(KEPT)
        .and_then(|()| std::fs::write(kept(container), text))
        .map_err(|error| format!("error in saving the delegates: {error}"))
}

/// Reads what [`save`] has written.
pub(super) fn saved(container: &str) -> Result<Vec<Delegate>, String> {
    let text = std::fs::read(kept(container)).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

/// Removes what [`save`] has written.
pub(super) fn forget(container: &str) {
    let _ = std::fs::remove_file(kept(container));
}

impl Delegate {
    /// The cluster's own network, from its file.
    pub(super) fn cluster(path: &str, ifname: &str) -> Result<Self, String> {
        let said = |error: &dyn std::error::Error| format!("failed to get clusterNetwork: {path}: {error}");
        let text = std::fs::read(path).map_err(|error| said(&error))?;
        let config: Value = serde_json::from_slice(&text).map_err(|error| said(&error))?;
        let name = config["name"].as_str().unwrap_or_default().to_owned();
        let (ifname, ips) = (ifname.to_owned(), Vec::new());
        Ok(Self { name, ifname, config, cluster: true, mac: None, ips, device: None })
    }

    /// The `name` in its configuration.
    pub(super) fn network(&self) -> &str {
        self.config["name"].as_str().unwrap_or_default()
    }

    pub(super) fn add(&self, call: &Call) -> Result<Value, String> {
        self.validate_ifname(&call.netns)?;
        let mut previous = None;
        for plugin in self.chain() {
            let stdin = self.stdin(&plugin, previous.as_ref());
            previous = Some(self.run(call, "ADD", &stdin)?);
        }
        let result = previous.unwrap_or_default();
        // libcni's cache, for DEL and CHECK.
        let path = self.result_path(call);
        let _ = std::fs::create_dir_all(path.parent().unwrap_or(&path));
        std::fs::write(&path, result.to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(result)
    }

    /// No plugin is asked to make an interface that the pod has (`validateIfName`).
    fn validate_ifname(&self, netns: &str) -> Result<(), String> {
        let ifname = &self.ifname;
        let found = || {
            let netns = Netns::open(Path::new(netns))?;
            let name = ifname.parse().ok();
            name.map_or(Ok(None), |name| Netlink::open(&netns)?.link_by_name(&name))
        };
        let said = match found() {
            Ok(None) => return Ok(()),
            Ok(Some(_)) => format!("interface name {ifname} already exists"),
            Err(error) => format!("no net namespace {netns} found: {error}"),
        };
        let kind = self.config["type"].as_str().unwrap_or_default();
        Err(format!("DelegateAdd: cannot set {kind:?} interface name to {ifname:?}: validateIfName: {said}"))
    }

    pub(super) fn del(&self, call: &Call) -> Result<(), String> {
        let previous = self.previous(call);
        for plugin in self.chain().iter().rev() {
            self.run(call, "DEL", &self.stdin(plugin, previous.as_ref()))?;
        }
        let _ = std::fs::remove_file(self.result_path(call));
        Ok(())
    }

    pub(super) fn check(&self, call: &Call) -> Result<(), String> {
        let previous = self.previous(call);
        self.chain()
            .iter()
            .try_for_each(|plugin| self.run(call, "CHECK", &self.stdin(plugin, previous.as_ref())).map(drop))
    }

    fn chain(&self) -> Vec<Value> {
        plugins(&mut self.config.clone()).into_iter().map(|plugin| plugin.clone()).collect()
    }

    fn version(&self) -> &str {
        self.config["cniVersion"].as_str().unwrap_or("0.1.0")
    }

    /// What was answered to ADD, which is told from 0.4.0 on.
    fn previous(&self, call: &Call) -> Option<Value> {
        if self.version().starts_with("0.") && self.version() != "0.4.0" {
            return None;
        }
        serde_json::from_slice(&std::fs::read(self.result_path(call)).ok()?).ok()
    }

    fn result_path(&self, call: &Call) -> PathBuf {
        let (network, container) = (self.network(), &call.container);
        PathBuf::from(KEPT).join("results").join(format!("{network}-{container}-{}", self.ifname))
    }

    fn stdin(&self, plugin: &Value, previous: Option<&Value>) -> Value {
        let mut stdin = plugin.clone();
        stdin["name"] = json!(self.network());
        stdin["cniVersion"] = json!(self.version());
        if let Some(previous) = previous {
            stdin["prevResult"] = previous.clone();
        }
        let mut runtime = serde_json::Map::new();
        let mut give = |capability: &str, value: Value| {
            if plugin["capabilities"][capability] == true && !self.cluster {
                runtime.insert(capability.to_owned(), value);
            }
        };
        if let Some(mac) = &self.mac {
            give("mac", json!(mac));
        }
        if !self.ips.is_empty() {
            give("ips", json!(self.ips));
        }
        if let Some(device) = &self.device {
            give("deviceID", json!(device));
        }
        if !runtime.is_empty() {
            stdin["runtimeConfig"] = Value::Object(runtime);
        }
        if let Some(object) = stdin.as_object_mut() {
            object.remove("capabilities");
        }
        stdin
    }

    fn run(&self, call: &Call, verb: &str, stdin: &Value) -> Result<Value, String> {
        let kind = stdin["type"].as_str().unwrap_or_default();
        let program =
            call.path.split(':').map(|dir| PathBuf::from(dir).join(kind)).find(|path| path.is_file());
        let program =
            program.ok_or_else(|| format!("failed to find plugin {kind:?} in path [{}]", call.path))?;
        // Both are put in on ADD alone.
        let (mac, ips) = if verb == "ADD" { (self.mac.as_deref(), &*self.ips) } else { (None, &[][..]) };
        let mut child = Command::new(program)
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &call.container)
            .env("CNI_NETNS", &call.netns)
            .env("CNI_IFNAME", &self.ifname)
            .env("CNI_PATH", &call.path)
            .env("CNI_ARGS", arguments::build(call, call.inherited.as_deref(), mac, ips))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{kind}: {error}"))?;
        if let Some(mut input) = child.stdin.take() {
            // A plugin may end before it has read all.
            let _ = std::io::Write::write_all(&mut input, stdin.to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| format!("{kind}: {error}"))?;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if output.status.success() {
            return Ok(answer);
        }
        let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        match (text("msg"), text("details")) {
            (message, _) if message.is_empty() => {
                Err(format!("netplugin failed: {:?}", String::from_utf8_lossy(&output.stdout)))
            }
            (message, details) if details.is_empty() => Err(message),
            (message, details) => Err(format!("{message}; {details}")),
        }
    }

    /// What the pod's annotation says of it afterwards.
    pub(super) fn status(&self, result: &Value) -> Value {
        let interfaces = result["interfaces"].as_array().cloned().unwrap_or_default();
        let inside = interfaces
            .iter()
            .find(|link| link["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()));
        let ips: Vec<&str> = result["ips"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|ip| ip["address"].as_str()?.split('/').next())
            .collect();
        let mut status = json!({ "name": self.name, "interface": self.ifname, "dns": {} });
        if let Some(mac) = inside.and_then(|link| link["mac"].as_str()) {
            status["mac"] = json!(mac);
        }
        if !ips.is_empty() {
            status["ips"] = json!(ips);
        }
        if self.cluster {
            status["default"] = json!(true);
        }
        status
    }
}
