//! Events on objects, in the name of the leader.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::core::ObjectMeta;
use kube::runtime::events::{Event, Recorder, Reporter};

/// Writes events.
#[derive(Clone)]
pub(super) struct EventPublisher {
    client: Client,
    reporter: Reporter,
}

impl EventPublisher {
    /// As the leader on the node of this name.
    pub(super) fn new(client: Client, node: &str) -> Self {
        // An instance takes 128 characters.
        let instance = Some(node.chars().take(128).collect());
        Self { client, reporter: Reporter { controller: "k8slan.io/leader".to_owned(), instance } }
    }

    /// Writes one. Where that is not allowed, or the namespace goes, it is left out.
    ///
    /// # Errors
    /// As of the API server.
    pub(super) async fn publish(&self, of: &ObjectReference, event: &Event) -> Result<(), kube::Error> {
        // A recorder of its own for each: one that remembers would put the old note into the new event.
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

/// What an event is about.
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
