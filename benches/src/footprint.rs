//! Memory of one run, and size of the executables.

use std::collections::BTreeMap;
use std::fs;
use std::io::{PipeWriter, Write, pipe};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::lab::{self, Lab};
use crate::report::{Row, Section};
use crate::run::{PEERS, Run};
use crate::{Options, Result};

pub(crate) fn compare(_: &Options) -> Result<Section> {
    let lab = Lab::new(1)?;
    let pod = lab.node.pod("footprint")?;
    let (ours, theirs) = lab.node.run(|| -> Result<_> {
        let macvtap = Run::ours("macvtap", pod.call("net1", &lab::on_spoke(0)));
        let macvlan = Run::peer("macvlan", pod.call("net2", &lab::macvlan()))?;
        Ok((largest(&macvtap)?, largest(&macvlan)?))
    })?;
    let mut rows = vec![
        Row::alone("macvtap ADD, resident at most", "KiB", ours).beside("macvlan ADD", theirs),
        Row::alone("macvtap, size", "KiB", size(&testnet::program("macvtap"))?)
            .beside("macvlan", size(&Path::new(PEERS).join("macvlan"))?),
    ];
    for (name, peer) in [("ipam-pool", Some("host-local")), ("k8slan-device-plugin", None)] {
        let row = Row::alone(format!("{name}, size"), "KiB", size(&testnet::program(name))?);
        rows.push(match peer {
            Some(peer) => row.beside(peer, size(&Path::new(PEERS).join(peer))?),
            None => row,
        });
    }
    Ok(Section {
        title: "Memory of one run, and size of the executables".to_owned(),
        rows,
        spreads: BTreeMap::new(),
    })
}

fn size(file: &PathBuf) -> Result<f64> {
    Ok(fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?.len() as f64 / 1024.0)
}

/// The most that an ADD has resident, in KiB.
///
/// What the kernel tells of an ended child includes the memory of the parent that started it. So the plugin is
/// held when it writes its answer, its last deed, by a pipe that is full, and its high-water mark is read then.
fn largest(run: &Run) -> Result<f64> {
    let (reader, writer) = pipe()?;
    fill(&writer)?;
    let mut child = run.command("ADD").stdout(Stdio::from(writer)).spawn()?;
    run.feed(&mut child)?;
    // Hundreds of times what it takes until there.
    sleep(Duration::from_secs(1));
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    drop(reader);
    child.wait()?;
    run.timed("DEL")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the plugin had ended already")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Writes until nothing more goes in.
fn fill(mut writer: &PipeWriter) -> Result<()> {
    fcntl(writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    while writer.write(&[0; 4096]).is_ok() {}
    fcntl(writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}
