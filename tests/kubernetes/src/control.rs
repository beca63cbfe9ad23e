//! The control plane: a namespace of its own with etcd, the API server, the controller manager and the scheduler.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::Signal;
use testnet::{Daemon, Node, Stop, Switch, eventually, workspace};

use crate::certificates::Certificates;
use crate::{Programs, TIMEOUT, failed};

/// Where the control plane has its certificates, as its own processes see it.
const PKI: &str = "/var/lib/pki";
/// What the API server tells of requests by k8slan's accounts, and of who changes anybody's rights.
pub(crate) const AUDIT: &str = "/var/lib/audit.log";

const AUDIT_POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  users: ["system:serviceaccount:k8slan-system:k8slan", "system:serviceaccount:k8slan-uninstall:k8slan-cluster-uninstall"]
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
  resources: [{group: rbac.authorization.k8s.io, resources: [clusterrolebindings, rolebindings]}]
- level: None
"#;

#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) node: Node,
    pub(crate) certificates: Certificates,
    programs: Programs,
    /// etcd, then the API server; nothing while they are down.
    server: Mutex<Option<(Daemon, Daemon)>>,
    others: Mutex<Vec<Daemon>>,
}

impl Control {
    pub(crate) fn start(programs: &Programs, switch: &Switch) -> Result<Self, Stop> {
        let mut node = Node::new("control")?;
        node.connect(switch, "eth0", 1500)?;
        let mut lines =
            vec!["addr add 10.99.0.1/24 dev eth0".to_owned(), "addr add 10.96.0.1/32 dev lo".to_owned()];
        // Pods of the cluster's network ask the API server, too.
        lines.extend((1..=3).map(|node| format!("route add 10.244.{node}.0/24 via 10.99.0.1{node}")));
        for line in lines {
            node.ip(&line)?;
        }
        node.write("/proc/sys/net/ipv4/ip_forward", "1")?;
        let certificates = Certificates::new(&node.var_lib().join("pki"), "https://10.99.0.1:443")?;
        let names = [
            "DNS:kubernetes",
            "DNS:kubernetes.default",
            "DNS:kubernetes.default.svc",
            "IP:10.96.0.1",
            "IP:10.99.0.1",
            "IP:127.0.0.1",
        ];
        certificates.issue("apiserver", "kube-apiserver", None, &names)?;
        certificates.issue(
            "apiserver-kubelet",
            "kube-apiserver-kubelet-client",
            Some("system:masters"),
            &[],
        )?;
        certificates.issue("front", "front-proxy", None, &[])?;
        certificates.user("admin", "admin", Some("system:masters"), &[])?;
        certificates.user("controllers", "system:kube-controller-manager", None, &[])?;
        certificates.user("scheduler", "system:kube-scheduler", None, &[])?;
        node.write("/var/lib/audit.yaml", AUDIT_POLICY)?;
        let programs = programs.clone();
        let control =
            Self { node, certificates, programs, server: Mutex::default(), others: Mutex::default() };
        control.start_server()?;
        Ok(control)
    }

    /// kubectl's arguments before those of the user.
    pub(crate) fn kubectl(&self) -> Vec<String> {
        let kube = self.programs.kube.display().to_string();
        [&*kube, "kubectl", "--kubeconfig", &format!("{PKI}/admin.kubeconfig")].map(str::to_owned).to_vec()
    }

    /// `kubectl k8slan`: kubectl looks for its plugins in the PATH.
    pub(crate) fn plugin(&self, arguments: &[&str]) -> Result<Command, Stop> {
        let kube = self.programs.kube.display().to_string();
        let plugin = workspace().join("install/kubectl/kubectl-k8slan").display().to_string();
        self.node.exec(&["mkdir", "-p", "/run/bin"])?;
        for (target, link) in [(&kube, "/run/bin/kubectl"), (&plugin, "/run/bin/kubectl-k8slan")] {
            self.node.exec(&["ln", "-sfn", target, link])?;
        }
        let mut command = self.tool(Path::new("/run/bin/kubectl"));
        command.arg("k8slan").args(arguments).env("PATH", "/run/bin:/usr/bin:/bin");
        Ok(command)
    }

    /// A program that finds the cluster as kubectl does.
    pub(crate) fn tool(&self, program: &Path) -> Command {
        let mut command = self.node.command("env");
        // The folder is entered after the namespaces.
        // What runs in the background has SIGINT ignored, and who is started so cannot trap it.
        command
            .arg("--default-signal=HUP,INT,TERM")
            .arg(format!("--chdir={}", workspace().display()))
            .arg(program);
        command
            .env("HOME", "/run")
            .env("TMPDIR", "/run")
            .env("KUBECONFIG", format!("{PKI}/admin.kubeconfig"));
        command
    }

    fn spawn(&self, part: &str, arguments: &[String]) -> Result<Daemon, Stop> {
        // Each part looks for its own name, and its log has that.
        let program = format!("/run/{part}");
        let kube = self.programs.kube.display().to_string();
        self.node.exec(&["ln", "-sfn", &kube, &program])?;
        let argv: Vec<&str> =
            std::iter::once(&*program).chain(arguments.iter().map(String::as_str)).collect();
        Ok(self.node.spawn_daemon(&argv)?)
    }

    /// Starts etcd and the API server on what they kept, waits until they answer, and starts the others.
    pub(crate) fn start_server(&self) -> Result<(), Stop> {
        let etcd = self.programs.etcd.display().to_string();
        let etcd = self.node.spawn_daemon(&[
            &etcd,
            "--data-dir=/var/lib/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ])?;
        let mut server = self.spawn("kube-apiserver", &api_server())?;
        let (mut argv, ready) = (self.kubectl(), ["get", "--raw", "/readyz"].map(str::to_owned));
        argv.extend(ready);
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        eventually(TIMEOUT, || {
            let ended = server.wait(std::time::Duration::ZERO).is_ok();
            let answer = self.node.exec(&argv).map_err(|error| error.to_string());
            match (ended, answer) {
                (true, _) => Ok(Err("the API server ended")),
                (false, answer) => answer.map(|_| Ok(())),
            }
        })?
        .map_err(failed)?;
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some((etcd, server));
        self.start_others()
    }

    /// Ends the API server and etcd, and with them the controllers and the scheduler, as when the control plane's machine goes
    /// down: nobody has a cluster until [`Control::start_server`].
    pub(crate) fn stop_server(&self, signal: Signal) -> Result<(), Stop> {
        let running = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((mut etcd, mut server)) = running else { return Ok(()) };
        self.others.lock().unwrap_or_else(PoisonError::into_inner).clear();
        server.signal(signal)?;
        server.wait(TIMEOUT)?;
        etcd.signal(signal)?;
        etcd.wait(TIMEOUT)?;
        Ok(())
    }

    fn start_others(&self) -> Result<(), Stop> {
        let file = |name: &str| format!("{PKI}/{name}");
        let user = |name: &str| {
            ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
                .map(|flag| format!("--{flag}={}", file(&format!("{name}.kubeconfig"))))
        };
        let mut controllers = user("controllers").to_vec();
        controllers.extend([
            format!("--service-account-private-key-file={}", file("sa.key")),
            format!("--root-ca-file={}", file("ca.crt")),
            format!("--cluster-signing-cert-file={}", file("ca.crt")),
            format!("--cluster-signing-key-file={}", file("ca.key")),
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            "--allocate-node-cidrs=false".to_owned(),
            // A node that is off is known as such sooner than in the default 50 s.
            "--node-monitor-grace-period=16s".to_owned(),
        ]);
        let mut scheduler = user("scheduler").to_vec();
        scheduler.push("--leader-elect=false".to_owned());
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.push(self.spawn("kube-controller-manager", &controllers)?);
        others.push(self.spawn("kube-scheduler", &scheduler)?);
        Ok(())
    }

    /// The logs of all its parts, with names.
    pub(crate) fn logs(&self) -> Vec<(&'static str, String)> {
        let mut logs = Vec::new();
        if let Some((etcd, server)) = &*self.server.lock().unwrap_or_else(PoisonError::into_inner) {
            logs.extend([("etcd", etcd.log()), ("kube-apiserver", server.log())]);
        }
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        logs.extend(
            ["kube-controller-manager", "kube-scheduler"].into_iter().zip(others.iter().map(Daemon::log)),
        );
        logs.push(("audit", self.node.read(AUDIT).unwrap_or_default()));
        logs
    }
}

fn api_server() -> Vec<String> {
    let files = [
        ("tls-cert-file", "apiserver.crt"),
        ("tls-private-key-file", "apiserver.key"),
        ("client-ca-file", "ca.crt"),
        ("kubelet-client-certificate", "apiserver-kubelet.crt"),
        ("kubelet-client-key", "apiserver-kubelet.key"),
        ("service-account-key-file", "sa.pub"),
        ("service-account-signing-key-file", "sa.key"),
        ("requestheader-client-ca-file", "ca.crt"),
        ("proxy-client-cert-file", "front.crt"),
        ("proxy-client-key-file", "front.key"),
    ];
    let mut arguments: Vec<String> =
        files.iter().map(|(flag, file)| format!("--{flag}={PKI}/{file}")).collect();
    arguments.extend(
        [
            "--etcd-servers=http://127.0.0.1:2379",
            // What in-cluster clients are told is 10.96.0.1:443, which is this machine's: there is no kube-proxy.
            "--advertise-address=10.99.0.1",
            "--bind-address=0.0.0.0",
            "--secure-port=443",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            "--audit-policy-file=/var/lib/audit.yaml",
        ]
        .map(str::to_owned),
    );
    arguments.push(format!("--audit-log-path={AUDIT}"));
    arguments
}
