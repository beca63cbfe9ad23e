#!/usr/bin/env bash
# arm64.sh: runs the arm64 programs of dist/arm64 (make arm64) in a virtual machine with Debian's arm64 kernel: check-host,
# the installer, a LAN, two pods on it that ping each other, a port of a VLAN bridge. By hand: `make test` does not need
# it. Packages are unpacked into target/arm64, never installed; what QEMU links with comes with qemu-system-x86.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x dist/arm64/macvtap ] || { echo "no dist/arm64: make arm64" >&2; exit 2; }
tests/packages.sh test
work=$PWD/target/arm64
mkdir -p "$work"

if [ ! -e "$work/kernel/boot" ] || [ ! -e "$work/qemu/usr/bin/qemu-system-aarch64" ]; then
    echo "unpacking a kernel, busybox and QEMU for arm64"
    rm -rf "$work"
    mkdir -p "$work"/{apt/lists/partial,apt/cache/archives/partial,deb}
    : >"$work/apt/status"
    # Lists of its own: the machine's know nothing of arm64.
    apt=(-q -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::State::lists=$work/apt/lists"
        -o "Dir::State::status=$work/apt/status" -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" update </dev/null
    kernel=$(apt-cache "${apt[@]}" depends linux-image-arm64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
    (cd "$work/deb" && apt-get "${apt[@]}" download "$kernel" busybox-static </dev/null)
    (cd "$work/deb" && apt-get -q -o APT::Sandbox::User=root download qemu-system-arm </dev/null)
    dpkg-deb -x "$work"/deb/busybox-static_*.deb "$work/busybox"
    dpkg-deb -x "$work"/deb/qemu-system-arm_*.deb "$work/qemu"
    dpkg-deb -x "$work"/deb/linux-image-*.deb "$work/kernel"
    rm -rf "$work/deb" "$work/apt"
fi

version=$(ls "$work/kernel/lib/modules")
root=$work/root modules=lib/modules/$version
rm -rf "$root"
mkdir -p "$root"/{bin,proc,sys,dev,run,tmp,etc,var/lib,opt/cni/bin,usr/bin} "$root/$modules/kernel"
cp "$work/busybox/bin/busybox" "$root/bin/"
cp dist/arm64/* "$root/usr/bin/"
for part in drivers/net/veth.ko drivers/net/macvtap.ko drivers/net/macvlan.ko drivers/net/tap.ko drivers/net/vxlan \
    drivers/net/virtio_net.ko drivers/net/net_failover.ko drivers/virtio net/bridge net/core net/8021q net/802 net/llc net/ipv4 \
    net/ipv6 net/netfilter lib crypto arch/arm64/crypto; do
    mkdir -p "$root/$modules/kernel/$(dirname $part)"
    cp -r "$work/kernel/$modules/kernel/$part" "$root/$modules/kernel/$part"
done
cp "$work/kernel/$modules"/modules.{order,builtin} "$root/$modules/"
depmod -b "$root" "$version" 2>/dev/null
sed 's/eth0\.10/eth0/' nad-examples/k8slan/lan.yaml >"$root/lan.yaml"

cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin CNI_IFNAME=net1 CNI_PATH=/opt/cni/bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev; mount -t tmpfs none /run
echo /bin/modprobe >/proc/sys/kernel/modprobe
sh -ex /trial && echo "all of it works"
poweroff -f
INIT
cat >"$root/trial" <<'TRIAL'
call() {
    CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/run/netns/$2 "/opt/cni/bin/$3" <<CONFIG
{"cniVersion": "1.0.0", "name": "lan", "type": "$3", $4, "ipam": {"type": "ipam-pool", "subnet": "10.1.2.0/24", "scope": "host"}}
CONFIG
}
pod() { unshare -n sleep 1000 & sleep 1; touch "/run/netns/$1"; mount --bind "/proc/$!/ns/net" "/run/netns/$1"; }
uname -mr
for module in virtio_pci virtio_net veth bridge vxlan macvtap 8021q nf_tables; do modprobe "$module"; done
ip link set lo up; ip link set eth0 up; sleep 3
k8slan-device-plugin check-host --single-host --underlay eth0 --cni-bin-dir /usr/bin
k8slan-device-plugin install --from /usr/bin --cni-bin-dir /opt/cni/bin
mkdir -p /run/lans /run/netns
k8slan-device-plugin node --lan-dir /run/lans --node-name a64 &
cp /lan.yaml /run/lans/; sleep 5
pod web; pod db; pod iot
call ADD web macvtap '"spoke": "pod1"'
call ADD db macvtap '"spoke": "pod2"'
call ADD iot vlan-bridge '"bridge": "br20", "vlan": 20'
nsenter --net=/run/netns/web ping -c 3 10.1.2.3
k8slan-device-plugin inspect
ipam-pool leases
call DEL web macvtap '"spoke": "pod1"'
call DEL db macvtap '"spoke": "pod2"'
call DEL iot vlan-bridge '"bridge": "br20", "vlan": 20'
rm /run/lans/lan.yaml; sleep 2
[ ! -e /run/netns/knlvrf ]
k8slan-device-plugin agent livez
TRIAL
chmod +x "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd.gz"

timeout 300 "$work/qemu/usr/bin/qemu-system-aarch64" -L /usr/share/qemu -M virt -cpu cortex-a72 -accel tcg -smp 2 -m 1024 \
    -nographic -no-reboot -kernel "$work/kernel/boot/vmlinuz-$version" -initrd "$work/initrd.gz" \
    -append "console=ttyAMA0 quiet panic=-1" -netdev hubport,hubid=0,id=n0 -device virtio-net-pci,netdev=n0,romfile= \
    </dev/null 2>&1 | tee "$work/log"
grep -q '^all of it works' "$work/log"
