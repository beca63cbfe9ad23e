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
    for folder in ["crates", "plugins", "device-plugin/src"] {
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
