//! `POST /pools/<name>/claim`: `ipam-pool` asks for addresses of a pool of the cluster, and waits until the node has some.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Incoming};
use hyper::{Request, StatusCode};
use net_types::{Addr, Family};
use node::is_kubernetes_name;
use pool_blocks::ClaimUser;
use serde::Deserialize;
use tokio::sync::Semaphore;

/// How many claims may wait at once.
pub const MAX_CLAIMS: usize = 256;
/// The longest name of an owner, in bytes: three names of Kubernetes.
const MAX_OWNER: usize = 3 * 256;
/// The longest name of a pod with its namespace, in bytes.
const MAX_POD: usize = 2 * 256;
/// The longest body of a claim, in bytes.
const MAX_BODY: usize = 4 << 10;

/// What is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolClaim {
    pub pool: String,
    pub family: Family,
    /// The address that is needed, and no other.
    pub address: Option<Addr>,
    /// Who needs it, on whatever node it is.
    pub owner: Option<FloatingOwner>,
    /// The pod, `<namespace>/<name>`, where it is known: for messages.
    pub pod: Option<String>,
}

/// Whose floating address is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloatingOwner {
    /// As in [`node::FloatingGrant`].
    pub name: String,
    /// Whether one is made where it has none; what is reserved is made by somebody else.
    pub create: bool,
    /// Whether the owner may be on another node as well.
    pub shared: bool,
    /// Where it is an `IPAMClaim`: who asks by it.
    pub user: Option<ClaimUser>,
}

/// What becomes of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimAnswer {
    /// The node may hand out more addresses of the pool than before.
    Granted,
    /// The pool cannot give any, and why.
    Refused(String),
    /// It may be able to later, and what it waits for.
    Later(String),
}

/// Who answers claims.
pub trait PoolClaims: Send + Sync + 'static {
    /// Waits until the claim is decided. It is given up when the future is dropped.
    fn claim(&self, claim: PoolClaim) -> impl Future<Output = ClaimAnswer> + Send;
}

/// A node without a cluster.
pub struct NoCluster;

impl PoolClaims for NoCluster {
    async fn claim(&self, claim: PoolClaim) -> ClaimAnswer {
        ClaimAnswer::Refused(format!("there is no cluster whose pool {} could be", claim.pool))
    }
}

/// The body of a claim.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimBody {
    family: Family,
    address: Option<Addr>,
    owner: Option<String>,
    #[serde(default)]
    create: bool,
    #[serde(default)]
    shared: bool,
    pod: Option<String>,
    user: Option<ClaimUser>,
}

impl PoolClaim {
    /// Parses a claim of a pool; the error is a sentence.
    fn parse(pool: &str, body: &[u8]) -> Result<Self, String> {
        if !is_kubernetes_name(pool) {
            return Err(format!("{:?} is not the name of a pool", crate::brief(pool, 63)));
        }
        let expected =
            r#"{"family": "v4" or "v6", "address"?, "owner"?, "create"?, "shared"?, "user"?, "pod"?}"#;
        let ClaimBody { family, address, owner, create, shared, user, pod } =
            serde_json::from_slice(body).map_err(|error| format!("expected {expected}: {error}"))?;
        if let Some(owner) = owner.as_ref().filter(|owner| owner.len() > MAX_OWNER) {
            return Err(format!("the owner {:?} is too long", crate::brief(owner, 63)));
        }
        let owner = owner.map(|name| FloatingOwner { name, create, shared, user });
        if let Some(address) = address.filter(|address| address.family() != family) {
            return Err(format!("{address} is not an address of the claim's family"));
        }
        let pod = pod.map(|pod| crate::brief(&pod, MAX_POD));
        Ok(Self { pool: pool.to_owned(), family, address, owner, pod })
    }
}

/// The pool that a path claims of.
pub(super) fn claimed_pool(path: &str) -> Option<&str> {
    path.strip_prefix("/pools/")?.strip_suffix("/claim").filter(|pool| !pool.contains('/'))
}

/// Answers a claim. At most [`MAX_CLAIMS`] wait, apart from other requests.
pub(super) async fn answer(
    pool: &str,
    request: Request<Incoming>,
    claims: &impl PoolClaims,
    waiting: Arc<Semaphore>,
) -> (StatusCode, String) {
    let Ok(_permit) = waiting.try_acquire() else {
        let text = format!("{MAX_CLAIMS} claims wait already\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text);
    };
    let claim = match read(request.into_body()).await.and_then(|body| PoolClaim::parse(pool, &body)) {
        Ok(claim) => claim,
        Err(reason) => return (StatusCode::BAD_REQUEST, format!("{reason}\n")),
    };
    match claims.claim(claim).await {
        ClaimAnswer::Granted => (StatusCode::OK, "granted\n".to_owned()),
        ClaimAnswer::Refused(reason) => (StatusCode::CONFLICT, format!("{reason}\n")),
        ClaimAnswer::Later(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn read<B: Body>(body: B) -> Result<Vec<u8>, String>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = tokio::time::timeout(super::IDLE_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    let body = read.map_err(|_| "the claim did not arrive".to_owned())?;
    Ok(body.map_err(|error| format!("the claim cannot be read: {error}"))?.to_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_parsed() {
        let claim = PoolClaim::parse("office", br#"{"family":"v4","address":"10.0.0.5"}"#).unwrap();
        assert_eq!((claim.family, claim.address.unwrap().to_string()), (Family::V4, "10.0.0.5".to_owned()));
        assert_eq!(PoolClaim::parse("office", br#"{"family":"v6"}"#).unwrap().address, None);
        let of_pod = PoolClaim::parse("office", br#"{"family":"v6","pod":"default/web"}"#).unwrap();
        assert_eq!(of_pod.pod.as_deref(), Some("default/web"));
        let user =
            r#"{"family":"v4","owner":"claim:a/web.lan/lan","create":true,"user":{"interface":"net1"}}"#;
        let owner = PoolClaim::parse("office", user.as_bytes()).unwrap().owner.unwrap();
        assert_eq!(owner.user.unwrap(), ClaimUser { interface: "net1".to_owned(), machine: None });
        for (pool, body) in [
            ("..", r#"{"family":"v4"}"#),
            ("office", ""),
            ("office", r#"{"family":"v5"}"#),
            ("office", r#"{"family":"v4","count":7}"#),
            ("office", r#"{"family":"v6","address":"10.0.0.5"}"#),
        ] {
            assert!(PoolClaim::parse(pool, body.as_bytes()).is_err(), "{pool} {body}");
        }
        assert_eq!(claimed_pool("/pools/office/claim"), Some("office"));
        for path in ["/pools/a/b/claim", "/pools/claim", "/pools/a", "/claim"] {
            assert_eq!(claimed_pool(path), None, "{path}");
        }
    }
}
