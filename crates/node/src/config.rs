use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{KeysWithoutValue, Policy, SafeDir, SafeDirError, yaml_message};

/// The folders of the node. Fixed, unless `/etc/k8slan/node.yaml` names others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    run: PathBuf,
    state: PathBuf,
}

/// `/etc/k8slan/node.yaml`: what this node's administrator decides. The file and everything in it are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's name, for files that give each node its own part. Default: the name that the daemon runs under.
    pub node_name: Option<String>,
    /// Replaces `/run/k8slan` as the run folder.
    run_dir: Option<PathBuf>,
    /// Replaces `/var/lib/k8slan` as the state folder.
    state_dir: Option<PathBuf>,
    /// Makes the stable MAC addresses of pods and VMs others than those of a cluster with the same names on the same wire: any text, the same on all nodes of a cluster. Empty or absent: no difference. Changing it gives every pod and VM without a fixed address a new one.
    pub mac_seed: Option<String>,
    /// What pods may use, by their namespace; absent: whoever may write network configurations is a
    /// network administrator, and everything may be used.
    pub policy: Option<Policy>,
}

/// Why node.yaml cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its variant and its fields are")]
pub enum ConfigError {
    /// It cannot be read, or others than root may write it.
    #[error("cannot use the node's configuration")]
    Read(#[from] SafeDirError),
    #[error("{path:?} is not a valid node configuration: {message}")]
    Parse {
        path: PathBuf,
        /// What is wrong and in which line.
        message: String,
    },
}

const FOLDER: &str = "/etc/k8slan";
const FILE: &str = "node.yaml";

impl NodeConfig {
    /// Reads `/etc/k8slan/node.yaml`; without the file, everything has its default.
    ///
    /// # Errors
    /// A file that others than root could have written, a syntax error, an unknown key, a relative
    /// path.
    pub fn load() -> Result<Self, ConfigError> {
        let Some(dir) = SafeDir::open(Path::new(FOLDER))? else { return Ok(Self::default()) };
        let Some(bytes) = dir.read(FILE)? else { return Ok(Self::default()) };
        let failed = |message| ConfigError::Parse { path: dir.path().join(FILE), message };
        let text = String::from_utf8(bytes).map_err(|e| failed(e.to_string()))?;
        Self::parse(&text).map_err(failed)
    }

    /// Parses the file's text.
    ///
    /// # Errors
    /// A syntax error, an unknown key, a relative path.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.lines().all(|line| matches!(line.trim_start().chars().next(), None | Some('#'))) {
            return Ok(Self::default());
        }
        let keys = serde_saphyr::from_str::<KeysWithoutValue>(text).map(|keys| keys.message(Some("policy")));
        let config: Self = match (serde_saphyr::from_str(text), keys) {
            (Ok(config), Ok(None)) => config,
            (_, Ok(Some(message))) => return Err(message),
            (Err(error), _) | (Ok(_), Err(error)) => return Err(yaml_message(&error)),
        };
        for (key, dir) in [("runDir", &config.run_dir), ("stateDir", &config.state_dir)] {
            if dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
                return Err(format!("{key} must be an absolute path"));
            }
        }
        Ok(config)
    }

    /// The folders, for verbs that remove, which must not depend on the rest of the file: if it does not parse or is
    /// not trusted, its folders count as far as they are known.
    ///
    /// The error is set if they are not known: what is to be removed may be elsewhere.
    #[must_use]
    pub fn paths_for_removal() -> (Paths, Option<ConfigError>) {
        let error = match Self::load() {
            Ok(config) => return (config.paths(), None),
            Err(error) => error,
        };
        let known = match SafeDir::open(Path::new(FOLDER)) {
            Ok(Some(dir)) => match (&error, dir.read_untrusted(FILE)) {
                (ConfigError::Parse { .. }, Ok(Some(text))) => Self::folders(&String::from_utf8_lossy(&text)),
                // A path that others wrote is not used. If the file names no folders, there is no such path.
                (ConfigError::Read(_), Ok(Some(text))) => Self::names_no_folders(&text).then(Self::default),
                (_, Ok(None)) => Some(Self::default()),
                (_, Err(_)) => None,
            },
            Ok(None) => Some(Self::default()),
            Err(_) => None,
        };
        match known {
            Some(config) => (config.paths(), None),
            None => (Self::default().paths(), Some(error)),
        }
    }

    fn names_no_folders(text: &[u8]) -> bool {
        let text = String::from_utf8_lossy(text);
        !text.contains("runDir") && !text.contains("stateDir")
    }

    /// The folders that an invalid configuration names; `None` if that is not certain.
    fn folders(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Folders {
            run_dir: Option<PathBuf>,
            state_dir: Option<PathBuf>,
        }
        if Self::names_no_folders(text.as_bytes()) {
            return Some(Self::default());
        }
        let Folders { run_dir, state_dir } = serde_saphyr::from_str(text).ok()?;
        let known = [&run_dir, &state_dir].into_iter().flatten().all(|dir| dir.is_absolute());
        known.then(|| Self { run_dir, state_dir, ..Self::default() })
    }

    /// The folders of this node.
    #[must_use]
    pub fn paths(&self) -> Paths {
        let or = |dir: &Option<PathBuf>, default: &str| dir.clone().unwrap_or_else(|| default.into());
        Paths { run: or(&self.run_dir, "/run/k8slan"), state: or(&self.state_dir, "/var/lib/k8slan") }
    }
}

impl Paths {
    /// The run folder, `/run/k8slan` by default: deleted at the next boot.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The state folder, `/var/lib/k8slan` by default: kept over boots.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The socket on which the two parts of the daemon speak: the only folder below [`Paths::run`] that the cluster's
    /// part sees. No lock of others is in it, since whoever can read a file can hold a lock on it.
    #[must_use]
    pub fn controller(&self) -> PathBuf {
        self.run.join("controller")
    }

    /// The records and locks of the spokes, one of each per spoke.
    #[must_use]
    pub fn spokes(&self) -> PathBuf {
        self.run.join("spokes")
    }

    /// The records of tap minors and their attachments.
    #[must_use]
    pub fn taps(&self) -> PathBuf {
        self.run.join("taps")
    }

    /// The stores of leases that end with the boot.
    #[must_use]
    pub fn leases(&self) -> PathBuf {
        self.run.join("ipam")
    }

    /// The pool files of a single host.
    #[must_use]
    pub fn pools(&self) -> PathBuf {
        self.state.join("pools.d")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PolicyError, Resource};

    #[test]
    fn nothing_is_the_default() {
        for text in ["", "\n", "# only a comment\n\n"] {
            let config = NodeConfig::parse(text).unwrap();
            assert_eq!(config, NodeConfig::default());
            assert_eq!(config.paths().spokes(), Path::new("/run/k8slan/spokes"));
        }
    }

    #[test]
    fn a_key_without_a_value_allows_nothing() {
        for (text, part) in [
            (
                "policy:\n",
                "policy stands there without a value: leave it out to allow everything, write {} to allow nothing",
            ),
            ("policy: ~\n", "policy stands there without a value"),
            ("nodeName: worker1\npolicy: null\n", "policy stands there without a value"),
            ("policy:\n  blue:\n", "policy.blue stands there"),
            ("policy:\n  blue:\n    bridges: {br0: ~}\n", "policy.blue.bridges.br0"),
            ("nodeName:\npolicy:\n", "policy stands there"),
        ] {
            let error = NodeConfig::parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        // Keys that restrict nothing may be empty.
        assert_eq!(NodeConfig::parse("nodeName:\nmacSeed:\n").unwrap(), NodeConfig::default());
        let policy = NodeConfig::parse("policy: {}").unwrap().policy.unwrap();
        assert!(policy.check(Some("blue"), Resource::Pool("iot")).is_err());
    }

    #[test]
    fn the_policy_decides_by_namespace() {
        let config = NodeConfig::parse(
            "nodeName: worker1\nrunDir: /run/other\npolicy:\n  blue:\n    masters: [eth1]\n  \"*\":\n    pools: [iot]\n",
        )
        .unwrap();
        assert_eq!(config.paths().run(), Path::new("/run/other"));
        let policy = config.policy.unwrap();
        assert_eq!(policy.check(Some("blue"), Resource::Master("eth1")), Ok(()));
        assert!(
            policy.check(Some("blue"), Resource::UsedLink("eth1")).is_err(),
            "to share is not to give away"
        );
        assert!(policy.check(Some("blue"), Resource::Pool("iot")).is_err());
        assert_eq!(policy.check(Some("red"), Resource::Pool("iot")), Ok(()));
        assert!(matches!(policy.check(None, Resource::Pool("iot")), Err(PolicyError::NoNamespace(_))));
    }

    #[test]
    fn bridges_are_allowed_by_vlan() {
        let config =
            NodeConfig::parse("policy:\n  blue:\n    bridges: {br0: '10,20-29', br1: ''}\n").unwrap();
        let policy = config.policy.unwrap();
        let may = |name, vlans: Option<&str>| {
            let vlans = vlans.map(|text| text.parse().unwrap());
            policy.check(Some("blue"), Resource::Bridge { name, vlans: vlans.as_ref() })
        };
        assert_eq!(may("br0", Some("10,21")), Ok(()));
        assert_eq!(may("br1", None), Ok(()));
        let refused = may("br0", Some("10,30")).unwrap_err().to_string();
        assert!(refused.contains("bridge \"br0\" with VLANs 10,30"), "{refused}");
        assert!(may("br1", Some("1")).is_err() && may("br2", None).is_err());
        // Without VLANs of its own a port would get all that passes.
        assert!(may("br0", None).unwrap_err().to_string().contains("bridge \"br0\" without VLANs"));
    }

    #[test]
    fn folders_are_known_where_the_rest_is_wrong() {
        let run = |text| NodeConfig::folders(text).map(|config| config.paths().run().to_owned());
        let default = Some(PathBuf::from("/run/k8slan"));
        assert_eq!(run("policy: [\n"), default);
        assert_eq!(run("polcy: {}\n"), default);
        assert_eq!(run("polcy: {}\nrunDir: /run/other\n"), Some("/run/other".into()));
        assert_eq!(run("policy: [\nrunDir: /run/other\n"), None);
        assert_eq!(run("runDir: other\n"), None);
        assert_eq!(run("runDir: {}\n"), None);
    }

    #[test]
    fn addresses_of_the_node_are_allowed_by_network() {
        let text = "policy:\n  blue:\n    nodeAddresses: [10.9.0.0/16, 'fe80::/64']\n    usedNetworks: [192.0.2.0/24]\n  red: {}\n";
        let policy = NodeConfig::parse(text).unwrap().policy.unwrap();
        let may = |namespace, address: &str| {
            policy.check(Some(namespace), Resource::NodeAddress(address.parse().unwrap())).is_ok()
        };
        assert!(may("blue", "10.9.3.1/24") && may("blue", "10.9.0.1/16") && may("blue", "fe80::/64"));
        assert!(may("blue", "192.0.2.1/25"), "given although it is used, so it is given");
        // A larger network contains addresses that are not listed.
        assert!(!may("blue", "10.9.0.1/15") && !may("blue", "10.10.0.1/24") && !may("blue", "fd00::1/64"));
        assert!(!may("red", "10.9.3.1/24") && !may("other", "10.9.3.1/24"));
        let used =
            |address: &str| policy.check(Some("blue"), Resource::UsedNetwork(address.parse().unwrap()));
        assert_eq!(used("192.0.2.1/25"), Ok(()));
        let refused = used("10.9.3.1/24").unwrap_err().to_string();
        assert!(refused.contains("network 10.9.3.1/24, which the node uses"), "{refused}");
    }

    #[test]
    fn mistakes_are_named() {
        let error = NodeConfig::parse("polcy: {}\n").unwrap_err();
        assert!(error.contains("polcy"), "{error}");
        assert!(NodeConfig::parse("runDir: run\n").unwrap_err().contains("absolute"));
        for name in ["masters: [eth%d]", "usedLinks: [all]", "bridges: {'br%d': ''}"] {
            let error = NodeConfig::parse(&format!("policy:\n  blue:\n    {name}\n")).unwrap_err();
            assert!(error.contains("link"), "{name}: {error}");
        }
    }
}
