//! Replacing addresses that the IPAM plugin gave and another station has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cni::{CONFLICTS, Delegated};
use net_types::{MacAddr, MacvtapMode};
use netplumb::{LinkChange, LinkKind, Taken, probe};

use crate::probing::{ROUNDS, probe_timing};
use crate::{ConflictError, PodLink};

impl PodLink<'_> {
    /// If the configuration has `probe`: probes the link for the addresses that the IPAM plugin gave, before they are
    /// set. If one is taken, the plugin is told who has it ([`CONFLICTS`]) and asked for others, until no given
    /// address is taken. The link has to be up.
    ///
    /// # Errors
    /// There are no free addresses; the caller then undoes the delegate's result, as after any failure.
    pub(crate) fn replace_taken(
        &self,
        delegated: &mut Delegated<'_>,
        stdin: &[u8],
    ) -> Result<(), ConflictError> {
        let Some(timing) = probe_timing(stdin)? else { return Ok(()) };
        let answers = |addresses: &[IpAddr]| Ok(probe(self.netns, self.index, self.mac, addresses, timing)?);
        replace_taken(delegated, answers)
    }

    /// As [`PodLink::replace_taken`], for a link that is the guest's of a VM: it probes from the MAC address `asker`,
    /// which no interface may have. During a live migration the VM still runs elsewhere, and one frame with its MAC
    /// address would redirect its traffic to here. An answer of the guest itself from there is not a conflict.
    ///
    /// The link must be silent: if it only accepts frames to its own MAC address, it has the asker's until the
    /// answers are in.
    ///
    /// # Errors
    /// As [`PodLink::replace_taken`].
    pub(crate) fn replace_taken_of_guest(
        &self,
        delegated: &mut Delegated<'_>,
        stdin: &[u8],
        asker: MacAddr,
    ) -> Result<(), ConflictError> {
        let Some(timing) = probe_timing(stdin)? else { return Ok(()) };
        if delegated.result().ips.is_empty() {
            return Ok(());
        }
        let kind = self.netlink.link_by_index(self.index)?.map(|link| link.kind);
        let takes_all = match kind {
            Some(LinkKind::Macvtap(info) | LinkKind::Macvlan(info)) => {
                info.mode == Some(MacvtapMode::Passthru)
            }
            _ => true,
        };
        let call_it = |mac| match takes_all {
            true => Ok(()),
            false => {
                self.netlink.set_link(self.index, &LinkChange { mac: Some(mac), ..LinkChange::default() })
            }
        };
        call_it(asker)?;
        let replaced = replace_taken(delegated, |addresses| {
            let mut taken = probe(self.netns, self.index, asker, addresses, timing)?;
            taken.retain(|taken| taken.mac != self.mac);
            Ok(taken)
        });
        let renamed = call_it(self.mac);
        replaced.and(renamed.map_err(Into::into))
    }
}

/// The methods of [`Delegated`] that the loop needs.
trait Source {
    fn addresses(&self) -> Vec<IpAddr>;
    fn other(&mut self, conflicts: &str) -> Result<(), cni::Error>;
}

impl Source for Delegated<'_> {
    fn addresses(&self) -> Vec<IpAddr> {
        self.result().ips.iter().map(|ip| ip.address.ip()).collect()
    }

    fn other(&mut self, conflicts: &str) -> Result<(), cni::Error> {
        self.add_again(CONFLICTS, conflicts)
    }
}

type Answers = Result<Vec<Taken>, ConflictError>;

fn replace_taken(
    source: &mut impl Source,
    mut probe: impl FnMut(&[IpAddr]) -> Answers,
) -> Result<(), ConflictError> {
    let mut free: BTreeSet<IpAddr> = BTreeSet::new();
    let mut last = Vec::new();
    for _ in 0..ROUNDS {
        let addresses: Vec<IpAddr> =
            source.addresses().into_iter().filter(|address| !free.contains(address)).collect();
        if addresses.is_empty() {
            return Ok(());
        }
        let taken = probe(&addresses)?;
        free.extend(addresses.iter().filter(|address| taken.iter().all(|taken| taken.ip != **address)));
        if taken.is_empty() {
            return Ok(());
        }
        // If several stations have an address, it is reported with one of them.
        let by: BTreeMap<IpAddr, MacAddr> = taken.iter().map(|taken| (taken.ip, taken.mac)).collect();
        let conflicts: Vec<String> = by.iter().map(|(ip, mac)| format!("{ip}={mac}")).collect();
        match source.other(&conflicts.join(",")) {
            Ok(()) => last = taken,
            Err(error) => return Err(ConflictError::NoOther { taken, source: error.into() }),
        }
    }
    Err(ConflictError::Crowded { taken: last })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives 10.0.0.1, 10.0.0.2 … and always fd00::1.
    struct Pool(u8, Vec<String>);

    impl Source for Pool {
        fn addresses(&self) -> Vec<IpAddr> {
            vec![IpAddr::from([10, 0, 0, self.0]), "fd00::1".parse().unwrap()]
        }

        fn other(&mut self, conflicts: &str) -> Result<(), cni::Error> {
            self.0 += 1;
            self.1.push(conflicts.to_owned());
            Ok(())
        }
    }

    fn run(taken_below: u8) -> (Pool, Result<(), ConflictError>, Vec<usize>) {
        let mut pool = Pool(1, Vec::new());
        let mut asked = Vec::new();
        let result = replace_taken(&mut pool, |addresses| {
            asked.push(addresses.len());
            let mac = MacAddr::local([0, 0, 0, 0, 0, 9]);
            let taken = |ip: &&IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[3] < taken_below);
            Ok(addresses.iter().filter(taken).map(|ip| Taken { ip: *ip, mac }).collect())
        });
        (pool, result, asked)
    }

    #[test]
    fn the_next_address_is_asked_for_until_one_is_free() {
        let (pool, result, asked) = run(3);
        result.unwrap();
        assert_eq!(pool.1, ["10.0.0.1=02:00:00:00:00:09", "10.0.0.2=02:00:00:00:00:09"]);
        // Addresses that are known to be free are not probed again.
        assert_eq!(asked, [2, 1, 1]);
    }

    #[test]
    fn a_network_where_all_is_taken_is_given_up() {
        let (_, result, asked) = run(200);
        assert!(matches!(result, Err(ConflictError::Crowded { .. })));
        assert_eq!(asked.len(), ROUNDS);
    }
}
