package standby

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// candidate is a cell that would do, and its price for the pod.
type candidate struct {
	cell *v1beta1.Cell
	usd  float64
}

// Candidates are the cells that a pod's Cell could be, instead of one that is
// launched, the best first: the cheapest, of these those that run, and of these
// the oldest. They are the cache's and must not be changed.
//
// A cell is what would be launched, or costs no more, or by the tolerance more.
// What was decided when it was launched must be what the pod wishes: nothing is
// changed about an instance that runs.
func (c *Controller) Candidates(ctx context.Context, spec v1beta1.CellSpec) ([]*v1beta1.Cell, error) {
	if !c.ordinary(spec) {
		return nil, nil
	}
	var list v1beta1.CellList
	err := c.cfg.Client.List(ctx, &list, client.MatchingFields{indexWaiting: c.cfg.NodeName}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("listing standby cells: %w", err)
	}
	cells := make([]*v1beta1.Cell, 0, len(list.Items))
	for i := range list.Items {
		if cell := &list.Items[i]; c.serves(cell, spec.Requirements) {
			cells = append(cells, cell)
		}
	}
	if len(cells) == 0 {
		return nil, nil
	}
	fit, next, err := c.cfg.Offerings(ctx, spec)
	if err != nil || len(fit) == 0 {
		return nil, err
	}
	if next == nil {
		next = &fit[0] // all was refused lately; what it would cost is known
	}
	limit := next.HourlyUSD * (1 + c.cfg.Tolerance)
	usd := make(map[instancetype.Key]float64, len(fit))
	for _, o := range fit {
		// A pod that is charged for CPU above the type's baseline needs an
		// instance that was launched for that.
		if o.Cost.Surplus == 0 && o.HourlyUSD <= limit {
			usd[o.Key()] = o.HourlyUSD
		}
	}
	var found []candidate
	for _, cell := range cells {
		l := cell.Status.Launch
		if price, ok := usd[instancetype.Key{InstanceType: l.InstanceType, Zone: l.Zone, CapacityType: l.CapacityType}]; ok {
			found = append(found, candidate{cell, price})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.usd, b.usd), boolCompare(a.cell.KeptStopped(), b.cell.KeptStopped()),
			a.cell.CreationTimestamp.Compare(b.cell.CreationTimestamp.Time), strings.Compare(a.cell.Name, b.cell.Name))
	})
	best := make([]*v1beta1.Cell, len(found))
	for i := range found {
		best[i] = found[i].cell
	}
	return best, nil
}

// ordinary says whether a Cell wishes nothing of its instance that a standby
// cell does not have: groups, profile and addresses are given at the launch, and
// routes are told to the agent in its user data.
func (c *Controller) ordinary(spec v1beta1.CellSpec) bool {
	s := spec.Instance
	return len(s.SecurityGroups) == 0 && s.InstanceProfile == "" && len(s.Routes) == 0 &&
		(s.PrivateIPOnly == nil || *s.PrivateIPOnly == c.cfg.PrivateIPOnly) &&
		spec.Requirements.VolumeGiB <= c.cfg.VolumeGiB
}

// serves says whether a cell can be given a pod, in a moment if its instance is
// stopped, and has the GPUs that the pod asks for: an agent hands out as many as
// it was told of at its launch.
func (c *Controller) serves(cell *v1beta1.Cell, req v1beta1.Requirements) bool {
	c.mu.Lock()
	current := c.current[keyOf(cell).instanceType]
	c.mu.Unlock()
	return cell.Waiting() && ready(cell) && cell.Status.Launch != nil && cell.Spec.Standby.Configuration == current &&
		cell.Spec.Requirements.GPUs == req.GPUs && c.answers(cell)
}

func (c *Controller) answers(cell *v1beta1.Cell) bool {
	if cell.KeptStopped() {
		return c.cfg.Startable(cell)
	}
	return c.cfg.Reachable(cell.Name)
}

// Reserve keeps a cell for a pod that is about to take it: of this Kip's pods no
// other gets it until it is released. False also if the pod's namespace has
// reached its limits.
func (c *Controller) Reserve(cell *v1beta1.Cell, namespace string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reserved[cell.UID] || !c.cfg.Limits.Give(cell, namespace) {
		return false
	}
	c.reserved[cell.UID] = true
	return true
}

// Release gives a reserved cell back that was not taken.
func (c *Controller) Release(cell *v1beta1.Cell) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.reserved, cell.UID)
	c.cfg.Limits.TakeBack(cell)
}
