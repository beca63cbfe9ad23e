//! `make bench`: our plugins beside Debian's, on one machine and in one run.
//!
//! | file | subject |
//! |---|---|
//! | `attachments` | ADD and DEL on a LAN's spoke beside macvlan's, and beside the floor |
//! | `parallel` | 64 attachments at once |
//! | `ipam` | addresses beside host-local's, few and many leases, many at once |
//! | `vlans` | ports of a VLAN-aware bridge beside Debian's bridge, in user-mode Linux |
//! | `footprint` | memory of one run, size of the executables |
//! | `floor` | the same netlink requests from a process that is there already |
//! | `lab` | the node, its LAN and its pods |
//! | `run` | one run of a plugin, with a clock |
//! | `rounds` | interleaving and medians |
//! | `report` | the table and `target/bench.json` |
//!
//! A comparison is a module with one function that returns a [`report::Section`]; [`SECTIONS`] lists them.

mod attachments;
mod floor;
mod footprint;
mod ipam;
mod lab;
mod parallel;
mod report;
mod rounds;
mod run;
mod vlans;

use std::error::Error;
use std::process::ExitCode;

use report::{Report, Section};

/// Threads hand results over, so errors go between them.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// All comparisons, in the order of the table.
const SECTIONS: &[fn(&Options) -> Result<Section>] =
    &[attachments::compare, parallel::compare, ipam::compare, vlans::compare, footprint::compare];

/// How to measure.
#[derive(Clone, Copy, Debug)]
struct Options {
    /// How often each thing is measured.
    rounds: usize,
}

fn main() -> ExitCode {
    // The other kernel adds arguments of its own.
    if let [_, argument, rounds, ..] = &std::env::args().collect::<Vec<_>>()[..]
        && argument == vlans::INSIDE
    {
        return vlans::main(rounds);
    }
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    testnet::isolated(|| match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", chain(&*error));
            ExitCode::FAILURE
        }
    })
}

fn options() -> Result<Options> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(Options { rounds: 60 }),
        ["--rounds", rounds] => match rounds.parse() {
            Ok(rounds @ 1..) => Ok(Options { rounds }),
            _ => Err(format!("--rounds takes a number from 1 on, not {rounds:?}").into()),
        },
        _ => Err("usage: k8slan-benches [--rounds N]".into()),
    }
}

fn measure(options: &Options) -> Result<()> {
    let mut report = Report::new(options.rounds);
    for section in SECTIONS {
        let section = section(options)?;
        section.print();
        report.sections.push(section);
    }
    report.conclude()
}

/// An error and its sources, joined by ": ".
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
