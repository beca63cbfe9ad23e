//! Addresses that follow their owners.

use super::*;

#[test]
fn an_owner_gets_its_address_and_keeps_it_here_for_some_time() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    site.room = Some("10.0.0.7");
    site.claim_for(1, None, Some(("vm:a/web/lan", true)));
    assert_eq!(site.replies[&1], ClaimAnswer::Granted);
    assert_eq!((site.floats(), site.granted().as_str()), (vec!["vm:a/web/lan 10.0.0.7".to_owned()], ""));
    let asked = site.requests.len();
    site.claim_for(2, None, Some(("vm:a/web/lan", true)));
    assert_eq!((&site.replies[&2], site.requests.len()), (&ClaimAnswer::Granted, asked));
    site.used.insert("office".to_owned(), vec!["10.0.0.7".to_owned()]);
    site.floating.insert("10.0.0.7".to_owned(), "vm:a/web/lan".to_owned());
    site.pass(30 * 60);
    assert_eq!(site.floats().len(), 1, "its owner runs");
    site.used.clear();
    site.floating.clear();
    site.pass(5 * 60);
    assert_eq!(site.floats().len(), 1, "it may come back");
    site.pass(8 * 60);
    let object = &site.objects[&Key::parse_address("office.10.0.0.7").unwrap()];
    assert!(site.floats().is_empty() && object.spec.holders.is_empty(), "{object:?}");
    // What is reserved is made by somebody else.
    site.claim_for(4, None, Some(("vm:a/db", false)));
    assert!(matches!(&site.replies[&4], ClaimAnswer::Later(reason) if reason.contains("not made yet")));
}

#[test]
fn where_nothing_else_is_free_a_block_gives_up_an_address() {
    let mut site = Site::new("10.0.0.16-10.0.0.31", 28);
    site.claim(1, None);
    site.used.insert("office".to_owned(), vec!["10.0.0.16-10.0.0.30".to_owned()]);
    site.pass(61);
    site.claim_for(2, None, Some(("vm:a/web/lan", true)));
    site.pass(10);
    assert_eq!(site.replies[&2], ClaimAnswer::Granted);
    assert_eq!(site.floats(), ["vm:a/web/lan 10.0.0.31"]);
    assert_eq!(site.granted(), "10.0.0.16-10.0.0.30");
    site.claim_for(3, None, Some(("vm:a/db/lan", true)));
    assert!(matches!(&site.replies[&3], ClaimAnswer::Refused(reason) if reason.contains("is left")));
}

#[test]
fn what_is_reserved_in_a_block_is_given_up_when_its_pod_is_gone() {
    let mut site = Site::new("10.0.0.16-10.0.0.31", 28);
    site.claim(1, None);
    site.used.insert("office".to_owned(), vec!["10.0.0.20".to_owned()]);
    let block = Key::parse_block("office.0a000010", |_, _| Some(28)).unwrap();
    let released = |site: &Site| site.objects[&block].spec.released.to_string();
    let reserve = |address: &str| node::Reserved { owner: None, address: Some(address.parse().unwrap()) };
    site.change(|pool| {
        pool.reserved = vec![reserve("10.0.0.20"), reserve("10.0.0.25"), reserve("10.0.0.99")]
    });
    site.pass(120);
    assert_eq!(released(&site), "10.0.0.25", "a pod has the other one");
    site.used.insert("office".to_owned(), vec!["10.0.0.30".to_owned()]);
    site.pass(120);
    assert_eq!(released(&site), "10.0.0.20, 10.0.0.25");
    assert_eq!(site.granted(), "10.0.0.16-10.0.0.19, 10.0.0.21-10.0.0.24, 10.0.0.26-10.0.0.31");
}

#[test]
fn what_a_machine_kept_on_this_node_follows_it_from_now_on() {
    let mut site = Site::new("10.0.0.16-10.0.0.31", 28);
    site.claim(1, None);
    site.used.insert("office".to_owned(), vec!["10.0.0.20".to_owned()]);
    site.floating.insert("10.0.0.20".to_owned(), "vm:a/web/lan".to_owned());
    site.claim_for(2, Some("10.0.0.20"), Some(("vm:a/web/lan", true)));
    site.pass(10);
    assert_eq!(site.replies[&2], ClaimAnswer::Granted);
    assert_eq!(site.floats(), ["vm:a/web/lan 10.0.0.20"]);
    assert_eq!(site.granted(), "10.0.0.16-10.0.0.19, 10.0.0.21-10.0.0.31");
}

#[test]
fn a_pods_address_is_on_one_node_and_a_machines_on_two_while_it_migrates() {
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    let other = Holder { node: "b".into(), uid: Uid::from_number(7), term: 0, fenced: false };
    let on_b =
        |owner: &str| Spec { owner: Some(owner.into()), holders: vec![other.clone()], ..Spec::default() };
    for (id, owner, address) in
        [(1, "vm:a/web/lan", "office.10.0.0.6"), (2, "pod:a/db-0/lan", "office.10.0.0.7")]
    {
        site.write(Key::parse_address(address).unwrap(), on_b(owner), None);
        site.claim_for(id, None, Some((owner, true)));
    }
    assert_eq!(site.replies[&1], ClaimAnswer::Granted);
    assert!(
        matches!(&site.replies[&2], ClaimAnswer::Later(reason) if reason.contains("on node b")),
        "{:?}",
        site.replies
    );
    assert_eq!(site.floats(), ["vm:a/web/lan 10.0.0.6"]);
    // The pod is gone there, and the other node joins again between the look and the update.
    let key = Key::parse_address("office.10.0.0.7").unwrap();
    let object = site.objects[&key].clone();
    site.write(key.clone(), Spec { holders: Vec::new(), ..on_b("pod:a/db-0/lan") }, Some(object.uid));
    site.pass(6);
    site.race = Some((key.clone(), on_b("pod:a/db-0/lan")));
    site.claim_for(3, None, Some(("pod:a/db-0/lan", true)));
    site.pass(20);
    assert!(matches!(site.replies[&3], ClaimAnswer::Later(_)), "{:?}", site.replies);
    assert_eq!(site.objects[&key].spec.holders, vec![other.clone()]);
    site.write(key.clone(), Spec { holders: Vec::new(), ..on_b("pod:a/db-0/lan") }, Some(object.uid));
    site.claim_for(4, None, Some(("pod:a/db-0/lan", true)));
    assert_eq!(site.replies[&4], ClaimAnswer::Granted);
    site.pass(120);
    assert_eq!(site.floats(), ["vm:a/web/lan 10.0.0.6"], "a pod's goes back at once");
}

#[test]
fn what_a_pod_and_an_owner_have_is_handed_out_no_more_and_the_owners_when_the_pod_is_gone() {
    let mut site = Site::new("10.0.0.16-10.0.0.31", 28);
    site.used.insert("office".to_owned(), vec!["10.0.0.20".to_owned(), "10.0.0.30".to_owned()]);
    let holder = Holder { node: "b".into(), uid: Uid::from_number(9), term: 0, fenced: false };
    let spec = Spec { owner: Some("vm:a/web/lan".into()), holders: vec![holder], ..Spec::default() };
    site.write(Key::parse_address("office.10.0.0.20").unwrap(), spec, None);
    site.claim(1, None);
    site.pass(10);
    let others = "10.0.0.16-10.0.0.19, 10.0.0.21-10.0.0.31";
    let block = Key::parse_block("office.0a000010", |_, _| Some(28)).unwrap();
    let released = |site: &Site| site.objects[&block].spec.released.to_string();
    site.pass(20 * 60);
    assert_eq!((site.granted().as_str(), released(&site).as_str()), (others, ""), "the pod is there");
    site.used.insert("office".to_owned(), vec!["10.0.0.30".to_owned()]);
    site.pass(60);
    assert_eq!((site.granted().as_str(), released(&site).as_str()), (others, ""));
    site.pass(10 * 60);
    assert_eq!((site.granted().as_str(), released(&site).as_str()), (others, "10.0.0.20"));
}

#[test]
fn a_claims_address_waits_for_its_claim_and_is_on_one_node_where_no_machine_uses_it() {
    const OWNER: Option<(&str, bool)> = Some(("claim:a/web.lan/lan", true));
    let mut site = Site::new("10.0.0.1-10.0.0.8", 32);
    site.room = Some("10.0.0.7");
    site.no_claim = Some("the IPAMClaim a/web.lan that the pod names does not exist");
    site.claim_for(1, None, OWNER);
    assert_eq!(site.replies[&1], ClaimAnswer::Later(site.no_claim.unwrap().to_owned()));
    assert!(site.objects.is_empty() && site.floats().is_empty());
    site.no_claim = None;
    site.claim_for(2, None, OWNER);
    assert_eq!(site.replies[&2], ClaimAnswer::Granted);
    assert_eq!(site.floats(), ["claim:a/web.lan/lan 10.0.0.7"]);
    let user = ClaimUser { interface: "net1".to_owned(), machine: None };
    let is_of_user =
        |request: &Request| matches!(request, Request::Float(asked) if asked.user.as_ref() == Some(&user));
    assert!(site.requests.iter().any(is_of_user), "{:?}", site.requests);
    // Nobody uses it: another node gets it at once.
    site.pass(4 * 60);
    let object = &site.objects[&Key::parse_address("office.10.0.0.7").unwrap()];
    assert!(site.floats().is_empty() && object.spec.holders.is_empty(), "{object:?}");
}
