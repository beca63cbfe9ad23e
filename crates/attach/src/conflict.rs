use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cni::Delegated;
use net_types::{MacAddr, MacvtapMode, Timespan};
use netplumb::{LinkChange, LinkKind, ProbeTiming, Taken, probe};
use serde::Deserialize;

use crate::PodLink;

/// Tells ipam-pool, in a second ADD, which of the addresses that it gave are taken and by whom:
/// `<address>=<MAC>`, several with commas.
pub const CONFLICTS: &str = "K8SLAN_IPAM_CONFLICTS";

/// How often another address is asked for: a network where more than this many in a row are taken needs
/// a person.
const ROUNDS: usize = 8;

/// `ipam.probe` as the main plugin reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probing {
    timing: ProbeTiming,
}

/// Why no address without an owner was found.
#[derive(Debug, thiserror::Error)]
pub enum ConflictError {
    /// `ipam.probe` is malformed.
    #[error("ipam.probe is a flag, or count, interval, wait and quarantine, within bounds: {0}")]
    Config(String),
    /// The question could not be asked.
    #[error("cannot ask the link whether its addresses are taken")]
    Probe(#[from] netplumb::Error),
    /// The IPAM plugin has no other address, or does not know what is said to it.
    #[error("{} taken by another station, and there is no other address", listed(taken))]
    NoOther {
        /// What was found.
        taken: Vec<Taken>,
        /// The plugin's answer.
        source: Box<cni::Error>,
    },
    /// Every address was taken.
    #[error(
        "{ROUNDS} addresses in a row are taken, at last {}: look for the other DHCP server or pool",
        listed(taken)
    )]
    Crowded {
        /// What was found last.
        taken: Vec<Taken>,
    },
}

fn listed(taken: &[Taken]) -> String {
    let texts: Vec<_> = taken.iter().map(|taken| format!("{} (by {})", taken.ip, taken.mac)).collect();
    format!("{} {}", texts.join(", "), if texts.len() == 1 { "is" } else { "are" })
}

#[derive(Deserialize)]
struct Document {
    ipam: Option<Ipam>,
}

#[derive(Deserialize)]
struct Ipam {
    probe: Option<Written>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Flag(bool),
    Timing(Timing),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Timing {
    count: Option<u32>,
    interval: Option<Timespan>,
    wait: Option<Timespan>,
    /// The IPAM plugin's.
    #[serde(rename = "quarantine")]
    _quarantine: Option<Timespan>,
}

impl Probing {
    /// What the configuration says; `None` where nothing is to be asked.
    ///
    /// # Errors
    /// `ipam.probe` is malformed.
    pub fn of(stdin: &[u8]) -> Result<Option<Self>, ConflictError> {
        let document: Document =
            serde_json::from_slice(stdin).map_err(|error| ConflictError::Config(error.to_string()))?;
        let quick = ProbeTiming::QUICK;
        Ok(match document.ipam.and_then(|ipam| ipam.probe) {
            None | Some(Written::Flag(false)) => None,
            Some(Written::Flag(true)) => Some(Self { timing: quick }),
            Some(Written::Timing(timing)) => {
                let timing = ProbeTiming {
                    count: timing.count.unwrap_or(quick.count).max(1),
                    interval: timing.interval.map_or(quick.interval, Timespan::get),
                    wait: timing.wait.map_or(quick.wait, Timespan::get),
                };
                Some(Self { timing: timing.bounded().map_err(ConflictError::Config)? })
            }
        })
    }
}

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
}

impl PodLink<'_> {
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

    #[test]
    fn reads_what_the_configuration_says() {
        let of =
            |probe: &str| Probing::of(format!("{{\"ipam\":{{\"type\":\"ipam-pool\"{probe}}}}}").as_bytes());
        assert_eq!(of("").unwrap(), None);
        assert_eq!(of(",\"probe\":false").unwrap(), None);
        assert_eq!(of(",\"probe\":true").unwrap().unwrap().timing, ProbeTiming::QUICK);
        let slow = of(",\"probe\":{\"count\":5,\"interval\":\"1s\",\"wait\":2,\"quarantine\":\"1h\"}")
            .unwrap()
            .unwrap();
        assert_eq!(
            (slow.timing.count, slow.timing.interval.as_secs(), slow.timing.wait.as_secs()),
            (5, 1, 2)
        );
        assert!(of(",\"probe\":{\"cont\":5}").is_err());
        for (timing, part) in [
            ("\"count\":11", "count 11 is too large"),
            ("\"count\":4000000000,\"interval\":\"876000h\"", "count 4000000000 is too large"),
            ("\"interval\":\"876000h\"", "interval and wait are too long"),
            ("\"wait\":\"876000h\"", "interval and wait are too long"),
            ("\"count\":5,\"interval\":\"5s\",\"wait\":\"10001ms\"", "may take 30 s at most"),
        ] {
            let error = of(&format!(",\"probe\":{{{timing}}}")).unwrap_err().to_string();
            assert!(error.contains(part), "{timing}: {error}");
        }
        assert_eq!(Probing::of(b"{}").unwrap(), None);
    }
}
