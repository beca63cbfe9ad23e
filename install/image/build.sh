#!/usr/bin/env bash
# build.sh ARCHIVE VERSION ARCH=FOLDER...: one image of the static programs in each FOLDER, for each ARCH (amd64, arm64), as
# an OCI archive. Nothing is fetched, nothing is run. The same programs and SOURCE_DATE_EPOCH give the same archive, byte
# for byte. Needs root, for buildah's file systems.
set -euo pipefail
archive=$(realpath -m "$1") version=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
name=${K8SLAN_IMAGE:-localhost/k8slan}:$version
epoch=${SOURCE_DATE_EPOCH:-0}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
buildah=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)

for pair in "$@"; do
    arch=${pair%%=*} folder=${pair#*=} root=$work/context/${pair%%=*}
    install -d -m 0755 "$root" "$root"/{dev,etc,opt,opt/cni,opt/cni/bin,proc,run,sys,tmp,usr,usr/bin,var,var/lib}
    # Runtimes say /var/run/netns/… to plugins, and the daemon asks whether that is still there.
    ln -s ../run "$root/var/run"
    for program in k8slan-device-plugin ipam-pool macvtap vlan-bridge; do
        install -m 0755 "$folder/$program" "$root/usr/bin/"
    done
    "${buildah[@]}" build --quiet --isolation chroot --timestamp "$epoch" --platform "linux/$arch" --manifest k8slan \
        --file "$here/Containerfile" "$work/context" >/dev/null
done
"${buildah[@]}" manifest push --quiet --all k8slan "oci:$work/layout:$version" >/dev/null

# Runtimes that import the archive take the name from here, and kubelets then know it by that name.
index=$(sed -n 's/.*"digest":"\(sha256:[0-9a-f]*\)".*/\1/p' "$work/layout/index.json")
size=$(stat -c %s "$work/layout/blobs/${index/://}")
cat >"$work/layout/index.json" <<JSON
{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"$index","size":$size,"annotations":{"io.containerd.image.name":"$name","org.opencontainers.image.ref.name":"$name"}}]}
JSON
mkdir -p "$(dirname "$archive")"
tar --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -C "$work/layout" -cf "$archive.new" \
    blobs index.json oci-layout
mv "$archive.new" "$archive"
echo "$archive: $name for $(printf '%s ' "${@%%=*}")$(($(stat -c %s "$archive") / 1024)) KiB"
