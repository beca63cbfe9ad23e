#!/usr/bin/env bash
# packages.sh build|image|push|release|demo|bench|scale|test|kubernetes: installs the Debian packages that this step needs and the machine lacks.
# It removes no package: where apt would have to, it says so and stops. What would be started as a service on this
# machine, or would take the place of a package of another origin (containerd of Docker's containerd.io), is unpacked
# into target/ instead, and so is what only a virtual machine runs.
set -euo pipefail
cd "$(dirname "$0")/.."

build=(make gcc libc6-dev binutils)
image=(buildah)
push=(skopeo)
release=(buildah jq)
demo=(iproute2)
bench=(iproute2 user-mode-linux kmod containernetworking-plugins)
test=(iproute2 user-mode-linux kmod nftables iptables dnsmasq-base strace qemu-system-x86 busybox-static cpio containernetworking-plugins buildah skopeo openssl jq lua5.4 shellcheck)
kubernetes=(iproute2 qemu-system-x86 busybox-static cpio containernetworking-plugins openssl libseccomp2)
# What the unpacked programs are linked with.
test+=(libglib2.0-0 libmnl0 libnftnl11 libnl-3-200 libnl-genl-3-200 libseccomp2 libsnmp40)

case "${1:-}" in
build) wanted=("${build[@]}") ;;
image) wanted=("${image[@]}") ;;
push) wanted=("${push[@]}") ;;
release) wanted=("${release[@]}") ;;
demo) wanted=("${demo[@]}") ;;
bench | scale) wanted=("${bench[@]}") ;;
test) wanted=("${test[@]}") ;;
kubernetes) wanted=("${kubernetes[@]}") ;;
*) echo "usage: $0 build|image|push|release|demo|bench|scale|test|kubernetes" >&2; exit 2 ;;
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
    if ! DEBIAN_FRONTEND=noninteractive as_root apt-get install -q -y --no-install-recommends --no-remove "${missing[@]}" </dev/null; then
        echo "not installed: ${missing[*]}. Where apt says that packages need to be removed, one of yours is in the way:" >&2
        echo "nothing was removed. Decide which of the two this machine shall have, or use another machine." >&2
        exit 1
    fi
fi
[[ $1 =~ ^(scale|test|kubernetes)$ ]] || exit 0

# unpack FOLDER FILE PACKAGE…: the packages' files into target/FOLDER, unless FILE is there already.
unpack() {
    local folder=target/$1 file=$2 package
    shift 2
    [ ! -e "$folder/$file" ] || return 0
    # The lists may be older than the archive, which keeps the newest version only.
    refresh
    echo "unpacking $* into $folder"
    rm -rf "$folder.new"
    mkdir -p "$folder.new"
    (cd "$folder.new" && apt-get download -q -o APT::Sandbox::User=root "$@" </dev/null &&
        for package in ./*.deb; do dpkg-deb -x "$package" .; done)
    rm -rf "$folder.new"/*.deb "$folder"
    mv "$folder.new" "$folder"
}

if [ "$1" != scale ] && [ ! -e target/vm/kernel/boot ]; then
    refresh
    meta="linux-image-cloud-$(dpkg --print-architecture)"
    unpack vm/kernel boot "$(apt-cache depends "$meta" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p')"
fi
[ "$1" = scale ] || unpack containerd usr/bin/containerd containerd runc

# Kubernetes and its own server of custom resources are Go programs that keep their objects in etcd. Where there is no
# Go, their tests are skipped by name.
if command -v go >/dev/null; then
    unpack etcd usr/bin/etcd etcd-server
    bin=$(go env GOBIN)
    bin=${bin:-$(go env GOPATH)/bin}
    if [ "$1" != scale ] && ! command -v helm >/dev/null && [ ! -x "$bin/helm" ]; then
        echo "building helm into $bin: minutes, once"
        CGO_ENABLED=0 go install helm.sh/helm/v3/cmd/helm@v3.22.0 </dev/null || echo "helm cannot be had: its tests are skipped"
    fi
fi

if [ "$1" = scale ]; then
    if command -v go >/dev/null; then
        tests/kubernetes/kube/build.sh target/kube/kube
        if [ ! -x target/whereabouts/whereabouts ]; then
            echo "building whereabouts into target/whereabouts"
            sources=$(go mod download -json github.com/k8snetworkplumbingwg/whereabouts@v0.9.2 | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
            CGO_ENABLED=0 go build -C "$sources" -trimpath -ldflags '-s -w' -o "$PWD/target/whereabouts/whereabouts" ./cmd
        fi
    fi
    exit 0
fi

if [ "$1" = kubernetes ]; then
    if command -v go >/dev/null; then
        # The control plane and the nodes' kubelets: the version in kube/go.mod, or what these two say.
        { tests/kubernetes/kube/build.sh target/kube/kube "${KUBERNETES:-}" &&
            tests/kubernetes/kube/build.sh target/kube/kubelet "${KUBELET:-${KUBERNETES:-}}"; } || echo "Kubernetes cannot be built: its tests are skipped, or fail where CI is set"
    fi
    exit 0
fi

unpack frr usr/lib/frr/zebra frr libyang2 libjson-c5 libc-ares2
unpack keepalived usr/sbin/keepalived keepalived
unpack registry usr/bin/docker-registry docker-registry

if command -v go >/dev/null; then
    server=k8s.io/apiextensions-apiserver@v0.34.2
    if [ ! -x "$bin/apiextensions-apiserver" ]; then
        echo "installing $server into $bin"
        # A machine that reaches no modules goes without it.
        go install "$server" </dev/null || echo "$server cannot be had: its tests are skipped"
    fi
fi
