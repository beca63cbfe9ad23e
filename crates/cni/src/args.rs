use crate::Error;

/// What `CNI_ARGS` says: `KEY=VALUE` pairs with `;` between them.
///
/// These keys are known; an unknown one is an error unless `IgnoreUnknown` is set. An empty value is
/// as good as none, which is how Multus passes what it does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniArgs {
    /// `IgnoreUnknown`: unknown keys are no error.
    pub ignore_unknown: bool,
    /// `K8S_POD_NAMESPACE`
    pub pod_namespace: Option<String>,
    /// `K8S_POD_NAME`
    pub pod_name: Option<String>,
    /// `K8S_POD_UID`
    pub pod_uid: Option<String>,
    /// `K8S_POD_INFRA_CONTAINER_ID`
    pub infra_container_id: Option<String>,
    /// `MAC`, as it was given: [`Request::requested_mac`](crate::Request::requested_mac) reads it.
    pub mac: Option<String>,
    /// `IP`, one or several with commas, as it was given:
    /// [`Request::requested_ips`](crate::Request::requested_ips) reads it.
    pub ip: Option<String>,
}

impl CniArgs {
    /// Reads the variable as for ADD and CHECK.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let mut args = Self::default();
        let mut seen = Vec::new();
        let mut unknown = Vec::new();
        for pair in text.split(';').filter(|_| !text.is_empty()) {
            let (key, value) = match pair.split_once('=') {
                Some((key, value)) if !key.is_empty() && !value.contains('=') => (key, value),
                _ => return Err(Error::ArgsPair(pair.to_owned())),
            };
            if seen.iter().any(|(other, given)| *other == key && *given != value) {
                return Err(Error::ArgsTwice(key.to_owned()));
            }
            seen.push((key, value));
            if !args.set(key, value)? {
                unknown.push(pair);
            }
        }
        if unknown.is_empty() || args.ignore_unknown {
            Ok(args)
        } else {
            Err(Error::ArgsUnknown(unknown.join(";")))
        }
    }

    /// Reads the variable as for DEL, which must not fail on what ADD may have refused: whatever
    /// cannot be read is left out, and the first of several values counts.
    pub(crate) fn parse_leniently(text: &str) -> Self {
        let mut args = Self::default();
        for (key, value) in text.split(';').rev().filter_map(|pair| pair.split_once('=')) {
            // The only error is an IgnoreUnknown that is no boolean, and unknown keys are left out anyway.
            let _ = args.set(key, value);
        }
        args
    }

    /// Whether the key is known.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        let slot = match key {
            "IgnoreUnknown" => {
                self.ignore_unknown = match value.to_ascii_lowercase().as_str() {
                    "1" | "true" => true,
                    "" | "0" | "false" => false,
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
        *slot = (!value.is_empty()).then(|| value.to_owned());
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
        for bad in ["A", "=x", ";", "MAC=x;", "MAC=x;;IP=y", "A=b=c"] {
            assert!(matches!(CniArgs::parse(bad), Err(Error::ArgsPair(_))), "{bad}");
        }
        assert!(matches!(CniArgs::parse("IgnoreUnknown=yes"), Err(Error::ArgsBoolean(_))));
        assert_eq!(CniArgs::parse("").unwrap(), CniArgs::default());
    }

    #[test]
    fn a_second_namespace_cannot_be_slipped_in() {
        let text = "K8S_POD_NAMESPACE=a;K8S_POD_NAMESPACE=b";
        assert!(matches!(CniArgs::parse(text), Err(Error::ArgsTwice(key)) if key == "K8S_POD_NAMESPACE"));
        assert!(CniArgs::parse("K8S_POD_NAMESPACE=a;K8S_POD_NAMESPACE=a").is_ok());
        assert_eq!(CniArgs::parse_leniently(text).pod_namespace.as_deref(), Some("a"));
    }

    #[test]
    fn del_takes_what_it_can_read() {
        let args = CniArgs::parse_leniently(";;x;IgnoreUnknown=perhaps;A=1;K8S_POD_NAME=p=q;=");
        assert_eq!(args.pod_name.as_deref(), Some("p=q"));
    }
}
