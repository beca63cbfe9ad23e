#!/usr/bin/env bash
# publish.sh VERSION OWNER FOLDER: sends the image of a release to ghcr.io, and all else to a release on GitHub. Log in first:
# skopeo login ghcr.io; gh takes GH_TOKEN. REGISTRY is another registry; SKOPEO_FLAGS goes to skopeo copy. NO_GITHUB=1 leaves
# the release out.
set -euo pipefail
version=$1 owner=${2,,} folder=$3
[ -e "$folder/SHA256SUMS" ] || { echo "$folder is no release: make release" >&2; exit 2; }
(cd "$folder" && sha256sum --quiet --check SHA256SUMS)
# shellcheck disable=SC2086
skopeo copy --all ${SKOPEO_FLAGS:-} "oci-archive:$folder/k8slan-image.tar" "docker://${REGISTRY:-ghcr.io}/$owner/k8slan:$version"
# 1.2.3-rc.1 is not what people are led to as the latest.
kind=()
[[ $version != *-* ]] || kind=(--prerelease)
[ -n "${NO_GITHUB:-}" ] || gh release create "v$version" --verify-tag "${kind[@]}" --title "k8slan $version" --notes-file CHANGELOG.md "$folder"/*
