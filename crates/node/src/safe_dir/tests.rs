use std::os::unix::fs::{PermissionsExt, chown, symlink};

use super::*;

fn folder() -> (tempfile::TempDir, SafeDir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = SafeDir::create(&temp.path().join("a/b")).unwrap();
    (temp, dir)
}

#[test]
fn writes_whole_files_and_reads_them() {
    let (_temp, dir) = folder();
    assert_eq!(dir.read("x").unwrap(), None);
    dir.write("x", b"one", Durability::UntilReboot).unwrap();
    dir.write("x", b"two", Durability::Kept).unwrap();
    assert_eq!(dir.read("x").unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(dir.names().unwrap(), ["x"]);
    assert!(!dir.create_new("x", b"three").unwrap());
    dir.remove("x").unwrap();
    dir.remove("x").unwrap();
    dir.write(".x.7", b"cut off", Durability::UntilReboot).unwrap();
    dir.write("y", b"other", Durability::UntilReboot).unwrap();
    dir.remove_with_leftovers("x").unwrap();
    assert_eq!(dir.list(|_| true).unwrap(), ["y"]);
    assert!(dir.create_new("x", b"three").unwrap());
}

#[test]
fn a_new_folder_is_an_entry_of_its_parent() {
    let (_temp, dir) = folder();
    let path = dir.path().join("c/d");
    assert_eq!(parents_of_missing(&path), [dir.path().join("c"), dir.path().to_owned()]);
    SafeDir::create(&path).unwrap();
    assert!(parents_of_missing(&path).is_empty());
    assert_eq!(parents_of_missing(Path::new("not/here")), [Path::new("not"), Path::new(".")]);
}

#[test]
fn a_missing_folder_is_none() {
    assert!(SafeDir::open(Path::new("/nowhere/at/all")).unwrap().is_none());
}

#[test]
fn a_private_folder_is_roots_alone() {
    let (_temp, dir) = folder();
    dir.make_private().unwrap();
    dir.make_private().unwrap();
    assert_eq!(std::fs::metadata(dir.path()).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn symbolic_links_are_refused_wherever_they_stand() {
    let (temp, dir) = folder();
    symlink("/etc/hostname", dir.path().join("link")).unwrap();
    assert!(matches!(dir.read("link"), Err(SafeDirError::Symlink(_))));
    symlink(temp.path().join("a"), temp.path().join("c")).unwrap();
    assert!(matches!(SafeDir::open(&temp.path().join("c/b")), Err(SafeDirError::Symlink(_))));
}

#[test]
fn what_others_can_write_is_refused() {
    let (temp, dir) = folder();
    dir.write("x", b"{}", Durability::UntilReboot).unwrap();
    std::fs::set_permissions(dir.path().join("x"), PermissionsExt::from_mode(0o666)).unwrap();
    assert!(matches!(dir.read("x"), Err(SafeDirError::Untrusted { mode: 0o666, .. })));
    std::fs::set_permissions(dir.path().join("x"), PermissionsExt::from_mode(0o644)).unwrap();
    chown(dir.path().join("x"), Some(1000), None).unwrap();
    assert!(matches!(dir.read("x"), Err(SafeDirError::Untrusted { uid: 1000, .. })));
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    assert!(matches!(SafeDir::open(&temp.path().join("a/b")), Err(SafeDirError::Untrusted { .. })));
}

/// Opening a pipe for writing without blocking succeeds only while another process has it open for reading.
#[test]
fn what_is_no_file_is_not_even_opened() {
    let (_temp, dir) = folder();
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
    let opened = std::sync::atomic::AtomicBool::new(false);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                if nix::fcntl::open(&pipe, flags, Mode::empty()).is_ok() {
                    opened.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
        });
        for _ in 0..20_000 {
            assert!(matches!(dir.read("pipe"), Err(SafeDirError::NotAFile(_))));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(!opened.into_inner());
}

#[test]
fn a_file_is_read_up_to_a_limit_and_through_links_where_that_is_asked_for() {
    let (temp, dir) = folder();
    dir.write("x", b"12345", Durability::UntilReboot).unwrap();
    assert_eq!(dir.read_up_to("x", 5).unwrap().as_deref(), Some(&b"12345"[..]));
    assert!(matches!(dir.read_up_to("x", 4), Err(SafeDirError::TooLarge { len: 5, max: 4, .. })));
    // It has length 0 and some thousand bytes.
    let grown = read_through_links(Path::new("/proc/self/status"), 100);
    assert!(matches!(grown, Err(SafeDirError::NotAFile(_))), "{grown:?}");
    let link = temp.path().join("link");
    symlink(dir.path().join("x"), &link).unwrap();
    assert_eq!(read_through_links(&link, 5).unwrap().as_deref(), Some(&b"12345"[..]));
    assert_eq!(read_through_links(&temp.path().join("none"), 5).unwrap(), None);
    std::fs::remove_file(&link).unwrap();
    symlink("/dev/null", &link).unwrap();
    assert!(matches!(read_through_links(&link, 5), Err(SafeDirError::NotAFile(_))));
}

#[test]
fn a_file_of_anybodys_is_read_and_nothing_but_a_file() {
    let (temp, dir) = folder();
    let file = dir.path().join("x");
    std::fs::write(&file, b"12345").unwrap();
    chown(&file, Some(1000), None).unwrap();
    assert!(matches!(read_through_links(&file, 5), Err(SafeDirError::Untrusted { .. })));
    assert_eq!(read_regular(&file, 5).unwrap().as_deref(), Some(&b"12345"[..]));
    assert!(matches!(read_regular(&file, 4), Err(SafeDirError::TooLarge { len: 5, max: 4, .. })));
    assert_eq!(read_regular(&temp.path().join("none"), 5).unwrap(), None);
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600)).unwrap();
    let link = dir.path().join("link");
    symlink("/dev/zero", &link).unwrap();
    for path in [&pipe, &link, Path::new("/dev/zero"), Path::new("/dev/tty"), dir.path()] {
        let read = read_regular(path, 5);
        assert!(matches!(read, Err(SafeDirError::NotAFile(_))), "{path:?}: {read:?}");
    }
    for path in ["/proc/kmsg", "/proc/self/status"] {
        let read = read_regular(Path::new(path), 64 << 20);
        assert!(matches!(read, Err(SafeDirError::NotAFile(_))), "{path}: {read:?}");
    }
}

#[test]
fn only_regular_files_are_read() {
    let (_temp, dir) = folder();
    nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    assert!(matches!(dir.read("pipe"), Err(SafeDirError::NotAFile(_))));
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    assert!(matches!(dir.read("folder"), Err(SafeDirError::NotAFile(_))));
}
