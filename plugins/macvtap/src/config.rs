use attach::FromRouters;
use net_types::{Attach, IfName, MacvtapMode, Mtu, SpokeName};
use serde::{Deserialize, Deserializer};

use crate::Error;

/// The names of the keys; they are accepted in any case.
pub(crate) const NAMES: &[&str] =
    &["attach", "deviceID", "group", "master", "mode", "mtu", "owner", "promiscMode", "spoke"];

/// The plugin's own keys of a network configuration. Exactly one of `deviceID`, `spoke` and `master`
/// says what to attach to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// A spoke, or the name of a macvtap on the host; Multus puts it in for the resource that the
    /// kubelet handed out. `runtimeConfig.deviceID` counts more.
    #[serde(rename = "deviceID", default, deserialize_with = "cni::unless_empty")]
    pub device_id: Option<String>,
    /// A spoke by name, where no kubelet hands spokes out.
    #[serde(deserialize_with = "cni::unless_empty")]
    pub spoke: Option<SpokeName>,
    /// A link of the host to put a macvtap on.
    #[serde(deserialize_with = "cni::unless_empty")]
    pub master: Option<IfName>,
    /// What the pod gets; on a spoke it must agree with the spoke.
    #[serde(deserialize_with = "cni::unless_empty")]
    pub attach: Option<Attach>,
    /// The macvtap's mode; on a spoke it must agree with the spoke. On a master: `bridge` by default.
    #[serde(deserialize_with = "cni::unless_empty")]
    pub mode: Option<MacvtapMode>,
    /// The interface's MTU in bytes; absent or 0: that of the link below.
    #[serde(deserialize_with = "mtu_or_nothing")]
    pub mtu: Option<Mtu>,
    /// Set the interface promiscuous, and the link below it. Frames for other MAC addresses, as of a virtual router,
    /// reach a pod or a guest in mode `passthru` alone, with or without it; tags of VLANs that a network card below filters do reach it then.
    pub promisc_mode: bool,
    /// The owner of `/dev/tapN`, a number; libvirt's in KubeVirt's images.
    #[serde(default = "libvirt")]
    pub owner: u32,
    /// The group of `/dev/tapN`, a number; libvirt's in KubeVirt's images.
    #[serde(default = "libvirt")]
    pub group: u32,
    /// IPv6: take routers' advertisements (`accept_ra` 2, so also in a pod that forwards); absent: unless the IPAM plugin gives IPv6 addresses.
    pub accept_ra: Option<bool>,
    /// IPv6: make addresses from what routers advertise (`autoconf`); absent: unless the IPAM plugin gives IPv6 addresses.
    pub autoconf: Option<bool>,
    /// IPv6: take who advertises for a default router (`accept_ra_defrtr`); absent: unless another interface of the pod has a default route.
    pub accept_ra_defrtr: Option<bool>,
    /// IPv6: addresses stay when the interface goes down (`keep_addr_on_down`); absent: if the IPAM plugin gives IPv6 addresses.
    pub keep_addr_on_down: Option<bool>,
}

/// The number of the user `qemu` in KubeVirt's images.
fn libvirt() -> u32 {
    107
}

/// What an attachment is put on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A device that the kubelet gave out: a spoke if a record has that name, otherwise a macvtap of the host.
    Device(String),
    /// The spoke with this name.
    Spoke(SpokeName),
    /// A macvtap on a link of the host.
    Master(IfName),
}

impl Config {
    /// What the pod's interface accepts from routers.
    #[must_use]
    pub fn from_routers(&self) -> FromRouters {
        FromRouters {
            accept_ra: self.accept_ra,
            autoconf: self.autoconf,
            accept_ra_defrtr: self.accept_ra_defrtr,
            keep_addr_on_down: self.keep_addr_on_down,
        }
    }

    /// The device that the kubelet gave out, with the `deviceID` of `runtimeConfig`.
    #[must_use]
    pub fn device<'a>(&'a self, runtime_device: Option<&'a str>) -> Option<&'a str> {
        runtime_device.filter(|id| !id.is_empty()).or(self.device_id.as_deref())
    }

    /// What to put the attachment on, with the `deviceID` of `runtimeConfig`.
    ///
    /// # Errors
    /// The configuration has none of the three keys, or more than one.
    pub fn wanted(&self, runtime_device: Option<&str>) -> Result<Wanted, Error> {
        match (self.device(runtime_device), &self.spoke, &self.master) {
            (Some(device), None, None) => Ok(Wanted::Device(device.to_owned())),
            (None, Some(spoke), None) => Ok(Wanted::Spoke(spoke.clone())),
            (None, None, Some(master)) => Ok(Wanted::Master(master.clone())),
            (None, None, None) => Err(Error::NothingWanted),
            (device, spoke, master) => {
                let named = [
                    (device.is_some(), "deviceID"),
                    (spoke.is_some(), "spoke"),
                    (master.is_some(), "master"),
                ];
                let keys: Vec<_> = named.iter().filter(|(given, _)| *given).map(|(_, key)| *key).collect();
                Err(Error::SeveralWanted(keys.join(" and ")))
            }
        }
    }
}

fn mtu_or_nothing<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mtu>, D::Error> {
    match Option::<i64>::deserialize(deserializer)? {
        None | Some(0) => Ok(None),
        Some(given) => u64::try_from(given)
            .map_err(|_| {
                serde::de::Error::custom(format_args!("MTU {given} is out of range: it must be 68 to 65535"))
            })
            .and_then(|given| Mtu::try_from(given).map_err(serde::de::Error::custom))
            .map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn the_least_configuration() {
        let config = config(r#"{"cniVersion":"0.3.1","type":"macvtap","deviceID":"pod2"}"#).unwrap();
        assert_eq!(config.wanted(None).unwrap(), Wanted::Device("pod2".into()));
        assert_eq!(config.wanted(Some("pod3")).unwrap(), Wanted::Device("pod3".into()));
        assert_eq!((config.owner, config.group, config.mtu), (107, 107, None));
    }

    #[test]
    fn exactly_one_thing_to_attach_to() {
        let nothing = config(r#"{"deviceID":""}"#).unwrap();
        assert!(matches!(nothing.wanted(None), Err(Error::NothingWanted)));
        let both = config(r#"{"spoke":"pod1","master":"eth0"}"#).unwrap();
        assert_eq!(
            both.wanted(None).unwrap_err().to_string(),
            "spoke and master are both given: choose one of deviceID, spoke and master"
        );
        assert!(both.wanted(Some("pod1")).is_err());
    }

    #[test]
    fn empty_texts_are_absent() {
        let config = config(r#"{"deviceID":"","spoke":"","master":"eth0","attach":"","mode":""}"#).unwrap();
        assert_eq!(config.wanted(None).unwrap(), Wanted::Master("eth0".parse().unwrap()));
        assert_eq!((config.attach, config.mode), (None, None));
    }

    #[test]
    fn values_are_parsed_once_and_mistakes_name_them() {
        assert!(config(r#"{"mtu":0}"#).unwrap().mtu.is_none());
        for (bad, word) in [
            (r#"{"mtu":67}"#, "MTU 67"),
            (r#"{"mtu":-1}"#, "MTU -1"),
            (r#"{"mode":"bridged"}"#, "bridged"),
            (r#"{"attach":"tap"}"#, "tap"),
            (r#"{"master":"a/b"}"#, "a/b"),
            (r#"{"spoke":"-x"}"#, "-x"),
            (r#"{"promiscMode":"yes"}"#, "yes"),
        ] {
            let error = config(bad).unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }
}
