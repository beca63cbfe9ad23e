//! Events on objects, reported by the leader.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::core::ObjectMeta;
use kube::runtime::events::{Event, Recorder, Reporter};

/// The longest note that is published, in bytes; the API server takes 1024.
pub(super) const MAX_NOTE: usize = 1000;

#[derive(Clone)]
pub(super) struct EventPublisher {
    client: Client,
    reporter: Reporter,
}

impl EventPublisher {
    /// `node` is the node that the leader runs on.
    pub(super) fn new(client: Client, node: &str) -> Self {
        // `reportingInstance` may have 128 characters.
        let instance = Some(node.chars().take(128).collect());
        Self { client, reporter: Reporter { controller: "k8slan.io/leader".to_owned(), instance } }
    }

    /// Writes one event. If that is forbidden, or the namespace is being deleted, the event is left out with a
    /// warning.
    ///
    /// # Errors
    /// Any other error of the API server.
    pub(super) async fn publish(&self, of: &ObjectReference, event: &Event) -> Result<(), kube::Error> {
        // A recorder for each event: one that remembers events would put the old note into the new event.
        match Recorder::new(self.client.clone(), self.reporter.clone()).publish(event, of).await {
            Err(kube::Error::Api(status)) if status.code == 403 || status.code == 404 => {
                let (kind, reason) = (of.kind.as_deref(), &event.reason);
                tracing::warn!(
                    kind,
                    name = of.name,
                    reason,
                    status = status.message,
                    "the event is not published"
                );
                Ok(())
            }
            answer => answer,
        }
    }
}

/// The reference to the object that an event is about.
pub(super) fn reference(api_version: &str, kind: &str, metadata: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        ..ObjectReference::default()
    }
}
