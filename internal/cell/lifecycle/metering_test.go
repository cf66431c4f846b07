package lifecycle

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

func TestNothingIsLaunchedWhileRefused(t *testing.T) {
	w := newWorld(t)
	var refused error
	w.kip.cfg.MayLaunch = func() error { return refused }
	refused = errors.New("aws-marketplace:RegisterUsage: CustomerNotEntitledException")
	w.add()
	w.must()
	w.want(v1beta1.CellPending, v1beta1.ReasonNotEntitled)
	if !strings.Contains(w.message(), "CustomerNotEntitledException") {
		t.Errorf("the user must read why: %q", w.message())
	}
	if n := w.cloud.Calls(cloudprovidertest.Create); n != 0 {
		t.Errorf("%d launches", n)
	}
	refused = nil
	if result := w.must(); result.RequeueAfter == 0 && w.cell().Status.InstanceID == "" {
		t.Error("nobody looks again")
	}
	w.until("launched", func() bool { return w.cell().Status.InstanceID != "" })

	// What runs is not concerned, nor is a launch that may have happened.
	refused = errors.New("no")
	w.enrol()
	w.clock.Step(boundPatience)
	w.must()
	w.want(v1beta1.CellBound, v1beta1.ReasonEnrolled)
}

func TestInheritedLaunchGoesOnWhileRefused(t *testing.T) {
	w := newWorld(t)
	w.boot(&mortal{at: 2, after: true}) // the intent's write, then Create
	w.add()
	if _, err := w.reconcile(); err != nil && !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	w.boot(&mortal{})
	w.kip.cfg.MayLaunch = func() error { return errors.New("no") }
	w.until("the instance found", func() bool { return w.cell().Status.InstanceID != "" })
}

func TestCellGoesWhenItsUseIsCounted(t *testing.T) {
	for name, enrols := range map[string]bool{"used": true, "never enrolled": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			fails, counted := true, 0
			w.kip.cfg.Ended = func(_ context.Context, c *v1beta1.Cell) error {
				if c.DeletionTimestamp == nil || len(w.cloud.Alive()) > 0 {
					t.Error("counted before its end")
				}
				if fails {
					return errors.New("no answer")
				}
				counted++
				return nil
			}
			w.add()
			w.must()
			if enrols {
				w.enrol()
				w.must()
			}
			w.delete()
			for range 90 {
				w.clock.Step(time.Second)
				if _, err := w.kip.Observe(t.Context()); err != nil {
					t.Fatal(err)
				}
				_, _ = w.reconcile()
			}
			if gone := w.cell() == nil; gone == enrols {
				t.Fatalf("gone = %v before it was counted", gone)
			}
			fails = false
			w.until("cell gone", func() bool { return w.cell() == nil })
			if want := map[bool]int{true: 1, false: 0}[enrols]; counted != want {
				t.Errorf("counted %d times, want %d", counted, want)
			}
		})
	}
}
