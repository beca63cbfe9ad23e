use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use cni::{
    AddResult, CONFLICTS, ErrorDocument, IpConfig, Misconfigured, NetworkName, Plugin, Request, Target,
    ValidAttachment, Version,
};
use ipnetwork::IpNetwork;
use net_types::MacAddr;
use node::{NodeConfig, Occupant, Pod, Resource, SetMembership};

use crate::allocate::{Allocated, allocate};
use crate::blocks::Deadline;
use crate::lease_table::LeaseTable;
use crate::network::{self, Config, Network};
use crate::network_scope;
use crate::node_settings::NodeSettings;
use crate::pod_claim::PodClaim;
use crate::store::{CrashHandler, HostStore, KvTxn, PoolKey, Store, StoreDirs};
use crate::{
    Addr, Allocator, Attachment, Error, Grant, LeaseHolder, LeaseRequest, Millis, Owner, Rules, Sticky, cli,
    pool_overlap, unused_stores,
};

#[derive(Debug)]
pub struct IpamPool;

impl Plugin for IpamPool {
    type Config = Config;
    type Error = Error;

    const NAME: &'static str = "ipam-pool";
    const ABOUT: &'static str = "gives addresses from pools";
    const NAMES: &'static [&'static [&'static str]] = &[network::NAMES, network_scope::NAMES];

    fn add(&self, request: &Request<Config>, target: &Target) -> Result<AddResult, Error> {
        install_crash_handler(request.version);
        let node = NodeSettings::load()?;
        let ips: Vec<IpAddr> = request.requested_ips()?.into_iter().map(|ip| ip.address).collect();
        let mut conflicts = parse_conflicts()?;
        let mut deadline = Deadline::new();
        let mut warned = false;
        let (network, grants) = loop {
            let network = request.config.network(request, &node.paths, node.config.node_name.as_deref())?;
            if !std::mem::replace(&mut warned, true) {
                network.warnings.iter().for_each(|warning| eprintln!("ipam-pool: {warning}"));
            }
            check_namespace(&node.config, &network, request)?;
            let lease_request = build_lease_request(request, target, &network, &node)?;
            let asked = network.requested_per_set(&ips)?;
            let allocated = allocate(&node, &network, &lease_request, &asked, &conflicts, &mut deadline)?;
            let (store, grants) = match allocated {
                Allocated::Given(store, grants) => (store, grants),
                Allocated::Again => {
                    conflicts.clear();
                    continue;
                }
                Allocated::Replaced => continue,
            };
            warn_of_other_nodes(&network, &lease_request, &grants);
            store.leave_open_until_exit();
            break (network, grants);
        };
        let result = build_result(network, &grants);
        // A main plugin merges this result with earlier ones; without a main plugin, this plugin does.
        let is_delegate = request.plugin_type.as_deref() != Some(Self::NAME);
        let previous = request.prev_result.as_ref().filter(|_| !is_delegate);
        Ok(result.behind(previous))
    }

    fn del(&self, request: &Request<Config>, target: &Target<Option<PathBuf>>) -> Result<(), Error> {
        install_crash_handler(request.version);
        release(request.config.key(request).ok(), Some(request.network.as_str()), target)
    }

    fn del_misconfigured(
        &self,
        request: &Misconfigured,
        target: &Target<Option<PathBuf>>,
    ) -> Option<Result<(), Error>> {
        install_crash_handler(request.version);
        Some(release(None, request.network.as_ref().map(NetworkName::as_str), target))
    }

    fn check(&self, request: &Request<Config>, target: &Target, promised: &AddResult) -> Result<(), Error> {
        install_crash_handler(request.version);
        // The result of an IPAM plugin alone has no interfaces.
        let in_pod = |i: &cni::Interface| i.sandbox.is_some() && i.name == target.ifname.as_str();
        if !promised.interfaces.is_empty() && !promised.interfaces.iter().any(in_pod) {
            return Err(Error::NoInterface(target.ifname.clone()));
        }
        let node = NodeSettings::load()?;
        let key = request.config.key(request)?;
        let pool = key.to_string();
        let attachment = attachment_of(request.network.as_str(), target);
        let held = match HostStore::open_existing(&node.dirs, &key)? {
            Some(mut store) => store.dry_run(|txn| LeaseTable::new(txn).addresses_of(&attachment))?,
            None => Vec::new(),
        };
        if held.is_empty() {
            return Err(Error::NothingHeld(pool));
        }
        // Another IPAM plugin in the chain may have given other addresses: only those of this pool must be held. All
        // held addresses must be in prevResult.
        let network = request.config.network(request, &node.paths, node.config.node_name.as_deref())?;
        let promised: Vec<Addr> = promised.ips.iter().map(|ip| ip.address.ip().into()).collect();
        for address in &promised {
            let ours = network.sets.iter().any(|set| set.pool().contains(*address));
            if ours && !held.contains(address) {
                return Err(Error::NotHeld { address: *address, pool });
            }
        }
        match held.into_iter().find(|address| !promised.contains(address)) {
            Some(address) => Err(Error::NotPromised { address, pool }),
            None => Ok(()),
        }
    }

    fn gc(&self, request: &Request<Config>, valid: Option<&[ValidAttachment]>) -> Result<(), Error> {
        install_crash_handler(request.version);
        collect_garbage(request, &request.config, valid)
    }

    fn gc_misconfigured(
        &self,
        request: &Request<()>,
        valid: Option<&[ValidAttachment]>,
    ) -> Option<Result<(), Error>> {
        install_crash_handler(request.version);
        let config = Config::parse_ipam_only(request.document())?;
        Some(collect_garbage(request, &config, valid))
    }

    fn status(&self, request: &Request<Config>) -> Result<(), Error> {
        install_crash_handler(request.version);
        check_ready(request).map_err(|error| Error::NotReady(Box::new(error)))
    }

    fn command_line() -> clap::Command {
        cli::command_line::<Self>()
    }

    fn by_hand(&self) -> ExitCode {
        cli::run::<Self>()
    }
}

/// GC: releases the addresses of this network's attachments that are not in the list.
fn collect_garbage<C>(
    request: &Request<C>,
    config: &Config,
    valid: Option<&[ValidAttachment]>,
) -> Result<(), Error> {
    let Some(valid) = valid else { return Ok(()) };
    let (paths, unknown) = NodeConfig::paths_for_removal();
    let unknown = || unknown.map_or(Ok(()), |error| Err(error.into()));
    let dirs = StoreDirs::new(&paths);
    if let Some(store) = HostStore::open_existing(&dirs, &config.key(request)?)? {
        release_stale(store, request.network.as_str(), valid)?;
    }
    // On a host without a daemon, nobody else does.
    unused_stores::remove(&dirs, &paths.pools());
    unknown()
}

fn release_stale(mut store: HostStore, network: &str, valid: &[ValidAttachment]) -> Result<(), Error> {
    let valid: std::collections::HashSet<(&str, &str)> =
        valid.iter().map(|valid| (valid.container_id.as_str(), valid.ifname.as_str())).collect();
    let gone = store.dry_run(|txn| {
        let is_valid = |a: &Attachment| valid.contains(&(a.container.as_str(), a.interface.as_str()));
        releasing_allocator(txn).find_stale_attachments(network, is_valid)
    })?;
    store.change_in_batches(&gone, |txn, attachment| releasing_allocator(txn).release(attachment))?;
    store.give_back_reserve_if_idle();
    Ok(())
}

/// Checks that ADD could give an address from every set now.
fn check_ready(request: &Request<Config>) -> Result<(), Error> {
    let node = NodeSettings::load()?;
    let network = request.config.network(request, &node.paths, node.config.node_name.as_deref())?;
    // Where nodes share the pool, a pod's ADD asks for what this node lacks.
    if network.blocks.is_some() {
        return Ok(());
    }
    let mut store = HostStore::open(&node.dirs, &network.key)?;
    store.dry_run(|txn| {
        if !network.of_cluster {
            pool_overlap::check(txn, &network.key, &node.paths)?;
        }
        Ok(Allocator::new(txn, &network.sets, network.rules, Millis::now()).check_capacity()?)
    })
}

/// An allocator that can only release.
fn releasing_allocator(txn: &mut dyn KvTxn) -> Allocator<'_> {
    Allocator::new(txn, &[], Rules::default(), Millis::now())
}

/// Makes a crash write the error document that the runtime expects: about a damaged store, if reading one caused the
/// crash.
fn install_crash_handler(version: Version) {
    let failed = ErrorDocument::internal(IpamPool::NAME, "the process was ended by a signal");
    let damaged = move |path: &std::path::Path| {
        let document = ErrorDocument {
            code: crate::error::DAMAGED,
            msg: format!(
                "the leases in {path:?} are damaged: nothing was changed; {}",
                crate::store::remedy(path)
            ),
            details: "the process was ended by a signal while it read the file".to_owned(),
        };
        document.to_json(version)
    };
    CrashHandler::install(1, damaged, failed.to_json(version));
}

fn attachment_of<N>(network: &str, target: &Target<N>) -> Attachment {
    Attachment {
        container: target.container_id.to_string(),
        interface: target.ifname.to_string(),
        network: network.to_owned(),
    }
}

/// Checks that the node's policy and the pool's file allow the pod's namespace; only named pools have either.
fn check_namespace(node: &NodeConfig, network: &Network, request: &Request<Config>) -> Result<(), Error> {
    let PoolKey::Named(pool) = &network.key else { return Ok(()) };
    let namespace = request.args.pod_namespace.as_deref();
    if let Some(policy) = &node.policy {
        policy.check(namespace, Resource::Pool(pool))?;
    }
    Ok(network.allowed_namespaces.check(pool, namespace)?)
}

fn build_lease_request(
    request: &Request<Config>,
    target: &Target,
    network: &Network,
    node: &NodeSettings,
) -> Result<LeaseRequest, Error> {
    let args = &request.args;
    let network_name = request.network.as_str();
    let pod = args.pod_namespace.as_ref().zip(args.pod_name.as_ref()).map(|(namespace, name)| Pod {
        uid: args.pod_uid.clone(),
        namespace: namespace.clone(),
        name: name.clone(),
    });
    let occupant = Occupant::find(&node.config.paths(), pod.as_ref(), &target.ifname, request.stated_vm())?;
    let of_occupant = (pod.as_ref(), &occupant);
    let claim = PodClaim::find(&node.config.paths(), network, network_name, of_occupant, &target.ifname)?;
    // A guest's address belongs to its VM, which keeps it when it migrates.
    let of_guest = pod.is_some() && occupant.may_be_guest();
    // Whoever writes a network could invent machines until a shared pool is exhausted.
    let invented = request.stated_vm().is_some() && matches!(network.key, PoolKey::Named(_));
    let sticky = match network.sticky {
        _ if claim.is_some() => Sticky::No,
        Some(sticky) => sticky,
        None if of_guest && invented => Sticky::No,
        None if of_guest => Sticky::Vm,
        // What one node alone kept, nobody would free; and on another node, the pod would have another one.
        None if network.blocks.is_some() => match SetMembership::find(&node.config.paths(), pod.as_ref())? {
            SetMembership::Member => Sticky::Pod,
            SetMembership::Other => Sticky::No,
            SetMembership::NotYet => return Err(Error::PodNotYet),
        },
        None => Sticky::No,
    };
    let by_vm = |pod: &Pod| sticky == Sticky::Vm || pod.name.starts_with(Occupant::LAUNCHER);
    let owner = match (&pod, &occupant.vm) {
        _ if claim.is_some() => claim.as_ref().map(|claim| claim.owner.clone()),
        (Some(pod), Some(vm)) if by_vm(pod) => Some(Owner::vm(&pod.namespace, vm, network_name)),
        (Some(pod), _) => Some(Owner::pod(&pod.namespace, &pod.name, network_name)),
        (None, _) => None,
    };
    let nameless = match sticky {
        Sticky::No => false,
        Sticky::Pod if owner.is_none() => return Err(Error::NoPod),
        // An address kept for a launcher pod is lost to all: the VM's next launcher pod has another name.
        Sticky::Pod => of_guest && occupant.vm.is_none(),
        Sticky::Vm => !owner.as_ref().is_some_and(Owner::is_vm),
    };
    if nameless {
        // The node daemon records it as soon as it is told of the pod, possibly later than the kubelet.
        return Err(if occupant.soon { Error::VmNotYet } else { Error::NoVm });
    }
    let netns = std::fs::metadata(&target.netns).ok();
    let launcher = match &claim {
        Some(claim) => claim.launcher(),
        None => owner.as_ref().filter(|owner| owner.is_vm()).map(|_| occupant.attested),
    };
    let holder = LeaseHolder {
        attachment: attachment_of(network_name, target),
        pod: pod.map(|pod| pod.to_string()),
        uid: args.pod_uid.clone(),
        netns: netns.map(|meta| (target.netns.to_string_lossy().into_owned(), meta.ino())),
        launcher,
        since: Millis::now(),
    };
    let migrating = occupant.migration_target;
    let beside_source = migrating || !occupant.recorded;
    let shared = holder.launcher == Some(true);
    let floating = owner.as_ref().and_then(|owner| match &claim {
        Some(claim) => Some(claim.floating(owner)),
        None => network.floating_owner(owner, sticky, shared),
    });
    let further = owner.as_ref().map(|owner| owner.on_interface(&holder.attachment.interface));
    let further = further.and_then(|owner| {
        let floating = match &claim {
            Some(claim) => claim.floating(&owner),
            None => network.kept_for(&owner, sticky, shared)?,
        };
        Some((owner, floating))
    });
    let sticky = sticky != Sticky::No && floating.is_none();
    Ok(LeaseRequest { holder, owner, floating, further, sticky, migrating, beside_source })
}

/// Warns that the VM may keep another address on another node, which this node cannot know.
fn warn_of_other_nodes(network: &Network, lease_request: &LeaseRequest, grants: &[Grant]) {
    let floats = lease_request.floating.is_some();
    let Some(owner) =
        lease_request.owner.as_ref().filter(|owner| owner.is_vm() && !network.host_scope && !floats)
    else {
        return;
    };
    for grant in grants.iter().filter(|grant| grant.picked) {
        eprintln!(
            "ipam-pool: {} is a new address for {owner}: a node on which the machine ran before keeps another \
         one for it. A reservation in the pool ({}: <address>) gives it the same address on every node",
            grant.address,
            owner.in_any_network()
        );
    }
}

/// The conflicts that the main plugin found.
fn parse_conflicts() -> Result<Vec<(Addr, MacAddr)>, Error> {
    let Some(value) = std::env::var_os(CONFLICTS) else { return Ok(Vec::new()) };
    let value = value.to_string_lossy().into_owned();
    let failed = |source| Error::Conflicts { variable: CONFLICTS, value: value.clone(), source };
    value
        .split(',')
        .map(|pair| {
            let (address, mac) = pair.split_once('=').ok_or_else(|| failed(None))?;
            let address: IpAddr = address.parse().map_err(|_| failed(None))?;
            let mac = mac.parse().map_err(|error| failed(Some(error)))?;
            Ok((address.into(), mac))
        })
        .collect()
}

fn build_result(network: Network, grants: &[Grant]) -> AddResult {
    let ips = grants.iter().filter_map(|grant| {
        let range = network.sets.get(grant.set)?.range_of(grant.address)?;
        let address = IpNetwork::new(grant.address.ip(), range.prefix()).ok()?;
        if grant.outside {
            eprintln!("ipam-pool: {} stays leased, though {} no longer has it", grant.address, network.key);
        }
        Some(IpConfig::new(address, range.gateway().map(Addr::ip), None))
    });
    AddResult {
        ips: ips.collect(),
        routes: network.routes.clone(),
        dns: network.dns.clone(),
        ..AddResult::default()
    }
}

/// DEL: releases in the configured store, or, as the configuration may have changed since ADD, in all others. Without
/// the network's name: all that this interface of the container holds.
fn release(
    key: Option<PoolKey>,
    network: Option<&str>,
    target: &Target<Option<PathBuf>>,
) -> Result<(), Error> {
    let wanted = attachment_of(network.unwrap_or_default(), target);
    let (paths, unknown) = NodeConfig::paths_for_removal();
    let dirs = StoreDirs::new(&paths);
    if let (Some(key), Some(_)) = (&key, network)
        && release_in(&dirs, key, &wanted)?
    {
        return Ok(());
    }
    // Whoever edited the configuration while the pod ran may have given the network another pool, or another name. No two
    // attachments have one interface of one container.
    let mut failed = Vec::new();
    for other in dirs.list()? {
        match release_any_network_in(&dirs, &other, &wanted) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // A damaged store of another pool must not prevent DEL.
            Err(error) if key.is_some() => {
                eprintln!("ipam-pool: cannot look for {wanted} in {other}: {error}")
            }
            Err(error) => failed.push(error),
        }
    }
    failed.extend(unknown.map(Error::from));
    match (failed.len(), failed.into_iter().next()) {
        (0, _) | (_, None) => Ok(()),
        (1, Some(error)) => Err(error),
        (count, Some(first)) => Err(Error::Several { first: Box::new(first), others: count - 1 }),
    }
}

fn release_in(dirs: &StoreDirs, key: &PoolKey, attachment: &Attachment) -> Result<bool, Error> {
    let Some(mut store) = HostStore::open_existing(dirs, key)? else { return Ok(false) };
    let released = store.change(|txn| releasing_allocator(txn).release(attachment))?;
    store.give_back_reserve_if_idle();
    if released.is_empty() {
        return Ok(false);
    }
    // The attachment was found, so no other pool is locked after this one.
    store.leave_open_until_exit();
    Ok(true)
}

/// As [`release_in`], whatever the network's name.
fn release_any_network_in(dirs: &StoreDirs, key: &PoolKey, wanted: &Attachment) -> Result<bool, Error> {
    let Some(mut store) = HostStore::open_existing(dirs, key)? else { return Ok(false) };
    let held = store.dry_run(|txn| {
        releasing_allocator(txn)
            .find_attachments(|a| a.container == wanted.container && a.interface == wanted.interface)
    })?;
    store.change_in_batches(&held, |txn, attachment| releasing_allocator(txn).release(attachment))?;
    store.give_back_reserve_if_idle();
    Ok(!held.is_empty())
}
