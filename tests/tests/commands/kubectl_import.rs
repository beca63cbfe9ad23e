//! `kubectl k8slan import`, the script's part: what it reads, and what it has kubectl do of what it is told. What an import
//! changes is decided by the program (`device-plugin/doctor/src/import/`), and tried on a real API server
//! (`tests/daemon/cluster/real_server/import.rs`).

use std::fs;

use serde_json::{Value, json};
use testnet::{Outcome, Stop};

use crate::kubectl_plugin::{Cluster, each, errors};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        what_is_said_is_done,
        a_dry_run_does_nothing,
        what_kubectl_refuses_ends_it,
        a_pool_that_was_changed_meanwhile_is_read_again,
        what_may_not_be_read_ends_it,
        host_locals_leases_come_from_a_pod_on_each_node,
        a_node_whose_leases_are_not_known_ends_it,
    ]
}

/// With objects of all kinds that are read, each a list of its name.
fn readable(cluster: Cluster) -> Cluster {
    ["network-attachment-definitions", "lanpools", "ippools", "overlappingrangeipreservations"].iter().fold(
        cluster,
        |cluster, kind| {
            cluster.on(
                &format!("*'get {kind}.'*' -A -o json'"),
                &format!("echo '{{\"kind\":\"List\",\"of\":\"{kind}\"}}'"),
            )
        },
    )
}

/// The program says this.
fn told(cluster: Cluster, lines: &[&str]) -> Result<Cluster, Stop> {
    fs::write(cluster.dir.path().join("told"), lines.join("\n") + "\n")?;
    Ok(cluster.on("*' exec -i '*", "cat >input; cat told").on("*' -f -'", "cat >>done; echo made"))
}

/// What the program was given, by what it is of.
fn given(cluster: &Cluster) -> Result<Vec<Value>, Stop> {
    let input = cluster.file("input");
    Ok(serde_json::Deserializer::from_str(&input).into_iter().collect::<Result<_, _>>()?)
}

fn what_is_said_is_done() -> Outcome {
    each(|cluster| {
        let odd = r#"{"kind":"LANPool","a":"b\\n \"c\"  $(touch here) %s"}"#;
        let create = format!("create {odd}");
        let lines = [
            "replace {\"kind\":\"LANPool\"}",
            "say LANPool one: opened",
            "say     10.0.0.5 pod a/x",
            &create,
            "refuse LANPool two: refused: no",
        ];
        let cluster = told(readable(cluster), &lines)?.nodes(&["worker1"]);
        let output = cluster.run(&["import", "whereabouts", "--pool", "one"])?;
        let said = errors(&output);
        assert_eq!(output.stdout, b"LANPool one: opened\n    10.0.0.5 pod a/x\n", "{said}");
        assert_eq!(
            (output.status.code(), said.as_str()),
            (Some(1), "kubectl k8slan: LANPool two: refused: no\n")
        );
        assert_eq!(cluster.file("done"), format!("{{\"kind\":\"LANPool\"}}\n{odd}\n"));
        assert!(!cluster.dir.path().join("here").exists());
        let calls = cluster.calls();
        let verbs: Vec<&String> = calls.iter().filter(|call| call.ends_with("<-f><->")).collect();
        assert_eq!(verbs, ["<replace><-f><->", "<create><-f><->"]);
        assert!(
            calls.iter().any(|call| call
                .ends_with("<k8slan-device-plugin><import><whereabouts><--pool><one><-o><actions>")),
            "{calls:#?}"
        );
        // Definitions before what pods have: what is given before a definition was changed is seen.
        let kinds: Vec<Value> = given(&cluster)?.iter().map(|list| list["of"].clone()).collect();
        assert_eq!(
            kinds,
            ["network-attachment-definitions", "ippools", "overlappingrangeipreservations", "lanpools"]
        );
        Ok(())
    })
}

fn a_dry_run_does_nothing() -> Outcome {
    each(|cluster| {
        let cluster = told(readable(cluster), &["LANPool one: made"])?.nodes(&["worker1"]);
        for (arguments, words, said) in [
            (
                &["--dry-run"][..],
                "<import><whereabouts><-o><text>",
                "nothing is changed; this would be done:\nLANPool one: made\n",
            ),
            (&["--dry-run", "-o", "yaml"], "<import><whereabouts><-o><yaml>", "LANPool one: made\n"),
            (
                &["--finish", "--dry-run=client", "-ojson"],
                "<import><whereabouts><--finish><-o><json>",
                "LANPool one: made\n",
            ),
        ] {
            let output = cluster.run(&[&["import", "whereabouts"], arguments].concat())?;
            assert!(output.status.success(), "{}", errors(&output));
            assert_eq!(String::from_utf8_lossy(&output.stdout), said);
            assert!(
                cluster.calls().last().is_some_and(|call| call.ends_with(words)),
                "{:#?}",
                cluster.calls()
            );
        }
        assert_eq!(cluster.file("done"), "");
        Ok(())
    })
}

fn what_kubectl_refuses_ends_it() -> Outcome {
    each(|cluster| {
        let cluster =
            readable(cluster).on("*'replace -f -'", "echo 'Error: the object has been modified' >&2; exit 1");
        let cluster =
            told(cluster, &["replace {}", "say LANPool one: opened", "create {}"])?.nodes(&["worker1"]);
        let output = cluster.run(&["import", "whereabouts"])?;
        let said = errors(&output);
        assert_eq!((output.status.code(), said.as_str()), (Some(1), "Error: the object has been modified\n"));
        assert_eq!((output.stdout.as_slice(), cluster.file("done").as_str()), (b"".as_slice(), ""));
        Ok(())
    })
}

/// The leader writes a pool's status whenever its counts change.
fn a_pool_that_was_changed_meanwhile_is_read_again() -> Outcome {
    each(|cluster| {
        let once = "[ ! -e modified ] && touch modified && echo 'Error: the object has been modified' >&2 && exit 1; cat >>done";
        let cluster = readable(cluster).on("*'replace -f -'", once);
        let cluster =
            told(cluster, &["replace {}", "say LANPool one: opened", "create {}"])?.nodes(&["worker1"]);
        let output = cluster.run(&["import", "whereabouts"])?;
        assert_eq!((output.status.code(), errors(&output).as_str()), (Some(0), ""));
        assert_eq!(output.stdout, b"LANPool one: opened\n");
        assert_eq!(cluster.file("done"), "{}\n{}\n");
        let calls = cluster.calls();
        let reads = calls.iter().filter(|call| call.contains("<lanpools.lan.k8slan.io>")).count();
        assert_eq!(reads, 2, "{calls:#?}");
        Ok(())
    })
}

fn what_may_not_be_read_ends_it() -> Outcome {
    each(|cluster| {
        let cluster = cluster.on("*'get ippools.'*", "echo 'Error: forbidden' >&2; exit 1");
        let cluster = told(readable(cluster), &["create {}"])?.nodes(&["worker1"]);
        let output = cluster.run(&["import", "whereabouts"])?;
        assert_eq!((output.status.code(), errors(&output).as_str()), (Some(1), "Error: forbidden\n"));
        assert_eq!((cluster.file("input").as_str(), cluster.file("done").as_str()), ("", ""));
        Ok(())
    })
}

/// host-local's leases of two nodes, of which one has no daemon at the moment; the second's pod comes to this end.
fn on_nodes(cluster: Cluster, end: &str) -> Cluster {
    let pods = format!("echo worker1 import-1 Succeeded; echo worker2 import-2 {end}");
    readable(cluster)
        .nodes(&["worker1"])
        .on("*'get nodes '*", "echo worker1; echo worker2")
        .on("*'get daemonset'*", "echo r/k8slan@sha256:01")
        .on("*'create -f -'", "cat >>jobs")
        .on("*'get pods -l k8slan.io/import='*", &pods)
        .on(
            "*' logs import-'*",
            r#"for pod; do case $pod in import-*) echo "{\"node\":\"$pod\",\"hostLocal\":{}}" ;; esac; done"#,
        )
}

fn deleted(cluster: &Cluster) -> usize {
    cluster.calls().iter().filter(|call| call.contains("<delete><jobs><-l><k8slan.io/import=")).count()
}

fn host_locals_leases_come_from_a_pod_on_each_node() -> Outcome {
    each(|cluster| {
        let cluster = told(on_nodes(cluster, "Succeeded"), &["say done"])?;
        let output = cluster.run(&["import", "host-local"])?;
        assert!(output.status.success(), "{}", errors(&output));
        let seen = given(&cluster)?;
        let kinds: Vec<&Value> = seen
            .iter()
            .map(|document| if document["of"].is_null() { &document["node"] } else { &document["of"] })
            .collect();
        assert_eq!(kinds, ["network-attachment-definitions", "import-1", "import-2", "lanpools"]);
        let jobs: Vec<Value> = cluster
            .file("jobs")
            .split("---\n")
            .filter(|job| !job.is_empty())
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        assert_eq!(jobs.len(), 2);
        for (job, node) in jobs.iter().zip(["worker1", "worker2"]) {
            let pod = &job["spec"]["template"]["spec"];
            assert_eq!(
                (&pod["nodeName"], &pod["automountServiceAccountToken"]),
                (&json!(node), &json!(false))
            );
            let container = &pod["containers"][0];
            assert_eq!(
                container["args"],
                json!(["host-local-leases", "--dir=/networks", format!("--node-name={node}")])
            );
            assert_eq!(container["image"], "r/k8slan@sha256:01");
            // That folder alone, and nothing that it could do with it.
            assert_eq!(
                pod["volumes"],
                json!([{ "name": "networks", "hostPath": { "path": "/var/lib/cni/networks" } }])
            );
            assert_eq!(
                (&container["securityContext"]["privileged"], &container["securityContext"]["capabilities"]),
                (&json!(false), &json!({ "drop": ["ALL"] }))
            );
        }
        assert_eq!(deleted(&cluster), 1);
        Ok(())
    })
}

fn a_node_whose_leases_are_not_known_ends_it() -> Outcome {
    each(|cluster| {
        let cluster = told(on_nodes(cluster, "Failed"), &["create {}"])?;
        let output = cluster.run(&["import", "host-local"])?;
        let said = errors(&output);
        assert!(
            output.status.code() == Some(1)
                && said.contains("worker2: ")
                && said.contains("nothing is changed"),
            "{said}"
        );
        assert_eq!((cluster.file("input").as_str(), deleted(&cluster)), ("", 1));
        Ok(())
    })
}
