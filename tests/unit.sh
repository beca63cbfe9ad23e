#!/usr/bin/env bash
# unit.sh: the tests beside the code, of every crate. Root is not needed: without it they run in a user and a network
# namespace of their own, and what even these cannot do is left to `make test`, by name.
set -euo pipefail
cd "$(dirname "$0")/.."

# Device nodes, files of other users, and folders that are root's up to `/`.
roots=(
    device::tests::a_dead_attachments_node_does_not_lead_to_the_next_one
    device::tests::a_half_made_node_goes_with_its_record
    device::tests::the_node_is_made_corrected_and_taken_away
    kubelet::folder::tests::only_roots_own_socket_is_a_kubelet
    lans::record_set::tests::
    root_socket::tests::a_stale_socket_is_replaced_and_anything_else_is_not
    safe_dir::tests::a_file_of_anybodys_is_read_and_nothing_but_a_file
    safe_dir::tests::what_others_can_write_is_refused
    sweep::found::tests::what_a_container_does_not_see_may_be_there
)

unit=(cargo test --locked --workspace --lib --bins)
"${unit[@]}" --no-run
if [ "$(id -u)" = 0 ]; then
    exec "${unit[@]}" -- -q
fi
echo "not as root, so these are left out:"
printf '  %s\n' "${roots[@]}"
exec unshare --user --map-root-user --net sh -c 'ip link set lo up; exec "$@"' - "${unit[@]}" --offline -- -q "${roots[@]/#/--skip=}"
