package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// scope is what one call of Reconcile works on.
type scope struct {
	cell *v1beta1.Cell // changed as decisions fall
	base *v1beta1.Cell // as the API server has it
	mem  *memory
	now  time.Time
	log  *slog.Logger
}

// memory is what is remembered of a Cell between reconciles. It is used by one
// reconcile at a time, and may be lost at any time.
type memory struct {
	// version is the resource version that our last write made.
	version string

	// phase is what the gauge counts the Cell under.
	phase v1beta1.CellPhase

	// doubtful: the status was written without an answer, so the Cell may not be
	// as we last knew it, and the cache behind.
	doubtful bool
	// token is the ClientToken of the last intent that this process wrote.
	token string
	// ambiguous: a call with the present intent's token may have had no answer.
	ambiguous bool
	// instanceID is what Create returned, in case writing it down failed.
	instanceID string
	// failures counts consecutive failed launches, for the back-off.
	failures int
	// told is the reason of the last event, so that a refusal that repeats
	// itself is told once.
	told string
	// tried are offerings refused for lack of capacity, and refusal the last
	// such answer, for the user.
	tried   []string
	refusal string

	// touched is the newest look at the cloud that began before the last call
	// that changed something there; it and older ones prove nothing.
	touched uint64
	// absentLook and absentSince are of the first look that did not find an
	// instance of this Cell; 0 if the last one did.
	absentLook  uint64
	absentSince time.Time

	// routesDue is when the routes are to be looked at; routeFailures counts
	// consecutive failures, and routesTold is the last one that was told.
	routesDue     time.Time
	routeFailures int
	routesTold    string
	// unrouted: the routes were removed since the Cell's deletion.
	unrouted bool

	// listens is when an instance that is to be stopped was first seen to have
	// booted.
	listens time.Time
	// stopAsked and startAsked are when the cloud agreed to stop the instance, and to
	// start it.
	stopAsked, startAsked time.Time

	// ended is when the cloud agreed to terminate the instances, by ID.
	ended map[string]time.Time
	// booted: the boot time was counted.
	booted bool
	// avoided: the offering was marked because the cloud takes the instance.
	avoided bool
	// drainingSince is when the pod was first seen to end.
	drainingSince time.Time
}

// newerThan says that we wrote the Cell after what the cache holds.
func (m *memory) newerThan(cell *v1beta1.Cell) bool {
	if m.version == "" {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(m.version, cell.ResourceVersion)
	return err == nil && order > 0
}

func (r *Reconciler) newScope(cell *v1beta1.Cell) *scope {
	r.mu.Lock()
	mem := r.memories[cell.UID]
	if mem == nil {
		mem = &memory{ended: map[string]time.Time{}}
		r.memories[cell.UID] = mem
		r.names[cell.Name] = cell.UID
	}
	r.mu.Unlock()
	log := r.cfg.Logger.With("cell", cell.Name)
	if p := cell.Spec.Pod; p != nil {
		log = log.With("pod", p.Namespace+"/"+p.Name)
	}
	return &scope{cell: cell, base: cell.DeepCopy(), mem: mem, now: r.cfg.Clock.Now(), log: log}
}

// forget drops everything remembered of a Cell that does not exist any more.
func (r *Reconciler) forget(name string) {
	r.mu.Lock()
	uid, ok := r.names[name]
	mem := r.memories[uid]
	delete(r.names, name)
	delete(r.memories, uid)
	r.mu.Unlock()
	r.limits.Forget(name)
	if ok {
		r.metrics.phase(mem, "")
		r.seen.transitional(uid, false)
	}
}

// condition sets the one condition of a Cell.
func (s *scope) condition(status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&s.cell.Status.Conditions, metav1.Condition{
		Type: v1beta1.ConditionReady, Status: status, Reason: reason, Message: message,
		ObservedGeneration: s.cell.Generation, LastTransitionTime: metav1.NewTime(s.now),
	})
}

// reason is the one that the API server has.
func (s *scope) reason() string {
	if c := meta.FindStatusCondition(s.base.Status.Conditions, v1beta1.ConditionReady); c != nil {
		return c.Reason
	}
	return ""
}

// inTransition: something about the Cell's instance is about to change, so the
// cloud is looked at often.
func (s *scope) inTransition() bool {
	switch {
	case s.mem.absentLook != 0:
		return true // the next look decides
	case !s.cell.DeletionTimestamp.IsZero():
		return controllerutil.ContainsFinalizer(s.cell, v1beta1.Finalizer)
	case s.cell.Status.Failure != nil:
		return s.reason() != v1beta1.ReasonInstanceGone
	case s.cell.KeptStopped():
		return s.cell.Status.Stop.Stopped == nil
	case s.cell.Status.Phase == v1beta1.CellLaunching, s.cell.Status.Phase == v1beta1.CellBooting:
		return s.cell.Status.Enrolment == nil
	}
	return false
}

// write brings the status to the API server, if it changed. The resource
// version is the lock: nothing is written that was decided on a Cell that
// somebody changed meanwhile.
func (r *Reconciler) write(ctx context.Context, s *scope) error {
	if apiequality.Semantic.DeepEqual(s.cell.Status, s.base.Status) {
		return nil
	}
	patch := client.MergeFromWithOptions(s.base, client.MergeFromWithOptimisticLock{})
	if err := r.cfg.Client.Status().Patch(ctx, s.cell, patch); err != nil {
		s.mem.doubtful = !apierrors.IsConflict(err) && !apierrors.IsNotFound(err)
		return fmt.Errorf("writing status of cell %s: %w", s.cell.Name, err)
	}
	s.written()
	return nil
}

func (s *scope) written() {
	s.base = s.cell.DeepCopy()
	s.mem.version = s.cell.ResourceVersion
}

// addFinalizer is for Cells that were made without. Nothing was launched yet.
func (r *Reconciler) addFinalizer(ctx context.Context, s *scope) error {
	controllerutil.AddFinalizer(s.cell, v1beta1.Finalizer)
	if err := r.patchFinalizers(ctx, s); err != nil {
		return fmt.Errorf("adding finalizer to cell %s: %w", s.cell.Name, err)
	}
	return nil
}

func (r *Reconciler) removeFinalizer(ctx context.Context, s *scope) error {
	controllerutil.RemoveFinalizer(s.cell, v1beta1.Finalizer)
	s.cell.Status = *s.base.Status.DeepCopy() // not worth a write any more
	if err := r.patchFinalizers(ctx, s); err != nil {
		return fmt.Errorf("removing finalizer from cell %s: %w", s.cell.Name, err)
	}
	return nil
}

func (r *Reconciler) patchFinalizers(ctx context.Context, s *scope) error {
	patch := client.MergeFromWithOptions(s.base, client.MergeFromWithOptimisticLock{})
	if err := r.cfg.Client.Patch(ctx, s.cell, patch); err != nil {
		return err
	}
	s.written()
	return nil
}

// token is the ClientToken of the present intent. The first is the Cell's UID.
func (s *scope) token() string { return launchToken(s.cell.UID, s.cell.Status.Launch.Number) }

func launchToken(uid types.UID, number int32) string {
	if number == 0 {
		return string(uid)
	}
	return fmt.Sprintf("%s-%d", uid, number)
}
