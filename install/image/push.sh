#!/usr/bin/env bash
# push.sh ARCHIVE IMAGE [OVERLAY]: sends the image to a registry, and writes install/local, which git does not know: a
# kustomization of that overlay (default: the base) with the image by its digest. Log in first: skopeo login REGISTRY.
# SKOPEO_FLAGS goes to skopeo copy, for example --dest-tls-verify=false for a registry without TLS.
set -euo pipefail
archive=$1 image=$2 overlay=${3:-}
here=$(cd "$(dirname "$0")/.." && pwd)
case "$image" in
*@*) echo "give a name and a tag, not a digest: $image" >&2; exit 2 ;;
*/*) ;;
*) echo "the image needs a registry: REGISTRY/NAME:TAG, not $image" >&2; exit 2 ;;
esac
base=../base
if [ -n "$overlay" ]; then
    base=../overlays/$overlay
    [ -e "$here/overlays/$overlay/kustomization.yaml" ] || { echo "there is no overlay $overlay: $(ls -m "$here/overlays")" >&2; exit 2; }
fi
[ -e "$archive" ] || { echo "$archive is not there: make image" >&2; exit 2; }

digest=$(mktemp)
trap 'rm -f "$digest"' EXIT
# shellcheck disable=SC2086
skopeo copy --all --digestfile "$digest" ${SKOPEO_FLAGS:-} "oci-archive:$archive" "docker://$image"
name=${image%:*}
case "$name" in */*) ;; *) name=$image ;; esac

mkdir -p "$here/local"
cat >"$here/local/kustomization.yaml" <<YAML
# Written by make push: $image. To be changed at will.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
- $base
images:
- name: localhost/k8slan
  newName: $name
  digest: $(cat "$digest")
YAML
echo "pushed $image; install it with: kubectl apply -f install/crds.yaml, then kubectl apply -k install/local"
