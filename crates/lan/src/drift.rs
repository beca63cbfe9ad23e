use crate::{Change, Step};

impl Step {
    /// What was wrong with a LAN that had been complete, in a few words: "vx2 was gone".
    ///
    /// `None` for a step that only follows from another one, such as setting up a link that is created again, and for
    /// what pods leave behind.
    #[must_use]
    pub fn drift(&self) -> Option<String> {
        let (link, change) = match self {
            Self::CreateNetns(_) => return Some("its network namespace was gone".to_owned()),
            Self::MountNetns => return Some("its network namespace had lost its name".to_owned()),
            Self::Set { path, value } => return Some(format!("{path} was not {value}")),
            Self::RemoveLink(link) => return Some(format!("{link} was another device than it should be")),
            Self::CreateBridge { name, .. } | Self::CreateVxlan { name, .. } => {
                return Some(format!("{name} was gone"));
            }
            Self::RemoveNetns | Self::RemoveSpoke(_) => return None,
            Self::Change(link, change) if link.index.is_some() => (link, change),
            Self::Change(..) => return None,
        };
        // A limit of learned addresses is new on a bridge of a version before.
        let Change { mark, master, mtu, stp, mcast_snooping, max_learned: _, group_fwd_mask, up } = change;
        let on_off = |on: bool| if on { "off" } else { "on" };
        let was = [
            mark.is_some().then(|| "had lost its mark".to_owned()),
            master.as_ref().map(|bridge| format!("was no port of {bridge}")),
            mtu.map(|mtu| format!("had another MTU than {mtu}")),
            stp.map(|stp| format!("had spanning tree {}", on_off(stp))),
            mcast_snooping.map(|snooping| format!("had multicast snooping {}", on_off(snooping))),
            // A port that changes its bridge starts with the kernel's default.
            group_fwd_mask
                .filter(|_| master.is_none())
                .map(|mask| format!("had another group_fwd_mask than {mask:#06x}")),
            up.map(|up| format!("was {}", if up { "down" } else { "up" })),
        ];
        let was: Vec<String> = was.into_iter().flatten().collect();
        (!was.is_empty()).then(|| format!("{link} {}", was.join(" and ")))
    }
}

/// What was wrong, derived from the steps that repair it.
#[must_use]
pub fn drift(steps: &[Step]) -> String {
    // A device is replaced by removing and creating it.
    let replaced = |step: &&Step| match step {
        Step::CreateBridge { name, .. } | Step::CreateVxlan { name, .. } => {
            !steps.iter().any(|step| matches!(step, Step::RemoveLink(link) if link.name == *name))
        }
        _ => true,
    };
    let was: Vec<String> = steps.iter().filter(replaced).filter_map(Step::drift).collect();
    was.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Target;

    fn link(name: &str, index: Option<u32>) -> Target {
        Target { name: name.to_owned(), index }
    }

    fn change(change: Change) -> Step {
        Step::Change(link("vx2", Some(7)), change)
    }

    #[test]
    fn what_was_wrong_is_told_in_the_words_of_a_reader() {
        let up = Change { up: Some(true), ..Change::default() };
        let port = Change {
            master: Some(link("br2", Some(3))),
            group_fwd_mask: Some(0xfff8),
            up: Some(true),
            ..Change::default()
        };
        let bridge = Change { mcast_snooping: Some(false), stp: Some(false), ..Change::default() };
        let mtu = Change { mtu: Some(1426.try_into().unwrap()), ..Change::default() };
        let made = Step::CreateBridge { name: "br2".to_owned(), mtu: None };
        for (steps, says) in [
            (vec![change(up.clone())], "vx2 was down"),
            (vec![change(port)], "vx2 was no port of br2 and was down"),
            (vec![change(bridge)], "vx2 had spanning tree on and had multicast snooping on"),
            (vec![change(mtu)], "vx2 had another MTU than 1426"),
            (vec![made.clone(), Step::Change(link("br2", None), up.clone())], "br2 was gone"),
            (vec![made.clone(), change(up.clone())], "br2 was gone, vx2 was down"),
            (vec![Step::RemoveLink(link("br2", Some(3))), made], "br2 was another device than it should be"),
            (vec![Step::MountNetns], "its network namespace had lost its name"),
            (vec![Step::Set { path: "ipv4/ip_forward", value: "0" }], "ipv4/ip_forward was not 0"),
            (vec![Step::RemoveSpoke(link("a", Some(9)))], ""),
        ] {
            assert_eq!(drift(&steps), says, "{steps:?}");
        }
    }
}
