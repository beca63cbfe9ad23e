//! `CNI_ARGS` as Multus gives them to the plugins.

use super::call::Call;

/// Those of a call, with `MAC` and `IP` where the pod's annotation asks for them.
pub(super) fn build(call: &Call, inherited: Option<&str>, mac: Option<&str>, ips: &[String]) -> String {
    let mut pairs: Vec<(String, String)> = [
        ("IgnoreUnknown", "true"),
        ("K8S_POD_NAMESPACE", &call.pod_namespace),
        ("K8S_POD_NAME", &call.pod_name),
        ("K8S_POD_INFRA_CONTAINER_ID", &call.infra_container),
        ("K8S_POD_UID", &call.pod_uid),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec();
    for (key, value) in
        inherited.into_iter().flat_map(|text| text.split(';')).filter_map(|pair| pair.split_once('='))
    {
        // A key of ours without a value takes this one; all others are put behind.
        let empty = pairs.iter_mut().find(|(own, empty)| own == key && empty.is_empty() && !value.is_empty());
        match empty {
            Some((_, empty)) => value.clone_into(empty),
            None => pairs.push((key.to_owned(), value.to_owned())),
        }
    }
    pairs.extend(mac.map(|mac| ("MAC".to_owned(), mac.to_owned())));
    if !ips.is_empty() {
        pairs.push(("IP".to_owned(), ips.join(",")));
    }
    pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call {
            container: "c".to_owned(),
            netns: "/run/netns/x".to_owned(),
            ifname: "eth0".to_owned(),
            pod_namespace: "default".to_owned(),
            pod_name: "nginx".to_owned(),
            pod_uid: "u".to_owned(),
            infra_container: "c".to_owned(),
            inherited: None,
            path: String::new(),
        }
    }

    #[test]
    fn thin_multus_says_everything_twice() {
        let from_containerd = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx;\
                               K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u";
        let own = "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=nginx;\
                   K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u";
        assert_eq!(build(&call(), Some(from_containerd), None, &[]), format!("{own};{from_containerd}"));
        assert_eq!(build(&call(), None, None, &[]), own);
        let ips = ["10.0.0.1/24".to_owned(), "fd00::1".to_owned()];
        assert_eq!(
            build(&call(), None, Some("02:00:00:00:00:01"), &ips),
            format!("{own};MAC=02:00:00:00:00:01;IP=10.0.0.1/24,fd00::1")
        );
    }
}
