//! `install/release/release.sh`: the folder that is a release, made of programs that are none, twice.
#![expect(clippy::unwrap_used, reason = "a test binary")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8slan_tests::go_programs::kustomize;
use k8slan_tests::registry::registry;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use testnet::{Node, Outcome, Stop, finish, needs, workspace};

pub(crate) fn trials() -> Vec<testnet::Trial> {
    testnet::tests![
        one_folder_names_one_image_everywhere,
        the_list_of_parts_is_what_the_programs_are_linked_from,
        what_cannot_be_released_is_refused,
        kubectl_builds_the_manifests_where_there_is_no_kustomize,
        what_is_published_is_that_folder,
        the_workflow_calls_what_people_call,
    ]
}

const PROGRAMS: [&str; 4] = ["k8slan-device-plugin", "macvtap", "vlan-bridge", "ipam-pool"];
const IMAGE: &str = "ghcr.io/some-body/k8slan:1.2.3";

fn release(arguments: &[&str], folder: &Path) -> Result<Output, Stop> {
    let kustomize = words(&kustomize()?).join(" ");
    Ok(finish(release_command(arguments, folder)?.env("KUSTOMIZE", kustomize))?)
}

fn words(command: &Command) -> Vec<String> {
    let all = std::iter::once(command.get_program()).chain(command.get_args());
    all.map(|word| word.to_string_lossy().into_owned()).collect()
}

fn release_command(arguments: &[&str], folder: &Path) -> Result<Command, Stop> {
    needs("buildah")?;
    needs("jq")?;
    let programs = folder.join("programs");
    fs::create_dir_all(&programs)?;
    for program in PROGRAMS {
        fs::write(programs.join(program), program)?;
        fs::set_permissions(programs.join(program), fs::Permissions::from_mode(0o755))?;
    }
    let mut command = Command::new(workspace().join("install/release/release.sh"));
    command.args(arguments).arg(folder.join("out")).arg(format!("amd64={}", programs.display()));
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    Ok(command)
}

fn released(folder: &Path) -> Result<PathBuf, Stop> {
    let output = release(&["1.2.3", "Some-Body"], folder)?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Ok(folder.join("out"))
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn one_folder_names_one_image_everywhere() -> Outcome {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let out = released(first.path())?;
    let mut names: Vec<String> =
        fs::read_dir(&out)?.flatten().map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    let mut expected: Vec<String> = [
        "SHA256SUMS",
        "k8slan-1.2.3-linux-amd64.tar.gz",
        "k8slan-1.2.3.tgz",
        "k8slan-crds.yaml",
        "k8slan-image.tar",
        "k8slan-uninstall.tar.gz",
        "k8slan.spdx.json",
        "k8slan.yaml",
        "kubectl-k8slan",
        "kubectl-k8slan.krew.yaml",
        "kubectl-k8slan.tar.gz",
    ]
    .map(str::to_owned)
    .to_vec();
    for overlay in fs::read_dir(workspace().join("install/overlays"))?.flatten() {
        expected.push(format!("k8slan-{}.yaml", overlay.file_name().to_string_lossy()));
    }
    expected.sort();
    assert_eq!(names, expected);
    // Each sum is that of its file, and none is missing.
    let sums = fs::read_to_string(out.join("SHA256SUMS"))?;
    let told: Vec<(&str, &str)> = sums.lines().filter_map(|line| line.split_once("  ")).collect();
    assert_eq!(told.len(), names.len() - 1, "{sums}");
    for (told, name) in told {
        assert_eq!(told, sum(&fs::read(out.join(name))?), "{name}");
    }
    let images = |text: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| line.trim().strip_prefix("image: ").map(str::to_owned)).collect()
    };
    let is_manifest = |name: &str| name.starts_with("k8slan") && name.ends_with(".yaml");
    for manifest in names.iter().filter(|name| is_manifest(name) && *name != "k8slan-crds.yaml") {
        let text = fs::read_to_string(out.join(manifest))?;
        assert_eq!(images(&text), BTreeSet::from([IMAGE.to_owned()]), "{manifest}");
        assert_eq!(text.matches("kind: DaemonSet").count(), 1, "{manifest}");
    }
    let inside = |archive: &str, path: &str| -> Result<String, Stop> {
        let output = finish(Command::new("tar").arg("-xOf").arg(out.join(archive)).arg(path))?;
        assert!(output.status.success(), "{archive}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(
        inside("k8slan-image.tar", "index.json")?
            .contains(&format!("\"io.containerd.image.name\":\"{IMAGE}\""))
    );
    assert!(
        inside("k8slan-1.2.3.tgz", "k8slan/values.yaml")?.contains("repository: ghcr.io/some-body/k8slan\n")
    );
    let chart = inside("k8slan-1.2.3.tgz", "k8slan/Chart.yaml")?;
    assert!(chart.contains("version: 1.2.3\n") && chart.contains("appVersion: \"1.2.3\"\n"), "{chart}");
    // What is a link in the tree is a file here.
    assert!(inside("k8slan-1.2.3.tgz", "k8slan/files/base/rbac.yaml")?.contains("kind: ClusterRole\n"));
    assert!(inside("k8slan-uninstall.tar.gz", "k8slan-uninstall/uninstall/uninstall.sh")?.starts_with("#!"));
    let krew = fs::read_to_string(out.join("kubectl-k8slan.krew.yaml"))?;
    let plugin = sum(&fs::read(out.join("kubectl-k8slan.tar.gz"))?);
    assert!(
        krew.contains(&format!("sha256: \"{plugin}\""))
            && krew.contains("/some-body/k8slan/releases/download/v1.2.3/"),
        "{krew}"
    );
    for name in names.iter().filter(|name| !name.ends_with(".tar") && !name.ends_with("gz")) {
        assert!(!fs::read_to_string(out.join(name))?.contains("/OWNER"), "{name}");
    }
    // The same programs give the same bytes.
    let again = released(second.path())?;
    assert_eq!(fs::read_to_string(again.join("SHA256SUMS"))?, sums);
    Ok(())
}

fn the_list_of_parts_is_what_the_programs_are_linked_from() -> Outcome {
    let folder = tempfile::tempdir()?;
    let out = released(folder.path())?;
    let list: Value = serde_json::from_slice(&fs::read(out.join("k8slan.spdx.json"))?)?;
    assert_eq!(
        (&list["spdxVersion"], &list["creationInfo"]["created"]),
        (&"SPDX-2.3".into(), &"2023-11-14T22:13:20Z".into())
    );
    let packages = list["packages"].as_array().unwrap();
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    // cargo's own tree of the same programs.
    let mut command = Command::new("cargo");
    command.current_dir(workspace()).args([
        "tree",
        "--locked",
        "--prefix=none",
        "--edges=normal",
        "--format={p}",
    ]);
    command.args(["--target=x86_64-unknown-linux-gnu"]);
    for program in PROGRAMS {
        command.args(["--package", program]);
    }
    let tree = finish(&mut command)?;
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    let linked: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let missing: Vec<_> = linked.difference(&names).collect();
    assert!(missing.is_empty() && linked.len() > 50, "{missing:?}");
    for tests_only in ["testnet", "proptest", "k8slan-tests", "libtest-mimic"] {
        assert!(!names.contains(tests_only), "{tests_only}");
    }
    let ids: BTreeSet<&str> = packages.iter().filter_map(|package| package["SPDXID"].as_str()).collect();
    assert_eq!(ids.len(), packages.len(), "an identifier is given twice");
    for relationship in list["relationships"].as_array().unwrap() {
        let [from, to] =
            ["spdxElementId", "relatedSpdxElement"].map(|end| relationship[end].as_str().unwrap());
        assert!(ids.contains(to) && (ids.contains(from) || from == "SPDXRef-DOCUMENT"), "{relationship}");
    }
    Ok(())
}

fn what_cannot_be_released_is_refused() -> Outcome {
    let folder = tempfile::tempdir()?;
    for (arguments, words) in [
        (["1.2", "somebody"], "no version: 1.2"),
        (["v1.2.3", "somebody"], "no version"),
        (["1.2.3", "some_body"], "no owner"),
        (["1.2.3", "a/b"], "no owner"),
    ] {
        let output = release(&arguments, folder.path())?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{arguments:?}: {said}");
        assert!(!folder.path().join("out").exists());
    }
    Ok(())
}

/// Both from the PATH: a kustomize comes before a kubectl.
fn kubectl_builds_the_manifests_where_there_is_no_kustomize() -> Outcome {
    let built_by = words(&kustomize()?).join(" ");
    let bin = tempfile::tempdir()?;
    let put = |name: &str, words: &str| -> Outcome {
        let path = bin.path().join(name);
        let said = bin.path().join("said").display().to_string();
        fs::write(&path, format!("#!/bin/sh\necho \"{name} $1\" >>{said}\nshift\nexec {words} \"$@\"\n"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    };
    let elsewhere = std::env::var("PATH").unwrap_or_default();
    let elsewhere = elsewhere.split(':').filter(|folder| !Path::new(folder).join("kustomize").exists());
    let path = elsewhere.fold(bin.path().display().to_string(), |path, folder| format!("{path}:{folder}"));
    for (program, asked) in [("kubectl", "kubectl kustomize"), ("kustomize", "kustomize build")] {
        put(program, &built_by)?;
        let folder = tempfile::tempdir()?;
        let mut command = release_command(&["1.2.3", "somebody"], folder.path())?;
        let output = finish(command.env_remove("KUSTOMIZE").env("PATH", &path))?;
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        let said = fs::read_to_string(bin.path().join("said"))?;
        let manifests = fs::read_dir(workspace().join("install/overlays"))?.count() + 1;
        assert_eq!(said.lines().collect::<Vec<_>>(), vec![asked; manifests]);
        fs::remove_file(bin.path().join("said"))?;
    }
    Ok(())
}

/// To a registry of a node, and to a `gh` that writes down what it is asked for.
fn what_is_published_is_that_folder() -> Outcome {
    needs("skopeo")?;
    let node = Node::new("worker1")?;
    let _serves = registry(&node)?;
    let folder = tempfile::tempdir()?;
    let out = released(folder.path())?.display().to_string();
    node.write("/run/bin/gh", "#!/bin/sh\nprintf '%s\\n' \"$@\" >/run/gh\n")?;
    node.exec(&["chmod", "755", "/run/bin/gh"])?;
    let script = workspace().join("install/release/publish.sh").display().to_string();
    let publish = |version: &str| {
        let chdir = format!("--chdir={}", workspace().display());
        let path = "PATH=/run/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let more = ["REGISTRY=127.0.0.1:5000", "SKOPEO_FLAGS=--dest-tls-verify=false"];
        node.output(&["env", &chdir, path, more[0], more[1], &script, version, "Some-Body", &out])
    };
    let output = publish("1.2.3")?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let image = "docker://127.0.0.1:5000/some-body/k8slan:1.2.3";
    let manifest: Value =
        serde_json::from_str(&node.exec(&["skopeo", "inspect", "--raw", "--tls-verify=false", image])?)?;
    assert_eq!(manifest["manifests"][0]["platform"]["architecture"], "amd64", "{manifest}");
    let asked = node.read("/run/gh")?;
    assert!(asked.starts_with("release\ncreate\nv1.2.3\n--verify-tag\n"), "{asked}");
    for file in fs::read_dir(&out)?.flatten() {
        assert!(
            asked.lines().any(|line| line == file.path().display().to_string()),
            "{:?}: {asked}",
            file.path()
        );
    }
    // What is not ready for everybody is not the latest.
    assert!(publish("1.2.3-rc.1")?.status.success() && !asked.contains("--prerelease"), "{asked}");
    let asked = node.read("/run/gh")?;
    assert!(asked.starts_with("release\ncreate\nv1.2.3-rc.1\n--verify-tag\n--prerelease\n"), "{asked}");
    // What was changed since is no release.
    fs::write(Path::new(&out).join("k8slan.yaml"), "kind: Pod")?;
    node.exec(&["rm", "/run/gh"])?;
    let changed = publish("1.2.3")?;
    assert!(!changed.status.success() && node.read("/run/gh").is_err());
    Ok(())
}

fn the_workflow_calls_what_people_call() -> Outcome {
    let text = fs::read_to_string(workspace().join(".github/workflows/release.yaml"))?;
    let workflow: Value = serde_saphyr::from_str(&text)?;
    let steps = workflow["jobs"]["release"]["steps"].as_array().unwrap();
    let lines: Vec<&str> =
        steps.iter().filter_map(|step| step["run"].as_str()).flat_map(str::lines).collect();
    let makefile = fs::read_to_string(workspace().join("Makefile"))?;
    let mut called = Vec::new();
    for line in &lines {
        let mut words = line.split_whitespace().skip_while(|word| !word.ends_with("make"));
        if words.next().is_some() {
            let target =
                words.find(|word| !word.starts_with('-')).unwrap_or_default().trim_end_matches([')', '"']);
            assert!(makefile.contains(&format!("\n{target}:")), "{line}");
            called.push(target);
        }
    }
    assert_eq!(called, ["version", "release", "publish"], "{lines:#?}");
    assert_eq!(workflow["permissions"], serde_json::json!({ "contents": "write", "packages": "write" }));
    Ok(())
}
