//! Steps of DEL and GC that are the same in every main plugin.

use std::path::PathBuf;

use cni::{Delegate, Request, Target, ValidAttachment};
use node::{Attachment, AttachmentLock, ConfigError, LockError, NetworkId, NodeConfig, Paths};

use crate::link_up::set_up_again;

/// DEL: runs `take_away` under the attachment's lock, which is held until the IPAM plugin has answered. `take_away`
/// gets the folders and a list for its errors, and returns the IPAM plugin's error.
///
/// # Errors
/// All errors; or another program holds the lock, and nothing was done.
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

/// Runs `removal` of the interface, with the IPAM plugin's DEL around it if there is one ([`Delegate::del_around`]).
///
/// # Errors
/// The IPAM plugin's error.
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

/// Runs DEL of the IPAM plugin that ADD recorded, if the configuration now names another one or none. Its interface
/// is removed by then.
///
/// # Errors
/// The IPAM plugin's error.
pub fn release_recorded<C>(request: &Request<C>, recorded: Option<&str>) -> Result<(), cni::Error> {
    match recorded.filter(|name| !name.is_empty()) {
        Some(name) if request.ipam().is_none_or(|ipam| ipam.name() != name) => request.delegate(name).del(),
        _ => Ok(()),
    }
}

/// GC: the same for an attachment that is not valid any more.
///
/// # Errors
/// The IPAM plugin's error; or another program holds the lock, and nothing was done.
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

/// Whether an attachment belongs to a network and is not in the runtime's list of valid ones.
#[must_use]
pub fn is_stale(attachment: &Attachment, network: NetworkId, valid: &[ValidAttachment]) -> bool {
    attachment.network == network
        && !valid
            .iter()
            .any(|v| v.container_id == attachment.container_id && v.ifname == attachment.ifname.as_str())
}
