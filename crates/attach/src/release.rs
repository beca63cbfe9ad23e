use cni::{Error, IpamName, Misconfigured};

/// The IPAM plugin that comes with the main plugins, and finds an attachment's leases without any configuration.
const OURS: &str = "ipam-pool";

/// Releases the addresses of an attachment whose configuration is wrong: by the IPAM plugin that it names, or
/// otherwise the one that ADD recorded; `Some("")` means that there was none.
///
/// `removal` of the interface always runs, at the right moment for the plugin, and `ready` before a plugin that needs
/// the interface ([`cni::Delegate::del_around`]).
///
/// If neither is known, the leases of `ipam-pool` are released, and standard error says that another plugin's stay.
///
/// # Errors
/// The IPAM plugin's error.
pub(crate) fn give_back(
    request: &Misconfigured,
    recorded: Option<&str>,
    ready: impl FnOnce(),
    removal: impl FnOnce(),
) -> Result<(), Error> {
    match (&request.ipam, recorded) {
        (IpamName::None, _) | (IpamName::Unreadable, Some("")) => {
            removal();
            Ok(())
        }
        (IpamName::Plugin(name), _) => request.delegate(name).del_around(ready, removal),
        (IpamName::Unreadable, Some(name)) => request.delegate(name).del_around(ready, removal),
        (IpamName::Unreadable, None) => {
            eprintln!(
                "the configuration does not say which IPAM plugin gave addresses: what {OURS} gave is given back, an address \
                 of another one stays taken"
            );
            match request.delegate(OURS).del_around(ready, removal) {
                // If it is not installed, it has no leases.
                Err(Error::DelegateMissing { .. } | Error::DelegateNoPath(_)) => Ok(()),
                done => done,
            }
        }
    }
}
