//! docs/troubleshooting.md quotes the programs' own messages.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use regex::Regex;

/// As few characters as a template may have besides what is filled in, so that not everything fits it.
const ENOUGH: usize = 15;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

fn literals(tokens: TokenStream, found: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => literals(group.stream(), found),
            TokenTree::Literal(literal) => {
                if let Ok(syn::Lit::Str(text)) = syn::parse_str(&literal.to_string()) {
                    found.push(text.value());
                }
            }
            TokenTree::Ident(_) | TokenTree::Punct(_) => {}
        }
    }
}

/// Whether a text with `{…}` in it can become a part of the message; a text that is hardly more than a word
/// cannot.
fn says(text: &str, placeholder: &Regex, message: &str) -> bool {
    let pieces: Vec<&str> = placeholder.split(text).collect();
    let length: usize = pieces.iter().map(|piece| piece.trim().len()).sum();
    // Most texts go here, before an expression is made of them.
    if length < ENOUGH || !pieces.iter().all(|piece| message.contains(piece)) {
        return false;
    }
    let pieces: Vec<String> = pieces.iter().map(|piece| regex::escape(piece)).collect();
    Regex::new(&pieces.join(".+")).unwrap().is_match(message)
}

#[test]
fn every_quoted_message_is_one_of_ours() {
    let root = testnet::workspace();
    let mut files = Vec::new();
    for folder in ["crates", "plugins", "device-plugin"] {
        sources(&root.join(folder), &mut files);
    }
    let mut texts = Vec::new();
    for file in files.iter().filter(|file| !file.components().any(|part| part.as_os_str() == "tests")) {
        literals(fs::read_to_string(file).unwrap().parse().unwrap(), &mut texts);
    }
    let placeholder = Regex::new(r"\{[^{}]*\}").unwrap();
    let page = fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap();
    let messages: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("> ")).collect();
    assert!(messages.len() > 10, "{messages:?}");
    let strange: Vec<&&str> = messages
        .iter()
        .filter(|message| !texts.iter().any(|text| says(text, &placeholder, message)))
        .collect();
    assert!(strange.is_empty(), "no program says: {strange:#?}");
}

/// Who makes the mistake behind a message on a real cluster, and compares it with the page.
const CLUSTER: &str = "tests/kubernetes/tests/mistakes.rs";

/// Where the other mistakes are made: how the page's line begins, the file, what stands there of the message, and why it is
/// not made on the cluster.
const MADE: &[(&str, &str, &str, &str)] = &[
    (
        "the node would have a link",
        "tests/tests/vlan_bridge/networks.rs",
        "link eth1 has address 192.0.2.10/24",
        "it takes a VLAN, and the bridges of the cluster's kernel may have none",
    ),
    (
        "the pod has an interface net1 already",
        "tests/tests/attach/masters.rs",
        "the pod has an interface net1 already",
        "Multus looks first, and says it in words of its own",
    ),
    (
        "a guest's address belongs to",
        "tests/tests/attach/guests.rs",
        "it is not known which one",
        "it is for nodes without the daemon, which the cluster has on each",
    ),
    (
        "10.8.0.2 is the address of default/db-0/db",
        "tests/tests/ipam_pool/pools.rs",
        "its network namespace is still on this node",
        "a sandbox that the runtime is slow to end cannot be had there at will",
    ),
    (
        "what is attached on worker1",
        "tests/tests/daemon/cluster/status.rs",
        "what is attached on worker1, whose LANNode object was deleted",
        "the trial that deletes reports there is in removal.rs",
    ),
];

/// What no test makes, and why.
const NOT_MADE: &[(&str, &str)] = &[
    (
        "the plugin \"dhcp\" did not end DEL",
        "it takes a minute; crates/cni tests the limit with a shorter one",
    ),
    ("ipam-pool 0.1.0 failed by itself", "no input is known that makes it fail"),
    (
        "the API server has not sent the LANs yet",
        "the daemon's first second, which is over before anybody looks",
    ),
    (
        "there is no vlan-bridge in any of",
        "the container has the plugins; an image without them is not built",
    ),
];

/// Each message is made by a test, or it is said why by none: whoever adds a line to the page says so here.
#[test]
fn every_quoted_message_is_made_somewhere() {
    let root = testnet::workspace();
    let page = fs::read_to_string(root.join("docs/troubleshooting.md")).unwrap();
    let texts = |file: &str| {
        let mut texts = Vec::new();
        literals(fs::read_to_string(root.join(file)).unwrap().parse().unwrap(), &mut texts);
        texts
    };
    let on_the_cluster: Vec<String> =
        texts(CLUSTER).into_iter().filter(|text| text.len() >= ENOUGH).collect();
    let messages: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("> ")).collect();
    let unmade: Vec<&&str> = messages
        .iter()
        .filter(|message| {
            let begins = |begin: &str| message.starts_with(begin);
            !on_the_cluster.iter().any(|text| begins(text))
                && !MADE.iter().any(|(begin, ..)| begins(begin))
                && !NOT_MADE.iter().any(|(begin, _)| begins(begin))
        })
        .collect();
    assert!(unmade.is_empty(), "no test makes: {unmade:#?}");
    for (begin, file, says, why) in MADE {
        assert!(!why.is_empty() && !on_the_cluster.iter().any(|text| text.starts_with(begin)), "{begin}");
        assert!(messages.iter().any(|message| message.starts_with(begin)), "the page has no more: {begin}");
        assert!(texts(file).iter().any(|text| text.contains(says)), "{file} has no {says:?}");
    }
    for (begin, _) in NOT_MADE {
        assert!(messages.iter().any(|message| message.starts_with(begin)), "the page has no more: {begin}");
    }
}
