#!/usr/bin/env bash
# run.sh LOG ARGUMENT…: cargo test with these arguments, shown as it runs and kept in LOG; ends with one line of counts.
set -uo pipefail
log=$1
shift
status=0
cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?
awk -v status=$status -f "$(dirname "$0")/summary.awk" "$log"
exit $status
