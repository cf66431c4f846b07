#!/usr/bin/env bash
# Removes Kip from a cluster: the instances first, then all else.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
	cat <<'END'
Removes Kip from a cluster, and what Kip made from the cloud.

    NAMESPACE=kip kustomize/undeploy.sh [--delete-pods] [--keep-security-group]

In this order, each step only when the one before it has come to its end: the pods on the virtual
nodes end and with them their instances, while Kip still runs; Kip ends; its security groups are
removed, with Kip's own role; then the Nodes, the rights, the Cell's definition and the namespace.
Safe to interrupt and to repeat. What the image cache has on its share stays, and nobody can read
it any more.

  --delete-pods          Delete the pods that run on Kip. Without it the script refuses while
                         there are any.
  --keep-security-group  Leave the security groups to you, for when Kip's role is gone already.

Variables:
  NAMESPACE         Kip's namespace (kip).
  UNDEPLOY_TIMEOUT  How many seconds to wait for the instances to end (900).

Roles, policies and what else was made by hand stay.
END
}

say() { printf '%s\n' "$*" >&2; }
die() {
	say "undeploy.sh: $*"
	exit 1
}

delete_pods=false keep_group=false
for argument; do
	case $argument in
	--delete-pods) delete_pods=true ;;
	--keep-security-group) keep_group=true ;;
	-h | --help)
		usage
		exit 0
		;;
	*) die "unknown argument $argument; --help explains" ;;
	esac
done

export NAMESPACE=${NAMESPACE:-kip}
timeout=${UNDEPLOY_TIMEOUT:-900}
[[ $timeout =~ ^[0-9]+$ ]] || die "UNDEPLOY_TIMEOUT is \"$timeout\"; it takes a number of seconds"
case $NAMESPACE in
default | kube-*) die "NAMESPACE is $NAMESPACE, which is not Kip's own" ;;
esac
for tool in envsubst kubectl; do
	command -v "$tool" >/dev/null || die "$tool is not installed"
done

# exists KIND NAME, in the namespace where there is one. An API server that does
# not answer must not look like one that has nothing.
exists() {
	local found
	found=$(kubectl --namespace "$NAMESPACE" get "$1" "$2" --ignore-not-found --output name) || die "kubectl failed; see above"
	[ -n "$found" ]
}
# pods of all virtual nodes.
pods() {
	local node
	for node in "${nodes[@]}"; do
		kubectl get pods --all-namespaces --field-selector "spec.nodeName=$node" \
			--output 'jsonpath={range .items[*]}{.metadata.namespace}{" "}{.metadata.name}{"\n"}{end}'
	done
}
cells() { kubectl get cells.kip.elotl.co "$@" --output 'jsonpath={range .items[*]}{.metadata.name}{" ("}{.status.phase}{" "}{.status.instanceID}{")\n"}{end}'; }
count() { grep -c . <<<"$1" || true; }
indent() { printf '  %s\n' "${1//$'\n'/$'\n'  }" >&2; }

kubectl get namespaces >/dev/null || die "kubectl does not reach the cluster"
# They are the last to be removed, so that all are found again after an interruption.
found=$(kubectl get nodes --selector type=virtual-kubelet --output 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}') ||
	die "kubectl failed; see above"
mapfile -t nodes < <(grep -x 'kip-provider-[0-9]*' <<<"$found" || echo kip-provider-0)
ours="kip.elotl.co/node in ($(IFS=,; echo "${nodes[*]}"))"

# Kip ends the instances, so as long as there are any it must run.
end_pods() {
	local left
	left=$(pods)
	if [ -n "$left" ] && ! $delete_pods; then
		say "undeploy.sh: nothing was changed: $(count "$left") pods run on ${nodes[*]}:"
		indent "$left"
		die "end them, or say --delete-pods"
	fi
	local node
	for node in "${nodes[@]}"; do
		if exists node "$node"; then
			kubectl cordon "$node" >&2
		fi
	done
	local deadline=$((SECONDS + timeout)) told='' now
	while :; do
		left=$(pods)
		if [ -n "$left" ] && $delete_pods; then
			# Again each time: what tolerates everything comes back until the node is gone.
			while read -r namespace pod; do
				kubectl --namespace "$namespace" delete pod "$pod" --ignore-not-found --wait=false >/dev/null
			done <<<"$left"
		fi
		local running
		running=$(cells --selector "$ours")
		[ -n "$left$running" ] || return 0
		now="waiting for $(count "$left") pods and $(count "$running") cells to end"
		[ "$now" = "$told" ] || say "$now"
		told=$now
		if [ $SECONDS -ge $deadline ]; then
			indent "$left"
			indent "$running"
			die "these did not end within $timeout s. Kip still runs; kubectl describe says what they wait for"
		fi
		sleep 2
	done
}

# remove_group removes the security group of KIP_NODE's cells.
remove_group() {
	say "Removing the security group of $KIP_NODE's cells"
	kubectl --namespace "$NAMESPACE" delete job kip-cleanup --ignore-not-found >&2
	# shellcheck disable=SC2016 # envsubst takes the names, not the values
	envsubst '${NAMESPACE} ${KIP_IMAGE} ${KIP_NODE}' <"$here/cleanup/job.yaml" | kubectl apply --filename - >&2
	local result=
	for _ in $(seq 400); do
		result=$(kubectl --namespace "$NAMESPACE" get job kip-cleanup \
			--output 'jsonpath={range .status.conditions[?(@.status=="True")]}{.type}{"\n"}{end}')
		[[ $result != *Complete* && $result != *Failed* ]] || break
		sleep 2
	done
	kubectl --namespace "$NAMESPACE" logs job/kip-cleanup --tail 20 >&2 || true
	if [[ $result != *Complete* ]]; then
		kubectl --namespace "$NAMESPACE" describe job kip-cleanup >&2 || true
		die "the security group was not removed; see above. Put the cause right and run undeploy.sh again, or say --keep-security-group"
	fi
}

if exists customresourcedefinition cells.kip.elotl.co; then
	left=$(cells --selector "$ours")
	if ! exists statefulset kip-provider; then
		if [ -n "$left" ]; then
			indent "$left"
			die "these cells exist and no Kip runs in namespace $NAMESPACE that could end their instances: deploy it again first"
		fi
	elif [ "$(kubectl --namespace "$NAMESPACE" get statefulset kip-provider --output 'jsonpath={.spec.replicas}')" != 0 ]; then
		end_pods
	elif [ -n "$left" ]; then
		kubectl --namespace "$NAMESPACE" scale statefulset kip-provider --replicas "${#nodes[@]}" >&2
		end_pods
	fi
fi

if exists statefulset kip-provider; then
	image=$(kubectl --namespace "$NAMESPACE" get statefulset kip-provider --output 'jsonpath={.spec.template.spec.containers[0].image}')
	# The second Kips first, or they would take over.
	kubectl --namespace "$NAMESPACE" delete statefulset kip-second --ignore-not-found --cascade=foreground --timeout 120s >&2 || die "the second Kips did not end"
	kubectl --namespace "$NAMESPACE" scale statefulset kip-provider --replicas 0 >&2
	for node in "${nodes[@]}"; do
		if exists pod "$node"; then
			kubectl --namespace "$NAMESPACE" wait --for delete "pod/$node" --timeout 120s >&2 || die "Kip's pod did not end"
		fi
	done
	if ! $keep_group; then
		export KIP_IMAGE=$image KIP_NODE
		for KIP_NODE in "${nodes[@]}"; do remove_group; done
	fi
fi

for node in "${nodes[@]}"; do
	kubectl delete node "$node" --ignore-not-found >&2
	kubectl delete lease "$node" --namespace kube-node-lease --ignore-not-found >&2
done
if exists customresourcedefinition cells.kip.elotl.co; then
	left=$(cells)
	if [ -n "$left" ]; then
		say "The definitions of Cells and CachedImages stay: another Kip has cells."
	else
		kubectl delete customresourcedefinition cells.kip.elotl.co cachedimages.kip.elotl.co --ignore-not-found >&2
	fi
fi
kubectl delete clusterrolebinding,clusterrole kip-provider kip-image-cache --ignore-not-found >&2
kubectl delete rolebinding,role kip-provider --namespace kube-node-lease --ignore-not-found >&2
kubectl delete rolebinding kip-provider-client-ca --namespace kube-system --ignore-not-found >&2
say "Removing namespace $NAMESPACE"
kubectl delete namespace "$NAMESPACE" --ignore-not-found >&2
say "Kip is removed. Its role and policy are as they were; docs/install-eks.md says how to remove them."
