//! Reads the views of other nodes.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Deserializer;

use super::NodeView;

/// The file name that stands for standard input.
const INPUT: &str = "-";

/// Reads the output of `inspect --json`, one node after the other; `-` is standard input.
///
/// # Errors
/// A file cannot be read, has other contents, or no node.
pub fn read_files(files: &[PathBuf]) -> Result<Vec<NodeView>> {
    let mut nodes = Vec::new();
    for path in files {
        let input: Box<dyn Read> = match path == Path::new(INPUT) {
            true => Box::new(io::stdin().lock()),
            false => Box::new(File::open(path).with_context(|| format!("read {}", path.display()))?),
        };
        let before = nodes.len();
        for view in Deserializer::from_reader(io::BufReader::new(input)).into_iter() {
            let view: NodeView =
                view.with_context(|| format!("{} is not what 'inspect --json' writes", path.display()))?;
            if view.node.is_empty() {
                bail!("{} is not what 'inspect --json' writes: it names no node", path.display());
            }
            nodes.push(view);
        }
        if nodes.len() == before {
            bail!("{} is not what 'inspect --json' writes: it is empty", path.display());
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::sample;

    fn read(text: &str) -> Result<Vec<NodeView>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_files(&[file.path().to_owned()])
    }

    #[test]
    fn a_file_has_one_node_or_several() {
        let nodes = ["worker1", "worker2"].map(sample::node);
        let text: String = nodes.iter().map(|node| serde_json::to_string_pretty(node).unwrap()).collect();
        assert_eq!(read(&text).unwrap(), nodes);
    }

    #[test]
    fn what_another_version_does_not_say_is_not_there() {
        let nodes = read(r#"{"node": "worker1", "lans": [{"lan": "a/b", "news": 1}]}"#).unwrap();
        assert_eq!((nodes[0].lans[0].lan.as_str(), nodes[0].lans[0].stands), ("a/b", false));
    }

    #[test]
    fn anything_else_is_no_node() {
        for text in ["", "{}", "[]", "worker1", r#"{"node": "a"} {"node": 3}"#, r#"{"node": "a"}{"#] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("not what 'inspect --json' writes"), "{text}: {error}");
        }
    }
}
