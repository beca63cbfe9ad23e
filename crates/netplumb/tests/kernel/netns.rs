use std::fs;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use netplumb::{Bridge, Error, LinkChange, Netlink, Netns};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;

use crate::{name, netns};

/// Runs the test in a thread with a mount namespace of its own and an empty `/run`.
fn in_private_mounts(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare_mounts();
        let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, all, None::<&str>).expect("needs root");
        mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread of the test's own, for mounts and not for the network"
)]
fn unshare_mounts() {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).expect("needs root");
}

fn path(text: &str) -> PathBuf {
    Path::new("/run/netns").join(text)
}

/// What the daemon does before a namespace gets its name.
fn tag(_: &Netns, netlink: &Netlink) -> netplumb::Result<()> {
    let tag = LinkChange { up: Some(true), alias: Some("k8slan:lan a/b".into()), ..LinkChange::default() };
    netlink.set_link(1, &tag)
}

#[test]
fn entering_always_comes_back() {
    let home = Netns::current().unwrap();
    let (inside, _) = netns();
    let (deeper, _) = netns();
    let seen = inside
        .enter(|| {
            let one = Netns::current().unwrap();
            let two = deeper.enter(|| Netns::current().unwrap()).unwrap();
            (one, two, Netns::current().unwrap())
        })
        .unwrap();
    assert_eq!(seen, (inside.clone(), deeper, inside.clone()));
    assert_eq!(Netns::current().unwrap(), home);

    let panicked = catch_unwind(AssertUnwindSafe(|| inside.enter(|| panic!("on purpose"))));
    assert!(panicked.is_err());
    assert_eq!(Netns::current().unwrap(), home);
    assert_ne!(home.id(), inside.id());
}

#[test]
fn a_socket_stays_in_its_namespace_and_is_used_from_any_thread() {
    let (netns, netlink) = netns();
    netlink.create_bridge(&Bridge::new(name("br"))).unwrap();
    drop(netns);
    let links = std::thread::spawn(move || netlink.links().unwrap()).join().unwrap();
    let names: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["lo", "br"], "the socket keeps the namespace alive");
}

#[test]
fn a_named_namespace_is_marked_before_it_has_its_name() {
    in_private_mounts(|| {
        let path = path("knlvrf");
        let netns = Netns::create_at(&path, |netns, netlink| {
            assert!(!Netns::is_mounted(&path).unwrap(), "prepared first");
            tag(netns, netlink)
        })
        .unwrap();
        assert!(Netns::is_mounted(&path).unwrap());
        let again = Netns::open(&path).unwrap();
        assert_eq!(again.id(), netns.id());
        assert_ne!(again.id(), Netns::current().unwrap().id());
        let lo = Netlink::open(&again).unwrap().link_by_index(1).unwrap().unwrap();
        assert!(lo.up && lo.alias.as_deref() == Some("k8slan:lan a/b"));
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let folder = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/run/netns")).unwrap();
        assert!(folder.contains(" shared:"), "{folder}");

        let error = Netns::create_at(&path, tag).unwrap_err();
        assert!(matches!(error, Error::NetnsExists { .. }) && error.is_exists(), "{error}");
        assert_eq!(error.to_string(), "a network namespace exists already at /run/netns/knlvrf");

        for _ in 0..2 {
            Netns::remove_at(&path).unwrap();
            assert!(!path.exists());
        }
        assert!(Netns::open(&path).unwrap_err().is_not_found());
        // It lives as long as it is held.
        assert!(Netlink::open(&netns).unwrap().link_by_index(1).unwrap().is_some());
        // And gets its name back.
        netns.mount_at(&path).unwrap();
        assert_eq!(Netns::open(&path).unwrap().id(), netns.id());
        assert!(netns.mount_at(&path).unwrap_err().is_exists());
        Netns::remove_at(&path).unwrap();
    });
}

#[test]
fn a_crash_while_preparing_leaves_nothing_in_the_way() {
    in_private_mounts(|| {
        let path = path("ns");
        // A panic unwinds like a crash does here: nobody cleans the file up.
        let crashed = catch_unwind(AssertUnwindSafe(|| Netns::create_at(&path, |_, _| panic!("crash"))));
        assert!(crashed.is_err());
        assert!(path.exists() && !Netns::is_mounted(&path).unwrap());
        let error = Netns::open(&path).unwrap_err();
        assert!(matches!(error, Error::NotANetns { .. }), "{error}");
        Netns::create_at(&path, tag).unwrap();
        Netns::remove_at(&path).unwrap();

        let failed = Netns::create_at(&path, |_, netlink| {
            netlink.set_link(4711, &LinkChange { up: Some(true), ..LinkChange::default() })
        });
        assert!(failed.unwrap_err().is_not_found());
        assert!(!path.exists(), "an error is cleaned up after");
    });
}

#[test]
fn of_many_creators_one_wins() {
    in_private_mounts(|| {
        let path = path("ns");
        for _ in 0..5 {
            let results: Vec<_> = std::thread::scope(|scope| {
                let creators: Vec<_> = (0..8).map(|_| scope.spawn(|| Netns::create_at(&path, tag))).collect();
                creators.into_iter().map(|creator| creator.join().unwrap()).collect()
            });
            let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
            assert_eq!(won.len(), 1, "{won:?}");
            assert!(lost.iter().all(|result| result.as_ref().is_err_and(Error::is_exists)), "{lost:?}");
            assert_eq!(Netns::open(&path).unwrap().id(), won[0].as_ref().unwrap().id());
            Netns::remove_at(&path).unwrap();
            assert!(!path.exists(), "mounted once only");
        }
    });
}

#[test]
fn what_is_no_namespace_is_left_alone() {
    in_private_mounts(|| {
        fs::create_dir_all("/run/netns/folder").unwrap();
        fs::write(path("file"), "content").unwrap();
        symlink("/run/netns/file", path("link")).unwrap();
        for what in ["folder", "file", "link"] {
            let path = path(what);
            for error in [
                Netns::open(&path).unwrap_err(),
                Netns::create_at(&path, tag).unwrap_err(),
                Netns::remove_at(&path).unwrap_err(),
            ] {
                assert!(matches!(error, Error::NotANetns { .. }), "{what}: {error}");
                assert!(
                    error.to_string().starts_with(&format!("/run/netns/{what} is not a network namespace"))
                );
            }
            assert!(fs::symlink_metadata(&path).is_ok());
        }
        let other_kind = Netns::open(Path::new("/proc/self/ns/mnt")).unwrap_err().to_string();
        assert!(other_kind.ends_with("it is a namespace of another kind"), "{other_kind}");
        assert!(Netns::open(Path::new("/proc/self/ns/net")).is_ok());
        let missing = Netns::open(&path("missing")).unwrap_err();
        assert!(missing.is_not_found());
        assert_eq!(
            missing.to_string(),
            "open network namespace /run/netns/missing: No such file or directory (ENOENT)"
        );
    });
}
