//! A file of the product has one subject, so it is short; one with more than [`LONGEST`] lines says at its top why not.

use std::fs;
use std::path::{Path, PathBuf};

const LONGEST: usize = 500;

/// What the line of the reason begins with.
const REASON: &str = "//! Long: ";

/// The product's folders; the `src` folders in them count, and in them no generated file.
const PRODUCT: [&str; 3] = ["crates", "plugins", "device-plugin"];

/// Whether a file is short, or says why it is long.
fn is_fine(text: &str) -> bool {
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    text.lines().count() <= LONGEST || head.into_iter().any(|line| line.starts_with(REASON))
}

pub(super) fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn a_long_file_says_why() {
    let top = testnet::workspace();
    let mut all = Vec::new();
    for folder in PRODUCT {
        sources(&top.join(folder), &mut all);
    }
    let counted = |path: &Path| {
        let has = |name: &str| path.components().any(|part| part.as_os_str() == name);
        has("src") && !has("generated")
    };
    let long: Vec<String> = all
        .iter()
        .map(|path| (path.strip_prefix(&top).unwrap(), path))
        .filter(|(path, file)| counted(path) && !is_fine(&fs::read_to_string(file).unwrap()))
        .map(|(path, _)| path.to_str().unwrap().to_owned())
        .collect();
    assert!(long.is_empty(), "more than {LONGEST} lines, and no line {REASON:?} at the top: {long:#?}");
}

#[test]
fn the_reason_stands_at_the_top() {
    let code = "fn main() {}\n".repeat(LONGEST + 1);
    assert!(
        is_fine("fn main() {}\n")
            && is_fine(&format!("//! A parser.\n//!\n{REASON}one automaton.\n\n{code}"))
    );
    assert!(!is_fine(&code) && !is_fine(&format!("//! A parser.\n\n{code}")));
    assert!(!is_fine(&format!("//! A parser.\n\n{code}\n{REASON}too late")));
}
