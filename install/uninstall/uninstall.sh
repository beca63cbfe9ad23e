#!/usr/bin/env bash
# uninstall.sh: takes k8slan off a cluster: nodes first, then the API's objects. It may be run again.
# IMAGE: the image that was installed (as in make push); without it, the one of the DaemonSet that is there.
# CNI_BIN_DIR: the node's CNI folder, where it is not /opt/cni/bin (k3s: /var/lib/rancher/k3s/data/cni).
# NETNS_DIR, RUN_DIR: where they are not /run/netns and /run (Talos: /var/run/netns and /var/run).
# KUBECTL: kubectl by another name. TIMEOUT: how long nodes may take (default 5m).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kubectl=${KUBECTL:-kubectl} ns=k8slan-system timeout=${TIMEOUT:-5m}

say() { printf '== %s\n' "$*"; }
k() { $kubectl "$@"; }

image=${IMAGE:-$(k -n $ns get daemonset k8slan-ds -o 'jsonpath={.spec.template.spec.containers[0].image}' 2>/dev/null || true)}
image=${image:-$(k -n $ns get daemonset k8slan-uninstall -o 'jsonpath={.spec.template.spec.initContainers[0].image}' 2>/dev/null || true)}
[ -n "$image" ] || { echo "neither DaemonSet is there: say IMAGE=…" >&2; exit 1; }

if [ -z "${FORCE:-}" ]; then
    pods=$(k get pods -A -o json | tr '{' '\n' | grep -c '"macvtap\.k8slan\.io/' || true)
    if [ "$pods" != 0 ]; then
        echo "pods ask for macvtap.k8slan.io/… resources: delete them first (FORCE=1 goes on, and the nodes wait for them)" >&2
        exit 1
    fi
fi

say "the daemon ends; the LANs stand"
k -n $ns delete daemonset k8slan-ds --ignore-not-found --cascade=foreground --wait

say "every node: plugins, LANs, records, state"
sed -e "s|localhost/k8slan:[^ ]*|$image|" \
    -e "s|path: /opt/cni/bin}|path: ${CNI_BIN_DIR:-/opt/cni/bin}}|" \
    -e "s|path: /run/netns}|path: ${NETNS_DIR:-/run/netns}}|" \
    -e "s|path: /run}|path: ${RUN_DIR:-/run}}|" "$here/daemonset.yaml" | k apply -f -
if ! k -n $ns rollout status daemonset/k8slan-uninstall --timeout="$timeout"; then
    echo "some nodes are not clean; each says why:" >&2
    k -n $ns logs --selector app.kubernetes.io/component=uninstall --container uninstall --prefix --tail=3 >&2 || true
    exit 1
fi

say "the API's objects"
k delete validatingadmissionpolicybinding,validatingadmissionpolicy k8slan-allowed-namespaces --ignore-not-found
# Nobody takes the leader's finalizer off any more.
for crd in lans lannodes; do
    k get "$crd.lan.k8slan.io" -A -o 'jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{"\n"}{end}' 2>/dev/null |
        while read -r namespace name; do
            k -n "$namespace" patch "$crd.lan.k8slan.io" "$name" --type merge --patch '{"metadata":{"finalizers":null}}'
        done || true
done
# A kubelet keeps the name of a resource whose plugin went away, as 0, until it is told otherwise.
k get nodes -o 'go-template={{range .items}}{{$node := .metadata.name}}{{range $name, $count := .status.capacity}}{{$node}} {{$name}}{{"\n"}}{{end}}{{end}}' |
    { grep ' macvtap\.k8slan\.io/' || true; } |
    while read -r node resource; do
        for list in capacity allocatable; do
            k patch node "$node" --subresource=status --type=json \
                --patch "[{\"op\":\"remove\",\"path\":\"/status/$list/${resource/\//~1}\"}]" || true
        done
    done
k delete --ignore-not-found -f "$here/../crds/lan.k8slan.io_lans.yaml" -f "$here/../crds/lan.k8slan.io_lannodes.yaml"
k delete --ignore-not-found clusterrolebinding,clusterrole k8slan
k delete --ignore-not-found namespace $ns
say "k8slan is gone; if a node still shows macvtap.k8slan.io resources five minutes later, run this again with IMAGE=$image"
