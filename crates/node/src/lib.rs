//! What every k8slan program on a node shares, without network calls: the folders ([`Paths`], [`NodeConfig`]), how
//! records are read and written ([`SafeDir`]), the owner of links and leases and whether it exists ([`Attachment`]),
//! whether a VM's guest uses an interface ([`Occupant`]) or a StatefulSet made the pod ([`SetMembership`]), which `IPAMClaim` it names
//! ([`NamedClaim`]), and locks between programs ([`Lock`]).

mod attachment;
mod attachment_lock;
mod claim_record;
mod cluster_pools;
mod columns;
mod config;
mod guest;
mod leftovers;
mod lock;
mod name;
mod one_line;
mod output;
mod pod_record;
mod policy;
mod room;
mod root;
mod safe_dir;
mod stateful_set;
mod underlays;
mod without_value;
mod yaml_message;

pub use attachment::{
    ADDRESS_PROTOCOL, Attachment, LINK_GROUP, NETNS_DIR, NetnsRef, NetworkId, Pod, TagError, lan_tag,
    parse_lan_tag,
};
pub use attachment_lock::AttachmentLock;
pub use claim_record::{ClaimRecord, NamedClaim};
pub use cluster_pools::{
    BlockLength, ClusterPool, ClusterPoolError, FloatingGrant, Grant, Grants, Reserved, SelectedNamespaces,
};
pub use columns::columns;
pub use config::{ConfigError, NodeConfig, Paths};
pub use guest::{Binding, GuestError, Occupant, Role, VmRecord, is_kubernetes_name};
pub use lock::{Lock, LockError};
pub use name::tell_name;
pub use one_line::one_line;
pub use output::print;
pub use pod_record::{PodRecord, PodRecordError};
pub use policy::{Policy, PolicyError, Resource};
pub use room::{NoRoom, check_room};
pub use root::is_root;
pub use safe_dir::{Durability, SafeDir, SafeDirError, read_regular, read_through_links};
pub use stateful_set::{SetMembership, SetRecord, has_ordinal};
pub use underlays::{Underlay, Underlays, UnderlaysError};
pub use without_value::KeysWithoutValue;
pub use yaml_message::yaml_message;
