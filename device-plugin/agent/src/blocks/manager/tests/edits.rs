//! A pool is changed while pods have addresses of it.

use proto::published::PoolNote;

use super::*;

fn use_only(site: &mut Site, addresses: &[&str]) {
    let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
    site.used.insert("office".to_owned(), addresses);
}

fn blocks(site: &Site) -> Vec<String> {
    site.objects.keys().map(ToString::to_string).collect()
}

#[test]
fn what_is_held_outside_stays_and_goes_back_when_it_is_empty() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    site.claim(1, None);
    site.use_all();
    let held = site.granted();
    site.change(|pool| *pool = self::pool("10.0.0.100-10.0.0.103", 32));
    assert_eq!(site.granted(), "", "nothing of it is handed out");
    site.pass(3600);
    assert_eq!((site.objects.len(), site.in_use.len()), (1, 1), "a pod has it");
    site.claim(2, None);
    assert_eq!(site.replies[&2], ClaimAnswer::Granted);
    let granted = site.granted();
    assert!(granted.starts_with("10.0.0.10"), "{granted}");
    // The pod ends.
    use_only(&mut site, &[&granted]);
    site.pass(120);
    assert_eq!(site.objects.len(), 1, "{:?}", blocks(&site));
    // It is as it was, and its blocks have their names.
    site.change(|pool| *pool = self::pool("10.0.0.1-10.0.0.103", 32));
    site.claim(3, Some(&held));
    assert_eq!(site.replies[&3], ClaimAnswer::Granted);
    let named = format!("office.{:08x}", held.parse::<std::net::Ipv4Addr>().unwrap().to_bits());
    assert!(blocks(&site).contains(&named), "{:?}", blocks(&site));
}

#[test]
fn an_empty_block_outside_is_no_spare_one() {
    let mut site = Site::new("10.0.0.16-10.0.0.63", 28);
    site.claim(1, Some("10.0.0.17"));
    site.claim(2, Some("10.0.0.33"));
    use_only(&mut site, &["10.0.0.17", "10.0.0.33"]);
    site.change(|pool| *pool = self::pool("10.0.0.16-10.0.0.31", 28));
    site.pass(120);
    assert_eq!(blocks(&site), ["office.0a000010", "office.0a000020"]);
    use_only(&mut site, &["10.0.0.17"]);
    site.pass(180);
    assert_eq!(blocks(&site), ["office.0a000010"], "long before an idle block would go");
}

#[test]
fn a_block_outside_that_goes_back_is_not_taken_again() {
    let mut site = Site::new("10.0.0.1-10.0.0.1", 32);
    site.claim(1, None);
    site.pass(5);
    site.change(|pool| *pool = self::pool("10.0.0.9-10.0.0.9", 32));
    // The delete does not arrive.
    site.answers = false;
    site.pass(120);
    let is_delete = |request: &&Request| matches!(request, Request::Delete(..));
    assert!(site.requests.iter().any(|request| is_delete(&request)));
    site.answers = true;
    site.claim(2, None);
    assert_eq!((&site.replies[&2], site.granted().as_str()), (&ClaimAnswer::Granted, "10.0.0.9"));
    site.pass(120);
    assert_eq!(blocks(&site), ["office.0a000009"]);
}

#[test]
fn an_excluded_address_is_not_handed_out_and_stays_who_has_it() {
    let mut site = Site::new("10.0.0.16-10.0.0.31", 28);
    site.claim(1, None);
    use_only(&mut site, &["10.0.0.20"]);
    site.change(|pool| pool.spec["exclude"] = json!(["10.0.0.20-10.0.0.29"]));
    assert_eq!(site.granted(), "10.0.0.16-10.0.0.19, 10.0.0.30-10.0.0.31");
    site.pass(3600);
    assert_eq!(blocks(&site), ["office.0a000010"]);
}

#[test]
fn of_a_deleted_pool_nothing_is_handed_out() {
    let mut site = Site::new("10.0.0.16-10.0.0.31", 28);
    site.claim(1, None);
    use_only(&mut site, &["10.0.0.16"]);
    assert_eq!(site.granted(), "10.0.0.16-10.0.0.31");
    site.change(|pool| {
        pool.refusal = Some("the LANPool office was deleted".to_owned());
        pool.deleted = true;
    });
    assert_eq!(site.granted(), "");
    site.claim(2, None);
    assert!(matches!(&site.replies[&2], ClaimAnswer::Refused(reason) if reason.contains("was deleted")));
    site.pass(3600);
    assert_eq!(blocks(&site), ["office.0a000010"], "a pod has an address of it");
    // One of its name has other ranges: the block is the node's still.
    site.change(|pool| *pool = self::pool("10.0.0.30-10.0.0.47", 28));
    assert_eq!(site.granted(), "10.0.0.30-10.0.0.31");
    site.change(|pool| *pool = self::pool("10.0.0.32-10.0.0.47", 28));
    use_only(&mut site, &[]);
    site.pass(180);
    assert!(site.objects.is_empty() && site.in_use.is_empty());
}

/// The link is lost and comes back: nobody has said by then which pools there are.
fn reconnect(site: &mut Site) {
    site.known.complete = false;
    site.event(Event::Pools(Arc::new(site.known.clone())));
    site.event(Event::Disconnected);
    site.event(Event::Connected);
}

fn created(site: &Site) -> Vec<String> {
    let created = site.requests.iter().filter_map(|request| match request {
        Request::Create(key, _) => Some(key.to_string()),
        _ => None,
    });
    created.collect()
}

#[test]
fn nothing_is_claimed_by_what_another_connection_said() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    // One claim is on its way, and did not arrive.
    site.answers = false;
    site.claim(1, None);
    site.answers = true;
    let before = created(&site);
    assert_eq!(before.len(), 1);
    reconnect(&mut site);
    site.claim(2, None);
    site.claim(3, Some("10.0.0.5"));
    site.pass(16);
    assert_eq!(created(&site), before, "the pool may have changed");
    for id in [2, 3] {
        let answer = &site.replies[&id];
        assert!(
            matches!(answer, ClaimAnswer::Later(reason) if reason.contains("has not said yet")),
            "{answer:?}"
        );
    }
    // It has.
    site.known.complete = true;
    site.change(|pool| *pool = self::pool("10.0.0.100-10.0.0.103", 32));
    site.pass(20);
    assert_eq!(created(&site), before);
    site.claim(4, None);
    assert_eq!(site.replies[&4], ClaimAnswer::Granted);
    assert!(site.granted().starts_with("10.0.0.10"), "{}", site.granted());
    assert_eq!(site.objects.len(), 1);
}

#[test]
fn what_is_held_is_confirmed_on_a_new_connection_at_once() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    site.claim(1, None);
    let granted = site.granted();
    site.use_all();
    reconnect(&mut site);
    site.pass(60 * 60);
    assert_eq!(site.granted(), granted);
}

#[test]
fn what_is_not_the_pools_by_now_goes_back_before_anything_of_it_is_handed_out() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    site.current = Some(pool("10.0.0.100-10.0.0.103", 32));
    site.claim(1, None);
    site.claim(2, Some("10.0.0.5"));
    site.pass(10);
    assert_eq!((created(&site).len(), site.objects.len()), (1, 0), "one was enough to hear of it");
    assert!(site.granted.values().all(|grants| grants.grants.is_empty()));
    for id in [1, 2] {
        let answer = &site.replies[&id];
        assert!(matches!(answer, ClaimAnswer::Later(reason) if reason.contains("was changed")), "{answer:?}");
    }
    // It is told.
    let now = site.current.take().unwrap();
    site.change(|pool| *pool = now);
    site.claim(3, None);
    assert_eq!(site.replies[&3], ClaimAnswer::Granted);
    // What pods have when the daemon starts on another boot stays, whatever became of the pool.
    site.use_all();
    let granted = site.granted();
    site.claim(4, None);
    site.pass(1);
    site.current = Some(ClusterPool { blocks: None, ..pool("10.0.0.100-10.0.0.103", 32) });
    let stored = Stored { disk: site.disk.clone(), ..Stored::default() };
    (site.manager, site.granted) = (manager(stored, &site.known), BTreeMap::new());
    site.event(Event::Connected);
    site.pass(60);
    assert_eq!((site.objects.len(), site.granted()), (1, granted));
}

#[test]
fn what_is_claimed_of_a_pool_that_goes_meanwhile_goes_back() {
    let mut site = Site::new("10.0.0.16-10.0.0.95", 28);
    site.answers = false;
    site.claim(1, None);
    let (id, request) = {
        let (id, pending) = site.manager.pending.iter().next_back().unwrap();
        (*id, pending.request.clone())
    };
    site.answers = true;
    site.known.pools.clear();
    site.event(Event::Pools(Arc::new(site.known.clone())));
    let answer = site.answer(request);
    assert_eq!(site.objects.len(), 1);
    site.event(Event::Answer(id, answer));
    site.pass(300);
    assert_eq!((site.objects.len(), site.in_use.len()), (0, 0));
}

#[test]
fn an_unused_object_that_names_this_node_goes_back_whatever_its_pool_is() {
    let mut site = Site::new("10.0.0.16-10.0.0.95", 28);
    let holder = Holder { node: "a".into(), uid: Uid::from_number(1 << 80), term: 0, fenced: false };
    let mine = || Spec { holders: vec![holder.clone()], ..Spec::default() };
    for name in ["gone.0a000010", "gone.0a000020"] {
        site.write(Key::parse_block(name, |_, _| Some(28)).unwrap(), mine(), None);
    }
    // In another length than the pool's.
    site.write(Key::parse_block("office.0a000044", |_, _| Some(30)).unwrap(), mine(), None);
    site.used.insert("gone".to_owned(), vec!["10.0.0.17".to_owned()]);
    site.pass(30 * 60);
    assert_eq!(blocks(&site), ["gone.0a000010"], "a pod has an address of it");
    assert_eq!(site.granted(), "");
    site.used.clear();
    site.pass(30 * 60);
    assert!(site.objects.is_empty(), "{:?}", blocks(&site));
}

fn note(site: &Site) -> PoolNote {
    site.notes.get("office").cloned().unwrap_or_default()
}

#[test]
fn who_waits_is_told_when_it_lasts() {
    let mut site = Site::new("10.0.0.1-10.0.0.1", 32);
    site.claim(1, None);
    site.use_all();
    for id in 2..5 {
        assert_eq!(note(&site).waiting, None);
        site.claim(id, None);
        site.pass(8);
    }
    let waiting = note(&site).waiting.unwrap();
    assert!(
        waiting.contains("no block of the pool office is left") && waiting.contains("add ranges"),
        "{waiting}"
    );
    site.pass(60);
    assert!(note(&site).waiting.is_some(), "the kubelet tries again later and later");
    site.pass(60);
    assert_eq!(note(&site), PoolNote::default());
    // One gets an address.
    for id in 5..8 {
        site.claim(id, None);
        site.pass(15);
    }
    assert!(note(&site).waiting.is_some());
    site.change(|pool| *pool = self::pool("10.0.0.1-10.0.0.2", 32));
    site.claim(9, None);
    assert_eq!((&site.replies[&9], note(&site).waiting), (&ClaimAnswer::Granted, None));
}

#[test]
fn pods_that_wait_are_named() {
    let mut site = Site::new("10.0.0.1-10.0.0.1", 32);
    site.claim(1, None);
    site.use_all();
    let told = |site: &Site| note(site).waiting.unwrap_or_default();
    site.claim_by(2, "a/web");
    site.pass(15);
    for (id, pod) in [(3, "a/db"), (4, "a/web")] {
        site.claim_by(id, pod);
        site.pass(9);
    }
    assert!(told(&site).starts_with("a/web waits: no block of the pool office is left"), "{}", told(&site));
    for (id, pod) in [(5, "b/one"), (6, "b/two")] {
        site.claim_by(id, pod);
    }
    site.pass(20);
    assert!(told(&site).starts_with("a/web, a/db, b/one and others wait: "), "{}", told(&site));
    // The one that gets an address waits no more.
    site.change(|pool| *pool = self::pool("10.0.0.1-10.0.0.2", 32));
    site.claim_by(7, "a/web");
    assert_eq!(site.replies[&7], ClaimAnswer::Granted);
    assert!(told(&site).starts_with("a/db, b/one, b/two wait: "), "{}", told(&site));
}

#[test]
fn what_is_used_outside_is_counted() {
    let mut site = Site::new("10.0.0.16-10.0.0.31", 28);
    site.claim(1, None);
    use_only(&mut site, &["10.0.0.16", "10.0.0.20", "10.0.0.21"]);
    site.pass(70);
    assert_eq!(note(&site).outside, 0);
    site.change(|pool| pool.spec["exclude"] = json!(["10.0.0.20-10.0.0.29"]));
    assert_eq!(note(&site).outside, 2);
    use_only(&mut site, &["10.0.0.16", "10.0.0.20"]);
    site.pass(70);
    assert_eq!(note(&site).outside, 1);
    site.change(|pool| pool.deleted = true);
    assert!(site.notes.is_empty(), "nothing is there by which it could be told");
}
