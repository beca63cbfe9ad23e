//! Which namespaces a pool's `namespaceSelector` selects.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client};
use node::SelectedNamespaces;
use serde_json::Value;

use super::for_node::Labels;
use super::watched::{Watched, refusal_code};
use crate::chain;

/// The longest reason that is sent to a node, in bytes.
const MAX_REASON: usize = 500;

pub(super) type NamespaceEvent = Result<Event<PartialObjectMeta<Namespace>>, watcher::Error>;

/// The labels of all namespaces, heard of while a pool asks for them.
#[derive(Default)]
pub(super) struct Namespaces {
    labels: Watched<Labels>,
    /// The API server refuses to say them, and why.
    refused: Option<String>,
}

/// The watch of namespaces, while there is one.
#[derive(Default)]
pub(super) struct NamespaceWatch(Option<BoxStream<'static, NamespaceEvent>>);

impl NamespaceWatch {
    /// Begins or ends it. Returns whether it ended.
    pub(super) fn set(&mut self, wanted: bool, client: &Client) -> bool {
        match (&self.0, wanted) {
            (None, true) => {
                let api: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
                let events = watch_objects(api, watcher::Config::default());
                self.0 = Some(events.default_backoff().boxed());
                false
            }
            (Some(_), false) => {
                self.0 = None;
                true
            }
            _ => false,
        }
    }

    /// The next event; while there is no watch, none comes.
    pub(super) async fn next(&mut self) -> NamespaceEvent {
        if let Some(events) = &mut self.0
            && let Some(event) = events.next().await
        {
            return event;
        }
        std::future::pending().await
    }
}

impl Namespaces {
    /// Returns whether what is selected may have changed.
    pub(super) fn apply(&mut self, event: NamespaceEvent) -> bool {
        match event {
            Ok(event) => {
                let keep = |namespace: &PartialObjectMeta<Namespace>| {
                    let metadata = &namespace.metadata;
                    (metadata.name.clone().unwrap_or_default(), metadata.labels.clone().unwrap_or_default())
                };
                let changes = self.labels.apply(event, keep);
                self.refused.take().is_some() || changes
            }
            Err(error) => {
                let text = chain(&error);
                let refused = matches!(refusal_code(&error), Some(401 | 403 | 404)).then(|| {
                    let role = "k8slan's daemon may not list namespaces, which the ClusterRole of its version permits";
                    proto::brief(&format!("{role}: {text}"), MAX_REASON)
                });
                tracing::warn!(
                    "the API server is not heard about namespaces, by whose labels pools are given: {text}"
                );
                if refused.is_none() || self.refused == refused {
                    return false;
                }
                self.refused = refused;
                true
            }
        }
    }

    /// Whether there is something to say, if only that the API server refuses.
    pub(super) fn are_read(&self) -> bool {
        self.labels.is_listed() || self.refused.is_some()
    }

    /// What the specification of a pool selects; `None`: it has no selector.
    pub(super) fn selected(&self, spec: &Value) -> Option<SelectedNamespaces> {
        let selector = selector(spec)?;
        if !self.labels.is_listed() {
            let refused = self.refused.clone();
            let reason = refused
                .unwrap_or_else(|| "the API server has not said yet which namespaces there are".to_owned());
            return Some(SelectedNamespaces::Unknown(reason));
        }
        let is_selected =
            |labels: &Labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let names: BTreeSet<String> = self
            .labels
            .iter()
            .filter(|(_, labels)| is_selected(labels))
            .map(|(name, _)| name.clone())
            .collect();
        if names.len() > SelectedNamespaces::MAX {
            let (count, most) = (names.len(), SelectedNamespaces::MAX);
            let reason = format!(
                "it selects {count} namespaces, and a node takes {most}: leave it out, or select fewer"
            );
            return Some(SelectedNamespaces::Unknown(reason));
        }
        Some(SelectedNamespaces::Names(names))
    }
}

/// The labels by which a pool selects namespaces.
pub(super) fn selector(spec: &Value) -> Option<BTreeMap<String, String>> {
    let labels = spec["namespaceSelector"].as_object()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(labels.iter().map(|(key, value)| (key.clone(), text(value))).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(name: &str, labels: &Value) -> PartialObjectMeta<Namespace> {
        serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).unwrap()
    }

    fn names(namespaces: &Namespaces, spec: &Value) -> Vec<String> {
        match namespaces.selected(spec) {
            Some(SelectedNamespaces::Names(names)) => names.into_iter().collect(),
            other => panic!("{other:?}"),
        }
    }

    fn unknown(namespaces: &Namespaces, spec: &Value) -> String {
        match namespaces.selected(spec) {
            Some(SelectedNamespaces::Unknown(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_labels_of_the_selector_are_wanted() {
        let spec = json!({ "namespaceSelector": { "team": "a", "env": "prod" } });
        let mut namespaces = Namespaces::default();
        assert_eq!(namespaces.selected(&json!({ "subnets": [] })), None);
        assert!(unknown(&namespaces, &spec).contains("has not said yet"));
        for event in [
            Event::Init,
            Event::InitApply(namespace("both", &json!({ "team": "a", "env": "prod", "more": "" }))),
            Event::InitApply(namespace("one", &json!({ "team": "a", "env": "test" }))),
            Event::InitApply(namespace("none", &Value::Null)),
        ] {
            assert!(!namespaces.apply(Ok(event)));
        }
        assert!(!namespaces.are_read() && namespaces.apply(Ok(Event::InitDone)) && namespaces.are_read());
        assert_eq!(names(&namespaces, &spec), ["both"]);
        let labelled = namespace("one", &json!({ "team": "a", "env": "prod" }));
        assert!(namespaces.apply(Ok(Event::Apply(labelled.clone()))));
        assert!(!namespaces.apply(Ok(Event::Apply(labelled))), "nothing new");
        assert_eq!(names(&namespaces, &spec), ["both", "one"]);
        assert!(namespaces.apply(Ok(Event::Delete(namespace("both", &Value::Null)))));
        assert_eq!(names(&namespaces, &spec), ["one"]);
    }

    #[test]
    fn who_may_not_list_them_says_so() {
        let spec = json!({ "namespaceSelector": { "team": "a" } });
        let mut namespaces = Namespaces::default();
        let refused = |code| {
            let status = kube::core::Status { code, ..kube::core::Status::default() };
            Err(watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status))))
        };
        assert!(!namespaces.apply(refused(500)) && !namespaces.are_read());
        assert!(namespaces.apply(refused(403)) && namespaces.are_read());
        assert!(unknown(&namespaces, &spec).contains("may not list namespaces"));
        assert!(!namespaces.apply(refused(403)), "it is said once");
        assert!(namespaces.apply(Ok(Event::Init)) && namespaces.apply(Ok(Event::InitDone)));
        assert_eq!(names(&namespaces, &spec), [""; 0]);
    }

    #[test]
    fn too_many_are_not_sent() {
        let spec = json!({ "namespaceSelector": { "team": "a" } });
        let mut namespaces = Namespaces::default();
        namespaces.apply(Ok(Event::InitDone));
        for number in 0..=SelectedNamespaces::MAX {
            let labelled = namespace(&format!("n{number}"), &json!({ "team": "a" }));
            namespaces.apply(Ok(Event::Apply(labelled)));
        }
        assert!(unknown(&namespaces, &spec).contains("a node takes 10000"));
    }
}
