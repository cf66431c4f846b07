package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

const (
	// upstreamRate and upstreamBurst limit what one cell can make the API
	// server do. A pod of 100 ConfigMaps and Secrets needs some 200 requests at
	// its start, and hardly any later.
	upstreamRate, upstreamBurst = 20, 400
	// eventRate and eventBurst limit a cell's events: one a second, as the
	// kubelet's own recorder does over a longer time.
	eventRate, eventBurst = 1, 50
	// reportRate and reportBurst limit a cell's reports of its pod's use, which
	// come every 15 seconds: reading one is work.
	reportRate, reportBurst = 0.2, 3
	// cacheReportRate and cacheReportBurst limit a cell's reports about the image
	// cache: a few for each layer at most.
	cacheReportRate, cacheReportBurst = 0.2, 40
	// maxEvents is how many of its own events a cell may add to later.
	maxEvents = 256
)

// cellState is what the gateway keeps of a cell between requests. Nothing of
// it outlives the process, and nothing is lost with it: the kubelet writes it
// again.
type cellState struct {
	g    *Gateway
	name string

	inFlight atomic.Int64
	// These are the cell's budgets.
	upstreamLimit, eventLimit, reportLimit, cacheReportLimit *rate.Limiter

	pod  podView
	node nodeView

	mu      sync.Mutex
	lease   *coordinationv1.Lease
	csiNode *storagev1.CSINode
	// events are the names of the events that this cell made, oldest first.
	events []eventKey
	// missing is what was told not to be there.
	missing map[Missing]bool
	// stream is the newest that the cell's watches share; nil before there was one.
	stream *watchStream
	// streams are the proxied watches that end with the pod.
	streams map[*context.CancelFunc]struct{}
}

func newCellState(g *Gateway, name string) *cellState {
	return &cellState{
		g:                g,
		name:             name,
		upstreamLimit:    rate.NewLimiter(upstreamRate, upstreamBurst),
		eventLimit:       rate.NewLimiter(rate.Every(time.Second/eventRate), eventBurst),
		cacheReportLimit: rate.NewLimiter(cacheReportRate, cacheReportBurst),
		reportLimit:      rate.NewLimiter(reportRate, reportBurst),
		pod:              podView{single: watchcache.NewSingle(corev1.SchemeGroupVersion.WithKind("Pod"), g.versions)},
		node: nodeView{
			single: watchcache.NewSingle(corev1.SchemeGroupVersion.WithKind("Node"), g.versions),
			// The API server would have made it about now.
			created: g.clock.Now(),
		},
		missing: map[Missing]bool{},
		streams: map[*context.CancelFunc]struct{}{},
	}
}

// untilPodGone derives a context that ends when the cell's pod goes. The
// caller calls done in the end.
func (c *cellState) untilPodGone(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	c.streams[&cancel] = struct{}{}
	c.mu.Unlock()
	return ctx, func() {
		cancel()
		c.mu.Lock()
		delete(c.streams, &cancel)
		c.mu.Unlock()
	}
}

// endStreams ends all proxied watches of the cell.
func (c *cellState) endStreams() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for cancel := range c.streams {
		(*cancel)()
	}
}
