//! The records that plugins read: one for each spoke, and which links carry LANs.

use anyhow::{Context as _, Result};
use net_types::SpokeName;
use node::Underlays;

use super::Reconciler;
use crate::lans::decision::Decisions;
use crate::lans::desired_records::{self, DesiredRecords, InUse};
use crate::lans::status_builder::StatusBuilder;

impl Reconciler {
    /// Records which links carry LANs, or will, or still do; the text is the error.
    pub(super) fn record_underlays(&self, decisions: &Decisions) -> Result<Option<String>> {
        let mut all = Vec::new();
        for lan in decisions.lans.values().flatten() {
            let Some(name) = lan.underlay(&self.node) else { continue };
            let index = self.host.link_by_name(name)?.map(|link| link.index);
            all.push(node::Underlay { lan: lan.key.to_string(), link: Some(name.clone()), index });
        }
        let standing = self.namespaces.underlays();
        all.extend(standing.map(|(lan, index)| node::Underlay {
            lan: lan.to_string(),
            link: None,
            index: Some(index),
        }));
        let wanted = Underlays::new(all);
        // A damaged record is written again.
        if Underlays::read_in(&self.run).ok().is_some_and(|there| there == wanted) {
            return Ok(None);
        }
        Ok(wanted.write(&self.run).err().map(|error| format!("{:#}", anyhow::Error::from(error))))
    }

    pub(super) fn in_use(&self) -> Vec<InUse> {
        let in_use = self.namespaces.in_use(|port| self.taps.spoke_of_port(port)).into_iter();
        in_use
            .map(|(spoke, netns, who)| {
                let observed = self.namespaces.observed(&netns);
                let lan = observed.and_then(|there| there.owner().cloned());
                let bridge = observed.and_then(desired_records::bridge);
                InUse { spoke, netns, lan, bridge, who }
            })
            .collect()
    }

    /// Writes the desired records. Before the steps, only records that take something back are written: `known` is
    /// whether the states of the LANs are in the report.
    pub(super) fn write_records(&mut self, decisions: &Decisions, report: &mut StatusBuilder, known: bool) {
        let in_use = self.in_use();
        let wanted = DesiredRecords {
            decisions,
            kubelet: self.kubelet,
            k8slan_go: self.k8slan_go,
            in_use: &in_use,
            there: &self.records,
            tap: &|spoke| self.taps.get(spoke),
            state: &|lan| if known { report.spoke_state(&lan.key) } else { None },
        }
        .wanted();
        let gone = self.records.spokes().filter(|spoke| !wanted.contains_key(*spoke)).cloned();
        let gone: Vec<SpokeName> = gone.collect();
        let wanted = wanted.into_iter().map(|(spoke, record)| (spoke, Some(record)));
        for (spoke, record) in gone.into_iter().map(|spoke| (spoke, None)).chain(wanted) {
            let lan = record.as_ref().map(|record| record.lan.clone());
            match (self.records.set(&spoke, record).context("write the record"), lan) {
                (Ok(true), Some(lan)) => {
                    let what = format!("the record of spoke {spoke} was gone or another");
                    self.repair_log.log(&lan, &what);
                }
                (Ok(_), _) => {}
                (Err(error), _) => report.set_record_error(&spoke, format!("{error:#}")),
            }
        }
    }
}
