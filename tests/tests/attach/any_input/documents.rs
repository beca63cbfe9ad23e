//! Files: LANs, pools, the daemon's records, the node's configuration.

use std::time::Duration;

use ipam_pool::PoolFile;
use lan::manifest::{self, Document};
use lan::{Lan, SpokeRecord};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use node::NodeConfig;
use proptest::prelude::*;
use testnet::{Node, Outcome, Stop, Trial, tests, workspace};

use crate::any_input::hold;
use crate::any_input::mutate::mutated;

pub(crate) fn trials() -> Vec<Trial> {
    tests![lan_files, pool_files, records_of_spokes, the_nodes_configuration, documents_that_explode]
}

/// Far more processor time than any of these documents takes.
const LIMIT: Duration = Duration::from_secs(10);

/// The processor time of the calling thread: how busy the machine is makes no difference to it.
#[derive(Clone, Copy)]
struct Started(Duration);

impl Started {
    fn now() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
        let time = usage.user_time() + usage.system_time();
        Self(Duration::from_micros(time.num_microseconds().unsigned_abs()))
    }

    fn elapsed(self) -> Duration {
        Self::now().0 - self.0
    }
}

/// All YAML files of the examples.
pub(crate) fn examples() -> Vec<String> {
    let mut folders = vec![workspace().join("nad-examples")];
    let mut texts = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml") {
                texts.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }
    assert!(texts.len() > 10, "{} examples", texts.len());
    texts
}

/// The text of the mistake, if it is one, says something; and whatever it is did not take long.
fn told(error: Option<String>, start: Started) -> Result<(), TestCaseError> {
    prop_assert!(start.elapsed() < LIMIT, "it took {:?}", start.elapsed());
    prop_assert!(error.is_none_or(|text| !text.trim().is_empty()), "an error without a word");
    Ok(())
}

fn read_lans(text: &str) -> Result<(), TestCaseError> {
    let start = Started::now();
    for document in manifest::read(text) {
        match document {
            Document::Lan { key, spec } => {
                let mistakes = Lan::new(key, &spec).err();
                told(mistakes.map(|all| all.iter().map(ToString::to_string).collect::<String>()), start)?;
            }
            Document::Broken { message, .. } => told(Some(message), start)?,
            Document::Other(_) => {}
        }
    }
    told(None, start)
}

fn read_pool(text: &str) -> Result<(), TestCaseError> {
    let start = Started::now();
    let sets = PoolFile::parse("dmz", text).and_then(|file| {
        let _ = (file.addresses(), file.sets_for_node(Some("talos1"), None));
        file.all_sets()
    });
    told(sets.err().map(|error| error.to_string()), start)
}

fn lan_files() -> Outcome {
    let texts = examples().into_iter().filter(|text| text.contains("kind: LAN\n")).collect();
    hold(1500, &mutated(texts), |bytes| read_lans(&String::from_utf8_lossy(&bytes)))
}

fn pool_files() -> Outcome {
    let texts = examples().into_iter().filter(|text| text.contains("kind: LANPool"));
    let of_one = |text: String| text.split("\n---\n").map(str::to_owned).collect::<Vec<_>>();
    let texts: Vec<String> = texts.flat_map(of_one).collect();
    let old = |text: &String| text.replace("kind: LANPool", "kind: IPPool");
    let texts = texts.iter().cloned().chain(texts.iter().map(old)).collect();
    hold(1500, &mutated(texts), |bytes| read_pool(&String::from_utf8_lossy(&bytes)))
}

fn records_of_spokes() -> Outcome {
    let record = SpokeRecord::parse(&"pod1".parse()?, RECORD.as_bytes())?;
    let text = String::from_utf8(record.to_json())?;
    hold(3000, &mutated(vec![text]), |bytes| {
        let start = Started::now();
        let read = SpokeRecord::parse(&"pod1".parse().unwrap(), &bytes);
        told(read.err().map(|error| error.to_string()), start)
    })
}

const RECORD: &str = r#"{"lan":"k8slan-system/lan-test","spoke":"pod1","netns":"/run/netns/knlvrf","bridge":"br2","mtu":1426,"tapIndex":1670875530,"attach":"macvtap","mode":"passthru","allowedNamespaces":["default","vms"],"kubelet":true,"ready":true,"reason":null}"#;

fn the_nodes_configuration() -> Outcome {
    let node = Node::new("n")?;
    node.write("/etc/k8slan/node.yaml", NODE)?;
    node.run(NodeConfig::load)?;
    hold(500, &mutated(vec![NODE.to_owned()]), |bytes| {
        node.write("/etc/k8slan/node.yaml", &bytes).unwrap();
        let start = Started::now();
        told(node.run(NodeConfig::load).err().map(|error| error.to_string()), start)
    })
}

const NODE: &str = "nodeName: talos1
runDir: /run/k8slan
stateDir: /var/lib/k8slan
policy:
  default: {masters: [eth1], pools: [dmz], bridges: {br0: \"10,20-29\", br1: [{minID: 5, maxID: 9}]}}
  \"*\": {masters: []}
";

/// Small texts that mean much: nesting, and anchors that stand for each other.
fn documents_that_explode() -> Outcome {
    let nested = |open: &str, close: &str| open.repeat(50_000) + &close.repeat(50_000);
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let inner = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs += &format!("a{level}: &a{level} [{inner}]\n");
    }
    let head = "apiVersion: lan.k8slan.io/v1beta1\nkind: LAN\nmetadata: {name: x}\nspec:\n  spokes: ";
    let texts = [
        nested("[", "]"),
        nested("{\"a\":", "}"),
        format!("{head}{}", nested("[", "]")),
        laughs.clone(),
        format!("{laughs}kind: LAN\napiVersion: lan.k8slan.io/v1beta1\nspec: *a11\n"),
        "- ".repeat(100_000),
        "\n---\n".repeat(50_000),
        format!("{head}[{}]", "a,".repeat(200_000)),
    ];
    let check = |text: &str| -> Result<(), TestCaseError> {
        read_lans(text)?;
        read_pool(text)?;
        let record = SpokeRecord::parse(&"pod1".parse().unwrap(), text.as_bytes());
        prop_assert!(record.is_err(), "taken for a record");
        Ok(())
    };
    for (number, text) in texts.iter().enumerate() {
        check(text).map_err(|error| Stop::Failed(format!("document {number}: {error}")))?;
    }
    Ok(())
}
