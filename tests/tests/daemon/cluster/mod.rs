//! The cluster's side of the daemon against an API server over real HTTP.
#![expect(clippy::unwrap_used, reason = "a test binary")]

mod claims;
mod daemon;
mod definitions;
mod events;
mod lans;
mod link;
mod mirror;
mod mirrored;
mod pools;
mod real_server;
mod rights;
mod scale;
mod site;
mod status;
mod sweep;
mod two_processes;
mod uninstall;
mod unreliable;

use std::process::ExitCode;

/// What this program does for a trial that started it again.
pub(crate) fn child() -> Option<ExitCode> {
    two_processes::child()
}

pub(crate) fn trials() -> Vec<testnet::Trial> {
    let mut trials = mirror::trials();
    trials.extend(status::trials());
    trials.extend(definitions::trials());
    trials.extend(events::trials());
    trials.extend(daemon::trials());
    trials.extend(lans::trials());
    trials.extend(two_processes::trials());
    trials.extend(link::trials());
    trials.extend(sweep::trials());
    trials.extend(rights::trials());
    trials.extend(uninstall::trials());
    trials.extend(unreliable::trials());
    trials.extend(scale::trials());
    trials.extend(pools::trials());
    trials.extend(claims::trials());
    trials.extend(real_server::trials());
    trials
}

/// Makes a check of a trial: what is not so is its failure.
macro_rules! check {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(testnet::Stop::Failed(format!($($text)+)));
        }
    };
}
pub(crate) use check;

/// What runs against an API server, on a runtime of its own; dropping it ends everything.
pub(crate) struct Background(Option<tokio::runtime::Runtime>);

impl Background {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self(Some(runtime.expect("a runtime")))
    }

    pub(crate) fn runtime(&self) -> &tokio::runtime::Runtime {
        self.0.as_ref().expect("it runs")
    }

    pub(crate) fn client(&self, url: &str) -> kube::Client {
        let _inside = self.runtime().enter();
        let mut config = kube::Config::new(url.parse().expect("a URL"));
        config.read_timeout = None;
        kube::Client::try_from(config).expect("a client")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}
