use std::collections::BTreeSet;
use std::net::Ipv6Addr;

/// The IPv6 groups that the links of the thread's network namespace have joined, by the links' indexes.
///
/// The kernel drops a link's groups when IPv6 is removed from it, which an MTU below 1280 does, and nothing joins
/// them again when IPv6 comes back: a VXLAN device then receives nothing from other nodes, without any other sign.
#[derive(Debug, Default)]
pub(super) struct MulticastGroups(BTreeSet<(u32, Ipv6Addr)>);

impl MulticastGroups {
    /// The current groups; empty if the kernel has no IPv6.
    pub(super) fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap_or_default())
    }

    /// Parses lines such as `3 eth1 ff020000000000000000000000000014 1 00000004 0`.
    fn parse(table: &str) -> Self {
        let entry = |line: &str| {
            let mut words = line.split_whitespace();
            let index = words.next()?.parse().ok()?;
            let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
            Some((index, Ipv6Addr::from(group)))
        };
        Self(table.lines().filter_map(entry).collect())
    }

    /// Whether a link has joined a group.
    pub(super) fn has(&self, link: u32, group: Ipv6Addr) -> bool {
        self.0.contains(&(link, group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let groups = MulticastGroups::parse(
            "3    eth1            ff020000000000000000000000000014     1 00000004 0\n\
             12   eth2            ff020000000000000000000000000001     1 0000000C 0\n\n? x\n",
        );
        assert!(groups.has(3, "ff02::14".parse().unwrap()) && groups.has(12, "ff02::1".parse().unwrap()));
        assert!(!groups.has(12, "ff02::14".parse().unwrap()) && groups.0.len() == 2);
    }
}
