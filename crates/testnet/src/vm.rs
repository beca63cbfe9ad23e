use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, ptr};

use crate::error::During;
use crate::{Daemon, Error, Namespaces, Stop, finish, needs, workspace};

/// A virtual machine: a Debian kernel, busybox and a script, on one macvtap.
#[derive(Clone, Debug)]
pub struct Guest<'a> {
    /// The device node of its only network interface, `/dev/tapN`; `eth0` inside.
    pub tap: &'a str,
    /// The interface's MAC address, as text.
    pub mac: &'a str,
    /// The MTU that the guest is told.
    pub mtu: u64,
    /// Its program: lines for busybox's `sh`, with every applet available; the machine is switched off at the end.
    pub script: &'a str,
    /// Further programs of this machine that it needs, by their paths, which are their paths inside too.
    pub programs: &'a [&'a str],
    /// Further arguments for QEMU, as written on its command line.
    pub qemu: &'a [&'a str],
}

/// The user that virt-launcher runs QEMU as.
const QEMU: u32 = 107;

/// The descriptor under which QEMU gets the tap: above those that the standard library uses in between.
const TAP: i32 = 100;

/// The modules in the order of their dependencies: the network card, 802.1Q, then the virtual MACs of VRRP.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "net/llc/llc",
    "net/802/stp",
    "net/802/garp",
    "net/802/mrp",
    "net/8021q/8021q",
    "drivers/net/macvlan",
];

impl Guest<'_> {
    /// Checks that the machine has what a virtual machine needs.
    ///
    /// # Errors
    /// The test is skipped by name; where `CI` is set, it fails.
    pub fn needs() -> Result<(), Stop> {
        needs("qemu-system-x86_64")?;
        needs("/bin/busybox")?;
        needs("cpio")?;
        needs(&workspace().join("target/vm/kernel/boot").to_string_lossy())
    }

    /// Boots it, in software emulation, in the pod's namespaces `place`. QEMU gets the tap as an open file, as
    /// libvirt hands it over, opened by the unprivileged user that libvirt in a virt-launcher pod is. The log is
    /// the guest's console.
    ///
    /// # Errors
    /// If a file is missing, or that user may not open the tap.
    pub fn boot(&self, place: &Namespaces) -> Result<Daemon, Error> {
        static FOLDERS: AtomicU32 = AtomicU32::new(1);
        // Under /tmp, where the unprivileged user finds it; the project may lie in root's home.
        let folder = PathBuf::from(format!("/tmp/guest-{}", FOLDERS.fetch_add(1, Ordering::Relaxed)));
        let (image, initrd) = self.write(&folder)?;

        let mut qemu = place.command("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-m", "256", "-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1"])
            .arg("-kernel")
            .arg(&image)
            .arg("-initrd")
            .arg(&initrd)
            .arg("-netdev")
            .arg(format!("tap,id=lan,fd={TAP}"))
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=lan,mac={},host_mtu={},romfile=", self.mac, self.mtu));
        qemu.args(self.qemu);
        open_as_qemu(&mut qemu, self.tap)?;
        Daemon::run(qemu, "guest", &folder.join("console"))
    }

    /// Writes into a folder what it boots from: its kernel and its initial file system.
    ///
    /// # Errors
    /// If a file is missing.
    pub fn write(&self, folder: &Path) -> Result<(PathBuf, PathBuf), Error> {
        let (root, image, initrd) = (folder.join("root"), folder.join("vmlinuz"), folder.join("initrd"));
        let kernel = kernel()?;
        self.fill(&root, &kernel)?;
        let pack =
            format!("cd {} && find . | cpio -o -H newc --quiet > {}", root.display(), initrd.display());
        let output = finish(Command::new("sh").args(["-ec", &pack]))?;
        if !output.status.success() {
            let output_text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::Command { command: pack, status: output.status, output: output_text });
        }
        copy(&kernel.image, &image)?;
        Ok((image, initrd))
    }

    fn fill(&self, root: &Path, kernel: &Kernel) -> Result<(), Error> {
        for name in ["bin", "modules", "proc", "sys", "dev"] {
            let path = root.join(name);
            fs::create_dir_all(&path).during(|| format!("creating {}", path.display()))?;
        }
        copy(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
        let mut init = "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nexport PATH=/bin\n\
                        mount -t proc proc /proc\nmount -t sysfs sysfs /sys\nmount -t devtmpfs dev /dev\n"
            .to_owned();
        for module in MODULES {
            let name = module.rsplit('/').next().unwrap_or(module);
            copy(&kernel.modules.join(format!("{module}.ko")), &root.join(format!("modules/{name}.ko")))?;
            init.push_str(&format!("insmod /modules/{name}.ko\n"));
        }
        for program in self.programs {
            for file in with_libraries(program)? {
                let path = root.join(file.strip_prefix("/").unwrap_or(&file));
                let folder = path.parent().unwrap_or(root);
                fs::create_dir_all(folder).during(|| format!("creating {}", folder.display()))?;
                copy(&file, &path)?;
            }
        }
        init.push_str(self.script);
        init.push_str("\npoweroff -f\n");
        let path = root.join("init");
        fs::write(&path, init).during(|| format!("writing {}", path.display()))?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .during(|| format!("making {} executable", path.display()))
    }
}

/// A program and what the dynamic linker loads for it (ldd(1)).
fn with_libraries(program: &str) -> Result<Vec<PathBuf>, Error> {
    let output = Command::new("ldd").arg(program).output().during(|| format!("ldd {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(std::iter::once(PathBuf::from(program)).chain(libraries).collect())
}

struct Kernel {
    image: PathBuf,
    modules: PathBuf,
}

/// The kernel that `tests/packages.sh` unpacked.
fn kernel() -> Result<Kernel, Error> {
    let unpacked = workspace().join("target/vm/kernel");
    let boot = unpacked.join("boot");
    let entries = fs::read_dir(&boot).during(|| format!("reading {}", boot.display()))?;
    let image = entries.flatten().map(|entry| entry.path()).find(|path| version(path).is_some());
    let image = image
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .during(|| format!("looking for a kernel in {}", boot.display()))?;
    let modules = unpacked.join("lib/modules").join(version(&image).unwrap_or_default()).join("kernel");
    Ok(Kernel { image, modules })
}

fn version(image: &Path) -> Option<&str> {
    image.file_name()?.to_str()?.strip_prefix("vmlinuz-")
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map(drop).during(|| format!("copying {} to {}", from.display(), to.display()))
}

/// Runs between fork and exec, in the namespaces: becomes QEMU's user, opens the tap, leaves it as descriptor
/// [`TAP`].
fn open_as_qemu(command: &mut Command, tap: &str) -> Result<(), Error> {
    let path = std::ffi::CString::new(tap).map_err(io::Error::from).during(|| format!("the path {tap:?}"))?;
    let open = move || {
        #[expect(unsafe_code, reason = "system calls between fork and exec")]
        // SAFETY: the process has one thread; `path` lives in the closure; the descriptors are its own.
        unsafe {
            if libc::setgroups(0, ptr::null()) != 0 || libc::setgid(QEMU) != 0 || libc::setuid(QEMU) != 0 {
                return Err(io::Error::last_os_error());
            }
            let tap = libc::open(path.as_ptr(), libc::O_RDWR);
            if tap < 0 || libc::dup2(tap, TAP) < 0 || libc::close(tap) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "the tap must be opened by another user than the test's")]
    // SAFETY: the closure only makes system calls.
    unsafe {
        command.pre_exec(open);
    }
    Ok(())
}
