//! A kubelet that restarts, at any moment.

use std::path::Path;
use std::time::{Duration, Instant};

use k8slan_tests::kubelet::{Kubelet, Manner};
use testnet::{Outcome, Stop, Trial, eventually, tests};

use crate::kubelet::plugins::Plugins;
use crate::kubelet::{check, failed};

const SPOKES: &[&str] = &["pod1", "pod2", "pod3", "pod4", "pod5"];
const SOON: Duration = Duration::from_secs(1);

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        fifty_restarts_in_a_row,
        restarts_at_any_moment,
        sockets_deleted_under_a_running_kubelet,
        an_older_kubelet_that_cuts_off_the_wrong_connection,
    ]
}

/// Sockets of this machine, and connections to them, that have a name in the folder. Other tests run beside
/// this one, so that the process's files say nothing.
fn sockets_in(dir: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let dir = dir.to_string_lossy();
    table.lines().filter(|line| line.contains(&*dir)).count()
}

/// How many live when none ends any more: for five looks in a row.
fn tasks_at_rest(plugins: &Plugins) -> Result<usize, Stop> {
    let (mut last, mut same) = (0, 0);
    let count = eventually(Duration::from_secs(2), || {
        let tasks = plugins.tasks();
        same = if tasks == last { same + 1 } else { 0 };
        last = tasks;
        if same == 5 { Ok(tasks) } else { Err(format!("{tasks} tasks, and not always")) }
    })?;
    Ok(count)
}

fn tasks_settle_at(plugins: &Plugins, wanted: usize) -> Result<(), Stop> {
    eventually(Duration::from_secs(2), || match plugins.tasks() {
        tasks if tasks <= wanted => Ok(()),
        tasks => Err(format!("{tasks} tasks live where {wanted} did")),
    })?;
    Ok(())
}

fn fifty_restarts_in_a_row() -> Outcome {
    let dir = tempfile::tempdir()?;
    let mut kubelet = Kubelet::start(dir.path())?;
    let plugins = Plugins::start(dir.path(), SPOKES);
    kubelet.wait_allocatable(SPOKES.len(), SOON).map_err(failed)?;
    let (tasks, sockets) = (tasks_at_rest(&plugins)?, sockets_in(dir.path()));
    let mut slowest = Duration::ZERO;
    for round in 0..50 {
        if round % 2 == 0 {
            kubelet.stop()
        } else {
            kubelet.kill()
        }
        let start = Instant::now();
        kubelet = Kubelet::start(dir.path())?;
        kubelet
            .wait_allocatable(SPOKES.len(), SOON)
            .map_err(|what| failed(format!("restart {round}: {what}")))?;
        slowest = slowest.max(start.elapsed());
        let counts = kubelet.counts();
        check!(counts.registrations == SPOKES.len(), "restart {round}: each asks once: {counts:?}");
    }
    println!("slowest of 50 restarts: registered {slowest:?} after the kubelet's start");
    tasks_settle_at(&plugins, tasks)?;
    eventually(SOON, || match sockets_in(dir.path()) {
        now if now <= sockets => Ok(()),
        now => Err(format!("{now} sockets and connections where {sockets} were")),
    })?;
    let given = kubelet.admit("uid-1", "vm", "macvtap.k8slan.io/pod3", 1).map_err(failed)?;
    check!(given.devices.len() == 1, "{given:?}");
    Ok(())
}

fn restarts_at_any_moment() -> Outcome {
    let dir = tempfile::tempdir()?;
    let mut kubelet = Kubelet::start(dir.path())?;
    let plugins = Plugins::start(dir.path(), SPOKES);
    kubelet.wait_allocatable(SPOKES.len(), SOON).map_err(failed)?;
    let tasks = tasks_at_rest(&plugins)?;
    for round in 0_u64..100 {
        // Between nothing and a while in which all have registered.
        std::thread::sleep(Duration::from_micros(round * 37 % 40 * 250));
        if round % 3 == 0 {
            kubelet.stop()
        } else {
            kubelet.kill()
        }
        kubelet = Kubelet::start(dir.path())?;
    }
    kubelet.wait_allocatable(SPOKES.len(), SOON).map_err(failed)?;
    tasks_settle_at(&plugins, tasks)?;
    for spoke in SPOKES {
        kubelet.admit("uid-1", spoke, &format!("macvtap.k8slan.io/{spoke}"), 1).map_err(failed)?;
    }
    Ok(())
}

fn sockets_deleted_under_a_running_kubelet() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let _plugins = Plugins::start(dir.path(), SPOKES);
    kubelet.wait_allocatable(SPOKES.len(), SOON).map_err(failed)?;
    let before = kubelet.counts();
    for spoke in SPOKES {
        std::fs::remove_file(dir.path().join(format!("k8slan-{spoke}.sock")))?;
    }
    eventually(SOON, || {
        let there = |spoke: &&&str| dir.path().join(format!("k8slan-{spoke}.sock")).exists();
        match SPOKES.iter().filter(there).count() {
            5 => Ok(()),
            count => Err(format!("{count} sockets are back")),
        }
    })?;
    check!(kubelet.counts() == before, "the kubelet's connections are what they were");
    kubelet.admit("uid-1", "vm", "macvtap.k8slan.io/pod1", 1).map_err(failed)?;
    Ok(())
}

fn an_older_kubelet_that_cuts_off_the_wrong_connection() -> Outcome {
    let dir = tempfile::tempdir()?;
    let manner = Manner { by_resource_alone: true, ..Manner::default() };
    let mut kubelet = Kubelet::start_as(dir.path(), manner)?;
    let _plugins = Plugins::start(dir.path(), SPOKES);
    for _ in 0..20 {
        kubelet.wait_allocatable(SPOKES.len(), SOON).map_err(failed)?;
        kubelet.stop();
        kubelet = Kubelet::start_as(dir.path(), manner)?;
    }
    kubelet.wait_allocatable(SPOKES.len(), SOON).map_err(failed)?;
    Ok(())
}
