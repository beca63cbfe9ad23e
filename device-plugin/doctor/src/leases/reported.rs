//! What `ipam-pool leases --json` prints.

use serde::Deserialize;

use super::view::LeaseView;

/// An address that is leased, kept, resting or in quarantine.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reported {
    address: String,
    pool: Option<String>,
    network: Option<String>,
    state: String,
    /// `<namespace>/<pod>/<network>`, or `vm:<namespace>/<name>/<network>`.
    owner: Option<String>,
    #[serde(default)]
    holders: Vec<Holder>,
    mac: Option<String>,
    age_seconds: Option<u64>,
    quarantine_seconds: Option<u64>,
    note: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Holder {
    attachment: Attachment,
    /// `<namespace>/<name>`
    pod: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Attachment {
    container: String,
    interface: String,
}

impl Reported {
    /// A view for each attachment that holds the address, or one if none does.
    pub(super) fn views(self, node: &str) -> Vec<LeaseView> {
        let owner = self.owner.as_deref().and_then(owner);
        let of_owner = LeaseView {
            address: self.address,
            pool: self.pool,
            network: self.network,
            node: node.to_owned(),
            state: self.state,
            namespace: owner.as_ref().map(|owner| owner.namespace.to_owned()),
            kind: owner.as_ref().map(|owner| owner.kind.to_owned()),
            name: owner.as_ref().map(|owner| owner.name.to_owned()),
            mac: self.mac,
            age_seconds: self.age_seconds,
            quarantine_seconds: self.quarantine_seconds,
            note: self.note,
            ..LeaseView::default()
        };
        if self.holders.is_empty() {
            return vec![of_owner];
        }
        let held = self.holders.into_iter().map(|holder| {
            let mut view = of_owner.clone();
            let pod = holder.pod.as_deref().and_then(|pod| pod.split_once('/'));
            if let (None, Some((namespace, name))) = (&view.name, pod) {
                view.namespace = Some(namespace.to_owned());
                view.kind = Some("pod".to_owned());
                view.name = Some(name.to_owned());
            }
            view.pod = pod.map(|(_, name)| name.to_owned());
            view.interface = Some(holder.attachment.interface);
            view.container = Some(holder.attachment.container);
            view
        });
        held.collect()
    }
}

struct Owner<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
}

fn owner(text: &str) -> Option<Owner<'_>> {
    let (kind, rest) = match text.split_once(':') {
        Some(("vm", rest)) => ("vm", rest),
        Some(("claim", rest)) => ("claim", rest),
        Some(("pod", rest)) => ("pod", rest),
        _ => ("pod", text),
    };
    let mut parts = rest.split('/');
    let (namespace, name) = (parts.next()?, parts.next()?);
    Some(Owner { kind, namespace, name })
}
