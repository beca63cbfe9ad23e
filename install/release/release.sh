#!/usr/bin/env bash
# release.sh VERSION OWNER FOLDER ARCH=PROGRAMS...: all that a release is, in one folder: `make release` calls it after it has
# built the programs. The image is named ghcr.io/OWNER/k8slan:VERSION everywhere. The same programs and SOURCE_DATE_EPOCH give
# the same files, byte for byte. Needs buildah and root for the image, jq, and kustomize or kubectl (KUSTOMIZE says another).
set -euo pipefail
version=$1 owner=${2,,} folder=$(realpath -m "$3")
shift 3
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || { echo "no version: $version" >&2; exit 2; }
[[ $owner =~ ^[a-z0-9]([a-z0-9-]{0,37}[a-z0-9])?$ ]] || { echo "no owner on GitHub: $owner" >&2; exit 2; }
install=$(cd "$(dirname "$0")/.." && pwd)
root=$(dirname "$install")
image=ghcr.io/$owner/k8slan
epoch=${SOURCE_DATE_EPOCH:-0}

# What builds a kustomization, before anything is written.
if [ -n "${KUSTOMIZE:-}" ]; then
    read -ra kustomize <<<"$KUSTOMIZE"
elif command -v kustomize >/dev/null; then
    kustomize=(kustomize build)
elif command -v kubectl >/dev/null; then
    kustomize=(kubectl kustomize)
elif [ -x "$root/target/kube/kube" ]; then
    # The tests' Kubernetes has kubectl in it.
    kustomize=("$root/target/kube/kube" kubectl kustomize)
else
    echo "neither kustomize nor kubectl is here: KUSTOMIZE=\"PROGRAM build\"" >&2
    exit 2
fi

# archive FILE FOLDER NAME...: those of the folder, the same each time.
archive() {
    local file=$1 from=$2
    shift 2
    tar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -C "$from" -cf - "$@" | gzip -n9 >"$new/$file"
}

work=$(mktemp -d)
new=$folder.new
trap 'rm -rf "$work" "$new"' EXIT
rm -rf "$new"
mkdir -p "$new"

# The image, and the programs for hosts without Kubernetes.
K8SLAN_IMAGE=$image "$install/image/build.sh" "$new/k8slan-image.tar" "$version" "$@"
for pair in "$@"; do
    arch=${pair%%=*} programs=k8slan-$version-linux-${pair%%=*}
    install -D -m 0755 -t "$work/$programs" "${pair#*=}"/{k8slan-device-plugin,macvtap,vlan-bridge,ipam-pool}
    install -m 0644 -t "$work/$programs" "$root/LICENSE"
    archive "$programs.tar.gz" "$work" "$programs"
done

# The manifests: what LANs live in, the base, and each overlay.
install -m 0644 "$install/crds.yaml" "$new/k8slan-crds.yaml"
cp -r "$install" "$work/install"
rm -rf "$work/install/local"
for path in "$work/install/base" "$work/install/overlays"/*; do
    name=$(basename "$path") out=k8slan-$(basename "$path").yaml
    [ "$name" != base ] || out=k8slan.yaml
    mkdir -p "$work/install/released"
    cat >"$work/install/released/kustomization.yaml" <<YAML
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [..${path#"$work/install"}]
images: [{name: localhost/k8slan, newName: $image, newTag: "$version"}]
YAML
    "${kustomize[@]}" "$work/install/released" >"$new/$out"
    # What no image is named by any more.
    if grep -n localhost/ "$new/$out"; then echo "$out names an image that nobody has" >&2; exit 1; fi
done

# The chart, whose links become files.
cp -rL "$install/chart" "$work/k8slan"
sed -i "s|^version: .*|version: $version|; s|^appVersion: .*|appVersion: \"$version\"|; s|OWNER|$owner|" "$work/k8slan/Chart.yaml" "$work/k8slan/templates/NOTES.txt"
sed -i "s|localhost/k8slan|$image|" "$work/k8slan/values.yaml"
archive "k8slan-$version.tgz" "$work" k8slan

# kubectl's plugin, and krew's manifest of it.
install -D -m 0755 -t "$work/plugin" "$install/kubectl/kubectl-k8slan"
install -m 0644 -t "$work/plugin" "$root/LICENSE"
archive kubectl-k8slan.tar.gz "$work/plugin" LICENSE kubectl-k8slan
install -m 0755 -t "$new" "$install/kubectl/kubectl-k8slan"
sum=$(sha256sum <"$new/kubectl-k8slan.tar.gz")
sed "s|OWNER|$owner|; s|v0\.1\.0|v$version|; s|sha256: .*|sha256: \"${sum%% *}\"|" "$install/kubectl/k8slan.yaml" >"$new/kubectl-k8slan.krew.yaml"

# What takes it all away again.
install -D -m 0755 -t "$work/k8slan-uninstall/uninstall" "$install/uninstall/uninstall.sh"
install -m 0644 -t "$work/k8slan-uninstall/uninstall" "$install"/uninstall/*.yaml
archive k8slan-uninstall.tar.gz "$work" k8slan-uninstall

# What the programs are made of, for either architecture.
(cd "$root" && cargo metadata --locked --format-version 1 --filter-platform={x86_64,aarch64}-unknown-linux-gnu) |
    jq --sort-keys --arg version "$version" --arg owner "$owner" --arg created "$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" \
        -f "$install/release/sbom.jq" >"$new/k8slan.spdx.json"

(cd "$new" && sha256sum -- * >"$work/sums" && mv "$work/sums" SHA256SUMS)
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
mv "$new" "$folder"
echo "$folder:"
(cd "$folder" && stat -c '  %n %s bytes' -- *)
