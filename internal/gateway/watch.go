package gateway

import (
	"math/rand/v2"
	"time"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

const (
	// minWatchTimeout is how long a watch lasts for which the client names no
	// time; up to twice that, so that clients do not come back all at once.
	minWatchTimeout = 30 * time.Minute
	// maxWatchTimeout is how long a watch lasts at most.
	maxWatchTimeout = 2 * time.Hour
)

// serveWatch answers a watch from a source in Kip's memory. own says that it is
// of the cell alone, and that State knows of changes before the source does.
func (c *call) serveWatch(src watchcache.Source, sel watchcache.Selector, own bool) error {
	o := c.req.options
	watch := watchcache.WatchOptions{Selector: sel, Bookmarks: o.allowBookmarks}
	timeout := min(o.timeout, maxWatchTimeout)
	if timeout <= 0 {
		timeout = minWatchTimeout + rand.N(minWatchTimeout)
	}
	// "0" means any version that there is, which is always the newest here.
	unset := o.resourceVersion == "" || o.resourceVersion == "0"
	switch {
	case o.sendInitialEvents != nil:
		// Not older than the version asked for: the newest there is. A version
		// of the future can only come from a Kip whose clock was ahead.
		watch.InitialEvents, watch.InitialEventsEnd = *o.sendInitialEvents, *o.sendInitialEvents
	case unset:
		watch.InitialEvents = true
	}
	if !watch.InitialEvents && !unset {
		watch.From, _ = watchcache.ParseVersion(o.resourceVersion)
	}
	begun, err := watchcache.NewWatch(src, watch)
	if err == nil && c.stream != nil {
		return c.standing(begun, src, timeout, own)
	}
	if c.ended != nil {
		defer c.ended()
	}
	if err != nil {
		return err
	}
	var poke <-chan struct{}
	if own {
		changed, unsubscribe := c.g.state.Subscribe(c.name)
		defer unsubscribe()
		poke = changed
	}
	gauge := c.g.metrics.watches.WithLabelValues(c.req.resource.Resource)
	gauge.Inc()
	defer gauge.Dec()
	c.letGo()
	begun.Serve(c.ctx, c.w, timeout, c.g.clock, poke)
	return nil
}

// letGo forgets what the watch was allowed by. Each cell has ten watches that
// wait for hours, and what a call knows is no smaller than the pod.
func (c *call) letGo() {
	c.pod = nil
	c.cell = Cell{Name: c.cell.Name, NodeName: c.cell.NodeName, PodUID: c.cell.PodUID}
}
