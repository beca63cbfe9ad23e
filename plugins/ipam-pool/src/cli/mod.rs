//! The command line.

mod backup;
mod blocks;
mod cluster_part;
mod import;
mod leases;
mod pool_files;
mod pool_or_network;
mod pools;
mod sweep;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _, Subcommand};
use cni::{Plugin, chain};
use node::{NodeConfig, SafeDirError};

use crate::store::{CrashHandler, StoreDirs, StoreError};
use crate::{AllocError, BlockError, Millis, PoolFile, PoolFileError, RangeSet};

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
    /// All leases of this node, of one pool or network or of all; `kept`: the sticky owner is away and keeps the address until
    /// `release`. Of pools of the cluster also what this node may hand out, and how much is left to the others
    Leases {
        /// Only this pool or network
        name: Option<String>,
    },
    /// The state of one address
    Show {
        /// The address
        address: std::net::IpAddr,
    },
    /// Release an address, or all addresses that an owner keeps
    Release {
        /// An address, or an owner as `leases` shows it
        what: String,
        /// Also release an address that an existing container holds
        #[arg(long)]
        force: bool,
    },
    /// Check the stores and the pool files
    Check,
    /// Copy the stores, each as of one moment, also while addresses are given out
    ///
    /// DIR/run has the leases of this boot, for inspection; DIR/state has what sticky owners keep, as text, one line
    /// per change. Existing copies are replaced. To restore, on a node where no pod is attached yet:
    ///
    ///   mkdir -p /var/lib/k8slan/ipam && cp -r DIR/state/. /var/lib/k8slan/ipam/
    ///   rm -rf /run/k8slan/ipam
    ///   ipam-pool check && ipam-pool leases
    #[command(verbatim_doc_comment)]
    Backup {
        /// The folder, created if it is missing
        dir: PathBuf,
    },
    /// Import the leases that host-local gave in a network
    ImportHostLocal {
        /// host-local's folder, e.g. /var/lib/cni/networks/cbr0: its name is the network's
        dir: PathBuf,
        /// The network's name, if the folder has another name
        #[arg(long)]
        network: Option<String>,
        /// Import into this pool; without it, into the network's own ranges
        #[arg(long)]
        pool: Option<String>,
    },
    /// Free the addresses of attachments that are not in the node daemon's list of live ones, and remove stores of networks
    /// that have nothing in them
    Sweep {
        /// The list; without it, no address is freed. A file that only root may write: {"asOf": <CLOCK_BOOTTIME in ms>, "attachments": [{"containerID": "...",
        /// "ifname": "..."}], "owners": ["default/db-0", ...]}
        #[arg(long, value_name = "FILE")]
        live: Option<PathBuf>,
    },
    /// For the daemon: pools of the cluster
    #[command(subcommand, hide = true)]
    Blocks(blocks::BlocksCommand),
}

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
    #[error("cannot read {path:?}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "{path:?} is not a valid list of live attachments: {message}. Expected {{\"asOf\": <CLOCK_BOOTTIME \
         in ms>, \"attachments\": [{{\"containerID\", \"ifname\"}}], \"owners\": [...]}}. Nothing was \
         freed"
    )]
    LiveList { path: PathBuf, message: String },
    #[error(
        "the list {path:?} is not from this boot: {why}. Nothing was freed; have the node daemon write a \
         new list"
    )]
    OldList { path: PathBuf, why: String },
    #[error("{0:?} is neither leased nor kept on this node")]
    NothingThere(String),
    #[error("no pool or network is named {0:?} on this node: 'ipam-pool pools' lists them")]
    NoPool(String),
    #[error("{address} is in use by {holder}: stop it first, or use --force")]
    InUse { address: crate::Addr, holder: String },
    #[error("the name of host-local's folder {0:?} is not a valid network name: use --network")]
    NoNetwork(PathBuf),
    #[error(
        "pool {0:?} is the cluster's: host-local's addresses are imported on all nodes at once, by 'kubectl k8slan import \
         host-local'. Nothing was changed"
    )]
    ImportIntoCluster(String),
    #[error("only root may read pools and leases: run it as root, for example with sudo")]
    NotRoot,
    #[error("{}", format_count(*.0, "problem"))]
    Problems(usize),
    #[error(transparent)]
    Dir(#[from] SafeDirError),
    #[error(transparent)]
    Blocks(#[from] BlockError),
    #[error(transparent)]
    ClusterPool(#[from] node::ClusterPoolError),
    #[error("standard input is not what may be handed out of a pool: {0}")]
    Grants(String),
    #[error("cannot write to standard output")]
    Output(#[source] std::io::Error),
}

/// The node's folders and the options of all commands.
struct CommandContext {
    dirs: StoreDirs,
    pools: PathBuf,
    paths: node::Paths,
    node: Option<String>,
    json: bool,
}

impl CommandContext {
    /// Limits the sets of a pool of the cluster to what this node may hand out now. Returns whether it is one.
    fn limit_to_blocks(&self, pool: &PoolFile, sets: &mut [RangeSet]) -> Result<bool, CommandError> {
        let Some(blocks) = pool.blocks(&self.paths) else { return Ok(false) };
        let held = blocks.held()?;
        sets.iter_mut().for_each(|set| set.restrict_to_blocks(held.addresses()));
        Ok(true)
    }

    /// Prints lines below a table; JSON has none.
    fn print_below(&self, lines: &str) -> Result<(), CommandError> {
        match self.json {
            true => Ok(()),
            false => node::print(lines).map_err(CommandError::Output),
        }
    }
}

pub(crate) fn command_line<P: Plugin>() -> clap::Command {
    Arguments::augment_args(cni::cli::command(P::NAME, P::ABOUT))
}

pub(crate) fn run<P: Plugin>() -> ExitCode {
    let Some(matches) = cni::cli::matches(command_line::<P>(), P::ABOUT) else {
        return ExitCode::SUCCESS;
    };
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
    CrashHandler::install(2, damaged, b"ipam-pool: ended by a signal, or crashed, which is a bug\n".to_vec());
    match execute(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ipam-pool: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: Arguments) -> Result<(), CommandError> {
    // Only root may read the folders of stores.
    if !node::is_root() {
        return Err(CommandError::NotRoot);
    }
    let config = NodeConfig::load()?;
    let paths = config.paths();
    let context = CommandContext {
        dirs: StoreDirs::new(&paths),
        pools: paths.pools(),
        node: config.name()?,
        paths,
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
        Command::Blocks(command) => blocks::run(&context, &command),
        Command::Sweep { live } => sweep::sweep(&context, live.as_deref()),
    }
}

fn seconds_since(moment: Millis) -> u64 {
    Millis::now().0.saturating_sub(moment.0) / 1000
}

/// For example `3h12m`.
fn format_age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// For example `1 problem`, `2 problems`.
fn format_count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
