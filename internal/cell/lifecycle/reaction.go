package lifecycle

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// When a Cell that waits is looked at again, at the latest. Nothing waits
// longer than a minute for something that may have changed.
const (
	// capacityRecheck is also the least time between two probes of an offering.
	capacityRecheck = 15 * time.Second
	// catalogueRecheck: subnets of another zone may have been added. A change
	// of the Cell's own wishes is seen at once.
	catalogueRecheck = 30 * time.Second
	// entitlementRecheck: the marketplace is asked again by whoever asks it.
	entitlementRecheck = 30 * time.Second
)

// backoff is the wait before the same thing is tried again: base, doubled with
// every failure in a row, up to limit.
type backoff struct{ base, limit time.Duration }

// reaction is what a kind of refusal leads to.
type reaction struct {
	// reason is that of the Cell's and the pod's condition, and of the event.
	reason string
	// next tries another offering at once.
	next bool
	backoff
}

// reactions to the kinds of refused launches. What they do besides (marking
// the offering, barring the zone) is in react.
var reactions = map[cloudprovider.Kind]reaction{
	cloudprovider.InsufficientCapacity: {v1beta1.ReasonInsufficientCapacity, true, backoff{5 * time.Second, time.Minute}},
	cloudprovider.Unsupported:          {v1beta1.ReasonInsufficientCapacity, true, backoff{5 * time.Second, time.Minute}},
	cloudprovider.SubnetFull:           {v1beta1.ReasonSubnetFull, true, backoff{5 * time.Second, 30 * time.Second}},
	cloudprovider.QuotaExceeded:        {v1beta1.ReasonQuotaExceeded, true, backoff{10 * time.Second, time.Minute}},
	cloudprovider.VCPUQuotaExceeded:    {v1beta1.ReasonQuotaExceeded, true, backoff{10 * time.Second, time.Minute}},
	cloudprovider.Throttled:            {v1beta1.ReasonThrottled, false, backoff{time.Second, 30 * time.Second}},
	cloudprovider.Denied:               {v1beta1.ReasonDenied, false, backoff{5 * time.Second, time.Minute}},
	cloudprovider.InvalidConfiguration: {v1beta1.ReasonInvalidConfiguration, false, backoff{5 * time.Second, time.Minute}},
	cloudprovider.TokenConflict:        {v1beta1.ReasonCloudError, false, backoff{2 * time.Second, 30 * time.Second}},
	cloudprovider.Transient:            {v1beta1.ReasonCloudError, false, backoff{time.Second, 30 * time.Second}},
}

func reactionTo(err error) reaction {
	if r, ok := reactions[cloudprovider.KindOf(err)]; ok {
		return r
	}
	return reactions[cloudprovider.Transient]
}

// kindBars: the refusal concerned a zone or a capacity type, which was left
// out since; so it, not the catalogue, is why nothing is left.
func kindBars(k cloudprovider.Kind) bool {
	return k == cloudprovider.SubnetFull || k == cloudprovider.QuotaExceeded || k == cloudprovider.VCPUQuotaExceeded
}

// react handles a refusal after which nothing was launched for the intent.
func (r *Reconciler) react(s *scope, a *attempt, err error) (again bool, result reconcile.Result, _ error) {
	launch := s.cell.Status.Launch
	switch kind := cloudprovider.KindOf(err); kind {
	case cloudprovider.InsufficientCapacity, cloudprovider.Unsupported:
		r.unavailable.Mark(offeringOf(launch), r.cfg.Clock.Now())
		s.mem.refusal = err.Error()
		if name := fmt.Sprintf("%s (%s) in %s", launch.InstanceType, launch.CapacityType, launch.Zone); !slices.Contains(s.mem.tried, name) {
			s.mem.tried = append(s.mem.tried, name)
		}
	case cloudprovider.SubnetFull:
		a.full[launch.Zone]++
	case cloudprovider.QuotaExceeded:
		a.barred[launch.CapacityType] = true
	case cloudprovider.VCPUQuotaExceeded:
		a.below[launch.CapacityType] = a.vcpus
	case cloudprovider.Throttled:
		// The same request again, later. The intent stands, which saves two
		// writes at a moment when everything is too much.
		return false, r.refusedKeeping(s, err), nil
	}
	if reactionTo(err).next {
		s.cell.Status.Phase = v1beta1.CellPending // in memory: the next intent is written instead
		return true, reconcile.Result{}, nil
	}
	return false, r.refused(s, err), nil
}

// refused leaves the Cell Pending: nothing was launched.
func (r *Reconciler) refused(s *scope, err error) reconcile.Result {
	if s.cell.Status.Phase == v1beta1.CellLaunching && s.mem.ambiguous {
		return r.refusedKeeping(s, err)
	}
	r.pending(s, reactionTo(err).reason, reactionTo(err).message(err))
	return r.after(s, err)
}

// refusedKeeping leaves the Cell in its phase, with the intent that may have
// led to an instance.
func (r *Reconciler) refusedKeeping(s *scope, err error) reconcile.Result {
	r.say(s, reactionTo(err).reason, reactionTo(err).message(err))
	return r.after(s, err)
}

// after is when to try again: at the time that the error names, else later
// with each failure.
func (r *Reconciler) after(s *scope, err error) reconcile.Result {
	if wait := cloudprovider.RetryAfter(err); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}
	}
	return r.delay(s, reactionTo(err).backoff)
}

func (r *Reconciler) pending(s *scope, reason, message string) {
	s.cell.Status.Phase = v1beta1.CellPending
	r.say(s, reason, message)
}

// say tells the user what the Cell waits for: always in the condition, and
// when it is news in an event.
func (r *Reconciler) say(s *scope, reason, message string) {
	if s.reason() != reason && s.mem.told != reason {
		r.event(s, corev1.EventTypeWarning, reason, message)
	}
	s.mem.told = reason
	s.condition(metav1.ConditionFalse, reason, message)
}

// message is a sentence for the pod's owner.
func (re reaction) message(err error) string {
	var what string
	switch re.reason {
	case v1beta1.ReasonInsufficientCapacity:
		what = "the cloud has no capacity just now"
	case v1beta1.ReasonSubnetFull:
		what = "the subnets for cells have no free addresses"
	case v1beta1.ReasonQuotaExceeded:
		what = "the cloud account's limit is reached"
	case v1beta1.ReasonThrottled:
		what = "launches come faster than the cloud allows, this one waits for its turn"
	case v1beta1.ReasonDenied:
		what = "Kip's cloud credentials do not allow the launch"
	case v1beta1.ReasonInvalidConfiguration:
		what = "the launch cannot work as it is configured"
	default:
		what = "the cloud did not answer as it should, the launch is repeated"
	}
	return what + ": " + err.Error()
}

// soldOut is the message when everything that fits was refused. It stays the
// same while that is so.
func soldOut(mem *memory) string {
	const shown = 4
	what := "every offering that fits was refused to other cells"
	if n := len(mem.tried); n > 0 {
		what = "tried " + strings.Join(mem.tried[:min(n, shown)], ", ")
		if n > shown {
			what += fmt.Sprintf(" and %d more", n-shown)
		}
		what += ", last answer " + mem.refusal
	}
	return fmt.Sprintf("the cloud has no capacity just now for any instance type that fits: %s; the cheapest are tried again every %s",
		what, capacityRecheck)
}

// delay counts a failure and spreads Cells that failed together.
func (r *Reconciler) delay(s *scope, b backoff) reconcile.Result {
	wait := min(b.base<<min(s.mem.failures, 10), b.limit)
	s.mem.failures++
	h := fnv.New32a()
	fmt.Fprint(h, s.cell.UID, s.mem.failures)
	return reconcile.Result{RequeueAfter: wait - wait/4 + wait/2*time.Duration(h.Sum32()%1000)/1000}
}
