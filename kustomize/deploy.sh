#!/usr/bin/env bash
# Installs Kip into an EKS cluster, or brings an installation up to date.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
	cat <<'END'
Installs Kip into an EKS cluster, or brings an installation up to date.

    export CLUSTER_NAME=... USE_REGION=... IMAGE_TAG=... KIP_SERVICE_ACCOUNT_ROLE_ARN=...
    kustomize/deploy.sh [--render]

--render prints the manifests and changes nothing.

Required variables:
  CLUSTER_NAME                  Name of the cluster. With NAMESPACE it marks Kip's instances:
                                never change either while cells run.
  USE_REGION                    Region, such as us-west-2.
  IMAGE_TAG                     Version of Kip.
  KIP_SERVICE_ACCOUNT_ROLE_ARN  Role that Kip takes, with kustomize/iam's policies.

Optional:
  NAMESPACE                     Kip's namespace (kip).
  IMAGE_REGISTRY                Where IMAGE_REGISTRY/kip:IMAGE_TAG is (docker.io/elotl).
  VPC_ID                        The cells' VPC. Else that of the EKS cluster, asked with the AWS CLI.
  CELL_INSTANCE_PROFILE_ARN     Instance profile of cells that name none.
  CELL_SOFTWARE_URL             Archive of make cell-software, with which Amazon's own image for EKS nodes
  CELL_SOFTWARE_SHA256          becomes a cell, and its hash; for CELL_SOFTWARE_ARCHITECTURE (amd64).
  CELL_IMAGE_ID                 Machine images of cells instead of that one: AMI IDs separated by commas,
                                one for each architecture.
  KIP_CELL_SG                   Security groups that every cell gets besides Kip's own; IDs
                                separated by commas.
  CLUSTER_DNS                   Address of the cluster's DNS. Else that of the Service kube-dns.
  PROVIDER_CONFIG               A provider.yaml of your own instead of kustomize/eks/provider.yaml; where
                                that has ${VPC_ID} and the like, so may yours.
  AWS_ENDPOINT_URL              Another endpoint for all of AWS's APIs.
  NFS_VOLUME_ENDPOINT           NFS server and path of the image cache, such as
                                fs-92e61897.efs.us-west-2.amazonaws.com:/. Without it there is none.
  IMAGE_CACHE_MAX_SIZE          How large it may become, such as 500Gi (any size).
  IMAGE_CACHE_ROLE_ARN          Role of the image cache's controller, with kustomize/iam/image-cache-policy.json, for
                                images of a private ECR. Without it those of pods without pull secrets may not be cached.
  IMAGE_CACHE_KEEP              Images that are in it though no pod uses them, separated by commas.
  VIRTUAL_NODES                 How many virtual nodes: kip-provider-0, kip-provider-1, ... (1).
  SECOND_KIP                    true for a second Kip of each virtual node, which takes over when the
                                first ends (false). Needs Kubernetes 1.28.
  DEPLOY_TIMEOUT                How long to wait until Kip is ready (5m).

Needs envsubst, kubectl 1.21 or later and, if it is there, uses kustomize 4 or later.
END
}

say() { printf '%s\n' "$*" >&2; }
warn() { say "warning: $*"; }
die() {
	say "deploy.sh: $*"
	exit 1
}

render=false
case "${1-}" in
'') ;;
--render) render=true ;;
-h | --help)
	usage
	exit 0
	;;
*) die "unknown argument $1; --help explains" ;;
esac
[ $# -le 1 ] || die "one argument at most; --help explains"

# All that is wrong is said at once.
problems=()
wrong() { problems+=("$*"); }

# check NAME PATTERN EXAMPLE: the variable, if it is set, must match as a whole.
check() {
	local value=${!1-}
	if [ -n "$value" ] && ! [[ $value =~ ^($2)$ ]]; then
		wrong "$1 is \"$value\"; it takes $3"
	fi
}
required() {
	if [ -z "${!1-}" ]; then
		wrong "$1 is not set; it takes $3"
	fi
	check "$@"
}

export NAMESPACE=${NAMESPACE:-kip} IMAGE_REGISTRY=${IMAGE_REGISTRY:-docker.io/elotl}
export AWS_ENDPOINT_URL=${AWS_ENDPOINT_URL-}
export NFS_VOLUME_ENDPOINT=${NFS_VOLUME_ENDPOINT-} IMAGE_CACHE_MAX_SIZE=${IMAGE_CACHE_MAX_SIZE-} IMAGE_CACHE_KEEP=${IMAGE_CACHE_KEEP-} IMAGE_CACHE_ROLE_ARN=${IMAGE_CACHE_ROLE_ARN-}
export NFS_SERVER=${NFS_VOLUME_ENDPOINT%%:*} NFS_PATH=${NFS_VOLUME_ENDPOINT#*:} IMAGE_CACHE=
export CELL_SOFTWARE_URL=${CELL_SOFTWARE_URL-} CELL_SOFTWARE_SHA256=${CELL_SOFTWARE_SHA256-} CELL_SOFTWARE=
export VPC_ID=${VPC_ID-} CELL_IMAGE_ID=${CELL_IMAGE_ID-} CELL_INSTANCE_PROFILE_ARN=${CELL_INSTANCE_PROFILE_ARN-} KIP_CELL_SG=${KIP_CELL_SG-} CLUSTER_DNS=${CLUSTER_DNS-}
export VIRTUAL_NODES=${VIRTUAL_NODES:-1}
SECOND_KIP=${SECOND_KIP:-false}
timeout=${DEPLOY_TIMEOUT:-5m}
template=${PROVIDER_CONFIG:-$here/eks/provider.yaml}

required CLUSTER_NAME '[A-Za-z0-9][A-Za-z0-9_.-]{0,99}' 'the name of the EKS cluster'
required USE_REGION '[a-z]{2}(-[a-z]+)+-[0-9]+' 'a region such as us-west-2'
required IMAGE_TAG '[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}' 'a version of Kip such as 1.0-latest'
required KIP_SERVICE_ACCOUNT_ROLE_ARN 'arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+' \
	"the ARN of Kip's role such as arn:aws:iam::012345678910:role/kip (docs/install-eks.md says how to make it)"
check NAMESPACE '[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?' 'the name of a namespace'
check IMAGE_REGISTRY '[a-z0-9][A-Za-z0-9._:/-]*[A-Za-z0-9]' 'a registry such as docker.io/elotl'
check VPC_ID 'vpc-[0-9a-f]+' 'an ID such as vpc-0123456789abcdef0'
check CELL_INSTANCE_PROFILE_ARN 'arn:aws[a-z-]*:iam::[0-9]{12}:instance-profile/[A-Za-z0-9+=,.@_/-]+' \
	'the ARN of an instance profile such as arn:aws:iam::012345678910:instance-profile/kip-cell'
check CELL_IMAGE_ID 'ami-[0-9a-f]+(,ami-[0-9a-f]+)*' 'IDs such as ami-0123456789abcdef0, separated by commas'
check CELL_SOFTWARE_URL 'https?://[-A-Za-z0-9._~:/?#@!&()*+,;=%]+' 'an http or https URL'
check CELL_SOFTWARE_SHA256 '[0-9a-f]{64}' 'the hash that make cell-software prints: 64 hexadecimal digits'
check CELL_SOFTWARE_ARCHITECTURE 'amd64|arm64' 'amd64 or arm64'
if [ -n "$CELL_SOFTWARE_URL" ] && [ -n "$CELL_SOFTWARE_SHA256" ]; then
	CELL_SOFTWARE="{\"architecture\":\"${CELL_SOFTWARE_ARCHITECTURE:-amd64}\",\"sha256\":\"$CELL_SOFTWARE_SHA256\",\"url\":\"$CELL_SOFTWARE_URL\"}"
elif [ -n "$CELL_SOFTWARE_URL$CELL_SOFTWARE_SHA256" ]; then
	wrong "of CELL_SOFTWARE_URL and CELL_SOFTWARE_SHA256 one is not set; each needs the other"
fi
check KIP_CELL_SG 'sg-[0-9a-f]+(,sg-[0-9a-f]+)*' 'IDs such as sg-0123456789abcdef0, separated by commas'
check CLUSTER_DNS '[0-9a-fA-F:.]+(,[0-9a-fA-F:.]+)*' 'an IP address'
check AWS_ENDPOINT_URL 'https?://[A-Za-z0-9._:/-]+' 'a URL'
check NFS_VOLUME_ENDPOINT '[A-Za-z0-9._-]+:/[A-Za-z0-9._/-]*' 'a server and a path such as fs-92e61897.efs.us-west-2.amazonaws.com:/'
check IMAGE_CACHE_MAX_SIZE '[0-9]+[KMGT]i?' 'a size such as 500Gi'
check IMAGE_CACHE_KEEP '[A-Za-z0-9][A-Za-z0-9._:/@-]*(,[A-Za-z0-9][A-Za-z0-9._:/@-]*)*' 'images separated by commas'
check IMAGE_CACHE_ROLE_ARN 'arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+' \
	"the ARN of the controller's role such as arn:aws:iam::012345678910:role/kip-image-cache"
if [ -n "$NFS_VOLUME_ENDPOINT" ]; then
	IMAGE_CACHE="{\"endpoint\":\"$NFS_VOLUME_ENDPOINT\"}"
elif [ -n "$IMAGE_CACHE_MAX_SIZE$IMAGE_CACHE_KEEP$IMAGE_CACHE_ROLE_ARN" ]; then
	wrong "IMAGE_CACHE_MAX_SIZE, IMAGE_CACHE_KEEP or IMAGE_CACHE_ROLE_ARN is set, and NFS_VOLUME_ENDPOINT is not: there is no image cache"
fi
check VIRTUAL_NODES '[1-9][0-9]?' 'a number from 1 to 99'
check SECOND_KIP 'true|false' 'true or false'
check DEPLOY_TIMEOUT '[0-9]+[smh]' 'a time such as 5m'
case $NAMESPACE in
default | kube-*) wrong "NAMESPACE is $NAMESPACE; give Kip one of its own, which is removed with it" ;;
esac
if ! [ -r "$template" ]; then
	wrong "PROVIDER_CONFIG is $template, which cannot be read"
fi

for tool in envsubst kubectl; do
	command -v "$tool" >/dev/null || wrong "$tool is not installed"
done
if command -v kustomize >/dev/null; then
	kustomize=(kustomize build)
else
	kustomize=(kubectl kustomize)
fi

refuse_problems() {
	[ ${#problems[@]} -gt 0 ] || return 0
	say "deploy.sh: nothing was changed:"
	local p
	for p in "${problems[@]}"; do say "  - $p"; done
	exit 2
}
refuse_problems

# uses NAME: provider.yaml has a place for it
uses() { grep -qF "\${$1}" "$template"; }
for name in VPC_ID CELL_SOFTWARE CELL_IMAGE_ID CELL_INSTANCE_PROFILE_ARN KIP_CELL_SG CLUSTER_DNS IMAGE_CACHE; do
	if [ -n "${!name}" ] && ! uses "$name"; then
		wrong "$name is set, and PROVIDER_CONFIG ($template) has no \${$name}: it would have no effect"
	fi
done
if [ -z "$VPC_ID" ] && uses VPC_ID; then
	if command -v aws >/dev/null; then
		VPC_ID=$(aws eks describe-cluster --name "$CLUSTER_NAME" --region "$USE_REGION" \
			--query cluster.resourcesVpcConfig.vpcId --output text 2>&1) || {
			say "$VPC_ID"
			VPC_ID=
		}
	fi
	if [ -n "$VPC_ID" ]; then
		say "VPC of the cluster: $VPC_ID"
	else
		wrong "VPC_ID is not set, and the EKS cluster $CLUSTER_NAME could not be asked for its VPC; aws ec2 describe-vpcs lists all"
	fi
fi
if [ -z "$CELL_IMAGE_ID$CELL_SOFTWARE" ] && uses CELL_IMAGE_ID; then
	warn "neither CELL_SOFTWARE_URL nor CELL_IMAGE_ID is set: without a machine image no cell can be launched, and pods will wait with reason InvalidConfiguration."
fi
if [ -z "$CLUSTER_DNS" ] && uses CLUSTER_DNS && ! $render; then
	CLUSTER_DNS=$(kubectl --namespace kube-system get service kube-dns --ignore-not-found --output 'jsonpath={.spec.clusterIP}') ||
		wrong "kubectl does not reach the cluster"
	if [ -n "$CLUSTER_DNS" ]; then
		say "DNS of the cluster: $CLUSTER_DNS"
	else
		warn "there is no Service kube-system/kube-dns: pods on cells will not find names of the cluster. Set CLUSTER_DNS."
	fi
fi
refuse_problems
if ! $render; then
	# Nobody but its own Kip ends a virtual node's instances.
	before=$(kubectl --namespace "$NAMESPACE" get statefulset kip-provider --ignore-not-found --output 'jsonpath={.spec.replicas}') ||
		wrong "kubectl does not reach the cluster"
	for ((i = VIRTUAL_NODES; i < ${before:-0}; i++)); do
		cells=$(kubectl get cells.kip.elotl.co --selector "kip.elotl.co/node=kip-provider-$i" --output name) ||
			wrong "the cells of kip-provider-$i could not be listed"
		[ -z "$cells" ] || wrong "VIRTUAL_NODES is $VIRTUAL_NODES, and kip-provider-$i has cells: cordon it, and end or move its pods first"
	done
fi
refuse_problems

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -R "$here/base" "$here/crd" "$here/statefulset" "$here/provider" "$here/second" "$here/eks" "$here/image-cache" "$work"

# What names one virtual node names them all.
for file in cluster-role.yaml roles.yaml; do
	awk -v nodes="$VIRTUAL_NODES" '
		/resourceNames: \[.*kip-provider-0.*\]/ {
			match($0, /\[.*\]/)
			first = substr($0, RSTART + 1, RLENGTH - 2)
			line = substr($0, 1, RSTART) first
			for (i = 1; i < nodes; i++) {
				other = first
				sub(/kip-provider-0/, "kip-provider-" i, other)
				line = line ", " other
			}
			print line "]"
			next
		}
		{ print }' "$here/base/$file" >"$work/base/$file"
done

# The names are listed, so that nothing else that looks like a variable is touched.
fill() {
	# shellcheck disable=SC2016 # envsubst takes the names, not the values
	envsubst '${NAMESPACE} ${CLUSTER_NAME} ${USE_REGION} ${VPC_ID} ${IMAGE_REGISTRY} ${IMAGE_TAG} ${CLUSTER_DNS}
		${KIP_SERVICE_ACCOUNT_ROLE_ARN} ${CELL_SOFTWARE} ${CELL_IMAGE_ID} ${CELL_INSTANCE_PROFILE_ARN} ${KIP_CELL_SG} ${AWS_ENDPOINT_URL} ${PROVIDER_CONFIG_HASH}
		${IMAGE_CACHE} ${IMAGE_CACHE_KEEP} ${IMAGE_CACHE_MAX_SIZE} ${IMAGE_CACHE_ROLE_ARN} ${NFS_SERVER} ${NFS_PATH} ${VIRTUAL_NODES}' <"$1" >"$2"
}
fill "$template" "$work/eks/provider.yaml"
PROVIDER_CONFIG_HASH=$(cat "$work/eks/provider.yaml" - <<<"$CLUSTER_NAME $KIP_SERVICE_ACCOUNT_ROLE_ARN $AWS_ENDPOINT_URL" | cksum | cut -d ' ' -f 1)
export PROVIDER_CONFIG_HASH
fill "$here/eks/kustomization.yaml" "$work/eks/kustomization.yaml"
components=()
if [ -n "$NFS_VOLUME_ENDPOINT" ]; then
	fill "$here/image-cache/deployment.yaml" "$work/image-cache/deployment.yaml"
	if [ -n "$IMAGE_CACHE_ROLE_ARN" ]; then
		fill "$here/image-cache/role.yaml" "$work/image-cache/role.yaml"
		# The last list is that of patches.
		printf -- '- path: role.yaml\n' >>"$work/image-cache/kustomization.yaml"
	fi
	components+=(../image-cache)
fi
if $SECOND_KIP; then
	fill "$here/second/kustomization.yaml" "$work/second/kustomization.yaml"
	components+=(../second)
fi
if [ ${#components[@]} -gt 0 ]; then
	printf 'components:\n' >>"$work/eks/kustomization.yaml"
	printf -- '- %s\n' "${components[@]}" >>"$work/eks/kustomization.yaml"
fi
"${kustomize[@]}" "$work/eks" >"$work/kip.yaml" || die "the manifests could not be made; see above"

if $render; then
	cat "$work/kip.yaml"
	exit 0
fi

# explain PROBLEM POD: what the pod and the node say, for whoever has to find out
# why.
explain() {
	say ""
	say "Kip did not get ready. The pod:"
	kubectl --namespace "$NAMESPACE" get pods --selector app.kubernetes.io/name=kip --output wide >&2 || true
	say ""
	say "Events:"
	kubectl --namespace "$NAMESPACE" get events --sort-by .lastTimestamp 2>/dev/null | tail -n 15 >&2 || true
	say ""
	say "Log:"
	kubectl --namespace "$NAMESPACE" logs "$2" --tail 15 >&2 ||
		kubectl --namespace "$NAMESPACE" logs "$2" --tail 15 --previous >&2 || true
	say ""
	die "$1. docs/install-eks.md, \"What goes wrong\", goes through the causes; run deploy.sh again when it is put right."
}

say "Installing Kip $IMAGE_TAG into namespace $NAMESPACE of $(kubectl config current-context 2>/dev/null || echo 'the current cluster')"
kubectl apply --server-side --force-conflicts --filename "$work/kip.yaml" >&2 || die "kubectl apply failed; see above"
sets=(kip-provider)
if $SECOND_KIP; then
	sets+=(kip-second)
else
	# It may have been there before.
	kubectl --namespace "$NAMESPACE" delete statefulset kip-second --ignore-not-found >&2
fi
for set in "${sets[@]}"; do
	kubectl --namespace "$NAMESPACE" rollout status "statefulset/$set" --timeout "$timeout" >&2 ||
		explain "the StatefulSet $set was not ready within $timeout" "$set-0"
done
for ((i = 0; i < VIRTUAL_NODES; i++)); do
	node=kip-provider-$i
	# kubectl wait gives up at once on what is not there yet.
	for _ in $(seq 30); do
		[ -z "$(kubectl get node "$node" --ignore-not-found --output name)" ] || break
		sleep 1
	done
	kubectl wait --for condition=Ready "node/$node" --timeout "$timeout" >&2 ||
		explain "the node $node was not ready within $timeout" "$node"
done
for ((i = VIRTUAL_NODES; i < ${before:-0}; i++)); do
	kubectl delete node "kip-provider-$i" --ignore-not-found >&2
	kubectl delete lease "kip-provider-$i" --namespace kube-node-lease --ignore-not-found >&2
done

if [ -n "$NFS_VOLUME_ENDPOINT" ]; then
	kubectl --namespace "$NAMESPACE" rollout status deployment/kip-image-cache --timeout 30s >&2 ||
		warn "the image cache's controller is not ready yet: cells pull their images until it is. kubectl --namespace $NAMESPACE describe pods --selector app.kubernetes.io/component=image-cache says what it waits for."
else
	# It may have been there before.
	kubectl --namespace "$NAMESPACE" delete deployment,role,rolebinding,serviceaccount kip-image-cache --ignore-not-found >&2
	kubectl delete clusterrolebinding,clusterrole kip-image-cache --ignore-not-found >&2
fi

cat <<END

Kip runs. A pod goes to a cell of its own with

    nodeSelector: {type: virtual-kubelet}
    tolerations:
    - {key: virtual-kubelet.io/provider, operator: Exists}

    kubectl get nodes --selector type=virtual-kubelet
    kubectl get pods --field-selector spec.nodeName=kip-provider-0 -A
    kubectl get cells
    kubectl --namespace $NAMESPACE logs kip-provider-0

To remove it:  NAMESPACE=$NAMESPACE $here/undeploy.sh
END
