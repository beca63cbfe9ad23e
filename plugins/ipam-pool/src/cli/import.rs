use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

use serde::Serialize;

use super::{CommandContext, CommandError, table};
use crate::store::{HostStore, PoolKey, Store};
use crate::{Addr, Allocator, Attachment, Family, LeaseHolder, Millis, PoolFile, Rules};

/// One line of `import-host-local`.
#[derive(Debug, Serialize)]
struct Imported {
    address: String,
    container: String,
    interface: String,
    new: bool,
}

/// `ipam-pool import-host-local DIR`
///
/// host-local has one file per address: its name is the address, its text the container ID and, on a second line, the
/// interface. Holds host-local's own lock, so that it gives out no address meanwhile. May be repeated: leases that
/// ended since are released here too.
pub(super) fn import(
    context: &CommandContext,
    dir: &Path,
    network: Option<&str>,
    pool: Option<&str>,
) -> Result<(), CommandError> {
    let read = |source| CommandError::Read { path: dir.to_owned(), source };
    let named = dir.canonicalize().map_err(read)?;
    let named = named.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let network =
        network.map(str::to_owned).or(named).filter(|name| name.parse::<cni::NetworkName>().is_ok());
    let network = network.ok_or_else(|| CommandError::NoNetwork(dir.to_owned()))?;
    let key = match pool {
        Some(pool) => {
            if PoolFile::find(&context.paths, pool)?.of_cluster {
                return Err(CommandError::ImportIntoCluster(pool.to_owned()));
            }
            PoolKey::Named(pool.to_owned())
        }
        None => PoolKey::Network(network.clone()),
    };
    let lock = lock_host_local(dir).map_err(read)?;
    let found = read_host_local_leases(dir, &network)?;
    let mut store = HostStore::open(&context.dirs, &key)?;
    let imported = store.change(|txn| {
        let mut allocator = Allocator::new(txn, &[], Rules::default(), Millis::now());
        let there: std::collections::HashSet<(&Attachment, Addr)> =
            found.iter().map(|(address, attachment)| (attachment, *address)).collect();
        allocator.release_imported(&network, |attachment, address| there.contains(&(attachment, address)))?;
        let mut imported = Vec::new();
        for (address, attachment) in &found {
            let holder = LeaseHolder {
                attachment: attachment.clone(),
                pod: None,
                uid: None,
                netns: None,
                launcher: None,
                since: Millis::now(),
            };
            let queue = match &key {
                PoolKey::Named(_) => address.family().tag(),
                PoolKey::Network(_) => u8::from(address.family() == Family::V6),
            };
            let new = allocator.import(*address, queue, &holder)?;
            let Attachment { container, interface, .. } = attachment.clone();
            imported.push(Imported { address: address.to_string(), container, interface, new });
        }
        Ok::<_, CommandError>(imported)
    })?;
    drop(lock);
    table::print(
        context.json,
        &["ADDRESS", "CONTAINER", "INTERFACE", "NEW"],
        &imported,
        "no leases to import",
        |row| {
            let new = if row.new { "yes" } else { "no, known" };
            vec![row.address.clone(), row.container.clone(), row.interface.clone(), new.to_owned()]
        },
    )
}

/// Takes host-local's lock: the file `lock` in its folder, or, in older versions, the folder.
fn lock_host_local(dir: &Path) -> std::io::Result<File> {
    // O_NONBLOCK: opening a pipe would wait for a writer.
    let open = |path: &Path| File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = match open(&dir.join("lock")) {
        Err(error) if error.kind() == ErrorKind::NotFound => open(dir)?,
        opened => opened?,
    };
    file.lock()?;
    Ok(file)
}

/// The largest lease file of host-local, in bytes: a container ID and the name of an interface are much shorter.
const MAX_LEASE_FILE: u64 = 64 << 10;

fn read_host_local_leases(dir: &Path, network: &str) -> Result<Vec<(Addr, Attachment)>, CommandError> {
    let failed = |path: &Path, source| CommandError::Read { path: path.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| failed(dir, e))? {
        let entry = entry.map_err(|e| failed(dir, e))?;
        let name = entry.file_name();
        // Skips last_reserved_ip.N and lock.
        let Some(address) = name.to_str().and_then(|name| name.parse::<IpAddr>().ok()) else { continue };
        // The file was removed since the folder was listed.
        let Some(text) = node::read_regular(&entry.path(), MAX_LEASE_FILE)? else { continue };
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.split(['\r', '\n']).map(str::trim).filter(|line| !line.is_empty());
        let Some(container) = lines.next() else {
            eprintln!("ipam-pool: {:?} is empty, as after a crash of host-local: not imported", entry.path());
            continue;
        };
        let attachment = Attachment {
            container: container.to_owned(),
            // host-local before 0.7 did not write the interface.
            interface: lines.next().unwrap_or("eth0").to_owned(),
            network: network.to_owned(),
        };
        found.push((Addr::from(address), attachment));
    }
    found.sort();
    Ok(found)
}
