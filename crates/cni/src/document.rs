use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use net_types::IfName;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::decode::What;
use crate::{ContainerId, Dns, Error};

/// What the runtime filled in for the capabilities that the configuration declares.
///
/// Source: CONVENTIONS.md, "Well-known Capabilities". What this crate does not interpret stays JSON text. Of what none of the
/// plugins reads (`aliases`, `cgroupPath`, `dns`, `infinibandGUID` and what may come) nothing is expected: runtimes disagree
/// about its shape, as podman does about that of `aliases`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RuntimeConfig {
    /// `mac`, as it was given.
    pub mac: Option<String>,
    /// `ips`, each with or without a prefix length, as they were given.
    pub ips: Option<Vec<String>>,
    /// A device that a device plugin allocated, from `deviceID`.
    #[serde(rename = "deviceID")]
    pub device_id: Option<String>,
    /// `ipRanges`: a list of lists of subnets, as host-local's `ranges`.
    pub ip_ranges: Option<Box<RawValue>>,
    /// `portMappings`: main plugins refuse them; they are the business of the plugin `portmap` in the same list.
    pub port_mappings: Option<Box<RawValue>>,
    /// `bandwidth`: main plugins refuse it; it is the business of the plugin `bandwidth` in the same list.
    pub bandwidth: Option<Box<RawValue>>,
}

/// The member `args.cni` of the configuration.
///
/// Source: CONVENTIONS.md, "args in network config"; Multus merges its annotation `cni-args` into it. Other programs
/// read other keys of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ArgsCni {
    /// `mac`, as it was given.
    pub mac: Option<String>,
    /// `ips`, as they were given. Present, even empty, it makes `IP` in `CNI_ARGS` ignored.
    pub ips: Option<Vec<String>>,
    /// `vm`, as it was given: the virtual machine that the pod runs.
    pub vm: Option<String>,
}

/// An attachment that the runtime says is valid (`cni.dev/valid-attachments`).
///
/// The texts are only compared, so they stay as the runtime wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct ValidAttachment {
    /// The member `containerID`, the runtime's name for the container.
    #[serde(rename = "containerID", deserialize_with = "name::<ContainerId, _>")]
    pub container_id: String,
    /// The member `ifname`, the interface's name in the container.
    #[serde(deserialize_with = "name::<IfName, _>")]
    pub ifname: String,
}

/// A name that ADD could have got. A list with another one is not whole: what it means may be alive.
fn name<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse::<T>() {
        Ok(_) => Ok(text),
        Err(error) => {
            Err(D::Error::custom(format!("{text:?} is the name of nothing that is attached: {error}")))
        }
    }
}

/// The protocol's fields of the document on standard input. As in the reference plugins, `null` counts as absent,
/// except in the list of valid attachments.
#[derive(Default, Deserialize)]
pub(crate) struct Document<'a> {
    #[serde(rename = "cniVersion")]
    pub(crate) cni_version: Option<String>,
    pub(crate) name: Option<String>,
    #[serde(rename = "type")]
    pub(crate) plugin_type: Option<String>,
    pub(crate) capabilities: Option<BTreeMap<String, bool>>,
    pub(crate) ipam: Option<Ipam>,
    pub(crate) dns: Option<Dns>,
    #[serde(rename = "runtimeConfig")]
    pub(crate) runtime_config: Option<RuntimeConfig>,
    pub(crate) args: Option<Args>,
    #[serde(rename = "prevResult", borrow)]
    pub(crate) prev_result: Option<&'a RawValue>,
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "attachments")]
    pub(crate) valid_attachments: Option<Vec<ValidAttachment>>,
}

/// The one field where `null` does not count as absent: libcni writes an empty list as `null`. If the key is absent,
/// the runtime says nothing about valid attachments.
fn attachments<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<ValidAttachment>>, D::Error> {
    Option::deserialize(deserializer).map(|list| Some(list.unwrap_or_default()))
}

#[derive(Deserialize)]
pub(crate) struct Ipam {
    #[serde(rename = "type")]
    pub(crate) plugin_type: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Args {
    pub(crate) cni: Option<ArgsCni>,
}

/// The result of [`Document::parse_each`].
pub(crate) struct Readable<'a> {
    /// The document; fields that could not be read are absent.
    pub(crate) document: Document<'a>,
    /// The fields that could not be read, with their errors.
    pub(crate) mistakes: Vec<(&'static str, Error)>,
}

impl<'a> Document<'a> {
    pub(crate) fn parse(json: &'a [u8]) -> Result<Self, Error> {
        crate::decode::object(json, What::Protocol)
    }

    /// Reads each field by itself, for verbs that remove: a mistake in one field must not hide what another says.
    ///
    /// # Errors
    /// The text is not a JSON object.
    pub(crate) fn parse_each(json: &'a [u8]) -> Result<Readable<'a>, Error> {
        let mut fields: BTreeMap<String, &'a RawValue> = crate::decode::object(json, What::Protocol)?;
        let mut mistakes = Vec::new();
        let document = Document {
            cni_version: one(&mut fields, "cniVersion", &mut mistakes),
            name: one(&mut fields, "name", &mut mistakes),
            plugin_type: one(&mut fields, "type", &mut mistakes),
            capabilities: one(&mut fields, "capabilities", &mut mistakes),
            ipam: one(&mut fields, IPAM, &mut mistakes),
            dns: one(&mut fields, "dns", &mut mistakes),
            runtime_config: one(&mut fields, "runtimeConfig", &mut mistakes),
            args: one(&mut fields, "args", &mut mistakes),
            prev_result: fields.remove("prevResult").filter(|raw| raw.get() != "null"),
            valid_attachments: match fields.get(VALID).map(|raw| raw.get()) {
                Some("null") => Some(Vec::new()),
                _ => one(&mut fields, VALID, &mut mistakes),
            },
        };
        Ok(Readable { document, mistakes })
    }
}

/// The name of the section about the IPAM plugin.
pub(crate) const IPAM: &str = "ipam";
/// The name of the list that GC gets.
pub(crate) const VALID: &str = "cni.dev/valid-attachments";

fn one<'a, T: Deserialize<'a>>(
    fields: &mut BTreeMap<String, &'a RawValue>,
    key: &'static str,
    mistakes: &mut Vec<(&'static str, Error)>,
) -> Option<T> {
    serde_json::from_str(fields.remove(key)?.get())
        .map_err(|source| mistakes.push((key, Error::Protocol { field: key.to_owned(), source })))
        .ok()
        .flatten()
}

/// The `cniVersion` of any input, for VERSION, which validates nothing.
pub(crate) fn version_of(json: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OnlyVersion {
        #[serde(rename = "cniVersion")]
        cni_version: Option<String>,
    }
    let version = serde_json::from_slice::<OnlyVersion>(json).ok()?.cni_version?;
    (!version.is_empty()).then_some(version)
}
