//! `KEEP=1 make demo`: a shell on one of the nodes, for whoever wants to look around.

use std::process::{Command, Stdio};

use testnet::{Outcome, Stop, bin_dir};

use crate::build::{Cluster, Member};

/// Opens a shell on the node `wanted`, or on the first for any other value, and waits until it ends.
pub(crate) fn open(cluster: &Cluster, pods: &[Member<'_>], wanted: &str) -> Outcome {
    let workers = cluster.workers();
    let named = workers.iter().find(|worker| worker.name() == wanted);
    let worker = named.or(workers.first()).ok_or_else(|| Stop::Failed("there is no node".to_owned()))?;
    println!("\nA shell on {}; `exit` ends it and takes all nodes away. For example:\n", worker.name());
    println!("  k8slan-device-plugin inspect         what stands here");
    println!("  ip -n knlvrf link                    the LAN's namespace: bridge, VXLAN, spokes");
    println!("  ip -n knlvrf link del vx2            break it; within a second it is back");
    for (name, namespace) in pods.iter().filter_map(|pod| pod.on(worker.name())) {
        println!("  ip -n {namespace} addr    the pod {name}");
    }
    println!();
    let mut shell: Command = worker.command("bash");
    let path = std::env::var("PATH").unwrap_or_default();
    shell
        .args(["--noprofile", "--norc"])
        .env("PATH", format!("{}:{path}", bin_dir().display()))
        .env("PS1", format!("{}# ", worker.name()))
        .stdin(Stdio::inherit());
    // How the shell ended is what was typed last, and nothing that failed here.
    shell.status()?;
    println!();
    Ok(())
}
