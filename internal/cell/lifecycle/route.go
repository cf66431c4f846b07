package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// Reasons of events about routes. They are not conditions: the pod runs without.
const (
	reasonRouteConflict = "RouteConflict"
	reasonRouteFailed   = "RouteFailed"
)

// routeRecheck is how often the routes of a Cell are looked at: somebody else
// may have removed one.
const routeRecheck = time.Minute

// routeBackoff is for routes that could not be made.
var routeBackoff = backoff{2 * time.Second, time.Minute}

// wantsRoutes: networks are to lead to the Cell's instance, or did.
func (s *scope) wantsRoutes() bool { return len(s.cell.Spec.Instance.Routes) > 0 }

// routeTarget is nothing ("") while the interface is not known.
func (s *scope) routeTarget() cloudprovider.RouteTarget {
	return cloudprovider.RouteTarget{InstanceID: s.cell.Status.InstanceID, NetworkInterface: s.cell.Status.NetworkInterfaceID}
}

// route keeps the routes to a running instance, and says when to look again; 0
// if there is nothing to look at. What goes wrong is told, and keeps nothing
// else from happening.
func (r *Reconciler) route(ctx context.Context, s *scope) (time.Duration, error) {
	if !s.wantsRoutes() {
		return 0, nil
	}
	if !r.running(s) || s.cell.Status.NetworkInterfaceID == "" {
		return hurriedLook, nil
	}
	if left := s.mem.routesDue.Sub(s.now); left > 0 {
		return left, nil
	}
	if s.base.Status.NetworkInterfaceID != s.cell.Status.NetworkInterfaceID {
		// By it the routes are found again when everything else is forgotten.
		if err := r.write(ctx, s); err != nil {
			return 0, err
		}
	}
	err := r.makeRoutes(ctx, s)
	wait := routeRecheck
	if err != nil {
		wait = min(routeBackoff.base<<min(s.mem.routeFailures, 10), routeBackoff.limit)
		s.mem.routeFailures++
		r.routesFailed(s, err)
	} else {
		s.mem.routeFailures, s.mem.routesTold = 0, ""
	}
	s.mem.routesDue = s.now.Add(wait)
	return wait, nil
}

func (r *Reconciler) makeRoutes(ctx context.Context, s *scope) error {
	if r.cfg.Routes == nil {
		return errors.New("this cloud has no routes to instances")
	}
	return r.cfg.Routes.EnsureRoutes(ctx, s.routeTarget(), s.cell.Spec.Instance.Routes)
}

// routesFailed tells about it when it is news.
func (r *Reconciler) routesFailed(s *scope, err error) {
	reason := reasonRouteFailed
	if errors.Is(err, cloudprovider.ErrRouteTaken) {
		reason = reasonRouteConflict
	} else if kind := cloudprovider.KindOf(err); kind == cloudprovider.Transient || kind == cloudprovider.Throttled {
		if s.mem.routeFailures < 5 {
			return // an instance that just came up, most likely
		}
	}
	if s.mem.routesTold == err.Error() {
		return
	}
	s.mem.routesTold = err.Error()
	s.log.Warn("routes to the cell are missing", "instance", s.cell.Status.InstanceID, "err", err)
	r.event(s, corev1.EventTypeWarning, reason, err.Error())
}

// running: the newest look shows the instance so. Before, EC2 takes no route.
func (r *Reconciler) running(s *scope) bool {
	mine, _ := r.found(s)
	for _, i := range mine {
		if i.ID == s.cell.Status.InstanceID {
			return i.State == cloudprovider.StateRunning
		}
	}
	return false
}

// unroute removes the routes to a Cell's instance, which may be gone. It is
// called when the instance's end was asked for, so that another cell can have
// the networks, and again before the Cell goes: a route that was just made may
// not show at once.
func (r *Reconciler) unroute(ctx context.Context, s *scope) error {
	if !s.wantsRoutes() || r.cfg.Routes == nil || s.cell.Status.NetworkInterfaceID == "" {
		return nil
	}
	if err := r.cfg.Routes.RemoveRoutes(ctx, s.routeTarget()); err != nil {
		return fmt.Errorf("the cell's routes: %w", err)
	}
	return nil
}
