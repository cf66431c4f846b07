package standby

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func (c *Controller) zones(ctx context.Context) ([]string, error) {
	if c.cfg.Zone != "" {
		return []string{c.cfg.Zone}, nil
	}
	return c.cfg.Zones(ctx)
}

// zonesOf counts cells by the zone in which they are, or which they are to go to.
func zonesOf(cells []*v1beta1.Cell) map[string]int {
	n := map[string]int{}
	for _, cell := range cells {
		switch l, zones := cell.Status.Launch, cell.Spec.Requirements.Zones; {
		case l != nil:
			n[l.Zone]++
		case len(zones) == 1:
			n[zones[0]]++
		}
	}
	return n
}

// emptiest is the zone with the fewest cells, the first of several; "" leaves it
// to whoever launches.
func emptiest(zones []string, there map[string]int) string {
	best := ""
	for i, zone := range zones {
		if i == 0 || there[zone] < there[best] {
			best = zone
		}
	}
	return best
}

// anywhere lets a cell go to any zone for which its own has no room: better two
// in one zone than none.
func (c *Controller) anywhere(ctx context.Context, cell *v1beta1.Cell) error {
	pending := cell.Status.Phase == v1beta1.CellPending && len(cell.Spec.Requirements.Zones) > 0 && c.cfg.Zone == ""
	switch reason(cell) {
	case v1beta1.ReasonInsufficientCapacity, v1beta1.ReasonSubnetFull, v1beta1.ReasonNoInstanceTypeFits:
	default:
		pending = false
	}
	if !pending {
		return nil
	}
	free := cell.DeepCopy()
	free.Spec.Requirements.Zones = nil
	if err := c.cfg.Client.Update(ctx, free); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("letting standby cell %s go to any zone: %w", cell.Name, err)
	}
	return nil
}
