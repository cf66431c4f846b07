package hollowcell

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/elotl/kip/v2/internal/ec2local/imds"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/gateway/gatewaytest"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
	"github.com/elotl/kip/v2/internal/userdata"
)

const (
	cellName = "web-1"
	node     = "kip-provider-0"
	id       = "i-0123456789abcdef0"
)

// The cell's addresses: all of 127.0.0.0/8 is every machine's own.
var primary, podAddress = netip.MustParseAddr("127.98.0.4"), netip.MustParseAddr("127.98.0.5")

// TestCell: to the real gateway a hollow cell is a cell, whose every request it
// allows, from enrolment to the end of its pod.
func TestCell(t *testing.T) {
	authority, err := pki.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	token := authority.EnrolmentToken("uid")
	data, err := userdata.Encode(userdata.Document{
		Cell: cellName, CACertificates: string(authority.CertificatePEM()), EnrolmentToken: token,
		Node: userdata.Node{Name: node},
	})
	if err != nil {
		t.Fatal(err)
	}
	metadata := httptest.NewServer(imds.New(imds.Config{
		Lookup: func(from netip.Addr) (imds.Instance, bool) {
			return imds.Instance{
				Enabled: true, ResponseHopLimit: 1, ID: id, UserData: data, MAC: "02:00:00:00:00:01",
				PrivateIPs: []netip.Addr{primary, podAddress}, SubnetCIDR: netip.MustParsePrefix("127.98.0.0/20"),
			}, from == primary
		},
		Now: time.Now, Log: slog.New(slog.DiscardHandler),
	}))
	defer metadata.Close()
	h := New(Config{Metadata: metadata.URL, Logger: slog.Default()})
	defer h.Close()
	spec := machine.Spec{ID: id, NIC: machine.NIC{PrimaryIP: netip.PrefixFrom(primary, 20)}}
	for range 2 { // the second changes nothing
		if err := h.Start(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}

	k := newKip(t, authority)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "7"},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "default", Containers: []corev1.Container{{Name: "web", Image: "web"}},
			Volumes: []corev1.Volume{{Name: "account", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: new(int64(3607))}},
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
				},
			}}}},
		},
	}
	k.state.SetCell(gateway.Cell{Name: cellName, NodeName: node, InternalIP: primary.String(), PodIP: podAddress.String()})
	k.state.Bind(cellName, pod)
	k.connect(t, net.JoinHostPort(primary.String(), "6421"), token)

	k.await(t, "the pod to run", func() bool { return k.state.Pod(cellName).Status.Phase == corev1.PodRunning })
	if got := k.state.Pod(cellName).Status.PodIP; got != podAddress.String() {
		t.Errorf("the pod has the address %s", got)
	}
	k.await(t, "a heartbeat", func() bool { return k.sink.Heartbeats(cellName) > 0 })
	k.await(t, "all watches", func() bool { return k.count(t, "kip_gateway_watches", "") == 10 })

	now := metav1.Now()
	ending := k.state.Pod(cellName).DeepCopy()
	ending.DeletionTimestamp = &now
	k.state.SetPod(cellName, ending)
	k.await(t, "the pod's end", func() bool { return len(k.sink.Terminated()) == 1 })

	var phases []corev1.PodPhase
	for _, s := range k.sink.Statuses() {
		phases = append(phases, s.Phase)
	}
	if diff := cmp.Diff([]corev1.PodPhase{corev1.PodPending, corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded}, phases); diff != "" {
		t.Errorf("phases that were told (-want +got):\n%s", diff)
	}
	var asked []string
	for _, r := range k.upstream.Requests() {
		asked = append(asked, r.Method+" "+r.Path)
	}
	for _, want := range []string{
		"POST /api/v1/namespaces/shop/serviceaccounts/default/token", "GET /api/v1/namespaces/shop/configmaps",
		"POST /api/v1/namespaces/shop/events",
	} {
		if !slices.Contains(asked, want) {
			t.Errorf("nobody asked the API server to %s", want)
		}
	}
	if n := k.count(t, "kip_gateway_requests_total", "refused"); n != 0 {
		t.Errorf("the gateway refused %g requests", n)
	}

	if err := h.PowerOff(t.Context(), id, false); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.Dial("tcp", net.JoinHostPort(primary.String(), "6421")); err == nil {
		conn.Close()
		t.Error("a machine that is off listens")
	}
}

// TestBroken: a machine whose user data is none ends by itself.
func TestBroken(t *testing.T) {
	metadata := httptest.NewServer(imds.New(imds.Config{
		Lookup: func(netip.Addr) (imds.Instance, bool) {
			return imds.Instance{
				Enabled: true, ResponseHopLimit: 1, ID: id, UserData: []byte("#!/bin/sh"), MAC: "02:00:00:00:00:01",
				PrivateIPs: []netip.Addr{primary, podAddress}, SubnetCIDR: netip.MustParsePrefix("127.98.0.0/20"),
			}, true
		},
		Now: time.Now, Log: slog.New(slog.DiscardHandler),
	}))
	defer metadata.Close()
	h := New(Config{Metadata: metadata.URL, Logger: slog.New(slog.DiscardHandler)})
	defer h.Close()
	if err := h.Start(t.Context(), machine.Spec{ID: id, NIC: machine.NIC{PrimaryIP: netip.PrefixFrom(primary, 20)}}); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-h.Exited():
		if got != id {
			t.Errorf("%s exited", got)
		}
	case <-time.After(time.Minute):
		t.Fatal("the machine lives")
	}
}

// kip is what the cell meets: the gateway, and the dialler that connects it.
type kip struct {
	authority *pki.Authority
	state     *gatewaytest.State
	sink      *gatewaytest.Sink
	upstream  *gatewaytest.Upstream
	metrics   *prometheus.Registry
	gateway   *gateway.Gateway
}

func newKip(t *testing.T, authority *pki.Authority) *kip {
	t.Helper()
	k := &kip{authority: authority, state: &gatewaytest.State{}, upstream: gatewaytest.NewUpstream(t), metrics: prometheus.NewRegistry()}
	k.sink = &gatewaytest.Sink{State: k.state}
	var err error
	k.gateway, err = gateway.New(gateway.Config{
		State: k.state, Sink: k.sink, Registries: &gatewaytest.Registries{}, PodMetrics: &gatewaytest.PodMetrics{},
		Upstream: k.upstream.Config(), Client: fake.NewClientset(), Metrics: k.metrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	k.run(t, func(ctx context.Context) { _ = k.gateway.Start(ctx) })
	return k
}

// run runs something until the test ends.
func (k *kip) run(t *testing.T, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// connect enrols the cell and serves it the gateway.
func (k *kip) connect(t *testing.T, addr, token string) {
	t.Helper()
	client := pki.NewClient(pki.NewAuthorities(k.authority), time.Now)
	dialer := tunnel.NewDialer(tunnel.DialerConfig{ClientCertificate: client.Certificate, Roots: k.authority.Roots()})
	if err := dialer.Await(t.Context(), addr); err != nil {
		t.Fatal(err)
	}
	err := dialer.Enrol(t.Context(), addr, cellName, token, func(_ context.Context, pub crypto.PublicKey, _ string) ([]byte, error) {
		return k.authority.SignCell(pub, cellName, time.Now())
	})
	if err != nil {
		t.Fatal(err)
	}
	k.run(t, func(ctx context.Context) {
		err := dialer.ServeGateway(ctx, addr, cellName, k.gateway.ForCell(cellName), func(*x509.Certificate) {})
		if ctx.Err() == nil && !errors.Is(err, tunnel.ErrLost) {
			t.Errorf("serving the gateway: %v", err)
		}
	})
}

func (k *kip) await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// count adds up a metric of the gateway's, of one decision unless that is empty.
func (k *kip) count(t *testing.T, name, decision string) float64 {
	t.Helper()
	families, err := k.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if decision == "" || slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == decision }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
