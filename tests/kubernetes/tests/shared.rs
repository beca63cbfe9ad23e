//! The cluster of all trials.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use k8slan_kubernetes_tests::{Cluster, Multus, audits_of_the_ended, failed};
use serde_json::Value;
use testnet::{Outcome, Stop, Trial};

/// How many nodes it has: a LAN's pods on two, and a third that has none of them.
const WORKERS: u8 = 3;

enum State {
    Down,
    Up(Box<Cluster>),
    /// Why it does not start. It is not tried again and again.
    Broken(String),
}

static SHARED: RwLock<State> = RwLock::new(State::Down);

/// Held by who has another cluster than the shared one.
static OTHERS: RwLock<()> = RwLock::new(());

/// A trial that leaves alone what is not its own.
pub(crate) fn beside(name: &'static str, body: fn(&Cluster) -> Outcome) -> Trial {
    testnet::test(name, move || {
        loop {
            let shared = SHARED.read().unwrap_or_else(PoisonError::into_inner);
            match &*shared {
                State::Up(cluster) => return told(cluster, name, body(cluster)),
                State::Broken(why) => return Err(failed(why)),
                State::Down => {}
            }
            drop(shared);
            bring_up(&mut SHARED.write().unwrap_or_else(PoisonError::into_inner))?;
        }
    })
}

/// A trial that has the cluster for itself. If it fails, the next one gets a new cluster.
pub(crate) fn alone(name: &'static str, body: fn(&mut Cluster) -> Outcome) -> Trial {
    testnet::test(name, move || {
        let mut shared = SHARED.write().unwrap_or_else(PoisonError::into_inner);
        bring_up(&mut shared)?;
        let State::Up(cluster) = &mut *shared else { return Err(failed("no cluster")) };
        let outcome = body(cluster);
        let outcome = told(cluster, name, outcome);
        if outcome.is_err() {
            *shared = State::Down;
        }
        outcome
    })
}

/// A trial on a cluster of its own, without k8slan, while there is no other.
pub(crate) fn apart(name: &'static str, body: fn(&Cluster) -> Outcome) -> Trial {
    testnet::test(name, move || apart_on(name, multus, body))
}

/// What a trial does on a cluster of its own with this Multus, without k8slan, while there is no other.
pub(crate) fn apart_on(
    name: &str,
    multus: fn(u8) -> Multus,
    body: impl FnOnce(&Cluster) -> Outcome,
) -> Outcome {
    let mut shared = SHARED.write().unwrap_or_else(PoisonError::into_inner);
    if matches!(*shared, State::Up(_)) {
        *shared = State::Down;
    }
    let cluster = Cluster::start(&[multus(1), multus(2)])?;
    told(&cluster, name, body(&cluster))
}

/// What a trial does on a small cluster of its own, without k8slan, beside the others.
pub(crate) fn elsewhere(name: &str, body: impl FnOnce(&Cluster) -> Outcome) -> Outcome {
    let _others = OTHERS.read().unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster::start(&[multus(1)])?;
    told(&cluster, name, body(&cluster))
}

/// A trial that reads the audit logs of all clusters there were, when nobody has one any more.
pub(crate) fn after_all(name: &'static str, body: fn(&[Vec<Value>]) -> Outcome) -> Trial {
    testnet::test(name, move || {
        let shared = SHARED.write().unwrap_or_else(PoisonError::into_inner);
        let _others = OTHERS.write().unwrap_or_else(PoisonError::into_inner);
        let mut audits = audits_of_the_ended();
        if let State::Up(cluster) = &*shared {
            audits.push(cluster.audit()?);
        }
        body(&audits)
    })
}

fn bring_up(state: &mut State) -> Outcome {
    match state {
        State::Up(_) => Ok(()),
        State::Broken(why) => Err(failed(why)),
        State::Down => match with_k8slan() {
            Ok(cluster) => {
                *state = State::Up(Box::new(cluster));
                Ok(())
            }
            Err(Stop::Failed(why)) => {
                *state = State::Broken(format!("the cluster does not start: {why}"));
                Err(Stop::Failed(why))
            }
            Err(skipped) => Err(skipped),
        },
    }
}

/// As `install/README.md` says it for machines without a registry: the image is imported on each node.
fn with_k8slan() -> Result<Cluster, Stop> {
    let cluster = Cluster::start(&(1..=WORKERS).map(multus).collect::<Vec<_>>())?;
    told(&cluster, "start", install(&cluster))?;
    Ok(cluster)
}

/// What the README applies where there is no registry, in this order.
pub(crate) const FILES: [&str; 2] = ["install/crds.yaml", "install/k8slan.yaml"];

/// As `install/README.md` says it.
pub(crate) fn install(cluster: &Cluster) -> Outcome {
    for file in FILES {
        cluster.kubectl(&format!("apply -f {file}"))?;
    }
    cluster.kubectl("-n k8slan-system rollout status daemonset/k8slan-ds --timeout=240s").map(drop)
}

/// `MULTUS` names the real one: a program, which is the thin plugin, or a folder with the image and the manifest of the
/// thick one. Without it, it is played: on `worker1` the thin one, on the others the thick one, or on all of them the one
/// that `MULTUS` says, `thin` or `thick`.
pub(crate) fn multus(worker: u8) -> Multus {
    let played = || PathBuf::from(env!("CARGO_BIN_EXE_played-multus"));
    match std::env::var_os("MULTUS") {
        None if worker == 1 => Multus::Thin(played()),
        None => Multus::Thick(played()),
        Some(name) if name == "thin" => Multus::Thin(played()),
        Some(name) if name == "thick" => Multus::Thick(played()),
        Some(path) if Path::new(&path).is_dir() => Multus::Deployed(path.into()),
        Some(path) => Multus::Thin(path.into()),
    }
}

/// The thick one on each node: that of [`multus`], or the played one in the place of a thin one.
pub(crate) fn thick(worker: u8) -> Multus {
    match multus(worker) {
        Multus::Thin(_) => Multus::Thick(PathBuf::from(env!("CARGO_BIN_EXE_played-multus"))),
        thick => thick,
    }
}

/// Keeps what is known of a failure.
pub(crate) fn told(cluster: &Cluster, name: &str, outcome: Outcome) -> Outcome {
    match outcome {
        Err(Stop::Failed(why)) => {
            let folder = cluster.save_logs(name);
            Err(failed(format!("{why}\nthe cluster's logs are in {}", folder.display())))
        }
        other => other,
    }
}
