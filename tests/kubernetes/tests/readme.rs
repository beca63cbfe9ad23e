//! What the README and the k8slan document show, word by word.

use std::net::Ipv4Addr;

use k8slan_kubernetes_tests::{Cluster, condition, failed};
use testnet::{Outcome, Stop, Trial, workspace};

use crate::check;
use crate::shared::beside;
use crate::site::{pings, ready, spoke_is, start};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        beside("the_first_lan_of_the_readme", the_first_lan_of_the_readme),
        beside("the_documents_second_lan_and_its_pool", the_documents_second_lan_and_its_pool),
        beside("a_node_is_looked_at_from_a_pod", a_node_is_looked_at_from_a_pod),
        beside("the_first_ping_of_docs_start", the_first_ping_of_docs_start),
    ]
}

/// The lines of kubectl below a heading of a page.
fn commands(page: &str, heading: &str) -> Result<Vec<String>, Stop> {
    let text = std::fs::read_to_string(workspace().join(page))?;
    let after = text.split_once(&format!("\n{heading}\n")).ok_or_else(|| failed(heading))?.1;
    let own = after.split("\n## ").next().unwrap_or_default().split("\n### ").next().unwrap_or_default();
    let lines = own.lines().filter_map(|line| line.strip_prefix("kubectl "));
    // Comments stand far to the right.
    Ok(lines.map(|line| line.split("  #").next().unwrap_or_default().trim().to_owned()).collect())
}

fn the_first_lan_of_the_readme(cluster: &Cluster) -> Outcome {
    let commands = commands("README.md", "### The first LAN")?;
    check!(commands.len() == 4, "{commands:?}");
    let (mut listed, mut address) = (String::new(), String::new());
    for command in &commands {
        // Whoever types this has waited for the line before.
        if command.starts_with("get lans") {
            let path = "/apis/lan.k8slan.io/v1beta1/namespaces/k8slan-system/lans/lan-test";
            cluster.until(path, |lan| {
                condition(lan, "Ready") == Some("True") && lan["status"]["nodes"] == "3/3"
            })?;
            spoke_is(cluster, "pod2", "1")?;
        }
        if command.starts_with("exec deployment/nginx") {
            cluster.kubectl("rollout status deployment/nginx --timeout=90s")?;
        }
        let said = cluster.kubectl(command)?;
        if command.starts_with("get lans") {
            listed = said;
        } else if command.starts_with("exec") {
            address = said;
        }
    }
    let row = listed.lines().find(|line| line.contains("lan-test")).unwrap_or_default();
    let columns: Vec<&str> = row.split_whitespace().collect();
    check!(columns.starts_with(&["k8slan-system", "lan-test", "True", "True", "3/3"]), "{listed}");
    let pods = cluster.list("/api/v1/namespaces/default/pods?labelSelector=app%3Dnginx").map_err(failed)?;
    let [pod] = pods.as_slice() else { return Err(failed(format!("{pods:#?}"))) };
    let told =
        pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str().unwrap_or_default();
    let told: serde_json::Value = serde_json::from_str(told)?;
    check!(told[1]["interface"] == "net1" && told[1]["mac"] == address.trim(), "{told:#} and {address}");
    let link = cluster.netns(pod)?.link("net1")?.ok_or_else(|| failed("no net1"))?;
    check!(link["linkinfo"]["info_kind"] == "macvtap" && link["mtu"] == 1426, "{link:#}");
    Ok(())
}

/// `nad-examples/k8slan/`: `lab.yaml` and its pool, a pod with an address on each of two nodes.
fn the_documents_second_lan_and_its_pool(cluster: &Cluster) -> Outcome {
    cluster.kubectl("apply -f nad-examples/k8slan/pools.yaml -f nad-examples/k8slan/lab.yaml")?;
    cluster.kubectl("wait --for=condition=Ready --timeout=60s lanpool/lab")?;
    spoke_is(cluster, "lab1", "1")?;
    spoke_is(cluster, "lab4", "1")?;
    cluster.kubectl("apply -f nad-examples/k8slan/pod-lab.yaml")?;
    let shell = ready(cluster, "shell")?;
    let elsewhere = cluster.workers.iter().map(|worker| worker.name());
    let elsewhere =
        elsewhere.into_iter().find(|name| shell["spec"]["nodeName"] != **name).unwrap_or_default();
    let other = k8slan_kubernetes_tests::PodOf::on("lab1", "lab1").at(elsewhere);
    let other = start(cluster, &other)?;
    let address = |pod: &serde_json::Value| -> Result<Ipv4Addr, Stop> {
        let links = cluster.netns(pod)?.ip_json("-4 addr show dev net1")?;
        let text = links[0]["addr_info"][0]["local"].as_str().unwrap_or_default().to_owned();
        text.parse().map_err(|_| failed(format!("no address: {links:?}")))
    };
    let block = |pod: &serde_json::Value, address: Ipv4Addr| -> Outcome {
        let name = format!("lab.{:08x}", u32::from(address));
        let node = cluster.kubectl(&format!("get lanblock {name} -o jsonpath={{.spec.holder.node}}"))?;
        check!(pod["spec"]["nodeName"] == *node, "{name} is of {node}: {}", pod["spec"]["nodeName"]);
        Ok(())
    };
    for pod in [&shell, &other] {
        block(pod, address(pod)?)?;
    }
    pings(cluster, &shell, "net1", address(&other)?)?;
    pings(cluster, &other, "net1", address(&shell)?)?;
    // By the words that a person would use, and through the API server.
    let said = cluster.kubectl(&format!("exec shell -- ping -c 2 -W 2 {}", address(&other)?))?;
    check!(said.contains("2 packets transmitted, 2 packets received"), "{said}");
    Ok(())
}

/// As somebody does who cannot log in to it: `kubectl debug` of `install/README.md`.
fn a_node_is_looked_at_from_a_pod(cluster: &Cluster) -> Outcome {
    let commands = commands("install/README.md", "## Looking at a node from a pod")?;
    let [look, tidy_up] = commands.as_slice() else { return Err(failed(format!("{commands:?}"))) };
    // Nobody types here: the pod is made, and its log read.
    cluster.kubectl(&look.replacen(" -it ", " ", 1))?;
    let pods =
        "/api/v1/namespaces/kube-system/pods?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dkubectl-debug";
    let pod = cluster.eventually(|| match cluster.list(pods)?.as_slice() {
        [pod] if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) => Ok(pod.clone()),
        other => Err(format!("{other:#?}")),
    })?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let said = cluster.kubectl(&format!("-n kube-system logs {name}"))?;
    // The node's own link, folders and kubelet are what it sees.
    for what in ["underlay: eth1", "CNI folder", "CNI configuration", "kubelet"] {
        let fine = |line: &str| line.starts_with("fine") && line.contains(&format!(" {what} "));
        check!(said.lines().any(fine), "not fine: {what}: {said}");
    }
    check!(!said.contains("FAILURE"), "{said}");
    cluster.kubectl(tidy_up)?;
    check!(cluster.list(pods).map_err(failed)?.is_empty(), "a pod stays");
    Ok(())
}

/// The lines of the pages in docs/start, from the LAN on, by a shell and kubectl.
fn the_first_ping_of_docs_start(cluster: &Cluster) -> Outcome {
    let folder = workspace().join("docs/start");
    let mut scripts: Vec<String> = Vec::new();
    for page in ["kubeadm", "k3s", "talos", "rke2-harvester"] {
        let text = std::fs::read_to_string(folder.join(page).with_extension("md"))?;
        let script: Vec<&str> = text
            .lines()
            .skip_while(|line| !line.starts_with("sed 's/eth1/enp2s0/'"))
            .take_while(|line| *line != "```")
            .collect();
        check!(script.len() == 4, "{page}: {script:?}");
        scripts.push(script.join("\n"));
    }
    check!(scripts.iter().all(|script| *script == scripts[0]), "the pages differ: {scripts:#?}");
    // The nodes here have a link by different names: worker3's is the default, and the map has those of the others.
    let lan =
        "'s/defaultVxlanDev: eth1/defaultVxlanDev: eth0.10\\n  vxlanDevMap: {worker1: eth1, worker2: eth2}/'";
    let script = scripts[0]
        .replace("'s/eth1/enp2s0/'", lan)
        .replace("deployment/one", "deployment/one --timeout=120s");
    let script = format!("set -eu\nkubectl() {{ {}; }}\n{script}\n", cluster.kubectl_line());
    let said = cluster.tool(std::path::Path::new("/bin/sh"), &["-c", &script])?;
    check!(said.contains("3 packets received, 0% packet loss"), "{said}");
    cluster.kubectl("delete deployment one two --cascade=foreground --timeout=60s")?;
    cluster.kubectl("-n k8slan-system delete lan first --timeout=60s").map(drop)
}
