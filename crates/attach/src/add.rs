//! Steps of ADD that are the same in every main plugin: the IPAM plugin's ADD, what is done with its result, and the undo
//! of both after a failure.

use cni::{AddResult, Delegate, Delegated, Interface};

use crate::several::Combined;
use crate::{Call, PodError, PodLink, Undecided};

/// Runs the rest of an ADD that has made something. If that fails, `undo` is called, once: by the rest, with the function
/// that it gets, or else at the end. `undo` returns a line per failure.
///
/// # Errors
/// The rest's error, with the failures of the undo.
pub fn or_undo<T, E: Combined>(
    undo: impl FnOnce() -> Vec<String>,
    rest: impl FnOnce(&mut dyn FnMut()) -> Result<T, E>,
) -> Result<T, E> {
    let mut undo = Some(undo);
    let mut failures = Vec::new();
    let mut roll_back = || failures.extend(undo.take().into_iter().flat_map(|undo| undo()));
    let done = rest(&mut roll_back);
    if done.is_err() {
        roll_back();
    }
    done.map_err(|error| error.and_failures(failures))
}

/// Runs the IPAM plugin's ADD, and `configure` with its result. If one of them fails, the result is undone around
/// `roll_back`, which removes the interface, at the moment when the plugin can release its addresses.
///
/// # Errors
/// The IPAM plugin's or `configure`'s, with that of the undo.
pub fn with_ipam<T, E: Combined + From<cni::Error>>(
    ipam: Delegate<'_>,
    roll_back: &mut dyn FnMut(),
    configure: impl FnOnce(&mut Delegated<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let mut delegated = ipam.add_or(&mut *roll_back)?;
    match configure(&mut delegated) {
        Ok(done) => {
            let _ = delegated.keep();
            Ok(done)
        }
        Err(error) => {
            let undone = delegated.fail_around(error, roll_back);
            Err(undone.error.and_failure(undone.undo.map(E::from)))
        }
    }
}

impl<C> Call<'_, C> {
    /// If the configuration has `probe`: asks for other addresses until no given one is taken. The launcher pod's stack
    /// neither probes nor answers for a guest's addresses.
    ///
    /// # Errors
    /// There are no free addresses.
    pub fn replace_taken(&self, link: &PodLink<'_>, delegated: &mut Delegated<'_>) -> Result<(), PodError> {
        let stdin = self.request.document();
        let replaced = match self.is_for_a_guest() {
            true => link.replace_taken_of_guest(delegated, stdin, self.asker()),
            false => link.replace_taken(delegated, stdin),
        };
        Ok(replaced?)
    }

    /// The result of ADD: these interfaces, of which the last is the pod's and has the addresses, behind the results of
    /// earlier plugins of the chain.
    #[must_use]
    pub fn result(&self, interfaces: Vec<Interface>, answer: AddResult) -> AddResult {
        let own = interfaces.len().checked_sub(1);
        let mut result = AddResult { interfaces, ..answer };
        result.ips.iter_mut().for_each(|ip| ip.interface = own);
        result.behind(self.request.prev_result.as_ref())
    }
}

impl PodLink<'_> {
    /// Sets the addresses and routes of a result. `undecided`: what the link accepts from routers, for a pod's own interface;
    /// `None` for a guest's, which gets only what its DHCP server reads there. `detecting`: IPv6 addresses are used only after
    /// duplicate address detection.
    ///
    /// # Errors
    /// The kernel refuses a change, or another host has an address.
    pub fn set_addresses(
        &self,
        undecided: Option<Undecided<'_>>,
        answer: &AddResult,
        detecting: bool,
    ) -> Result<(), PodError> {
        let Some(undecided) = undecided else { return self.configure_for_guest(answer) };
        undecided.decide(answer.ips.iter().any(|ip| ip.address.is_ipv6()))?;
        self.configure(answer, detecting)
    }
}
