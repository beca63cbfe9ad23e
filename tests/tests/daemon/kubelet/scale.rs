//! A thousand spokes, in a process of their own, whose time and memory are read from outside.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::kubelet::DevicePlugins;
use k8slan_tests::kubelet::Kubelet;
use testnet::{Outcome, Stop, Trial, tests};

use crate::kubelet::plugins::FakeSpokes;
use crate::kubelet::{check, failed};

const COUNT: usize = 1000;
const CHILD: &str = "K8SLAN_TEST_PLUGINS";
/// How many spokes the child has.
const SPOKES: &str = "K8SLAN_TEST_SPOKES";

/// What registering leaves behind has ended by then.
const REST: Duration = Duration::from_millis(500);
/// So long nobody may wake up.
const IDLE: Duration = Duration::from_secs(3);

pub(crate) fn trials() -> Vec<Trial> {
    tests![a_thousand_spokes]
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("spoke-{n}")).collect()
}

/// In the child: the device plugins, until killed.
pub(crate) fn child() -> Option<ExitCode> {
    let dir = PathBuf::from(std::env::var_os(CHILD)?);
    let names = names(std::env::var(SPOKES).ok()?.parse().ok()?);
    let spokes = FakeSpokes::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let plugins = DevicePlugins::new(dir, Arc::new(spokes));
    runtime.block_on(plugins.run(std::future::pending())).expect("runs");
    Some(ExitCode::SUCCESS)
}

struct Plugins(Child);

impl Drop for Plugins {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Plugins {
    fn start(dir: &Path, spokes: usize) -> std::io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        Ok(Self(command.env(CHILD, dir).env(SPOKES, spokes.to_string()).spawn()?))
    }

    fn status(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Times that the process slept and woke up.
    fn switches(&self) -> u64 {
        self.status("voluntary_ctxt_switches:")
    }
}

/// What is resident of a program with one spoke: this one is that of many tests, and larger than the daemon.
fn of_one_spoke() -> Result<u64, Stop> {
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let plugins = Plugins::start(dir.path(), 1)?;
    kubelet.wait_allocatable(1, Duration::from_secs(20)).map_err(failed)?;
    Ok(plugins.status("VmRSS:"))
}

fn a_thousand_spokes() -> Outcome {
    let hard = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?.1;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)?;
    let program = of_one_spoke()?;
    let dir = tempfile::tempdir()?;
    let kubelet = Kubelet::start(dir.path())?;
    let start = Instant::now();
    let plugins = Plugins::start(dir.path(), COUNT)?;
    kubelet.wait_allocatable(COUNT, Duration::from_secs(20)).map_err(failed)?;
    let registered = start.elapsed();
    std::thread::sleep(REST);
    let (resident, peak) = (plugins.status("VmRSS:"), plugins.status("VmHWM:"));
    let before = plugins.switches();
    std::thread::sleep(IDLE);
    let woke = plugins.switches() - before;

    let mut latencies: Vec<Duration> = Vec::new();
    for name in names(COUNT).iter().take(200) {
        let resource = format!("macvtap.k8slan.io/{name}");
        let client = kubelet.client(&resource).map_err(failed)?;
        let container = proto::kubelet::v1beta1::ContainerAllocateRequest { devices_ids: vec![name.clone()] };
        let request = proto::kubelet::v1beta1::AllocateRequest { container_requests: vec![container] };
        let start = Instant::now();
        kubelet.block_on(client.clone().allocate(request))?;
        latencies.push(start.elapsed());
    }
    latencies.sort();
    let p99 = latencies[latencies.len() * 99 / 100];

    kubelet.stop();
    let start = Instant::now();
    let kubelet = Kubelet::start(dir.path())?;
    kubelet.wait_allocatable(COUNT, Duration::from_secs(20)).map_err(failed)?;
    let again = start.elapsed();
    println!(
        "{COUNT} spokes: registered {registered:?} after the start, {again:?} after a kubelet's restart; \
         {resident} KiB resident (peak {peak}; {program} with one), woke up {woke} times in 3 idle seconds, Allocate p99 {p99:?}"
    );
    let own = resident.saturating_sub(program);
    check!(own <= 30 * 1024, "{own} KiB more than with one spoke");
    check!(woke == 0, "woke up {woke} times in 3 idle seconds");
    Ok(())
}
