//! `make demo`: three simulated nodes, the document's LAN and a second one, pods on both, and what the kernel has
//! of it all, as a tree and as a drawing. With `KEEP=1` a shell opens on a node before everything is taken away.
//!
//! Everything lives in namespaces of this process; whatever ends it, they go.

mod build;
mod shell;
mod show;
mod tree;

use std::process::ExitCode;
use std::time::Instant;

use testnet::{Outcome, Stop};

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("make demo needs root: it makes network namespaces");
        return ExitCode::FAILURE;
    }
    testnet::isolated(|| match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Failed(why) | Stop::Skipped(why)) => {
            eprintln!("\nthe demo failed: {why}");
            ExitCode::FAILURE
        }
    })
}

fn run() -> Outcome {
    let progress = show::Progress::new(Instant::now());
    println!("k8slan: three nodes on one underlay, two LANs, five pods\n");
    let cluster = build::cluster(&progress)?;
    let pods = build::pods(&cluster, &progress)?;
    let times = build::pings(&pods, &progress)?;
    println!("\nWhat the kernel has of it:\n");
    let views = cluster.workers().iter().map(tree::read).collect::<Result<Vec<_>, _>>()?;
    for view in &views {
        print!("{}", tree::of_node(view, &times));
    }
    progress.done(&format!("the same as a drawing: {}", tree::draw(&views)?.display()));
    if let Some(wanted) = std::env::var("KEEP").ok().filter(|wanted| !wanted.is_empty()) {
        shell::open(&cluster, &pods, &wanted)?;
    } else {
        println!("          (with KEEP=1, or KEEP=worker2, a shell on that node opens here)");
    }
    drop(pods);
    drop(cluster);
    progress.done("all nodes are gone, with everything on them");
    Ok(())
}
