package health

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/gateway"
)

const (
	testNode    = "kip-provider-0"
	testTimeout = 90 * time.Second
	// lease is how often kubelets renew theirs.
	lease = 10 * time.Second
)

// world is what outlives a Kip: the API server, the cloud, the cells and time.
type world struct {
	t     *testing.T
	clock *clocktesting.FakeClock
	api   client.WithWatch
	// dead are the cells that give no sign of life.
	dead map[string]bool
	// connected are those whose agent is, and trouble is what kubelets say.
	connected map[string]bool
	trouble   map[string]string
	// reports and refusal are what the cloud says.
	reports []cloudprovider.InstanceHealth
	refusal error
	asked   int

	kip           *Monitor
	change        func(*Config)
	events        *record.FakeRecorder
	registry      *prometheus.Registry
	changed       []string
	interruptions []gateway.Interruption
	cloudDue      time.Time
	beats         time.Time
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1beta1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{
		t: t, clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), dead: map[string]bool{}, change: change,
		connected: map[string]bool{}, trouble: map[string]string{},
		api: fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1beta1.Cell{}, &corev1.Pod{}).Build(),
	}
	w.restart()
	return w
}

// restart starts another Kip, which remembers nothing.
func (w *world) restart() {
	w.t.Helper()
	w.events, w.registry = record.NewFakeRecorder(1000), prometheus.NewRegistry()
	cfg := Config{
		NodeName: testNode, Client: w.api, Live: w.api, Timeout: testTimeout, Interval: 5 * time.Second,
		Cloud: w, CloudInterval: time.Minute,
		Disconnected: func(name string) string {
			if w.connected[name] {
				return ""
			}
			return "its agent does not listen"
		},
		Changed: func(c *v1beta1.Cell) { w.changed = append(w.changed, c.Name) },
		Interrupt: func(_ context.Context, name string, i gateway.Interruption) error {
			w.interruptions = append(w.interruptions, i)
			w.set(name, func(c *v1beta1.Cell) {
				c.Status.Interruption = &v1beta1.InterruptionStatus{Kind: string(i.Kind), Deadline: metav1.NewTime(i.Time)}
			})
			return nil
		},
		Clock: w.clock, Events: w.events, Metrics: w.registry, Logger: slog.New(slog.DiscardHandler),
	}
	if w.change != nil {
		w.change(&cfg)
	}
	kip, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.kip, w.cloudDue = kip, w.clock.Now()
}

// Health implements cloudprovider.HealthReporter.
func (w *world) Health(context.Context) ([]cloudprovider.InstanceHealth, error) {
	w.asked++
	return w.reports, w.refusal
}

// add makes a cell whose pod runs.
func (w *world) add(name string, change ...func(*v1beta1.Cell)) {
	w.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("pod-" + name)},
		Spec:       corev1.PodSpec{NodeName: testNode, TerminationGracePeriodSeconds: new(int64(30))},
	}
	cell := &v1beta1.Cell{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("cell-" + name), Finalizers: []string{v1beta1.Finalizer}},
		Spec:       v1beta1.CellSpec{NodeName: testNode, Pod: &v1beta1.PodReference{Namespace: "default", Name: name, UID: pod.UID}},
		Status: v1beta1.CellStatus{
			Phase: v1beta1.CellRunning, InstanceID: "i-" + name,
			Enrolment: &v1beta1.EnrolmentStatus{KeySHA256: "k", Time: metav1.NewTime(w.clock.Now())},
		},
	}
	for _, c := range change {
		c(cell)
	}
	for _, o := range []client.Object{pod, cell} {
		if err := w.api.Create(w.t.Context(), o); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) cell(name string) *v1beta1.Cell {
	w.t.Helper()
	cell := &v1beta1.Cell{}
	if err := w.api.Get(w.t.Context(), client.ObjectKey{Name: name}, cell); err != nil {
		w.t.Fatal(err)
	}
	return cell
}

func (w *world) set(name string, change func(*v1beta1.Cell)) {
	w.t.Helper()
	cell := w.cell(name)
	change(cell)
	if err := w.api.Status().Update(w.t.Context(), cell); err != nil {
		w.t.Fatal(err)
	}
}

// pass lets time go by. Cells that live renew their leases, and Kip looks when
// it is time.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	for end := w.clock.Now().Add(d); w.clock.Now().Before(end); {
		w.clock.Step(w.kip.cfg.Interval)
		w.beat()
		w.look()
	}
}

func (w *world) beat() {
	w.t.Helper()
	if w.clock.Since(w.beats) < lease {
		return
	}
	w.beats = w.clock.Now()
	for _, c := range w.cells() {
		if !w.dead[c.Name] {
			w.kip.Heartbeat(c.Name, w.trouble[c.Name])
		}
	}
}

func (w *world) look() {
	w.t.Helper()
	if err := w.kip.Look(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if !w.clock.Now().Before(w.cloudDue) {
		w.cloudDue = w.clock.Now().Add(w.kip.LookAtCloud(w.t.Context()))
	}
}

func (w *world) cells() []v1beta1.Cell {
	w.t.Helper()
	var cells v1beta1.CellList
	if err := w.api.List(w.t.Context(), &cells); err != nil {
		w.t.Fatal(err)
	}
	return cells.Items
}

// givenUp are the cells that were.
func (w *world) givenUp() (names []string) {
	w.t.Helper()
	for _, c := range w.cells() {
		if c.Status.Failure != nil {
			names = append(names, c.Name)
		}
	}
	return names
}

func (w *world) wantGivenUp(names ...string) {
	w.t.Helper()
	if got := w.givenUp(); !slices.Equal(got, names) {
		w.t.Fatalf("given up are %v, want %v", got, names)
	}
}

func (w *world) wantSilent(name string, want bool) {
	w.t.Helper()
	w.wantUnwell(name, map[bool]string{true: ReasonSilent}[want])
}

func (w *world) wantUnwell(name, want string) {
	w.t.Helper()
	if _, reason := w.kip.Unwell(name); reason != want {
		w.t.Fatalf("%s is unwell for %q, want %q", name, reason, want)
	}
}

// told are the events of a reason since the last call.
func (w *world) told(reason string) (n int) {
	for {
		select {
		case e := <-w.events.Events:
			if strings.HasPrefix(e, "Warning "+reason+" ") {
				n++
			}
		default:
			return n
		}
	}
}

func (w *world) wantMetric(name string, want float64) {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	var got float64
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				got += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	if got != want {
		w.t.Errorf("%s is %v, want %v", name, got, want)
	}
	if problems, err := testutil.GatherAndLint(w.registry); err != nil || len(problems) > 0 {
		w.t.Errorf("the metrics are not as they should be: %v, %v", problems, err)
	}
}

// several adds as many cells and returns their names.
func (w *world) several(n int) (names []string) {
	w.t.Helper()
	for i := range n {
		names = append(names, fmt.Sprintf("c%02d", i))
		w.add(names[i])
	}
	return names
}
