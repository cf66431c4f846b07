package connection

import (
	"context"
	"crypto/x509"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
)

const (
	nodeName = "kip-provider-0"
	cellName = "cell-a"
)

// world is a cluster with its authority; Kips come and go in it.
type world struct {
	t   testing.TB
	api client.WithWatch
	// authorities are those of Kips that start from now on.
	authorities *pki.Authorities
}

func newWorld(t testing.TB) *world {
	t.Helper()
	scheme := k8sruntime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	authority, err := pki.Create(time.Now().Add(-10 * 24 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	api := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1beta1.Cell{}).Build()
	return &world{t: t, api: api, authorities: pki.NewAuthorities(authority)}
}

// addCell makes a Cell whose agent listens at addr; empty is not yet.
func (w *world) addCell(name, addr string) *v1beta1.Cell {
	w.t.Helper()
	cell := &v1beta1.Cell{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid of " + name)},
		Spec:       v1beta1.CellSpec{NodeName: nodeName},
	}
	if err := w.api.Create(w.t.Context(), cell); err != nil {
		w.t.Fatal(err)
	}
	return w.changeStatus(name, func(s *v1beta1.CellStatus) {
		s.Phase, s.InstanceID, s.PrimaryIP = v1beta1.CellBooting, "i-"+name, addr
	})
}

func (w *world) changeStatus(name string, change func(*v1beta1.CellStatus)) *v1beta1.Cell {
	w.t.Helper()
	cell := w.cell(name)
	change(&cell.Status)
	if err := w.api.Status().Update(w.t.Context(), cell); err != nil {
		w.t.Fatal(err)
	}
	return cell
}

func (w *world) cell(name string) *v1beta1.Cell {
	w.t.Helper()
	var cell v1beta1.Cell
	if err := w.api.Get(w.t.Context(), client.ObjectKey{Name: name}, &cell); err != nil {
		w.t.Fatal(err)
	}
	return &cell
}

// kip is one life of a Kip.
type kip struct {
	*Manager
	t       testing.TB
	events  *record.FakeRecorder
	metrics *prometheus.Registry
	stop    func()
}

// start starts a Kip, which is stopped when the test ends at the latest.
func (w *world) start(change func(*Config)) *kip {
	w.t.Helper()
	k := &kip{t: w.t, events: record.NewFakeRecorder(100), metrics: prometheus.NewRegistry()}
	cfg := Config{
		NodeName:    nodeName,
		Client:      w.api,
		Live:        w.api,
		Authorities: w.authorities,
		Dialer: tunnel.NewDialer(tunnel.DialerConfig{
			ClientCertificate: pki.NewClient(w.authorities, time.Now).Certificate,
			Roots:             w.authorities.Roots(),
			CACertificates:    string(w.authorities.CertificatesPEM()),
			Logger:            slog.New(slog.DiscardHandler),
		}),
		Gateway: func(cell string) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "gateway of "+cell) })
		},
		Address: func(c *v1beta1.Cell) string { return c.Status.PrimaryIP },
		Clock:   clock.RealClock{},
		Events:  k.events,
		Metrics: k.metrics,
		Logger:  slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if k.Manager, err = New(cfg); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Start(ctx) }()
	k.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(k.stop)
	return k
}

// reconcile shows Kip the Cells, as the informer does.
func (k *kip) reconcile(names ...string) {
	k.t.Helper()
	for _, name := range names {
		if _, err := k.Reconcile(k.t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: name}}); err != nil {
			k.t.Fatal(err)
		}
	}
}

func (k *kip) waitConnected(name string) {
	k.t.Helper()
	eventually(k.t, "cell "+name+" is connected", func() bool { return k.Connected(name) })
}

// value is the sum of a metric's values that have the label value, if given.
func (k *kip) value(name, label string) float64 {
	k.t.Helper()
	families, err := k.metrics.Gather()
	if err != nil {
		k.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			matches := label == ""
			for _, l := range m.GetLabel() {
				matches = matches || l.GetValue() == label
			}
			if matches {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func (k *kip) drainEvents() []string {
	var events []string
	for {
		select {
		case e := <-k.events.Events:
			events = append(events, e)
		default:
			return events
		}
	}
}

// agent is a real agent on loopback.
type agent struct {
	*tunnel.Server
	addr string
	stop func()
}

// memoryStore keeps an agent's identity in memory.
type memoryStore struct {
	mu    sync.Mutex
	id    tunnel.Identity
	saved bool
}

func (m *memoryStore) Load() (tunnel.Identity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.saved {
		return tunnel.Identity{}, fs.ErrNotExist
	}
	return m.id, nil
}

func (m *memoryStore) Save(id tunnel.Identity) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id, m.saved = id, true
	return nil
}

// agent starts an agent that read the cell's user data. addr may be empty.
func (w *world) agent(name, addr string, store tunnel.Store) *agent {
	w.t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.agentOn(name, l, store)
}

func (w *world) agentOn(name string, l net.Listener, store tunnel.Store) *agent {
	w.t.Helper()
	s, err := tunnel.NewServer(tunnel.ServerConfig{
		Cell:           name,
		CACertificates: string(w.authorities.CertificatesPEM()),
		EnrolmentToken: w.authorities.Signer().EnrolmentToken(types.UID("uid of " + name)),
		Store:          store,
		API:            http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "agent of "+name) }),
		Logger:         slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	a := &agent{Server: s, addr: l.Addr().String()}
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(a.stop)
	return a
}

// freeAddr is an address on loopback where nothing listens.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func roundTrip(t testing.TB, rt http.RoundTripper) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://x/kip/v1/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for range 1000 {
		if condition() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("it does not come about that %s", what)
}

// noLeak fails the test if it leaves goroutines behind.
func noLeak(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		var after int
		for range 200 {
			if after = runtime.NumGoroutine(); after <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines before, %d after:\n%s", before, after, buf[:runtime.Stack(buf, true)])
	})
}

// intercepted is the world's API with faults.
func (w *world) intercepted(funcs interceptor.Funcs) client.Client {
	return interceptor.NewClient(w.api, funcs)
}

// scripted is a Dialer whose calls the test answers. A nil function is never
// called, or the test fails.
type scripted struct {
	t     testing.TB
	await func(ctx context.Context) error
	enrol func(ctx context.Context, sign tunnel.SignFunc) error
	renew func(ctx context.Context, keySHA256 string, sign tunnel.SignFunc) error
	serve func(ctx context.Context, ready func(*x509.Certificate)) error
}

var _ Dialer = (*scripted)(nil)

func (d *scripted) Await(ctx context.Context, _ string) error {
	if d.await == nil {
		return nil
	}
	return d.await(ctx)
}

func (d *scripted) Enrol(ctx context.Context, _, _, _ string, sign tunnel.SignFunc) error {
	if d.enrol == nil {
		d.t.Error("Kip enrols")
		return context.Canceled
	}
	return d.enrol(ctx, sign)
}

func (d *scripted) Renew(ctx context.Context, _, _, key string, sign tunnel.SignFunc) error {
	if d.renew == nil {
		d.t.Error("Kip renews")
		return context.Canceled
	}
	return d.renew(ctx, key, sign)
}

func (d *scripted) ServeGateway(ctx context.Context, _, _ string, _ http.Handler, ready func(*x509.Certificate)) error {
	if d.serve == nil {
		d.t.Error("Kip serves")
		return context.Canceled
	}
	return d.serve(ctx, ready)
}

func (d *scripted) Transport(string, string) *http.Transport { return &http.Transport{} }
