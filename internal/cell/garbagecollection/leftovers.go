package garbagecollection

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

const (
	// sweepInterval is how often leftovers are looked for. There are hardly ever
	// any, and they cost little.
	sweepInterval = 5 * time.Minute
	// leftoverGrace is for how long something must have been left over, at every
	// look of this Kip: volumes and interfaces are for a moment when an instance
	// begins and when it ends.
	leftoverGrace = 10 * time.Minute
)

// leftover identifies one.
type leftover struct {
	kind cloudprovider.LeftoverKind
	id   string
}

// sighting is what is known of a leftover from earlier looks.
type sighting struct {
	first time.Time
	told  bool
}

// sweep removes what has been left over for long enough. Where the cloud is not
// able to tell, there is nothing to do.
func (c *Collector) sweep(ctx context.Context) error {
	sweeper, ok := c.cfg.Cloud.(cloudprovider.Sweeper)
	now := c.cfg.Clock.Now()
	if !ok || now.Sub(c.swept) < sweepInterval {
		return nil
	}
	c.swept = now
	found, err := sweeper.Leftovers(ctx)
	if err != nil {
		err = fmt.Errorf("looking for leftovers: %w", err)
	}
	var list v1beta1.CellList
	if err := c.cfg.Cells.List(ctx, &list); err != nil {
		return fmt.Errorf("listing cells: %w", err)
	}
	used := map[string]bool{}
	for i := range list.Items {
		used[list.Items[i].Status.NetworkInterfaceID] = true
	}
	before := c.left
	c.left = map[leftover]*sighting{}
	errs := []error{err}
	for _, l := range found {
		if l.NetworkInterface != "" && used[l.NetworkInterface] {
			continue // its Cell takes care of it
		}
		key := leftover{l.Kind, l.ID}
		s := before[key]
		if s == nil {
			s = &sighting{first: now}
		}
		c.left[key] = s
		if now.Sub(s.first) >= leftoverGrace {
			errs = append(errs, c.remove(ctx, sweeper, l, s))
		}
	}
	return errors.Join(errs...)
}

func (c *Collector) remove(ctx context.Context, sweeper cloudprovider.Sweeper, l cloudprovider.Leftover, s *sighting) error {
	if c.cfg.DryRun {
		c.tellLeftover(l, s, "kept", "dry run, it is left as it is")
		return nil
	}
	err := sweeper.RemoveLeftover(ctx, l)
	switch {
	case err == nil:
		c.tellLeftover(l, s, "removed", "removed")
		return nil
	case cloudprovider.KindOf(err) == cloudprovider.Denied:
		c.tellLeftover(l, s, "kept", "Kip may not remove it: "+err.Error())
		return nil
	}
	return fmt.Errorf("removing %s %s: %w", l.Kind, l.ID, err)
}

// tellLeftover tells of one once.
func (c *Collector) tellLeftover(l cloudprovider.Leftover, s *sighting, result, then string) {
	if s.told {
		return
	}
	s.told = true
	c.leftovers.WithLabelValues(string(l.Kind), result).Inc()
	c.cfg.Logger.Warn("leftover of an instance", "kind", l.Kind, "id", l.ID, "cell", l.CellName, "then", then)
	c.cfg.Events.Eventf(c.node(), corev1.EventTypeWarning, "LeftoverFound", "%s %s carries this Kip's mark and belongs to nothing: %s", l.Kind, l.ID, then)
}
