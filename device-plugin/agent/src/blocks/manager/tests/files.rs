//! A pool takes the place of this node's file.

use proto::published::PoolNote;

use super::*;

fn site(used: &[&str], differs: Option<&'static str>) -> Site {
    let waits =
        ClusterPool { refusal: Some("it waits".to_owned()), blocks: None, ..pool("10.0.0.1-10.0.3.254", 30) };
    let mut site = Site::with(waits, None);
    site.file = Some(("10.0.0.10-10.0.0.30", differs));
    site.used.insert("office".to_owned(), used.iter().map(|&one| one.to_owned()).collect());
    site.event(Event::Connected);
    site.event(Event::Tick);
    site
}

fn replace(site: &mut Site) {
    site.change(|pool| (pool.replacing, pool.blocks) = (true, Some(BlockLength { v4: 30, v6: 128 })));
    site.pass(1);
}

fn note(site: &Site) -> PoolNote {
    site.notes.get("office").cloned().unwrap_or_default()
}

#[test]
fn what_pods_have_by_the_file_is_claimed_before_the_pool_is_accepted() {
    let mut site = site(&["10.0.0.10", "10.0.0.29"], None);
    let told = note(&site);
    assert_eq!(
        (told.file_ranges.unwrap().to_string(), told.file_fits),
        ("10.0.0.10-10.0.0.30".to_owned(), true)
    );
    assert!(site.objects.is_empty(), "nothing is claimed before the leader says so");
    site.answers = false;
    replace(&mut site);
    assert!(site.known.pools["office"].is_in_charge());
    assert!(note(&site).file_ranges.is_some(), "the API server has not answered");
    site.answers = true;
    site.pass(70);
    let blocks: Vec<String> = site.objects.keys().map(ToString::to_string).collect();
    assert_eq!(blocks, ["office.0a000008", "office.0a00001c"]);
    assert_eq!(note(&site), PoolNote::default(), "it has all");
    assert_eq!(
        site.granted(),
        "10.0.0.10-10.0.0.11, 10.0.0.28-10.0.0.30",
        "of the blocks what was the file's"
    );
    // More is claimed of what was the file's, and of nothing else.
    for id in 0..40 {
        site.claim(id, None);
        site.pass(1);
        site.use_all();
    }
    assert_eq!(site.granted(), "10.0.0.10-10.0.0.30");
    assert!(matches!(&site.replies[&39], ClaimAnswer::Refused(_)), "{:?}", site.replies[&39]);
    site.change(|pool| (pool.replacing, pool.accepted) = (false, true));
    site.pass(1);
    assert_eq!(site.granted(), "10.0.0.8-10.0.0.31");
}

#[test]
fn a_file_that_differs_goes_on_until_it_goes() {
    let mut site = site(&["10.0.0.10"], Some("the gateway is another"));
    replace(&mut site);
    let told = note(&site);
    assert!(!site.known.pools["office"].is_in_charge() && !told.file_fits && site.objects.is_empty());
    assert!(told.file.unwrap().contains("by its file, since it differs: the gateway is another"));
    // It goes: what pods have is the pool's when that is accepted.
    site.file = None;
    site.answers = false;
    site.pass(10);
    assert_eq!(note(&site).file_ranges.unwrap().to_string(), "10.0.0.10");
    site.answers = true;
    site.pass(70);
    assert_eq!(note(&site), PoolNote::default());
    site.change(|pool| (pool.replacing, pool.accepted, pool.refusal) = (false, true, None));
    site.pass(61);
    assert_eq!(site.objects.keys().map(ToString::to_string).collect::<Vec<_>>(), ["office.0a000008"]);
    // One that comes later is not read, which is told if it differs.
    site.file = Some(("10.0.0.10-10.0.0.30", Some("sticky is another")));
    site.pass(61);
    let told = note(&site);
    assert!(told.file_ranges.is_none() && told.file.unwrap().contains("is not read any more"));
}

#[test]
fn a_block_that_another_has_is_waited_for() {
    let mut site = site(&["10.0.0.10"], None);
    let holder = Holder { node: "b".into(), uid: Uid::from_number(7), term: 0, fenced: false };
    let key = Key::parse_block("office.0a000008", |_, _| Some(30)).unwrap();
    site.write(key.clone(), Spec { holders: vec![holder], ..Spec::default() }, None);
    replace(&mut site);
    site.pass(70);
    let told = note(&site);
    assert!(
        told.file_ranges.is_some() && told.conflicts[0].starts_with("10.0.0.10 is used here, and b"),
        "{told:?}"
    );
    site.used.clear();
    site.pass(70);
    assert_eq!(note(&site).file_ranges, None);
}

#[test]
fn a_node_that_the_pool_leaves_out_is_waited_for_and_says_why() {
    let mut site = site(&["10.0.0.10"], None);
    site.change(|pool| pool.elsewhere = true);
    site.pass(61);
    let told = note(&site);
    assert!(told.file_ranges.is_some() && !told.file_fits, "{told:?}");
    assert!(told.file.unwrap().contains("nodeSelector of the pool leaves this node out"));
}

#[test]
fn a_pool_that_is_deleted_while_it_replaces_a_file_is_told_still() {
    let mut site = site(&["10.0.0.10"], None);
    site.answers = false;
    replace(&mut site);
    assert!(site.known.pools["office"].is_in_charge());
    site.change(|pool| (pool.deleted, pool.refusal) = (true, Some("it was deleted".to_owned())));
    site.pass(61);
    assert_eq!(note(&site).file_ranges.unwrap().to_string(), "10.0.0.10-10.0.0.30");
}

#[test]
fn a_file_is_told_before_there_is_a_pool() {
    let mut site = Site::with(pool("10.0.0.1-10.0.3.254", 30), None);
    site.known.pools.clear();
    site.manager = manager(Stored::default(), &site.known);
    site.file = Some(("10.0.0.10-10.0.0.30", None));
    site.event(Event::Connected);
    site.pass(61);
    let told = note(&site);
    assert!(
        told.file_ranges.is_some() && !told.file_fits && site.requests.is_empty(),
        "{told:?} {:?}",
        site.requests
    );
}
