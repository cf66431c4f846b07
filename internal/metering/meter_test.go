package metering

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

var errKilled = errors.New("killed")

// world is what outlives a Kip: Cells, the ConfigMap, the marketplace, time.
type world struct {
	client.Reader
	t          *testing.T
	clock      clock.Clock
	cells      map[string]*v1beta1.Cell
	configMaps typedcorev1.ConfigMapInterface

	mu            sync.Mutex // for a Kip that runs beside the test
	reported      map[time.Time]int32
	registrations int
	registerErr   error
	meterErr      error

	// The present Kip dies at this call, before or after it has its effect.
	calls, dies int
	after, dead bool
	meter       *Meter
}

func newWorld(t *testing.T, clk clock.Clock) *world {
	w := &world{t: t, clock: clk, cells: map[string]*v1beta1.Cell{}, reported: map[time.Time]int32{},
		configMaps: fake.NewClientset().CoreV1().ConfigMaps("kip")}
	w.boot()
	return w
}

func (w *world) boot() {
	w.t.Helper()
	m, err := New(Config{Market: w, Cells: w, ConfigMaps: mortalConfigMaps{w.configMaps, w}, Name: "kip-usage-node",
		Clock: w.clock, Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.meter, w.dead = m, false
}

// do runs a call with an effect, if the Kip lives.
func (w *world) do(call func() error) error {
	w.calls++
	dies := w.dies != 0 && w.calls == w.dies
	if w.dead || dies && !w.after {
		w.dead = true
		return errKilled
	}
	err := call()
	if dies {
		w.dead = true
		return errKilled
	}
	return err
}

func (w *world) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	cells, ok := list.(*v1beta1.CellList)
	if !ok {
		return fmt.Errorf("asked for a %T", list)
	}
	for _, c := range w.cells {
		cells.Items = append(cells.Items, *c)
	}
	return nil
}

func (w *world) Register(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.registrations++
	return w.registerErr
}

// Meter counts as AWS Marketplace does: one record an hour.
func (w *world) Meter(_ context.Context, r Record) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.do(func() error {
		before, twice := w.reported[r.Hour]
		switch {
		case w.meterErr != nil:
			return w.meterErr
		case w.clock.Since(r.Hour.Add(hour)) > tooOld:
			return ErrTooOld
		case twice && before != r.CellHours:
			return ErrCounted
		}
		w.reported[r.Hour] = r.CellHours
		return nil
	})
}

type mortalConfigMaps struct {
	typedcorev1.ConfigMapInterface
	w *world
}

func (m mortalConfigMaps) Create(ctx context.Context, c *corev1.ConfigMap, o metav1.CreateOptions) (out *corev1.ConfigMap, err error) {
	return out, m.w.do(func() error { out, err = m.ConfigMapInterface.Create(ctx, c, o); return err })
}

func (m mortalConfigMaps) Update(ctx context.Context, c *corev1.ConfigMap, o metav1.UpdateOptions) (out *corev1.ConfigMap, err error) {
	return out, m.w.do(func() error { out, err = m.ConfigMapInterface.Update(ctx, c, o); return err })
}

// usage reads what is on record.
func (w *world) usage() *usage {
	w.t.Helper()
	stored, err := w.configMaps.Get(w.t.Context(), "kip-usage-node", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	u := &usage{}
	if err := json.Unmarshal([]byte(stored.Data[dataKey]), u); err != nil {
		w.t.Fatal(err)
	}
	return u
}

// life is a cell's, in minutes after noon.
type life struct{ enrolled, deleted, away int }

// lives are cells within an hour, over several, and longer than the test; away
// is how long their instances take to go.
var lives = map[string]life{
	"short": {5, 25, 3}, "across": {50, 75, 1}, "long": {10, 200, 2}, "at the end": {100, 119, 6}, "whole": {60, 120, 1}, "stays": {30, 100000, 0},
}

// play lets the cells live for four hours with a Kip that dies at one call, and
// others after it. It returns how many calls there were.
func play(t *testing.T, dies int, after bool) int {
	t.Helper()
	clk := clocktesting.NewFakeClock(at(0))
	w := newWorld(t, clk)
	w.dies, w.after = dies, after
	for minute := range 4*60 + 30 {
		clk.SetTime(at(minute))
		for name, l := range lives {
			if minute == l.enrolled {
				w.cells[name] = ran(types.UID(name), l.enrolled, 0)
			}
			if c := w.cells[name]; c != nil && minute >= l.deleted {
				d := metav1.NewTime(at(l.deleted))
				c.DeletionTimestamp = &d
			}
		}
		// What the lifecycle controller does, in Kip's and in its successor's name.
		for name, l := range lives {
			if c := w.cells[name]; c != nil && minute >= l.deleted+l.away {
				if err := w.meter.Ended(t.Context(), c); err == nil && w.do(func() error { delete(w.cells, name); return nil }) == nil {
					continue
				}
				w.boot()
			}
		}
		if minute%5 != 0 {
			continue
		}
		if err := w.meter.report(t.Context()); err != nil {
			if !errors.Is(err, errKilled) {
				t.Fatalf("minute %d: %v", minute, err)
			}
			w.boot()
		}
	}

	// Four hours are closed. What is reported and carried is what was used.
	used := map[time.Time]int64{}
	var total, reported int64
	for _, l := range lives {
		for minute := l.enrolled; minute < min(l.deleted, 4*60); minute++ {
			used[at(minute).Truncate(hour)] += 60
			total += 60
		}
	}
	u := w.usage()
	for _, h := range w.reported {
		reported += int64(h) * 3600
	}
	if len(w.reported) != 4 || reported+u.CarrySeconds != total {
		t.Fatalf("reported %v and carried %d s, want %d s in all", w.reported, u.CarrySeconds, total)
	}
	var carry int64
	for h := at(0); h.Before(at(4 * 60)); h = h.Add(hour) {
		carry += used[h]
		if got := int64(w.reported[h]); got != carry/3600 {
			t.Errorf("%s: %d cell-hours, want %d", h, got, carry/3600)
		}
		carry %= 3600
	}
	return w.calls
}

// TestCrashMatrix kills Kip before and after every call with an effect.
func TestCrashMatrix(t *testing.T) {
	total := play(t, 0, false)
	if total < 15 {
		t.Fatalf("only %d calls", total)
	}
	for dies := 1; dies <= total; dies++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("call %d, after=%v", dies, after), func(t *testing.T) { play(t, dies, after) })
		}
	}
}

func TestRefusal(t *testing.T) {
	denied := &cloudprovider.Error{Kind: cloudprovider.Denied, Action: "aws-marketplace:RegisterUsage", Code: "CustomerNotEntitledException"}
	for name, tc := range map[string]struct {
		reason            string
		register, metered error
		refused           bool
	}{
		"not entitled":       {reason: "at the start", register: denied, refused: true},
		"ended subscription": {reason: "later", metered: denied, refused: true},
		"no answer":          {reason: "no reason to stop", register: errors.New("connection reset")},
		"no answer later":    {reason: "no reason to stop", metered: &cloudprovider.Error{Kind: cloudprovider.Throttled}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, clock.RealClock{})
				w.cells["a"] = &v1beta1.Cell{}
				w.cells["a"].Status.Enrolment = &v1beta1.EnrolmentStatus{Time: metav1.Now()}
				w.registerErr, w.meterErr = tc.register, tc.metered
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- w.meter.Run(ctx) }()
				time.Sleep(3 * time.Hour)
				synctest.Wait()
				if err := w.meter.MayLaunch(); (err != nil) != tc.refused {
					t.Errorf("%s: MayLaunch says %v", tc.reason, err)
				}
				w.mu.Lock()
				if n := len(w.reported); n != 0 && tc.metered != nil {
					t.Errorf("%d hours reported", n)
				}
				if w.registrations > 3*60 {
					t.Errorf("%d registrations in three hours", w.registrations)
				}

				w.registerErr, w.meterErr = nil, nil
				w.mu.Unlock()
				time.Sleep(slowest)
				synctest.Wait()
				if err := w.meter.MayLaunch(); err != nil {
					t.Errorf("%s: still refused: %v", tc.reason, err)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if n := len(w.reported); n < 2 {
					t.Errorf("%d hours reported; what was not is not lost", n)
				}
			})
		})
	}
}

func TestSpoiltUsageIsNotOverwritten(t *testing.T) {
	w := newWorld(t, clocktesting.NewFakeClock(at(0)))
	if _, err := w.configMaps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kip-usage-node"},
		Data: map[string]string{dataKey: "{"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.meter.report(t.Context()); err == nil {
		t.Error("no error")
	}
	if err := w.meter.Ended(t.Context(), ran("a", 1, 2)); err == nil {
		t.Error("a Cell may go uncounted")
	}
	if w.calls != 0 {
		t.Errorf("%d writes", w.calls)
	}
}
