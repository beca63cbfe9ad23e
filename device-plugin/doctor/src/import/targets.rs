//! Which pools an import is about: those that exist, and those that are missing for definitions.

use anyhow::{Result, bail};
use node::is_kubernetes_name;

use super::group::{Group, LONGEST_NAME};
use super::lan_pool::LanPool;
use super::old::Plugin;

/// What somebody asks for.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) plugin: Plugin,
    /// The one pool that is meant.
    pub(super) pool: Option<String>,
    /// Whether what is no longer in use is given free.
    pub(super) finish: bool,
}

impl Question {
    /// The command that goes on with a pool.
    pub(super) fn command(&self, pool: &str, finish: bool) -> String {
        let more = if finish { " --finish" } else { "" };
        format!("kubectl k8slan import {} --pool {pool}{more}", self.plugin.name())
    }
}

/// A pool, and the definitions whose pods have addresses of it from the other plugin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target<'a> {
    pub(super) name: String,
    /// `None`: it is to be made.
    pub(super) existing: Option<LanPool>,
    pub(super) groups: Vec<Group<'a>>,
    /// Why nothing can be done with it.
    pub(super) refusal: Option<String>,
}

/// The targets of a question.
///
/// # Errors
/// There are none, or it is not clear which one is meant.
pub(super) fn targets<'a>(
    question: &Question,
    groups: Vec<Group<'a>>,
    pools: &[LanPool],
) -> Result<Vec<Target<'a>>> {
    let named = |name: &str| question.pool.as_deref() == Some(name);
    let is_meant = |pool: &&LanPool| {
        named(&pool.name) || pool.imported.as_ref().is_some_and(|imported| imported.from == question.plugin)
    };
    let mut targets: Vec<Target<'a>> = pools
        .iter()
        .filter(is_meant)
        .map(|pool| Target {
            name: pool.name.clone(),
            existing: Some(pool.clone()),
            groups: Vec::new(),
            refusal: None,
        })
        .collect();
    for group in groups {
        let shares = |pool: &LanPool| {
            pool.domain == group.domain() && pool.addresses.shared_with(&group.addresses()).is_some()
        };
        let of_pool = targets.iter_mut().find(|target| target.existing.as_ref().is_some_and(shares));
        match of_pool {
            Some(target) => target.groups.push(group),
            None => {
                let other = pools.iter().find(|pool| shares(pool));
                targets.push(missing(question, group, other));
            }
        }
    }
    if question.finish {
        targets.retain(|target| target.existing.is_some());
    }
    let targets = match &question.pool {
        Some(name) => choose(question, targets, name)?,
        None => targets,
    };
    let plugin = question.plugin.name();
    match (targets.is_empty(), question.finish) {
        (false, _) => Ok(targets),
        (true, false) => bail!(
            "no definition that you may read uses {plugin}, and no LANPool was imported from it. A LANPool of your own is filled by \
             --pool NAME"
        ),
        (true, true) => bail!("no LANPool was imported from {plugin}: there is nothing to finish"),
    }
}

/// A pool for definitions that have none; `other` has their addresses already.
fn missing<'a>(question: &Question, group: Group<'a>, other: Option<&LanPool>) -> Target<'a> {
    let refusal = other.map(|other| {
        let name = &other.name;
        format!(
            "LANPool {name} has these addresses already; '{}' excludes there what pods have",
            question.command(name, false)
        )
    });
    Target { name: group.name.clone(), existing: None, groups: vec![group], refusal }
}

/// The one that is called so, or the only one that is to be made, which is then called so.
fn choose<'a>(question: &Question, targets: Vec<Target<'a>>, name: &str) -> Result<Vec<Target<'a>>> {
    let (found, others): (Vec<_>, Vec<_>) = targets.into_iter().partition(|target| target.name == name);
    if !found.is_empty() {
        return Ok(found);
    }
    let plugin = question.plugin.name();
    if question.finish {
        bail!("there is no LANPool {name}: 'kubectl get lanpools' shows them");
    }
    let mut new: Vec<Target<'a>> = others.into_iter().filter(|target| target.existing.is_none()).collect();
    match new.as_mut_slice() {
        [] => bail!(
            "there is no LANPool {name}, and no definition that you may read uses {plugin} without having one"
        ),
        [one] => {
            if name.len() > LONGEST_NAME || !is_kubernetes_name(name) {
                bail!(
                    "{name:?} is not the name of a pool: at most {LONGEST_NAME} lower-case letters, digits, '-' and '.'"
                );
            }
            name.clone_into(&mut one.name);
            Ok(new)
        }
        several => {
            let names: Vec<&str> = several.iter().map(|target| target.name.as_str()).collect();
            bail!("definitions with {plugin} make several pools: {}; name one of these", names.join(", "))
        }
    }
}
