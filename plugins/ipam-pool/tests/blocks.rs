//! What stands above [`Store`] on a store that holds only blocks of its pool, and claims them from what nodes share.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use ipam_pool::store::{KvTxn, MemoryStore, StoreError};
use ipam_pool::{
    Addr, AddrRange, AddrSet, AllocError, Allocator, Attachment, LeaseHolder, LeaseRequest, Millis, Owner,
    RangeSet, RangeSpec, Refusal, Rules, Store, within_blocks,
};

/// How many addresses a block has.
const BLOCK: u32 = 8;

/// Which block is whose: what an API server would know.
type Cluster = Rc<RefCell<BTreeMap<u32, &'static str>>>;

/// The store of one node.
struct Node {
    name: &'static str,
    cluster: Cluster,
    leases: MemoryStore,
}

fn block(number: u32) -> AddrRange {
    let ends = [number * BLOCK, number * BLOCK + BLOCK - 1];
    let [first, last] = ends.map(|bits| Addr::from(IpAddr::from(Ipv4Addr::from_bits(bits))));
    AddrRange::new(first, last).unwrap()
}

impl Store for Node {
    fn held(&self, wanted: &AddrSet) -> Result<AddrSet, StoreError> {
        let cluster = self.cluster.borrow();
        let mine = cluster.iter().filter(|(_, node)| **node == self.name).map(|(number, _)| block(*number));
        Ok(wanted.intersection(&AddrSet::union(mine)))
    }

    fn claim(&mut self, wanted: &AddrSet) -> Result<bool, StoreError> {
        let mut cluster = self.cluster.borrow_mut();
        for span in wanted.iter() {
            let [first, last] =
                [span.first(), span.last()].map(|a| u32::try_from(a.number()).unwrap() / BLOCK);
            if let Some(free) = (first..=last).find(|number| !cluster.contains_key(number)) {
                cluster.insert(free, self.name);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn change<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&mut dyn KvTxn) -> Result<T, E>,
    ) -> Result<T, E> {
        self.leases.change(work)
    }
}

fn add(node: &mut Node, pod: u32, asked: Option<&str>) -> Result<Addr, AllocError> {
    let spec = RangeSpec { subnet: "10.0.0.0/26".to_owned(), ..RangeSpec::default() };
    let sets = [RangeSet::new(0, vec![spec.parse().unwrap()]).unwrap()];
    let attachment =
        Attachment { container: format!("c{pod}"), interface: "net1".to_owned(), network: "lan".to_owned() };
    let holder =
        LeaseHolder { attachment, pod: None, uid: None, netns: None, launcher: None, since: Millis(0) };
    let owner = Some(Owner::pod("ns", &format!("pod-{pod}"), "lan"));
    let lease_request = LeaseRequest { holder, owner, sticky: false, migrating: false, beside_source: false };
    let asked = [asked.map(|text| text.parse::<IpAddr>().unwrap().into())];
    let grants = within_blocks(node, &sets, AllocError::wanted, |node, sets| {
        node.change(|txn| {
            Allocator::new(txn, sets, Rules::default(), Millis(0)).allocate(&lease_request, &asked)
        })
    })?;
    Ok(grants[0].address)
}

#[test]
fn nodes_claim_blocks_and_give_no_address_twice() {
    let cluster = Cluster::default();
    let mut nodes =
        ["a", "b"].map(|name| Node { name, cluster: cluster.clone(), leases: MemoryStore::default() });
    let mut given = BTreeSet::new();
    let mut full = [false; 2];
    for pod in 0.. {
        let which = usize::try_from(pod % 2).unwrap();
        match add(&mut nodes[which], pod, None) {
            Ok(address) => assert!(given.insert(address), "{address} twice"),
            Err(AllocError::Exhausted { .. }) => full[which] = true,
            Err(error) => panic!("{error}"),
        }
        if full == [true; 2] {
            break;
        }
    }
    // 64 addresses less the subnet's own, the gateway and broadcast.
    assert_eq!(given.len(), 61);
    assert_eq!(cluster.borrow().len(), 8);
}

#[test]
fn a_block_is_claimed_when_one_of_its_addresses_is_asked_for() {
    let cluster = Cluster::default();
    let mut nodes =
        ["a", "b"].map(|name| Node { name, cluster: cluster.clone(), leases: MemoryStore::default() });
    let asked = add(&mut nodes[0], 0, Some("10.0.0.20")).unwrap();
    assert_eq!(asked.to_string(), "10.0.0.20");
    assert_eq!(cluster.borrow().len(), 1, "no more than that block");
    match add(&mut nodes[1], 1, Some("10.0.0.21")) {
        Err(AllocError::Refused { refusal: Refusal::BlockNotHeld, .. }) => {}
        other => panic!("{other:?} in another node's block"),
    }
    assert_eq!(add(&mut nodes[0], 2, None).unwrap().to_string(), "10.0.0.16", "from the block that it holds");
}
