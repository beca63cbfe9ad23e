//! What the program does for a person.

mod backup;
mod import;
mod leases;
mod pool_or_network;
mod pools;
mod sweep;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _, Subcommand};
use cni::{Plugin, face};
use node::{NodeConfig, SafeDirError};

use crate::store::{CrashHandler, StoreDirs, StoreError};
use crate::{AllocError, Millis, PoolFileError};

#[derive(Debug, clap::Args)]
struct Arguments {
    /// Write JSON instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All pools: their ranges, and how many addresses are leased, resting, quarantined and free
    Pools,
    /// All leases, of one pool or network or of all; `kept` is what a sticky owner that is away keeps, until `release`
    Leases {
        /// Only this pool or network
        name: Option<String>,
    },
    /// What is known about one address
    Show {
        /// The address
        address: std::net::IpAddr,
    },
    /// Give back an address, or all that an owner keeps
    Release {
        /// An address, or an owner as `leases` shows it
        what: String,
        /// Also if a container that still exists has the address
        #[arg(long)]
        force: bool,
    },
    /// Verify the stores and the pool files
    Check,
    /// Copy the stores, each as of one moment, also while addresses come and go
    ///
    /// DIR/run has the leases of this boot, to look at; DIR/state has what sticky owners keep, as text, one line
    /// a change. Copies that are there already are replaced. To restore, on a node where no pod is attached yet:
    ///
    ///   mkdir -p /var/lib/k8slan/ipam && cp -r DIR/state/. /var/lib/k8slan/ipam/
    ///   rm -rf /run/k8slan/ipam
    ///   ipam-pool check && ipam-pool leases
    #[command(verbatim_doc_comment)]
    Backup {
        /// The folder, made where it is missing
        dir: PathBuf,
    },
    /// Take over the leases that host-local gave in a network
    ImportHostLocal {
        /// host-local's folder, e.g. /var/lib/cni/networks/cbr0: its name is the network's
        dir: PathBuf,
        /// The network's name, if the folder is called otherwise
        #[arg(long)]
        network: Option<String>,
        /// Import into this pool; without it, into the network's own ranges
        #[arg(long)]
        pool: Option<String>,
    },
    /// Free what is not in the node daemon's list of live attachments
    Sweep {
        /// The list, a file of root's own: {"asOf": <CLOCK_BOOTTIME in ms>, "attachments": [{"containerID": "...",
        /// "ifname": "..."}], "owners": ["default/db-0", ...]}
        #[arg(long, value_name = "FILE")]
        live: PathBuf,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Node(#[from] node::ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Alloc(#[from] AllocError),
    #[error(transparent)]
    Pool(#[from] PoolFileError),
    #[error("read {path:?}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path:?} is no list of live attachments: {message}; it is {{\"asOf\": <CLOCK_BOOTTIME in ms>, \"attachments\": \
         [{{\"containerID\", \"ifname\"}}], \"owners\": [...]}}. Nothing was freed"
    )]
    LiveList { path: PathBuf, message: String },
    #[error(
        "the list {path:?} is not of this boot: {why}. Nothing was freed; let the node daemon make a new one"
    )]
    OldList { path: PathBuf, why: String },
    #[error("{0:?} is neither leased nor kept on this node")]
    NothingThere(String),
    #[error("no pool and no network is called {0:?} here: 'ipam-pool pools' lists them")]
    NoPool(String),
    #[error("{address} is in use by {holder}: stop that first, or say --force")]
    InUse { address: crate::Addr, holder: String },
    #[error("host-local's folder {0:?} has no name that could be a network's: say --network")]
    NoNetwork(PathBuf),
    #[error("pools and leases are root's alone to see: run it as root, for instance with sudo")]
    NotRoot,
    #[error("{}", format_count(*.0, "problem"))]
    Problems(usize),
    #[error(transparent)]
    Dir(#[from] SafeDirError),
}

/// The node as a command sees it.
struct CommandContext {
    dirs: StoreDirs,
    pools: PathBuf,
    node: Option<String>,
    json: bool,
}

/// The command line.
pub(crate) fn command_line<P: Plugin>() -> clap::Command {
    Arguments::augment_args(face::command(P::NAME, P::ABOUT))
}

pub(crate) fn run<P: Plugin>() -> ExitCode {
    let Some(matches) = face::matches(command_line::<P>(), P::ABOUT) else { return ExitCode::SUCCESS };
    let arguments = match Arguments::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let damaged = |path: &std::path::Path| {
        format!(
            "ipam-pool: the leases in {path:?} are damaged: reading them ended with a signal; {}\n",
            crate::store::remedy(path)
        )
        .into_bytes()
    };
    CrashHandler::install(
        2,
        damaged,
        b"ipam-pool: a signal ended it, or it failed by itself, which is a bug\n".to_vec(),
    );
    match execute(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ipam-pool: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: Arguments) -> Result<(), CommandError> {
    // What it reads is in folders that nobody else may look into.
    if !nix::unistd::geteuid().is_root() {
        return Err(CommandError::NotRoot);
    }
    let config = NodeConfig::load()?;
    let paths = config.paths();
    let context = CommandContext {
        dirs: StoreDirs::new(&paths),
        pools: paths.pools(),
        node: config.name()?,
        json: arguments.json,
    };
    match arguments.command {
        Command::Pools => pools::pools(&context),
        Command::Leases { name } => leases::leases(&context, name.as_deref()),
        Command::Show { address } => leases::show(&context, address.into()),
        Command::Release { what, force } => leases::release(&context, &what, force),
        Command::Check => pools::check(&context),
        Command::Backup { dir } => backup::backup(&context, &dir),
        Command::ImportHostLocal { dir, network, pool } => {
            import::import(&context, &dir, network.as_deref(), pool.as_deref())
        }
        Command::Sweep { live } => sweep::sweep(&context, &live),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// How long ago a moment was.
fn seconds_since(moment: Millis) -> u64 {
    Millis::now().0.saturating_sub(moment.0) / 1000
}

/// A length of time for people.
fn format_age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// "1 problem", "2 problems".
fn format_count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
