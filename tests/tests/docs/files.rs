//! A file of tests that no binary names is run by nobody.
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
