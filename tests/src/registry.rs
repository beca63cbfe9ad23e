//! A registry of images on a node, at [`REGISTRY`].

use std::net::TcpStream;
use std::time::Duration;

use testnet::{Daemon, Node, Stop, eventually, needs, workspace};

/// Where it listens, on the node's loopback.
pub const REGISTRY: &str = "127.0.0.1:5000";

/// Starts Debian's, which ends with the node.
///
/// # Errors
/// It is not here (the test is skipped by name), or does not start.
pub fn registry(node: &Node) -> Result<Daemon, Stop> {
    let program = workspace().join("target/registry/usr/bin/docker-registry").display().to_string();
    needs(&program)?;
    node.write(
        "/run/registry.yml",
        format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: /run/registry}}}}\n\
             http: {{addr: '{REGISTRY}'}}\n"
        ),
    )?;
    let serves = node.spawn_daemon(&[&program, "serve", "/run/registry.yml"])?;
    eventually(Duration::from_secs(20), || match node.run(|| TcpStream::connect(REGISTRY)) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error}: {}", serves.log())),
    })?;
    Ok(serves)
}
