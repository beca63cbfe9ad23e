//! What an import changes. Pure: from what the cluster has to what it shall have.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use net_types::{AddrRange, AddrSet};
use node::is_kubernetes_name;
use serde_json::{Value, json};

use super::documents::Documents;
use super::exclude::{MOST, entries};
use super::group::{Group, LONGEST_NAME, groups};
use super::lan_pool::{Imported, LanPool, addresses_of, set_exclude};
use super::old::{Live, Old, Plugin, addresses};
use super::report;
use super::targets::{Question, Target, targets};
use super::{host_local, whereabouts};

/// What becomes of one pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Step {
    pub(super) pool: String,
    pub(super) change: Option<Change>,
    /// Why nothing is done.
    pub(super) refusal: Option<String>,
    /// What was done, and what to do next.
    pub(super) lines: Vec<String>,
}

/// The object as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Create(Value),
    /// With the version that was read, so that nobody's change is lost.
    Replace(Value),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// What was not understood.
    pub(super) notes: Vec<String>,
}

/// Decides.
///
/// # Errors
/// There is nothing to do, or it is not clear what is meant.
pub(super) fn plan(documents: &Documents, question: &Question) -> Result<Plan> {
    let mut notes = Vec::new();
    let mut pools = Vec::new();
    for object in &documents.lan_pools {
        match LanPool::parse(object) {
            Ok(pool) => pools.push(pool),
            Err(error) => notes.push(error),
        }
    }
    let imported = pools.iter().filter_map(|pool: &LanPool| pool.imported.as_ref());
    let networks = imported.flat_map(|imported| imported.networks.iter().cloned()).collect();
    let old = match question.plugin {
        Plugin::Whereabouts => whereabouts::read(documents, &networks),
        Plugin::HostLocal => host_local::read(documents),
    };
    notes.extend(old.notes.iter().cloned());
    if !old.unreadable.is_empty() {
        bail!(
            "which addresses pods have is not known, and nothing was changed: {}. Repair that, or delete it where no pod has an address \
             by it",
            old.unreadable.join("; ")
        );
    }
    let targets = targets(question, groups(&old.definitions), &pools)?;
    let steps = targets.iter().map(|target| step(question, target, &old, &pools)).collect();
    Ok(Plan { steps, notes })
}

fn step(question: &Question, target: &Target<'_>, old: &Old, pools: &[LanPool]) -> Step {
    let done = match (&target.refusal, &target.existing) {
        (Some(refusal), _) => Err(refusal.clone()),
        (None, None) => create(question, target, old, pools),
        (None, Some(pool)) if question.finish => finish(question, target, pool, old),
        (None, Some(pool)) => refresh(question, target, pool, old),
    };
    let mut step = match done {
        Ok(step) => step,
        Err(refusal) => Step { refusal: Some(refusal), ..Step::default() },
    };
    step.pool.clone_from(&target.name);
    step
}

/// A definition whose addresses cannot be taken over.
fn refused_definition(groups: &[Group<'_>]) -> Option<String> {
    let mut definitions = groups.iter().flat_map(|group| &group.definitions);
    definitions.find_map(|definition| {
        Some(format!("definition {}: {}", definition.name, definition.refusal.as_ref()?))
    })
}

fn create(question: &Question, target: &Target<'_>, old: &Old, pools: &[LanPool]) -> Result<Step, String> {
    let name = &target.name;
    if let Some(refusal) = refused_definition(&target.groups) {
        return Err(refusal);
    }
    let again = "say another name by --pool";
    if pools.iter().any(|pool| pool.name == *name) {
        return Err(format!("there is a LANPool of this name, with other addresses: {again}"));
    }
    if name.len() > LONGEST_NAME || !is_kubernetes_name(name) {
        return Err(format!(
            "this is no name of a pool, which has {LONGEST_NAME} characters at most: {again}"
        ));
    }
    let Some(group) = target.groups.first() else { return Err("no definition has its addresses".to_owned()) };
    let (ranges, notes) = group.pool_ranges();
    let mut object = json!({
        "apiVersion": "lan.k8slan.io/v1beta1", "kind": "LANPool", "metadata": { "name": name },
        "spec": { "ranges": ranges, "allowedNamespaces": [] },
    });
    if !group.domain().is_empty() {
        object["spec"]["routingDomain"] = json!(group.domain());
    }
    let subnets = group.subnets();
    let own = entries(&group.exclude(), &subnets, MOST).ok_or_else(too_many)?;
    let own: Vec<String> = own.iter().map(ToString::to_string).collect();
    let live = old.given(&group.networks(), &group.addresses());
    let given = addresses(&live).without(&addresses_of(&own));
    let imported = Imported {
        from: question.plugin,
        networks: group.networks(),
        addresses: entries_beside(&given, &subnets, &own)?,
        closed: true,
    };
    set_exclude(&mut object, &own, Some(&imported));
    let full = LanPool::parse(&object)?.full;
    let mut lines = vec![report::created(name, question.plugin, &live)];
    lines.extend(report::full(question, name, full));
    lines.extend(notes.into_iter().map(|note| format!("  note: {note}")));
    lines.extend(report::to_change(question, name, &target.groups, true));
    Ok(Step { change: Some(Change::Create(object)), lines, ..Step::default() })
}

fn too_many() -> String {
    format!("what is excluded takes more than the {MOST} entries that a pool has")
}

fn entries_beside(set: &AddrSet, subnets: &[AddrRange], own: &[String]) -> Result<Vec<AddrRange>, String> {
    entries(set, subnets, MOST.saturating_sub(own.len())).ok_or_else(too_many)
}

/// What the plugin has given of a pool, and what of that the pool excludes.
struct Given<'a> {
    networks: BTreeSet<String>,
    live: Vec<&'a Live>,
    own: Vec<String>,
    /// What the import has excluded so far.
    before: AddrSet,
    /// What is given and not excluded.
    new: AddrSet,
}

impl<'a> Given<'a> {
    fn of(plugin: Plugin, target: &Target<'_>, pool: &LanPool, old: &'a Old) -> Self {
        let mut networks: BTreeSet<String> = target.groups.iter().flat_map(Group::networks).collect();
        networks.extend(pool.imported.iter().flat_map(|imported| imported.networks.iter().cloned()));
        // A pool of somebody's own, whose definitions are changed already.
        if networks.is_empty() {
            match plugin {
                Plugin::Whereabouts => drop(networks.insert(pool.domain.clone())),
                Plugin::HostLocal => networks.extend(old.live.iter().flat_map(|live| live.networks.clone())),
            }
        }
        let live = old.given(&networks, &pool.addresses);
        let own = pool.own_exclude();
        let before =
            AddrSet::union(pool.imported.iter().flat_map(|imported| imported.addresses.iter().copied()));
        // What was taken out of exclude by hand is excluded no longer.
        let before = before.intersection(&addresses_of(&pool.exclude));
        let new = addresses(&live).without(&before).without(&addresses_of(&own));
        Self { networks, live, own, before, new }
    }
}

/// Excludes what was given meanwhile, and opens a pool of which nothing more will be.
fn refresh(question: &Question, target: &Target<'_>, pool: &LanPool, old: &Old) -> Result<Step, String> {
    if let Some(refusal) = refused_definition(&target.groups) {
        return Err(refusal);
    }
    if let Some(other) = pool.imported.as_ref().filter(|imported| imported.from != question.plugin) {
        return Err(format!("it was imported from {}: finish that first", other.from.name()));
    }
    let given = Given::of(question.plugin, target, pool, old);
    let closed = pool.closed && pool.imported.as_ref().is_some_and(|imported| imported.closed);
    let open = closed && target.groups.is_empty();
    let all = AddrSet::union(given.before.iter().chain(given.new.iter()));
    let imported = Imported {
        from: question.plugin,
        networks: given.networks.clone(),
        addresses: entries_beside(&all, &pool.subnets, &given.own)?,
        closed: closed && !open,
    };
    let object = pool.with(&given.own, Some(&imported), open);
    let full = LanPool::parse(&object)?.full;
    let change = (object != pool.object).then_some(Change::Replace(object));
    let mut lines = Vec::new();
    lines.push(report::refreshed(&pool.name, question.plugin, &given.new, open, change.is_some()));
    lines.extend(report::full(question, &pool.name, full));
    if !closed {
        lines.extend(report::given_late(question.plugin, &given.live, &given.new));
    }
    match target.groups.is_empty() {
        true => lines.extend(report::to_restart(question, &pool.name, &given.live)),
        false => lines.extend(report::to_change(question, &pool.name, &target.groups, closed)),
    }
    Ok(Step { change, lines, ..Step::default() })
}

/// Takes out of `exclude` what the import put there and the plugin has no longer given.
fn finish(question: &Question, target: &Target<'_>, pool: &LanPool, old: &Old) -> Result<Step, String> {
    let plugin = question.plugin.name();
    let Some(imported) = pool.imported.as_ref().filter(|imported| imported.from == question.plugin) else {
        return Err(format!("nothing of it was imported from {plugin}, so there is nothing to finish"));
    };
    if let Some(users) = report::users(&target.groups) {
        return Err(format!(
            "{plugin} gives these addresses to new pods, since {users} still name it: change them first, as '{}' says",
            question.command(&pool.name, false)
        ));
    }
    if pool.closed && imported.closed {
        return Err(format!("it is closed: '{}' opens it", question.command(&pool.name, false)));
    }
    let given = Given::of(question.plugin, target, pool, old);
    if !given.new.is_empty() {
        return Err(format!(
            "pods have {} from {plugin}, which the pool does not exclude: '{}' does that",
            given.new,
            question.command(&pool.name, false)
        ));
    }
    let kept = given.before.intersection(&addresses(&given.live));
    let rest = Imported { addresses: entries_beside(&kept, &pool.subnets, &given.own)?, ..imported.clone() };
    let object = pool.with(&given.own, Some(&rest).filter(|_| !kept.is_empty()), false);
    LanPool::parse(&object)?;
    let change = (object != pool.object).then_some(Change::Replace(object));
    let freed = given.before.without(&kept);
    let lines = report::finished(question, &pool.name, &freed, &given.live);
    Ok(Step { change, lines, ..Step::default() })
}
