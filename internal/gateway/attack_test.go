package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/gateway/gatewaytest"
)

// target is a gateway whose API server is a function: quick enough for a
// million requests.
type target struct {
	t       testing.TB
	clock   *clocktesting.FakeClock
	state   *gatewaytest.State
	handler http.Handler
	h       *harness

	mu       sync.Mutex
	reached  int
	problems []string
	made     map[string]bool // events that the cell has made, by path
	objects  map[string][]byte
}

// neighboursWord is in all that Kip knows of another cell of the same node.
const neighboursWord = "neighbours-own"

func newTarget(t testing.TB) *target {
	tg := &target{t: t, clock: clocktesting.NewFakeClock(time.Now()), made: map[string]bool{}, objects: map[string][]byte{}}
	h := newHarness(t, func(c *gateway.Config) {
		c.Clock = tg.clock
		c.Upstream = &rest.Config{Host: "http://api.example.com", Transport: tg}
	})
	fillUpstream(h)
	put(h, "/api/v1/nodes/"+node, &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{neighboursWord: ""}},
		Status: corev1.NodeStatus{VolumesAttached: []corev1.AttachedVolume{
			{Name: "kubernetes.io/csi/disk.example.com^vol-pv-data"}, {Name: "kubernetes.io/csi/disk.example.com^vol-" + neighboursWord},
		}},
	})
	for path, object := range h.Upstream.Objects() {
		data, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		tg.objects[path] = data
	}
	h.State.Bind(cell, webPod())
	neighbour := webPod()
	neighbour.Name, neighbour.UID = neighboursWord, neighboursWord
	h.State.Bind("cell-"+neighboursWord, neighbour)
	tg.h, tg.state, tg.handler = h, h.State, h.Gateway.ForCell(cell)
	// Fill the caches, so that nothing waits for them.
	for _, path := range []string{"/api/v1/services", "/apis/storage.k8s.io/v1/csidrivers", "/apis/discovery.k8s.io/v1/endpointslices", "/apis/node.k8s.io/v1/runtimeclasses", "/apis/networking.k8s.io/v1/servicecidrs"} {
		if code, body := h.do(t, "GET", path, ""); code != 200 {
			t.Fatal(path, code, body)
		}
	}
	return tg
}

// RoundTrip is the API server. It judges everything that reaches it.
func (tg *target) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	tg.mu.Lock()
	defer tg.mu.Unlock()
	tg.reached++
	if problem := tg.judge(r, body); problem != "" {
		tg.problems = append(tg.problems, fmt.Sprintf("%s %s %s: %s", r.Method, r.URL, body, problem))
	}
	code, answer := http.StatusNotFound, []byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
	if r.Method == http.MethodPost {
		code, answer = http.StatusCreated, body
	} else if object, ok := tg.objects[r.URL.Path]; ok {
		code, answer = http.StatusOK, object
	}
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(answer)), Request: r}, nil
}

// judge says what is wrong with a request that has reached the API server.
func (tg *target) judge(r *http.Request, body []byte) string {
	if r.URL.EscapedPath() != r.URL.Path || r.URL.Host != "api.example.com" || r.Host != "api.example.com" {
		return "the path or host"
	}
	if problem := leakWithQuery(r.Method, r.URL.Path, r.URL.Query()); problem != "" {
		return problem
	}
	for key, values := range r.Header {
		want := map[string]string{"Accept": "application/json", "Impersonate-User": "system:node:" + node, "Impersonate-Group": "system:nodes"}[key]
		switch {
		case key == "User-Agent":
		case key == "Content-Type" && r.Method != http.MethodGet && len(values) == 1:
		case len(values) != 1 || values[0] != want:
			return fmt.Sprintf("the header %s: %q", key, values)
		}
	}
	if r.Header.Get("Impersonate-User") == "" {
		return "it is not the node's"
	}
	if r.Method == http.MethodGet {
		if len(body) > 0 {
			return "a body"
		}
		return ""
	}
	return tg.judgeBody(r, body)
}

func (tg *target) judgeBody(r *http.Request, body []byte) string {
	pod := webPod()
	canonical := func(object runtime.Object) string {
		if err := json.Unmarshal(body, object); err != nil {
			return err.Error()
		}
		if again, _ := json.Marshal(object); !bytes.Equal(again, body) {
			return "the body says more than it seems to"
		}
		return ""
	}
	about := func(ref corev1.ObjectReference) bool {
		return ref.Kind == "Pod" && ref.UID == pod.UID && ref.Name == pod.Name && ref.Namespace == pod.Namespace
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/token"):
		var tr authenticationv1.TokenRequest
		if problem := canonical(&tr); problem != "" {
			return problem
		}
		bound := tr.Spec.BoundObjectRef
		if bound == nil || bound.Kind != "Pod" || bound.UID != pod.UID || bound.Name != pod.Name {
			return "a token that is not bound to the pod"
		}
		if len(tr.Spec.Audiences) > 1 || (len(tr.Spec.Audiences) == 1 && tr.Spec.Audiences[0] != "vault" && tr.Spec.Audiences[0] != "") {
			return "a token for another audience"
		}
		if s := tr.Spec.ExpirationSeconds; s == nil || *s < 600 || *s > 7200 {
			return "a token for too long"
		}
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/api/"):
		var e corev1.Event
		if problem := canonical(&e); problem != "" {
			return problem
		}
		if !about(e.InvolvedObject) || e.Namespace != ns || e.Source.Component != "kubelet" || e.Source.Host != node || e.ReportingInstance != node {
			return "an event that is not the kubelet's about the pod"
		}
		tg.made[r.URL.Path+"/"+e.Name] = true
	case r.Method == http.MethodPost:
		var e eventsv1.Event
		if problem := canonical(&e); problem != "" {
			return problem
		}
		if !about(e.Regarding) || e.Namespace != ns || e.ReportingController != "kubelet" || e.ReportingInstance != node {
			return "an event that is not the kubelet's about the pod"
		}
		tg.made[r.URL.Path+"/"+e.Name] = true
	default:
		var patch map[string]any
		if err := json.Unmarshal(body, &patch); err != nil {
			return err.Error()
		}
		keys := map[string]bool{"status": true, "metadata": true}
		if strings.Contains(r.URL.Path, "/events/") {
			keys = map[string]bool{"count": true, "lastTimestamp": true, "message": true, "series": true}
			if !tg.made[r.URL.Path] {
				return "a change of an event that is not the cell's"
			}
		}
		for key := range patch {
			if !keys[key] {
				return "a patch of " + key
			}
		}
	}
	return ""
}

// hangUp is a ResponseWriter whose client hangs up when a stream starts.
type hangUp struct {
	header http.Header
	code   int
	body   bytes.Buffer
	cancel context.CancelFunc
}

func (w *hangUp) Header() http.Header { return w.header }
func (w *hangUp) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
}
func (w *hangUp) Write(data []byte) (int, error) { w.WriteHeader(200); return w.body.Write(data) }
func (w *hangUp) Flush()                         { w.cancel() }

// attack sends one request, as bytes on the wire, and returns the code of the
// answer; 0 if it is no HTTP request at all.
func (tg *target) attack(raw []byte) int {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		return 0
	}
	tg.clock.SetTime(tg.clock.Now().Add(30 * time.Second)) // the cell's budgets are full again
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w := &hangUp{header: http.Header{}, cancel: cancel}
	tg.handler.ServeHTTP(w, r.WithContext(ctx))

	tg.mu.Lock()
	defer tg.mu.Unlock()
	for _, problem := range tg.problems {
		tg.t.Errorf("reached the API server: %s\nrequest: %q", problem, raw)
	}
	tg.problems = nil
	if w.code < 200 || w.code == 500 {
		tg.t.Errorf("the answer is %d %s\nrequest: %q", w.code, w.body.String(), raw)
	}
	for _, secret := range []string{"api.example.com", "goroutine ", neighboursWord} {
		if bytes.Contains(w.body.Bytes(), []byte(secret)) && !bytes.Contains(raw, []byte(secret)) {
			tg.t.Errorf("the answer tells %q: %s\nrequest: %q", secret, w.body.String(), raw)
		}
	}
	return w.code
}

// shape is a request that can be bent.
type shape struct {
	method, path string
	query        []string
	headers      []string
	body         string
}

func (s shape) raw() []byte {
	var b bytes.Buffer
	target := s.path
	if len(s.query) > 0 {
		target += "?" + strings.Join(s.query, "&")
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: kip\r\n", s.method, target)
	for _, h := range s.headers {
		b.WriteString(h + "\r\n")
	}
	if s.body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(s.body))
	}
	b.WriteString("\r\n" + s.body)
	return b.Bytes()
}

const podRef = `"kind":"Pod","apiVersion":"v1","namespace":"shop","name":"web","uid":"11111111-2222-3333-4444-555555555555"`

// goodShapes are requests that are allowed, of every row.
func goodShapes(t testing.TB) []shape {
	const jsonType, strategic = "Content-Type: application/json", "Content-Type: application/strategic-merge-patch+json"
	const shop = "/api/v1/namespaces/shop/"
	shapes := []shape{
		{"GET", "/api/v1/pods", []string{"fieldSelector=spec.nodeName%3Dkip-provider-0", "resourceVersion=0", "limit=500"}, nil, ""},
		{"GET", "/api/v1/pods", []string{"watch=true", "allowWatchBookmarks=true", "sendInitialEvents=true", "resourceVersionMatch=NotOlderThan", "fieldSelector=spec.nodeName%3Dkip-provider-0", "timeoutSeconds=300"}, nil, ""},
		{"GET", shop + "pods/web", nil, []string{"Accept: application/json"}, ""},
		{"PATCH", shop + "pods/web/status", nil, []string{strategic}, `{"metadata":{"uid":"11111111-2222-3333-4444-555555555555"},"status":{"phase":"Running","podIP":"10.98.0.11"}}`},
		{"PUT", shop + "pods/web/status", nil, []string{jsonType}, `{` + podRef + `,"metadata":{"name":"web","namespace":"shop","uid":"11111111-2222-3333-4444-555555555555"}}`},
		{"DELETE", shop + "pods/web", nil, []string{jsonType}, `{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0,"preconditions":{"uid":"11111111-2222-3333-4444-555555555555"}}`},
		{"GET", "/api/v1/nodes/kip-provider-0", []string{"timeout=10s"}, nil, ""},
		{"GET", "/api/v1/nodes", []string{"fieldSelector=metadata.name%3Dkip-provider-0", "watch=1"}, nil, ""},
		{"PATCH", "/api/v1/nodes/kip-provider-0/status", nil, []string{strategic}, `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`},
		{"GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/kip-provider-0", nil, nil, ""},
		{"POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", nil, []string{jsonType}, `{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"kip-provider-0"},"spec":{"holderIdentity":"x"}}`},
		{"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/kip-provider-0", nil, []string{jsonType}, `{"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"kip-provider-0"}}`},
		{"POST", "/apis/storage.k8s.io/v1/csinodes", nil, []string{jsonType}, `{"metadata":{"name":"kip-provider-0"},"spec":{"drivers":null}}`},
		{"PATCH", "/apis/storage.k8s.io/v1/csinodes/kip-provider-0", nil, []string{strategic}, `{"spec":{"drivers":[{"name":"a","nodeID":"b"}]}}`},
		{"DELETE", "/apis/resource.k8s.io/v1/resourceslices", []string{"fieldSelector=spec.nodeName%3Dkip-provider-0"}, []string{jsonType}, `{}`},
		{"GET", shop + "secrets/password", nil, []string{"Accept: application/vnd.kubernetes.protobuf, */*"}, ""},
		{"GET", shop + "secrets", []string{"fieldSelector=metadata.name%3Dpassword", "resourceVersion=0"}, nil, ""},
		{"GET", shop + "secrets", []string{"watch=true", "fieldSelector=metadata.name%3Dpull", "resourceVersion=7", "allowWatchBookmarks=true", "timeoutSeconds=3000"}, nil, ""},
		{"GET", shop + "configmaps/settings", nil, nil, ""},
		{"GET", shop + "configmaps", []string{"watch=true", "fieldSelector=metadata.name%3Dkube-root-ca.crt", "sendInitialEvents=true", "resourceVersionMatch=NotOlderThan"}, nil, ""},
		{"GET", shop + "persistentvolumeclaims/data", nil, nil, ""},
		{"PATCH", shop + "persistentvolumeclaims/data/status", nil, []string{strategic}, `{"metadata":{"resourceVersion":"1"},"status":{"capacity":{"storage":"1Gi"}}}`},
		{"GET", "/api/v1/persistentvolumes/pv-data", nil, nil, ""},
		{"GET", "/apis/storage.k8s.io/v1/volumeattachments/csi-own", nil, nil, ""},
		{"GET", "/api/v1/namespaces/storage/secrets/stage-pv-data", nil, nil, ""},
		{"POST", shop + "serviceaccounts/seller/token", nil, []string{jsonType}, `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{"audiences":["vault"],"expirationSeconds":3600,"boundObjectRef":{` + podRef + `}}}`},
		{"POST", shop + "events", nil, []string{jsonType}, `{"kind":"Event","apiVersion":"v1","metadata":{"name":"web.1","namespace":"shop"},"involvedObject":{` + podRef + `},"reason":"Started","type":"Normal","source":{"component":"kubelet"}}`},
		{"PATCH", shop + "events/web.1", nil, []string{strategic}, `{"count":2,"message":"again"}`},
		{"POST", "/apis/events.k8s.io/v1/namespaces/shop/events", nil, []string{jsonType}, `{"kind":"Event","apiVersion":"events.k8s.io/v1","metadata":{"name":"web.2","namespace":"shop"},"regarding":{` + podRef + `},"reason":"a","action":"b","type":"Normal","eventTime":"2026-01-01T00:00:00.000000Z"}`},
		{"PATCH", "/apis/events.k8s.io/v1/namespaces/shop/events/web.2", nil, []string{strategic}, `{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:00.000000Z"}}`},
		{"GET", "/api/v1/services", []string{"fieldSelector=spec.clusterIP%21%3DNone", "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name"}, nil, ""},
		{"GET", "/apis/discovery.k8s.io/v1/endpointslices", []string{"watch=true"}, nil, ""},
		{"GET", "/apis/networking.k8s.io/v1/servicecidrs", nil, nil, ""},
		{"GET", "/apis/node.k8s.io/v1/runtimeclasses", nil, nil, ""},
		{"GET", "/apis/storage.k8s.io/v1/csidrivers", nil, nil, ""},
		{"POST", "/kip/v1/interruption", nil, []string{jsonType}, `{"kind":"spot-interruption","action":"terminate","time":"2026-01-01T00:00:00Z"}`},
		{"POST", "/kip/v1/registry-credentials", nil, []string{jsonType}, registryQuestion("registry.example.com/web")},
		{"POST", "/kip/v1/image-cache/grant", nil, []string{jsonType}, question("registry.example.com/web:1")},
	}
	// The same token and event as protobuf.
	for path, object := range map[string]runtime.Object{
		shop + "serviceaccounts/seller/token": &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "web", UID: webPod().UID}}},
		shop + "events": podEvent("web.3"),
	} {
		info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
		if !ok {
			t.Fatal("no protobuf")
		}
		group := corev1.SchemeGroupVersion
		if strings.HasSuffix(path, "token") {
			group = authenticationv1.SchemeGroupVersion
		}
		data, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, group), object)
		if err != nil {
			t.Fatal(err)
		}
		shapes = append(shapes, shape{"POST", path, nil, []string{"Content-Type: " + runtime.ContentTypeProtobuf}, string(data)})
	}
	return shapes
}

var (
	words = []string{
		"api", "apis", "v1", "v1beta1", "v2", "namespaces", "shop", "bank", "kube-system", "storage", "default", "pods", "web", "api", "secrets", "password", "other", "pull",
		"configmaps", "settings", "nodes", "kip-provider-0", "node-7", "status", "token", "exec", "log", "proxy", "watch", "eviction", "serviceaccounts", "seller", "admin",
		"persistentvolumes", "pv-data", "pv-other", "pv-stolen", "persistentvolumeclaims", "data", "volumeattachments", "csi-own", "csi-other", "events", "web.1", "services", "leases", "csinodes",
		"apps", "deployments", "stage-pv-data", "controller-pv-data", "storage.k8s.io", "events.k8s.io", "coordination.k8s.io", "rbac.authorization.k8s.io", "clusterroles",
		"", ".", "..", "...", "%2e", "%2e%2e", "%2E%2E", "%2f", "%2F..%2F", "%00", "%0a", "%0d%0a", "%25", "%252e%252e", "%c0%ae", ";", ";x=y", "*", "~", "\\", "..\\", "@", "a:b", "?", "#x", " ", "é",
	}
	methodWords = []string{"GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "get", "WATCH", "PROPFIND"}
	queryWords  = []string{
		"watch=true", "watch=false", "watch=1", "watch", "watch=TRUE", "follow=true", "pretty=true", "dryRun=All", "dryRun=", "force=true", "fieldManager=x", "fieldValidation=Strict",
		"fieldSelector=", "fieldSelector=metadata.name%3Dother", "fieldSelector=metadata.name%3Dpassword", "fieldSelector=metadata.name%3D%3Dpassword", "fieldSelector=metadata.name%21%3Dpassword",
		"fieldSelector=metadata.name%3Dpassword%2Cmetadata.name%3Dother", "fieldSelector=metadata.name%3Dpassword%5C%2Cother", "fieldSelector=spec.nodeName%3Dnode-7", "fieldSelector=metadata.namespace%3Dbank",
		"fieldSelector=metadata.name%3D..%2Fother", "fieldSelector=%00", "labelSelector=a%3Db", "labelSelector=a+in+(b,c)", "labelSelector=", "labelSelector=%28", "limit=1", "limit=-1", "continue=x",
		"resourceVersion=", "resourceVersion=0", "resourceVersion=1", "resourceVersion=99999999999999999999", "resourceVersion=abc", "resourceVersionMatch=Exact", "resourceVersionMatch=NotOlderThan",
		"sendInitialEvents=true", "sendInitialEvents=false", "allowWatchBookmarks=true", "timeoutSeconds=1", "timeoutSeconds=0", "timeoutSeconds=999999999999", "timeoutSeconds=-1", "timeout=1s", "timeout=x",
		"container=web", "command=sh", "stdin=true", "gracePeriodSeconds=0", "propagationPolicy=Foreground", "orphanDependents=true", "a;b=c", "%zz", "&&", "=", "watch=true&watch=false", "shardSelector=x", "includeObject=None",
	}
	headerWords = []string{
		"Impersonate-User: admin", "impersonate-group: system:masters", "Impersonate-Uid: 0", "Impersonate-Extra-a: b", "X-Remote-User: admin", "X-Remote-Group: system:masters", "Authorization: Bearer x",
		"Connection: Upgrade", "Upgrade: websocket", "Upgrade: SPDY/3.1", "Connection: close, upgrade", "Transfer-Encoding: chunked", "Content-Length: 5", "Expect: 100-continue", "Trailer: X-A", "TE: trailers",
		"X-HTTP-Method-Override: DELETE", "X-Original-URL: /api/v1/secrets", "X-Forwarded-Host: evil", "Host: evil", "Accept: application/json;as=Table", "Accept: application/yaml", "Accept: */*", "Accept: ,,,", "Accept-Encoding: gzip",
		"Content-Type: application/json", "Content-Type: application/yaml", "Content-Type: application/vnd.kubernetes.protobuf", "Content-Type: application/cbor", "Content-Type: application/json-patch+json",
		"Content-Type: application/merge-patch+json", "Content-Type: application/strategic-merge-patch+json", "Content-Type: application/apply-patch+yaml", "Content-Type: text/plain; charset=x", "Content-Type: ;;", "Content-Encoding: gzip",
		"Cookie: a=b", "Range: bytes=0-1", "If-None-Match: *", "Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.eA", "X-A: b",
	}
	bodyWords = []string{
		`"kind":"Secret"`, `"name":"other"`, `"name":"api"`, `"namespace":"bank"`, `"uid":"x"`, `"uid":null`, `"audiences":["bank"]`, `"audiences":["vault","bank"]`, `"audiences":null`, `"expirationSeconds":999999999`, `"expirationSeconds":0`,
		`"boundObjectRef":null`, `"$patch":"replace"`, `"$patch":"delete"`, `"$retainKeys":["status"]`, `"$deleteFromPrimitiveList/x":[1]`, `"$setElementOrder/conditions":[{"type":"Ready"}]`, `"metadata":null`, `"metadata":{}`, `"metadata":[]`, `"status":null`, `"spec":{"nodeName":"x"}`,
		`"spec":null`, `"status":{"podIP":"1.2.3.4"}`, `"status":{"conditions":[{"type":"Ready","$patch":"delete"}]}`, `"involvedObject":{"kind":"Node","name":"kip-provider-0"}`, `"regarding":null`, `"apiVersion":"v2"`, `"count":-1`, `"message":null`, `"type":"Warning"`, `"labels":{"a":"b"}`, `"ownerReferences":[{"uid":"x"}]`, `"a":1e999`, `"\ud800":1`, `"reason":"é"`,
	}
)

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

// bend changes a request a little.
func bend(r *rand.Rand, s shape) shape {
	parts := strings.Split(s.path, "/")
	at := func() int { return 1 + r.IntN(len(parts)-1) }
	switch r.IntN(14) {
	case 0, 1:
		parts[at()] = pick(r, words)
	case 2:
		i := at()
		parts = append(parts[:i], append([]string{pick(r, words)}, parts[i:]...)...)
	case 3:
		i := at()
		if len(parts) > 2 {
			parts = append(parts[:i], parts[i+1:]...)
		}
	case 4: // another spelling of a part
		i := at()
		if p := parts[i]; p != "" {
			j := r.IntN(len(p))
			switch r.IntN(4) {
			case 0:
				parts[i] = p[:j] + fmt.Sprintf("%%%02x", p[j]) + p[j+1:]
			case 1:
				parts[i] = p[:j] + fmt.Sprintf("%%25%02x", p[j]) + p[j+1:]
			case 2:
				parts[i] = p[:j] + strings.ToUpper(p[j:])
			default:
				parts[i] = p + pick(r, words)
			}
		}
	case 5:
		s.method = pick(r, methodWords)
	case 6, 7:
		s.query = append(append([]string(nil), s.query...), pick(r, queryWords))
	case 8:
		if len(s.query) > 0 {
			s.query = append([]string(nil), s.query...)
			s.query[r.IntN(len(s.query))] = pick(r, queryWords)
		}
	case 9:
		s.headers = append(append([]string(nil), s.headers...), pick(r, headerWords))
	case 10:
		s.headers = []string{pick(r, headerWords)}
	case 11, 12:
		s.body = bendBody(r, s.body)
	default: // an absolute or otherwise odd target
		return shape{s.method, pick(r, []string{"http://kip", "https://evil.example.com", "//evil", "*", "kip:443"}) + s.path, s.query, s.headers, s.body}
	}
	s.path = strings.Join(parts, "/")
	return s
}

// hugeBody is more than any row takes.
var hugeBody = `{"status":{"message":"` + strings.Repeat("x", 4<<20) + `"}}`

func bendBody(r *rand.Rand, body string) string {
	if body == "" || r.IntN(12) == 0 {
		return pick(r, []string{"{}", "[]", "null", "\"x\"", "{", strings.Repeat("[", 20000), "k8s\x00", "\x00", strings.Repeat(" ", 100) + "{}", `{"metadata":{"name":"` + strings.Repeat("x", 70<<10) + `"}}`, hugeBody})
	}
	switch r.IntN(4) {
	case 0: // a word in place of a value
		fields := strings.Split(body, ",")
		fields[r.IntN(len(fields))] = pick(r, bodyWords)
		return strings.Join(fields, ",")
	case 1: // one more field, somewhere
		if i := strings.IndexByte(body[r.IntN(len(body)):], '{'); i >= 0 {
			return body[:i+1] + pick(r, bodyWords) + "," + body[i+1:]
		}
	case 2: // noise
		b := []byte(body)
		for range 1 + r.IntN(3) {
			b[r.IntN(len(b))] = byte(r.IntN(256))
		}
		return string(b)
	}
	return body[:r.IntN(len(body)+1)]
}

// TestAttack sends many bent requests and sees that nothing reaches the API
// server that may not, nor anything of another cell the attacker.
// KIP_GATEWAY_REQUESTS says how many, KIP_GATEWAY_SEED which; make attack sends
// a million.
func TestAttack(t *testing.T) {
	n, seed := 20_000, uint64(1)
	if s := os.Getenv("KIP_GATEWAY_REQUESTS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("KIP_GATEWAY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	tg := newTarget(t)
	shapes := goodShapes(t)
	for _, s := range shapes {
		if code := tg.attack(s.raw()); code == 0 || code == 403 || code >= 500 {
			t.Errorf("a good request got %d: %s", code, s.raw())
		}
		tg.restore()
	}
	r := rand.New(rand.NewPCG(seed, 2))
	codes := map[int]int{}
	for i := range n {
		s := shapes[r.IntN(len(shapes))]
		for range 1 + r.IntN(4) {
			s = bend(r, s)
		}
		codes[tg.attack(s.raw())]++
		if i%100 == 0 {
			tg.restore()
		}
		if t.Failed() {
			t.Fatalf("at request %d", i)
		}
	}
	if tg.reached < n/100 || codes[413] == 0 || codes[403] < n/4 || codes[200] < n/50 {
		t.Errorf("the requests test little: %d reached the API server, answers by code %v", tg.reached, codes)
	}
	if got := tg.h.count(t, "kip_gateway_requests_total", "panicked"); got != 0 {
		t.Errorf("%v panics", got)
	}
	t.Logf("%d requests, %d reached the API server, answers by code %v", n, tg.reached, codes)
}

// restore gives the cell its pod again, in its first state and being deleted,
// and forgets what its kubelet has written.
func (tg *target) restore() {
	pod := webPod()
	now := metav1.Now()
	pod.DeletionTimestamp = &now
	tg.state.Bind(cell, pod)
}

// FuzzRequest lets the fuzzing engine find requests.
func FuzzRequest(f *testing.F) {
	for _, s := range goodShapes(f) {
		f.Add(s.raw())
	}
	for _, tc := range refusedRequests {
		f.Add(shape{method: tc.method, path: tc.path}.raw())
	}
	tg := newTarget(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		tg.t = t
		tg.restore()
		tg.attack(raw)
	})
}
