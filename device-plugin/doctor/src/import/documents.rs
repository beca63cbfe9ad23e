//! Reads what kubectl and the nodes said, one JSON document after the other.

use std::io::Read;

use anyhow::{Context as _, Result, bail};
use serde_json::{Deserializer, Value};

use super::files::NodeLeases;

/// All documents, by kind. What a kind is not there of, there is none of.
#[derive(Clone, Debug, Default)]
pub(super) struct Documents {
    /// NetworkAttachmentDefinitions.
    pub(super) definitions: Vec<Value>,
    /// Whereabouts' IPPools.
    pub(super) ip_pools: Vec<Value>,
    /// Whereabouts' OverlappingRangeIPReservations.
    pub(super) reservations: Vec<Value>,
    pub(super) lan_pools: Vec<Value>,
    /// host-local's leases of each node.
    pub(super) nodes: Vec<NodeLeases>,
}

impl Documents {
    /// Reads the documents, in any order.
    ///
    /// # Errors
    /// A document of another kind.
    pub(super) fn read(input: impl Read) -> Result<Self> {
        let mut read = Self::default();
        for document in Deserializer::from_reader(input).into_iter::<Value>() {
            read.add(document.context("the input is not JSON")?)?;
        }
        Ok(read)
    }

    fn add(&mut self, document: Value) -> Result<()> {
        let kind = document["kind"].as_str().unwrap_or_default();
        match kind {
            "NetworkAttachmentDefinition" => self.definitions.push(document),
            "IPPool" => self.ip_pools.push(document),
            "OverlappingRangeIPReservation" => self.reservations.push(document),
            "LANPool" => self.lan_pools.push(document),
            "List" => {
                for item in document["items"].as_array().into_iter().flatten() {
                    self.add(item.clone())?;
                }
            }
            "" if document["hostLocal"].is_object() => {
                self.nodes.push(serde_json::from_value(document).context("a node's leases")?);
            }
            other => bail!("the input has a document of kind {other:?}, which says nothing about addresses"),
        }
        Ok(())
    }
}

/// `<namespace>/<name>` of an object.
pub(super) fn name_of(object: &Value) -> String {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    match text("namespace") {
        "" => text("name").to_owned(),
        namespace => format!("{namespace}/{}", text("name")),
    }
}
