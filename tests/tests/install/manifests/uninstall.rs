//! `uninstall.sh`, with a kubectl that writes down what it is asked for and answers as it is told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::{Value, json};
use testnet::{Outcome, Stop, Trial, finish, tests};

use crate::manifests::pod::host_path;
use crate::manifests::{install, of_kind};

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        a_cluster_is_taken_off_with_the_folders_of_its_daemonset,
        a_dead_node_is_named_and_can_be_skipped,
        nodes_that_are_not_clean_keep_the_objects,
        a_job_that_fails_keeps_the_objects,
        where_the_daemon_and_the_namespace_went_first,
        pods_that_ask_for_spokes_stop_it,
        the_pod_mounts_nothing_that_the_runtime_writes_to,
    ]
}

/// A cluster as kubectl shows it: patterns of bash's `case`, with what is written and the exit code. The first that fits
/// counts.
struct Cluster {
    dir: tempfile::TempDir,
    answers: Vec<(&'static str, String, u8)>,
}

/// How the Job is asked after.
const JOB: &str = "*'get job k8slan-cluster-uninstall'*";

const IMAGE: &str = "registry.example/k8slan@sha256:0123";

impl Cluster {
    fn new() -> Result<Self, Stop> {
        Ok(Self { dir: tempfile::tempdir()?, answers: Vec::new() })
    }

    fn answer(&mut self, pattern: &'static str, text: &str, code: u8) {
        self.answers.push((pattern, text.to_owned(), code));
    }

    /// An installation on k3s, Talos' other folders, and and a Job that is done.
    fn installed(mut self) -> Self {
        self.answer("*'get daemonset k8slan-ds'*image*", IMAGE, 0);
        self.answer("*'get daemonset k8slan-ds'*cni-bin*", "/var/lib/rancher/k3s/data/cni", 0);
        self.answer("*'get daemonset k8slan-ds'*netns*", "/var/run/netns", 0);
        self.answer("*'get daemonset k8slan-ds'*run*", "/var/run/k8slan", 0);
        self.answer("'get pods -A'*", "kube-system/coredns memory cpu\n", 0);
        self.answer(JOB, "Complete", 0);
        self
    }

    fn run(&self, environment: &[(&str, &str)]) -> Result<Output, Stop> {
        let path = self.dir.path();
        let mut script = format!(
            "#!/usr/bin/env bash\ncd {}\nprintf '%s\\n' \"$*\" >>calls\ncase \"$*\" in\n",
            path.display()
        );
        for (number, (pattern, text, code)) in self.answers.iter().enumerate() {
            fs::write(path.join(number.to_string()), text)?;
            script.push_str(&format!("{pattern}) cat {number}; exit {code} ;;\n"));
        }
        script.push_str("*'apply -f -') cat >>applied; echo --- >>applied ;;\nesac\n");
        let kubectl = path.join("kubectl");
        fs::write(&kubectl, script)?;
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755))?;
        for file in ["calls", "applied"] {
            fs::write(path.join(file), "")?;
        }
        let mut command = Command::new(install().join("uninstall/uninstall.sh"));
        let clean = ["IMAGE", "CNI_BIN_DIR", "NETNS_DIR", "RUN_DIR", "SKIP_NODES", "FORCE", "TIMEOUT"];
        for name in clean {
            command.env_remove(name);
        }
        Ok(finish(command.env("KUBECTL", kubectl).envs(environment.iter().copied()))?)
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The number of the first call that begins with these words.
    fn call(&self, start: &str) -> Option<usize> {
        let begins = |call: &String| {
            call.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        self.calls().iter().position(begins)
    }

    /// The object of this kind that was applied.
    fn applied(&self, kind: &str) -> Result<Value, Stop> {
        let text = fs::read_to_string(self.dir.path().join("applied"))?;
        let documents = crate::manifests::documents(&text, self.dir.path())?;
        Ok(of_kind(&documents, kind)?.clone())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

const SET: &str = "-n k8slan-system delete daemonset k8slan-ds";
const RIGHTS: &str = "delete --ignore-not-found clusterrolebinding,clusterrole k8slan-cluster-uninstall";
const CRDS: &str = "delete --ignore-not-found --timeout=5m customresourcedefinition lans.lan.k8slan.io";

fn a_cluster_is_taken_off_with_the_folders_of_its_daemonset() -> Outcome {
    let cluster = Cluster::new()?.installed();
    let output = cluster.run(&[])?;
    assert!(output.status.success(), "{}", said(&output));
    let set = cluster.applied("DaemonSet")?;
    crate::manifests::types::check(&set).map_err(Stop::Failed)?;
    let paths = ["cni-bin", "netns", "run", "dev"].map(|name| host_path(&set, name).to_owned());
    assert_eq!(paths, ["/var/lib/rancher/k3s/data/cni", "/var/run/netns", "/var/run", "/dev"]);
    let spec = &set["spec"]["template"]["spec"];
    for container in [&spec["initContainers"][0], &spec["containers"][0]] {
        assert_eq!(container["image"], IMAGE);
    }
    assert!(spec.get("affinity").is_none(), "{spec}");
    let job = cluster.applied("Job")?;
    crate::manifests::types::check(&job).map_err(Stop::Failed)?;
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["image"], IMAGE);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{pod}");
    assert_eq!(pod["containers"][0]["securityContext"]["capabilities"], json!({"drop": ["ALL"]}), "{pod}");
    // Each definition and each object without a namespace that the manifests make.
    for file in ["crds.yaml", "k8slan.yaml"] {
        for object in
            crate::manifests::documents(&fs::read_to_string(install().join(file))?, &install().join(file))?
        {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let deleted = cluster.calls().iter().any(|call| {
                let mut words = call.split([' ', ',']);
                words.any(|word| word == "delete") && words.any(|word| word == name)
            });
            assert!(
                deleted || object["metadata"]["namespace"].is_string(),
                "nobody deletes {} {name}",
                object["kind"]
            );
        }
    }
    // Nodes before objects, and what the leader made while it cannot make it again; the Job's rights end with it.
    let order = [
        SET,
        "apply -f -",
        "-n k8slan-uninstall rollout status daemonset/k8slan-uninstall --timeout=5m",
        "-n k8slan-uninstall delete job k8slan-cluster-uninstall --ignore-not-found",
        "-n k8slan-uninstall get job k8slan-cluster-uninstall",
        RIGHTS,
        CRDS,
        "delete --ignore-not-found clusterrolebinding,clusterrole k8slan",
        "delete --ignore-not-found --timeout=5m namespace k8slan-system k8slan-uninstall",
    ]
    .map(|start| cluster.call(start));
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?} of {:#?}", cluster.calls());
    assert_eq!(
        cluster.calls().iter().filter(|call| *call == "apply -f -").count(),
        2,
        "{:#?}",
        cluster.calls()
    );
    // The environment goes before what is there.
    let output = cluster.run(&[("CNI_BIN_DIR", "/opt/other/bin"), ("IMAGE", "localhost/k8slan:1.2.3")])?;
    assert!(output.status.success(), "{}", said(&output));
    let set = cluster.applied("DaemonSet")?;
    assert_eq!(host_path(&set, "cni-bin"), "/opt/other/bin");
    assert_eq!(set["spec"]["template"]["spec"]["initContainers"][0]["image"], "localhost/k8slan:1.2.3");
    // A second run, when only ours is there, takes what that has.
    let mut again = Cluster::new()?;
    again.answer("*'get daemonset k8slan-uninstall'*image*", IMAGE, 0);
    again.answer("*'get daemonset k8slan-uninstall'*cni-bin*", "/var/lib/rancher/k3s/data/cni", 0);
    again.answer(JOB, "SuccessCriteriaMet Complete", 0);
    let output = again.run(&[])?;
    assert!(output.status.success(), "{}", said(&output));
    let set = again.applied("DaemonSet")?;
    let paths = ["cni-bin", "netns", "run"].map(|name| host_path(&set, name).to_owned());
    assert_eq!(paths, ["/var/lib/rancher/k3s/data/cni", "/run/netns", "/run"]);
    let nothing = Cluster::new()?;
    let output = nothing.run(&[])?;
    assert!(!output.status.success() && said(&output).contains("say IMAGE="), "{}", said(&output));
    Ok(())
}

fn a_dead_node_is_named_and_can_be_skipped() -> Outcome {
    let mut cluster = Cluster::new()?.installed();
    cluster.answer("*'delete daemonset k8slan-ds'*'--wait=false'", "", 0);
    cluster.answer("*'delete daemonset k8slan-ds'*'--timeout=2s'", "", 1);
    cluster.answer("*'get pods --selector app.kubernetes.io/component=node'*", "worker7\nworker9\n", 0);
    for (skip, named) in
        [("", "SKIP_NODES=\"worker7 worker9\""), ("worker9", "SKIP_NODES=\"worker9 worker7\"")]
    {
        let output = cluster.run(&[("TIMEOUT", "2s"), ("SKIP_NODES", skip)])?;
        assert!(!output.status.success() && said(&output).contains(named), "{}", said(&output));
        assert!(cluster.call("apply").is_none() && cluster.call(CRDS).is_none(), "{:#?}", cluster.calls());
    }
    let output = cluster.run(&[("TIMEOUT", "2s"), ("SKIP_NODES", "worker7 worker9")])?;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("skipped: worker7 worker9"), "{}", said(&output));
    for node in ["worker7", "worker9"] {
        for namespace in ["k8slan-system", "k8slan-uninstall"] {
            let gone = format!("-n {namespace} delete pods --field-selector spec.nodeName={node} --force");
            assert!(cluster.call(&gone).is_some(), "{:#?}", cluster.calls());
        }
    }
    let crds = CRDS.replace("5m", "2s");
    assert!(cluster.call(&crds).is_some(), "{:#?}", cluster.calls());
    // No pod waits for a dead node.
    let set = cluster.applied("DaemonSet")?;
    crate::manifests::types::check(&set).map_err(Stop::Failed)?;
    let affinity = &set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"];
    let terms = &affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let not = |node: &str| json!({"key": "metadata.name", "operator": "NotIn", "values": [node]});
    assert_eq!(*terms, json!([{"matchFields": [not("worker7"), not("worker9")]}]));
    Ok(())
}

fn nodes_that_are_not_clean_keep_the_objects() -> Outcome {
    let mut cluster = Cluster::new()?.installed();
    cluster.answer("*'rollout status'*", "", 1);
    cluster.answer(
        "*'get pods --selector app.kubernetes.io/component=uninstall'*",
        "True|worker1\nFalse|worker2\n|worker3\n",
        0,
    );
    cluster.answer("*' logs '*", "[pod/x] 2 interfaces are attached on this node\n", 0);
    let output = cluster.run(&[])?;
    assert!(!output.status.success(), "{}", said(&output));
    for words in [
        "2 interfaces are attached",
        "not clean, or not reached: worker2 worker3",
        "SKIP_NODES=\"worker2 worker3\"",
    ] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
    }
    assert!(cluster.call(CRDS).is_none(), "{:#?}", cluster.calls());
    Ok(())
}

fn a_job_that_fails_keeps_the_objects() -> Outcome {
    let mut cluster = Cluster::new()?;
    cluster.answer(JOB, "FailureTarget Failed", 0);
    cluster.answer(
        "*'logs --selector app.kubernetes.io/component=cluster-uninstall'*",
        "cannot list nodes",
        0,
    );
    let cluster = cluster.installed();
    let output = cluster.run(&[])?;
    assert!(!output.status.success(), "{}", said(&output));
    assert!(
        said(&output).contains("cannot list nodes") && said(&output).contains("run this again"),
        "{}",
        said(&output)
    );
    assert!(cluster.call(CRDS).is_none() && cluster.call(RIGHTS).is_some(), "{:#?}", cluster.calls());
    Ok(())
}

/// `kubectl delete -f install/k8slan.yaml` came first, of the namespace too perhaps: nothing can be made in that any more.
fn where_the_daemon_and_the_namespace_went_first() -> Outcome {
    let mut cluster = Cluster::new()?;
    // One image may have several names, of an upgrade and the way back for instance.
    let images = r#"["docker.io/library/nginx:1.14.2"]
["localhost/k8slan@sha256:01","localhost/k8slan:0.1.0","localhost/k8slan:next"]
["localhost/k8slan:0.1.0"]
["localhost/not-k8slan:0.1.0"]
"#;
    cluster.answer("'get nodes'*images*", images, 0);
    cluster.answer("'get namespace k8slan-uninstall'*phase*", "Terminating", 0);
    cluster.answer(JOB, "Complete", 0);
    let output = cluster.run(&[])?;
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("the nodes have the image localhost/k8slan:0.1.0"), "{}", said(&output));
    let calls = cluster.calls();
    let made = calls.iter().position(|call| call.ends_with("/uninstall/namespace.yaml"));
    let away = cluster.call("delete --ignore-not-found --timeout=5m namespace k8slan-uninstall");
    assert!(away.is_some() && away < made && made < cluster.call("apply -f -"), "{calls:#?}");
    let set = cluster.applied("DaemonSet")?;
    assert_eq!(set["spec"]["template"]["spec"]["initContainers"][0]["image"], "localhost/k8slan:0.1.0");
    for kind in ["DaemonSet", "Job", "ServiceAccount"] {
        assert_eq!(cluster.applied(kind)?["metadata"]["namespace"], "k8slan-uninstall", "{kind}");
    }
    // Of two nobody knows which one.
    let mut two = Cluster::new()?;
    two.answer("'get nodes'*images*", "[\"a/k8slan:1\"]\n[\"a/k8slan:2\"]\n", 0);
    let output = two.run(&[])?;
    let which = "say IMAGE= one of a/k8slan:1 a/k8slan:2";
    assert!(!output.status.success() && said(&output).contains(which), "{}", said(&output));
    Ok(())
}

fn pods_that_ask_for_spokes_stop_it() -> Outcome {
    let mut cluster = Cluster::new()?;
    let pods = "shop/web cpu macvtap.k8slan.io/pod1 memory\nshop/other cpu memory\nmacvtap.k8slan.io/not cpu\ndefault/two macvtap.k8slan.io/pod2\n";
    cluster.answer("'get pods -A'*", pods, 0);
    let cluster = cluster.installed();
    let output = cluster.run(&[])?;
    assert!(!output.status.success() && said(&output).contains("delete them first"), "{}", said(&output));
    assert!(said(&output).ends_with(":\n  shop/web\n  default/two\n"), "{}", said(&output));
    assert!(cluster.call(SET).is_none(), "{:#?}", cluster.calls());
    // Pods that ended hold nothing.
    let asked = cluster.calls().into_iter().find(|call| call.starts_with("get pods -A")).unwrap_or_default();
    assert!(asked.contains("status.phase!=Succeeded,status.phase!=Failed"), "{asked}");
    let output = cluster.run(&[("FORCE", "1")])?;
    assert!(output.status.success(), "{}", said(&output));
    // Who cannot see the pods takes nothing away.
    let mut blind = Cluster::new()?;
    blind.answer("'get pods -A'*", "", 1);
    let blind = blind.installed();
    assert!(!blind.run(&[])?.status.success() && blind.call(SET).is_none(), "{:#?}", blind.calls());
    Ok(())
}

fn the_pod_mounts_nothing_that_the_runtime_writes_to() -> Outcome {
    let set = of_kind(&crate::manifests::read("uninstall/daemonset.yaml")?, "DaemonSet")?.clone();
    let container = &set["spec"]["template"]["spec"]["initContainers"][0];
    let mounted: Vec<&str> = container["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    // Files in /etc are mounted over by the runtime, and Talos' /etc cannot be written.
    let message = container["terminationMessagePath"].as_str().unwrap_or("/dev/termination-log");
    for file in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", message] {
        let inside = mounted.iter().find(|folder| file.starts_with(&format!("{folder}/")));
        assert!(inside.is_none(), "{file} would be made in the node's {inside:?}");
    }
    Ok(())
}
