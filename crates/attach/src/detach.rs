//! DEL and GC as far as they are the same in every main plugin: the lock, the IPAM plugin's DEL around the removal of the
//! interface, and which attachments are stale.

use std::path::PathBuf;

use cni::{Misconfigured, Request, Target, ValidAttachment};
use node::{Attachment, AttachmentLock, ConfigError, LockError, NetworkId, NodeConfig, Paths};

use crate::link_up::set_up_again;
use crate::release::give_back;
use crate::several::Combined;

/// An error that DEL and GC collect.
pub trait RemovalError: Combined + From<LockError> + From<ConfigError> + From<cni::Error> {}

impl<E: Combined + From<LockError> + From<ConfigError> + From<cni::Error>> RemovalError for E {}

/// DEL: runs `removal` of the interface, with the IPAM plugin's DEL around it ([`cni::Delegate::del_around`]).
///
/// `ready` sets the interface up for a plugin that needs it. `removal` adds its errors to the list and returns the IPAM
/// plugin that ADD recorded: if the configuration names another one by now, or none, that one gets its DEL after the removal.
///
/// # Errors
/// All errors; or another program works on the attachment, and nothing was done.
pub fn detach<C, E: RemovalError>(
    request: &Request<C>,
    target: &Target<Option<PathBuf>>,
    ready: impl FnOnce(&Paths),
    removal: impl FnOnce(&Paths, &mut Vec<E>) -> Option<String>,
) -> Result<(), E> {
    under_lock(target, |paths, errors| {
        let mut recorded = None;
        let remove = || recorded = removal(paths, errors);
        let released = match request.ipam() {
            Some(ipam) => ipam.del_around(|| ready(paths), remove),
            None => {
                remove();
                Ok(())
            }
        };
        let other =
            recorded.filter(|name| !name.is_empty() && request.ipam().is_none_or(|ipam| ipam.name() != name));
        errors.extend(other.and_then(|name| request.delegate(&name).del().err()).map(E::from));
        released
    })
}

/// DEL for a configuration that ADD would refuse; `recorded` finds the IPAM plugin that ADD recorded.
///
/// # Errors
/// As [`detach`].
pub fn detach_misconfigured<E: RemovalError>(
    request: &Misconfigured,
    target: &Target<Option<PathBuf>>,
    recorded: impl FnOnce(&Paths) -> Option<String>,
    ready: impl FnOnce(&Paths),
    removal: impl FnOnce(&Paths, &mut Vec<E>),
) -> Result<(), E> {
    under_lock(target, |paths, errors| {
        let recorded = recorded(paths);
        give_back(request, recorded.as_deref(), || ready(paths), || removal(paths, errors))
    })
}

/// Runs `take_away` under the attachment's lock, which is held until the IPAM plugin has answered. `take_away` gets the
/// folders and a list for its errors, and returns the IPAM plugin's error.
fn under_lock<E: RemovalError>(
    target: &Target<Option<PathBuf>>,
    take_away: impl FnOnce(&Paths, &mut Vec<E>) -> Result<(), cni::Error>,
) -> Result<(), E> {
    let (paths, unknown) = NodeConfig::paths_for_removal();
    let _lock = AttachmentLock::hold(paths.run(), target.container_id.as_str(), &target.ifname)?;
    let mut errors = Vec::new();
    let answered = take_away(&paths, &mut errors);
    errors.extend(unknown.map(E::from));
    errors.extend(answered.err().map(E::from));
    E::all(errors)
}

/// GC: `sweep` removes the attachments that its second argument calls stale, those of this network that are not in the
/// runtime's list, and adds its errors to the list. It returns whether the IPAM plugin may free addresses.
///
/// # Errors
/// All errors; everything else was done.
pub fn gc<C, E: RemovalError>(
    request: &Request<C>,
    valid: Option<&[ValidAttachment]>,
    sweep: impl FnOnce(&Paths, &dyn Fn(&Attachment) -> bool, &mut Vec<E>) -> bool,
) -> Result<(), E> {
    let mut errors = Vec::new();
    let mut frees = true;
    // Without a list, the runtime says nothing about what is valid.
    if let Some(valid) = valid {
        let network = NetworkId::from_name(request.network.as_str());
        let is_valid = |a: &Attachment| {
            valid.iter().any(|v| v.container_id == a.container_id && v.ifname == a.ifname.as_str())
        };
        let is_stale = |a: &Attachment| a.network == network && !is_valid(a);
        let (paths, unknown) = NodeConfig::paths_for_removal();
        frees = sweep(&paths, &is_stale, &mut errors);
        errors.extend(unknown.map(E::from));
    }
    if let Some(ipam) = request.ipam().filter(|_| frees) {
        errors.extend(ipam.gc().err().map(E::from));
    }
    E::all(errors)
}

/// Removes an attachment that GC found stale, as [`detach`] does. Errors are added to `errors`; if another program works
/// on the attachment, nothing is done.
pub fn collect<C, E: RemovalError>(
    request: &Request<C>,
    paths: &Paths,
    attachment: &Attachment,
    errors: &mut Vec<E>,
    removal: impl FnOnce(&mut Vec<E>),
) {
    let (container, ifname) = (attachment.container_id.as_str(), &attachment.ifname);
    let _lock = match AttachmentLock::hold(paths.run(), container, ifname) {
        Ok(lock) => lock,
        Err(held) => return errors.push(held.into()),
    };
    let Some(ipam) = request.ipam() else { return removal(errors) };
    let netns = attachment.is_live().then_some(&*attachment.netns.path);
    let of = (container, ifname.as_str(), netns);
    let done = ipam.del_of(of, || set_up_again(attachment), || removal(errors));
    errors.extend(done.err().map(E::from));
}
