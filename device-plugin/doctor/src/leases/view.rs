use net_types::Addr;
use node::columns;
use serde::{Deserialize, Serialize};

/// An address and what one attachment, or nobody, has of it: a line of the table, an item of the JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LeaseView {
    pub(super) address: String,
    /// The pool; absent for a network's own ranges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pool: Option<String>,
    /// The network with ranges of its own; absent for a pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<String>,
    pub(super) node: String,
    /// `leased`, `kept`, `resting` or `quarantined`.
    pub(super) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    /// What the owner is, `pod` or `vm`; of a resting address, the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kind: Option<String>,
    /// The owner's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// The pod that holds it: of a virtual machine, the launcher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) interface: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) age_seconds: Option<u64>,
    /// The host that answered for an address in quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) quarantine_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
}

/// How many characters of a container's ID are shown.
const CONTAINER: usize = 13;

impl LeaseView {
    /// By pool, then by address; what is no address comes last.
    pub(super) fn order(&self) -> (bool, String, bool, Option<Addr>, String) {
        let address: Option<Addr> = self.address.parse().ok();
        (self.pool.is_none(), self.of(), address.is_none(), address, self.node.clone())
    }

    /// Whether it is of the pool of this name, or of the ranges of this network's own.
    pub(super) fn is_of(&self, name: &str) -> bool {
        [&self.pool, &self.network].into_iter().flatten().any(|of| of == name)
    }

    /// The pool, or the network that has ranges of its own.
    fn of(&self) -> String {
        match (&self.pool, &self.network) {
            (Some(pool), _) => pool.clone(),
            (None, Some(network)) => format!("network {network}"),
            (None, None) => String::new(),
        }
    }

    fn owner(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        Some(format!("{}/{name}", self.kind.as_deref().unwrap_or("pod")))
    }

    fn notes(&self) -> Option<String> {
        let launcher = self.pod.as_ref().filter(|pod| Some(*pod) != self.name.as_ref());
        let mut notes: Vec<String> = launcher.map(|pod| format!("pod {pod}")).into_iter().collect();
        notes.extend(self.mac.as_ref().map(|mac| format!("used by {mac}")));
        notes.extend(self.quarantine_seconds.map(|seconds| format!("for another {seconds} s")));
        notes.extend(self.note.clone());
        (!notes.is_empty()).then(|| notes.join(", "))
    }
}

/// The pools and networks of leases that are in order.
pub(super) fn pools(leases: &[LeaseView]) -> Vec<String> {
    let mut names: Vec<String> = leases.iter().map(LeaseView::of).collect();
    names.dedup();
    names
}

/// The table; `wide`: with ages, containers and notes.
pub(super) fn table(leases: &[LeaseView], wide: bool) -> String {
    let mut headings = vec!["ADDRESS", "POOL", "NODE", "NAMESPACE", "POD/VM", "INTERFACE", "STATE"];
    if wide {
        headings.extend(["AGE", "CONTAINER", "NOTE"]);
    }
    let mut rows = vec![headings.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    rows.extend(leases.iter().map(|lease| row(lease, wide)));
    columns(&rows, "   ")
}

fn row(lease: &LeaseView, wide: bool) -> Vec<String> {
    let cell = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mut row = vec![
        lease.address.clone(),
        lease.of(),
        lease.node.clone(),
        cell(lease.namespace.clone()),
        cell(lease.owner()),
        cell(lease.interface.clone()),
        lease.state.clone(),
    ];
    if wide {
        let container = lease.container.as_ref().map(|id| id.chars().take(CONTAINER).collect());
        row.extend([cell(lease.age_seconds.map(age)), cell(container), cell(lease.notes())]);
    }
    row
}

/// For example `3h12m`.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86400, seconds % 86400 / 3600),
    }
}
