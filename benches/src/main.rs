//! `make bench`: our plugins beside Debian's, on one machine and in one run.
//!
//! | file | subject |
//! |---|---|
//! | `attachments` | ADD and DEL on a LAN's spoke beside macvlan's, and beside the floor |
//! | `parallel` | 64 attachments at once |
//! | `ipam` | addresses beside host-local's, few and many leases, many at once |
//! | `pools` | a pool of the cluster beside a pool with a file |
//! | `vlans` | ports of a VLAN-aware bridge beside Debian's bridge, in user-mode Linux |
//! | `daemon` | the daemon with a thousand spokes, a hundred LANs, and a storm of events |
//! | `footprint` | memory of one run, size of the executables |
//! | `process` | what the kernel says of a running process |
//! | `floor` | the same netlink requests from a process that is there already |
//! | `lab` | the node, its LAN and its pods |
//! | `run` | one run of a plugin, with a clock |
//! | `rounds` | interleaving and medians |
//! | `report` | the table and `target/bench.json` |
//!
//! A comparison is a module with one function that returns a [`report::Section`]; [`SECTIONS`] lists them.

mod attachments;
mod daemon;
mod floor;
mod footprint;
mod ipam;
mod lab;
mod parallel;
mod pools;
mod process;
mod report;
mod rounds;
mod run;
mod vlans;

use std::error::Error;
use std::process::ExitCode;

use report::{Report, Section};

/// Threads hand results over, so errors go between them.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// A function that makes one comparison.
type Compare = fn(&Options) -> Result<Section>;

/// All comparisons by the names of their modules, in the order of the table.
const SECTIONS: &[(&str, Compare)] = &[
    ("attachments", attachments::compare),
    ("parallel", parallel::compare),
    ("ipam", ipam::compare),
    ("pools", pools::compare),
    ("vlans", vlans::compare),
    ("daemon", daemon::compare),
    ("footprint", footprint::compare),
];

/// Command-line options of the measurement.
#[derive(Clone, Debug)]
struct Options {
    /// How often each thing is measured.
    rounds: usize,
    /// The only comparison to make, or all.
    only: Option<String>,
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
    let mut options = Options { rounds: 60, only: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--rounds", Some(rounds)) => match rounds.parse() {
                Ok(rounds @ 1..) => options.rounds = rounds,
                _ => return Err(format!("--rounds takes a number from 1 on, not {rounds:?}").into()),
            },
            ("--only", Some(name)) if SECTIONS.iter().any(|(section, _)| *section == name) => {
                options.only = Some(name);
            }
            _ => {
                let names: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
                return Err(format!("usage: k8slan-benches [--rounds N] [--only {}]", names.join("|")).into());
            }
        }
    }
    Ok(options)
}

fn measure(options: &Options) -> Result<()> {
    let mut report = Report::new(options.rounds);
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    for (_, compare) in SECTIONS.iter().filter(|(name, _)| wanted(name)) {
        let section = compare(options)?;
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
