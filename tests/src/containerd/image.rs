//! Images made without a daemon, a registry or a network: busybox and nothing else, for sandboxes and
//! containers alike.

use std::io;
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

/// An image of one layer, with busybox as `/bin/busybox`.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// The names under which the runtime lists it.
    pub names: &'a [&'a str],
    /// What a container of it runs.
    pub entrypoint: &'a [&'a str],
    /// The names in `/bin` that lead to busybox.
    pub applets: &'a [&'a str],
}

/// The image, as the archive that `docker save` writes.
///
/// # Errors
/// If busybox cannot be read.
pub fn archive(of: Image<'_>, busybox: &Path) -> io::Result<Vec<u8>> {
    let mut layer = Tar::default();
    for folder in ["bin", "dev", "proc", "sys", "etc", "tmp", "var", "root"] {
        layer.folder(folder);
    }
    layer.file("bin/busybox", 0o755, &std::fs::read(busybox)?);
    for applet in of.applets {
        layer.link(&format!("bin/{applet}"), "busybox");
    }
    let layer = layer.end();
    let digest: String = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": { "Entrypoint": of.entrypoint, "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": of.names, "Layers": ["layer.tar"] }]);
    let mut image = Tar::default();
    image.file("manifest.json", 0o644, manifest.to_string().as_bytes());
    image.file("config.json", 0o644, config.to_string().as_bytes());
    image.file("layer.tar", 0o644, &layer);
    Ok(image.end())
}

/// A tar archive (POSIX.1-1988 `ustar`), all of it root's.
#[derive(Default)]
struct Tar(Vec<u8>);

const BLOCK: usize = 512;

impl Tar {
    fn folder(&mut self, name: &str) {
        self.header(name, 0o755, b'5', 0, "");
    }

    fn link(&mut self, name: &str, to: &str) {
        self.header(name, 0o777, b'2', 0, to);
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.header(name, mode, b'0', content.len(), "");
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    fn header(&mut self, name: &str, mode: u32, kind: u8, size: usize, link: &str) {
        let mut block = [0_u8; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{size:011o}").as_bytes());
        put(136, b"00000000000");
        // The sum is taken with its own field blank.
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = block.iter().copied().map(u32::from).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}
