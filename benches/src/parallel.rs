//! 64 attachments at once: nothing fails, nothing is left.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use crate::lab::{self, LAN, Lab};
use crate::report::{Row, Section};
use crate::run::Run;
use crate::{Options, Result};

const ATTACHMENTS: usize = 64;

pub(crate) fn compare(_: &Options) -> Result<Section> {
    let lab = Lab::new(ATTACHMENTS)?;
    let pods = lab.pods(ATTACHMENTS)?;
    let before = state(&lab)?;
    let (ours, theirs): (Vec<_>, Vec<_>) = lab.node.run(|| -> Result<_> {
        let runs = pods.iter().enumerate().map(|(number, pod)| {
            let ours = Run::ours("macvtap", pod.call("net1", &lab::on_spoke(number)));
            let theirs = Run::peer("macvlan", pod.call("net2", &lab::macvlan()))?;
            Ok((ours, theirs))
        });
        runs.collect::<Result<Vec<_>>>().map(|runs| runs.into_iter().unzip())
    })?;
    let figures = lab.node.run(|| -> Result<_> {
        Ok([
            at_once(&ours, "ADD")?,
            at_once(&ours, "DEL")?,
            at_once(&theirs, "ADD")?,
            at_once(&theirs, "DEL")?,
        ])
    })?;
    let after = state(&lab)?;
    if before != after {
        return Err(format!("{ATTACHMENTS} attachments left something: {before:?} became {after:?}").into());
    }
    let [add, del, their_add, their_del] = figures;
    Ok(Section {
        title: format!(
            "{ATTACHMENTS} attachments at once, until the last is done: none failed, nothing is left"
        ),
        rows: vec![
            Row::alone("macvtap ADD", "ms", add).beside("macvlan ADD", their_add),
            Row::alone("macvtap DEL", "ms", del).beside("macvlan DEL", their_del),
        ],
        spreads: BTreeMap::new(),
    })
}

/// Runs all of them, each in a thread of its own; milliseconds until the last has ended.
fn at_once(runs: &[Run], verb: &str) -> Result<f64> {
    let start = Instant::now();
    let failures: Vec<String> = thread::scope(|scope| {
        // All are started before the first is waited for.
        let threads: Vec<_> = runs.iter().map(|run| scope.spawn(|| run.timed(verb))).collect();
        threads
            .into_iter()
            .filter_map(|thread| match thread.join() {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("a thread of the bench panicked".to_owned()),
            })
            .collect()
    });
    let duration = start.elapsed();
    match failures.first() {
        None => Ok(duration.as_secs_f64() * 1e3),
        Some(first) => {
            Err(format!("{} of {} {verb} failed; the first: {first}", failures.len(), runs.len()).into())
        }
    }
}

/// Whatever an attachment could leave: links and files.
fn state(lab: &Lab) -> Result<[Vec<String>; 4]> {
    Ok([
        lab.node.netns(LAN)?.link_names()?,
        lab.node.link_names()?,
        lab.node.list("/run/k8slan/taps"),
        lab.node.list("/dev"),
    ])
}
