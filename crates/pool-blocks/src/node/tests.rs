use super::*;
use crate::geometry::addresses;
use crate::weakness::{Weakened, Weakness};
use crate::{Answer, BlockLengths, Holder, NodeState, Object, ResourceVersion, Spec};

struct Unused;

impl Leases for Unused {
    fn used(&self, _: &Key) -> AddrSet {
        AddrSet::default()
    }

    fn keys(&self) -> Vec<(Key, Option<Owner>)> {
        Vec::new()
    }
}

fn pool(texts: &[&str]) -> Geometry {
    Geometry::new("office".into(), BlockLengths { v4: 32, v6: 128 }, addresses(texts))
}

#[test]
fn a_list_that_does_not_come_is_not_asked_for_at_once() {
    let mut node = Node::start(
        "a".into(),
        Horizon::DEFAULT,
        vec![pool(&["10.0.0.1"])],
        Some(Disk::default()),
        Run::default(),
    );
    let now = BootTime::from_millis(1_000);
    node.own = Some((Uid::from_number(1), now));
    node.next_own = now.after(Horizon::DEFAULT.between_reads());
    let out = node.step(now, &Unused, Input::Want(Want::Block("office".into(), Family::V4)));
    let [Output::Send(id, Request::Create(key, spec))] = &out[..] else { panic!("{out:?}") };
    let object = Object {
        key: key.clone(),
        uid: Uid::from_number(2),
        version: ResourceVersion(1),
        spec: spec.clone(),
    };
    let out = node.step(now, &Unused, Input::Answered(*id, Answer::Written(object)));
    let [Output::Send(id, Request::ListAddresses(_))] = &out[..] else { panic!("{out:?}") };
    let out = node.step(now, &Unused, Input::Answered(*id, Answer::Unknown));
    assert_eq!(out, []);
    let later = node.wake_at(now);
    assert!(later > now && matches!(node.step(later, &Unused, Input::Tick)[..], [Output::Send(..)]));
}

#[test]
fn a_block_that_was_asked_for_by_an_address_has_no_replacement_and_pools_change() {
    let geometry = pool(&["10.0.0.1-10.0.0.9"]);
    let mut node =
        Node::start("a".into(), Horizon::DEFAULT, vec![geometry], Some(Disk::default()), Run::default());
    let now = BootTime::from_millis(1_000);
    node.own = Some((Uid::from_number(1), now));
    node.next_own = now.after(Horizon::DEFAULT.between_reads());
    let address = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().unwrap());
    let want = |node: &mut Node, text: &str| {
        let want = Want::BlockOf("office".into(), address(text));
        node.step(now, &Unused, Input::Want(want))
    };
    assert_eq!(want(&mut node, "10.0.0.10"), [], "it is not in the pool");
    let out = want(&mut node, "10.0.0.5");
    let [Output::Send(id, Request::Create(key, _))] = &out[..] else { panic!("{out:?}") };
    assert_eq!(key.to_string(), "office.0a000005");
    node.set_pools(Vec::new());
    assert_eq!(node.progress().collect::<Vec<_>>(), [(key, Progress::Claiming)], "it is not dropped");
    assert!(node.addresses(key).is_empty());
    node.set_pools(vec![pool(&["10.0.0.1-10.0.0.9"])]);
    let out = node.step(now, &Unused, Input::Answered(*id, Answer::AlreadyExists));
    let [Output::Send(id, Request::Get(_))] = &out[..] else { panic!("{out:?}") };
    let other = Object {
        key: key.clone(),
        uid: Uid::from_number(2),
        version: ResourceVersion(1),
        spec: Spec::default(),
    };
    assert_eq!(node.step(now, &Unused, Input::Answered(*id, Answer::Object(Some(other)))), []);
    assert!(node.is_taken(now, key) && node.keys().count() == 0);
}

/// A pod has 10.0.0.9.
struct OnePod(Key);

impl Leases for OnePod {
    fn used(&self, key: &Key) -> AddrSet {
        if *key == self.0 { addresses(&["10.0.0.9"]) } else { AddrSet::default() }
    }

    fn keys(&self) -> Vec<(Key, Option<Owner>)> {
        vec![(self.0.clone(), None)]
    }
}

#[test]
fn what_is_taken_again_is_not_used_by_the_next_process_before_it_is_checked() {
    let (name, now) = (NodeName::from("n1"), BootTime::from_millis(5));
    let lengths = BlockLengths { v4: 30, v6: 128 };
    let pool = || Geometry::new("p".into(), lengths, addresses(&["10.0.0.1-10.0.0.12"]));
    let key = Key::parse_block("p.0a000008", |_, _| Some(30)).unwrap();
    let leases = OnePod(key.clone());
    let start = |disk, run| Node::start(name.clone(), Horizon::DEFAULT, vec![pool()], disk, run);
    // Its disk was lost, and a pod has an address.
    let mut node = start(None, Run::default());
    let mut disk = None;
    let mut sent = Vec::new();
    let mut take = |outputs: Vec<Output>| {
        let mut synced = DiskVersion(0);
        for output in outputs {
            match output {
                Output::Write(version, written) => (synced, disk) = (version, Some(written)),
                Output::Send(id, request) => sent.push((id, request)),
            }
        }
        (synced, std::mem::take(&mut sent))
    };
    let (synced, mut asked) = take(node.step(now, &leases, Input::Counted));
    asked.extend(take(node.step(now, &leases, Input::Synced(synced))).1);
    let uid = Uid::from_number(1);
    let holder = |term| Holder { node: name.clone(), uid, term, fenced: false };
    let spec = Spec { holders: vec![holder(3)], released: addresses(&["10.0.0.8"]), ..Spec::default() };
    let object = |version, spec| Object {
        key: key.clone(),
        uid: Uid::from_number(2),
        version: ResourceVersion(version),
        spec,
    };
    let mut is_listed = false;
    while let Some((id, request)) = asked.pop() {
        let answer = match request {
            Request::ReadOwn => Answer::Own(Some(NodeState { uid, out_of_service: false }), Vec::new()),
            Request::Get(_) => Answer::Object(Some(object(7, spec.clone()))),
            Request::Update(_, _, _, taken) => Answer::Written(object(8, taken)),
            // The process ends while it waits for this.
            Request::ListAddresses(_) => {
                is_listed = true;
                continue;
            }
            other => panic!("{other:?}"),
        };
        let (synced, more) = take(node.step(now, &leases, Input::Answered(id, answer)));
        asked.extend(more);
        asked.extend(take(node.step(now, &leases, Input::Synced(synced))).1);
    }
    assert!(is_listed, "the block was taken and is to be checked");
    let next = start(disk, node.run());
    assert_eq!(next.may_use(now, &key), Err(Refusal::NotHeld(key)), "10.0.0.8 floats");
}

/// Steps a node until it asks for a list of the addresses: writes are synced at once, and the API server has this block.
fn step_to_the_list(node: &mut Node, leases: &dyn Leases, block: &Object, input: Input) -> Option<RequestId> {
    let now = BootTime::from_millis(5);
    let mut listed = None;
    let mut next = vec![input];
    while let Some(input) = next.pop() {
        for output in node.step(now, leases, input) {
            next.push(match output {
                Output::Write(version, _) => Input::Synced(version),
                Output::Send(id, Request::ReadOwn) => {
                    let own = NodeState { uid: block.spec.holders[0].uid, out_of_service: false };
                    Input::Answered(id, Answer::Own(Some(own), vec![block.clone()]))
                }
                Output::Send(id, Request::Update(key, uid, _, spec)) => {
                    Input::Answered(id, Answer::Written(Object { key, uid, version: block.version, spec }))
                }
                Output::Send(id, Request::ListAddresses(_)) => {
                    listed = Some(id);
                    continue;
                }
                other => panic!("{other:?}"),
            });
        }
    }
    listed
}

#[test]
fn each_process_tells_who_is_in_the_way_until_nobody_is() {
    let (name, now) = (NodeName::from("n1"), BootTime::from_millis(5));
    let pool =
        Geometry::new("p".into(), BlockLengths { v4: 30, v6: 128 }, addresses(&["10.0.0.1-10.0.0.12"]));
    let key = Key::parse_block("p.0a000008", |_, _| Some(30)).unwrap();
    let leases = OnePod(key.clone());
    let (uid, of_node) = (Uid::from_number(2), Uid::from_number(1));
    let record = Record { uid, phase: Phase::Held, released: AddrSet::default(), owner: None };
    let disk = || Some(Disk { records: [(key.clone(), record.clone())].into() });
    let start = |run| Node::start(name.clone(), Horizon::DEFAULT, vec![pool.clone()], disk(), run);
    let holder = |node: NodeName| Holder { node, uid: of_node, term: 0, fenced: false };
    let object = |key: &Key, holders| Object {
        key: key.clone(),
        uid,
        version: ResourceVersion(1),
        spec: Spec { holders, ..Spec::default() },
    };
    let block = object(&key, vec![holder(name.clone())]);
    let floating = |text: &str, holders| {
        let mut floating = object(&Key::parse_address(text).unwrap(), holders);
        floating.spec.owner = Some("vm:default/a".into());
        floating
    };

    let mut run = Run::default();
    for _ in 0..2 {
        let mut node = start(run);
        let list = step_to_the_list(&mut node, &leases, &block, Input::Tick).expect("a list");
        assert_eq!(node.may_use(now, &key), Err(Refusal::NotHeld(key.clone())));
        let all =
            vec![floating("p.10.0.0.9", vec![holder("n2".into())]), floating("p.10.0.0.10", Vec::new())];
        let answer = Input::Answered(list, Answer::Addresses(all));
        step_to_the_list(&mut node, &leases, &block, answer);
        assert!(node.may_use(now, &key).is_ok());
        assert_eq!(node.addresses(&key).to_string(), "10.0.0.8, 10.0.0.11");
        assert_eq!(node.conflicts(&leases)[0].other, "vm:default/a on n2");
        run = node.run();
    }
    let mut node = start(run);
    let list = step_to_the_list(&mut node, &leases, &block, Input::Tick).expect("a list");
    step_to_the_list(&mut node, &leases, &block, Input::Answered(list, Answer::Addresses(Vec::new())));
    assert_eq!(node.conflicts(&leases), []);
    let mut node = start(node.run());
    assert!(node.may_use(now, &key).is_ok(), "it was used by the process before");
    assert_eq!(step_to_the_list(&mut node, &leases, &block, Input::Tick), None);
}

/// That the backup was restored which lacked the block, and that the owner got the address meanwhile, is over when this begins.
#[test]
fn what_a_pod_and_an_owner_had_is_given_to_no_other_pod() {
    let now = BootTime::from_millis(5);
    let pool =
        Geometry::new("p".into(), BlockLengths { v4: 30, v6: 128 }, addresses(&["10.0.0.1-10.0.0.12"]));
    let key = Key::parse_block("p.0a000008", |_, _| Some(30)).unwrap();
    let holder = |node: &str| Holder { node: node.into(), uid: Uid::from_number(1), term: 0, fenced: false };
    let object = |key: &Key, holders| Object {
        key: key.clone(),
        uid: Uid::from_number(2),
        version: ResourceVersion(1),
        spec: Spec { holders, ..Spec::default() },
    };
    let block = object(&key, vec![holder("n1")]);
    let floating = || {
        let mut floating = object(&Key::parse_address("p.10.0.0.9").unwrap(), vec![holder("n2")]);
        floating.spec.owner = Some("vm:default/a".into());
        vec![floating]
    };
    let record = Record { uid: block.uid, phase: Phase::Held, released: AddrSet::default(), owner: None };
    let disk = Some(Disk { records: [(key.clone(), record)].into() });
    let mut node = Node::start("n1".into(), Horizon::DEFAULT, vec![pool], disk, Run::default());
    let has = |node: &Node| {
        assert!(node.may_use(now, &key).is_ok());
        node.addresses(&key).to_string()
    };

    let pod = OnePod(key.clone());
    let list = step_to_the_list(&mut node, &pod, &block, Input::Tick).expect("a list");
    step_to_the_list(&mut node, &pod, &block, Input::Answered(list, Answer::Addresses(floating())));
    assert_eq!((node.conflicts(&pod).len(), has(&node).as_str()), (1, "10.0.0.8, 10.0.0.10-10.0.0.11"));

    // The pod goes.
    for _ in 0..2 {
        let list = step_to_the_list(&mut node, &Unused, &block, Input::Changed).expect("a list");
        step_to_the_list(&mut node, &Unused, &block, Input::Answered(list, Answer::Addresses(floating())));
        assert_eq!(
            (node.conflicts(&Unused).len(), has(&node).as_str()),
            (0, "10.0.0.8, 10.0.0.10-10.0.0.11")
        );
        assert!(node.run().permits.is_empty(), "the next process looks for itself");
    }
    // The owner has it no more; one list says so, and there is no other.
    let list = step_to_the_list(&mut node, &Unused, &block, Input::Changed).expect("a list");
    step_to_the_list(&mut node, &Unused, &block, Input::Answered(list, Answer::Addresses(Vec::new())));
    assert_eq!(has(&node), "10.0.0.8-10.0.0.11");
    assert_eq!(step_to_the_list(&mut node, &Unused, &block, Input::Changed), None);
}

#[test]
fn who_was_in_the_way_is_told_until_a_read_says_that_it_is_gone() {
    let key = Key::parse_block("p.0a000008", |_, _| Some(30)).unwrap();
    let leases = OnePod(key.clone());
    let holder = Holder { node: "n1".into(), uid: Uid::from_number(1), term: 0, fenced: false };
    let block = Object {
        key: key.clone(),
        uid: Uid::from_number(2),
        version: ResourceVersion(1),
        spec: Spec { holders: vec![holder], ..Spec::default() },
    };
    let mut node =
        Node::start("n1".into(), Horizon::DEFAULT, Vec::new(), Some(Disk::default()), Run::default());
    let mut holding = Holding { permit: Some(BootTime::default()), ..Holding::new(Stage::Held) };
    holding.record(block.uid, Phase::Held);
    holding.told = Some("vm:default/a on n2".to_owned());
    node.holdings.insert(key.clone(), holding);
    let list = step_to_the_list(&mut node, &leases, &block, Input::Tick).expect("a list");
    assert_eq!(node.conflicts(&leases).len(), 1);
    assert!(node.may_use(BootTime::from_millis(5), &key).is_ok());
    step_to_the_list(&mut node, &leases, &block, Input::Answered(list, Answer::Addresses(Vec::new())));
    assert_eq!(node.conflicts(&leases), []);
}

#[test]
fn a_fence_ends_what_was_permitted() {
    let now = BootTime::from_millis(5);
    let key = Key::parse_block("office.0a000001", |_, _| Some(32)).unwrap();
    let (own, uid) = (Uid::from_number(1), Uid::from_number(2));
    let record = Record { uid, phase: Phase::Held, released: AddrSet::default(), owner: None };
    let disk = || Some(Disk { records: [(key.clone(), record.clone())].into() });
    let run = || Run { node: Some((own, now)), permits: [(key.clone(), now)].into() };
    for missing in [None, Some(Weakness::IgnoresFences)] {
        let pools = vec![pool(&["10.0.0.1"])];
        let mut node =
            Node::start("n1".into(), Horizon::DEFAULT, pools, disk(), run()).weakened(Weakened::by(missing));
        assert!(node.may_use(now, &key).is_ok());
        let out = node.step(now, &Unused, Input::Tick);
        let [Output::Send(id, Request::ReadOwn)] = &out[..] else { panic!("{out:?}") };
        let holder = Holder { node: "n1".into(), uid: own, term: 3, fenced: true };
        let spec = Spec { holders: vec![holder], ..Spec::default() };
        let block = Object { key: key.clone(), uid, version: ResourceVersion(7), spec };
        // The `Node` is in service again: what was said of it is over, and the leader waits to free the block all the same.
        let answer = Answer::Own(Some(NodeState { uid: own, out_of_service: false }), vec![block]);
        let out = node.step(now, &Unused, Input::Answered(*id, answer));
        assert_eq!(node.may_use(now, &key).is_ok(), missing.is_some());
        let takes_again = matches!(&out[..], [Output::Send(_, Request::Update(_, _, _, spec))]
            if !spec.holders[0].fenced && spec.holders[0].term == 4);
        assert_eq!(takes_again, missing.is_none(), "{out:?}");
    }
}

#[test]
fn a_list_from_before_a_claim_does_not_finish_it() {
    let now = BootTime::from_millis(5);
    let geometry =
        Geometry::new("p".into(), BlockLengths { v4: 30, v6: 128 }, addresses(&["10.0.0.0-10.0.0.7"]));
    for missing in [None, Some(Weakness::ReadsBeforeWriting)] {
        let disk = Some(Disk::default());
        let mut node =
            Node::start("n1".into(), Horizon::DEFAULT, vec![geometry.clone()], disk, Run::default())
                .weakened(Weakened::by(missing));
        node.own = Some((Uid::from_number(1), now));
        node.next_own = now.after(Horizon::DEFAULT.between_reads());
        let claim = |node: &mut Node| {
            let out = node.step(now, &Unused, Input::Want(Want::Block("p".into(), Family::V4)));
            let [Output::Send(id, Request::Create(key, spec))] = &out[..] else { panic!("{out:?}") };
            let (uid, version) = (Uid::from_number(2), ResourceVersion(1));
            let object = Object { key: key.clone(), uid, version, spec: spec.clone() };
            (key.clone(), node.step(now, &Unused, Input::Answered(*id, Answer::Written(object))))
        };
        let (first, out) = claim(&mut node);
        let [Output::Send(list, Request::ListAddresses(_))] = &out[..] else { panic!("{out:?}") };
        // The list is read. Then an owner gets an address in what is claimed next, and its node sees no block around it.
        let (second, out) = claim(&mut node);
        assert_eq!(out, [], "one list is on its way");
        node.step(now, &Unused, Input::Answered(*list, Answer::Addresses(Vec::new())));
        let stages: BTreeMap<&Key, Progress> = node.progress().collect();
        assert_eq!(stages[&first], Progress::Held);
        let expected = if missing.is_some() { Progress::Held } else { Progress::Claiming };
        assert_eq!(stages[&second], expected);
    }
}
