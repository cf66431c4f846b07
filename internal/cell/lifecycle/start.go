package lifecycle

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// Start looks at the cloud, again and again, and tells the controller which
// Cells that concerns, until the context ends.
func (r *Reconciler) Start(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		names, err := r.Observe(ctx)
		wait := r.seen.interval()
		switch {
		case err == nil:
			failures = 0
		case ctx.Err() == nil:
			wait = min(hurriedLook<<min(failures, 6), slowestLook)
			if failures++; failures == 1 || failures%10 == 0 {
				r.cfg.Logger.Warn("the cloud cannot be observed", "err", err, "failures", failures)
			}
		}
		r.tell(ctx, names)
		if r.wait(ctx, wait) {
			// Something began to move while nothing did: look at it in a moment.
			r.wait(ctx, hurriedLook)
		}
	}
	return nil
}

// tell hands Cells to the controller.
func (r *Reconciler) tell(ctx context.Context, names []string) {
	for _, name := range names {
		select {
		case r.changed <- event.GenericEvent{Object: &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: name}}}:
		case <-ctx.Done():
			return
		}
	}
}

// wait lets time pass, and tells Cells that wait at a limit when they can go on.
// It returns true when it was cut short because a Cell came into transition
// while none was.
func (r *Reconciler) wait(ctx context.Context, d time.Duration) (poked bool) {
	timer := r.cfg.Clock.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-r.limits.Freed():
			r.tell(ctx, r.limits.Next())
		case <-timer.C():
			return false
		case <-r.seen.poke:
			return true
		case <-ctx.Done():
			return false
		}
	}
}
