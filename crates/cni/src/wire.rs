use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};

use crate::error::causes;
use crate::{AddResult, Code, Dns, Error, Interface, IpConfig, PluginError, Route, Version};

/// An error as it is written to standard output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorDocument {
    /// The number of the error.
    pub code: Code,
    /// One sentence about the failure.
    pub msg: String,
    /// Why: the chain of sources, joined with ": ". May be empty.
    pub details: String,
}

impl ErrorDocument {
    /// The document for an error.
    #[must_use]
    pub fn from_error(error: &dyn PluginError) -> Self {
        Self { code: error.code(), msg: error.to_string(), details: causes(error.source()) }
    }

    /// The document for a failure of the program itself, such as a panic. `what` says what happened and where.
    #[must_use]
    pub fn internal(name: &str, what: &str) -> Self {
        Self {
            code: Code::INTERNAL,
            msg: format!(
                "{name} {} failed by itself, which is a bug: please report it with these details",
                env!("CARGO_PKG_VERSION")
            ),
            details: what.to_owned(),
        }
    }

    /// The document as JSON, with a line feed.
    #[must_use]
    pub fn to_json(&self, version: Version) -> Vec<u8> {
        // Numbers and texts can always be written as JSON; if not, an empty document still fails the request.
        json(&Versioned { version, body: self }).unwrap_or_default()
    }
}

impl From<Error> for ErrorDocument {
    fn from(error: Error) -> Self {
        Self::from_error(&error)
    }
}

/// The result of ADD in the shape of that version.
pub(crate) fn result(version: Version, result: &AddResult) -> Result<Vec<u8>, Error> {
    json(&Versioned { version, body: result }).map_err(Error::Result)
}

/// The answer to VERSION. `given` is the input's `cniVersion`, which is echoed whatever it is.
pub(crate) fn versions(given: Option<&str>) -> Result<Vec<u8>, Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions<'a> {
        cni_version: &'a str,
        supported_versions: &'static [Version],
    }
    let cni_version = given.unwrap_or(Version::LATEST.as_str());
    json(&Versions { cni_version, supported_versions: &Version::SUPPORTED }).map_err(Error::Result)
}

fn json(document: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = serde_json::to_vec(document)?;
    text.push(b'\n');
    Ok(text)
}

/// A part of a document, which is written in the format of a version.
struct Versioned<'a, T: ?Sized> {
    version: Version,
    body: &'a T,
}

impl<T> Versioned<'_, T> {
    /// Whether the fields that came with 1.1.0 are written.
    fn has_1_1(&self) -> bool {
        self.version >= Version::V1_1_0
    }
}

/// A list whose items are written in the format of a version.
struct List<'a, T> {
    version: Version,
    items: &'a [T],
}

impl<'a, T> Serialize for List<'a, T>
where
    Versioned<'a, T>: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.items.len()))?;
        for body in self.items {
            list.serialize_element(&Versioned { version: self.version, body })?;
        }
        list.end()
    }
}

/// Writes a field if it has a value.
fn optional<S: SerializeStruct, T: Serialize>(
    object: &mut S,
    key: &'static str,
    value: Option<&T>,
) -> Result<(), S::Error> {
    match value {
        Some(value) => object.serialize_field(key, value),
        None => object.skip_field(key),
    }
}

impl Serialize for Versioned<'_, ErrorDocument> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Error", 4)?;
        object.serialize_field("cniVersion", &self.version)?;
        object.serialize_field("code", &self.body.code.get())?;
        object.serialize_field("msg", &self.body.msg)?;
        optional(&mut object, "details", Some(&self.body.details).filter(|text| !text.is_empty()))?;
        object.end()
    }
}

impl Serialize for Versioned<'_, AddResult> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn list<T>(version: Version, items: &[T]) -> Option<List<'_, T>> {
            (!items.is_empty()).then_some(List { version, items })
        }
        let Self { version, body } = *self;
        let mut object = serializer.serialize_struct("Result", 5)?;
        object.serialize_field("cniVersion", &version)?;
        optional(&mut object, "interfaces", list(version, &body.interfaces).as_ref())?;
        optional(&mut object, "ips", list(version, &body.ips).as_ref())?;
        optional(&mut object, "routes", list(version, &body.routes).as_ref())?;
        optional(&mut object, "dns", Some(&body.dns).filter(|dns| **dns != Dns::default()))?;
        object.end()
    }
}

impl Serialize for Versioned<'_, Interface> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let body = self.body;
        let mut object = serializer.serialize_struct("Interface", 6)?;
        object.serialize_field("name", &body.name)?;
        optional(&mut object, "mac", body.mac.as_ref())?;
        if self.has_1_1() {
            optional(&mut object, "mtu", body.mtu.as_ref())?;
        }
        optional(&mut object, "sandbox", body.sandbox.as_ref())?;
        if self.has_1_1() {
            optional(&mut object, "socketPath", body.socket_path.as_ref())?;
            optional(&mut object, "pciID", body.pci_id.as_ref())?;
        }
        object.end()
    }
}

impl Serialize for Versioned<'_, IpConfig> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let body = self.body;
        let mut object = serializer.serialize_struct("IpConfig", 4)?;
        if self.version < Version::V1_0_0 {
            object.serialize_field("version", if body.address.is_ipv4() { "4" } else { "6" })?;
        }
        optional(&mut object, "interface", body.interface.as_ref())?;
        object.serialize_field("address", &body.address)?;
        optional(&mut object, "gateway", body.gateway.as_ref())?;
        object.end()
    }
}

impl Serialize for Versioned<'_, Route> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let body = self.body;
        let mut object = serializer.serialize_struct("Route", 7)?;
        object.serialize_field("dst", &body.dst)?;
        optional(&mut object, "gw", body.gw.as_ref())?;
        // In every version: without its table, a route would go into another one.
        optional(&mut object, "mtu", body.mtu.as_ref())?;
        optional(&mut object, "advmss", body.advmss.as_ref())?;
        optional(&mut object, "priority", body.priority.as_ref())?;
        optional(&mut object, "table", body.table.as_ref())?;
        optional(&mut object, "scope", body.scope.as_ref())?;
        object.end()
    }
}
