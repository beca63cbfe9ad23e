//! Pools of the cluster: what this node may hand out of one, and how it gets more.
//!
//! The daemon's node part grants addresses in a file ([`Grants`]), which changes under the lock of the pool's store alone, and
//! claims more when it is asked on its socket.

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use net_types::{Addr, AddrSet, Family};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use node::{ClusterPoolError, FloatingGrant, Grants, Paths, SafeDir};
use serde::Serialize;

use crate::Millis;

/// The socket of the daemon's node part, in the run folder.
const SOCKET: &str = "agent.sock";
/// How long an ADD waits for addresses, over all of its questions.
const PATIENCE: Duration = Duration::from_secs(25);
/// How often an ADD asks the same: each time others may have been quicker, and each time the node may claim a block for it.
const MAX_ASKED: usize = 4;
/// The longest answer, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

/// The blocks of a pool of the cluster that this node has.
#[derive(Clone, Debug)]
pub struct Blocks {
    pool: String,
    grants: PathBuf,
    socket: PathBuf,
}

/// What may be handed out now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    grants: Vec<node::Grant>,
    floating: Vec<FloatingGrant>,
    all: AddrSet,
}

/// Whose address follows it over nodes, and is nobody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloatingOwner {
    /// As in [`node::FloatingGrant`].
    pub name: String,
    /// Whether it gets one if it has none; what is reserved, the daemons make.
    pub create: bool,
    /// Whether it may be on another node as well: a virtual machine is while it migrates.
    pub shared: bool,
    /// Where it is an `IPAMClaim`: the pod that names it.
    pub user: Option<ClaimUser>,
}

/// The pod that names an `IPAMClaim`, which the cluster's part compares with what the claim says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimUser {
    pub interface: String,
    /// The virtual machine that it runs, as the daemon's record says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// What the daemon is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub(crate) family: Family,
    /// This address and no other.
    pub(crate) address: Option<Addr>,
    /// The address of this owner.
    pub(crate) owner: Option<FloatingOwner>,
}

/// Why a pool of the cluster gives no address now. All end by themselves, or by what they say.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum BlockError {
    #[error("pool {pool:?} of the cluster has no address for this pod now: {reason}")]
    Refused { pool: String, reason: String },
    #[error(
        "this node has no free address of pool {pool:?} and cannot ask for more: the daemon does not answer on {socket:?}. It \
         runs in the DaemonSet k8slan of the namespace k8slan-system"
    )]
    NoDaemon { pool: String, socket: PathBuf, source: std::io::Error },
    #[error(
        "pool {0:?} of the cluster: the daemon said that there are more addresses, and others had them first"
    )]
    Overtaken(String),
    #[error(
        "{address} of pool {pool:?} was not given out, since this node may use it no longer: it could not ask the API server for too \
         long, or another node has the block"
    )]
    Expired { pool: String, address: Addr },
    #[error("the address of {} in pool {pool:?} is not known on this node yet", owner.name)]
    NotJoined { pool: String, owner: FloatingOwner, question: Box<Question> },
    #[error("cannot tell what this node may hand out of pool {0:?}")]
    Read(String, #[source] ClusterPoolError),
    #[error("cannot tell which boot this is")]
    BootId(#[source] std::io::Error),
}

impl Blocks {
    pub(crate) fn new(paths: &Paths, pool: &str) -> Self {
        Self { pool: pool.to_owned(), grants: paths.grants(), socket: paths.run().join(SOCKET) }
    }

    /// What may be handed out now. The caller has the lock of the pool's store.
    pub(crate) fn held(&self) -> Result<Held, BlockError> {
        let failed = |error| BlockError::Read(self.pool.clone(), error);
        let folder = SafeDir::open(&self.grants).map_err(|error| failed(error.into()))?;
        let Some(folder) = folder else { return Ok(Held::default()) };
        let Some(read) = Grants::read(&folder, &self.pool).map_err(failed)? else {
            return Ok(Held::default());
        };
        if read.boot_id != crate::store::boot_id().map_err(BlockError::BootId)? {
            return Ok(Held::default());
        }
        let now = Millis::now();
        let grants: Vec<_> = read.grants.into_iter().filter(|grant| Millis(grant.until) > now).collect();
        let floating = read.floating.into_iter().filter(|grant| Millis(grant.until) > now).collect();
        Ok(Held { floating, ..Held::of(grants) })
    }

    /// That an owner's address is to be asked for.
    pub(crate) fn not_joined(
        &self,
        owner: &FloatingOwner,
        family: Family,
        address: Option<Addr>,
    ) -> BlockError {
        let question = Question { family, address, owner: Some(owner.clone()) }.into();
        BlockError::NotJoined { pool: self.pool.clone(), owner: owner.clone(), question }
    }

    /// That this address may not be given out any more.
    pub(crate) fn expired(&self, address: Addr) -> BlockError {
        BlockError::Expired { pool: self.pool.clone(), address }
    }

    /// Asks for a pod, `<namespace>/<name>` as far as it is known, until `deadline`. The caller has no lock.
    ///
    /// # Errors
    /// There is no more.
    pub(crate) fn claim(
        &self,
        asked: &Question,
        pod: Option<&str>,
        deadline: &mut Deadline,
    ) -> Result<(), BlockError> {
        let mut question = serde_json::json!({ "family": asked.family });
        if let Some(pod) = pod {
            question["pod"] = pod.into();
        }
        if let Some(address) = asked.address {
            question["address"] = address.to_string().into();
        }
        if let Some(owner) = &asked.owner {
            question["owner"] = owner.name.clone().into();
            question["create"] = owner.create.into();
            question["shared"] = owner.shared.into();
            if let Some(user) = &owner.user {
                question["user"] = serde_json::json!(user);
            }
        }
        let left = deadline.ask(asked).ok_or_else(|| BlockError::Overtaken(self.pool.clone()))?;
        let (status, text) = self.ask(&question.to_string(), left).map_err(|source| {
            BlockError::NoDaemon { pool: self.pool.clone(), socket: self.socket.clone(), source }
        })?;
        match status {
            200 => Ok(()),
            _ => Err(BlockError::Refused { pool: self.pool.clone(), reason: node::one_line(text.trim()) }),
        }
    }

    /// One request over HTTP/1.1: the status, and the body.
    fn ask(&self, question: &str, timeout: Duration) -> std::io::Result<(u16, String)> {
        let mut stream = connect(&self.socket, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        let (pool, length) = (&self.pool, question.len());
        let head = format!(
            "POST /pools/{pool}/claim HTTP/1.1\r\nhost: k8slan\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        );
        stream.write_all(format!("{head}{question}").as_bytes())?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
        let invalid = || std::io::Error::other("the answer is not HTTP");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(invalid)?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or_else(invalid)?;
        Ok((status, body.to_owned()))
    }
}

/// Connects within a time limit, which holds for writing as well: where the other side accepts nothing, its queue gets full.
fn connect(path: &Path, timeout: Duration) -> std::io::Result<UnixStream> {
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let timeout =
        TimeVal::new(i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX), timeout.subsec_micros().into());
    socket::setsockopt(&socket, sockopt::SendTimeout, &timeout)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

impl Held {
    pub(crate) fn of(grants: Vec<node::Grant>) -> Self {
        let all = AddrSet::union(grants.iter().flat_map(|grant| grant.addresses.iter()));
        Self { grants, floating: Vec::new(), all }
    }

    /// The owner's address of a family.
    pub(crate) fn floating(&self, owner: &FloatingOwner, family: Family) -> Option<Addr> {
        let mut own = self.floating.iter().filter(|grant| grant.owner == owner.name);
        own.find(|grant| grant.address.family() == family).map(|grant| grant.address)
    }

    /// The addresses that any pod may have.
    pub(crate) fn addresses(&self) -> &AddrSet {
        &self.all
    }

    /// Whether a pod may have this address: any, or its owner's.
    pub(crate) fn has(&self, address: Addr) -> bool {
        self.all.contains(address) || self.floating.iter().any(|grant| grant.address == address)
    }

    /// Whether an address may still be handed out.
    pub(crate) fn is_valid(&self, address: Addr) -> bool {
        let now = Millis::now();
        self.grants.iter().any(|grant| grant.addresses.contains(address) && Millis(grant.until) > now)
            || self.floating.iter().any(|grant| grant.address == address && Millis(grant.until) > now)
    }
}

impl Question {
    /// For one of these addresses.
    pub(crate) fn any_of(wanted: &AddrSet) -> Option<Self> {
        let first = wanted.iter().next()?.first();
        let address = (wanted.len() == 1).then_some(first);
        Some(Self { family: first.family(), address, owner: None })
    }
}

/// Until when an ADD asks for addresses, and what it asked.
#[derive(Debug)]
pub(crate) struct Deadline {
    end: Instant,
    asked: Vec<Question>,
}

impl Deadline {
    pub(crate) fn new() -> Self {
        Self { end: Instant::now() + PATIENCE, asked: Vec::new() }
    }

    /// How long the answer may take; `None`: it is not to be asked any more.
    fn ask(&mut self, question: &Question) -> Option<Duration> {
        if self.asked.iter().filter(|asked| *asked == question).count() >= MAX_ASKED {
            return None;
        }
        self.asked.push(question.clone());
        self.end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_accepts_nothing_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let listener =
            socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
        let limit = Duration::from_millis(20);
        let full = (0..10).map(|_| connect(&path, limit)).collect::<Vec<_>>();
        let kinds: Vec<_> = full.into_iter().filter_map(Result::err).map(|error| error.kind()).collect();
        assert!(kinds.contains(&std::io::ErrorKind::WouldBlock), "{kinds:?}");
    }
}
