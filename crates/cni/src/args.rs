use crate::Error;

/// The variable `CNI_ARGS`: `KEY=VALUE` pairs with `;` between them.
///
/// An unknown key is an error unless `IgnoreUnknown` is set. An empty value counts as none: Multus passes values that
/// it does not know as empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs {
    /// Whether unknown keys are accepted (`IgnoreUnknown`).
    pub ignore_unknown: bool,
    /// The namespace of the pod, from `K8S_POD_NAMESPACE`.
    pub pod_namespace: Option<String>,
    /// The name of the pod, from `K8S_POD_NAME`.
    pub pod_name: Option<String>,
    /// The UID of the pod, from `K8S_POD_UID`.
    pub pod_uid: Option<String>,
    /// The container ID of the pod's sandbox, from `K8S_POD_INFRA_CONTAINER_ID`.
    pub infra_container_id: Option<String>,
    /// `MAC`, as it was given: [`Request::requested_mac`](crate::Request::requested_mac) reads it.
    pub mac: Option<String>,
    /// `IP`, one or several with commas, as it was given:
    /// [`Request::requested_ips`](crate::Request::requested_ips) reads it.
    pub ip: Option<String>,
}

impl CniArgs {
    /// Parses the variable for ADD and CHECK.
    ///
    /// A key may occur twice, since a meta-plugin adds its own pairs before or after the runtime's. The later
    /// non-empty value counts; two different values of a key that names the pod are an error.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let mut args = Self::default();
        let mut unknown = Vec::new();
        let mut odd = None;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() => (key, value),
                _ => return Err(Error::ArgsPair(pair.to_owned())),
            };
            if args.identity(key).is_some_and(|given| !value.is_empty() && given != value) {
                return Err(Error::ArgsTwice(key.to_owned()));
            }
            let known = args.set(key, value)?;
            if value.contains('=') {
                // The value of an unknown key may contain anything; no value of a known key contains a "=".
                if known {
                    return Err(Error::ArgsPair(pair.to_owned()));
                }
                odd.get_or_insert(pair);
            }
            if !known {
                unknown.push(pair);
            }
        }
        match odd {
            _ if unknown.is_empty() || args.ignore_unknown => Ok(args),
            Some(pair) => Err(Error::ArgsPair(pair.to_owned())),
            None => Err(Error::ArgsUnknown(unknown.join(";"))),
        }
    }

    /// The value so far, if the key is one that names the pod.
    fn identity(&self, key: &str) -> Option<&str> {
        match key {
            "K8S_POD_NAMESPACE" => self.pod_namespace.as_deref(),
            "K8S_POD_NAME" => self.pod_name.as_deref(),
            "K8S_POD_UID" => self.pod_uid.as_deref(),
            _ => None,
        }
    }

    /// Parses the variable for DEL, which must not fail on what ADD may have refused: unreadable pairs are left out.
    /// If a key that names the pod has several values, the first counts; of other keys the last, as for ADD.
    pub(crate) fn parse_leniently(text: &str) -> Self {
        let mut args = Self::default();
        for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
            if args.identity(key).is_some() {
                continue;
            }
            // The only error is an IgnoreUnknown that is not a boolean; unknown keys are left out anyway.
            let _ = args.set(key, value);
        }
        args
    }

    /// Sets one field; false if the key is unknown.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        let slot = match key {
            "IgnoreUnknown" => {
                self.ignore_unknown = match value.to_ascii_lowercase().as_str() {
                    "" => return Ok(true),
                    "1" | "true" => true,
                    "0" | "false" => false,
                    _ => return Err(Error::ArgsBoolean(value.to_owned())),
                };
                return Ok(true);
            }
            "K8S_POD_NAMESPACE" => &mut self.pod_namespace,
            "K8S_POD_NAME" => &mut self.pod_name,
            "K8S_POD_UID" => &mut self.pod_uid,
            "K8S_POD_INFRA_CONTAINER_ID" => &mut self.infra_container_id,
            "MAC" => &mut self.mac,
            "IP" => &mut self.ip,
            _ => return Ok(false),
        };
        if !value.is_empty() {
            *slot = Some(value.to_owned());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_runtimes_send() {
        let args = CniArgs::parse(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;\
             K8S_POD_UID=0d4e;MAC=02:00:00:00:00:01;IP=10.0.0.5/24,fd00::5;OTHER=x",
        )
        .unwrap();
        assert!(args.ignore_unknown);
        assert_eq!(args.pod_namespace.as_deref(), Some("default"));
        assert_eq!(args.pod_name.as_deref(), Some("web-0"));
        assert_eq!(args.pod_uid.as_deref(), Some("0d4e"));
        assert_eq!(args.infra_container_id.as_deref(), Some("abc"));
        assert_eq!(args.mac.as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(args.ip.as_deref(), Some("10.0.0.5/24,fd00::5"));
    }

    #[test]
    fn unknown_keys_need_ignore_unknown_wherever_it_stands() {
        assert!(matches!(CniArgs::parse("A=1;MAC=;B=2"), Err(Error::ArgsUnknown(u)) if u == "A=1;B=2"));
        assert!(matches!(CniArgs::parse("A=1;IgnoreUnknown=0"), Err(Error::ArgsUnknown(_))));
        for yes in ["A=1;IgnoreUnknown=1", "IgnoreUnknown=true;A=1", "A=;IgnoreUnknown=True"] {
            assert!(CniArgs::parse(yes).unwrap().ignore_unknown);
        }
    }

    #[test]
    fn refuses_what_is_no_pair() {
        for bad in ["A", "=x", "A=b=c", "IgnoreUnknown=1;K8S_POD_NAME=a=b", "IgnoreUnknown=1;MAC=x;IP"] {
            assert!(matches!(CniArgs::parse(bad), Err(Error::ArgsPair(_))), "{bad}");
        }
        assert!(matches!(CniArgs::parse("IgnoreUnknown=yes"), Err(Error::ArgsBoolean(_))));
        assert_eq!(CniArgs::parse("").unwrap(), CniArgs::default());
    }

    #[test]
    fn a_second_identity_cannot_be_slipped_in() {
        for key in ["K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID"] {
            for text in [
                format!("{key}=a;{key}=b"),
                format!("{key}=a;{key}=;{key}=b"),
                format!("IgnoreUnknown=1;{key}=b;OTHER=1;IgnoreUnknown=true;{key}=a"),
            ] {
                assert!(
                    matches!(CniArgs::parse(&text), Err(Error::ArgsTwice(twice)) if twice == key),
                    "{text}"
                );
            }
        }
        let text = "K8S_POD_NAMESPACE=a;K8S_POD_NAMESPACE=b";
        assert_eq!(CniArgs::parse_leniently(text).pod_namespace.as_deref(), Some("a"));
    }

    /// The variable as runtimes and meta-plugins write it, each as in its source: `libcni` joins the pairs that it
    /// gets, go-cni's come in any order, Multus and ocicni append those of their own environment.
    #[test]
    fn every_real_caller_is_understood() {
        let containerd = "K8S_POD_UID=0d4e;IgnoreUnknown=1;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_NAMESPACE=default";
        let crio = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=0d4e";
        let multus = "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=0d4e";
        let old = "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=;K8S_POD_UID=";
        for text in [
            containerd.to_owned(),
            crio.to_owned(),
            format!("{multus};{containerd}"),
            format!("{multus};{crio}"),
            format!("{old};{crio}"),
            format!("{crio};{old}"),
            // A Multus service inside another: each puts its own pairs before those that it was given.
            format!("{multus};{multus};{containerd}"),
            format!("{multus};BLAH=foo=bar;{containerd};"),
            format!(";;{crio};IgnoreUnknown="),
            format!("IgnoreUnknown=0;{crio}"),
        ] {
            let args = CniArgs::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(args.ignore_unknown, "{text}");
            assert_eq!(args.pod_namespace.as_deref(), Some("default"), "{text}");
            assert_eq!(args.pod_name.as_deref(), Some("web-0"), "{text}");
            assert_eq!(args.infra_container_id.as_deref(), Some("abc"), "{text}");
            assert_eq!(args.pod_uid.as_deref(), Some("0d4e"), "{text}");
            assert_eq!(CniArgs::parse_leniently(&text), args, "{text}");
        }
        // podman 4.3.1, `--network two --ip 10.0.0.77 --mac-address 02:00:00:00:00:77`: a name without a namespace.
        let podman =
            CniArgs::parse("IgnoreUnknown=1;K8S_POD_NAME=b;MAC=02:00:00:00:00:77;IP=10.0.0.77").unwrap();
        assert_eq!((podman.pod_name.as_deref(), podman.pod_namespace), (Some("b"), None));
        assert_eq!(podman.ip.as_deref(), Some("10.0.0.77"));
        // ctr and cnitool without a pod, and CRI-O's static IP and MAC behind what it was given.
        for nothing in
            ["", ";", "IgnoreUnknown=1", "IgnoreUnknown=1;K8S_POD_NAMESPACE=;K8S_POD_NAME=;K8S_POD_UID="]
        {
            assert_eq!(CniArgs::parse(nothing).unwrap().pod_name, None, "{nothing}");
        }
        let args =
            CniArgs::parse("IP=10.0.0.5;MAC=02:00:00:00:00:01;IgnoreUnknown=1;IP=10.0.0.6;MAC=").unwrap();
        assert_eq!(args.ip.as_deref(), Some("10.0.0.6"));
        assert_eq!(args.mac.as_deref(), Some("02:00:00:00:00:01"));
    }

    #[test]
    fn del_takes_what_it_can_read() {
        let args = CniArgs::parse_leniently(";;x;IgnoreUnknown=perhaps;A=1;K8S_POD_NAME=p=q;=");
        assert_eq!(args.pod_name.as_deref(), Some("p=q"));
    }
}
