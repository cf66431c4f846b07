package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/limits"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// offeringsPerReconcile bounds how long one Cell keeps a worker busy when
// nearly everything is sold out. What was refused is remembered, so the next
// turn goes on where this one stopped.
const offeringsPerReconcile = 20

// subnetsPerZone is how often a zone is tried in one reconcile although its
// subnet was full: it may have several.
const subnetsPerZone = 3

// attempt is what one reconcile learns while it tries offerings.
type attempt struct {
	userData []byte
	// barred capacity types ran into the account's limit, barred zones had
	// only full subnets.
	barred  map[v1beta1.CapacityType]bool
	full    map[string]int
	refusal error // the last one
	// below: of these capacity types only offerings with fewer vCPUs may fit
	// the account's limit. vcpus are those of the offering being tried.
	below  map[v1beta1.CapacityType]int32
	vcpus  int32
	probed bool // an offering was tried although it was refused lately
}

// launch brings a Cell without an instance to Booting, or to a state that says
// what it waits for.
func (r *Reconciler) launch(ctx context.Context, s *scope) (reconcile.Result, error) {
	if s.cell.Status.Phase == v1beta1.CellLaunching && s.mem.token != s.token() {
		// Written by a Kip before this one, which may have called the cloud.
		s.mem.token, s.mem.ambiguous = s.token(), true
	}
	userData, err := r.cfg.UserData(s.cell.DeepCopy())
	if err != nil {
		return r.refused(s, &cloudprovider.Error{Kind: cloudprovider.InvalidConfiguration, Err: fmt.Errorf("making user data: %w", err)}), nil
	}
	if err := r.fillLaunches(ctx); err != nil {
		return r.refused(s, err), nil
	}
	a := &attempt{userData: userData, barred: map[v1beta1.CapacityType]bool{}, full: map[string]int{}, below: map[v1beta1.CapacityType]int32{}}
	for range offeringsPerReconcile {
		if s.cell.Status.Phase != v1beta1.CellLaunching {
			if result, stop := r.barred(s); stop {
				return result, nil
			}
			if reached := r.limits.Room(s.cell, 0); reached != nil {
				return r.limited(s, reached), nil
			}
			chosen, wait := r.choose(ctx, s, a)
			if chosen == nil {
				return wait, nil
			}
			next := r.launchOf(s, chosen)
			if reached := r.limits.Room(s.cell, limits.MicroUSD(next)); reached != nil {
				return r.limited(s, reached), nil
			}
			if pacer, ok := r.cfg.Cloud.(cloudprovider.Pacer); ok {
				if err := pacer.Turn(ctx, s.cell.UID); err != nil {
					return r.refused(s, err), nil
				}
			}
			if reached := r.limits.Claim(s.cell, limits.MicroUSD(next)); reached != nil {
				return r.limited(s, reached), nil
			}
			if err := r.intend(ctx, s, next); err != nil {
				return reconcile.Result{}, err
			}
		}
		if again, result, err := r.create(ctx, s, a); !again {
			return result, err
		}
	}
	return reconcile.Result{RequeueAfter: 10 * time.Millisecond}, nil
}

// barred leaves the Cell as it is, Pending or Stopped, while nothing may be
// launched. An intent that may have led to an instance is not concerned.
func (r *Reconciler) barred(s *scope) (reconcile.Result, bool) {
	if r.cfg.MayLaunch == nil {
		return reconcile.Result{}, false
	}
	err := r.cfg.MayLaunch()
	if err == nil {
		return reconcile.Result{}, false
	}
	if s.cell.Status.InstanceID == "" {
		s.cell.Status.Phase = v1beta1.CellPending
	}
	r.say(s, v1beta1.ReasonNotEntitled, "the marketplace does not allow Kip to launch: "+err.Error())
	return reconcile.Result{RequeueAfter: entitlementRecheck}, true
}

// choose returns the offering to try next. If there is none it leaves the Cell
// Pending with the reason, and says when to look again.
func (r *Reconciler) choose(ctx context.Context, s *scope, a *attempt) (*instancetype.Offering, reconcile.Result) {
	req, opts, err := r.options(ctx, &s.cell.Spec)
	if err != nil {
		return nil, r.refused(s, err)
	}
	opts.Limit = 1
	if len(opts.Zones) > 0 {
		opts.Zones = slices.DeleteFunc(opts.Zones, func(z string) bool { return a.full[z] >= subnetsPerZone })
		if len(opts.Zones) == 0 {
			return nil, r.refused(s, a.refusal)
		}
		opts.Zones = spread(opts.Zones, s.cell.UID)
	}
	if len(a.barred) > 0 {
		types := req.CapacityTypes
		if len(types) == 0 {
			types = []v1beta1.CapacityType{v1beta1.OnDemand}
		}
		req.CapacityTypes = slices.DeleteFunc(slices.Clone(types), func(t v1beta1.CapacityType) bool { return a.barred[t] })
		if len(req.CapacityTypes) == 0 {
			return nil, r.refused(s, a.refusal)
		}
	}
	if len(a.below) > 0 {
		opts.Limit = 0
	}
	found := r.cfg.Offerings(req, opts)
	fitting := slices.DeleteFunc(found.Offerings, func(o instancetype.Offering) bool {
		limit, limited := a.below[o.CapacityType]
		return limited && o.VCPUs >= limit
	})
	switch {
	case len(fitting) > 0:
		a.vcpus = fitting[0].VCPUs
		return &fitting[0], reconcile.Result{}
	case found.Err() == nil:
		return nil, r.refused(s, a.refusal)
	}
	if again := r.probe(req, opts, a); again != nil {
		return again, reconcile.Result{}
	}
	return nil, r.nothingFits(s, a, found.Err())
}

// spread begins the zones at a place that differs from Cell to Cell and is the
// same whenever one Cell is looked at: prices do not tell zones apart, and
// replicas in one zone would all go with it.
func spread(zones []string, uid types.UID) []string {
	h := fnv.New32a()
	fmt.Fprint(h, uid)
	first := int(h.Sum32() % uint32(len(zones)))
	return slices.Concat(zones[first:], zones[:first])
}

// launchOf is the Cell's next intent.
func (r *Reconciler) launchOf(s *scope, o *instancetype.Offering) *v1beta1.LaunchStatus {
	launch := &v1beta1.LaunchStatus{
		InstanceType: o.InstanceType, Zone: o.Zone, CapacityType: o.CapacityType, Architecture: o.Architecture,
		HourlyUSD: o.Price(), Time: metav1.NewTime(r.cfg.Clock.Now()),
	}
	launch.Authorities = r.cfg.Authorities
	if before := s.cell.Status.Launch; before != nil {
		launch.Number = before.Number + 1
		// User data was made already, and stays what it is for a Cell's life.
		launch.Authorities = before.Authorities
	}
	return launch
}

// intend writes down which offering is asked for next. From here on an
// instance may exist.
func (r *Reconciler) intend(ctx context.Context, s *scope, launch *v1beta1.LaunchStatus) error {
	status := &s.cell.Status
	status.Launch, status.Phase = launch, v1beta1.CellLaunching
	s.condition(metav1.ConditionFalse, v1beta1.ReasonLaunching, "launching "+describe(launch))
	s.mem.token, s.mem.ambiguous = "", false
	if err := r.write(ctx, s); err != nil {
		return err
	}
	s.mem.token = s.token()
	return nil
}

// create asks the cloud for the intended instance. Again says that the next
// offering may be tried at once.
func (r *Reconciler) create(ctx context.Context, s *scope, a *attempt) (again bool, result reconcile.Result, err error) {
	launch := s.cell.Status.Launch
	log := s.log.With("type", launch.InstanceType, "zone", launch.Zone, "capacityType", launch.CapacityType)
	if reached := r.limits.Launch(s.cell); reached != nil {
		if found, result, err := r.adopt(ctx, s); found {
			return false, result, err
		}
		return false, r.limited(s, reached), nil
	}
	begin := r.cfg.Clock.Now()
	instance, err := r.cfg.Cloud.Create(ctx, cloudprovider.LaunchRequest{
		ClientToken: s.token(), CellName: s.cell.Name, CellUID: s.cell.UID, Pod: s.cell.Spec.Pod.DeepCopy(),
		Launch: *launch, UserData: a.userData, VolumeGiB: s.cell.Spec.Requirements.VolumeGiB,
		CPU: s.cell.Spec.Requirements.CPU, Instance: *s.cell.Spec.Instance.DeepCopy(),
	})
	if cloudprovider.Held(err) {
		// Nothing was asked. The intent stands and waits for its turn.
		return false, r.refusedKeeping(s, err), nil
	}
	took := r.cfg.Clock.Since(begin)
	r.metrics.launched(err, took)
	kind := cloudprovider.KindOf(err)
	switch {
	case err == nil && !instance.State.Alive():
		s.mem.instanceID, s.cell.Status.InstanceID = instance.ID, instance.ID
		result, err = r.lose(ctx, s, fmt.Sprintf("instance %s is %s: %s", instance.ID, instance.State, instance.StateReason))
		return false, result, err
	case err == nil:
		log.Info("instance launched", "instance", instance.ID, "address", instance.PrimaryIP, "took", took)
		return false, reconcile.Result{RequeueAfter: r.cfg.BootTimeout}, r.launchedAs(ctx, s, instance)
	case kind == cloudprovider.Terminated:
		result, err = r.lose(ctx, s, "the instance was terminated before Kip knew its ID: "+err.Error())
		return false, result, err
	}
	log.Warn("launch failed", "kind", kind, "err", err)
	a.refusal = err
	if !kind.Definite() {
		s.mem.ambiguous = true
	}
	if !kind.Definite() && kind != cloudprovider.TokenConflict {
		// This very call may have launched something.
		s.mem.absentLook = 0
		r.touching(s)
	}
	if s.mem.ambiguous {
		return r.settle(ctx, s, a, err)
	}
	return r.react(s, a, err)
}

// settle handles a failed call when it, or an earlier one for the same intent,
// may have launched an instance: the intent stands until that is known.
func (r *Reconciler) settle(ctx context.Context, s *scope, a *attempt, cause error) (again bool, result reconcile.Result, err error) {
	if found, result, err := r.adopt(ctx, s); found {
		return false, result, err
	}
	kind := cloudprovider.KindOf(cause)
	if (kind.Definite() || kind == cloudprovider.TokenConflict) && r.provenAbsent(s) {
		s.mem.ambiguous = false
		return r.react(s, a, cause)
	}
	return false, r.refusedKeeping(s, cause), nil
}

// adopt takes the instance of a launch that had no answer, if one is seen.
func (r *Reconciler) adopt(ctx context.Context, s *scope) (found bool, result reconcile.Result, err error) {
	i := r.seen.launched(s.cell.UID, s.token())
	if i == nil {
		return false, reconcile.Result{}, nil
	}
	s.log.Info("instance of an unanswered launch found", "instance", i.ID)
	return true, reconcile.Result{RequeueAfter: r.cfg.BootTimeout}, r.launchedAs(ctx, s, i)
}

// launchedAs records the instance. It is written at once, since dialling the
// cell begins with it.
func (r *Reconciler) launchedAs(ctx context.Context, s *scope, i *cloudprovider.Instance) error {
	// Should the write fail the call is repeated, and a refusal then says nothing
	// of this one.
	s.mem.instanceID, s.mem.ambiguous = i.ID, true
	r.touching(s)
	status := &s.cell.Status
	status.InstanceID, status.Phase = i.ID, v1beta1.CellBooting
	if status.Launch.Zone == "" {
		status.Launch.Zone = i.Zone
	}
	addresses(s.cell, i)
	s.condition(metav1.ConditionFalse, v1beta1.ReasonBooting, fmt.Sprintf("instance %s (%s) is booting", i.ID, i.InstanceType))
	s.mem.failures, s.mem.tried, s.mem.told, s.mem.absentLook = 0, nil, "", 0
	r.unavailable.Clear(offeringOf(status.Launch))
	r.event(s, corev1.EventTypeNormal, "Launched", fmt.Sprintf("launched %s: %s", i.ID, describe(s.cell.Status.Launch)))
	return r.write(ctx, s)
}

// addresses copies what the cloud knows; an ended instance has none any more,
// and the old ones stay for the record.
func addresses(cell *v1beta1.Cell, i *cloudprovider.Instance) {
	status := &cell.Status
	for _, a := range []struct {
		to   *string
		from string
	}{
		{&status.PrimaryIP, i.PrimaryIP}, {&status.PodIP, i.PodIP}, {&status.PublicIP, i.PublicIP},
		{&status.NetworkInterfaceID, i.NetworkInterface},
	} {
		if a.from != "" {
			*a.to = a.from
		}
	}
}

// nothingFits is the answer when the catalogue offers nothing: for good, or
// because all of it was refused lately.
func (r *Reconciler) nothingFits(s *scope, a *attempt, err error) reconcile.Result {
	noFit, ok := errors.AsType[*instancetype.NoFitError](err)
	if !ok || noFit.RetryAt.IsZero() {
		if a.refusal != nil && kindBars(cloudprovider.KindOf(a.refusal)) {
			return r.refused(s, a.refusal)
		}
		r.pending(s, v1beta1.ReasonNoInstanceTypeFits, err.Error())
		return reconcile.Result{RequeueAfter: catalogueRecheck}
	}
	r.pending(s, v1beta1.ReasonInsufficientCapacity, soldOut(s.mem))
	return reconcile.Result{RequeueAfter: capacityRecheck}
}

// describe is an offering in a user's words.
func describe(l *v1beta1.LaunchStatus) string {
	zone := l.Zone
	if zone == "" {
		zone = "any zone"
	}
	return fmt.Sprintf("%s (%s) in %s for %s USD per hour", l.InstanceType, l.CapacityType, zone, l.HourlyUSD)
}
