package gateway_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/agent/watches"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/gateway/gatewaytest"
)

const (
	node = "kip-provider-0"
	cell = "cell-1"
	ns   = "shop"
)

// harness is a gateway with all that is around it.
type harness struct {
	State        *gatewaytest.State
	Sink         *gatewaytest.Sink
	Registries   *gatewaytest.Registries
	PodMetrics   *gatewaytest.PodMetrics
	CacheReports *cacheReports
	Upstream     *gatewaytest.Upstream
	Shared       *fake.Clientset
	Metrics      *prometheus.Registry
	Gateway      *gateway.Gateway
	Config       gateway.Config
	// URL is where the cell's kubelet finds its API server.
	URL string
	// Stream has clients' watches go on one stream, as a cell's agent does it.
	Stream bool

	server  *httptest.Server
	handler atomic.Pointer[http.Handler]
}

// newHarness makes a gateway with one cell, standby, and runs it.
func newHarness(t testing.TB, with ...func(*gateway.Config)) *harness {
	t.Helper()
	h := &harness{
		State:        &gatewaytest.State{},
		Registries:   &gatewaytest.Registries{},
		PodMetrics:   &gatewaytest.PodMetrics{},
		CacheReports: &cacheReports{},
		Upstream:     gatewaytest.NewUpstream(t),
		Shared:       fake.NewClientset(),
	}
	h.Sink = &gatewaytest.Sink{State: h.State}
	h.State.SetCell(standbyCell())
	h.Config = gateway.Config{
		State: h.State, Sink: h.Sink, Registries: h.Registries, PodMetrics: h.PodMetrics, CacheReports: h.CacheReports, Upstream: h.Upstream.Config(), Client: h.Shared,
		Clock: clock.RealClock{},
	}
	for _, f := range with {
		f(&h.Config)
	}
	h.start(t)
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*h.handler.Load()).ServeHTTP(w, r) }))
	t.Cleanup(func() { h.server.CloseClientConnections(); h.server.Close() })
	h.URL = h.server.URL
	return h
}

// start makes and runs a gateway, as Kip does when it starts.
func (h *harness) start(t testing.TB) {
	t.Helper()
	h.Metrics = prometheus.NewRegistry()
	h.Config.Metrics = h.Metrics
	g, err := gateway.New(h.Config)
	if err != nil {
		t.Fatal(err)
	}
	handler := g.ForCell(cell)
	h.Gateway = g
	h.handler.Store(&handler)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// closeConnections ends all requests, as the end of Kip does.
func (h *harness) closeConnections() { h.server.CloseClientConnections() }

// client is what a kubelet talks with. protobuf makes it send that.
func (h *harness) client(t testing.TB, protobuf bool) kubernetes.Interface {
	t.Helper()
	config := &rest.Config{Host: h.URL, QPS: -1}
	if h.Stream {
		config.WrapTransport = func(way http.RoundTripper) http.RoundTripper { return h.agent(t, way) }
	}
	if protobuf {
		config.ContentType = "application/vnd.kubernetes.protobuf"
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// agent is the way to the gateway as a cell's agent goes it.
func (h *harness) agent(t testing.TB, way http.RoundTripper) *watches.Transport {
	t.Helper()
	target, err := url.Parse(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	agent := watches.New(roundTripper(func(r *http.Request) (*http.Response, error) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = target.Scheme, target.Host
		return way.RoundTrip(out)
	}), slog.New(slog.DiscardHandler))
	t.Cleanup(agent.Close)
	return agent
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// do sends a request as it is given and returns the answer.
func (h *harness) do(t testing.TB, method, path, body string, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, h.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	// Opaque goes onto the wire as it is.
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path, r.URL.RawQuery = path[:i], path[i+1:]
	}
	r.URL.Opaque = path
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// count is a counter or gauge of the gateway, summed over the series whose
// labels have all of the given values.
func (h *harness) count(t testing.TB, name string, values ...string) float64 {
	t.Helper()
	families, err := h.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	series:
		for _, m := range family.GetMetric() {
		next:
			for _, value := range values {
				for _, label := range m.GetLabel() {
					if label.GetValue() == value {
						continue next
					}
				}
				continue series
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s in vain for: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func standbyCell() gateway.Cell {
	return gateway.Cell{
		Name:     cell,
		NodeName: node,
		Capacity: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("2"),
			corev1.ResourceMemory: resource.MustParse("3500Mi"),
			corev1.ResourcePods:   resource.MustParse("1"),
		},
		InternalIP: "10.98.0.10",
		PodIP:      "10.98.0.11",
		Labels:     map[string]string{"type": "virtual-kubelet", corev1.LabelInstanceTypeStable: "t3.medium", corev1.LabelArchStable: "amd64"},
	}
}

// webPod is a pod that refers to a thing of every kind.
func webPod() *corev1.Pod {
	seconds := int64(7200)
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: "web", UID: "11111111-2222-3333-4444-555555555555", ResourceVersion: "5",
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		},
		Spec: corev1.PodSpec{
			NodeName:           node,
			ServiceAccountName: "seller",
			ImagePullSecrets:   []corev1.LocalObjectReference{{Name: "pull"}},
			Containers: []corev1.Container{{
				Name: "web", Image: "registry.example.com/web:1",
				Env: []corev1.EnvVar{{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{
					SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "password"}, Key: "p"},
				}}},
				EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}},
			}},
			Volumes: []corev1.Volume{
				{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "vault", Audience: "vault", ExpirationSeconds: &seconds}},
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
				}}}},
				{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
				{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
				{Name: "vault", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "secrets.example.com"}}},
			},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodPending, QOSClass: corev1.PodQOSBestEffort,
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
				{Type: "kip.elotl.co/CellReady", Status: corev1.ConditionTrue, Reason: "Enrolled"},
			},
		},
	}
}
