//! Who waits, and what the node claims and gives back for them.

use super::*;
use crate::blocks::manager::files::USAGE_INTERVAL_WITHOUT_POOLS;

#[test]
fn who_waits_gets_an_address_each_whoever_was_first() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    site.races = 3;
    for id in 0..5 {
        site.claim(id, None);
    }
    assert_eq!(site.replies.len(), 5);
    assert!(site.replies.values().all(|answer| *answer == ClaimAnswer::Granted), "{:?}", site.replies);
    assert_eq!(grants::count(&grants::addresses(site.granted.get(&"office".into())), Family::V4), 5);
    assert_eq!(site.manager.metrics.pools.conflicts.get(), 3);
    let counts = site.manager.counts();
    assert!(
        counts["office"].blocks > 0 && counts["office"].addresses == counts["office"].blocks,
        "{counts:?}"
    );
    // Three are another node's, and five are here.
    site.claim(9, None);
    assert!(matches!(&site.replies[&9], ClaimAnswer::Refused(reason) if reason.contains("is left")));
    assert_eq!(site.in_use, ["office".to_owned()].into());
}

#[test]
fn a_pod_that_needs_one_address_gets_it_or_is_told_who_has_it() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    site.claim(1, Some("10.0.0.5"));
    assert_eq!((&site.replies[&1], site.granted().as_str()), (&ClaimAnswer::Granted, "10.0.0.5"));
    site.races = 1;
    site.claim(2, Some("10.0.0.6"));
    assert!(matches!(&site.replies[&2], ClaimAnswer::Refused(reason) if reason.contains("another node")));
    assert_eq!(site.granted(), "10.0.0.5", "no other in its place");
    site.claim(3, Some("10.0.0.9"));
    assert!(
        matches!(&site.replies[&3], ClaimAnswer::Refused(reason) if reason.contains("does not hand out"))
    );
}

#[test]
fn a_restart_in_the_middle_of_a_claim_loses_no_block() {
    let mut site = Site::new("10.0.0.1-10.0.0.1", 32);
    // The create arrives, and its answer does not.
    site.answers = false;
    site.claim(1, None);
    let Some(Request::Create(key, spec)) = site.requests.last().cloned() else { panic!() };
    site.write(key, spec, None);
    let stored = Stored { disk: site.disk.clone(), ..Stored::default() };
    site.manager = manager(stored, &site.known);
    site.answers = true;
    site.event(Event::Connected);
    site.event(Event::Tick);
    // It was not used: it went back, and is there for who needs it.
    assert!(site.objects.is_empty());
    site.claim(2, None);
    assert_eq!((&site.replies[&2], site.granted().as_str()), (&ClaimAnswer::Granted, "10.0.0.1"));
    // And what is held stays, without a request, until permission ends.
    site.use_all();
    let stored = Stored { disk: site.disk.clone(), run: site.manager.run(), grants: site.granted.clone() };
    site.manager = manager(stored, &site.known);
    site.event(Event::Tick);
    assert_eq!(site.granted(), "10.0.0.1");
    site.pass(24 * 60);
    assert_eq!(site.granted(), "", "nobody confirmed it");
    site.event(Event::Connected);
    site.pass(60);
    assert_eq!(site.granted(), "10.0.0.1");
}

#[test]
fn a_link_that_is_lost_is_told_and_a_claim_goes_on_after_it() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    site.answers = false;
    site.claim(1, None);
    site.event(Event::Disconnected);
    let ClaimAnswer::Later(reason) = &site.replies[&1] else { panic!() };
    assert!(reason.contains("is away"), "{reason}");
    site.claim(2, None);
    assert!(matches!(site.replies[&2], ClaimAnswer::Later(_)));
    site.event(Event::Connected);
    site.claim(3, None);
    site.pass(14);
    assert!(!site.replies.contains_key(&3));
    site.pass(2);
    let ClaimAnswer::Later(reason) = &site.replies[&3] else { panic!() };
    assert!(reason.contains("API server"), "{reason}");
    site.answers = true;
    site.pass(120);
    site.claim(4, None);
    site.pass(1);
    assert_eq!(site.replies[&4], ClaimAnswer::Granted);
}

#[test]
fn larger_blocks_are_claimed_ahead_of_need_and_go_back_when_idle() {
    let mut site = Site::new("10.0.0.16-10.0.0.95", 28);
    site.claim(1, None);
    assert_eq!(site.objects.len(), 1);
    site.use_all();
    site.pass(120);
    assert_eq!(site.objects.len(), 2, "less than a quarter was free");
    site.use_all();
    site.pass(120);
    assert_eq!(site.objects.len(), 3);
    let first = |key: &Key| match key.place {
        Place::Block(block) => block.first().to_string(),
        Place::Address(address) => address.to_string(),
    };
    let used = site.objects.keys().take(2).map(first).collect();
    site.used.insert("office".to_owned(), used);
    site.pass(30 * 60);
    assert_eq!(site.objects.len(), 2, "the idle one is more than is kept ahead");
    site.used.clear();
    site.pass(30 * 60);
    assert!(site.objects.is_empty() && site.granted().is_empty(), "{:?}", site.objects);
    assert!(site.in_use.is_empty());
}

#[test]
fn what_others_wait_for_goes_back_soon_but_nothing_that_is_used() {
    let mut site = Site::new("10.0.0.1-10.0.0.2", 32);
    site.claim(1, None);
    site.claim(2, None);
    assert_eq!(site.granted(), "10.0.0.1-10.0.0.2");
    site.used.insert("office".to_owned(), vec!["10.0.0.1".to_owned()]);
    site.change(|pool| pool.exhausted = vec![Family::V4]);
    site.pass(180);
    assert_eq!((site.granted().as_str(), site.objects.len()), ("10.0.0.1", 1));
    site.claim(3, None);
    assert!(matches!(&site.replies[&3], ClaimAnswer::Refused(_)), "the leader says that nothing is left");
    // The look says that nothing is used, and then a pod is given the address.
    site.used.clear();
    let usage = site.usage();
    site.used.insert("office".to_owned(), vec!["10.0.0.1".to_owned()]);
    for seconds in [1, 31] {
        site.now = site.now.after(Duration::from_secs(seconds));
        let effects = site.manager.step(site.now, Event::Usage(usage.clone()));
        for effect in effects {
            if let Some(event) = site.act(effect) {
                site.event(event);
            }
        }
    }
    assert_eq!((site.granted().as_str(), site.objects.len()), ("10.0.0.1", 1));
}

#[test]
fn a_family_that_is_full_refuses_no_other() {
    let mut site = Site::new("10.0.0.1-10.0.0.2", 32);
    site.change(|pool| {
        pool.spec = json!({ "subnets": ["10.0.0.0/29", "fd00::/64"] });
        pool.exhausted = vec![Family::V4];
    });
    site.claim(1, None);
    assert!(matches!(&site.replies[&1], ClaimAnswer::Refused(reason) if reason.contains("for IPv4")));
    let claim =
        PoolClaim { pool: "office".to_owned(), family: Family::V6, address: None, owner: None, pod: None };
    site.event(Event::Claim(2, claim));
    assert_eq!(site.replies[&2], ClaimAnswer::Granted);
}

#[test]
fn a_pool_that_is_deleted_is_known_until_nothing_is_held() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    site.claim(1, None);
    site.use_all();
    site.change(|pool| pool.refusal = Some("the LANPool office was deleted".to_owned()));
    site.claim(2, None);
    assert!(matches!(&site.replies[&2], ClaimAnswer::Refused(reason) if reason.contains("was deleted")));
    site.pass(600);
    assert_eq!((site.objects.len(), site.in_use.len()), (1, 1), "a pod has it");
    site.used.clear();
    site.pass(180);
    assert_eq!((site.objects.len(), site.in_use.len()), (0, 0));
}

#[test]
fn a_lost_disk_counts_first_and_an_edit_drops_nothing() {
    let mut site = Site::with(pool("10.0.0.1-10.0.0.8", 32), None);
    site.used.insert("office".to_owned(), vec!["10.0.0.3".to_owned()]);
    site.event(Event::Connected);
    site.event(Event::Tick);
    assert_eq!(site.granted(), "10.0.0.3", "created again");
    let disk = site.disk.clone().unwrap();
    assert_eq!(disk.records.len(), 1);
    site.change(|pool| *pool = self::pool("10.0.0.5-10.0.0.8", 32));
    assert_eq!((site.granted().as_str(), site.objects.len()), ("", 1), "held, and not handed out again");
    site.change(|pool| *pool = self::pool("10.0.0.1-10.0.0.8", 32));
    assert_eq!(site.granted(), "10.0.0.3");
}

#[test]
fn what_cannot_be_read_of_one_pool_stops_no_other() {
    let mut site = Site::new("10.0.0.16-10.0.0.95", 28);
    let lab = ClusterPool {
        name: "lab".to_owned(),
        spec: json!({ "subnets": ["10.1.0.0/16"] }),
        ..pool("10.0.0.16-10.0.0.95", 28)
    };
    site.known.pools.insert("lab".to_owned(), lab);
    site.event(Event::Pools(Arc::new(site.known.clone())));
    site.claim(1, None);
    site.use_all();
    let claim =
        PoolClaim { pool: "lab".to_owned(), family: Family::V4, address: None, owner: None, pod: None };
    site.event(Event::Claim(2, claim));
    assert_eq!(site.replies[&2], ClaimAnswer::Granted);
    let granted_of = |site: &Site, pool: &str| grants::addresses(site.granted.get(&pool.into())).to_string();
    let lab = granted_of(&site, "lab");
    site.unreadable.push("lab");
    site.pass(60 * 60);
    assert_eq!(granted_of(&site, "lab"), lab, "it is confirmed, and stays");
    assert!(granted_of(&site, "office").contains("10.0.0."), "{:?}", site.granted);
    let of_lab = site.objects.keys().filter(|key| key.pool.as_str() == "lab").count();
    assert_eq!((of_lab, site.objects.len()), (1, 3), "{:?}", site.objects);
    site.unreadable.clear();
    site.pass(60 * 60);
    assert_eq!(granted_of(&site, "lab"), "");
}

#[test]
fn an_object_that_cannot_be_read_is_passed_over() {
    let mut site = Site::new("10.0.0.16-10.0.0.63", 28);
    let order = site.manager.geometries[&"office".into()].clone();
    let order: Vec<Key> =
        order.claim_order(Family::V4, &"a".into()).map(|block| Key::block(&"office".into(), block)).collect();
    site.write(order[0].clone(), Spec::unreadable(), None);
    site.claim(1, None);
    assert_eq!(site.replies[&1], ClaimAnswer::Granted);
    assert!(site.objects.contains_key(&order[1]), "{:?}", site.objects);
    let Place::Block(block) = order[0].place else { panic!() };
    site.claim(2, Some(&block.first().to_string()));
    assert!(
        matches!(&site.replies[&2], ClaimAnswer::Refused(reason) if reason.contains("another node holds"))
    );
    // A pod has an address of it.
    site.used.insert("office".to_owned(), vec![block.first().to_string()]);
    site.pass(120);
    let told = &site.manager.conflicts_told;
    assert!(matches!(&told[..], [one] if one.other.contains("cannot be read")), "{told:?}");
    let before = site.requests.len();
    site.pass(120);
    assert!(site.requests.len() < before + 5, "{:?}", &site.requests[before..]);
}

#[test]
fn a_block_that_is_being_deleted_is_not_taken_again() {
    let mut site = Site::new("10.0.0.16-10.0.0.63", 28);
    site.claim(1, None);
    let first = site.objects.keys().next().unwrap().clone();
    // It goes back, and a finalizer keeps it.
    site.kept.insert(first.clone());
    site.pass(20 * 60);
    assert_eq!((site.granted().as_str(), site.objects.len()), ("", 1));
    site.claim(2, None);
    site.pass(5);
    assert_eq!(site.replies[&2], ClaimAnswer::Granted);
    let hands_out = |site: &Site, key: &Key| {
        let Place::Block(block) = key.place else { panic!() };
        let granted = grants::addresses(site.granted.get(&"office".into()));
        granted.shared_with(&AddrSet::union([block.range()])).is_some()
    };
    assert!(!hands_out(&site, &first), "{}", site.granted());
    // One that somebody deletes while pods have addresses of it: they keep them, and no others get any.
    site.use_all();
    let second = site.objects.keys().find(|key| **key != first).unwrap().clone();
    site.kept.insert(second.clone());
    let spec = site.objects[&second].spec.clone();
    let uid = site.objects[&second].uid;
    site.write(second.clone(), spec, Some(uid));
    site.pass(10 * 60);
    assert!(!hands_out(&site, &second), "{}", site.granted());
    site.kept.clear();
    site.objects.clear();
    site.pass(10 * 60);
    assert!(site.objects.contains_key(&second), "it is made again: {:?}", site.objects);
    assert!(hands_out(&site, &second), "{}", site.granted());
}

#[test]
fn what_the_api_server_does_not_take_is_told_and_not_asked_again() {
    let mut site = Site::new("10.0.0.16-10.0.0.63", 28);
    site.forbidden = Some("the token has no node name");
    site.claim(1, None);
    site.claim(2, Some("10.0.0.17"));
    for id in [1, 2] {
        let answer = &site.replies[&id];
        assert!(
            matches!(answer, ClaimAnswer::Later(reason) if reason.contains("no node name")),
            "{answer:?}"
        );
    }
    let before = site.requests.len();
    site.pass(300);
    assert!(site.requests.len() <= before + 1, "{:?}", &site.requests[before..]);
    site.forbidden = None;
    site.claim(3, None);
    assert_eq!(site.replies[&3], ClaimAnswer::Granted);
}

#[test]
fn what_pods_had_before_the_pool_had_blocks_is_claimed_or_told() {
    let mut site = Site::with(pool("10.0.0.16-10.0.0.95", 28), Some(Disk::default()));
    site.event(Event::Connected);
    let theirs = Spec {
        holders: vec![Holder { node: "b".into(), uid: Uid::from_number(7), term: 0, fenced: false }],
        ..Spec::default()
    };
    let key = |text: &str| Key::parse_block(text, |_, _| Some(28)).unwrap();
    site.write(key("office.0a000020"), theirs, None);
    let used = ["10.0.0.17", "10.0.0.33", "10.0.9.1"];
    site.used.insert("office".to_owned(), used.map(str::to_owned).into());
    site.pass(120);
    assert_eq!(site.objects.len(), 2, "{:?}", site.objects);
    assert_eq!(site.granted(), "10.0.0.16-10.0.0.31");
    let told = &site.manager.conflicts_told;
    assert!(matches!(&told[..], [one] if one.key == key("office.0a000020") && one.other == "b"), "{told:?}");
    site.claim(1, Some("10.0.0.33"));
    assert!(
        matches!(&site.replies[&1], ClaimAnswer::Refused(reason) if reason.starts_with("b has office.0a000020")),
        "{:?}",
        site.replies
    );
}

#[test]
fn what_is_no_answer_changes_nothing() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    let key =
        Key::parse_block("other.0a000001", |_, _| Some(8)).or(Key::parse_address("x.10.0.0.1")).unwrap();
    let object = Object { key, uid: Uid::from_number(5), version: ResourceVersion(5), spec: Spec::default() };
    site.answers = false;
    site.claim(1, None);
    let id = *site.manager.pending.keys().next().unwrap();
    site.answers = true;
    site.event(Event::Answer(RequestId(77), Answer::Deleted));
    site.event(Event::Answer(id, Answer::Written(object)));
    assert_eq!(site.manager.node.keys().filter(|key| key.pool.as_str() != "office").count(), 0);
    // It counts as not answered.
    site.pass(10);
    assert_eq!(site.replies[&1], ClaimAnswer::Granted);
}

#[test]
fn a_node_without_pools_asks_nothing() {
    let known = KnownPools::default();
    let mut manager = manager(Stored::default(), &known);
    assert!(manager.step(BootTime::default(), Event::Connected).is_empty());
    assert!(manager.step(BootTime::default(), Event::Tick).is_empty());
    // It looks for files when they change.
    let nothing = Usage::parse(br#"{"pools":{},"files":{}}"#).unwrap();
    let effects = manager.step(BootTime::default(), Event::Usage(nothing));
    assert!(
        effects.iter().all(|effect| matches!(effect, Effect::InUse(pools) if pools.is_empty())),
        "{effects:?}"
    );
    assert_eq!(
        manager.wake_at(BootTime::default()),
        Some(BootTime::default().after(USAGE_INTERVAL_WITHOUT_POOLS))
    );
    assert!(
        !manager.wants_usage(BootTime::default(), &Event::Tick)
            && manager.wants_usage(BootTime::default(), &Event::Files)
    );
}
