//! Reads the output of `kubectl` and `inspect --json`, one JSON document after the other.

use std::io::Read;

use anyhow::{Context as _, Result, bail};
use serde_json::{Deserializer, Value};

use crate::inspect::NodeView;

/// All documents, by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Documents {
    pub(super) pod: Value,
    /// Its events, the latest one last.
    pub(super) events: Vec<Value>,
    /// NetworkAttachmentDefinitions; `None` if they may not be read.
    pub(super) definitions: Option<Vec<Value>>,
    /// LANs; `None` if they may not be read.
    pub(super) lans: Option<Vec<Value>>,
    pub(super) nodes: Vec<NodeView>,
}

impl Documents {
    /// Reads the documents, in any order. An empty list means that there are none, so it has its kind.
    ///
    /// # Errors
    /// A document of another kind, or no pod.
    pub(super) fn read(input: impl Read) -> Result<Self> {
        let mut read = Self::default();
        for document in Deserializer::from_reader(input).into_iter::<Value>() {
            read.add(document.context("the input is not JSON")?)?;
        }
        if read.pod.is_null() {
            bail!("the input has no pod; 'kubectl k8slan why POD' collects it");
        }
        let last = |event: &Value| {
            let times = ["lastTimestamp", "eventTime", "firstTimestamp"].map(|field| event[field].as_str());
            times.into_iter().flatten().next().unwrap_or_default().to_owned()
        };
        read.events.sort_by_key(last);
        Ok(read)
    }

    fn add(&mut self, document: Value) -> Result<()> {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "Pod" => self.pod = document,
            "Event" => self.events.push(document),
            "NetworkAttachmentDefinition" => self.definitions.get_or_insert_default().push(document),
            "LAN" => self.lans.get_or_insert_default().push(document),
            // What 'kubectl k8slan' puts before a list that may be empty.
            "NetworkAttachmentDefinitions" => drop(self.definitions.get_or_insert_default()),
            "LANs" => drop(self.lans.get_or_insert_default()),
            "List" => {
                for item in document["items"].as_array().into_iter().flatten() {
                    self.add(item.clone())?;
                }
            }
            "" if document["node"].is_string() => {
                self.nodes.push(serde_json::from_value(document).context("a node's view")?);
            }
            other => bail!("the input has a document of kind {other:?}, which says nothing about a pod"),
        }
        Ok(())
    }

    /// The view of the node with this name.
    pub(super) fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.iter().find(|node| node.node == name)
    }
}
