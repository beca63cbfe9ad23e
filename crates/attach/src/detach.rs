//! What DEL and GC of every main plugin do around the removal of an attachment.

use std::path::PathBuf;

use cni::{Delegate, Request, Target, ValidAttachment};
use node::{Attachment, AttachmentLock, ConfigError, LockError, NetworkId, NodeConfig, Paths};

use crate::ready::set_up_again;

/// DEL: runs `take_away` under the attachment's lock, which is held until the IPAM plugin has answered. It is given where
/// things are and the list of what went wrong, and answers with the IPAM plugin's error.
///
/// # Errors
/// All that went wrong; or the lock is another program's, and nothing was done.
pub fn detach<E>(
    target: &Target<Option<PathBuf>>,
    take_away: impl FnOnce(&Paths, &mut Vec<E>) -> Result<(), cni::Error>,
) -> Result<(), Vec<E>>
where
    E: From<LockError> + From<ConfigError> + From<cni::Error>,
{
    let (paths, unknown) = NodeConfig::paths_for_removal();
    let lock = AttachmentLock::hold(paths.run(), target.container_id.as_str(), &target.ifname);
    let _lock = lock.map_err(|error| vec![E::from(error)])?;
    let mut errors = Vec::new();
    let answered = take_away(&paths, &mut errors);
    errors.extend(unknown.map(E::from));
    errors.extend(answered.err().map(E::from));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Runs `removal` of the interface, and the IPAM plugin's DEL around it where there is one ([`Delegate::del_around`]).
///
/// # Errors
/// The IPAM plugin's.
pub fn release(
    ipam: Option<Delegate<'_>>,
    ready: impl FnOnce(),
    removal: impl FnOnce(),
) -> Result<(), cni::Error> {
    match ipam {
        Some(ipam) => ipam.del_around(ready, removal),
        None => {
            removal();
            Ok(())
        }
    }
}

/// DEL of the IPAM plugin that ADD wrote down, where the configuration names another by now, or none. Its interface is gone
/// by then.
///
/// # Errors
/// The IPAM plugin's.
pub fn release_recorded<C>(request: &Request<C>, recorded: Option<&str>) -> Result<(), cni::Error> {
    match recorded.filter(|name| !name.is_empty()) {
        Some(name) if request.ipam().is_none_or(|ipam| ipam.name() != name) => request.delegate(name).del(),
        _ => Ok(()),
    }
}

/// GC: the same for an attachment that is not valid any more.
///
/// # Errors
/// The IPAM plugin's; or the lock is another program's, and nothing was done.
pub fn collect<C, E>(
    request: &Request<C>,
    paths: &Paths,
    attachment: &Attachment,
    removal: impl FnOnce(),
) -> Result<(), E>
where
    E: From<LockError> + From<cni::Error>,
{
    let (container, ifname) = (attachment.container_id.as_str(), &attachment.ifname);
    let _lock = AttachmentLock::hold(paths.run(), container, ifname)?;
    match request.ipam() {
        Some(ipam) => {
            let netns = attachment.is_live().then_some(&*attachment.netns.path);
            Ok(ipam.del_of((container, ifname.as_str(), netns), || set_up_again(attachment), removal)?)
        }
        None => {
            removal();
            Ok(())
        }
    }
}

/// Whether an attachment is of a network and not among those that the runtime says are valid.
#[must_use]
pub fn is_stale(attachment: &Attachment, network: NetworkId, valid: &[ValidAttachment]) -> bool {
    attachment.network == network
        && !valid
            .iter()
            .any(|v| v.container_id == attachment.container_id && v.ifname == attachment.ifname.as_str())
}
