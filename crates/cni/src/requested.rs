use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use net_types::MacAddr;

use crate::{Channel, Error, Request, RequestedIpError};

/// A requested address, with or without the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestedIp {
    /// The address without its prefix length.
    pub address: IpAddr,
    /// The prefix length, where one was given: at most 32 or 128.
    pub prefix: Option<u8>,
}

impl FromStr for RequestedIp {
    type Err = RequestedIpError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| RequestedIpError::Address(text.to_owned()))?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix
            .map(|prefix| {
                // u8's parser would accept a sign.
                let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
                match prefix.parse() {
                    Ok(length) if digits && length <= max => Ok(length),
                    _ => Err(RequestedIpError::Prefix(text.to_owned(), max)),
                }
            })
            .transpose()?;
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for RequestedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            Some(prefix) => write!(f, "{}/{prefix}", self.address),
            None => self.address.fmt(f),
        }
    }
}

impl<C> Request<C> {
    /// The virtual machine that the pod runs, where the request names it: `args.cni.vm`. An empty text names none.
    #[must_use]
    pub fn stated_vm(&self) -> Option<&str> {
        self.args_cni.vm.as_deref().filter(|vm| !vm.is_empty())
    }

    /// The requested MAC address: `runtimeConfig.mac`, else `args.cni.mac`, else `MAC` in `CNI_ARGS`. Empty texts
    /// request nothing.
    ///
    /// # Errors
    /// The one that counts is not the address of a link; the error names the channel that it came by.
    pub fn requested_mac(&self) -> Result<Option<MacAddr>, Error> {
        let given = [
            (Channel::RuntimeConfig, &self.runtime_config.mac),
            (Channel::ArgsCni, &self.args_cni.mac),
            (Channel::CniArgs, &self.args.mac),
        ];
        let given = given
            .into_iter()
            .find_map(|(channel, mac)| Some((channel, mac.as_deref().filter(|mac| !mac.is_empty())?)));
        match given {
            Some((channel, mac)) => {
                mac.parse().map(Some).map_err(|source| Error::RequestedMac { channel, source })
            }
            None => Ok(None),
        }
    }

    /// The requested addresses: `runtimeConfig.ips`, else `args.cni.ips`, else `IP` in `CNI_ARGS` (several with
    /// commas). If `args.cni.ips` is present, even empty, `IP` is ignored.
    ///
    /// # Errors
    /// One of those that count is not an address; the error names the channel that it came by.
    pub fn requested_ips(&self) -> Result<Vec<RequestedIp>, Error> {
        fn parse<'a>(
            channel: Channel,
            ips: impl Iterator<Item = &'a str>,
        ) -> Result<Vec<RequestedIp>, Error> {
            ips.map(|ip| ip.trim().parse().map_err(|source| Error::RequestedIp { channel, source })).collect()
        }
        match (&self.runtime_config.ips, &self.args_cni.ips, &self.args.ip) {
            (Some(ips), _, _) if !ips.is_empty() => {
                parse(Channel::RuntimeConfig, ips.iter().map(String::as_str))
            }
            (_, Some(ips), _) => parse(Channel::ArgsCni, ips.iter().map(String::as_str)),
            (_, None, Some(ip)) => parse(Channel::CniArgs, ip.split(',')),
            (_, None, None) => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_prefix() {
        for text in ["10.0.0.5", "10.0.0.5/24", "10.0.0.5/32", "fd00::5", "fd00::5/128", "fd00::5/0"] {
            assert_eq!(text.parse::<RequestedIp>().unwrap().to_string(), text);
        }
        for bad in ["", "/", "10.0.0", "10.0.0.256", "fd00::5%eth0", "010.0.0.1", " 10.0.0.1"] {
            assert!(matches!(bad.parse::<RequestedIp>(), Err(RequestedIpError::Address(_))), "{bad:?}");
        }
        for bad in ["10.0.0.5/33", "10.0.0.5/", "10.0.0.5/+1", "10.0.0.5/1/2", "fd00::/129", "::/256"] {
            assert!(matches!(bad.parse::<RequestedIp>(), Err(RequestedIpError::Prefix(..))), "{bad:?}");
        }
    }

    /// The request with these `CNI_ARGS` and these further fields in the configuration.
    fn request(args: &str, fields: &str) -> Request<()> {
        let environment = [("CNI_ARGS", args)].into_iter().collect();
        let stdin = format!(r#"{{"cniVersion":"1.1.0","name":"n"{fields}}}"#);
        let mut version = crate::Version::LATEST;
        crate::request::parse(crate::Verb::Add, environment, stdin.into(), &[], &mut version).unwrap().0
    }

    #[test]
    fn a_mac_counts_by_its_channel() {
        let runtime = r#","runtimeConfig":{"mac":"02:00:00:00:00:01"}"#;
        let cni = r#","args":{"cni":{"mac":"02:00:00:00:00:02"}}"#;
        let args = "MAC=02-00-00-00-00-03";
        let mac = |args, fields: &str| request(args, fields).requested_mac().unwrap().map(|m| m.octets()[5]);
        assert_eq!(mac(args, &format!("{runtime}{cni}")), Some(1));
        assert_eq!(mac(args, cni), Some(2));
        assert_eq!(mac(args, ""), Some(3));
        assert_eq!(mac("", ""), None);
        // Empty texts and null request nothing.
        assert_eq!(mac(args, r#","runtimeConfig":{"mac":""},"args":{"cni":null}"#), Some(3));
        assert_eq!(mac("MAC=", r#","runtimeConfig":null,"args":null"#), None);
        // A value that does not count may be wrong.
        assert_eq!(mac("MAC=x", runtime), Some(1));
    }

    #[test]
    fn addresses_count_by_their_channel() {
        let runtime = r#","runtimeConfig":{"ips":["10.0.0.1","fd00::1/64"]}"#;
        let cni = r#","args":{"cni":{"ips":["10.0.0.2/24"]}}"#;
        let args = "IP=10.0.0.3/24, fd00::3";
        let ips = |args, fields: &str| -> Vec<String> {
            request(args, fields).requested_ips().unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(ips(args, &format!("{runtime}{cni}")), ["10.0.0.1", "fd00::1/64"]);
        assert_eq!(ips(args, cni), ["10.0.0.2/24"]);
        assert_eq!(ips(args, ""), ["10.0.0.3/24", "fd00::3"]);
        assert!(ips("IP=", "").is_empty());
        // An empty list requests nothing, but args.cni.ips still overrides IP.
        assert_eq!(ips(args, r#","runtimeConfig":{"ips":[]}"#), ["10.0.0.3/24", "fd00::3"]);
        assert!(ips(args, r#","args":{"cni":{"ips":[]}}"#).is_empty());
        assert!(matches!(
            request("IP=10.0.0.3,", "").requested_ips(),
            Err(Error::RequestedIp { channel: Channel::CniArgs, source: RequestedIpError::Address(_) })
        ));
    }

    #[test]
    fn what_no_plugin_reads_may_have_any_shape() {
        // podman 4.3.1, `--network v1:alias=web,alias=db,ip=10.0.0.91`, where the plugin declares the capability aliases.
        let args = "IgnoreUnknown=1;K8S_POD_NAME=m;IP=10.0.0.91";
        let fields = r#","capabilities":{"aliases":true,"ips":true,"mac":true},
            "runtimeConfig":{"aliases":{"v1":["web","db","bb1460152158"]}}"#;
        assert_eq!(request(args, fields).requested_ips().unwrap()[0].to_string(), "10.0.0.91");
        for capability in
            ["aliases", "cgroupPath", "dns", "infinibandGUID", "io.kubernetes.cri.pod-annotations"]
        {
            for value in ["5", r#""x""#, "[1]", r#"{"a":[5]}"#, "null"] {
                let fields =
                    format!(r#","runtimeConfig":{{"mac":"02:00:00:00:00:01","{capability}":{value}}}"#);
                assert!(request("", &fields).requested_mac().unwrap().is_some(), "{capability}: {value}");
            }
        }
    }
}
