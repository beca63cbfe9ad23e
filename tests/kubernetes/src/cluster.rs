use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::config::KubeConfigOptions;
use nix::sys::signal::Signal;
use serde_json::Value;
use testnet::{Netns, Stop, Switch, eventually, finish_reading, workspace};
use tokio::runtime::Runtime;

use crate::control::Control;
use crate::{Multus, Programs, TIMEOUT, Worker, failed};

/// The audit logs of the clusters that have ended.
static AUDITS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// How long to wait before the same is asked again: real servers need their processor themselves.
const INTERVAL: Duration = Duration::from_millis(90);

/// A running cluster with Multus. Dropping it ends it.
pub struct Cluster {
    control: Control,
    /// The nodes of the cluster, `worker1` first.
    pub workers: Vec<Worker>,
    runtime: Runtime,
    client: kube::Client,
    /// Whether its audit log is one of those that tell which rights are used.
    judged: AtomicBool,
}

impl Cluster {
    /// A new cluster, all Ready, of one worker for each Multus.
    ///
    /// # Errors
    /// What does not start, with the end of its log.
    pub fn start(multus: &[Multus]) -> Result<Self, Stop> {
        let programs = Programs::find()?;
        let (own, lans) = (Switch::new()?, Switch::new()?);
        let control = Control::start(&programs, &own)?;
        control.certificates.user("multus", "multus", None, &[])?;
        let certificates = Mutex::new(&control.certificates);
        let workers = std::thread::scope(|scope| {
            let start = |(number, multus)| {
                let (programs, certificates, switches) = (&programs, &certificates, (&own, &lans));
                scope.spawn(move || Worker::start(number, programs, certificates, switches, multus))
            };
            let starting: Vec<_> = (1..).zip(multus).map(start).collect();
            let started: Result<Vec<Worker>, Stop> = starting
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect();
            started
        })?;
        // A socket is of the namespace of the thread that opens it, so there is no other.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = serde_json::from_value(control.certificates.kubeconfig("admin")?)?;
        let client = control.node.run(|| {
            runtime.block_on(async {
                let config =
                    kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await;
                Ok::<_, Stop>(kube::Client::try_from(config?)?)
            })
        })?;
        let cluster = Self { control, workers, runtime, client, judged: AtomicBool::new(true) };
        cluster.apply(&std::fs::read_to_string(workspace().join("tests/kubernetes/multus.yaml"))?)?;
        cluster.nodes_are_ready()?;
        if let Some(manifest) = multus.iter().find_map(Multus::manifest) {
            cluster.deploy(&std::fs::read_to_string(manifest)?)?;
        }
        Ok(cluster)
    }

    /// The real thick Multus: what it puts onto the nodes is there when its pods are ready.
    fn deploy(&self, manifest: &str) -> Result<(), Stop> {
        self.apply(manifest)?;
        self.kubectl("-n kube-system rollout status daemonset/kube-multus-ds --timeout=120s")?;
        for worker in &self.workers {
            self.eventually(|| match worker.list("/etc/cni/net.d") {
                files if files.iter().any(|file| file == "00-multus.conf") => Ok(()),
                files => Err(format!("{} has {files:?}", worker.name())),
            })?;
        }
        Ok(())
    }

    /// Waits until all nodes are Ready. A kubelet that ended by itself is started again.
    ///
    /// # Errors
    /// With the node that is not.
    pub fn nodes_are_ready(&self) -> Result<(), Stop> {
        for worker in &self.workers {
            let path = format!("/api/v1/nodes/{}", worker.name());
            self.eventually(|| {
                worker.restart_kubelet_that_ended().map_err(|stop| format!("{stop:?}"))?;
                match self.get(&path)? {
                    Some(node) if condition(&node, "Ready") == Some("True") => Ok(()),
                    node => Err(format!("{path} is {node:#?}")),
                }
            })?;
        }
        Ok(())
    }

    /// Runs kubectl with these arguments, split at white space, in the folder of the project.
    ///
    /// # Errors
    /// Its words.
    pub fn kubectl(&self, arguments: &str) -> Result<String, Stop> {
        self.kubectl_reading(&arguments.split_whitespace().collect::<Vec<_>>(), "")
    }

    /// The same with arguments that have white space in them.
    ///
    /// # Errors
    /// As above.
    pub fn kubectl_with(&self, arguments: &[&str]) -> Result<String, Stop> {
        self.kubectl_reading(arguments, "")
    }

    fn kubectl_reading(&self, arguments: &[&str], input: &str) -> Result<String, Stop> {
        let (code, said) = self.kubectl_says(arguments, input)?;
        if code == Some(0) {
            Ok(said)
        } else {
            Err(failed(format!("kubectl {}: {said}", arguments.join(" "))))
        }
    }

    /// Runs a line of shell, in which `kubectl` is the administrator's, in the folder of the project.
    ///
    /// # Errors
    /// What it says.
    pub fn shell(&self, line: &str) -> Result<String, Stop> {
        let quoted: Vec<String> = self.control.kubectl().iter().map(|word| format!("'{word}'")).collect();
        let script =
            format!("cd '{}' && kubectl() {{ {} \"$@\"; }}; {line}", workspace().display(), quoted.join(" "));
        let mut command = self.control.node.command("sh");
        command.args(["-ec", &script]).env("HOME", "/run");
        let output = finish_reading(&mut command, b"")?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() { Ok(text) } else { Err(failed(format!("{line}: {text}"))) }
    }

    /// What kubectl says on stdout and stderr, and the code that it ends with.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn kubectl_says(&self, arguments: &[&str], input: &str) -> Result<(Option<i32>, String), Stop> {
        let ours = self.control.kubectl();
        // The folder is entered after the namespaces.
        let mut command = self.control.node.command("env");
        command
            .arg(format!("--chdir={}", workspace().display()))
            .args(&ours)
            .args(arguments)
            .env("HOME", "/run");
        let output = finish_reading(&mut command, input.as_bytes())?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// `kubectl k8slan` with these arguments, as somebody calls it who has put the plugin into the PATH.
    ///
    /// # Errors
    /// If the plugin cannot be put there.
    pub fn plugin(&self, arguments: &[&str]) -> Result<Command, Stop> {
        self.control.plugin(arguments)
    }

    /// kubectl with the arguments of a shell's function, as a line of that shell.
    #[must_use]
    pub fn kubectl_line(&self) -> String {
        format!("{} \"$@\"", self.control.kubectl().join(" "))
    }

    /// A program of the machine with these arguments, beside the API server, in the folder of the project, and with what
    /// kubectl knows.
    ///
    /// # Errors
    /// Its words.
    pub fn tool(&self, program: &Path, arguments: &[&str]) -> Result<String, Stop> {
        let mut command = self.control.tool(program);
        let output = finish_reading(command.args(arguments), b"")?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        match output.status.success() {
            true => Ok(said),
            false => Err(failed(format!("{} {}: {said}", program.display(), arguments.join(" ")))),
        }
    }

    /// Runs a script of the project that finds kubectl in the variable `KUBECTL`, with more variables. What it says on stdout
    /// and stderr, and the code that it ends with.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn script(&self, path: &str, environment: &[(&str, &str)]) -> Result<(Option<i32>, String), Stop> {
        let mut command = self.control.node.command("env");
        command
            .arg(format!("--chdir={}", workspace().display()))
            .args(["timeout", "600", "bash", path])
            .env("HOME", "/run")
            .env("KUBECTL", self.control.kubectl().join(" "))
            .envs(environment.iter().copied());
        // Longer than what else ends by itself.
        let output = command.output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// `kubectl apply -f -`.
    ///
    /// # Errors
    /// Its words.
    pub fn apply(&self, manifests: &str) -> Result<String, Stop> {
        self.kubectl_reading(&["apply", "-f", "-"], manifests)
    }

    /// What the API server answers to a GET of this path; `None` if there is no such thing.
    ///
    /// # Errors
    /// Any other answer, as text.
    pub fn get(&self, path: &str) -> Result<Option<Value>, String> {
        let request =
            tonic::codegen::http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        let answer = self.control.node.run(|| self.runtime.block_on(self.client.request::<Value>(request)));
        match answer {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(format!("{path}: {error}")),
        }
    }

    /// The objects in the answer to a GET of this path.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub fn list(&self, path: &str) -> Result<Vec<Value>, String> {
        let list = self.get(path)?.ok_or_else(|| format!("there is no {path}"))?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until an object is as wanted.
    ///
    /// # Errors
    /// The object as it is at the end.
    pub fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value, Stop> {
        Ok(self.eventually(|| match self.get(path)? {
            Some(object) if wanted(&object) => Ok(object),
            Some(object) => Err(format!("{path} is {object:#}")),
            None => Err(format!("there is no {path}")),
        })?)
    }

    /// Waits until there is no such object.
    ///
    /// # Errors
    /// The object as it is at the end.
    pub fn until_gone(&self, path: &str) -> Result<(), Stop> {
        Ok(self.eventually(|| match self.get(path)? {
            None => Ok(()),
            Some(object) => Err(format!("{path} is still there: {object:#}")),
        })?)
    }

    /// Asks again until the answer is good.
    ///
    /// # Errors
    /// The last answer.
    pub fn eventually<T>(&self, mut probe: impl FnMut() -> Result<T, String>) -> Result<T, testnet::Error> {
        eventually(TIMEOUT, || {
            let answer = probe();
            if answer.is_err() {
                std::thread::sleep(INTERVAL);
            }
            answer
        })
    }

    /// The node of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn worker(&self, name: &str) -> Result<&Worker, Stop> {
        self.workers
            .iter()
            .find(|worker| worker.name() == name)
            .ok_or_else(|| failed(format!("no node {name}")))
    }

    /// Ends the API server and etcd with a signal; [`Cluster::start_server`] brings them back with all they knew.
    ///
    /// # Errors
    /// If they do not end.
    pub fn stop_server(&self, signal: Signal) -> Result<(), Stop> {
        self.control.stop_server(signal)
    }

    /// Starts what [`Cluster::stop_server`] ended.
    ///
    /// # Errors
    /// If they do not answer.
    pub fn start_server(&self) -> Result<(), Stop> {
        self.control.start_server()
    }

    /// The API server's audit log up to now: all requests of k8slan's accounts, and who changed anybody's rights.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn audit(&self) -> Result<Vec<Value>, Stop> {
        Ok(requests(&self.control.node.read(crate::control::AUDIT)?))
    }

    /// What is asked for on this cluster says nothing of the rights in the manifests, since others are there at times.
    pub fn is_not_judged(&self) {
        self.judged.store(false, Ordering::Relaxed);
    }

    /// The network namespace of a running pod.
    ///
    /// # Errors
    /// If it does not run.
    pub fn netns(&self, pod: &Value) -> Result<Netns<'_>, Stop> {
        let worker = self.worker(pod["spec"]["nodeName"].as_str().unwrap_or_default())?;
        let process = self.process(pod)?;
        Ok(worker.netns(&format!("/proc/{process}/ns/net"))?)
    }

    /// The process of a pod's first container.
    ///
    /// # Errors
    /// If it does not run.
    pub fn process(&self, pod: &Value) -> Result<u32, Stop> {
        let worker = self.worker(pod["spec"]["nodeName"].as_str().unwrap_or_default())?;
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
        let id = id.trim_start_matches("containerd://");
        let tasks = worker.ctr(&["tasks", "ls"])?;
        let line = tasks.lines().find(|line| line.starts_with(id) && !id.is_empty());
        let process =
            line.and_then(|line| line.split_whitespace().nth(1)).and_then(|process| process.parse().ok());
        process.ok_or_else(|| failed(format!("no task of {id} in {tasks}")))
    }

    /// Writes what is known of the cluster into a folder below `target/kubernetes`, for somebody who looks for the reason
    /// of a failure.
    pub fn save_logs(&self, test: &str) -> PathBuf {
        let folder = workspace().join("target/kubernetes").join(test);
        let _ = std::fs::remove_dir_all(&folder);
        let _ = std::fs::create_dir_all(&folder);
        let logs = self.control.logs().into_iter().map(|(name, log)| (name.to_owned(), log));
        let logs = logs.chain(self.workers.iter().flat_map(Worker::logs));
        for (name, log) in logs {
            let _ = std::fs::write(folder.join(format!("{name}.log")), log);
        }
        let kinds = "pods,nodes,daemonsets,events,lans.lan.k8slan.io,lannodes.lan.k8slan.io,net-attach-def";
        let objects = self.kubectl_says(&["get", kinds, "-A", "-o", "yaml"], "");
        let _ =
            std::fs::write(folder.join("objects.yaml"), objects.map(|(_, text)| text).unwrap_or_default());
        let daemon = [
            "-n",
            "k8slan-system",
            "logs",
            "-l",
            "app.kubernetes.io/name=k8slan",
            "--all-containers",
            "--prefix",
            "--tail=-1",
        ];
        let daemon = self.kubectl_says(&daemon, "");
        let _ = std::fs::write(folder.join("k8slan.log"), daemon.map(|(_, text)| text).unwrap_or_default());
        folder
    }
}

/// What it was asked for is judged when all trials are over.
impl Drop for Cluster {
    fn drop(&mut self) {
        let log = self.judged.load(Ordering::Relaxed).then(|| self.control.node.read(crate::control::AUDIT));
        if let Some(Ok(log)) = log {
            AUDITS.lock().unwrap_or_else(PoisonError::into_inner).push(log);
        }
    }
}

/// The audit log of each cluster that has ended and is judged by it.
#[must_use]
pub fn audits_of_the_ended() -> Vec<Vec<Value>> {
    let logs = AUDITS.lock().unwrap_or_else(PoisonError::into_inner);
    logs.iter().map(|log| requests(log)).collect()
}

fn requests(log: &str) -> Vec<Value> {
    // The last line may be half written.
    log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The status of a condition of an object.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str()
}
