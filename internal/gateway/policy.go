package gateway

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// rule is one row of the policy: a request that a cell may make and who
// answers it. Which object it may be about is the handler's to check, and each
// handler checks that first.
type rule struct {
	verb        string
	resource    schema.GroupVersionResource
	subresource string
	namespaced  bool
	// by is how a request that went well is counted.
	by decision
	// bodyLimit is the largest body in bytes; 0 for requests without one.
	bodyLimit int64
	handle    func(*call) error
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

var (
	pods            = core("pods")
	nodes           = core("nodes")
	secrets         = core("secrets")
	configMaps      = core("configmaps")
	claims          = core("persistentvolumeclaims")
	volumes         = core("persistentvolumes")
	serviceAccounts = core("serviceaccounts")
	services        = core("services")
	coreEvents      = core("events")

	leases            = v1("coordination.k8s.io", "leases")
	endpointSlices    = v1("discovery.k8s.io", "endpointslices")
	events            = v1("events.k8s.io", "events")
	serviceCIDRs      = v1("networking.k8s.io", "servicecidrs")
	runtimeClasses    = v1("node.k8s.io", "runtimeclasses")
	resourceSlices    = v1("resource.k8s.io", "resourceslices")
	csiDrivers        = v1("storage.k8s.io", "csidrivers")
	csiNodes          = v1("storage.k8s.io", "csinodes")
	volumeAttachments = v1("storage.k8s.io", "volumeattachments")
)

func core(resource string) schema.GroupVersionResource { return v1("", resource) }

func v1(group, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}
}

// policy is all that a cell may ask. Whatever matches no row is refused.
var policy = []rule{
	// Its pod. The list and the watch are over all namespaces and show one pod.
	{verb: "list", resource: pods, by: served, handle: (*call).listPods},
	{verb: "watch", resource: pods, by: served, handle: (*call).watchPods},
	{verb: "get", resource: pods, namespaced: true, by: served, handle: (*call).getPod},
	{verb: "patch", resource: pods, subresource: "status", namespaced: true, by: served, bodyLimit: 3 * mib, handle: (*call).patchPodStatus},
	{verb: "update", resource: pods, subresource: "status", namespaced: true, by: served, bodyLimit: 3 * mib, handle: (*call).updatePodStatus},
	{verb: "delete", resource: pods, namespaced: true, by: served, bodyLimit: 64 * kib, handle: (*call).deletePod},

	// Its node, which exists for this cell only.
	{verb: "get", resource: nodes, by: served, handle: (*call).getNode},
	{verb: "list", resource: nodes, by: served, handle: (*call).listNodes},
	{verb: "watch", resource: nodes, by: served, handle: (*call).watchNodes},
	{verb: "patch", resource: nodes, by: served, bodyLimit: mib, handle: (*call).patchNode},
	{verb: "update", resource: nodes, by: served, bodyLimit: mib, handle: (*call).updateNode},
	{verb: "patch", resource: nodes, subresource: "status", by: served, bodyLimit: mib, handle: (*call).patchNode},
	{verb: "update", resource: nodes, subresource: "status", by: served, bodyLimit: mib, handle: (*call).updateNode},
	{verb: "get", resource: leases, namespaced: true, by: served, handle: (*call).getLease},
	{verb: "create", resource: leases, namespaced: true, by: served, bodyLimit: 16 * kib, handle: (*call).createLease},
	{verb: "update", resource: leases, namespaced: true, by: served, bodyLimit: 16 * kib, handle: (*call).updateLease},
	{verb: "get", resource: csiNodes, by: served, handle: (*call).getCSINode},
	{verb: "create", resource: csiNodes, by: served, bodyLimit: 256 * kib, handle: (*call).createCSINode},
	{verb: "update", resource: csiNodes, by: served, bodyLimit: 256 * kib, handle: (*call).updateCSINode},
	{verb: "patch", resource: csiNodes, by: served, bodyLimit: 256 * kib, handle: (*call).patchCSINode},
	{verb: "delete", resource: csiNodes, by: served, bodyLimit: 64 * kib, handle: (*call).deleteCSINode},
	{verb: "deletecollection", resource: resourceSlices, by: dropped, bodyLimit: 64 * kib, handle: (*call).deleteResourceSlices},

	// What its pod refers to.
	{verb: "get", resource: secrets, namespaced: true, by: proxied, handle: (*call).getSecret},
	{verb: "list", resource: secrets, namespaced: true, by: proxied, handle: (*call).selectSecret},
	{verb: "watch", resource: secrets, namespaced: true, by: proxied, handle: (*call).selectSecret},
	{verb: "get", resource: configMaps, namespaced: true, by: proxied, handle: (*call).getConfigMap},
	{verb: "list", resource: configMaps, namespaced: true, by: served, handle: (*call).selectConfigMap},
	{verb: "watch", resource: configMaps, namespaced: true, by: served, handle: (*call).selectConfigMap},
	{verb: "get", resource: claims, namespaced: true, by: proxied, handle: (*call).getClaim},
	{verb: "patch", resource: claims, subresource: "status", namespaced: true, by: proxied, bodyLimit: 64 * kib, handle: (*call).patchClaimStatus},
	{verb: "get", resource: volumes, by: proxied, handle: (*call).getVolume},
	{verb: "get", resource: volumeAttachments, by: proxied, handle: (*call).getVolumeAttachment},
	{verb: "create", resource: serviceAccounts, subresource: "token", namespaced: true, by: proxied, bodyLimit: 64 * kib, handle: (*call).createToken},

	// What happens to its pod.
	{verb: "create", resource: coreEvents, namespaced: true, by: proxied, bodyLimit: 64 * kib, handle: (*call).createCoreEvent},
	{verb: "patch", resource: coreEvents, namespaced: true, by: proxied, bodyLimit: 64 * kib, handle: (*call).patchCoreEvent},
	{verb: "create", resource: events, namespaced: true, by: proxied, bodyLimit: 64 * kib, handle: (*call).createEvent},
	{verb: "patch", resource: events, namespaced: true, by: proxied, bodyLimit: 64 * kib, handle: (*call).patchEvent},

	// What every node knows.
	{verb: "list", resource: services, by: served, handle: (*call).listShared},
	{verb: "watch", resource: services, by: served, handle: (*call).watchShared},
	{verb: "list", resource: endpointSlices, by: served, handle: (*call).listShared},
	{verb: "watch", resource: endpointSlices, by: served, handle: (*call).watchShared},
	{verb: "list", resource: serviceCIDRs, by: served, handle: (*call).listShared},
	{verb: "watch", resource: serviceCIDRs, by: served, handle: (*call).watchShared},
	{verb: "list", resource: runtimeClasses, by: served, handle: (*call).listShared},
	{verb: "watch", resource: runtimeClasses, by: served, handle: (*call).watchShared},
	{verb: "list", resource: csiDrivers, by: served, handle: (*call).listShared},
	{verb: "watch", resource: csiDrivers, by: served, handle: (*call).watchShared},
}

// ruleKey is what a row is found by.
type ruleKey struct {
	verb        string
	resource    schema.GroupVersionResource
	subresource string
	namespaced  bool
}

// Built by init, not by their declaration: the handlers lead back to them.
var (
	rules map[ruleKey]*rule
	// knownResources and knownVerbs are what metrics may name.
	knownResources map[schema.GroupResource]bool
	knownVerbs     map[string]bool
)

func init() {
	rules = make(map[ruleKey]*rule, len(policy))
	knownResources, knownVerbs = map[schema.GroupResource]bool{}, map[string]bool{}
	for i := range policy {
		r := &policy[i]
		rules[ruleKey{r.verb, r.resource, r.subresource, r.namespaced}] = r
		knownResources[r.resource.GroupResource()] = true
		knownVerbs[r.verb] = true
	}
}

// ruleFor finds the row for a request, nil if there is none.
func ruleFor(req *request) *rule {
	return rules[ruleKey{req.verb, req.resource, req.subresource, req.namespace != ""}]
}

// metricLabels are the resource and verb that a request is counted under.
func metricLabels(req *request) (resource, verb string) {
	resource, verb = other, other
	if req == nil {
		return resource, verb
	}
	if gr := req.resource.GroupResource(); knownResources[gr] {
		resource = gr.Resource
		if req.subresource != "" && ruleFor(req) != nil {
			resource += "/" + req.subresource
		}
		if gr == events.GroupResource() {
			resource = gr.String() // not the core group's
		}
	}
	if knownVerbs[req.verb] {
		verb = req.verb
	}
	return resource, verb
}
