//! `leases`: who has which addresses, on this node or on several.

mod reported;
mod view;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use node::NodeConfig;
use serde_json::Deserializer;

use crate::inspect::host_name;
use crate::ipam_pool;
use crate::output::finish;
use reported::Reported;
use view::{LeaseView, table};

/// Which leases to show, and how.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Only of this pool, or of the ranges of this network's own.
    pool: Option<String>,
    /// Those of the nodes on which 'leases -o json' wrote these files, instead of this node's. '-' is standard input; a file
    /// may have several nodes, one after the other.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
    /// How: a table, one with more columns, or JSON.
    #[arg(short, long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    #[default]
    Table,
    /// With ages, containers and notes.
    Wide,
    /// A list, for programs and for --from.
    Json,
}

/// Prints the leases; the exit code is 1 on failure.
#[must_use]
pub fn main(options: &Options) -> ExitCode {
    finish("leases", run(options))
}

fn run(options: &Options) -> Result<String> {
    let mut leases = match options.from.as_slice() {
        [] => of_this_node()?,
        files => read_files(files)?,
    };
    leases.sort_by_cached_key(LeaseView::order);
    let names = view::pools(&leases);
    if let Some(pool) = &options.pool {
        leases.retain(|lease| lease.is_of(pool));
    }
    if options.output == Format::Json {
        return Ok(serde_json::to_string_pretty(&leases)? + "\n");
    }
    if leases.is_empty() {
        return Ok(nothing(options.pool.as_deref(), &names));
    }
    Ok(table(&leases, options.output == Format::Wide))
}

fn nothing(pool: Option<&str>, others: &[String]) -> String {
    match (pool, others) {
        (None, _) => "no leases\n".to_owned(),
        (Some(pool), []) => format!("no leases of {pool}, nor of any other pool\n"),
        (Some(pool), others) => format!("no leases of {pool}; there are some of {}\n", others.join(", ")),
    }
}

fn of_this_node() -> Result<Vec<LeaseView>> {
    if !nix::unistd::geteuid().is_root() {
        bail!("run it as root: nobody else may read the leases");
    }
    let node = NodeConfig::load()?.name()?.unwrap_or_else(host_name);
    let reported: Vec<Reported> = ipam_pool::ask("leases")?;
    Ok(reported.into_iter().flat_map(|lease| lease.views(&node)).collect())
}

/// Reads what `leases -o json` wrote, one node after the other; `-` is standard input.
fn read_files(files: &[PathBuf]) -> Result<Vec<LeaseView>> {
    let mut leases = Vec::new();
    for path in files {
        let input: Box<dyn Read> = match path == Path::new("-") {
            true => Box::new(io::stdin().lock()),
            false => Box::new(File::open(path).with_context(|| format!("read {}", path.display()))?),
        };
        for of_node in Deserializer::from_reader(BufReader::new(input)).into_iter::<Vec<LeaseView>>() {
            let of_node =
                of_node.with_context(|| format!("{} is not what 'leases -o json' writes", path.display()))?;
            leases.extend(of_node);
        }
    }
    Ok(leases)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER1: &str = r#"[
      {"address": "10.9.0.10", "pool": "office", "state": "leased", "owner": "default/web-0/net", "sticky": false, "ageSeconds": 70,
       "holders": [{"attachment": {"container": "0123456789abcdef", "interface": "net1", "network": "net"}, "pod": "default/web-0", "since": 1}]},
      {"address": "10.9.0.9", "pool": "office", "state": "kept", "owner": "vm:default/vyos/net", "sticky": true, "ageSeconds": 7200, "holders": []},
      {"address": "10.9.0.11", "pool": "office", "state": "quarantined", "sticky": false, "holders": [], "mac": "02:00:00:00:00:01", "quarantineSeconds": 500}
    ]"#;
    const WORKER2: &str = r#"[
      {"address": "10.9.0.8", "pool": "office", "state": "leased", "owner": "vm:shop/db/net", "sticky": true, "ageSeconds": 5, "news": {},
       "holders": [{"attachment": {"container": "aa", "interface": "net1", "network": "net"}, "pod": "shop/virt-launcher-db-1", "launcher": true, "since": 1}]},
      {"address": "10.9.0.12", "pool": "office", "state": "resting", "owner": "default/old/net", "sticky": false, "holders": [], "ageSeconds": 3},
      {"address": "fd00::2", "network": "lab", "state": "leased", "sticky": false, "holders": [
        {"attachment": {"container": "bb", "interface": "eth1", "network": "lab"}, "since": 1}]}
    ]"#;

    fn of_nodes() -> Vec<LeaseView> {
        let mut leases: Vec<LeaseView> = [("worker1", WORKER1), ("worker2", WORKER2)]
            .into_iter()
            .flat_map(|(node, text)| {
                let reported: Vec<Reported> = serde_json::from_str(text).unwrap();
                reported.into_iter().flat_map(|lease| lease.views(node)).collect::<Vec<_>>()
            })
            .collect();
        leases.sort_by_cached_key(LeaseView::order);
        leases
    }

    #[test]
    fn all_nodes_are_one_table() {
        let text = table(&of_nodes(), false);
        let expected = "\
ADDRESS     POOL          NODE      NAMESPACE   POD/VM      INTERFACE   STATE
10.9.0.8    office        worker2   shop        vm/db       net1        leased
10.9.0.9    office        worker1   default     vm/vyos     -           kept
10.9.0.10   office        worker1   default     pod/web-0   net1        leased
10.9.0.11   office        worker1   -           -           -           quarantined
10.9.0.12   office        worker2   default     pod/old     -           resting
fd00::2     network lab   worker2   -           -           eth1        leased
";
        assert_eq!(text, expected, "\n{text}");
        let wide = table(&of_nodes(), true);
        for words in [
            "1m     0123456789abc ",
            "pod virt-launcher-db-1",
            "used by 02:00:00:00:00:01, for another 500 s",
            "2h0m   -",
        ] {
            assert!(wide.contains(words), "{words}:\n{wide}");
        }
    }

    #[test]
    fn what_one_node_writes_is_read_with_that_of_others() {
        let mut leases = of_nodes();
        let (own, other) = leases.split_at(2);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nodes");
        let json = |leases: &[LeaseView]| serde_json::to_string_pretty(leases).unwrap();
        std::fs::write(&path, format!("{}\n[]\n{}\n", json(own), json(other))).unwrap();
        let options = Options { pool: Some("office".into()), from: vec![path.clone()], output: Format::Json };
        let read: Vec<LeaseView> = serde_json::from_str(&run(&options).unwrap()).unwrap();
        leases.retain(|lease| lease.is_of("office"));
        assert_eq!(read, leases);
        let options = Options { pool: Some("ofice".into()), output: Format::Table, ..options };
        assert_eq!(run(&options).unwrap(), "no leases of ofice; there are some of office, network lab\n");
        std::fs::write(&path, "{}").unwrap();
        let error = format!("{:#}", run(&options).unwrap_err());
        assert!(error.contains("not what 'leases -o json' writes"), "{error}");
    }

    #[test]
    fn what_others_wrote_makes_no_rows() {
        let mut lease = of_nodes().remove(0);
        lease.name = Some("a\nworker9   x\u{1b}[2J".into());
        let text = table(&[lease], true);
        assert!(text.lines().count() == 2 && !text.contains('\u{1b}'), "{text}");
    }
}
