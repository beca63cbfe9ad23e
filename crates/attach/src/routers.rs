//! Which router advertisements a pod's link accepts (RFC 4861, RFC 4862).

use netplumb::{Conf, Sysctl};

use crate::PodLink;

/// The settings that the network states; those that it does not state depend on the IPAM plugin's result.
///
/// If an IPAM plugin gave IPv6 addresses, they are the pod's only ones, and advertisements are not accepted.
/// Otherwise the kernel configures itself as usual, but accepts no default route if another interface of the pod has
/// one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FromRouters {
    /// `accept_ra`: whether advertisements are accepted at all.
    pub accept_ra: Option<bool>,
    /// `autoconf`: whether addresses are derived from advertised prefixes.
    pub autoconf: Option<bool>,
    /// `accept_ra_defrtr`: whether an advertising router becomes a default router.
    pub accept_ra_defrtr: Option<bool>,
    /// `keep_addr_on_down`: whether IPv6 addresses stay when the link goes down.
    pub keep_addr_on_down: Option<bool>,
}

/// The pod's link, with the settings that it has until the IPAM plugin has answered.
pub struct Undecided<'a> {
    wanted: FromRouters,
    link: PodLink<'a>,
    /// The values before [`Undecided`] changed them.
    held: Vec<(&'static str, String)>,
}

const ACCEPT_RA: &str = "accept_ra";
const AUTOCONF: &str = "autoconf";
const DEFAULT_ROUTER: &str = "accept_ra_defrtr";
const KEEP_ADDRESSES: &str = "keep_addr_on_down";

impl FromRouters {
    /// The settings before the link is up, if an IPAM plugin has yet to answer: no advertisement is accepted until
    /// then.
    fn until_ipam_answers(self) -> Vec<(&'static str, &'static str)> {
        let mut settings = self.stated();
        if self.accept_ra.is_none() {
            settings.push((ACCEPT_RA, "0"));
        } else if self.autoconf.is_none() {
            settings.push((AUTOCONF, "0"));
        }
        settings
    }

    /// The settings that the network states.
    fn stated(self) -> Vec<(&'static str, &'static str)> {
        let written = |setting, wanted: Option<bool>| wanted.map(|on| (setting, if on { "1" } else { "0" }));
        // With 1, the kernel accepts none in a pod that forwards (`ipv6_accept_ra` in `include/net/ipv6.h`).
        let accept_ra = self.accept_ra.map(|on| (ACCEPT_RA, if on { "2" } else { "0" }));
        [
            accept_ra,
            written(AUTOCONF, self.autoconf),
            written(DEFAULT_ROUTER, self.accept_ra_defrtr),
            written(KEEP_ADDRESSES, self.keep_addr_on_down),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Whether a default route over another interface matters, if advertisements are accepted.
    fn asks_for_others(self) -> bool {
        self.accept_ra_defrtr.is_none() && self.accept_ra != Some(false)
    }
}

impl<'a> PodLink<'a> {
    /// Sets what the link accepts from routers, before it is up. `with_ipam`: an IPAM plugin has yet to answer, and
    /// its result decides ([`Undecided::decide`]); until then no advertisement is accepted.
    ///
    /// # Errors
    /// The kernel refuses a setting.
    pub fn before_up(self, wanted: FromRouters, with_ipam: bool) -> netplumb::Result<Undecided<'a>> {
        let mut undecided = Undecided { wanted, link: self, held: Vec::new() };
        let mut settings = if with_ipam { wanted.until_ipam_answers() } else { wanted.stated() };
        let taken_at_once = !with_ipam || wanted.accept_ra == Some(true);
        if taken_at_once && wanted.asks_for_others() && undecided.others_have_a_default()? {
            settings.push((DEFAULT_ROUTER, "0"));
        }
        undecided.held = undecided.set(&settings)?;
        Ok(undecided)
    }
}

impl Undecided<'_> {
    /// Decides by the result of the IPAM plugin.
    ///
    /// # Errors
    /// The kernel refuses a setting.
    pub fn decide(self, gave_ipv6: bool) -> netplumb::Result<()> {
        let wanted = self.wanted;
        let mut settings = Vec::new();
        if gave_ipv6 {
            // Unchanged, except for what could be switched on later.
            if wanted.autoconf.is_none() {
                settings.push((AUTOCONF, "0"));
            }
            if wanted.keep_addr_on_down.is_none() {
                settings.push((KEEP_ADDRESSES, "1"));
            }
            return self.write(&settings);
        }
        if wanted.accept_ra.is_none() && wanted.asks_for_others() && self.others_have_a_default()? {
            settings.push((DEFAULT_ROUTER, "0"));
        }
        let stated = wanted.stated();
        let back = self.held.iter().filter(|(held, _)| !stated.iter().any(|(setting, _)| setting == held));
        // Last, since it lets advertisements in.
        settings.extend(back.map(|(setting, was)| (*setting, was.as_str())));
        self.write(&settings)
    }

    fn write(&self, settings: &[(&'static str, &str)]) -> netplumb::Result<()> {
        if settings.is_empty() { Ok(()) } else { self.link.netns.sysctl_write_all(&self.of_link(settings)) }
    }

    fn of_link<'v>(&self, settings: &[(&'static str, &'v str)]) -> Vec<(Sysctl, &'v str)> {
        let sysctl = |setting| Sysctl::ipv6(Conf::Link(self.link.name), setting);
        settings.iter().map(|(setting, value)| (sysctl(setting), *value)).collect()
    }

    /// Sets values that differ; returns the old ones.
    fn set(&self, settings: &[(&'static str, &str)]) -> netplumb::Result<Vec<(&'static str, String)>> {
        if settings.is_empty() {
            return Ok(Vec::new());
        }
        let before = self.link.netns.sysctl_swap_all(&self.of_link(settings))?;
        Ok(settings.iter().zip(before).filter_map(|((setting, _), was)| Some((*setting, was?))).collect())
    }

    fn others_have_a_default(&self) -> netplumb::Result<bool> {
        Ok(self.link.netlink.default_routes_ipv6()?.iter().any(|route| route.index != Some(self.link.index)))
    }
}
