#!/usr/bin/env bash
# packages.sh build|image|push|demo|bench|test: installs the Debian packages that this step needs and the machine lacks.
# For tests it also unpacks (never installs) a Debian cloud kernel into target/vm, for the virtual machine, FRR into
# target/frr and a registry into target/registry, whose daemons would otherwise be started on this machine, and, where
# there is Go, etcd into target/etcd.
set -euo pipefail
cd "$(dirname "$0")/.."

build=(make gcc libc6-dev binutils)
image=(buildah)
push=(skopeo)
demo=(iproute2)
bench=(iproute2 user-mode-linux kmod containernetworking-plugins)
test=(iproute2 user-mode-linux kmod nftables iptables keepalived dnsmasq-base strace qemu-system-x86 busybox-static cpio containernetworking-plugins containerd runc buildah skopeo openssl)

case "${1:-}" in
build) wanted=("${build[@]}") ;;
image) wanted=("${image[@]}") ;;
push) wanted=("${push[@]}") ;;
demo) wanted=("${demo[@]}") ;;
bench) wanted=("${bench[@]}") ;;
test) wanted=("${test[@]}") ;;
*) echo "usage: $0 build|image|push|demo|bench|test" >&2; exit 2 ;;
esac

as_root() {
    if [ "$(id -u)" != 0 ]; then
        echo "as root: $*" >&2
        exit 1
    fi
    "$@"
}

refreshed=
refresh() {
    [ -n "$refreshed" ] || as_root apt-get update -q </dev/null
    refreshed=yes
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing=()
for package in "${wanted[@]}"; do
    installed "$package" || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing ${missing[*]}"
    refresh
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -q -y --no-install-recommends "${missing[@]}" </dev/null
fi

if [ "$1" = test ] && [ ! -e target/vm/kernel/boot ]; then
    meta="linux-image-cloud-$(dpkg --print-architecture)"
    # The lists may be older than the archive, which keeps the newest version only.
    refresh
    kernel=$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')
    echo "unpacking $kernel for the virtual machine"
    rm -rf target/vm/new
    mkdir -p target/vm/new
    (cd target/vm/new && apt-get download -q -o APT::Sandbox::User=root "$kernel" </dev/null && dpkg-deb -x ./*.deb .)
    rm -f target/vm/new/*.deb
    rm -rf target/vm/kernel
    mv target/vm/new target/vm/kernel
fi

if [ "$1" = test ] && [ ! -e target/frr/usr/lib/frr/zebra ]; then
    refresh
    echo "unpacking frr for the zones network's routers"
    rm -rf target/frr.new
    mkdir -p target/frr.new
    (cd target/frr.new && apt-get download -q -o APT::Sandbox::User=root frr libyang2 libjson-c5 libc-ares2 </dev/null &&
        for package in ./*.deb; do dpkg-deb -x "$package" .; done)
    rm -rf target/frr.new/*.deb target/frr
    mv target/frr.new target/frr
fi

if [ "$1" = test ] && [ ! -x target/registry/usr/bin/docker-registry ]; then
    refresh
    echo "unpacking docker-registry for images that are pushed"
    rm -rf target/registry.new
    mkdir -p target/registry.new
    (cd target/registry.new && apt-get download -q -o APT::Sandbox::User=root docker-registry </dev/null && dpkg-deb -x ./*.deb .)
    rm -rf target/registry.new/*.deb target/registry
    mv target/registry.new target/registry
fi

# Kubernetes' own server of custom resources is a Go program that keeps its objects in etcd, which is unpacked, since
# installed it would run as a service. Where there is no Go, its tests are skipped by name.
if [ "$1" = test ] && command -v go >/dev/null; then
    if [ ! -x target/etcd/usr/bin/etcd ]; then
        refresh
        echo "unpacking etcd-server"
        rm -rf target/etcd.new
        mkdir -p target/etcd.new
        (cd target/etcd.new && apt-get download -q -o APT::Sandbox::User=root etcd-server </dev/null && dpkg-deb -x ./*.deb .)
        rm -rf target/etcd
        mv target/etcd.new target/etcd
    fi
    bin=$(go env GOBIN)
    bin=${bin:-$(go env GOPATH)/bin}
    server=k8s.io/apiextensions-apiserver@v0.34.2
    if [ ! -x "$bin/apiextensions-apiserver" ]; then
        echo "installing $server into $bin"
        # A machine that reaches no modules goes without it.
        go install "$server" </dev/null || echo "$server cannot be had: its tests are skipped"
    fi
fi
