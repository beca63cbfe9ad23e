#!/usr/bin/env bash
# version-before.sh: builds the programs of the version that nodes are upgraded from, static, and an image of them, into
# target/version-before, from the project's own history; minutes once, nothing after that. Where the history is not at hand, the
# tests that need them say so.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=4ddaf9b354ee4a430d2d447acc55d598e6d3dc77
to=target/version-before

# By its own script, under a tag of its own: both versions call themselves 0.1.0.
image() { $to/install/image/build.sh $to/k8slan-image.tar before "$(dpkg --print-architecture)=$to"; }

if [ "$(cat $to/commit 2>/dev/null)" = $commit ]; then
    [ -e $to/k8slan-image.tar ] || image
    exit 0
fi
has() { git cat-file -e $commit^{commit} 2>/dev/null; }
has || GIT_TERMINAL_PROMPT=0 timeout 120 git fetch -q --unshallow 2>/dev/null || true
has || { echo "no version before: $commit is not in this clone"; exit 0; }
echo "building the version before, $commit"
rm -rf $to.new $to
mkdir -p $to.new/source
git archive $commit | tar -x -C $to.new/source
host=$(rustc -vV | sed -n 's/^host: //p')
programs=(macvtap ipam-pool vlan-bridge k8slan-device-plugin)
(cd $to.new/source && CARGO_TARGET_DIR=../build CARGO_PROFILE_DEV_DEBUG=false RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --locked --quiet --target "$host" "${programs[@]/#/--bin=}")
install -s -m 0755 -D -t $to.new/bin "${programs[@]/#/$to.new/build/$host/debug/}"
mv $to.new/bin $to
# What installs it and what it lives in.
cp -r $to.new/source/install $to/install
echo $commit >$to/commit
rm -rf $to.new
image
