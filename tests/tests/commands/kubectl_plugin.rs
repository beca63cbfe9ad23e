//! `kubectl-k8slan`, the script: what it makes of arguments and of faults, in two shells, with busybox's programs alone
//! and a kubectl that writes down what it is asked for. What it shows of a cluster is tried on a real one
//! (`tests/kubernetes/tests/plugin.rs`).
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testnet::{Outcome, Stop, eventually, finish, needs, stays, workspace};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        it_is_posix_shell,
        who_calls_it_the_wrong_way_is_told,
        flags_are_kubectls_word_by_word,
        a_node_that_does_not_answer_is_told_and_the_others_shown,
        a_node_that_takes_too_long_is_told_and_nothing_of_it_is_left,
        whoever_ends_it_ends_what_it_waits_for,
        leases_of_all_nodes_are_one_answer,
        nobody_to_ask_is_told,
        many_nodes_are_asked_together,
        why_goes_on_without_what_may_not_be_read,
        capture_asks_the_node_of_the_pod,
        check_host_makes_one_job_and_takes_it_away,
        check_host_takes_its_job_away_when_it_is_ended,
        check_host_knows_where_an_installation_has_its_folders,
        check_host_takes_nothing_that_would_break_its_job,
    ]
}

/// Debian's and Alpine's shells; macOS' is bash as sh, which knows what these know.
/// A call whose input was closed has ended by then.
const ENDED: Duration = Duration::from_millis(300);

const SHELLS: [&[&str]; 2] = [&["dash"], &["busybox", "sh"]];
/// All that it needs beside a shell and kubectl.
const APPLETS: [&str; 10] =
    ["cat", "date", "grep", "mkdir", "mkfifo", "mktemp", "rm", "sed", "sleep", "sort"];

/// A cluster as kubectl shows it: patterns of `case`, and what is run for them. The first that fits counts.
pub(crate) struct Cluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) shell: &'static [&'static str],
    answers: Vec<(String, String)>,
}

impl Cluster {
    pub(crate) fn new(shell: &'static [&'static str]) -> Result<Self, Stop> {
        let dir = tempfile::tempdir()?;
        for program in ["dash", "busybox"] {
            let path = Path::new("/bin").join(program);
            needs(&path.to_string_lossy())?;
            symlink(path, dir.path().join(program))?;
        }
        for applet in APPLETS {
            symlink("/bin/busybox", dir.path().join(applet))?;
        }
        Ok(Self { dir, shell, answers: Vec::new() })
    }

    /// For calls that look like this, this script; its words are in `$*`.
    pub(crate) fn on(mut self, pattern: &str, script: &str) -> Self {
        self.answers.push((pattern.to_owned(), script.to_owned()));
        self
    }

    /// With a daemon's pod `ds-<node>` on each of these nodes, whose views are what `inspect --json` says there.
    pub(crate) fn nodes(self, names: &[&str]) -> Self {
        let rows: String =
            names.iter().map(|name| format!("echo {name} ds-{name} 2026-11-29T12:00:00Z; ")).collect();
        self.on("*'get pods -l app.kubernetes.io/name=k8slan'*", &rows)
            .on(
                "*'inspect --json'",
                r#"for pod; do case $pod in ds-*) echo "{\"node\":\"${pod#ds-}\"}" ;; esac; done"#,
            )
            .on("*' exec -i '*", "cat >>input; echo told")
    }

    fn command(&self, arguments: &[&str]) -> Result<Command, Stop> {
        let path = self.dir.path();
        let mut script = format!("#!{0}/busybox sh\ncd {0}\n", path.display());
        script.push_str("for word; do printf '<%s>' \"$word\"; done >>calls; echo >>calls\ncase \"$*\" in\n");
        for (pattern, answer) in &self.answers {
            script.push_str(&format!("{pattern}) {answer} ;;\n"));
        }
        script.push_str("esac\n");
        let kubectl = path.join("kubectl");
        fs::write(&kubectl, script)?;
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755))?;
        fs::create_dir_all(path.join("tmp"))?;
        // A shell cannot trap a signal that is ignored when it starts, as SIGINT is in what somebody runs in the background.
        let mut command = Command::new("/usr/bin/env");
        command
            .arg("--default-signal=HUP,INT,TERM")
            .arg(path.join(self.shell[0]))
            .args(&self.shell[1..])
            .arg(workspace().join("install/kubectl/kubectl-k8slan"))
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("TMPDIR", path.join("tmp"));
        Ok(command)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output, Stop> {
        let output = finish(&mut self.command(arguments)?)?;
        let left: Vec<_> = fs::read_dir(self.dir.path().join("tmp"))?.flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        Ok(output)
    }

    pub(crate) fn file(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.file("calls").lines().map(str::to_owned).collect()
    }
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn each(body: impl Fn(Cluster) -> Outcome) -> Outcome {
    SHELLS.iter().try_for_each(|shell| body(Cluster::new(shell)?))
}

fn it_is_posix_shell() -> Outcome {
    needs("shellcheck")?;
    let script = workspace().join("install/kubectl/kubectl-k8slan");
    let output = finish(Command::new("shellcheck").arg("--shell=sh").arg(script))?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

fn who_calls_it_the_wrong_way_is_told() -> Outcome {
    each(|cluster| {
        for (arguments, words) in [
            (vec!["staus"], "there is no command staus"),
            (vec!["status", "worker1"], "status takes no argument"),
            (vec!["inspect"], "a node, or --all"),
            (vec!["inspect", "--all", "worker1"], "choose one"),
            (vec!["inspect", "--all", "--yaml"], "no flag --yaml"),
            (vec!["inspect", "--all", "--lan"], "--lan needs a name"),
            (vec!["inspect", "--all", "--json", "--svg"], "--json is all there is"),
            (vec!["leases", "a", "b"], "takes one pool, and has 'b'"),
            (vec!["leases", "-o", "yaml"], "there is no format 'yaml'"),
            (vec!["leases", "-o"], "-o needs a format"),
            (vec!["leases", "--all"], "leases has no flag --all"),
            (vec!["import"], "whereabouts or host-local"),
            (vec!["import", "calico"], "not 'calico'"),
            (vec!["import", "whereabouts", "host-local"], "takes one plugin, and has 'host-local'"),
            (vec!["import", "whereabouts", "-o", "yaml"], "-o yaml goes with --dry-run"),
            (vec!["import", "whereabouts", "--dry-run", "-o", "wide"], "there is no format 'wide'"),
            (vec!["import", "whereabouts", "--pool"], "--pool needs a word"),
            (vec!["import", "whereabouts", "--force"], "import has no flag --force"),
            (vec!["why"], "why needs a pod"),
            (vec!["why", "a", "b"], "and has 'b'"),
            (vec!["capture"], "capture needs a pod"),
            (vec!["capture", "a", "--count"], "--count needs a number"),
            (vec!["capture", "a", "--filter=x"], "no flag --filter=x"),
            (vec!["check-host"], "check-host needs a node"),
            (vec!["check-host", "a", "--underlay", "eth1"], "come behind --"),
            (vec!["status", "--context"], "--context needs a value"),
        ] {
            let output = cluster.run(&arguments)?;
            let said = errors(&output);
            assert!(output.status.code() == Some(2) && said.contains(words), "{arguments:?}: {said}");
        }
        assert_eq!(cluster.calls(), Vec::<String>::new(), "nothing was asked");
        for help in [&["--help"][..], &["help"], &["why", "-h"]] {
            let help = cluster.run(help)?;
            assert!(
                help.status.success() && String::from_utf8_lossy(&help.stdout).contains("check-host NODE")
            );
        }
        // A pod of that name is one.
        assert!(
            errors(&Cluster::new(cluster.shell)?.on("*", "echo none >&2; exit 1").run(&["why", "help"])?)
                == "none\n"
        );
        assert_eq!(cluster.run(&[])?.status.code(), Some(2));
        Ok(())
    })
}

fn flags_are_kubectls_word_by_word() -> Outcome {
    each(|cluster| {
        let cluster = cluster.nodes(&["worker1"]);
        let odd = "a b'c\"$(touch here)";
        let output = cluster.run(&["--context", odd, "status", "--as=me", "--request-timeout", "5s"])?;
        assert!(output.status.success(), "{}", errors(&output));
        let calls = cluster.calls();
        assert_eq!(calls.len(), 3, "{calls:#?}");
        let flags = format!("<--context={odd}><--as=me><--request-timeout=5s><-n><k8slan-system>");
        assert!(calls.iter().all(|call| call.starts_with(&flags)), "{calls:#?}");
        assert!(!cluster.dir.path().join("here").exists());
        Ok(())
    })
}

fn a_node_that_does_not_answer_is_told_and_the_others_shown() -> Outcome {
    each(|cluster| {
        let cluster = cluster
            .on("*'exec ds-worker2 '*", "echo 'error: unable to upgrade connection' >&2; exit 1")
            .on(
                "*'get pods -l app.kubernetes.io/name=k8slan'*",
                "echo worker3 ds-worker3 ''; echo worker2 ds-worker2 now; echo worker1 ds-worker1 now",
            )
            .nodes(&[]);
        let output = cluster.run(&["status"])?;
        let said = errors(&output);
        assert!(said.contains("worker2: error: unable to upgrade connection"), "{said}");
        assert!(said.contains("worker3: the container of pod ds-worker3 does not run"), "{said}");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), b"told\n".as_slice()));
        assert_eq!(cluster.file("input"), "{\"node\":\"worker1\"}\n");
        Ok(())
    })
}

/// A kubectl that never comes back for worker2, and says who it is.
fn hanging(cluster: Cluster) -> Cluster {
    cluster
        .on("*'exec ds-worker2 '*", "echo $$ >hangs; exec sleep 1000")
        .nodes(&["worker1", "worker2", "worker3"])
}

/// Whether a process runs; one that has ended may wait for somebody who reads its status.
fn runs(process: &Path) -> bool {
    fs::read(process.join("cmdline")).is_ok_and(|words| !words.is_empty())
}

/// Waits until the kubectl that never comes back is there: its process.
fn hangs(cluster: &Cluster) -> Result<PathBuf, Stop> {
    let found = eventually(Duration::from_secs(20), || match cluster.file("hangs").trim() {
        "" => Err("nobody asked worker2".to_owned()),
        pid => Ok(Path::new("/proc").join(pid)),
    })?;
    Ok(found)
}

fn a_node_that_takes_too_long_is_told_and_nothing_of_it_is_left() -> Outcome {
    each(|cluster| {
        let cluster = hanging(cluster);
        let output = finish(cluster.command(&["status"])?.env("K8SLAN_PATIENCE", "1"))?;
        let said = errors(&output);
        assert!(said.contains("worker2: no answer in 1 seconds"), "{said}");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), b"told\n".as_slice()));
        assert_eq!(cluster.file("input"), "{\"node\":\"worker1\"}\n{\"node\":\"worker3\"}\n");
        assert!(!runs(&hangs(&cluster)?), "kubectl still runs");
        Ok(())
    })
}

fn whoever_ends_it_ends_what_it_waits_for() -> Outcome {
    each(|cluster| {
        let cluster = hanging(cluster);
        let mut child = cluster.command(&["status"])?.stderr(Stdio::piped()).spawn()?;
        let process = hangs(&cluster)?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        assert_eq!(child.wait()?.code(), Some(143));
        eventually(Duration::from_secs(20), || match runs(&process) {
            true => Err("kubectl still runs".to_owned()),
            false => Ok(()),
        })?;
        let left: Vec<_> = fs::read_dir(cluster.dir.path().join("tmp"))?.flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

fn leases_of_all_nodes_are_one_answer() -> Outcome {
    each(|cluster| {
        let cluster = cluster
            .on("*'exec ds-worker2 '*", "echo 'error: container not found' >&2; exit 1")
            .on("*'leases -o json'", "echo '[]'")
            .nodes(&["worker1", "worker2", "worker3"]);
        for (arguments, words) in [
            (&["leases"][..], "<leases><-o><table><--from><->"),
            (&["leases", "office", "-o", "wide"], "<leases><-o><wide><office><--from><->"),
            (&["leases", "-o=json"], "<leases><-o><json><--from><->"),
            (&["leases", "--json", "office"], "<leases><-o><json><office><--from><->"),
        ] {
            fs::write(cluster.dir.path().join("calls"), "")?;
            fs::write(cluster.dir.path().join("input"), "")?;
            let output = cluster.run(arguments)?;
            let (said, calls) = (errors(&output), cluster.calls());
            assert_eq!(
                (output.status.code(), output.stdout.as_slice()),
                (Some(1), b"told\n".as_slice()),
                "{said}"
            );
            assert_eq!(said, "kubectl k8slan: worker2: error: container not found\n");
            let last = calls.last().unwrap();
            assert!(last.contains("<-i><ds-worker3>") && last.ends_with(words), "{last}");
            // The nodes that answered.
            assert_eq!(cluster.file("input"), "[]\n[]\n");
        }
        Ok(())
    })
}

fn nobody_to_ask_is_told() -> Outcome {
    each(|cluster| {
        let output = cluster.run(&["status"])?;
        let said = errors(&output);
        assert!(!output.status.success() && said.contains("is it installed?"), "{said}");
        // What kubectl says is enough.
        let cluster = Cluster::new(cluster.shell)?.on("*", "echo 'error: no cluster' >&2; exit 1");
        let output = cluster.run(&["inspect", "--all"])?;
        assert_eq!((output.status.code(), errors(&output).as_str()), (Some(1), "error: no cluster\n"));
        let cluster = Cluster::new(cluster.shell)?.nodes(&["worker1"]);
        let output = cluster.run(&["inspect", "worker9"])?;
        assert!(errors(&output).contains("on node worker9, or there is no such node"), "{}", errors(&output));
        Ok(())
    })
}

fn many_nodes_are_asked_together() -> Outcome {
    each(|cluster| {
        let names: Vec<String> = (1..=40).map(|number| format!("worker{number:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let cluster = cluster.nodes(&names);
        let output = cluster.run(&["inspect", "--all", "--json"])?;
        let nodes: Vec<Value> =
            serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>()?;
        let seen: Vec<&str> = nodes.iter().filter_map(|node| node["node"].as_str()).collect();
        assert_eq!(seen, names, "{}", errors(&output));
        Ok(())
    })
}

fn why_goes_on_without_what_may_not_be_read() -> Outcome {
    each(|cluster| {
        let cluster = cluster
            .on("*'get pod web -o json'", r#"echo '{"kind":"Pod"}'"#)
            .on("*'get pod web -o jsonpath'*", "echo shop 1234 worker2")
            .on("*'get events'*", "echo 'Error: forbidden' >&2; exit 1")
            .on("*'get network-attachment-definitions'*", r#"echo '{"kind":"List","items":[]}'"#)
            .on("*'get lans'*", "echo 'Error: forbidden' >&2; exit 1")
            .nodes(&["worker1", "worker2"]);
        let output = cluster.run(&["-n", "shop", "why", "web"])?;
        assert!(output.status.success(), "{}", errors(&output));
        let documents: Vec<Value> = serde_json::Deserializer::from_str(&cluster.file("input"))
            .into_iter()
            .collect::<Result<_, _>>()?;
        let expected = [
            json!({"kind": "Pod"}),
            json!({"kind": "NetworkAttachmentDefinitions"}),
            json!({"kind": "List", "items": []}),
            json!({"node": "worker2"}),
        ];
        assert_eq!(documents, expected);
        assert!(
            cluster.calls().iter().any(|call| call.contains("<-n><shop><get><pod><web>")),
            "{:#?}",
            cluster.calls()
        );
        Ok(())
    })
}

fn capture_asks_the_node_of_the_pod() -> Outcome {
    each(|cluster| {
        let cluster = cluster
            .on("*'get pod web '*", "echo shop worker2")
            .on("*' capture '*", "cat; echo frames")
            .nodes(&["worker1", "worker2"]);
        let mut command = cluster.command(&["capture", "web/net1", "--count", "3"])?;
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let asked = || {
            cluster.calls().into_iter().find(|call| call.contains("<capture>")).ok_or("no call".to_owned())
        };
        let call = eventually(Duration::from_secs(20), asked)?;
        let expected = "<-n><k8slan-system><exec><-i><ds-worker2><-c><node><--><k8slan-device-plugin><capture><--until-input-ends><--count=3><shop/web/net1>";
        assert_eq!(call, expected);
        // Its input is open, and ends with the caller.
        stays(ENDED, || match child.try_wait() {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        let output = child.wait_with_output()?;
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(143), b"frames\n".as_slice()),
            "{}",
            errors(&output)
        );
        let nowhere = Cluster::new(cluster.shell)?.on("*'get pod web '*", "echo shop").nodes(&["worker1"]);
        let output = nowhere.run(&["capture", "web"])?;
        assert!(errors(&output).contains("pod web is on no node yet"), "{}", errors(&output));
        Ok(())
    })
}

/// A cluster on which the pod comes to its end with this code.
fn checked(cluster: Cluster, code: &str) -> Cluster {
    cluster
        .on("*'get node worker1'*", "echo node/worker1")
        .on("*'create -f -'", "cat >job")
        .on("*'.status.phase'*", "echo Failed")
        .on("*' logs '*", "echo found")
        .on("*exitCode*", &format!("echo {code}"))
}

fn job(cluster: &Cluster) -> Result<Value, Stop> {
    Ok(serde_json::from_str(&cluster.file("job"))?)
}

fn deletions(cluster: &Cluster) -> usize {
    cluster.calls().iter().filter(|call| call.contains("<delete><job><k8slan-check-host-")).count()
}

fn check_host_makes_one_job_and_takes_it_away() -> Outcome {
    each(|cluster| {
        let cluster = checked(cluster, "2");
        let output =
            cluster.run(&["check-host", "worker1", "--image", "r/k8slan:1", "--", "--underlay", "eth1"])?;
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(2), b"found\n".as_slice()),
            "{}",
            errors(&output)
        );
        let job = job(&cluster)?;
        assert_eq!(job["metadata"]["namespace"], "k8slan-system");
        // It goes whoever is gone.
        assert_eq!(
            (&job["spec"]["ttlSecondsAfterFinished"], &job["spec"]["activeDeadlineSeconds"]),
            (&json!(30), &json!(120))
        );
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(
            (&pod["nodeName"], &pod["automountServiceAccountToken"]),
            (&json!("worker1"), &json!(false))
        );
        let expected = json!([
            "check-host",
            "--node-name=worker1",
            "--cni-bin-dir=/host/opt/cni/bin",
            "--cni-conf-dir=/host/etc/cni/net.d",
            "--kubelet-dir=/host/var/lib/kubelet/device-plugins",
            "--underlay",
            "eth1",
        ]);
        assert_eq!(
            (&pod["containers"][0]["args"], &pod["containers"][0]["image"]),
            (&expected, &json!("r/k8slan:1"))
        );
        let paths: Vec<&Value> =
            pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["hostPath"]["path"]).collect();
        assert_eq!(paths, ["/", "/run"], "no folder is made on a node without k8slan");
        assert_eq!(deletions(&cluster), 1);
        let without = checked(Cluster::new(cluster.shell)?, "0").run(&["check-host", "worker1"])?;
        assert!(errors(&without).contains("name its image with --image"), "{}", errors(&without));
        let nowhere = Cluster::new(cluster.shell)?.on("*'get node worker1'*", "echo 'not found' >&2; exit 1");
        assert_eq!(nowhere.run(&["check-host", "worker1", "--image=a"])?.status.code(), Some(1));
        assert_eq!(deletions(&nowhere), 0);
        Ok(())
    })
}

fn check_host_takes_its_job_away_when_it_is_ended() -> Outcome {
    each(|cluster| {
        for (signal, code) in [(Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
            let cluster = Cluster::new(cluster.shell)?.on("*'.status.phase'*", "echo Pending");
            let cluster = checked(cluster, "0");
            let mut child = cluster.command(&["check-host", "worker1", "--image=a"])?.spawn()?;
            let asked = || match cluster.calls().iter().any(|call| call.contains(".status.phase")) {
                true => Ok(()),
                false => Err("it does not wait yet".to_owned()),
            };
            eventually(Duration::from_secs(20), asked)?;
            kill(Pid::from_raw(child.id().cast_signed()), signal)?;
            assert_eq!((child.wait()?.code(), deletions(&cluster)), (Some(code), 1), "{signal}");
        }
        Ok(())
    })
}

fn check_host_knows_where_an_installation_has_its_folders() -> Outcome {
    each(|cluster| {
        let cluster = cluster
            .on("*'get daemonset'*image*", "echo r/k8slan@sha256:01")
            .on("*'get daemonset'*cni-bin*", "echo /var/lib/rancher/k3s/data/cni")
            .on("*'get daemonset'*kubelet*", "echo /var/lib/kubelet/device-plugins")
            .on("*'get daemonset'*state*", "echo /var/lib/k8slan")
            .on("*'get daemonset'*config*", "echo /var/lib/k8slan/etc");
        let cluster = checked(cluster, "0");
        let output = cluster.run(&["check-host", "worker1"])?;
        assert!(output.status.success(), "{}", errors(&output));
        let pod = job(&cluster)?["spec"]["template"]["spec"].clone();
        let container = &pod["containers"][0];
        assert_eq!(container["image"], "r/k8slan@sha256:01");
        let has = |argument: &str| container["args"].as_array().unwrap().contains(&json!(argument));
        assert!(has("--cni-bin-dir=/host/var/lib/rancher/k3s/data/cni"), "{pod:#}");
        assert!(has("--cni-conf-dir=/host/var/lib/rancher/k3s/agent/etc/cni/net.d"), "{pod:#}");
        assert!(
            pod["volumes"]
                .as_array()
                .unwrap()
                .contains(&json!({"name": "config", "hostPath": {"path": "/var/lib/k8slan/etc"}}))
        );
        Ok(())
    })
}

fn check_host_takes_nothing_that_would_break_its_job() -> Outcome {
    each(|cluster| {
        let cluster = checked(cluster, "0");
        for odd in ["a\"b", "a\\b", "a\nb"] {
            for arguments in [
                vec!["check-host", "worker1", "--image=a", "--", odd],
                vec!["check-host", "worker1", "--image", odd],
            ] {
                let output = cluster.run(&arguments)?;
                assert!(output.status.code() == Some(2), "{odd:?}: {}", errors(&output));
            }
        }
        assert!(!Path::new(&cluster.dir.path().join("job")).exists());
        Ok(())
    })
}
