//! `make bench`: our plugins beside Debian's, on one machine and in one run.
//!
//! | file | subject |
//! |---|---|
//! | `attachments` | ADD and DEL on a LAN's spoke beside macvlan's, and beside the floor |
//! | `parallel` | 64 attachments at once |
//! | `ipam` | addresses beside host-local's, few and many leases, many at once |
//! | `pools` | a pool of the cluster beside a pool with a file |
//! | `storm` | a thousand pods at once over twenty nodes with a real API server, beside whereabouts; not without `--only` |
//! | `objects` | many blocks and addresses on a real API server: bytes and memory; not without `--only` |
//! | `scale` | up to 10,000 nodes, simulated; not without `--only` |
//! | `vlans` | ports of a VLAN-aware bridge beside Debian's bridge, in user-mode Linux |
//! | `daemon` | the daemon with a thousand spokes, a hundred LANs, and a storm of events |
//! | `footprint` | memory of one run, size of the executables |
//! | `process` | what the kernel says of a running process |
//! | `fleet` | simulated nodes with the daemon, and a real API server |
//! | `audit` | what was asked of that server |
//! | `floor` | the same netlink requests from a process that is there already |
//! | `lab` | the node, its LAN and its pods |
//! | `run` | one run of a plugin, with a clock |
//! | `rounds` | interleaving and medians |
//! | `report` | the table and `target/bench.json` |
//!
//! A comparison is a module with one function that returns a [`report::Section`]; [`SECTIONS`] lists them.

mod attachments;
mod audit;
mod daemon;
mod fleet;
mod floor;
mod footprint;
mod ipam;
mod lab;
mod objects;
mod parallel;
mod pools;
mod process;
mod report;
mod rounds;
mod run;
mod scale;
mod storm;
mod vlans;

use std::process::ExitCode;

use report::{Report, Section};

/// Threads hand results over, so errors go between them.
type Result<T, E = Error> = std::result::Result<T, E>;
/// As threads hand it over.
type Error = Box<dyn std::error::Error + Send + Sync>;

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

/// Those that take ten minutes, or measure nothing: with `--only` alone.
const ONLY_BY_NAME: &[(&str, Compare)] =
    &[("storm", storm::compare), ("objects", objects::compare), ("scale", scale::compare)];

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
            ("--only", Some(name)) if all_sections().any(|(section, _)| *section == name) => {
                options.only = Some(name);
            }
            _ => {
                let names: Vec<&str> = all_sections().map(|(name, _)| *name).collect();
                return Err(format!("usage: k8slan-benches [--rounds N] [--only {}]", names.join("|")).into());
            }
        }
    }
    Ok(options)
}

fn all_sections() -> impl Iterator<Item = &'static (&'static str, Compare)> {
    SECTIONS.iter().chain(ONLY_BY_NAME)
}

fn measure(options: &Options) -> Result<()> {
    let mut report = Report::new(options.rounds);
    let sections: Vec<_> = match &options.only {
        None => SECTIONS.iter().collect(),
        Some(only) => all_sections().filter(|(name, _)| name == only).collect(),
    };
    for (_, compare) in sections {
        let section = compare(options)?;
        section.print();
        report.sections.push(section);
    }
    report.conclude()
}

/// An error and its sources, joined by ": ".
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
