use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};

use super::desired::{DefinitionRequest, desired};
use super::k8slan_go::{self, K8slanGoDefinitions};
use super::{NetAttachDef, is_current, is_ours, of_lan, resource};
use crate::ignore_not_found_or_conflict;
use crate::lan_object::{self, StoredLan, is_refused, uid};
use crate::stores::{ObjectKey, ObjectStore};

/// Makes and deletes definitions, so that every LAN has those that it asks for.
pub(crate) struct DefinitionKeeper {
    client: Client,
    /// Whether to make the definitions that k8slan (Go) would make.
    pub(crate) k8slan_go: bool,
}

/// What all LANs together ask for.
#[derive(Default)]
struct Wanted {
    /// Each with its LAN.
    definitions: BTreeMap<ObjectKey, (ObjectKey, NetAttachDef)>,
    /// Those among them that k8slan (Go) made, that nobody has changed since, and that are taken over.
    adopted: BTreeSet<ObjectKey>,
    /// By LAN that asks for definitions: those that cannot be made, as texts.
    problems: BTreeMap<ObjectKey, Vec<String>>,
}

impl DefinitionKeeper {
    pub(crate) const fn new(client: Client) -> Self {
        Self { client, k8slan_go: false }
    }

    /// Makes the definitions that LANs ask for, and deletes those that none asks for. Returns by LAN which could not be
    /// made.
    pub(crate) async fn reconcile(
        &self,
        lans: &BTreeMap<ObjectKey, Arc<StoredLan>>,
        store: &mut ObjectStore<NetAttachDef>,
    ) -> Result<BTreeMap<ObjectKey, Vec<String>>, kube::Error> {
        let Wanted { definitions, adopted, mut problems } = self.wanted(lans, store);
        if !store.is_listed() {
            return Ok(problems);
        }
        for (object_key, unwanted) in store.all() {
            if !is_ours(&unwanted) || definitions.contains_key(&object_key) {
                continue;
            }
            tracing::info!(definition = ?object_key, lan = of_lan(&unwanted), "deletes a NetworkAttachmentDefinition that no LAN asks for");
            let gone = self.api(&object_key.0).delete(&object_key.1, &DeleteParams::default()).await;
            ignore_not_found_or_conflict(gone)?;
            store.remove(&unwanted);
        }
        for (object_key, (lan, definition)) in definitions {
            let is_adopted = adopted.contains(&object_key);
            if let Some(problem) = self.write(&object_key, &definition, is_adopted, store).await? {
                problems.entry(lan).or_default().push(problem);
            }
        }
        Ok(problems)
    }

    fn wanted(
        &self,
        lans: &BTreeMap<ObjectKey, Arc<StoredLan>>,
        store: &ObjectStore<NetAttachDef>,
    ) -> Wanted {
        let mut wanted = Wanted::default();
        let mut k8slan_go_definitions = K8slanGoDefinitions::default();
        for (key, lan) in lans {
            let Some(spec) = lan.spec.valid() else { continue };
            let Ok(lan_key) = lan_object::key(&lan.metadata) else { continue };
            // Of two LANs that list a spoke, the accepted one has it, and its definition.
            if lan.metadata.deletion_timestamp.is_some() || is_refused(lan) {
                continue;
            }
            if self.k8slan_go {
                k8slan_go_definitions.add(&lan_key, uid(&lan.metadata), spec);
            }
            let Some(asked) = &spec.network_attachments else { continue };
            let request = DefinitionRequest {
                key: &lan_key,
                uid: uid(&lan.metadata),
                spokes: &spec.spokes,
                allowed: spec.allowed_namespaces.as_deref(),
                asked,
            };
            let mut definitions = desired(&request);
            if !store.is_listed() {
                let why = "NetworkAttachmentDefinitions cannot be listed: is Multus installed, and may k8slan read them?";
                definitions.problems.push(why.to_owned());
            }
            wanted.problems.insert(key.clone(), definitions.problems);
            for (object_key, definition) in definitions.objects {
                wanted.definitions.entry(object_key).or_insert((key.clone(), definition));
            }
        }
        for (object_key, (key, definition)) in k8slan_go_definitions.definitions() {
            let there = store.get(&object_key).filter(|there| !is_ours(there));
            if let Some(there) = there.filter(|there| k8slan_go::is_made_for_lan(there, &definition)) {
                // A definition that somebody changed is kept; it is deleted with its LAN.
                if !k8slan_go::is_unchanged(&there, &definition) {
                    continue;
                }
                wanted.adopted.insert(object_key.clone());
            }
            wanted.definitions.entry(object_key).or_insert((key, definition));
        }
        wanted
    }

    /// Makes a definition, or gives it the wanted contents. Returns why that cannot be.
    async fn write(
        &self,
        object_key: &ObjectKey,
        wanted: &NetAttachDef,
        is_adopted: bool,
        store: &mut ObjectStore<NetAttachDef>,
    ) -> Result<Option<String>, kube::Error> {
        let (namespace, name) = object_key;
        let api = self.api(namespace);
        let result = match store.get(object_key).filter(|there| is_adopted || is_ours(there)) {
            Some(there) if is_current(&there, wanted) => return Ok(None),
            Some(_) => api.patch(name, &PatchParams::default(), &Patch::Merge(wanted)).await,
            None => api.create(&PostParams::default(), wanted).await,
        };
        match result {
            Ok(made) => store.insert(made),
            Err(kube::Error::Api(status)) if status.code == 409 => match self.get(object_key).await? {
                // The leader made it, and the watch has not reported it yet.
                Some(found) if is_ours(&found) => store.insert(found),
                _ => {
                    return Ok(Some(format!(
                        "{namespace}/{name} exists and is not k8slan's: it is left as it is; rename it, or the spoke"
                    )));
                }
            },
            Err(kube::Error::Api(status)) => {
                return Ok(Some(format!("{namespace}/{name}: {}", status.message)));
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// A definition as it is now. It is read as a list, because the daemon has the permission to list.
    async fn get(&self, (namespace, name): &ObjectKey) -> Result<Option<NetAttachDef>, kube::Error> {
        let list = ListParams::default().fields(&format!("metadata.name={name}"));
        Ok(self.api(namespace).list(&list).await?.items.into_iter().next())
    }

    fn api(&self, namespace: &str) -> Api<NetAttachDef> {
        Api::namespaced_with(self.client.clone(), namespace, &resource())
    }
}
