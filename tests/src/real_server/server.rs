//! Starting a server, with an etcd and certificates of its own.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use testnet::{Stop, eventually, finish, needs, needs_found, workspace};

/// How long a server may take to start.
const LIMIT: Duration = Duration::from_secs(60);

/// Who a client is, by its certificate.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// The name of its files.
    file: &'static str,
    subject: &'static str,
}

/// May do everything.
pub const ADMIN: &User = &User { file: "admin", subject: "/O=system:masters/CN=admin" };
/// May do what `install/` gives to the daemon: the name that a token of its service account stands for.
pub const DAEMON: &User = &User {
    file: "daemon",
    subject: "/O=system:serviceaccounts/O=system:serviceaccounts:k8slan-system/CN=system:serviceaccount:k8slan-system:k8slan",
};

/// A server's program, and the etcd for it.
#[derive(Clone, Debug)]
pub struct Program {
    server: PathBuf,
    /// Its first argument, where one program is several.
    part: Option<&'static str>,
    etcd: PathBuf,
    whole: bool,
}

impl Program {
    /// The server of custom resources alone.
    ///
    /// # Errors
    /// It is not here: the test is skipped by name.
    pub fn extensions() -> Result<Self, Stop> {
        const NAME: &str = "apiextensions-apiserver";
        let below =
            |variable: &str, folder: &str| std::env::var_os(variable).map(|dir| Path::new(&dir).join(folder));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let places =
            std::env::split_paths(&path).chain(below("GOPATH", "bin")).chain(below("HOME", "go/bin"));
        let found = places.map(|dir| dir.join(NAME)).find(|path| path.is_file());
        let server = needs_found(NAME, found, "go installs it")?;
        let etcd = match unpacked_etcd() {
            Some(etcd) => etcd,
            None => {
                needs("etcd")?;
                PathBuf::from("etcd")
            }
        };
        Ok(Self { server, part: None, etcd, whole: false })
    }

    /// The whole one: of the folder that `KUBEBUILDER_ASSETS` names, or the one that `make test-kubernetes` builds.
    ///
    /// # Errors
    /// It is not here: the test is skipped by name.
    pub fn whole() -> Result<Self, Stop> {
        const NAME: &str = "kube-apiserver";
        let how = "KUBEBUILDER_ASSETS names a folder with it and etcd, not below /tmp, /run or /var/lib, which tests do not see; \
                   or make test-kubernetes builds it";
        let (server, part, etcd) = match std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) {
            Some(folder) => (folder.join(NAME), None, Some(folder.join("etcd"))),
            None => (workspace().join("target/kube/kube"), Some(NAME), unpacked_etcd()),
        };
        let server = needs_found(NAME, Some(server).filter(|path| path.is_file()), how)?;
        let etcd = needs_found(NAME, etcd.filter(|path| path.is_file()), how)?;
        Ok(Self { server, part, etcd, whole: true })
    }

    /// The kubectl of its version, in words of a shell: of the same folder, or a part of the same program.
    ///
    /// # Errors
    /// It is not here: the test is skipped by name.
    pub fn kubectl(&self) -> Result<Vec<String>, Stop> {
        const NAME: &str = "kubectl";
        if self.part.is_some() {
            return Ok(vec![self.server.display().to_string(), NAME.to_owned()]);
        }
        match self.server.with_file_name(NAME) {
            beside if beside.is_file() => Ok(vec![beside.display().to_string()]),
            _ => needs(NAME).map(|()| vec![NAME.to_owned()]),
        }
    }

    /// Whether it has namespaces, nodes, pods and the rest.
    #[must_use]
    pub fn knows_the_core(&self) -> bool {
        self.whole
    }
}

fn unpacked_etcd() -> Option<PathBuf> {
    Some(workspace().join("target/etcd/usr/bin/etcd")).filter(|path| path.is_file())
}

/// Where a server is, and what it writes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The folder of its files.
    pub dir: &'a Path,
    /// The address that its clients reach it by.
    pub address: Ipv4Addr,
    /// The rules of its audit policy, as YAML; without them it writes no audit log.
    pub audit: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// On the loopback, without an audit log.
    #[must_use]
    pub fn on_loopback(dir: &'a Path) -> Self {
        Self { dir, address: Ipv4Addr::LOCALHOST, audit: None }
    }
}

/// A running server; dropping it ends it.
#[derive(Debug)]
pub struct RealServer {
    dir: PathBuf,
    url: String,
    etcd_url: String,
    server: Running,
    etcd: Running,
}

#[derive(Debug)]
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
    fn start(program: &Path, mut command: Command, dir: &Path) -> Result<Self, Stop> {
        let log = dir.join(format!("{}.log", program.file_name().unwrap_or_default().to_string_lossy()));
        let file = std::fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: command.spawn()?, log })
    }

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
    const AUDIT: &str = "audit.log";

    /// Starts it where `command` runs programs. It may take some seconds until it answers.
    ///
    /// # Errors
    /// It cannot be started, or ends at once.
    pub fn start(
        program: &Program,
        place: Place<'_>,
        command: impl Fn(&Path) -> Command,
    ) -> Result<Self, Stop> {
        needs("openssl")?;
        let Place { dir, address, audit } = place;
        credentials(dir)?;
        let (client, peer, port) = (free_port()?, free_port()?, free_port()?);
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let file = |name: &str| dir.join(name).display().to_string();
        let mut etcd = command(&program.etcd);
        etcd.args([
            format!("--data-dir={}", file("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
        ]);
        let etcd = Running::start(&program.etcd, etcd, dir)?;
        let url = format!("https://{address}:{port}");
        std::fs::write(dir.join("kubeconfig"), kubeconfig(&url, &user(dir, ADMIN)).to_string())?;
        let mut server = command(&program.server);
        server.args(program.part);
        server.args([
            format!("--etcd-servers={client}"),
            format!("--secure-port={port}"),
            format!("--bind-address={address}"),
            format!("--cert-dir={}", file("certs")),
            format!("--client-ca-file={}", file("ca.crt")),
        ]);
        server.args(match program.whole {
            true => whole_arguments(address, &file),
            false => extensions_arguments(&file),
        });
        if let Some(rules) = audit {
            std::fs::write(dir.join("audit.yaml"), audit_policy(rules))?;
            server.arg(format!("--audit-policy-file={}", file("audit.yaml")));
            server.arg(format!("--audit-log-path={}", file(Self::AUDIT)));
        }
        let mut server = Running::start(&program.server, server, dir)?;
        server.wait_for(&dir.join("certs/apiserver.crt"))?;
        Ok(Self { dir: dir.to_owned(), url, etcd_url: client, server, etcd })
    }

    /// How a user reaches it.
    #[must_use]
    pub fn kubeconfig(&self, who: &User) -> Value {
        kubeconfig(&self.url, &user(&self.dir, who))
    }

    /// How the owner of a token reaches it.
    #[must_use]
    pub fn kubeconfig_of_token(&self, token: &str) -> Value {
        kubeconfig(&self.url, &json!({ "token": token }))
    }

    /// Where its etcd answers, without encryption, in the namespace that it runs in.
    #[must_use]
    pub fn etcd_url(&self) -> &str {
        &self.etcd_url
    }

    /// The IDs of the server's process and of etcd's.
    #[must_use]
    pub fn processes(&self) -> [u32; 2] {
        [self.server.child.id(), self.etcd.child.id()]
    }

    /// The requests in its audit log, from the one of this number on.
    ///
    /// # Errors
    /// It has none.
    pub fn audit(&self, from: usize) -> Result<Vec<Value>, Stop> {
        let text = std::fs::read_to_string(self.dir.join(Self::AUDIT))?;
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().skip(from).map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

fn user(dir: &Path, User { file, .. }: &User) -> Value {
    let path = |end: &str| dir.join(format!("{file}.{end}"));
    json!({ "client-certificate": path("crt"), "client-key": path("key") })
}

fn kubeconfig(url: &str, user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "k", "cluster": { "server": url, "insecure-skip-tls-verify": true } }],
        "contexts": [{ "name": "c", "context": { "cluster": "k", "user": "u" } }],
        "users": [{ "name": "u", "user": user }],
    })
}

fn audit_policy(rules: &str) -> String {
    format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n{rules}")
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

/// What kube-apiserver needs beside, by its documentation and as envtest starts it.
fn whole_arguments(address: Ipv4Addr, file: &dyn Fn(&str) -> String) -> Vec<String> {
    vec![
        // Else it looks for an address that others reach, and a simulated node has none.
        format!("--advertise-address={address}"),
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
        match output.status.success() {
            true => Ok(()),
            false => {
                Err(Stop::Failed(format!("openssl {line}: {}", String::from_utf8_lossy(&output.stderr))))
            }
        }
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
