//! The MTU: bridge, port and uplinks must have the same one, or the error names the one that differs.

use net_types::Mtu;
use netplumb::Link;

use crate::bridge::Bridge;
use crate::{Config, Error};

/// The MTU that bridge and port have or get, with this bridge and these uplinks of the configuration.
///
/// # Errors
/// See [`agree`].
pub(crate) fn decide(
    config: &Config,
    bridge: Option<&Bridge>,
    uplinks: &[Link],
) -> Result<Option<Mtu>, Error> {
    let uplinks: Vec<u32> = uplinks.iter().map(|link| link.mtu).collect();
    agree(config, bridge.map(|bridge| bridge.link.mtu), &uplinks)
}

/// The same without I/O. `None`: no MTU is stated, and the bridge is to be created. `bridge` is the MTU of an
/// existing one, `uplinks` are those of the configuration, in its order.
///
/// A bridge silently drops frames that are longer than the MTU of the outgoing port.
///
/// # Errors
/// The first that does not agree.
fn agree(config: &Config, bridge: Option<u32>, uplinks: &[u32]) -> Result<Option<Mtu>, Error> {
    let name = &config.bridge;
    let asked = config.mtu.map(Mtu::get);
    if let (Some(asked), Some(have)) = (asked, bridge)
        && asked != have
    {
        return Err(Error::MtuOfBridge { bridge: name.clone(), have, asked });
    }
    let uplinks = || config.uplinks.iter().zip(uplinks.iter().copied());
    for (uplink, have) in uplinks() {
        let stated = uplink.mtu.map(Mtu::get).filter(|&stated| stated != have);
        if let Some(stated) = stated {
            return Err(Error::MtuOfUplinkStated { uplink: uplink.name.clone(), have, stated });
        }
    }
    let smallest = || uplinks().min_by_key(|&(_, have)| have);
    let (wanted, whose) = match (bridge, asked, smallest()) {
        (Some(have), ..) => (have, format!("bridge {name}")),
        (None, Some(asked), _) => (asked, "mtu of the configuration".to_owned()),
        (None, None, Some((uplink, have))) => (have, format!("uplink {}", uplink.name)),
        (None, None, None) => return Ok(None),
    };
    // An uplink with an MTU of its own in the configuration may have a larger one.
    let agrees = |have: u32, stated: bool| have == wanted || stated && have > wanted;
    match uplinks().find(|(uplink, have)| !agrees(*have, uplink.mtu.is_some())) {
        Some((uplink, have)) => Err(Error::MtuOfUplink { uplink: uplink.name.clone(), have, whose, wanted }),
        // A link of the node may have an MTU that the type refuses, and keeps it.
        None => Ok(Mtu::try_from(u64::from(wanted)).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fields: &str) -> Config {
        serde_json::from_str(&format!(r#"{{"bridge": "br0", "vlan": 10, {fields}}}"#)).unwrap()
    }

    const TWO: &str = r#""uplinks": [{"name": "eth0", "follow": true}, {"name": "eth1", "follow": true}]"#;
    const STATED: &str = r#""uplinks": [{"name": "eth0", "follow": true, "mtu": 9000}]"#;

    #[test]
    fn the_same_everywhere_is_right() {
        for (fields, bridge, uplinks, mtu) in [
            (r#""mtu": 0"#, None, &[][..], None),
            (r#""mtu": 1450"#, None, &[], Some(1450)),
            (r#""mtu": 1450"#, Some(1450), &[], Some(1450)),
            (TWO, None, &[9000, 9000], Some(9000)),
            (TWO, Some(9000), &[9000, 9000], Some(9000)),
            // An uplink with an MTU of its own may have a larger one.
            (STATED, Some(1500), &[9000], Some(1500)),
            (STATED, Some(9000), &[9000], Some(9000)),
            (&format!(r#"{STATED}, "mtu": 1500"#), None, &[9000], Some(1500)),
        ] {
            let have = agree(&config(fields), bridge, uplinks).unwrap_or_else(|e| panic!("{fields}: {e}"));
            assert_eq!(have.map(Mtu::get), mtu, "{fields}");
        }
    }

    #[test]
    fn each_that_differs_is_named() {
        for (fields, bridge, uplinks, says) in [
            (
                r#""mtu": 1500"#,
                Some(9000),
                &[][..],
                "bridge br0 has MTU 9000, but mtu of the configuration is 1500",
            ),
            (
                TWO,
                Some(1500),
                &[1500, 9000],
                "uplink eth1 has MTU 9000, but bridge br0 1500: longer frames from there",
            ),
            (
                TWO,
                Some(1500),
                &[1400, 1500],
                "uplink eth0 has MTU 1400, but bridge br0 1500: longer frames are lost",
            ),
            (TWO, None, &[9000, 1500], "uplink eth0 has MTU 9000, but uplink eth1 1500"),
            (
                &format!(r#"{TWO}, "mtu": 1500"#),
                None,
                &[1500, 9000],
                "uplink eth1 has MTU 9000, but mtu of the configuration 1500",
            ),
            (
                STATED,
                Some(1500),
                &[1500],
                "uplink eth0 has MTU 1500, but its mtu in the configuration is 9000",
            ),
            // Stating an MTU does not let a link carry longer frames than it can.
            (STATED, Some(9500), &[9000], "uplink eth0 has MTU 9000, but bridge br0 9500"),
        ] {
            let message = agree(&config(fields), bridge, uplinks).expect_err(fields).to_string();
            assert!(message.contains(says), "{fields}: {message}");
        }
    }
}
