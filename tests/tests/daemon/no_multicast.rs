//! docs/no-multicast.md: its own commands, on nodes whose network carries no multicast.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::net::IpAddr;
use std::time::Duration;

use k8slan_tests::{LanFile, Worker, joined};
use testnet::{Error, Namespaces, Outcome, Ping, Switch, eventually, needs, workspace};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![a_mesh_of_tunnels_carries_the_lan]
}

const ADDRESSES: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

fn pings(from: &Namespaces, to: &str) -> bool {
    let to: IpAddr = to.parse().unwrap();
    Ping::new(to).timeout(Duration::from_millis(200)).run(from).is_ok_and(|report| report.lost() == 0)
}

/// The page's first block of shell commands.
fn commands() -> String {
    let page = std::fs::read_to_string(workspace().join("docs/no-multicast.md")).unwrap();
    page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

/// A node on a network that drops what goes to the group, as one without multicast does.
fn node(at: usize, switch: &Switch) -> Result<Worker, Error> {
    let worker = Worker::new(&format!("worker{}", at + 1), switch, 1500)?;
    worker.ip(&format!("addr add {}/24 dev eth1", ADDRESSES[at]))?;
    worker.tool("nft", "add table inet wire")?;
    worker.tool("nft", "add chain inet wire out { type filter hook output priority 0 ; }")?;
    worker.tool("nft", "add rule inet wire out oifname eth1 ip6 daddr ff02::14 counter drop")?;
    Ok(worker)
}

fn a_mesh_of_tunnels_carries_the_lan() -> Outcome {
    for program in ["nft", "bridge"] {
        needs(program)?;
    }
    let switch = Switch::new()?;
    let workers = [node(0, &switch)?, node(1, &switch)?, node(2, &switch)?];
    let spokes = ["a", "b", "c"];
    let lan = LanFile::new("lan1", 7, &spokes);
    for worker in &workers {
        worker.put(&lan)?;
    }
    let pods = [
        joined(&workers[0], "a", "10.0.0.1/24")?,
        joined(&workers[1], "b", "10.0.0.2/24")?,
        joined(&workers[2], "c", "10.0.0.3/24")?,
    ];
    assert!(!pings(&pods[0], "10.0.0.2"), "the network does carry multicast: the test proves nothing");

    let lan = LanFile { dev: "lanmesh".to_owned(), ..lan };
    for (at, worker) in workers.iter().enumerate() {
        let others: Vec<&str> = ADDRESSES.into_iter().filter(|&address| address != ADDRESSES[at]).collect();
        let script =
            format!("SELF={} DEV=eth1 OTHERS='{}'\nset -e\n{}", ADDRESSES[at], others.join(" "), commands());
        worker.exec(&["sh", "-c", &script])?;
        worker.put(&lan)?;
    }
    for (from, to) in [(0, 1), (0, 2), (2, 1)] {
        let to = format!("10.0.0.{}", to + 1);
        eventually(Duration::from_secs(10), || {
            if pings(&pods[from], &to) { Ok(()) } else { Err(format!("{to} answers")) }
        })?;
    }
    for (worker, spoke) in workers.iter().zip(spokes) {
        // As the page says: 1500 bytes, less the tunnel's 50 and the LAN's 74.
        eventually(Duration::from_secs(5), || match worker.record(spoke) {
            Some(record) if record["mtu"] == 1376 => Ok(()),
            other => Err(format!("an MTU of 1376: {other:?}")),
        })?;
    }
    Ok(())
}
