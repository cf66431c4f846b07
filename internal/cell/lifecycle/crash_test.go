package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

// script is a whole life of a Cell, told by time: what the world does at which
// second, whether or not a Kip is there to see it.
type script struct {
	reason   string
	prepare  func(*world)
	cell     func(*v1beta1.Cell)
	enrolAt  int // 0: never
	giveUpAt int // 0: never
	takeAt   int // when a pod takes a cell that is kept stopped
	killAt   int // when somebody else terminates the instance; 0: never
	deleteAt int
}

var scripts = map[string]script{
	"ordinary life": {
		reason: "launch, enrol, run, delete", enrolAt: 5, deleteAt: 15,
	},
	"fallback": {
		reason: "several intents one after the other",
		prepare: func(w *world) {
			w.cloud.SoldOut = func(l v1beta1.LaunchStatus) bool { return l.InstanceType == "t3.nano" }
		},
		enrolAt: 5, deleteAt: 15,
	},
	"deleted at once": {
		reason: "the deletion comes while the launch is on its way", deleteAt: 1,
	},
	"slow cloud": {
		reason:   "a new instance is not seen for a while",
		prepare:  func(w *world) { w.cloud.VisibleAfter = 8 * time.Second },
		deleteAt: 3,
	},
	"lost answers": {
		reason: "every other answer of Create is lost",
		prepare: func(w *world) {
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Times: 2, AnswerLost: true})
		},
		enrolAt: 20, deleteAt: 25,
	},
	"with routes": {
		reason: "no route outlives its cell", enrolAt: 5, deleteAt: 15,
		cell: func(c *v1beta1.Cell) { c.Spec.Instance.Routes = []string{"10.20.0.0/16", "10.30.0.0/16"} },
	},
	"given up": {
		reason: "terminated without being deleted, and deleted when its instance is gone", enrolAt: 5, giveUpAt: 10, deleteAt: 30,
	},
	"ended from outside": {
		reason: "its end is awaited, and the Cell deleted when it has come", enrolAt: 5, killAt: 10, deleteAt: 30,
	},
	"kept stopped": {
		reason: "stopped before it enrols, and started for its pod", takeAt: 70, enrolAt: 75, deleteAt: 90,
		prepare: func(w *world) { w.listens = true },
		cell:    keptStopped,
	},
	"kept stopped, sold out": {
		reason: "an instance that cannot be started is given up",
		prepare: func(w *world) {
			w.listens = true
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Start, Err: refusal(cloudprovider.InsufficientCapacity)})
		},
		cell: keptStopped, takeAt: 70, deleteAt: 90,
	},
	"kept stopped, lost answers": {
		reason: "what was asked for is not known",
		prepare: func(w *world) {
			w.listens = true
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Stop, Times: 1, AnswerLost: true})
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Start, Times: 1, AnswerLost: true})
		},
		cell: keptStopped, takeAt: 70, enrolAt: 80, deleteAt: 95,
	},
	"kept stopped, no pod": {
		reason: "the pool is drained while it stops", deleteAt: 40,
		prepare: func(w *world) { w.listens = true },
		cell:    keptStopped,
	},
	"never boots": {
		reason: "terminated by the timeout, then deleted", deleteAt: 320,
	},
}

// play runs a script with a Kip that dies at one call, and others after it. It
// returns how many calls the first Kip made.
func (s script) play(t *testing.T, at int, after bool) (calls int) {
	t.Helper()
	w := newWorld(t)
	if s.prepare != nil {
		s.prepare(w)
	}
	first := &mortal{at: at, after: after}
	w.boot(first)
	w.add(func(c *v1beta1.Cell) {
		if s.cell != nil {
			s.cell(c)
		}
	})
	enrolled := false
	for second := range 600 {
		if second >= s.deleteAt {
			w.delete()
		}
		cell := w.cell()
		if cell == nil {
			break
		}
		if s.giveUpAt != 0 && second >= s.giveUpAt && cell.Status.Failure == nil && cell.Status.Enrolment != nil {
			w.giveUp()
		}
		if alive := w.cloud.Alive(); s.killAt != 0 && second >= s.killAt && len(alive) > 0 {
			w.cloud.Kill(alive[0].ID, "Client.UserInitiatedShutdown")
		}
		if s.takeAt != 0 && second >= s.takeAt && cell.Waiting() && cell.KeptStopped() && cell.Status.Stop.Stopped != nil && cell.DeletionTimestamp == nil {
			w.take()
		}
		if s.enrolAt != 0 && second >= s.enrolAt && !enrolled && cell.Status.InstanceID != "" && cell.DeletionTimestamp == nil && w.enrols(cell) {
			enrolled = true
			w.enrol()
			w.podPhase(corev1.PodRunning)
		}
		if err := w.tick(); err != nil {
			if !errors.Is(err, errKilled) {
				t.Fatalf("second %d: %v", second, err)
			}
			w.boot(&mortal{})
		}
	}
	if cell := w.cell(); cell != nil {
		t.Fatalf("the cell is still there: %+v", cell.Status)
	}
	if alive := w.cloud.Alive(); len(alive) != 0 {
		t.Fatalf("leaked: %+v", alive)
	}
	if left := w.cloud.Routes(); len(left) != 0 {
		t.Fatalf("routes without a cell: %v", left)
	}
	if all := w.cloud.All(); len(all) > 1 {
		t.Fatalf("one cell launched %d instances: %+v", len(all), all)
	}
	return first.calls
}

// TestCrashMatrix kills Kip before and after every single call with an effect
// that it makes in each script, and lets another one go on.
func TestCrashMatrix(t *testing.T) {
	for name, s := range scripts {
		t.Run(name, func(t *testing.T) {
			total := s.play(t, 0, false)
			if total < 4 {
				t.Fatalf("%s: only %d calls", s.reason, total)
			}
			for at := 1; at <= total; at++ {
				for _, after := range []bool{false, true} {
					t.Run(fmt.Sprintf("call %d, after=%v", at, after), func(t *testing.T) { s.play(t, at, after) })
				}
			}
		})
	}
}

// TestInheritedIntent: what an earlier Kip did for the intent is not known, so
// no refusal is believed until the instance was looked for.
func TestInheritedIntent(t *testing.T) {
	for _, kind := range []cloudprovider.Kind{cloudprovider.Denied, cloudprovider.InsufficientCapacity, cloudprovider.QuotaExceeded} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t)
			w.cloud.VisibleAfter = 10 * time.Second
			w.boot(&mortal{at: 2, after: true}) // the intent's write, then Create
			w.add()
			if _, err := w.reconcile(); !errors.Is(err, errKilled) && len(w.cloud.All()) != 1 {
				t.Fatalf("want a Kip that died after launching, got %v", err)
			}
			w.boot(&mortal{})
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Err: refusal(kind)})
			w.must()
			if got := w.cell().Status.Phase; got != v1beta1.CellLaunching {
				t.Errorf("phase %s: the refusal says nothing of the earlier call", got)
			}
			w.until("booting", func() bool { return w.cell().Status.Phase == v1beta1.CellBooting })
			if n := len(w.cloud.All()); n != 1 {
				t.Errorf("%d instances", n)
			}
		})
	}
}

// TestRecordLost: the launch had its answer, which could not be written down. The
// call is repeated, and a refusal then says nothing of the one before.
func TestRecordLost(t *testing.T) {
	for _, kind := range []cloudprovider.Kind{cloudprovider.Denied, cloudprovider.InsufficientCapacity, cloudprovider.QuotaExceeded} {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t)
			w.cloud.VisibleAfter = 10 * time.Second
			writes := 0
			w.kip.cfg.Client = interceptor.NewClient(w.kip.cfg.Client.(client.WithWatch), interceptor.Funcs{
				SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
					if writes++; writes == 2 { // after the intent
						return errors.New("the API server is away")
					}
					return c.SubResource(sub).Patch(ctx, o, p, opts...)
				},
			})
			w.add()
			if _, err := w.reconcile(); err == nil || len(w.cloud.All()) != 1 {
				t.Fatalf("%v, %d instances; want one that is not on record", err, len(w.cloud.All()))
			}
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Times: 1, Err: refusal(kind)})
			w.until("booting", func() bool { return w.cell().Status.Phase == v1beta1.CellBooting })
			if n := len(w.cloud.All()); n != 1 {
				t.Errorf("%d instances", n)
			}
		})
	}
}

// TestGivenUpWithoutAnswer: an intent was given up, the answer to that was lost,
// and the cache still shows the intent.
func TestGivenUpWithoutAnswer(t *testing.T) {
	w := newWorld(t)
	writes := 0
	var stale *v1beta1.Cell
	w.kip.cfg.Client = interceptor.NewClient(w.kip.cfg.Client.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if cell, ok := o.(*v1beta1.Cell); ok && stale != nil {
				stale.DeepCopyInto(cell)
				return nil
			}
			return c.Get(ctx, key, o, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			writes++
			if writes == 2 { // after the intent
				stale = w.cell()
			}
			err := c.SubResource(sub).Patch(ctx, o, p, opts...)
			if writes == 2 {
				return errors.New("connection reset")
			}
			return err
		},
	})
	w.add()
	w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Times: 1, Err: refusal(cloudprovider.Denied)})
	if _, err := w.reconcile(); err == nil || w.cell().Status.Phase != v1beta1.CellPending {
		t.Fatalf("%v, phase %s; want an intent given up without an answer", err, w.cell().Status.Phase)
	}
	w.must()
	if n := len(w.cloud.All()); n != 0 {
		t.Fatalf("%d instances launched for an intent that was given up", n)
	}
	stale = nil
	w.until("booting", func() bool { return w.cell().Status.Phase == v1beta1.CellBooting })
	if n := len(w.cloud.All()); n != 1 {
		t.Errorf("%d instances", n)
	}
}

// TestRequestStillOnItsWay: a dead Kip's request reaches the cloud after the
// next Kip looked and found nothing.
func TestRequestStillOnItsWay(t *testing.T) {
	w := newWorld(t)
	w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, Times: 1})
	cell := w.add()
	w.must()
	w.clock.Step(5 * time.Minute) // the launch is old, only the looks are not
	w.boot(&mortal{})
	w.delete()
	for range 5 {
		if err := w.tick(); err != nil {
			t.Fatal(err)
		}
	}
	if w.cell() == nil {
		t.Fatal("the cell went after a few looks in a row")
	}
	if _, err := w.cloud.Provider("test").Create(t.Context(), cloudprovider.LaunchRequest{
		ClientToken: string(cell.UID), CellName: cell.Name, CellUID: cell.UID, Launch: v1beta1.LaunchStatus{Zone: "us-west-2a"},
	}); err != nil {
		t.Fatal(err)
	}
	w.until("cell gone", func() bool { return w.cell() == nil })
	if n := len(w.cloud.Alive()); n != 0 {
		t.Errorf("%d instances leaked", n)
	}
}

// TestDeletedDuringLaunch: the deletion comes between the request and its
// answer; the ID in the answer is used at once although it cannot be recorded.
func TestDeletedDuringLaunch(t *testing.T) {
	w := newWorld(t)
	w.cloud.VisibleAfter = 0
	w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Create, If: func(cloudprovider.LaunchRequest) bool { w.delete(); return false }})
	w.add()
	w.must() // launches
	w.must() // terminates
	if alive := w.cloud.Alive(); len(alive) != 0 {
		t.Errorf("not terminated by the first reconcile after the deletion: %+v", alive)
	}
	w.until("cell gone", func() bool {
		if w.cell() == nil {
			for _, i := range w.cloud.All() {
				if i.State != cloudprovider.StateTerminated {
					t.Fatalf("the cell went while its instance was %s", i.State)
				}
			}
		}
		return w.cell() == nil
	})
}
