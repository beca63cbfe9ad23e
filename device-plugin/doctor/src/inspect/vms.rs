//! Finds which pods run virtual machines.

use std::path::Path;

use node::SafeDir;
use serde::Deserialize;

use super::view::NodeView;

/// The prefix of the name of KubeVirt's pods; the machine's name and five letters follow.
const LAUNCHER: &str = "virt-launcher-";

/// The record of a launcher pod by the cluster's part.
#[derive(Deserialize)]
struct Owner {
    vm: String,
}

/// Adds the machines: by the records of launcher pods, or without one by the pods' names.
pub(super) fn fill(view: &mut NodeView, run: &Path) {
    let owners = SafeDir::open(&run.join("owners")).ok().flatten();
    let recorded = |uid: &str| -> Option<String> {
        let text = owners.as_ref()?.read(&format!("{uid}.json")).ok()??;
        Some(serde_json::from_slice::<Owner>(&text).ok()?.vm)
    };
    for attachment in view.attachments() {
        let Some((namespace, name)) = attachment.pod.as_deref().and_then(|pod| pod.split_once('/')) else {
            continue;
        };
        let vm = attachment.uid.as_deref().and_then(recorded).or_else(|| by_name(name).map(str::to_owned));
        attachment.vm = vm.map(|vm| if vm.contains('/') { vm } else { format!("{namespace}/{vm}") });
    }
}

fn by_name(pod: &str) -> Option<&str> {
    let (vm, letters) = pod.strip_prefix(LAUNCHER)?.rsplit_once('-')?;
    (letters.len() == 5 && !vm.is_empty()).then_some(vm)
}

#[cfg(test)]
mod tests {
    use super::super::sample::node;
    use super::*;

    #[test]
    fn launchers_run_machines() {
        assert_eq!(by_name("virt-launcher-web-1-x7k2p"), Some("web-1"));
        assert_eq!((by_name("virt-launcher-x7k2p"), by_name("nginx-x7k2p")), (None, None));
        let temp = tempfile::tempdir().unwrap();
        let owners = SafeDir::create(&temp.path().join("owners")).unwrap();
        owners
            .write("u1.json", br#"{"vm": "default/a-long-name"}"#, ::node::Durability::UntilReboot)
            .unwrap();
        let mut view = node("worker1");
        for (at, (pod, uid)) in
            [("default/virt-launcher-a-long-n-x7k2p", Some("u1")), ("default/virt-launcher-vm-x7k2p", None)]
                .into_iter()
                .enumerate()
        {
            let attachment = view.attachments().nth(at).unwrap();
            (attachment.pod, attachment.uid) = (Some(pod.to_owned()), uid.map(str::to_owned));
        }
        fill(&mut view, temp.path());
        let vms: Vec<_> = view.attachments().map(|attachment| attachment.vm.clone()).collect();
        assert_eq!(vms, [Some("default/a-long-name".to_owned()), Some("default/vm".to_owned()), None]);
    }
}
