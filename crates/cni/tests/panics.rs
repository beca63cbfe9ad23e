//! A plugin that panics still answers. It ends its process, so it is run as one: this program itself.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use cni::{AddResult, Plugin, Request, Target, ValidAttachment};
use libtest_mimic::{Arguments, Trial};

struct Panics;

impl Plugin for Panics {
    type Config = serde_json::Value;
    type Error = cni::Error;
    const NAME: &'static str = "panics";
    const ABOUT: &'static str = "fails by itself";

    fn add(&self, _: &Request<Self::Config>, _: &Target) -> Result<AddResult, cni::Error> {
        // With the lock of standard output, as somebody who writes.
        let _writing = std::io::stdout().lock();
        panic!("nobody \"thought\" of this");
    }

    fn del(&self, _: &Request<Self::Config>, _: &Target<Option<PathBuf>>) -> Result<(), cni::Error> {
        // On another thread.
        let _ = std::thread::spawn(|| panic!("nor of that")).join();
        Ok(())
    }

    fn check(&self, _: &Request<Self::Config>, _: &Target, _: &AddResult) -> Result<(), cni::Error> {
        Ok(())
    }

    fn gc(&self, _: &Request<Self::Config>, _: Option<&[ValidAttachment]>) -> Result<(), cni::Error> {
        Ok(())
    }

    fn status(&self, _: &Request<Self::Config>) -> Result<(), cni::Error> {
        Ok(())
    }
}

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() {
        return cni::run(&Panics);
    }
    let trials = vec![Trial::test("a_panic_is_answered", || {
        answered("ADD", "0.4.0", "nobody \"thought\" of this");
        answered("ADD", "1.1.0", "tests/panics.rs:");
        answered("DEL", "1.0.0", "nor of that");
        Ok(())
    })];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn answered(verb: &str, version: &str, part: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env_clear()
        .envs([
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "c"),
            ("CNI_IFNAME", "net1"),
            ("CNI_PATH", "/nowhere"),
        ])
        .env("CNI_NETNS", format!("/proc/{}/ns/mnt", std::process::id()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = format!("{{\"cniVersion\":\"{version}\",\"name\":\"net\",\"type\":\"panics\"}}");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let document: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{said:?}: {e}"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&document["code"], &document["cniVersion"]), (&199.into(), &version.into()), "{said}");
    assert!(document["msg"].as_str().unwrap().contains("a bug"), "{said}");
    assert!(document["details"].as_str().unwrap().contains(part), "{said}");
    assert!(String::from_utf8(output.stderr).unwrap().contains(part));
}
