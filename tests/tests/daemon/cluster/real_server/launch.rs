//! Starting a real server, with an etcd and certificates of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value, json};
use testnet::{Stop, eventually, finish, needs, needs_found};

use super::LIMIT;
use crate::cluster::check;

/// Who a client is, by its certificate.
pub(super) struct User {
    /// The name of its files.
    file: &'static str,
    subject: &'static str,
}

/// May do everything.
pub(super) const ADMIN: &User = &User { file: "admin", subject: "/O=system:masters/CN=admin" };
/// May do what `install/` gives to the daemon: the name that a token of its service account stands for.
pub(super) const DAEMON: &User = &User {
    file: "daemon",
    subject: "/O=system:serviceaccounts/O=system:serviceaccounts:k8slan-system/CN=system:serviceaccount:k8slan-system:k8slan",
};

/// A server's program, and the etcd for it.
pub(super) struct Program {
    server: PathBuf,
    etcd: PathBuf,
    whole: bool,
}

impl Program {
    /// The one of custom resources alone.
    pub(super) fn extensions() -> Result<Self, Stop> {
        const NAME: &str = "apiextensions-apiserver";
        let below =
            |variable: &str, folder: &str| std::env::var_os(variable).map(|dir| Path::new(&dir).join(folder));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places =
            std::env::split_paths(&path).chain(below("GOPATH", "bin")).chain(below("HOME", "go/bin"));
        let found = places.map(|dir| dir.join(NAME)).find(|path| path.is_file());
        let server = needs_found(NAME, found, "go installs it")?;
        let unpacked = testnet::workspace().join("target/etcd/usr/bin/etcd");
        if unpacked.is_file() {
            return Ok(Self { server, etcd: unpacked, whole: false });
        }
        needs("etcd")?;
        Ok(Self { server, etcd: PathBuf::from("etcd"), whole: false })
    }

    /// The whole one.
    pub(super) fn whole() -> Result<Self, Stop> {
        const NAME: &str = "kube-apiserver";
        let folder = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let found = |name: &str| folder.as_ref().map(|dir| dir.join(name)).filter(|path| path.is_file());
        let how = "KUBEBUILDER_ASSETS names a folder with it and etcd, not below /tmp, /run or /var/lib, which tests do not see";
        Ok(Self {
            server: needs_found(NAME, found(NAME), how)?,
            etcd: needs_found(NAME, found("etcd"), how)?,
            whole: true,
        })
    }

    /// Whether it has namespaces, nodes, pods and the rest.
    pub(super) fn knows_the_core(&self) -> bool {
        self.whole
    }
}

/// A running server; dropping it ends it.
pub(super) struct RealServer {
    dir: PathBuf,
    port: u16,
    _server: Running,
    _etcd: Running,
}

struct Running {
    child: Child,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Waits for a file that the program writes when it starts; that it ended is told in its own words.
    fn wait_for(&mut self, file: &Path) -> Result<(), Stop> {
        let ended = eventually(LIMIT, || match self.child.try_wait() {
            Ok(None) if file.exists() => Ok(None),
            Ok(None) => Err(format!("there is no {} yet", file.display())),
            Ok(Some(status)) => Ok(Some(status)),
            Err(error) => Err(error.to_string()),
        })?;
        let Some(status) = ended else { return Ok(()) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let end: Vec<&str> = log.lines().rev().take(20).collect();
        let end: Vec<&str> = end.into_iter().rev().collect();
        Err(Stop::Failed(format!("it ended with {status}:\n{}", end.join("\n"))))
    }
}

impl RealServer {
    /// Starts it on the loopback of where `command` runs programs, with its files in `dir`. It may take some seconds
    /// until it answers.
    pub(super) fn start(
        program: &Program,
        dir: &Path,
        command: impl Fn(&Path) -> Command,
    ) -> Result<Self, Stop> {
        needs("openssl")?;
        credentials(dir)?;
        let (client, peer, port) = (free_port()?, free_port()?, free_port()?);
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let run = |program: &Path, arguments: &[String]| -> Result<Running, Stop> {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            let log = dir.join(format!("{name}.log"));
            let file = std::fs::File::create(&log)?;
            let mut command = command(program);
            command.args(arguments).stdin(std::process::Stdio::null()).stdout(file.try_clone()?).stderr(file);
            Ok(Running { child: command.spawn()?, log })
        };
        let file = |name: &str| dir.join(name).display().to_string();
        let etcd = run(
            &program.etcd,
            &[
                format!("--data-dir={}", file("etcd")),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
            ],
        )?;
        let server = Self::config(dir, port, ADMIN);
        std::fs::write(dir.join("kubeconfig"), server.to_string())?;
        let mut arguments = vec![
            format!("--etcd-servers={client}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", file("certs")),
            format!("--client-ca-file={}", file("ca.crt")),
        ];
        arguments.extend(match program.whole {
            true => whole_arguments(&file),
            false => extensions_arguments(&file),
        });
        let mut server = run(&program.server, &arguments)?;
        server.wait_for(&dir.join("certs/apiserver.crt"))?;
        Ok(Self { dir: dir.to_owned(), port, _server: server, _etcd: etcd })
    }

    /// How a user reaches it.
    pub(super) fn kubeconfig(&self, user: &User) -> Value {
        Self::config(&self.dir, self.port, user)
    }

    fn config(dir: &Path, port: u16, user: &User) -> Value {
        let file = |end: &str| dir.join(format!("{}.{end}", user.file));
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "k", "cluster": {
                "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true,
            } }],
            "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
            "users": [{ "name": "u", "user": {
                "client-certificate": file("crt"), "client-key": file("key"),
            } }],
        })
    }
}

/// What the server of custom resources needs to stand alone (decision 44).
fn extensions_arguments(file: &dyn Fn(&str) -> String) -> Vec<String> {
    let kubeconfig = file("kubeconfig");
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--authentication-skip-lookup".to_owned(),
        "--enable-priority-and-fairness=false".to_owned(),
        "--disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,\
         ValidatingAdmissionPolicy,MutatingAdmissionPolicy"
            .to_owned(),
    ]
}

/// What kube-apiserver needs beside, by its documentation and as envtest starts it. It has **not** been run by those who
/// wrote this: no registry that they reach has the program.
fn whole_arguments(file: &dyn Fn(&str) -> String) -> Vec<String> {
    vec![
        // Else it looks for an address that others reach, and a simulated node has none.
        "--advertise-address=127.0.0.1".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        "--allow-privileged=true".to_owned(),
        // It waits for service accounts that a controller makes, and there is none.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ]
}

/// A certificate for each user, and the key of service accounts.
fn credentials(dir: &Path) -> Result<(), Stop> {
    // Without extensions it would be a certificate of version 1, which rustls does not take.
    std::fs::write(dir.join("extensions"), "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n")?;
    let openssl = |line: &str| -> Result<(), Stop> {
        let output = finish(Command::new("openssl").args(line.split(' ')).current_dir(dir))?;
        check!(output.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 2")?;
    for User { file, subject } in [ADMIN, DAEMON] {
        openssl(&format!("req -newkey rsa:2048 -nodes -keyout {file}.key -out {file}.csr -subj {subject}"))?;
        let sign = "-CA ca.crt -CAkey ca.key -CAcreateserial -extfile extensions -days 2";
        openssl(&format!("x509 -req -in {file}.csr {sign} -out {file}.crt"))?;
    }
    openssl("genrsa -out sa.key 2048")?;
    openssl("rsa -in sa.key -pubout -out sa.pub")
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
