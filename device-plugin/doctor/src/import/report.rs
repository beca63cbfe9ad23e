//! What people are told about an import.

use net_types::AddrSet;

use super::group::Group;
use super::old::{Live, Plugin};
use super::targets::Question;

/// As many pods are named, of those that have addresses.
const NAMED: usize = 20;

/// As many ranges are written out.
const RANGES: usize = 8;

/// For example `3 addresses (10.0.0.5-10.0.0.7)`.
fn counted(addresses: &AddrSet) -> String {
    let mut ranges: Vec<String> = addresses.iter().take(RANGES).map(|range| range.to_string()).collect();
    if addresses.iter().count() > RANGES {
        ranges.push("…".to_owned());
    }
    let ranges = ranges.join(", ");
    match addresses.len() {
        0 => "no address".to_owned(),
        1 => format!("1 address ({ranges})"),
        count => format!("{count} addresses ({ranges})"),
    }
}

fn set(live: &[&Live]) -> AddrSet {
    super::old::addresses(live)
}

pub(super) fn created(pool: &str, plugin: Plugin, live: &[&Live]) -> String {
    format!(
        "LANPool {pool}: made; of {} pods have {}, which it excludes. It is closed (allowedNamespaces: []) as long as definitions use \
         the other plugin",
        plugin.name(),
        counted(&set(live))
    )
}

pub(super) fn refreshed(pool: &str, plugin: Plugin, new: &AddrSet, opened: bool, changed: bool) -> String {
    let opened = if opened { "opened: pods get addresses of it from now on" } else { "as it was" };
    match (new.is_empty(), changed) {
        (true, true) => format!("LANPool {pool}: {opened}"),
        (true, false) => format!("LANPool {pool}: nothing to change"),
        (false, _) => {
            format!(
                "LANPool {pool}: {opened}; {}, which {} gave since, excluded as well",
                counted(new),
                plugin.name()
            )
        }
    }
}

/// Of a pool that has no address for a pod.
pub(super) fn full(question: &Question, pool: &str, full: bool) -> Option<String> {
    full.then(|| {
        format!(
            "  note: no address of it is left; a pod that is restarted waits until '{}' has freed some",
            question.command(pool, true)
        )
    })
}

/// Of a pool that was open when the plugin gave them.
pub(super) fn given_late(plugin: Plugin, live: &[&Live], new: &AddrSet) -> Vec<String> {
    let late: Vec<&Live> = live.iter().copied().filter(|live| new.contains(live.address)).collect();
    if late.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!(
        "  attention: the pool was open when {} gave these, so another pod may have the same address: 'kubectl k8slan leases' tells",
        plugin.name()
    )];
    lines.extend(who(&late));
    lines
}

/// The definitions that still use the plugin, by name.
pub(super) fn users(groups: &[Group<'_>]) -> Option<String> {
    let names: Vec<&str> = groups
        .iter()
        .flat_map(|group| &group.definitions)
        .map(|definition| definition.name.as_str())
        .collect();
    (!names.is_empty()).then(|| format!("definitions {}", names.join(", ")))
}

/// Which definitions to change, and to what.
pub(super) fn to_change(question: &Question, pool: &str, groups: &[Group<'_>], closed: bool) -> Vec<String> {
    let mut lines = vec![match closed {
        true => {
            "  now change in these definitions, all of them; pods that start from then on wait for the pool:"
                .to_owned()
        }
        false => format!(
            "  change in these definitions; what {} gives until then is not excluded:",
            question.plugin.name()
        ),
    }];
    for definition in groups.iter().flat_map(|group| &group.definitions) {
        let more: String =
            definition.more.iter().map(|(key, value)| format!(", \"{key}\": {value}")).collect();
        let place = match &definition.lan {
            Some(lan) => {
                format!("LAN {lan} (spec.networkAttachments), which makes definition {}", definition.name)
            }
            None => definition.name.clone(),
        };
        lines.push(format!("    {place}: \"ipam\": {{\"type\": \"ipam-pool\", \"pool\": \"{pool}\"{more}}}"));
        lines.extend(definition.notes.iter().map(|note| format!("      note: {note}")));
    }
    let effect = if closed { "and opens it" } else { "again" };
    lines.push(format!(
        "  then '{}' excludes what {} gave meanwhile, {effect}",
        question.command(pool, false),
        question.plugin.name()
    ));
    lines
}

/// What is left to do when no definition uses the plugin.
pub(super) fn to_restart(question: &Question, pool: &str, live: &[&Live]) -> Vec<String> {
    let finish = question.command(pool, true);
    if live.is_empty() {
        return vec![format!("  no pod has an address of {} any more: '{finish}'", question.plugin.name())];
    }
    let mut lines = vec![format!(
        "  restart the pods that have {} of {}, when you like; '{finish}' frees what they had:",
        counted(&set(live)),
        question.plugin.name()
    )];
    lines.extend(who(live));
    lines
}

pub(super) fn finished(question: &Question, pool: &str, freed: &AddrSet, live: &[&Live]) -> Vec<String> {
    let mut lines = vec![format!("LANPool {pool}: {} free again", counted(freed))];
    if live.is_empty() {
        lines.push(format!("  nothing of {} is left in it", question.plugin.name()));
        return lines;
    }
    lines.push(format!(
        "  {} stay excluded, since {} has given them; when their pods have been restarted, once more '{}':",
        counted(&set(live)),
        question.plugin.name(),
        question.command(pool, true)
    ));
    lines.extend(who(live));
    lines
}

fn who(live: &[&Live]) -> Vec<String> {
    let mut lines: Vec<String> =
        live.iter().map(|live| format!("    {} {}", live.address, live.holder)).collect();
    // One address may be in two objects.
    lines.dedup();
    if lines.len() > NAMED {
        let more = lines.len() - NAMED;
        lines.truncate(NAMED);
        lines.push(format!("    and {more} more"));
    }
    lines
}
