//! A file of tests that no binary names is run by nobody; a test that sleeps says why.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::fs;
use std::path::{Path, PathBuf};

/// The files below a folder of modules that its own file, `main.rs` or `mod.rs`, does not make modules of it.
fn forgotten(folder: &Path, own: &str) -> Vec<PathBuf> {
    let text = fs::read_to_string(folder.join(own)).unwrap_or_default();
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_module =
            text.lines().any(|line| line.trim_start_matches("pub(crate) ") == format!("mod {name};"));
        if path.file_name().unwrap() == own {
            continue;
        }
        if !is_module {
            found.push(path);
        } else if path.is_dir() {
            found.extend(forgotten(&path, "mod.rs"));
        }
    }
    found
}

#[test]
fn every_file_is_part_of_a_binary() {
    let package = testnet::workspace().join("tests");
    let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
    for folder in fs::read_dir(package.join("tests")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let main = format!("path = \"tests/{name}/main.rs\"");
        assert!(manifest.contains(&main), "{name} is no binary of tests/Cargo.toml: {main}");
        assert_eq!(forgotten(&folder, "main.rs"), [""; 0].map(PathBuf::from), "not a module of its folder");
    }
}

#[test]
fn a_file_that_is_no_module_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("main.rs", "mod a;\npub(crate) mod b;\n");
    write("a.rs", "");
    write("b/mod.rs", "mod inside;\n");
    write("b/inside.rs", "");
    assert_eq!(forgotten(dir.path(), "main.rs"), [""; 0].map(PathBuf::from));
    write("b/new.rs", "");
    assert_eq!(forgotten(dir.path(), "main.rs"), [dir.path().join("b/new.rs")]);
    write("new.rs", "");
    assert_eq!(forgotten(dir.path(), "main.rs").len(), 2);
}

/// The files of Rust below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The lines that sleep for a time that has no name.
fn nameless_sleeps(text: &str) -> Vec<usize> {
    let is_one = |line: &str| {
        let slept = line.split_once("sleep(").map_or("", |(_, rest)| rest);
        let number = slept.trim_start_matches("std::time::").strip_prefix("Duration::from_");
        let number = number.and_then(|rest| rest.split_once('(')).map_or("", |(_, rest)| rest);
        number
            .split(')')
            .next()
            .is_some_and(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
    };
    (1..).zip(text.lines()).filter(|(_, line)| is_one(line)).map(|(number, _)| number).collect()
}

/// What is waited for is asked for ([`testnet::eventually`]), and what must not happen is looked for all the time
/// ([`testnet::stays`]). What is left has a constant, whose doc comment says why it is as long.
#[test]
fn who_sleeps_says_why() {
    let root = testnet::workspace();
    let mut files = Vec::new();
    for folder in ["tests/src", "tests/tests", "tests/kubernetes", "crates/testnet"] {
        sources(&root.join(folder), &mut files);
    }
    assert!(files.len() > 100, "{}", files.len());
    let found = files.iter().flat_map(|path| {
        let lines = nameless_sleeps(&fs::read_to_string(path).unwrap());
        lines.into_iter().map(move |line| format!("{}:{line}", path.display()))
    });
    assert_eq!(found.collect::<Vec<_>>(), [""; 0], "give the time a name that says what it is for");
}

#[test]
fn a_nameless_sleep_is_found() {
    let text = "sleep(LONG);\nstd::thread::sleep(Duration::from_millis(20));\nsleep(std::time::Duration::from_secs(2));\n\
                sleep(Duration::from_micros(7 * round));\n";
    assert_eq!(nameless_sleeps(text), [2, 3]);
}
