//! The plugins in the node's CNI folder: what `k8slan-device-plugin install` and `uninstall` do to it, also when they
//! are killed anywhere, the disk is full, or somebody else's files are in the way.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Output;

use k8slan_tests::kills::{CHANGING, everywhere, strace};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use testnet::{Node, Outcome, Stop, needs, program};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        plugins_come_and_go,
        what_was_there_before_comes_back,
        a_link_in_the_place_of_a_plugin_is_kept_as_a_link,
        what_somebody_changed_since_stays,
        whoever_writes_again_and_again_has_one_backup,
        a_folder_that_a_container_knew_by_another_name,
        an_older_version_of_ours_is_just_replaced,
        a_dry_run_changes_nothing,
        a_full_disk_changes_nothing,
        a_folder_that_cannot_be_written_is_told,
        what_cannot_be_replaced_is_told,
        install_killed_anywhere_is_repaired_by_the_next,
        uninstall_killed_anywhere_is_finished_by_the_next,
        two_at_once_wait_for_one_another,
        k8slanveth_comes_and_goes_with_its_switch,
        k8slanveth_stays_while_pods_need_it,
    ]
}

const CNI: &str = "/run/cni-bin";
const PLUGINS: [&str; 3] = ["ipam-pool", "macvtap", "vlan-bridge"];
const MANIFEST: &str = "/var/lib/k8slan/install.json";

/// A node with a CNI folder, and two versions of the plugins, which are small here.
struct Host(Node);

impl Host {
    fn new() -> Result<Self, Stop> {
        let node = Node::new("worker1")?;
        for name in PLUGINS {
            node.write(&format!("/run/old/{name}"), format!("old {name}"))?;
            node.write(&format!("/run/new/{name}"), format!("new {name}"))?;
        }
        node.write(&format!("{CNI}/loopback"), "somebody's")?;
        Ok(Self(node))
    }

    fn argv<'a>(verb: &'a str, version: &'a str, program: &'a str) -> Vec<&'a str> {
        vec![program, verb, "--cni-bin-dir", CNI, "--from", version]
    }

    fn run(&self, verb: &str, version: &str, more: &[&str]) -> Result<Output, Stop> {
        let program = program("k8slan-device-plugin");
        let program = program.to_string_lossy();
        Ok(self.0.output(&[&Self::argv(verb, version, &program)[..], more].concat())?)
    }

    fn install(&self, version: &str) -> Outcome {
        succeeds(&self.run("install", version, &[])?)
    }

    fn uninstall(&self) -> Outcome {
        succeeds(&self.run("uninstall", "/run/none", &[])?)
    }

    /// What is in the CNI folder: names with contents, links with `-> target`.
    fn files(&self) -> BTreeMap<String, String> {
        self.0.run(|| {
            let entries = fs::read_dir(CNI).into_iter().flatten().flatten();
            entries
                .map(|entry| {
                    let text = match fs::read_link(entry.path()) {
                        Ok(target) => format!("-> {}", target.display()),
                        Err(_) => fs::read_to_string(entry.path()).unwrap_or_default(),
                    };
                    (entry.file_name().to_string_lossy().into_owned(), text)
                })
                .collect()
        })
    }

    /// That the folder holds these and `loopback`, and nothing else.
    fn has(&self, wanted: &[(&str, &str)]) -> Outcome {
        let mut wanted: BTreeMap<String, String> =
            wanted.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        wanted.insert("loopback".to_owned(), "somebody's".to_owned());
        let files = self.files();
        assert!(files == wanted, "the folder holds {files:#?}, not {wanted:#?}");
        Ok(())
    }

    fn has_version(&self, version: &str) -> Outcome {
        let texts = PLUGINS.map(|name| (name, format!("{version} {name}")));
        let wanted: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, &**text)).collect();
        self.has(&wanted)
    }
}

fn succeeds(output: &Output) -> Outcome {
    assert!(output.status.success(), "{}", said(output));
    Ok(())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn plugins_come_and_go() -> Outcome {
    let host = Host::new()?;
    host.install("/run/new")?;
    host.has_version("new")?;
    let (mode, uid) = host.0.run(|| {
        fs::metadata(format!("{CNI}/macvtap")).map(|meta| (meta.permissions().mode() & 0o7777, meta.uid()))
    })?;
    assert!((mode, uid) == (0o755, 0), "mode {mode:o}, owner {uid}");
    let before = inode(&host, "macvtap")?;
    host.install("/run/new")?;
    assert!(inode(&host, "macvtap")? == before, "a file that is right is left alone");
    host.uninstall()?;
    host.has(&[])?;
    assert!(host.0.read(MANIFEST).is_err(), "nothing is ours any more");
    host.uninstall()
}

fn inode(host: &Host, name: &str) -> Result<u64, Stop> {
    Ok(host.0.run(|| fs::metadata(format!("{CNI}/{name}")).map(|meta| meta.ino()))?)
}

fn what_was_there_before_comes_back() -> Outcome {
    let host = Host::new()?;
    host.0.write(&format!("{CNI}/macvtap"), "macvtap-cni's")?;
    host.install("/run/old")?;
    host.install("/run/new")?;
    let ours =
        [("ipam-pool", "new ipam-pool"), ("macvtap", "new macvtap"), ("vlan-bridge", "new vlan-bridge")];
    host.has(&[&ours[..], &[("macvtap.before-k8slan", "macvtap-cni's")]].concat())?;
    host.uninstall()?;
    host.has(&[("macvtap", "macvtap-cni's")])
}

fn a_link_in_the_place_of_a_plugin_is_kept_as_a_link() -> Outcome {
    let host = Host::new()?;
    host.0.write("/run/elsewhere/macvtap", "theirs")?;
    host.0.run(|| symlink("/run/elsewhere/macvtap", format!("{CNI}/macvtap")))?;
    host.install("/run/new")?;
    assert!(host.0.read("/run/elsewhere/macvtap")? == "theirs", "the link was followed");
    assert!(host.files()["macvtap"] == "new macvtap", "{:?}", host.files());
    host.uninstall()?;
    host.has(&[("macvtap", "-> /run/elsewhere/macvtap")])
}

fn what_somebody_changed_since_stays() -> Outcome {
    let host = Host::new()?;
    host.0.write(&format!("{CNI}/macvtap"), "first")?;
    host.install("/run/new")?;
    host.0.write(&format!("{CNI}/macvtap"), "second")?;
    let output = host.run("uninstall", "/run/none", &[])?;
    succeeds(&output)?;
    assert!(said(&output).contains("changed by somebody else since"), "{}", said(&output));
    host.has(&[("macvtap", "second"), ("macvtap.before-k8slan", "first")])?;
    // The next installation keeps that one, too.
    host.install("/run/new")?;
    host.uninstall()?;
    host.has(&[("macvtap", "second"), ("macvtap.before-k8slan", "first")])
}

fn whoever_writes_again_and_again_has_one_backup() -> Outcome {
    let host = Host::new()?;
    for number in 1..=5 {
        host.0.write(&format!("{CNI}/macvtap"), format!("theirs {number}"))?;
        host.install("/run/new")?;
        host.install("/run/new")?;
        let backups: Vec<_> = host.files().into_iter().filter(|(name, _)| name.contains("before")).collect();
        let newest = ("macvtap.before-k8slan".to_owned(), format!("theirs {number}"));
        assert!(backups == [newest], "{backups:?}");
    }
    host.uninstall()?;
    host.has(&[("macvtap", "theirs 5")])
}

fn a_folder_that_a_container_knew_by_another_name() -> Outcome {
    let host = Host::new()?;
    host.0.write(&format!("{CNI}/macvtap"), "theirs")?;
    host.install("/run/new")?;
    // As on k3s: outside the container, the folder has another path, and its own may be another folder.
    let moved = "/run/k3s/data/cni";
    host.0.run(|| {
        fs::create_dir_all("/run/k3s/data")?;
        fs::rename(CNI, moved)
    })?;
    let program = program("k8slan-device-plugin");
    let program = program.to_string_lossy();
    let by_hand = |more: &[&str]| host.0.output(&[&[&*program, "uninstall"], more].concat());
    let refuses = |more: &[&str]| -> Outcome {
        let output = by_hand(more)?;
        assert!(!output.status.success(), "{more:?}: {}", said(&output));
        for words in ["none of the plugins that were put into /run/cni-bin", "--cni-bin-dir"] {
            assert!(said(&output).contains(words), "{more:?}: {}", said(&output));
        }
        assert!(host.0.read(MANIFEST).is_ok(), "it forgot what is installed");
        Ok(())
    };
    refuses(&[])?;
    refuses(&["--purge"])?;
    host.0.write(&format!("{CNI}/macvtap"), "Debian's")?;
    refuses(&["--purge"])?;
    refuses(&["--dry-run"])?;
    let output = by_hand(&["--cni-bin-dir", "/run/k3s/nowhere"])?;
    assert!(said(&output).contains("there is no folder /run/k3s/nowhere"), "{}", said(&output));
    succeeds(&by_hand(&["--cni-bin-dir", moved])?)?;
    let left = host.0.run(|| [CNI, moved].map(|dir| fs::read_to_string(format!("{dir}/macvtap"))));
    assert!(matches!(&left, [Ok(a), Ok(b)] if a == "Debian's" && b == "theirs"), "{left:?}");
    assert!(host.0.list(moved) == ["loopback", "macvtap"], "{:?}", host.0.list(moved));
    assert!(host.0.read(MANIFEST).is_err(), "nothing is ours any more");
    // Somebody removed them.
    host.0.run(|| fs::create_dir_all("/run/other"))?;
    succeeds(&host.0.output(&[
        &*program,
        "install",
        "--cni-bin-dir",
        "/run/other",
        "--from",
        "/run/new",
    ])?)?;
    host.0.run(|| fs::remove_dir_all("/run/other"))?;
    assert!(!by_hand(&[])?.status.success(), "it did not say that they are gone");
    succeeds(&by_hand(&["--force"])?)?;
    assert!(host.0.read(MANIFEST).is_err(), "it did not forget them");
    Ok(())
}

fn an_older_version_of_ours_is_just_replaced() -> Outcome {
    let host = Host::new()?;
    host.install("/run/old")?;
    host.has_version("old")?;
    host.install("/run/new")?;
    host.has_version("new")?;
    // Without the list of what is ours, the same file is still known by what is to be installed.
    host.0.run(|| fs::remove_file(MANIFEST))?;
    host.install("/run/new")?;
    host.uninstall()?;
    host.has(&[])
}

fn a_dry_run_changes_nothing() -> Outcome {
    let host = Host::new()?;
    host.0.write(&format!("{CNI}/macvtap"), "theirs")?;
    let output = host.run("install", "/run/new", &["--dry-run"])?;
    succeeds(&output)?;
    for words in ["/run/cni-bin/ipam-pool: new", "/run/cni-bin/macvtap: another program is replaced"] {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    host.has(&[("macvtap", "theirs")])?;
    assert!(host.0.run(|| !fs::exists("/var/lib/k8slan").unwrap_or(true)), "a state folder was made");
    host.install("/run/new")?;
    let output = host.run("uninstall", "/run/none", &["--dry-run", "--purge"])?;
    succeeds(&output)?;
    assert!(said(&output).contains("back from macvtap.before-k8slan"), "{}", said(&output));
    assert!(host.files()["macvtap"] == "new macvtap", "{:?}", host.files());
    Ok(())
}

fn a_full_disk_changes_nothing() -> Outcome {
    let host = Host::new()?;
    host.0.run(|| {
        mount(Some("small"), CNI, Some("tmpfs"), MsFlags::empty(), Some("size=64k,mode=755"))?;
        fs::write(format!("{CNI}/loopback"), "somebody's")
    })?;
    host.install("/run/old")?;
    let large = vec![b'x'; 100_000];
    host.0.write("/run/new/vlan-bridge", &large)?;
    let output = host.run("install", "/run/new", &[])?;
    assert!(!output.status.success() && said(&output).contains("No space left"), "{}", said(&output));
    assert!(said(&output).contains("/run/cni-bin/.vlan-bridge.k8slan-new"), "{}", said(&output));
    host.has_version("old")?;
    // The same of the state folder.
    host.0.write("/run/new/vlan-bridge", "new vlan-bridge")?;
    host.0.run(|| {
        mount(Some("small"), "/var/lib/k8slan", Some("tmpfs"), MsFlags::empty(), Some("size=4k,mode=755"))?;
        fs::write("/var/lib/k8slan/full", vec![b'x'; 4096])
    })?;
    let output = host.run("install", "/run/new", &[])?;
    assert!(!output.status.success() && said(&output).contains("No space left"), "{}", said(&output));
    host.has_version("old")?;
    host.0.run(|| unmount("/var/lib/k8slan"))?;
    host.install("/run/new")?;
    host.has_version("new")
}

/// Takes a mount away, also while something still looks at it: a program that another test is about to start may have
/// inherited what was open here, until it runs.
fn unmount(path: &str) -> nix::Result<()> {
    umount2(path, MntFlags::MNT_DETACH)
}

fn a_folder_that_cannot_be_written_is_told() -> Outcome {
    let host = Host::new()?;
    host.install("/run/old")?;
    host.0.run(|| {
        mount(Some(CNI), CNI, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, CNI, None::<&str>, read_only, None::<&str>)
    })?;
    for verb in ["install", "uninstall"] {
        let output = host.run(verb, "/run/new", &[])?;
        assert!(
            !output.status.success() && said(&output).contains("Read-only file system"),
            "{}",
            said(&output)
        );
        host.has_version("old")?;
    }
    host.0.run(|| unmount(CNI))?;
    host.uninstall()?;
    host.has(&[])
}

fn what_cannot_be_replaced_is_told() -> Outcome {
    let host = Host::new()?;
    host.0.run(|| fs::create_dir(format!("{CNI}/vlan-bridge")))?;
    let output = host.run("install", "/run/new", &[])?;
    assert!(said(&output).contains("vlan-bridge is neither a file nor a link"), "{}", said(&output));
    assert!(!host.files().contains_key("macvtap"), "{:?}", host.files());
    host.0.run(|| fs::remove_dir(format!("{CNI}/vlan-bridge")))?;
    let output = host.run("install", "/run/nowhere", &[])?;
    assert!(said(&output).contains("read /run/nowhere/ipam-pool"), "{}", said(&output));
    host.0.run(|| fs::rename(CNI, "/run/away"))?;
    let output = host.run("install", "/run/new", &[])?;
    assert!(said(&output).contains("there is no folder /run/cni-bin"), "{}", said(&output));
    Ok(())
}

fn install_killed_anywhere_is_repaired_by_the_next() -> Outcome {
    needs("strace")?;
    let deaths = everywhere(CHANGING, |name, number| {
        let tracer = strace(name, number);
        let tracer: Vec<&str> = tracer.iter().map(String::as_str).collect();
        let host = Host::new()?;
        host.0.write(&format!("{CNI}/macvtap"), "theirs")?;
        // Odd: the first installation is killed. Even: the second.
        if number % 2 == 0 {
            host.install("/run/old")?;
        }
        let program = program("k8slan-device-plugin");
        let program = program.to_string_lossy();
        let output =
            host.0.output(&[&tracer[..], &Host::argv("install", "/run/new", &program)[..]].concat())?;
        let survived = output.status.success();
        // Whenever it dies, a runtime finds each plugin whole: theirs, the old one or the new one.
        let files = host.files();
        for name in PLUGINS {
            let whole = [format!("old {name}"), format!("new {name}"), "theirs".to_owned()];
            let there = files.get(name).is_none_or(|text| whole.contains(text));
            assert!(there && (name != "macvtap" || files.contains_key(name)), "{files:?}");
        }
        // Then the next one finishes, or the plugins are taken away.
        if number % 3 != 0 {
            host.install("/run/new")?;
            let files = host.files();
            assert!(files.len() == 5, "{files:?}");
            assert!(PLUGINS.iter().all(|name| files[*name] == format!("new {name}")), "{files:?}");
            assert!(files["macvtap.before-k8slan"] == "theirs", "{files:?}");
        }
        host.uninstall()?;
        host.has(&[("macvtap", "theirs")])?;
        Ok(survived)
    })?;
    assert!(deaths > 30, "only {deaths} deaths: is the list of system calls right?");
    Ok(())
}

fn uninstall_killed_anywhere_is_finished_by_the_next() -> Outcome {
    needs("strace")?;
    let deaths = everywhere(CHANGING, |name, number| {
        let tracer = strace(name, number);
        let tracer: Vec<&str> = tracer.iter().map(String::as_str).collect();
        let host = Host::new()?;
        host.0.write(&format!("{CNI}/macvtap"), "theirs")?;
        host.install("/run/old")?;
        let program = program("k8slan-device-plugin");
        let program = program.to_string_lossy();
        let output =
            host.0.output(&[&tracer[..], &Host::argv("uninstall", "/run/none", &program)[..]].concat())?;
        let survived = output.status.success();
        if number % 2 == 0 {
            host.install("/run/new")?;
        }
        host.uninstall()?;
        host.has(&[("macvtap", "theirs")])?;
        Ok(survived)
    })?;
    assert!(deaths > 15, "only {deaths} deaths: is the list of system calls right?");
    Ok(())
}

fn two_at_once_wait_for_one_another() -> Outcome {
    let host = Host::new()?;
    host.0.write(&format!("{CNI}/macvtap"), "theirs")?;
    for _ in 0..5 {
        std::thread::scope(|scope| {
            let runs: Vec<_> = ["/run/old", "/run/new", "/run/old", "/run/new"]
                .map(|version| scope.spawn(|| host.install(version)))
                .into_iter()
                .collect();
            runs.into_iter()
                .try_for_each(|run| run.join().unwrap_or_else(|_| Err(Stop::Failed("panic".to_owned()))))
        })?;
        let files = host.files();
        assert!(files.len() == 5 && files["macvtap.before-k8slan"] == "theirs", "{files:?}");
    }
    host.uninstall()?;
    host.has(&[("macvtap", "theirs")])
}

const COMPAT: &[&str] = &["--compat", "k8slan-go"];

fn k8slanveth_comes_and_goes_with_its_switch() -> Outcome {
    let host = Host::new()?;
    let ours =
        [("ipam-pool", "new ipam-pool"), ("macvtap", "new macvtap"), ("vlan-bridge", "new vlan-bridge")];
    let with = |more: &[(&str, &str)]| host.has(&[&ours[..], more].concat());
    // Somebody's of that name is nobody's business without the switch.
    host.0.write(&format!("{CNI}/k8slanveth"), "upstream's")?;
    host.install("/run/new")?;
    with(&[("k8slanveth", "upstream's")])?;
    succeeds(&host.run("install", "/run/old", COMPAT)?)?;
    succeeds(&host.run("install", "/run/new", COMPAT)?)?;
    let both = [("k8slanveth", "new macvtap"), ("k8slanveth.before-k8slan", "upstream's")];
    with(&both)?;
    succeeds(&host.run("install", "/run/new", &["--dry-run"])?)?;
    with(&both)?;
    host.install("/run/new")?;
    with(&[("k8slanveth", "upstream's")])?;
    // Without one of somebody's, and by the variable of the manifests.
    host.0.run(|| fs::remove_file(format!("{CNI}/k8slanveth")))?;
    let program = program("k8slan-device-plugin");
    let mut argv = vec!["env", "K8SLAN_COMPAT=k8slan-go"];
    let program = program.to_string_lossy();
    argv.extend(Host::argv("install", "/run/new", &program));
    succeeds(&host.0.output(&argv)?)?;
    with(&[("k8slanveth", "new macvtap")])?;
    // What somebody put there since stays.
    host.0.write(&format!("{CNI}/k8slanveth"), "another's")?;
    host.install("/run/new")?;
    with(&[("k8slanveth", "another's")])?;
    host.0.run(|| fs::remove_file(format!("{CNI}/k8slanveth")))?;
    succeeds(&host.run("install", "/run/new", COMPAT)?)?;
    host.uninstall()?;
    host.has(&[])
}

fn k8slanveth_stays_while_pods_need_it() -> Outcome {
    let host = Host::new()?;
    succeeds(&host.run("install", "/run/old", COMPAT)?)?;
    let handed_out = "/var/lib/k8slan/handed-out.json";
    host.0.write(handed_out, r#"{"srl":"k8slan-veth-srl","vm":"vm"}"#)?;
    let output = host.run("install", "/run/new", &[])?;
    succeeds(&output)?;
    assert!(said(&output).contains("k8slanveth stays"), "{}", said(&output));
    assert_eq!(
        host.files().get("k8slanveth").map(String::as_str),
        Some("new macvtap"),
        "a version is replaced"
    );
    host.0.write(handed_out, r#"{"srl":"k8slan-mac-srl"}"#)?;
    host.install("/run/new")?;
    host.has_version("new")
}
