use cni::{Error, IpamName, Misconfigured};

/// The IPAM plugin that comes with the main plugins, and finds what an attachment holds without any configuration.
const OURS: &str = "ipam-pool";

/// Gives back the addresses of an attachment whose configuration is wrong: by the IPAM plugin that it names, or else the one
/// that ADD wrote down; `Some("")` says that there was none.
///
/// `removal` of the interface is run in any case, at the moment that suits the plugin, and `ready` before one that needs the
/// interface ([`cni::Delegate::del_around`]).
///
/// Where neither is known, what `ipam-pool` gave is given back, and standard error says that another plugin's stays.
///
/// # Errors
/// The IPAM plugin's.
pub fn give_back(
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
                // Whoever does not have it installed has no address of it.
                Err(Error::DelegateMissing { .. } | Error::DelegateNoPath(_)) => Ok(()),
                done => done,
            }
        }
    }
}
