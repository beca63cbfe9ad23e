//! A kubelet's part with pods: devices from the device manager, sandboxes and containers from the runtime.

use std::collections::BTreeMap;

use proto::kubelet::v1beta1::ContainerAllocateResponse;
use serde_json::Value;
use testnet::Stop;

use super::{BUSYBOX, Containerd, IMAGE, cri};

/// A pod of one container, as the API server has it.
#[derive(Clone, Debug)]
pub struct KubePod {
    /// Its name, in the namespace `default`.
    pub name: String,
    /// The UID of the pod.
    pub uid: String,
    /// The runtime handler, which has the pod's networks.
    pub handler: String,
}

/// A running pod, by the IDs that containerd gave.
#[derive(Clone, Debug)]
pub struct RunningPod {
    /// The ID of its sandbox.
    pub sandbox: String,
    /// The ID of its only container.
    pub container: String,
}

impl KubePod {
    /// A pod of the handler that has its own name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), uid: format!("uid-{name}"), handler: name.to_owned() }
    }

    fn config(&self, cgroup: String, attempt: u32) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.uid.clone(),
                namespace: "default".to_owned(),
                attempt,
            }),
            hostname: self.name.clone(),
            log_directory: format!("/run/logs/{}", self.uid),
            linux: Some(cri::LinuxPodSandboxConfig { cgroup_parent: cgroup }),
        }
    }
}

impl Containerd<'_> {
    /// Makes the sandbox and starts the container with what the device plugin gave for it. Whatever of an earlier
    /// sandbox of the pod is there is stopped first, as a kubelet does when a sandbox is not ready.
    ///
    /// # Errors
    /// containerd's words.
    pub fn run_pod(&self, pod: &KubePod, given: &ContainerAllocateResponse) -> Result<RunningPod, Stop> {
        let earlier = self.sandboxes_of(pod)?;
        for sandbox in &earlier {
            self.stop_sandbox(&sandbox.id)?;
        }
        let attempt =
            earlier.iter().filter_map(|s| Some(s.metadata.as_ref()?.attempt + 1)).max().unwrap_or(0);
        let config = pod.config(self.node.cgroup(), attempt);
        let sandbox = self.run_sandbox(pod, &config)?;
        let container = self.run_container(&sandbox, &config, given)?;
        Ok(RunningPod { sandbox, container })
    }

    fn run_sandbox(&self, pod: &KubePod, config: &cri::PodSandboxConfig) -> Result<String, Stop> {
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: pod.handler.clone() };
        Ok(self.call(async |mut client| client.run_pod_sandbox(request).await)?.pod_sandbox_id)
    }

    fn run_container(
        &self,
        sandbox: &str,
        config: &cri::PodSandboxConfig,
        given: &ContainerAllocateResponse,
    ) -> Result<String, Stop> {
        // Counted up with the sandbox: a container that ended keeps its name.
        let attempt = config.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        let key_value =
            |(key, value): (&String, &String)| cri::KeyValue { key: key.clone(), value: value.clone() };
        let device = |device: &proto::kubelet::v1beta1::DeviceSpec| cri::Device {
            container_path: device.container_path.clone(),
            host_path: device.host_path.clone(),
            permissions: device.permissions.clone(),
        };
        let container = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "main".to_owned(), attempt }),
            image: Some(cri::ImageSpec { image: IMAGE.to_owned() }),
            command: [BUSYBOX, "sleep", "100000"].map(str::to_owned).to_vec(),
            envs: given.envs.iter().map(key_value).collect(),
            devices: given.devices.iter().map(device).collect(),
            log_path: "main.log".to_owned(),
            linux: Some(cri::LinuxContainerConfig {}),
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container),
            sandbox_config: Some(config.clone()),
        };
        let container_id = self.call(async |mut client| client.create_container(request).await)?.container_id;
        let request = cri::StartContainerRequest { container_id: container_id.clone() };
        self.call(async |mut client| client.start_container(request).await)?;
        Ok(container_id)
    }

    /// The pod's sandboxes, dead ones too.
    ///
    /// # Errors
    /// containerd's words.
    pub fn sandboxes_of(&self, pod: &KubePod) -> Result<Vec<cri::PodSandbox>, Stop> {
        let list =
            self.call(async |mut client| client.list_pod_sandbox(cri::ListPodSandboxRequest {}).await)?;
        let of_pod = |sandbox: &cri::PodSandbox| {
            sandbox.metadata.as_ref().is_some_and(|metadata| metadata.uid == pod.uid)
        };
        Ok(list.items.into_iter().filter(of_pod).collect())
    }

    /// Stops a sandbox and what runs in it, and has its networks taken away.
    ///
    /// # Errors
    /// containerd's words.
    pub fn stop_sandbox(&self, sandbox: &str) -> Result<(), Stop> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        self.call(async |mut client| client.stop_pod_sandbox(request).await)?;
        Ok(())
    }

    /// Stops and removes all sandboxes of a pod: the pod was deleted.
    ///
    /// # Errors
    /// containerd's words.
    pub fn delete_pod(&self, pod: &KubePod) -> Result<(), Stop> {
        for sandbox in self.sandboxes_of(pod)? {
            self.stop_sandbox(&sandbox.id)?;
            let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.id };
            self.call(async |mut client| client.remove_pod_sandbox(request).await)?;
        }
        Ok(())
    }

    /// The process that holds the sandbox together.
    ///
    /// # Errors
    /// containerd's words.
    pub fn sandbox_process(&self, sandbox: &str) -> Result<i32, Stop> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: true };
        process(&self.call(async |mut client| client.pod_sandbox_status(request).await)?.info)
    }

    /// The container's first process.
    ///
    /// # Errors
    /// containerd's words.
    pub fn container_process(&self, container: &str) -> Result<i32, Stop> {
        let request = cri::ContainerStatusRequest { container_id: container.to_owned(), verbose: true };
        process(&self.call(async |mut client| client.container_status(request).await)?.info)
    }

    /// Runs a line of busybox's shell in the container: its exit code, and what it wrote.
    ///
    /// # Errors
    /// containerd's words.
    pub fn shell(&self, container: &str, line: &str) -> Result<(i32, String), Stop> {
        let request = cri::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: [BUSYBOX, "sh", "-c", line].map(str::to_owned).to_vec(),
            timeout: 20,
        };
        let answer = self.call(async |mut client| client.exec_sync(request).await)?;
        let text = [answer.stdout, answer.stderr].concat();
        Ok((answer.exit_code, String::from_utf8_lossy(&text).trim().to_owned()))
    }
}

fn process(info: &BTreeMap<String, String>) -> Result<i32, Stop> {
    let info: Value = serde_json::from_str(info.get("info").map_or("", String::as_str))?;
    let pid = info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
    pid.ok_or_else(|| Stop::Failed(format!("containerd tells no process: {info}")))
}
