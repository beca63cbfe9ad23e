//! What the pages show: YAML, JSON and commands are read as whoever copies them would have them read.

use std::fs;
use std::path::{Path, PathBuf};

use lan::manifest::{self, Document};
use node::NodeConfig;
use regex::Regex;
use serde_json::Value;
use testnet::{Outcome, Stop, Trial, tests, workspace};

use crate::manifests::{examples, network, types};

pub(crate) fn trials() -> Vec<Trial> {
    tests![
        every_block_is_read_by_what_reads_it,
        quoted_json_is_json,
        files_that_are_named_are_there,
        mistakes_are_found_with_their_line
    ]
}

/// Kinds and first keys of configurations that are others', of which only the syntax is checked.
const OTHERS: [&str; 4] = ["BridgeConfig", "bpf", "cni", "machine"];

struct Page {
    path: PathBuf,
    text: String,
}

/// A fenced block: the line of its first one, its language and its text.
struct Block {
    line: usize,
    language: String,
    text: String,
}

fn pages() -> Result<Vec<Page>, Stop> {
    let mut pages = Vec::new();
    let mut folders = vec![workspace()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && !["dist", "target"].contains(&&*name) {
                folders.push(path);
            } else if name.ends_with(".md") {
                pages.push(Page { text: fs::read_to_string(&path)?, path });
            }
        }
    }
    assert!(pages.len() > 15, "only {} pages are found", pages.len());
    Ok(pages)
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block { line: number + 2, language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// Checks a block; the error has the block's line.
fn check(block: &Block) -> Result<(), String> {
    let checked = match block.language.as_str() {
        "yaml" => yaml(&block.text),
        "json" => serde_json::Deserializer::from_str(&block.text)
            .into_iter::<Value>()
            .try_for_each(|value| network::check(&value.map_err(|error| error.to_string())?)),
        "" | "sh" | "bash" | "ini" => Ok(()),
        other => Err(format!("say in {} what reads a block of {other:?}", file!())),
    };
    checked.map_err(|what| format!("{}: {what}", block.line))
}

fn yaml(text: &str) -> Result<(), String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    for document in documents.iter().filter(|document| !document.is_null()) {
        let kind = document["kind"].as_str();
        let fields = document.as_object().ok_or("no object")?;
        let of_others = |word: &str| OTHERS.contains(&word);
        match kind {
            Some(kind) if of_others(kind) => {}
            Some(_) => types::check(document)?,
            None if fields.keys().any(|key| of_others(key)) => {}
            None => fragment(document)?,
        }
    }
    Ok(())
}

/// A part of an object: fields of a LAN's `spec`, of node.yaml, or annotations of a pod.
fn fragment(document: &Value) -> Result<(), String> {
    let fields = document.as_object().ok_or("no object")?;
    if let [(key, Value::String(value))] = &fields.iter().collect::<Vec<_>>()[..]
        && *key == "k8s.v1.cni.cncf.io/networks"
    {
        return examples::selected(value);
    }
    if NodeConfig::parse(&document.to_string()).is_ok() {
        return Ok(());
    }
    let mut spec = serde_json::json!({"ns": "n", "bridge": "b", "vxlan": "v", "vni": 1});
    for (key, value) in fields {
        spec[key] = value.clone();
    }
    let lan = serde_json::json!({
        "apiVersion": manifest::API_VERSION, "kind": manifest::KIND, "metadata": {"name": "a"}, "spec": spec,
    });
    match manifest::read(&lan.to_string()).as_slice() {
        [Document::Lan { key, spec }] => {
            lan::Lan::new(key.clone(), spec).map(drop).map_err(|error| format!("{error:?}"))
        }
        other => Err(format!("it is neither annotations nor node.yaml nor of a LAN's spec: {other:?}")),
    }
}

fn every_block_is_read_by_what_reads_it() -> Outcome {
    let mut wrong = Vec::new();
    for page in pages()? {
        let checked = blocks(&page.text).into_iter().filter_map(|block| check(&block).err());
        wrong.extend(checked.map(|what| format!("{}:{what}", page.path.display())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// In commands and in sentences; `…` and `<` stand for something.
fn quoted_json_is_json() -> Outcome {
    let quoted = Regex::new(r#"'(\{[^']*\})'|`(\{[^`]*\})`"#)?;
    let mut wrong = Vec::new();
    let mut found = 0;
    for page in pages()? {
        for capture in quoted.captures_iter(&page.text) {
            let Some(json) = capture.get(1).or(capture.get(2)) else { continue };
            if !json.as_str().contains('"') || json.as_str().contains(['…', '<']) {
                continue;
            }
            found += 1;
            let checked = serde_json::from_str::<Value>(json.as_str()).map_err(|error| error.to_string());
            let checked = checked.and_then(|value| match value["type"].is_string() {
                true => network::check(&value),
                false => Ok(()),
            });
            if let Err(what) = checked {
                let line = page.text[..json.start()].lines().count();
                wrong.push(format!("{}:{line}: {what}", page.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(found > 3, "only {found} are found");
    Ok(())
}

fn files_that_are_named_are_there() -> Outcome {
    // Below a folder of the repository, behind a flag that takes a file, or behind a link.
    let named = Regex::new(
        r"(?:^|[\s(`'])((?:\.\./)*(?:benches|crates|device-plugin|docs|install|nad-examples|plugins|tests)/[\w./*-]+)|(?:-f|--patch-file|--from-file=\w+=|--file)[ =]?([\w./-]+\.\w+)|\]\(([^)#:\s]+)[)#]",
    )?;
    let root = workspace();
    let mut wrong = Vec::new();
    let mut found = 0;
    for page in pages()? {
        let here = page.path.parent().unwrap_or(&root);
        for capture in named.captures_iter(&page.text) {
            let Some(name) = capture.iter().skip(1).flatten().next() else { continue };
            let path = name.as_str().trim_end_matches(['.', ',', '/']);
            // Written by `make push`; and a word that stands for something.
            if path == "install/local" || path.contains("/NAME") || path.contains("/NNNN") {
                continue;
            }
            found += 1;
            if !exists(&root, path) && !exists(here, path) {
                let line = page.text[..name.start()].lines().count();
                wrong.push(format!("{}:{line}: there is no {path}", page.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(found > 100, "only {found} are found");
    Ok(())
}

/// Whether a file is there; one folder of the path may be `*`.
fn exists(folder: &Path, path: &str) -> bool {
    match path.split_once('*') {
        None => folder.join(path).exists(),
        Some((before, after)) => fs::read_dir(folder.join(before)).is_ok_and(|entries| {
            let after = after.trim_start_matches('/');
            entries.flatten().any(|entry| entry.path().join(after).exists())
        }),
    }
}

fn mistakes_are_found_with_their_line() -> Outcome {
    for block in [
        "```yaml\napiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, imag: b}]}\n```\n",
        "```yaml\napiVersion: lan.k8slan.io/v1beta1\nkind: LAN\nmetadata: {name: a}\nspec: {vni: 1}\n```\n",
        "```yaml\ndefaultVxlanDevice: eth0\n```\n",
        "```yaml\na: [\n```\n",
        "```yaml\nvni: 16777216\n```\n",
        "```json\n{\"type\": \"vlan-bridge\", \"bridge\": \"br0\", \"vlan\": 4095}\n```\n",
        "```json\n{\"type\": \"vlan-bridge\", \"bridge\": \"br0\", \"vlans\": 7}\n```\n",
        "```json\n{\"type\": \"macvtap\", \"master\": \"eth0\", \"ipam\": {\"type\": \"ipam-pool\", \"pol\": \"a\"}}\n```\n",
        "```toml\na = 1\n```\n",
    ] {
        let text = format!("# Page\n\n{block}");
        let [block] = &blocks(&text)[..] else { return Err(Stop::Failed(format!("no block: {text}"))) };
        match check(block) {
            Err(what) if what.starts_with("4: ") => {}
            other => return Err(Stop::Failed(format!("{text}: {other:?}"))),
        }
    }
    Ok(())
}
