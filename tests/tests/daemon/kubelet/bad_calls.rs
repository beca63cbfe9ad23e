//! Calls that no kubelet makes.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use agent::kubelet::Refusal;
use k8slan_tests::kubelet::Kubelet;
use proto::kubelet::v1beta1::{
    AllocateRequest, ContainerAllocateRequest, ContainerPreferredAllocationRequest, PreStartContainerRequest,
    PreferredAllocationRequest,
};
use testnet::{Outcome, Trial, finish, tests};
use tonic::Code;

use crate::kubelet::plugins::Plugins;
use crate::kubelet::{check, failed};

const SOON: Duration = Duration::from_secs(1);
const CHILD: &str = "K8SLAN_TEST_CONNECT";

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        wrong_devices_are_refused_with_a_reason,
        several_devices_and_containers_per_call,
        the_calls_that_are_optional,
        only_root_may_call,
        a_file_in_the_way_is_not_removed,
        somebody_elses_socket_in_the_way_is_not_removed,
    ]
}

fn request(containers: &[&[&str]]) -> AllocateRequest {
    let devices = |ids: &&[&str]| ids.iter().map(|&id| id.to_owned()).collect();
    let containers = containers.iter().map(|ids| ContainerAllocateRequest { devices_ids: devices(ids) });
    AllocateRequest { container_requests: containers.collect() }
}

fn wrong_devices_are_refused_with_a_reason() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let plugins = Plugins::start(dir.path(), &["pod1", "pod2"]);
    kubelet.wait_allocatable(2, SOON).map_err(failed)?;
    let client = kubelet.client("macvtap.k8slan.io/pod1").map_err(failed)?;
    let refused = |containers: &[&[&str]], code: Code, words: &str| -> Outcome {
        let answer = kubelet.block_on(client.clone().allocate(request(containers)));
        let status = answer.err().ok_or_else(|| failed(format!("{containers:?} was allowed")))?;
        check!(status.code() == code && status.message().contains(words), "{containers:?}: {status:?}");
        check!(status.message().starts_with("macvtap.k8slan.io/pod1: "), "{status:?}");
        Ok(())
    };
    refused(&[&["nothing"]], Code::NotFound, "there is no device \"nothing\", the only one is pod1")?;
    refused(&[&["../../pod1"]], Code::NotFound, "there is no device")?;
    refused(
        &[&["pod2"]],
        Code::InvalidArgument,
        "device pod2 is not of this resource but of macvtap.k8slan.io/pod2",
    )?;
    refused(&[&["pod1"], &["pod2"]], Code::InvalidArgument, "not of this resource")?;
    refused(&[&[]], Code::InvalidArgument, "no device is asked for")?;
    refused(&[], Code::InvalidArgument, "no container asks")?;
    let reason = "underlay eth1 is missing: add it, or change vxlanDevMap";
    plugins.spokes.grant_as("pod1", |grant| {
        *grant = Err(Refusal::NotReady { spoke: "pod1".parse().unwrap(), reason: reason.into() });
    });
    refused(&[&["pod1"]], Code::FailedPrecondition, reason)?;
    let rejected = kubelet.admit("uid-1", "vm", "macvtap.k8slan.io/pod1", 1).unwrap_err();
    check!(rejected.contains(reason), "what the pod's event says: {rejected}");
    Ok(())
}

fn several_devices_and_containers_per_call() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let _plugins = Plugins::start(dir.path(), &["pod1"]);
    kubelet.wait_allocatable(1, SOON).map_err(failed)?;
    let mut client = kubelet.client("macvtap.k8slan.io/pod1").map_err(failed)?;
    let answer = kubelet.block_on(client.allocate(request(&[&["pod1"], &["pod1", "pod1"]])))?;
    let containers = answer.into_inner().container_responses;
    check!(containers.len() == 2, "{containers:?}");
    check!(containers.iter().all(|container| container.devices.len() == 1), "{containers:?}");
    Ok(())
}

fn the_calls_that_are_optional() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let _plugins = Plugins::start(dir.path(), &["pod1"]);
    kubelet.wait_allocatable(1, SOON).map_err(failed)?;
    let mut client = kubelet.client("macvtap.k8slan.io/pod1").map_err(failed)?;
    let preferred = PreferredAllocationRequest {
        container_requests: vec![ContainerPreferredAllocationRequest {
            available_device_i_ds: vec!["a".into(), "b".into(), "pod1".into()],
            must_include_device_i_ds: vec!["pod1".into()],
            allocation_size: 2,
        }],
    };
    let answer = kubelet.block_on(client.get_preferred_allocation(preferred))?.into_inner();
    check!(answer.container_responses[0].device_i_ds == ["pod1", "a"], "{answer:?}");
    let start = |id: &str| PreStartContainerRequest { devices_ids: vec![id.to_owned()] };
    kubelet.block_on(client.pre_start_container(start("pod1")))?;
    let status = kubelet.block_on(client.pre_start_container(start("pod7"))).unwrap_err();
    check!(status.code() == Code::NotFound, "{status:?}");
    Ok(())
}

/// In the child: connects, writes what opens an HTTP/2 connection, and says how that went.
pub(crate) fn child() -> Option<ExitCode> {
    let path = std::env::var_os(CHILD)?;
    let attempt = || -> std::io::Result<usize> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
        stream.read(&mut [0; 64])
    };
    match attempt() {
        Ok(0) => println!("closed"),
        Ok(_) => println!("answered"),
        Err(error) => println!("{}", error.kind()),
    }
    Some(ExitCode::SUCCESS)
}

fn connect_as(user: u32, path: &std::path::Path) -> Result<String, testnet::Error> {
    // Through the link, since an unprivileged user may not be able to walk to the file itself.
    let output = finish(Command::new("/proc/self/exe").uid(user).env(CHILD, path))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn only_root_may_call() -> Outcome {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    let kubelet = Kubelet::start(dir.path())?;
    let _plugins = Plugins::start(dir.path(), &["pod1"]);
    kubelet.wait_allocatable(1, SOON).map_err(failed)?;
    let socket = dir.path().join("k8slan-pod1.sock");
    let asked = connect_as(0, &socket)?;
    check!(asked == "answered", "root: {asked}");
    let asked = connect_as(1000, &socket)?;
    check!(asked == "permission denied", "a user: {asked}");
    // Whoever loosens the mode opens nothing.
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o777))?;
    let asked = connect_as(1000, &socket)?;
    check!(["closed", "connection reset", "broken pipe"].contains(&asked.as_str()), "a user: {asked}");
    Ok(())
}

fn a_file_in_the_way_is_not_removed() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let file = dir.path().join("k8slan-pod1.sock");
    std::fs::write(&file, "precious")?;
    let plugins = Plugins::start(dir.path(), &["pod1", "pod2"]);
    kubelet.wait_resource("macvtap.k8slan.io/pod2", (1, 1), SOON).map_err(failed)?;
    plugins.wait(SOON, |status| {
        status.problem.as_deref().is_some_and(|words| words.contains("not a socket that root owns"))
    })?;
    check!(std::fs::read(&file)? == b"precious", "the file is as it was");
    std::fs::remove_file(&file)?;
    kubelet.wait_allocatable(2, Duration::from_secs(11)).map_err(failed)?;
    Ok(())
}

fn somebody_elses_socket_in_the_way_is_not_removed() -> Outcome {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let socket = dir.path().join("k8slan-pod1.sock");
    let _listener = UnixListener::bind(&socket)?;
    std::os::unix::fs::chown(&socket, Some(1000), None)?;
    let plugins = Plugins::start(dir.path(), &["pod1", "pod2"]);
    kubelet.wait_resource("macvtap.k8slan.io/pod2", (1, 1), SOON).map_err(failed)?;
    plugins.wait(SOON, |status| {
        status.problem.as_deref().is_some_and(|words| words.contains("not a socket that root owns"))
    })?;
    check!(std::fs::metadata(&socket)?.uid() == 1000, "the socket is as it was");
    check!(kubelet.resource("macvtap.k8slan.io/pod1").is_none(), "the kubelet was sent to another's socket");
    Ok(())
}
