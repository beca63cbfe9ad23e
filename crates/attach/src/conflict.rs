//! Addresses that the IPAM plugin gave and another station has: others are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cni::Delegated;
use net_types::{MacAddr, MacvtapMode};
use netplumb::{LinkChange, LinkKind, Taken, probe};

use crate::probing::ROUNDS;
use crate::{CONFLICTS, ConflictError, PodLink, Probing};

impl PodLink<'_> {
    /// Where the configuration says `probe`: asks the link for the addresses that the IPAM plugin gave,
    /// before they are on it. If one is taken, the plugin is told who has it ([`CONFLICTS`]) and asked
    /// again, until it gives addresses that nobody has. The link has to be up.
    ///
    /// # Errors
    /// There are none; the delegate's result is then to be undone, like after any failure.
    pub fn settle(&self, delegated: &mut Delegated<'_>, stdin: &[u8]) -> Result<(), ConflictError> {
        let Some(probing) = Probing::of(stdin)? else { return Ok(()) };
        let answers =
            |addresses: &[IpAddr]| Ok(probe(self.netns, self.index, self.mac, addresses, probing.timing)?);
        settle(delegated, answers)
    }

    /// As [`PodLink::settle`], for a link that is the guest's of a VM: asks under the MAC address `asker`,
    /// which must be nobody else's. In a live migration the VM still runs elsewhere, and one frame with its
    /// MAC address would lead its traffic here. What the guest itself answers, there, is no conflict.
    ///
    /// The link must be silent: one that takes only frames to its own MAC address has the asker's until the
    /// answers are in.
    ///
    /// # Errors
    /// As [`PodLink::settle`].
    pub fn settle_for_guest(
        &self,
        delegated: &mut Delegated<'_>,
        stdin: &[u8],
        asker: MacAddr,
    ) -> Result<(), ConflictError> {
        let Some(probing) = Probing::of(stdin)? else { return Ok(()) };
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
        let settled = settle(delegated, |addresses| {
            let mut taken = probe(self.netns, self.index, asker, addresses, probing.timing)?;
            taken.retain(|taken| taken.mac != self.mac);
            Ok(taken)
        });
        let renamed = call_it(self.mac);
        settled.and(renamed.map_err(Into::into))
    }
}

/// The part of [`Delegated`] that the loop needs.
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

fn settle(
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
        // An address that several have is reported with one of them.
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
        let result = settle(&mut pool, |addresses| {
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
        // What is known to be free is not asked for again.
        assert_eq!(asked, [2, 1, 1]);
    }

    #[test]
    fn a_network_where_all_is_taken_is_given_up() {
        let (_, result, asked) = run(200);
        assert!(matches!(result, Err(ConflictError::Crowded { .. })));
        assert_eq!(asked.len(), ROUNDS);
    }
}
