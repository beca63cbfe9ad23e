//! What is handed out and not used is for who waits.

use super::*;

#[test]
fn who_can_use_nothing_of_what_is_there_has_nothing_more_claimed_for_it() {
    let mut site = Site::new("10.0.0.16-10.0.3.254", 28);
    for id in 0..300 {
        site.claim(id, None);
        site.pass(1);
        assert_eq!(site.replies[&id], ClaimAnswer::Granted);
    }
    assert_eq!(site.objects.len(), 1, "{:?}", site.objects.keys());
    // Of blocks of one address each, one for who asks and one for who was told just before.
    let mut site = Site::new("10.0.0.1-10.0.0.200", 32);
    for id in 0..100 {
        site.claim(id, None);
        site.pass(1);
    }
    assert!(site.objects.len() <= 3, "{:?}", site.objects.keys());
}

#[test]
fn what_pods_took_since_the_last_look_is_not_for_others() {
    let mut site = Site::new("10.0.0.16-10.0.0.47", 28);
    site.claim(1, None);
    site.pass(10);
    site.use_all();
    site.claim(2, None);
    site.pass(1);
    assert_eq!((&site.replies[&2], site.objects.len()), (&ClaimAnswer::Granted, 2));
    site.use_all();
    site.claim(3, None);
    site.pass(1);
    assert!(matches!(&site.replies[&3], ClaimAnswer::Refused(reason) if reason.contains("is left")));
}

#[test]
fn of_several_each_gets_an_address_of_its_own() {
    let mut site = Site::new("10.0.0.16-10.0.0.47", 28);
    site.claim(0, None);
    site.pass(10);
    site.used.insert("office".to_owned(), vec!["10.0.0.16-10.0.0.29".to_owned()]);
    site.answers = false;
    for id in 1..=3 {
        site.claim(id, None);
    }
    site.pass(1);
    let told: Vec<ClaimId> = site.replies.keys().copied().collect();
    assert_eq!(told, [0, 1, 2], "the third waits for another block");
    site.answers = true;
    site.pass(70);
    assert_eq!(site.objects.len(), 2);
}

#[test]
fn what_is_granted_no_longer_is_not_promised() {
    let mut site = Site::new("10.0.0.1-10.0.0.1", 32);
    site.claim(1, Some("10.0.0.1"));
    assert_eq!(site.replies[&1], ClaimAnswer::Granted);
    // The grant ends, and nobody has written that yet.
    site.answers = false;
    site.now = site.now.after(Duration::from_secs(25 * 60));
    site.claim(2, Some("10.0.0.1"));
    assert!(!site.replies.contains_key(&2), "{:?}", site.replies);
}

#[test]
fn after_a_boot_pods_wait_for_the_block_that_is_there() {
    let mut site = Site::new("10.0.0.0-10.0.0.255", 28);
    site.claim(1, None);
    let stored = Stored { disk: site.disk.clone(), ..Stored::default() };
    site.manager = manager(stored, &site.known);
    site.granted.clear();
    // Pods start before the API server has said that the node may go on.
    site.answers = false;
    site.event(Event::Connected);
    site.event(Event::Tick);
    site.claim(2, None);
    site.claim(3, None);
    assert!(!site.replies.contains_key(&2));
    site.answers = true;
    for (id, request) in std::mem::take(&mut site.unanswered) {
        let answer = site.answer(request);
        site.event(Event::Answer(id, answer));
    }
    site.pass(1);
    assert_eq!((&site.replies[&2], &site.replies[&3]), (&ClaimAnswer::Granted, &ClaimAnswer::Granted));
    assert_eq!(site.objects.len(), 1, "{:?}", site.requests);
}
