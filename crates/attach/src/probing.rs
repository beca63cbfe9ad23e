//! `ipam.probe`: whether and how long to probe a link for the addresses that the IPAM plugin gave.

use net_types::{Probe, ProbeTiming};
use netplumb::Taken;
use serde::Deserialize;

/// How often another address is requested: a network where more than this many in a row are taken needs an
/// administrator.
pub(crate) const ROUNDS: usize = 8;

/// Why no free address was found.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum ConflictError {
    #[error("ipam.probe is a flag, or count, interval, wait and quarantine, within bounds: {0}")]
    Config(String),
    /// The probe could not be sent.
    #[error("cannot ask the link whether its addresses are taken")]
    Probe(#[from] netplumb::Error),
    /// The IPAM plugin has no other address, or does not know [`cni::CONFLICTS`].
    #[error("{} taken by another station, and there is no other address", listed(taken))]
    NoOther { taken: Vec<Taken>, source: Box<cni::Error> },
    #[error(
        "{ROUNDS} addresses in a row are taken, at last {}: look for the other DHCP server or pool",
        listed(taken)
    )]
    Crowded { taken: Vec<Taken> },
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
    #[serde(default, deserialize_with = "Probe::parse")]
    probe: Option<Probe>,
}

/// Reads `ipam.probe`; `None` if nothing is to be probed.
///
/// # Errors
/// It is malformed.
pub fn probe_timing(stdin: &[u8]) -> Result<Option<ProbeTiming>, ConflictError> {
    let document: Document =
        serde_json::from_slice(stdin).map_err(|error| ConflictError::Config(error.to_string()))?;
    Ok(document.ipam.and_then(|ipam| ipam.probe).map(|probe| probe.timing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_configuration_says() {
        let of =
            |probe: &str| probe_timing(format!("{{\"ipam\":{{\"type\":\"ipam-pool\"{probe}}}}}").as_bytes());
        assert_eq!(of("").unwrap(), None);
        assert_eq!(of(",\"probe\":false").unwrap(), None);
        assert_eq!(of(",\"probe\":true").unwrap().unwrap(), ProbeTiming::QUICK);
        let slow = of(",\"probe\":{\"count\":5,\"interval\":\"1s\",\"wait\":2,\"quarantine\":\"1h\"}")
            .unwrap()
            .unwrap();
        assert_eq!((slow.count, slow.interval.as_secs(), slow.wait.as_secs()), (5, 1, 2));
        for wrong in ["{\"cont\":5}", "\"true\"", "1", "[]"] {
            let error = of(&format!(",\"probe\":{wrong}")).unwrap_err().to_string();
            assert!(error.contains("expected true, false, or an object with some of count"), "{error}");
        }
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
        assert_eq!(probe_timing(b"{}").unwrap(), None);
    }
}
