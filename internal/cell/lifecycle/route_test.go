package lifecycle

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

func withRoutes(c *v1beta1.Cell) {
	c.Spec.Instance.Routes = []string{"10.20.0.0/16", "10.30.0.0/16"}
}

// nic is the interface of the only instance.
func (w *world) nic() string {
	w.t.Helper()
	alive := w.cloud.Alive()
	if len(alive) != 1 {
		w.t.Fatalf("%d instances", len(alive))
	}
	return alive[0].NetworkInterface
}

func TestRoutesLiveAsLongAsTheInstance(t *testing.T) {
	w := newWorld(t)
	w.add(withRoutes)
	w.must()
	if n := w.cloud.Calls(cloudprovidertest.EnsureRoutes); n != 0 {
		t.Errorf("%d calls for an instance that does not run yet", n)
	}
	w.until("routes made", func() bool { return len(w.cloud.Routes()) == 2 })
	nic := w.nic()
	if diff := cmp.Diff(map[string]string{"10.20.0.0/16": nic, "10.30.0.0/16": nic}, w.cloud.Routes()); diff != "" {
		t.Error(diff)
	}
	if got := w.cell().Status.NetworkInterfaceID; got != nic {
		t.Errorf("the cell records interface %q, want %s", got, nic)
	}

	calls := w.cloud.Calls(cloudprovidertest.EnsureRoutes)
	for range 50 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.cloud.Calls(cloudprovidertest.EnsureRoutes) - calls; n > 1 {
		t.Errorf("looked at %d times in 50 s, want once a minute", n)
	}

	w.delete()
	w.must()
	if left := w.cloud.Routes(); len(left) != 0 {
		t.Errorf("routes are kept from other cells while the instance ends: %v", left)
	}
	w.until("cell gone", func() bool { return w.cell() == nil })
}

// TestRoutesOfALostInstance: it ended by itself, and the cloud remembers of its
// interface only that routes lead there.
func TestRoutesOfALostInstance(t *testing.T) {
	w := newWorld(t)
	w.add(withRoutes)
	w.until("routes made", func() bool { return len(w.cloud.Routes()) == 2 })
	w.cloud.Kill(w.cloud.Alive()[0].ID, "Server.SpotInstanceTermination")
	w.boot(&mortal{}) // which never saw the instance alive
	w.until("loss noticed", func() bool { return w.cell().Status.Phase == v1beta1.CellTerminating })
	w.delete()
	w.until("cell gone", func() bool { return w.cell() == nil })
	if left := w.cloud.Routes(); len(left) != 0 {
		t.Errorf("routes left: %v", left)
	}
}

func TestRouteTroubleIsTold(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		trouble func(*world)
		want    string // the event; "" for none
	}{
		"taken": {
			reason:  "what leads elsewhere is left alone, and said",
			trouble: func(w *world) { w.cloud.TakenRoutes = []string{"10.20.0.0/16"} },
			want:    "RouteConflict",
		},
		"denied": {
			reason: "the operator must know which right lacks",
			trouble: func(w *world) {
				w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.EnsureRoutes, Err: refusal(cloudprovider.Denied)})
			},
			want: "RouteFailed",
		},
		"hiccup": {
			reason: "an instance that just came up may need another try",
			trouble: func(w *world) {
				w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.EnsureRoutes, Times: 3})
			},
		},
		"lasting": {
			reason: "what goes on for long is told too",
			trouble: func(w *world) {
				w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.EnsureRoutes})
			},
			want: "RouteFailed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tc.trouble(w)
			w.add(withRoutes)
			for range 180 {
				if err := w.tick(); err != nil {
					t.Fatal(err)
				}
			}
			var told []string
			for _, e := range w.told() {
				if strings.Contains(e, "Route") {
					told = append(told, e)
				}
			}
			if tc.want == "" && len(told) != 0 || tc.want != "" && (len(told) != 1 || !strings.Contains(told[0], tc.want)) {
				t.Errorf("%s: told %q, want one %q", tc.reason, told, tc.want)
			}
			if got := w.cell().Status.Phase; got != v1beta1.CellBooting {
				t.Errorf("%s: the cell is %s; routes must not stand in its way", tc.reason, got)
			}

			w.cloud.Heal()
			w.cloud.TakenRoutes = nil
			w.until("routes made", func() bool { return len(w.cloud.Routes()) == 2 })
		})
	}
}

// TestCellStaysUntilItsRoutesAreGone: it is the only record of whose they are.
func TestCellStaysUntilItsRoutesAreGone(t *testing.T) {
	w := newWorld(t)
	w.add(withRoutes)
	w.until("routes made", func() bool { return len(w.cloud.Routes()) == 2 })
	w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.RemoveRoutes, Err: refusal(cloudprovider.Denied)})
	w.delete()
	for range 60 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
	}
	w.want(v1beta1.CellTerminating, v1beta1.ReasonDenied)
	if n := len(w.cloud.Alive()); n != 0 {
		t.Errorf("%d instances kept for the sake of a route", n)
	}
	w.cloud.Heal()
	w.until("cell gone", func() bool { return w.cell() == nil })
	if left := w.cloud.Routes(); len(left) != 0 {
		t.Errorf("routes left: %v", left)
	}
}

// TestNetworkPassesOn: a cell that waits for a network gets it when the cell
// that had it ends.
func TestNetworkPassesOn(t *testing.T) {
	w := newWorld(t)
	w.cloud.TakenRoutes = []string{"10.20.0.0/16", "10.30.0.0/16"}
	w.add(withRoutes)
	w.until("conflict", func() bool { return w.cloud.Calls(cloudprovidertest.EnsureRoutes) > 3 })
	w.cloud.TakenRoutes = nil
	before := w.clock.Now()
	w.until("routes made", func() bool { return len(w.cloud.Routes()) == 2 })
	if took := w.clock.Since(before); took > routeBackoff.limit+time.Second {
		t.Errorf("took %s", took)
	}
}
