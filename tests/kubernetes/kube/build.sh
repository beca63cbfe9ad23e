#!/usr/bin/env bash
# build.sh OUT [VERSION]: links OUT to the parts of Kubernetes as one static program (main.go), which is kept in the user's
# cache and built from its Go modules when it is not there: ten minutes on two cores. go.mod says which version, and with
# it all modules and their checksums; another VERSION (1.35.4) takes what that one asks for.
set -euo pipefail
out=$(realpath -m "${1:?where to}")
cd "$(dirname "$0")"
ours=$(sed -n 's#^\tk8s.io/kubernetes v##p' go.mod)
version=${2:-$ours}
inputs=$(cat main.go go.mod go.sum build.sh | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/k8slan-tests
kept=$cache/kube-$version-$inputs

# The modules of another version: its own go.mod says which of them are parts of Kubernetes itself.
modules_of() {
    local staged=v0.${version#1.} module its
    its=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
    printf 'module k8slan/tests/kube\n\n%s\n\n' "$(grep '^go ' "$its")"
    printf 'require %s\n' "k8s.io/kubernetes v$version" "k8s.io/component-base $staged" "k8s.io/kubectl $staged"
    sed -n 's#^\t\(k8s.io/[^ ]*\) => ./staging/src/.*#\1#p' "$its" | while read -r module; do
        printf 'replace %s => %s %s\n' "$module" "$module" "$staged"
    done
}

if [ ! -x "$kept" ]; then
    echo "building Kubernetes $version into $cache: ten minutes, once"
    mkdir -p "$cache"
    new=$(mktemp "$kept.XXXXXX")
    sources=$(mktemp -d)
    trap 'rm -rf "$new" "$sources"' EXIT
    cp main.go "$sources"
    if [ "$version" = "$ours" ]; then
        cp go.mod go.sum "$sources"
    else
        modules_of >"$sources/go.mod"
        (cd "$sources" && go mod tidy)
    fi
    minor=${version#1.}
    minor=${minor%%.*}
    flags="-s -w"
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        flags+=" -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=$minor -X $package.gitTreeState=clean"
    done
    (cd "$sources" && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -buildvcs=false -trimpath -o "$new" -ldflags "$flags" .)
    chmod 755 "$new"
    mv "$new" "$kept"
fi
mkdir -p "$(dirname "$out")"
# A link where that can be, since it has a hundred megabytes.
[ "$kept" -ef "$out" ] || ln -f "$kept" "$out" 2>/dev/null || install -m 755 "$kept" "$out"
