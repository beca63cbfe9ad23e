//! What a pod, a LAN and a node go through, with nothing going wrong in between.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use agent::kubelet::{Health, KubeletState};
use k8slan_tests::kubelet::{Kubelet, Manner};
use net_types::Attach;
use testnet::{Outcome, Trial, eventually, stays, tests};

use crate::kubelet::plugins::Plugins;
use crate::kubelet::{check, failed};

const SOON: Duration = Duration::from_secs(1);
/// Long enough for anything that is still on its way to do its harm, and for a second registration.
const HARM: Duration = Duration::from_millis(500);
/// Between two changes that are told one after the other.
const MOMENT: Duration = Duration::from_millis(1);
const POD1: &str = "macvtap.k8slan.io/pod1";

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        a_spoke_is_registered_and_handed_out,
        health_follows_the_lan,
        a_spoke_that_goes_is_taken_to_zero,
        a_spoke_may_come_back_at_once,
        sockets_are_roots_and_go_with_the_daemon,
        the_daemon_may_start_first,
        stale_sockets_are_removed,
        a_strange_kubelet_is_refused,
        another_version_is_named,
        a_reboot_readmits_pods,
        a_daemon_that_restarts_takes_over,
    ]
}

fn a_spoke_is_registered_and_handed_out() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let plugins = Plugins::start(dir.path(), &["pod1", "v.eth-1"]);
    plugins.spokes.grant_as("v.eth-1", |grant| grant.as_mut().unwrap().attach = Attach::Veth);
    kubelet.wait_allocatable(2, SOON).map_err(failed)?;
    plugins.wait(SOON, |status| status.registered == 2 && status.problem.is_none())?;

    let given = kubelet.admit("uid-1", "vm", POD1, 1).map_err(failed)?;
    let index = plugins.spokes.tap_index("pod1");
    let tap = format!("/dev/tap{index}");
    check!(given.devices.len() == 1, "{given:?}");
    let device = &given.devices[0];
    check!(
        device.host_path == tap && device.container_path == tap && device.permissions == "rw",
        "{device:?}"
    );
    check!(given.cdi_devices.is_empty() && given.mounts.is_empty(), "{given:?}");
    let variables = [
        ("K8SLAN_SPOKE_pod1", "pod1".to_owned()),
        ("K8SLAN_MTU_pod1", "1426".to_owned()),
        ("K8SLAN_TAP_INDEX_pod1", index.to_string()),
    ];
    for (name, value) in variables {
        check!(given.envs.get(name) == Some(&value), "{name}: {:?}", given.envs);
    }
    let again = kubelet.admit("uid-1", "vm", POD1, 1).map_err(failed)?;
    check!(again == given, "what the checkpoint holds: {again:?}");
    let other = kubelet.admit("uid-2", "vm", POD1, 1).unwrap_err();
    check!(other.contains("Requested: 1, Available: 0"), "{other}");

    let veth = kubelet.admit("uid-3", "web", "macvtap.k8slan.io/v.eth-1", 1).map_err(failed)?;
    check!(veth.devices.is_empty(), "a veth has no device node: {veth:?}");
    check!(veth.envs.contains_key("K8SLAN_MTU_v_2eeth_2d1"), "{:?}", veth.envs);
    Ok(())
}

fn health_follows_the_lan() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let plugins = Plugins::start(dir.path(), &["pod1"]);
    kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
    let before = kubelet.counts();
    let missing = |underlay: &str| Health::Unhealthy { reason: format!("underlay {underlay} is missing") };
    plugins.spokes.health("pod1", missing("eth1"));
    kubelet.wait_resource(POD1, (1, 0), SOON).map_err(failed)?;
    let rejected = kubelet.admit("uid-1", "vm", POD1, 1).unwrap_err();
    check!(rejected.contains("no healthy devices present"), "{rejected}");
    // What the kubelet cannot see is not sent to it.
    plugins.spokes.health("pod1", missing("eth2"));
    plugins.spokes.health("pod1", missing("eth2"));
    plugins.spokes.health("pod1", Health::Healthy);
    kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
    kubelet.admit("uid-1", "vm", POD1, 1).map_err(failed)?;
    let after = kubelet.counts();
    check!(after.lists == before.lists + 2, "one list for each change: {before:?} {after:?}");
    check!(after.registrations == before.registrations, "no registration for a change of health: {after:?}");
    Ok(())
}

fn a_spoke_that_goes_is_taken_to_zero() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let plugins = Plugins::start(dir.path(), &["pod1", "pod2"]);
    kubelet.wait_allocatable(2, SOON).map_err(failed)?;
    plugins.spokes.set(&["pod2"]);
    kubelet.wait_resource(POD1, (0, 0), SOON).map_err(failed)?;
    check!(kubelet.resource("macvtap.k8slan.io/pod2") == Some((1, 1)), "pod2 stays");
    eventually(SOON, || match dir.path().join("k8slan-pod1.sock").exists() {
        true => Err("the socket of pod1 is still there".into()),
        false => Ok(()),
    })?;
    plugins.spokes.set(&["pod2", "pod1"]);
    kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
    kubelet.admit("uid-1", "vm", POD1, 1).map_err(failed)?;
    Ok(())
}

fn a_spoke_may_come_back_at_once() -> Outcome {
    for by_resource_alone in [false, true] {
        let dir = tempfile::tempdir()?;
        let kubelet = Kubelet::start_as(dir.path(), Manner { by_resource_alone, ..Manner::default() })?;
        let plugins = Plugins::start(dir.path(), &["pod1"]);
        kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
        for _ in 0..20 {
            plugins.spokes.set(&[]);
            plugins.spokes.set(&["pod1"]);
            std::thread::sleep(MOMENT);
        }
        std::thread::sleep(HARM);
        kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
        kubelet.admit("uid-1", "vm", POD1, 1).map_err(failed)?;
    }
    Ok(())
}

fn sockets(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let sockets = entries.filter(|entry| entry.file_type().unwrap().is_socket());
    let mut names: Vec<_> = sockets.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn sockets_are_roots_and_go_with_the_daemon() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let plugins = Plugins::start(dir.path(), &["pod1", "pod2"]);
    kubelet.wait_allocatable(2, SOON).map_err(failed)?;
    let mode = std::fs::metadata(dir.path().join("k8slan-pod1.sock"))?.permissions().mode();
    check!(mode & 0o7777 == 0o600, "mode {mode:o}");
    plugins.stop()?;
    check!(sockets(dir.path()) == ["kubelet.sock"], "left: {:?}", sockets(dir.path()));
    // The kubelet keeps the resource, so that a new daemon finds the pods still there.
    kubelet.wait_resource(POD1, (1, 0), SOON).map_err(failed)?;
    Ok(())
}

fn the_daemon_may_start_first() -> Outcome {
    let dir = tempfile::tempdir()?;
    let late = dir.path().join("lib/kubelet/device-plugins");
    let plugins = Plugins::start(&late, &["pod1"]);
    plugins.wait(SOON, |status| status.kubelet == KubeletState::Absent && status.wanted == 1)?;
    let kubelet = Kubelet::start(&late)?;
    kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
    Ok(())
}

fn stale_sockets_are_removed() -> Outcome {
    let dir = tempfile::tempdir()?;
    drop(UnixListener::bind(dir.path().join("k8slan-old.sock"))?);
    drop(UnixListener::bind(dir.path().join("k8slan-pod1.sock"))?);
    drop(UnixListener::bind(dir.path().join("nvidia-gpu.sock"))?);
    let plugins = Plugins::start(dir.path(), &["pod1"]);
    eventually(SOON, || match sockets(dir.path()) {
        names if names == ["nvidia-gpu.sock"] => Ok(()),
        names => Err(format!("{names:?}")),
    })?;
    plugins.stop()
}

fn a_strange_kubelet_is_refused() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let socket = dir.path().join("kubelet.sock");
    std::os::unix::fs::chown(&socket, Some(1000), None)?;
    let plugins = Plugins::start(dir.path(), &["pod1"]);
    let refused = |words: &'static str| {
        plugins.wait(SOON, move |status| match &status.kubelet {
            KubeletState::Refused(reason) => reason.contains(words),
            _ => false,
        })
    };
    refused("belongs to user 1000")?;
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o777))?;
    std::os::unix::fs::chown(&socket, Some(0), None)?;
    refused("mode 0777")?;
    check!(kubelet.counts().registrations == 0, "{:?}", kubelet.counts());
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o755))?;
    kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
    Ok(())
}

fn another_version_is_named() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start_as(dir.path(), Manner { version: "v1beta2", ..Manner::default() })?;
    let plugins = Plugins::start(dir.path(), &["pod1"]);
    plugins.wait(SOON, |status| {
        let words = status.problem.as_deref().unwrap_or_default();
        words.contains("does not speak the device plugin API v1beta1") && words.contains("v1beta2")
    })?;
    stays(HARM, || match kubelet.counts() {
        counts if counts.registrations == 1 => Ok(()),
        counts => Err(format!("asked again and again: {counts:?}")),
    })?;
    kubelet.stop();
    let kubelet = Kubelet::start(dir.path())?;
    kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
    plugins.wait(SOON, |status| status.problem.is_none())?;
    Ok(())
}

fn a_reboot_readmits_pods() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let plugins = Plugins::start(dir.path(), &["pod1"]);
    kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
    let given = kubelet.admit("uid-1", "vm", POD1, 1).map_err(failed)?;
    kubelet.kill();
    plugins.stop()?;

    let kubelet = Kubelet::start(dir.path())?;
    let early = kubelet.admit("uid-1", "vm", POD1, 1).unwrap_err();
    check!(early.contains("no healthy devices present"), "before the daemon: {early}");
    let _plugins = Plugins::start(dir.path(), &["pod1"]);
    kubelet.wait_resource(POD1, (1, 1), SOON).map_err(failed)?;
    let again = kubelet.admit("uid-1", "vm", POD1, 1).map_err(failed)?;
    check!(again == given, "the same device after the reboot: {again:?}");
    Ok(())
}

fn a_daemon_that_restarts_takes_over() -> Outcome {
    for by_resource_alone in [false, true] {
        let dir = tempfile::tempdir()?;
        let kubelet = Kubelet::start_as(dir.path(), Manner { by_resource_alone, ..Manner::default() })?;
        for round in 0..10 {
            let plugins = Plugins::start(dir.path(), &["pod1", "pod2"]);
            kubelet.wait_allocatable(2, SOON).map_err(failed)?;
            let pod = format!("uid-{round}");
            kubelet.admit(&pod, "vm", POD1, 1).map_err(failed)?;
            kubelet.forget(&pod);
            plugins.stop()?;
            kubelet.wait_allocatable(0, SOON).map_err(failed)?;
        }
    }
    Ok(())
}
