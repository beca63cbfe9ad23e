use lan::pool::{PoolRange, Range, RangeError};
use serde::{Deserialize, Serialize};

/// A range as it is written, in host-local's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RangeSpec {
    /// The link's subnet in CIDR notation, e.g. `10.0.20.0/24`.
    pub subnet: String,
    /// The first address handed out; the subnet's first usable one by default.
    #[serde(default, deserialize_with = "cni::unless_empty", skip_serializing_if = "Option::is_none")]
    pub range_start: Option<String>,
    /// The last address handed out; the subnet's last usable one by default.
    #[serde(default, deserialize_with = "cni::unless_empty", skip_serializing_if = "Option::is_none")]
    pub range_end: Option<String>,
    /// The gateway: never handed out. By default the subnet's first usable address, as with host-local;
    /// `none` where the subnet has none. Subnets of one or two addresses have none by default. It may be outside
    /// the subnet, link-local (`fe80::1`) too: routes through it then need no network that has it. The first address of
    /// an IPv6 subnet (`fd00::`) is all its routers'.
    #[serde(default, deserialize_with = "cni::unless_empty", skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

impl RangeSpec {
    /// Parses the range.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(&self) -> Result<Range, RangeError> {
        let Self { subnet, range_start, range_end, gateway } = self.clone();
        Range::parse(&PoolRange { subnet, range_start, range_end, gateway })
    }
}
