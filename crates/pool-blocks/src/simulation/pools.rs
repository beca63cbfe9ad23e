//! The pool, which people edit, and what nodes know of it.

use super::random::Random;
use super::world::{Event, MINUTE, SECOND, World};
use crate::geometry::addresses;
use crate::{BlockLengths, Geometry, PoolName};

/// The ranges that a pool may have; the first are those that it begins and ends with.
const OF_SINGLE_ADDRESSES: &[&[&str]] = &[
    &["10.0.0.1-10.0.0.5"],
    &["10.0.0.1-10.0.0.3"],
    &["10.0.0.3-10.0.0.7"],
    &["10.0.0.1", "10.0.0.4-10.0.0.5"],
];
const OF_BLOCKS: &[&[&str]] = &[
    &["10.0.0.1-10.0.0.14"],
    &["10.0.0.1-10.0.0.7"],
    &["10.0.0.6-10.0.0.18"],
    &["10.0.0.1-10.0.0.4", "10.0.0.6", "10.0.0.10-10.0.0.14"],
];

/// The pool as the API server has it.
pub(super) struct Pool {
    pub(super) name: PoolName,
    lengths: BlockLengths,
    forms: &'static [&'static [&'static str]],
    /// `None`: it is deleted, or not accepted.
    pub(super) now: Option<Geometry>,
}

impl Pool {
    pub(super) fn new(random: &mut Random) -> Self {
        let (v4, forms) = if random.percent(40) { (32, OF_SINGLE_ADDRESSES) } else { (30, OF_BLOCKS) };
        let mut pool = Self { name: "p".into(), lengths: BlockLengths { v4, v6: 128 }, forms, now: None };
        pool.become_form(0);
        pool
    }

    fn become_form(&mut self, form: usize) {
        let form = self.forms.get(form);
        self.now = form.map(|texts| Geometry::new(self.name.clone(), self.lengths, addresses(texts)));
    }
}

impl World {
    /// Somebody changes its ranges, deletes it, or makes it anew with the same length of blocks.
    pub(super) fn edit_pool(&mut self) {
        let form = self.random.index(self.pool.forms.len() + 1);
        self.set_pool(form);
    }

    /// Becomes what it was at the beginning, and everybody knows.
    pub(super) fn restore_pool(&mut self) {
        self.set_pool(0);
        (0..self.machines.len()).for_each(|machine| self.learn_pool(machine));
    }

    fn set_pool(&mut self, form: usize) {
        self.pool.become_form(form);
        self.note(|w| {
            format!("the pool is {:?}", w.pool.now.as_ref().map(|pool| pool.addresses().to_string()))
        });
        (0..self.machines.len()).for_each(|machine| self.learn_pool_soon(machine));
    }

    /// The watch says so, soon or late.
    pub(super) fn learn_pool_soon(&mut self, machine: usize) {
        let most = if self.random.percent(80) { SECOND } else { 10 * MINUTE };
        let delay = self.random.between(5, most);
        self.at(self.now + delay, Event::LearnPool(machine));
    }

    pub(super) fn learn_pool(&mut self, machine: usize) {
        if !self.machines[machine].runs() || self.machines[machine].partitioned {
            let delay = self.random.between(MINUTE, 3 * MINUTE);
            return self.at(self.now + delay, Event::LearnPool(machine));
        }
        let pools: Vec<Geometry> = self.pool.now.iter().cloned().collect();
        if self.machines[machine].pools != pools {
            self.note(|w| format!("{}: hears what the pool is", w.machines[machine].name));
            self.machines[machine].node.set_pools(pools.clone());
            self.machines[machine].pools = pools;
        }
    }

    /// Whether a machine knows the pool that its pods' addresses are of, or knows that there is none.
    pub(super) fn knows_pool(&self, machine: usize) -> bool {
        !self.machines[machine].pools.is_empty() || self.pool.now.is_none()
    }
}
