#!/usr/bin/env bash
# uninstall.sh: takes k8slan off a cluster: nodes first, then what is at the API server, the LANs among it. It may be run again, and
# also where the DaemonSet is gone already, and k8slan-system terminates.
# IMAGE: the image that was installed (as in make push); without it, the one of the DaemonSet that is there, or that the nodes have.
# CNI_BIN_DIR, NETNS_DIR, RUN_DIR: the node's folders; without them, those of the DaemonSet, then /opt/cni/bin, /run/netns, /run.
# SKIP_NODES: nodes to leave as they are, "worker3 worker7": dead ones, for which everything else would wait.
# FORCE: goes on although pods ask for spokes; the nodes wait for them.
# KUBECTL: kubectl by another name. TIMEOUT: how long each step may take (default 5m).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kubectl=${KUBECTL:-kubectl}
ns=k8slan-system own=k8slan-uninstall job=k8slan-cluster-uninstall timeout=${TIMEOUT:-5m}
skip=${SKIP_NODES:-}

say() { printf '== %s\n' "$*"; }
k() { $kubectl "$@"; }
# What a DaemonSet's pods have, from the one that was installed, or from ours of an earlier run.
of_set() {
    k -n $ns get daemonset k8slan-ds --ignore-not-found -o "jsonpath=$1" | grep . ||
        k -n $own get daemonset k8slan-uninstall --ignore-not-found -o "jsonpath=$1" | grep . || true
}
# The images of ours that nodes have, one a line, each by its first name with a tag.
of_nodes() {
    k get nodes -o 'jsonpath={range .items[*].status.images[*]}{.names}{"\n"}{end}' |
        awk -F'"' '{ for (at = 2; at <= NF; at += 2) if ($at ~ /(^|\/)k8slan:/) { print $at; next } }' | sort -u
}
host_path() { of_set "{.spec.template.spec.volumes[?(@.name==\"$1\")].hostPath.path}"; }
# The nodes, one a line, that are not to be skipped.
but_skipped() {
    while read -r node; do
        case " $skip " in
        *" $node "*) ;;
        *) [ -z "$node" ] || echo "$node" ;;
        esac
    done | sort -u
}
give_up_on() {
    echo "mend what is wrong there and run this again; to leave dead nodes as they are: SKIP_NODES=\"$(echo $skip $1)\"" >&2
    exit 1
}

image=${IMAGE:-$(of_set '{.spec.template.spec.initContainers[0].image}')}
if [ -z "$image" ]; then
    image=$(of_nodes)
    [ -n "$image" ] || { echo "neither DaemonSet is there: say IMAGE=…, and CNI_BIN_DIR=… where it is not /opt/cni/bin" >&2; exit 1; }
    # Whoever runs a pod brings images to a node: which of several may run as root there, a person says.
    [[ $image != *$'\n'* ]] || { echo "neither DaemonSet is there, and the nodes have several images: say IMAGE= one of" $image >&2; exit 1; }
    say "the DaemonSet is gone; the nodes have the image $image, and the usual folders if nothing else is said (CNI_BIN_DIR, NETNS_DIR, RUN_DIR)"
fi
cni=${CNI_BIN_DIR:-$(host_path cni-bin)} netns=${NETNS_DIR:-$(host_path netns)} run=${RUN_DIR:-$(host_path run)}
cni=${cni:-/opt/cni/bin} netns=${netns:-/run/netns} run=${run:-/run}
# The DaemonSet has our own folder, which is to go; it goes from the one above it.
run=${run%/k8slan}
# One entry per node: a field's requirement has one value.
others=
for node in $skip; do
    others+="${others:+, }{key: metadata.name, operator: NotIn, values: [\"$node\"]}"
done
affinity=${others:+"affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [$others]}]}}}"}

# Pods that have only a bridge's port, a macvtap on a master or an address ask for nothing here: their nodes see them.
# Those that have ended hold nothing.
if [ -z "${FORCE:-}" ]; then
    limits='{{range $k, $v := .resources.limits}} {{$k}}{{end}}'
    pods=$(k get pods -A --field-selector 'status.phase!=Succeeded,status.phase!=Failed' -o "go-template={{range .items}}{{.metadata.namespace}}/{{.metadata.name}}{{range .spec.containers}}$limits{{end}}{{range .spec.initContainers}}$limits{{end}}{{\"\\n\"}}{{end}}")
    pods=$(sed -n 's|^\([^ ]*\) .*macvtap\.k8slan\.io/.*|  \1|p' <<<"$pods")
    if [ -n "$pods" ]; then
        echo "pods ask for macvtap.k8slan.io/… resources: delete them first (FORCE=1 goes on, and the nodes wait for them):" >&2
        echo "$pods" >&2
        exit 1
    fi
fi

say "the daemon ends; the LANs stand"
k -n $ns delete daemonset k8slan-ds --ignore-not-found --cascade=foreground --wait=false
for node in $skip; do
    k -n $own delete pods --field-selector "spec.nodeName=$node" --force --grace-period=0 --ignore-not-found
    k -n $ns delete pods --field-selector "spec.nodeName=$node" --force --grace-period=0 --ignore-not-found
done
if ! k -n $ns delete daemonset k8slan-ds --ignore-not-found --cascade=foreground --wait --timeout="$timeout"; then
    left=$(k -n $ns get pods --selector app.kubernetes.io/component=node -o 'jsonpath={range .items[*]}{.spec.nodeName}{"\n"}{end}' | but_skipped)
    if [ -n "$left" ]; then
        echo "the daemon does not end on:" $left >&2
        give_up_on "$left"
    fi
fi

say "every node: plugins in $cni, LANs, records, state"
# What an earlier run left may be about to go.
[[ $(k get namespace $own --ignore-not-found -o 'jsonpath={.status.phase}') != Terminating ]] ||
    k delete --ignore-not-found --timeout="$timeout" namespace $own
k apply -f "$here/namespace.yaml"
sed -e "s|localhost/k8slan:[^ ]*|$image|" \
    -e "s|path: /opt/cni/bin}|path: $cni}|" \
    -e "s|path: /run/netns}|path: $netns}|" \
    -e "s|path: /run}|path: $run}|" "$here/daemonset.yaml" |
    awk -v affinity="$affinity" '/^      nodeSelector:/ && affinity { print "      " affinity } { print }' | k apply -f -
if ! k -n $own rollout status daemonset/k8slan-uninstall --timeout="$timeout"; then
    left=$(k -n $own get pods --selector app.kubernetes.io/component=uninstall \
        -o 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}|{.spec.nodeName}{"\n"}{end}' |
        sed -n '/^True|/d; s/^[^|]*|//p' | but_skipped)
    echo "nodes that are not clean say why:" >&2
    k -n $own logs --selector app.kubernetes.io/component=uninstall --container uninstall --prefix --tail=3 >&2 || true
    echo "not clean, or not reached:" $left >&2
    give_up_on "$left"
fi

say "what the daemons left at the API server; kubelets let go of a resource five minutes after its plugin went away"
k -n $own delete job $job --ignore-not-found
sed -e "s|localhost/k8slan:[^ ]*|$image|" "$here/job.yaml" | k apply -f -
ended= tries=0
# The Job has a deadline of its own, below this one.
until [[ $ended == *Complete* || $ended == *Failed* || $tries -ge 450 ]]; do
    [ $tries = 0 ] || sleep 2
    tries=$((tries + 1))
    ended=$(k -n $own get job $job -o 'jsonpath={.status.conditions[?(@.status=="True")].type}') || true
done
k -n $own logs --selector app.kubernetes.io/component=cluster-uninstall --prefix --tail=-1 || true
k delete --ignore-not-found clusterrolebinding,clusterrole $job
if [[ $ended != *Complete* ]]; then
    echo "that did not succeed; the Job $job says why. Mend it and run this again" >&2
    exit 1
fi

say "the LANs with their definitions, and the namespaces"
k delete validatingadmissionpolicybinding,validatingadmissionpolicy k8slan-allowed-namespaces k8slan-blocks k8slan-addresses --ignore-not-found
k delete --ignore-not-found --timeout="$timeout" customresourcedefinition {lans,lannodes,lanpools,lanreservations,lanpoolnodes,lanblocks,lanaddresses}.lan.k8slan.io
k delete --ignore-not-found clusterrolebinding,clusterrole k8slan
k delete --ignore-not-found clusterrole k8slan-view k8slan-edit
k delete --ignore-not-found --timeout="$timeout" namespace $ns $own
say "k8slan is gone"
[ -z "$skip" ] || say "skipped: $skip. What they have stays there; on each that comes back: k8slan-device-plugin uninstall --purge"
