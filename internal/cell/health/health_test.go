package health

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// A cell falls silent: first its pod counts as out of touch, then it is given
// up, and its neighbours are not.
func TestSilentCell(t *testing.T) {
	w := newWorld(t, nil)
	w.several(3)
	w.look()
	w.pass(10 * time.Minute)
	w.wantGivenUp()
	w.wantSilent("c01", false)

	w.dead["c01"] = true
	w.pass(silentAfter - lease)
	w.wantSilent("c01", false)
	w.pass(2 * lease)
	w.wantSilent("c01", true)
	w.wantMetric("kip_cells_silent", 1)
	if w.changed == nil || w.told("CellSilent") != 1 {
		t.Errorf("that the cell is silent was told to %v", w.changed)
	}
	since, _ := w.kip.Unwell("c01")
	w.pass(testTimeout - silentAfter - 3*lease)
	if again, _ := w.kip.Unwell("c01"); !again.Equal(since) {
		t.Errorf("it was silent since %s, and is since %s", since, again)
	}
	w.wantGivenUp()
	w.pass(4 * lease)
	w.wantGivenUp("c01")
	f := w.cell("c01").Status.Failure
	if f.Reason != v1beta1.FailureSilent || f.Time.IsZero() || !strings.Contains(f.Message, "its agent does not listen") || !strings.Contains(f.Message, "i-c01") {
		t.Errorf("the Cell says %+v", f)
	}
	w.wantMetric("kip_cells_given_up_total", 1)

	// Who is given up is watched no more.
	before := w.cell("c01").ResourceVersion
	w.pass(10 * time.Minute)
	w.wantGivenUp("c01")
	if w.cell("c01").ResourceVersion != before {
		t.Error("the Cell was written again")
	}
	w.wantMetric("kip_cells_silent", 0)
}

// A cell that is heard again starts over.
func TestHeardAgain(t *testing.T) {
	w := newWorld(t, nil)
	w.several(3)
	w.look()
	for range 5 {
		w.dead["c01"] = true
		w.pass(testTimeout - 2*lease)
		w.wantSilent("c01", true)
		w.dead["c01"] = false
		w.pass(2 * lease)
		w.wantSilent("c01", false)
	}
	w.wantGivenUp()
	if n := w.told("CellSilent"); n != 5 {
		t.Errorf("%d events", n)
	}
	if len(w.changed) != 10 {
		t.Errorf("the provider was told %d times", len(w.changed))
	}
}

func TestTimeouts(t *testing.T) {
	seconds := func(n int32) func(*v1beta1.Cell) {
		return func(c *v1beta1.Cell) { c.Spec.Instance.HealthyTimeoutSeconds = &n }
	}
	for name, tc := range map[string]struct {
		reason string
		change func(*v1beta1.Cell)
		after  time.Duration // 0: never
	}{
		"default": {"what provider.yaml says", func(*v1beta1.Cell) {}, testTimeout},
		"short":   {"the pod's word goes before it; it is out of touch no later than it is given up", seconds(30), 30 * time.Second},
		"long":    {"the pod's word goes before it", seconds(600), 10 * time.Minute},
		"never":   {"0 is for ever", seconds(0), 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.several(3)
			w.add("web", tc.change)
			w.dead["web"] = true
			w.look()
			if tc.after == 0 {
				w.pass(20 * time.Minute)
				w.wantGivenUp()
				w.wantSilent("web", true)
				return
			}
			w.pass(tc.after - w.kip.cfg.Interval)
			w.wantGivenUp()
			w.pass(2 * w.kip.cfg.Interval)
			w.wantGivenUp("web")
		})
	}
}

// A cell that waits for its pod renews no lease, so that its connection is its
// sign of life. It is noticed when that breaks: its pod would wait for ever.
func TestIdleCell(t *testing.T) {
	w := newWorld(t, nil)
	w.several(3)
	w.add("web", func(c *v1beta1.Cell) { c.Status.Phase = v1beta1.CellReady })
	w.dead["web"], w.connected["web"] = true, true
	w.look()
	w.pass(10 * time.Minute)
	w.wantGivenUp()
	w.wantSilent("web", false)
	w.connected["web"] = false
	w.pass(testTimeout - w.kip.cfg.Interval)
	w.wantSilent("web", true)
	w.wantGivenUp()
	w.pass(2 * w.kip.cfg.Interval)
	w.wantGivenUp("web")
}

// A kubelet that renews its lease and says that it is not ready works no more;
// what passes by itself is given its time.
func TestNotReady(t *testing.T) {
	const stuck = "PLEG is not healthy: pleg was last seen active 3m5s ago"
	w := newWorld(t, nil)
	w.several(3)
	w.look()
	w.trouble["c01"] = stuck
	w.pass(silentAfter - lease)
	w.wantUnwell("c01", "")
	w.pass(3 * lease)
	w.wantUnwell("c01", ReasonNotReady)
	if n := w.told(ReasonNotReady); n != 1 || !slices.Contains(w.changed, "c01") {
		t.Errorf("%d events, and told were %v", n, w.changed)
	}
	since, _ := w.kip.Unwell("c01")
	w.pass(3 * time.Minute)
	if again, _ := w.kip.Unwell("c01"); !again.Equal(since) {
		t.Errorf("it was not ready since %s, and is since %s", since, again)
	}
	w.wantGivenUp()
	w.trouble["c01"] = ""
	w.pass(2 * lease)
	w.wantUnwell("c01", "")

	w.trouble["c01"] = stuck
	w.pass(notReadyAfter - lease)
	w.wantGivenUp()
	w.pass(3 * lease)
	w.wantGivenUp("c01")
	if f := w.cell("c01").Status.Failure; f.Reason != v1beta1.FailureNotReady || !strings.Contains(f.Message, stuck) || !strings.Contains(f.Message, "i-c01") {
		t.Errorf("the Cell says %+v", f)
	}
}

func TestNotReadyTimeouts(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		change func(*v1beta1.Cell)
		after  time.Duration // 0: never
	}{
		"short": {"as long as Kubernetes waits for a node, however short the timeout for silence is", func(c *v1beta1.Cell) { c.Spec.Instance.HealthyTimeoutSeconds = new(int32(30)) }, notReadyAfter},
		"long":  {"the pod's word goes before it", func(c *v1beta1.Cell) { c.Spec.Instance.HealthyTimeoutSeconds = new(int32(900)) }, 15 * time.Minute},
		"never": {"0 is for ever", func(c *v1beta1.Cell) { c.Spec.Instance.HealthyTimeoutSeconds = new(int32(0)) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.several(3)
			w.add("web", tc.change)
			w.trouble["web"] = "container runtime is down"
			w.look()
			if tc.after == 0 {
				w.pass(30 * time.Minute)
				w.wantGivenUp()
				w.wantUnwell("web", ReasonNotReady)
				return
			}
			w.pass(tc.after - lease)
			w.wantGivenUp()
			w.pass(3 * lease)
			w.wantGivenUp("web")
		})
	}
}

// TestNotReadyAndNotHeard: what a kubelet said last is no news of it while Kip
// hears nothing.
func TestNotReadyAndNotHeard(t *testing.T) {
	w := newWorld(t, nil)
	for _, name := range w.several(4) {
		w.trouble[name] = "container runtime is down"
	}
	w.look()
	w.pass(2 * time.Minute)
	for _, c := range w.cells() {
		w.dead[c.Name] = true
	}
	w.pass(20 * time.Minute)
	w.wantMetric("kip_health_checks_held", 1)
	w.wantGivenUp()
}

// What is expected to give no sign of life is not given up for it.
func TestNotWatched(t *testing.T) {
	condition := func(reason string) func(*v1beta1.Cell) {
		return func(c *v1beta1.Cell) {
			c.Status.Conditions = []metav1.Condition{{Type: v1beta1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason}}
		}
	}
	for name, tc := range map[string]struct {
		reason string
		change func(*v1beta1.Cell)
	}{
		"not enrolled":     {"it has its boot timeout", func(c *v1beta1.Cell) { c.Status.Enrolment = nil }},
		"is terminated":    {"it is on its way out", func(c *v1beta1.Cell) { c.Status.Phase = v1beta1.CellTerminating }},
		"instance is gone": {"there is nothing to give up", condition(v1beta1.ReasonInstanceGone)},
		"another node's":   {"it is another Kip's", func(c *v1beta1.Cell) { c.Spec.NodeName = "kip-provider-1" }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.several(3)
			w.add("web", tc.change)
			w.dead["web"] = true
			w.look()
			w.pass(10 * time.Minute)
			w.wantGivenUp()
			w.wantSilent("web", false)
		})
	}
	t.Run("deleted", func(t *testing.T) {
		w := newWorld(t, nil)
		w.several(3)
		w.add("web")
		if err := w.api.Delete(t.Context(), w.cell("web")); err != nil {
			t.Fatal(err)
		}
		w.dead["web"] = true
		w.look()
		w.pass(10 * time.Minute)
		w.wantGivenUp()
	})
}

// A standby cell's kubelet gives signs of life before it has a pod.
func TestStandbyCellIsWatched(t *testing.T) {
	w := newWorld(t, nil)
	w.several(3)
	w.add("web", func(c *v1beta1.Cell) {
		c.Status.Phase, c.Spec.Pod, c.Spec.Standby = v1beta1.CellReady, nil, &v1beta1.StandbySpec{}
	})
	w.dead["web"] = true
	w.look()
	w.pass(testTimeout + 2*lease)
	w.wantGivenUp("web")
}

// A cell that waited until its pod had ended elsewhere has its whole time from
// then on.
func TestWatchedFromThenOn(t *testing.T) {
	w := newWorld(t, nil)
	w.several(3)
	w.add("web", func(c *v1beta1.Cell) { c.Status.Phase = v1beta1.CellReady })
	w.dead["web"], w.connected["web"] = true, true
	w.look()
	w.pass(10 * time.Minute)
	w.set("web", func(c *v1beta1.Cell) { c.Status.Phase = v1beta1.CellBound })
	w.pass(testTimeout - lease)
	w.wantGivenUp()
	w.pass(2 * lease)
	w.wantGivenUp("web")
}

// A new Kip gives every cell the whole time, however long it was away.
func TestRestart(t *testing.T) {
	w := newWorld(t, nil)
	w.several(3)
	w.dead["c01"] = true
	w.look()
	for range 10 {
		w.pass(testTimeout - lease)
		w.restart()
		w.clock.Step(time.Hour)
		w.look()
		w.wantSilent("c01", false)
	}
	w.wantGivenUp()
	w.pass(testTimeout)
	w.wantGivenUp("c01")
}

// Kip itself stood still (a paused process, a machine that slept): what the
// cells said meanwhile was not heard.
func TestKipStoodStill(t *testing.T) {
	w := newWorld(t, nil)
	w.several(3)
	w.dead["c01"] = true
	w.look()
	w.pass(testTimeout - lease)
	w.wantSilent("c01", true)
	w.clock.Step(testTimeout)
	w.look()
	w.wantGivenUp()
	w.wantSilent("c01", false)
	w.wantSilent("c02", false)
	w.pass(testTimeout - w.kip.cfg.Interval)
	w.wantGivenUp()
	w.pass(2 * w.kip.cfg.Interval)
	w.wantGivenUp("c01")
}

// Most cells fall silent at once: the fault is more likely Kip's.
func TestHeld(t *testing.T) {
	for name, tc := range map[string]struct {
		reason      string
		cells, dead int
		held        bool
	}{
		"one of one":   {"a single cell is judged by itself", 1, 1, false},
		"one of two":   {"half is not most", 2, 1, false},
		"two of two":   {"all", 2, 2, true},
		"five of ten":  {"half is not most", 10, 5, false},
		"six of ten":   {"most", 10, 6, true},
		"eleven of 20": {"exactly 55 percent", 20, 11, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			names := w.several(tc.cells)
			w.look()
			w.pass(time.Minute)
			for _, n := range names[:tc.dead] {
				w.dead[n] = true
			}
			w.pass(20 * time.Minute)
			if !tc.held {
				if got := len(w.givenUp()); got != tc.dead || w.told("HealthCheckHeld") != 0 {
					t.Errorf("%s: %d given up", tc.reason, got)
				}
				return
			}
			w.wantGivenUp()
			w.wantSilent(names[0], false)
			w.wantMetric("kip_health_checks_held", 1)
			if n := w.told("HealthCheckHeld"); n != 1 {
				t.Errorf("%s: told %d times", tc.reason, n)
			}

			// They come back one by one. Who is late has the whole time again.
			w.dead[names[0]], w.dead[names[1]] = false, tc.cells > 2
			w.pass(testTimeout - lease)
			w.wantGivenUp()
			w.wantMetric("kip_health_checks_held", 0)
			if tc.cells > 2 {
				w.pass(3 * lease)
				w.wantGivenUp(names[1:tc.dead]...)
			}
		})
	}
}

// Whoever the cloud finds impaired too is not silent by Kip's fault.
func TestHeldButImpaired(t *testing.T) {
	w := newWorld(t, nil)
	for _, n := range w.several(6)[:4] {
		w.dead[n] = true
	}
	w.look()
	w.reports = append(w.reports, impaired("c01"))
	w.pass(10 * time.Minute)
	w.wantGivenUp("c01")
}

// The Cell is given up as the API server has it, not as the cache does.
func TestVerdictIsGivenOnTheNewestCell(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		change func(*world) error
	}{
		"pod ended": {"the Cell is deleted already", func(w *world) error { return w.api.Delete(context.Background(), w.cell("web")) }},
		"lost before": {"its instance ended by itself", func(w *world) error {
			cell := w.cell("web")
			cell.Status.Phase = v1beta1.CellTerminating
			return w.api.Status().Update(context.Background(), cell)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.several(3)
			w.add("web")
			stale := w.cells()
			w.change = func(c *Config) {
				c.Client = interceptor.NewClient(w.api, interceptor.Funcs{List: func(_ context.Context, _ client.WithWatch, l client.ObjectList, _ ...client.ListOption) error {
					l.(*v1beta1.CellList).Items = stale
					return nil
				}})
			}
			w.restart()
			w.dead["web"] = true
			w.look()
			w.pass(testTimeout - lease)
			if err := tc.change(w); err != nil {
				t.Fatal(err)
			}
			w.pass(10 * time.Minute)
			w.wantGivenUp()
		})
	}
}

// Whatever becomes of the write, it is made once in the end.
func TestVerdictIsWritten(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		err    error
		fails  bool // Look says so
		lost   bool // the write had its effect all the same
	}{
		"conflict": {"somebody else wrote", apierrors.NewConflict(schema.GroupResource{Resource: "cells"}, "web", errors.New("newer")), false, false},
		"refused":  {"the API server is away", errors.New("away"), true, false},
		"lost":     {"no answer came", errors.New("no answer"), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			times := 0
			var w *world
			w = newWorld(t, func(c *Config) {
				if w == nil {
					return
				}
				c.Client = interceptor.NewClient(w.api, interceptor.Funcs{SubResourcePatch: func(ctx context.Context, api client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
					if times++; times > 1 {
						return api.SubResource(sub).Patch(ctx, o, p, opts...)
					}
					if tc.lost {
						if err := api.SubResource(sub).Patch(ctx, o, p, opts...); err != nil {
							t.Error(err)
						}
					}
					return tc.err
				}})
			})
			w.restart()
			w.several(3)
			w.add("web")
			w.dead["web"] = true
			w.look()
			w.pass(testTimeout - w.kip.cfg.Interval)
			failed := false
			for range 3 {
				w.clock.Step(w.kip.cfg.Interval)
				w.beat()
				failed = w.kip.Look(t.Context()) != nil || failed
			}
			if failed != tc.fails {
				t.Errorf("%s: Look failed: %t", tc.reason, failed)
			}
			w.wantGivenUp("web")
			if want := map[bool]int{true: 1, false: 2}[tc.lost]; times != want {
				t.Errorf("%s: written %d times, want %d", tc.reason, times, want)
			}
		})
	}
}

// Start looks at its intervals and ends with its context.
func TestStart(t *testing.T) {
	w := newWorld(t, nil)
	w.several(3)
	synctest.Test(t, func(t *testing.T) {
		w.change = func(c *Config) { c.Clock = clock.RealClock{} }
		w.restart()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.kip.Start(ctx) }()
		for range 30 { // lives, but for c01
			time.Sleep(5 * time.Second)
			w.kip.Heartbeat("c00", "")
			w.kip.Heartbeat("c02", "")
		}
		synctest.Wait()
		w.wantGivenUp("c01")
		if w.asked != 3 {
			t.Errorf("the cloud was asked %d times in 150 s", w.asked)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no client":         func(c *Config) { c.Client = nil },
		"no node":           func(c *Config) { c.NodeName = "" },
		"no interval":       func(c *Config) { c.Interval = 0 },
		"no cloud interval": func(c *Config) { c.CloudInterval = 0 },
		"metrics twice":     func(*Config) {},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := newWorld(t, nil).kip.cfg
			change(&cfg)
			if _, err := New(cfg); err == nil {
				t.Error("want an error")
			}
		})
	}
}
