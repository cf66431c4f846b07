package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// refused are requests that no cell may make, each with what the answer says.
// Code 0 is 403.
var refusedRequests = []struct {
	method, path string
	code         int
	says         string
	headers      []string
}{
	// Other pods, and more than a kubelet does with its own.
	{"GET", "/api/v1/namespaces/shop/pods/api", 0, "not the pod of this cell", nil},
	{"GET", "/api/v1/namespaces/bank/pods/web", 0, "not the pod of this cell", nil},
	{"GET", "/api/v1/namespaces/shop/pods", 0, "may not list", nil},
	{"GET", "/api/v1/namespaces/shop/pods?watch=true", 0, "may not watch", nil},
	{"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-7", 0, "spec.nodeName=kip-provider-0", nil},
	{"GET", "/api/v1/pods?fieldSelector=spec.nodeName!%3Dkip-provider-0", 0, "spec.nodeName", nil},
	{"GET", "/api/v1/pods?fieldSelector=metadata.name%3Dapi", 0, "spec.nodeName", nil},
	{"GET", "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dnode-7", 0, "spec.nodeName", nil},
	{"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dkip-provider-0%2Cmetadata.name%3Dapi", 0, "spec.nodeName", nil},
	{"GET", "/api/v1/pods?labelSelector=app%3Dweb", 0, "label", nil},
	{"POST", "/api/v1/namespaces/shop/pods", 0, "may not create", nil},
	{"PUT", "/api/v1/namespaces/shop/pods/web", 0, "may not update", nil},
	{"PATCH", "/api/v1/namespaces/shop/pods/web", 0, "may not patch", nil},
	{"DELETE", "/api/v1/namespaces/shop/pods", 0, "may not deletecollection", nil},
	{"DELETE", "/api/v1/namespaces/shop/pods/api", 0, "not the pod", nil},
	{"POST", "/api/v1/namespaces/shop/pods/web/exec?command=sh&stdin=true", 0, "not allowed with create", nil},
	{"GET", "/api/v1/namespaces/shop/pods/web/exec", 0, "may not get", nil},
	{"GET", "/api/v1/namespaces/shop/pods/web/log", 0, "may not get", nil},
	{"GET", "/api/v1/namespaces/shop/pods/web/status", 0, "may not get", nil},
	{"POST", "/api/v1/namespaces/shop/pods/web/eviction", 0, "may not create", nil},
	{"POST", "/api/v1/namespaces/shop/pods/web/binding", 0, "may not create", nil},
	{"PATCH", "/api/v1/namespaces/shop/pods/web/resize", 0, "may not patch", nil},
	{"GET", "/api/v1/namespaces/shop/pods/web/proxy/etc/passwd", 0, "more parts", nil},

	// Other nodes.
	{"GET", "/api/v1/nodes", 0, "metadata.name=kip-provider-0", nil},
	{"GET", "/api/v1/nodes?watch=true", 0, "metadata.name=kip-provider-0", nil},
	{"GET", "/api/v1/nodes/node-7", 0, "not the node of this cell", nil},
	{"GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-7", 0, "metadata.name=kip-provider-0", nil},
	{"GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dkip-provider-0&labelSelector=a%3Db", 0, "metadata.name", nil},
	{"PATCH", "/api/v1/nodes/node-7", 0, "not the node", nil},
	{"PATCH", "/api/v1/nodes/node-7/status", 0, "not the node", nil},
	{"PUT", "/api/v1/nodes/node-7/status", 0, "not the node", nil},
	{"POST", "/api/v1/nodes", 0, "may not create", nil},
	{"DELETE", "/api/v1/nodes/kip-provider-0", 0, "may not delete", nil},
	{"GET", "/api/v1/nodes/kip-provider-0/proxy", 0, "may not get", nil},
	{"GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", 0, "may not list", nil},
	{"GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-7", 0, "not the lease", nil},
	{"GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kip-provider-0", 0, "not the lease", nil},
	{"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-7", 0, "not the lease", nil},
	{"POST", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", 0, "not the lease", nil},
	{"DELETE", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/kip-provider-0", 0, "may not delete", nil},
	{"GET", "/apis/storage.k8s.io/v1/csinodes", 0, "may not list", nil},
	{"GET", "/apis/storage.k8s.io/v1/csinodes/node-7", 0, "not the node", nil},
	{"DELETE", "/apis/storage.k8s.io/v1/csinodes/node-7", 0, "not the node", nil},
	{"DELETE", "/apis/resource.k8s.io/v1/resourceslices", 0, "spec.nodeName=kip-provider-0", nil},
	{"DELETE", "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName%3Dnode-7", 0, "spec.nodeName=kip-provider-0", nil},
	{"GET", "/apis/resource.k8s.io/v1/resourceslices", 0, "may not list", nil},

	// What its pod does not refer to.
	{"GET", "/api/v1/namespaces/shop/secrets/other", 0, "does not refer", nil},
	{"GET", "/api/v1/namespaces/shop/secrets", 0, "metadata.name=NAME", nil},
	{"GET", "/api/v1/secrets", 0, "may not list", nil},
	{"GET", "/api/v1/secrets?fieldSelector=metadata.name%3Dpassword", 0, "may not list", nil},
	{"GET", "/api/v1/namespaces/kube-system/secrets/password", 0, "does not refer", nil},
	{"GET", "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name!%3Dother", 0, "metadata.name=NAME", nil},
	{"GET", "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Dpassword%2Ctype%3DOpaque", 0, "metadata.name=NAME", nil},
	{"GET", "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Dpassword&labelSelector=a%3Db", 0, "metadata.name=NAME", nil},
	{"GET", "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Dother&watch=true", 0, "does not refer", nil},
	{"GET", "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Dpassword&fieldSelector=metadata.name%3Dother", 0, "more than once", nil},
	{"POST", "/api/v1/namespaces/shop/secrets", 0, "may not create", nil},
	{"PUT", "/api/v1/namespaces/shop/secrets/password", 0, "may not update", nil},
	{"PATCH", "/api/v1/namespaces/shop/secrets/password", 0, "may not patch", nil},
	{"DELETE", "/api/v1/namespaces/shop/secrets/password", 0, "may not delete", nil},
	{"GET", "/api/v1/namespaces/shop/configmaps/other", 0, "does not refer", nil},
	{"GET", "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt", 0, "does not refer", nil},
	{"PATCH", "/api/v1/namespaces/shop/configmaps/settings", 0, "may not patch", nil},
	{"GET", "/api/v1/namespaces/shop/persistentvolumeclaims/other", 0, "does not use", nil},
	{"GET", "/api/v1/persistentvolumes", 0, "may not list", nil},
	{"PATCH", "/api/v1/persistentvolumes/pv-data", 0, "may not patch", nil},
	{"GET", "/apis/storage.k8s.io/v1/volumeattachments", 0, "may not list", nil},
	{"POST", "/apis/storage.k8s.io/v1/volumeattachments", 0, "may not create", nil},
	{"POST", "/api/v1/namespaces/shop/serviceaccounts/admin/token", 0, "not the service account", nil},
	{"POST", "/api/v1/namespaces/kube-system/serviceaccounts/seller/token", 0, "not the service account", nil},
	{"GET", "/api/v1/namespaces/shop/serviceaccounts/seller", 0, "may not get", nil},
	{"GET", "/api/v1/namespaces/shop/serviceaccounts", 0, "may not list", nil},

	// What every node knows can be read, and nothing else.
	{"POST", "/api/v1/namespaces/shop/services", 0, "may not create", nil},
	{"GET", "/api/v1/namespaces/shop/services", 0, "may not list", nil},
	{"GET", "/api/v1/namespaces/shop/services/web", 0, "may not get", nil},
	{"GET", "/api/v1/namespaces/shop/services/web/proxy", 0, "may not get", nil},
	{"PATCH", "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/web-1", 0, "may not patch", nil},
	{"DELETE", "/apis/node.k8s.io/v1/runtimeclasses/kata", 0, "may not delete", nil},
	{"POST", "/apis/storage.k8s.io/v1/csidrivers", 0, "may not create", nil},
	{"GET", "/apis/discovery.k8s.io/v1beta1/endpointslices", 0, "may not list", nil},
	{"GET", "/apis/storage.k8s.io/v1beta1/csidrivers", 0, "may not list", nil},
	{"GET", "/api/v2/services", 0, "may not list", nil},

	// Everything else that there is.
	{"GET", "/", 0, "not a resource", nil},
	{"GET", "/api", 0, "not a resource", nil},
	{"GET", "/apis", 0, "not a resource", nil},
	{"GET", "/api/v1", 0, "not a resource", nil},
	{"GET", "/apis/apps/v1", 0, "not a resource", nil},
	{"GET", "/version", 0, "not a resource", nil},
	{"GET", "/healthz", 0, "not a resource", nil},
	{"GET", "/metrics", 0, "not a resource", nil},
	{"GET", "/openapi/v3", 0, "not a resource", nil},
	{"GET", "/logs/kube-apiserver.log", 0, "not a resource", nil},
	{"GET", "/api/v1/namespaces", 0, "may not list", nil},
	{"GET", "/api/v1/namespaces/shop", 0, "", nil},
	{"GET", "/api/v1/namespaces/shop/status", 0, "", nil},
	{"GET", "/api/v1/endpoints", 0, "may not list", nil},
	{"GET", "/api/v1/events", 0, "may not list", nil},
	{"GET", "/api/v1/namespaces/shop/events", 0, "may not list", nil},
	{"DELETE", "/api/v1/namespaces/shop/events/web.1", 0, "may not delete", nil},
	{"GET", "/apis/apps/v1/namespaces/shop/deployments", 0, "may not list", nil},
	{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", 0, "may not create", nil},
	{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", 0, "may not create", nil},
	{"POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", 0, "may not create", nil},
	{"POST", "/apis/certificates.k8s.io/v1beta1/namespaces/shop/podcertificaterequests", 0, "may not create", nil},
	{"GET", "/apis/certificates.k8s.io/v1beta1/clustertrustbundles", 0, "may not list", nil},
	{"GET", "/apis/resource.k8s.io/v1/namespaces/shop/resourceclaims/gpu", 0, "may not get", nil},
	{"GET", "/apis/kip.elotl.co/v1beta1/cells", 0, "may not list", nil},
	{"GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", 0, "may not list", nil},

	// Other spellings of requests that would be allowed.
	{"GET", "/api/v1/namespaces/shop/secrets/%70assword", 0, "encoded", nil},
	{"GET", "/api/v1/namespaces/shop%2Fsecrets/password", 0, "encoded", nil},
	{"GET", "/api/v1/namespaces/shop/secrets%2Fother", 0, "encoded", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/password%00", 0, "", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/password%20", 0, "", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/password/", 0, "plain form", nil},
	{"GET", "//api/v1/pods", 0, "not for a path", nil},
	{"GET", "/api//v1/pods", 0, "", nil},
	{"GET", "/api/v1//pods", 0, "", nil},
	{"GET", "/api/v1/./pods", 0, "", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/../secrets/password", 0, "", nil},
	{"GET", "/api/v1/namespaces/shop/pods/../secrets/password", 0, "", nil},
	{"GET", "/api/v1/namespaces/../secrets/password", 0, "", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/..", 0, "", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/.", 0, "", nil},
	{"GET", "/API/v1/pods", 0, "not a resource", nil},
	{"GET", "/api/v1/Pods", 0, "", nil},
	{"GET", "/api/V1/pods", 0, "", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/Password", 0, "not one that an object can have", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/password;x=y", 0, "", nil},
	{"GET", "/api/v1/watch/pods", 0, "plain form", nil},
	{"GET", "/api/v1/watch/namespaces/shop/secrets/password", 0, "plain form", nil},
	{"GET", "/api/v1/proxy/nodes/kip-provider-0", 0, "", nil},
	{"GET", "/apis//v1/pods", 0, "", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/password?watch=true", 0, "not allowed with get", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/password?pretty=true", 0, "not allowed", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/password?a;b", 0, "query", nil},
	{"GET", "/api/v1/namespaces/shop/secrets/password?%zz", 0, "query", nil},
	{"GET", "/api/v1/pods?continue=abc", 0, "not allowed", nil},
	{"GET", "/api/v1/pods?shardSelector=x", 0, "not allowed", nil},
	{"POST", "/api/v1/namespaces/shop/events?dryRun=All", 0, "not allowed", nil},
	{"DELETE", "/api/v1/namespaces/shop/pods/web?gracePeriodSeconds=0", 0, "not allowed", nil},
	{"GET", "/api/v1/services?labelSelector=" + strings.Repeat("a", 5000), 0, "too long", nil},
	{"GET", "/api/v1/pods?watch=yes", http.StatusBadRequest, "watch", nil},
	{"GET", "/api/v1/pods?limit=-1", http.StatusBadRequest, "limit", nil},
	{"GET", "/api/v1/pods?resourceVersion=abc", http.StatusBadRequest, "resourceVersion", nil},
	{"GET", "/api/v1/pods?resourceVersion=5&resourceVersionMatch=Exact", http.StatusBadRequest, "NotOlderThan", nil},
	{"GET", "/api/v1/pods?sendInitialEvents=true", http.StatusBadRequest, "watch", nil},
	{"GET", "/api/v1/pods?watch=1&sendInitialEvents=true", http.StatusBadRequest, "NotOlderThan", nil},
	{"GET", "/api/v1/pods?timeoutSeconds=-5", http.StatusBadRequest, "timeoutSeconds", nil},
	{"GET", "/api/v1/pods?fieldSelector=%3D%3D%3D", http.StatusBadRequest, "fieldSelector", nil},
	{"GET", "/api/v1/services?labelSelector=a%20in", http.StatusBadRequest, "labelSelector", nil},
	{"HEAD", "/api/v1/pods", 0, "", nil},
	{"OPTIONS", "/api/v1/pods", 0, "method", nil},
	{"TRACE", "/api/v1/pods", 0, "method", nil},
	{"get", "/api/v1/pods", 0, "method", nil},
	{"PROPFIND", "/api/v1/namespaces/shop/secrets/password", 0, "method", nil},

	// Headers that would make it somebody else's request, or no request.
	{"GET", "/api/v1/pods", 0, "Impersonate-User", []string{"Impersonate-User", "admin"}},
	{"GET", "/api/v1/namespaces/shop/secrets/password", 0, "Impersonate-Group", []string{"impersonate-group", "system:masters"}},
	{"GET", "/api/v1/namespaces/shop/secrets/password", 0, "Impersonate-Extra-Scopes", []string{"Impersonate-Extra-Scopes", "x"}},
	{"GET", "/api/v1/pods", 0, "X-Remote-User", []string{"X-Remote-User", "admin"}},
	{"GET", "/api/v1/pods", 0, "X-Remote-Group", []string{"X-Remote-Group", "system:masters"}},
	{"GET", "/api/v1/pods", 0, "X-Http-Method-Override", []string{"X-HTTP-Method-Override", "DELETE"}},
	{"GET", "/api/v1/pods", 0, "X-Original-Url", []string{"X-Original-URL", "/api/v1/secrets"}},
	{"GET", "/api/v1/namespaces/shop/pods/web", 0, "Upgrade", []string{"Connection", "Upgrade", "Upgrade", "SPDY/3.1"}},
	{"GET", "/api/v1/pods?watch=true", 0, "Upgrade", []string{"Connection", "Upgrade", "Upgrade", "websocket"}},
	{"GET", "/api/v1/pods", http.StatusNotAcceptable, "", []string{"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"}},
	{"GET", "/api/v1/pods", http.StatusNotAcceptable, "", []string{"Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"}},
	{"GET", "/api/v1/pods", http.StatusNotAcceptable, "", []string{"Accept", "application/vnd.kubernetes.protobuf"}},
	{"GET", "/api/v1/pods", http.StatusNotAcceptable, "", []string{"Accept", "text/html"}},
}

func TestRefusals(t *testing.T) {
	h := newHarness(t)
	fillUpstream(h)
	h.State.Bind(cell, webPod())
	if len(refusedRequests) < 80 {
		t.Errorf("%d requests", len(refusedRequests))
	}
	looksUp := 0
	for _, tc := range refusedRequests {
		body := ""
		if tc.method == "POST" || tc.method == "PUT" || tc.method == "PATCH" {
			body = `{}`
		}
		h.Upstream.Take()
		code, answer := h.do(t, tc.method, tc.path, body, tc.headers...)
		want := tc.code
		if want == 0 {
			want = http.StatusForbidden
		}
		if code != want || !strings.Contains(answer, tc.says) {
			t.Errorf("%s %s %v: %d %s; want %d and %q", tc.method, tc.path, tc.headers, code, answer, want, tc.says)
		}
		var status metav1.Status
		if tc.method != "HEAD" {
			if err := json.Unmarshal([]byte(answer), &status); err != nil || status.Kind != "Status" || status.APIVersion != "v1" || int(status.Code) != code || len(status.Message) < 15 {
				t.Errorf("%s %s: the answer is no status with a sentence: %s", tc.method, tc.path, answer)
			}
		}
		for _, r := range h.Upstream.Take() {
			// A Secret may be one of a volume's: the claims of the pod are looked up.
			looksUp++
			if problem := leak(r.Method, r.Path); problem != "" || r.Method != "GET" {
				t.Errorf("%s %s: %s %s reached the API server: %s", tc.method, tc.path, r.Method, r.Path, problem)
			}
		}
	}
	if looksUp == 0 {
		t.Error("the test sees nothing at the API server, which cannot be")
	}
	if got := h.count(t, "kip_gateway_requests_total", "refused"); int(got) < 120 {
		t.Errorf("%v refusals were counted", got)
	}
}

// TestStandby: a cell without a pod is told nothing that belongs to a pod.
func TestStandby(t *testing.T) {
	h := newHarness(t)
	fillUpstream(h)
	for _, path := range []string{
		"/api/v1/namespaces/shop/secrets/password", "/api/v1/namespaces/shop/configmaps/settings",
		"/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Dpassword",
		"/api/v1/namespaces/shop/configmaps?watch=1&fieldSelector=metadata.name%3Dsettings",
		"/api/v1/namespaces/shop/persistentvolumeclaims/data", "/api/v1/persistentvolumes/pv-data",
		"/apis/storage.k8s.io/v1/volumeattachments/csi-own",
	} {
		if code, body := h.do(t, "GET", path, ""); code != 403 || !strings.Contains(body, "this cell has no pod") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	for _, path := range []string{"/api/v1/namespaces/shop/serviceaccounts/seller/token", "/api/v1/namespaces/shop/events"} {
		if code, body := h.do(t, "POST", path, `{"type":"Normal"}`); code != 403 {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if requests := h.Upstream.Requests(); len(requests) > 0 {
		t.Errorf("at the API server: %v", requests)
	}
}

// TestMetricLabelsAreBounded: what a cell sends makes no labels.
func TestMetricLabelsAreBounded(t *testing.T) {
	h := newHarness(t)
	for i := range 50 {
		h.do(t, "GET", fmt.Sprintf("/apis/group%d.example.com/v1/things%d", i, i), "")
		h.do(t, "GET", fmt.Sprintf("/api/v1/nodes/n/sub%d", i), "")
		h.do(t, fmt.Sprintf("VERB%d", i), "/api/v1/pods", "")
	}
	families, err := h.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if n := len(f.GetMetric()); n > 10 {
			t.Errorf("%s has %d series", f.GetName(), n)
		}
	}
}
