package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// How often the cloud is asked what became of the instances: one List for all
// of them.
const (
	hurriedLook = time.Second      // while instances come or go
	idleLook    = 15 * time.Second // only to notice what ends by itself
	slowestLook = time.Minute      // while List fails
)

// What must be true before an instance that is not found counts as not there.
const (
	// youngLaunch: an instance may be missing from List for some seconds after
	// its launch; a minute is far more than was ever seen.
	youngLaunch = time.Minute
	// absenceGrace lies between the two looks that did not find it, and covers
	// a request that was still on its way when the first look began.
	absenceGrace = 15 * time.Second
)

// look is one answer of List. It does not change.
type look struct {
	number    uint64 // 0: there was none yet
	began     time.Time
	instances map[string]cloudprovider.Instance
	byCell    map[types.UID][]string // IDs
}

// observer holds the newest look, for all Cells.
type observer struct {
	cloud cloudprovider.Provider
	clock clock.PassiveClock

	mu     sync.Mutex
	begun  uint64
	newest *look
	moving map[types.UID]bool // Cells in transition
	poke   chan struct{}
}

func newObserver(cloud cloudprovider.Provider, clk clock.PassiveClock) *observer {
	return &observer{cloud: cloud, clock: clk, newest: &look{}, moving: map[types.UID]bool{}, poke: make(chan struct{}, 1)}
}

// transitional says whether something about the Cell's instance is about to
// change.
func (o *observer) transitional(uid types.UID, yes bool) {
	o.mu.Lock()
	first := yes && len(o.moving) == 0
	if yes {
		o.moving[uid] = true
	} else {
		delete(o.moving, uid)
	}
	o.mu.Unlock()
	if first {
		select {
		case o.poke <- struct{}{}:
		default:
		}
	}
}

func (o *observer) interval() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.moving) > 0 {
		return hurriedLook
	}
	return idleLook
}

// mark is the number of the newest look that began: it and older ones do not
// show what is done to the cloud from now on.
func (o *observer) mark() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.begun
}

// latest returns the newest look, nil if it is too old to show anything since
// the given mark.
func (o *observer) latest(since uint64) *look {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.newest.number <= since {
		return nil
	}
	return o.newest
}

// launched returns the living instance of an intent, if any look showed one:
// what exists needs no newer look to be believed.
func (o *observer) launched(cell types.UID, token string) *cloudprovider.Instance {
	l := o.latest(0)
	if l == nil {
		return nil
	}
	for _, id := range l.byCell[cell] {
		if i := l.instances[id]; i.ClientToken == token && i.State.Alive() {
			return &i
		}
	}
	return nil
}

// look asks the cloud and returns the names of the Cells for which the answer
// is news.
func (o *observer) look(ctx context.Context) ([]string, error) {
	o.mu.Lock()
	o.begun++
	now := &look{number: o.begun, began: o.clock.Now(), instances: map[string]cloudprovider.Instance{}, byCell: map[types.UID][]string{}}
	o.mu.Unlock()
	all, err := o.cloud.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing instances: %w", err)
	}
	for _, i := range all {
		now.instances[i.ID] = i
		now.byCell[i.CellUID] = append(now.byCell[i.CellUID], i.ID)
	}
	o.mu.Lock()
	before := o.newest
	if now.number > before.number {
		o.newest = now
	}
	o.mu.Unlock()
	return now.news(before), nil
}

// news are the Cells whose instances are not as they were.
func (l *look) news(before *look) []string {
	cells := map[string]bool{}
	for id, i := range l.instances {
		if i != before.instances[id] {
			cells[i.CellName] = true
		}
	}
	for id, i := range before.instances {
		if _, still := l.instances[id]; !still {
			cells[i.CellName] = true
		}
	}
	delete(cells, "")
	return slices.Sorted(maps.Keys(cells))
}

// Observe looks at the cloud once and returns the names of the Cells that
// should be reconciled because of it. Start calls it; simulations may instead.
func (r *Reconciler) Observe(ctx context.Context) ([]string, error) {
	names, err := r.seen.look(ctx)
	r.metrics.looked(err)
	return names, err
}

// found returns this Cell's instances in the newest look that shows what we
// did last; ok is false while there is no such look.
func (r *Reconciler) found(s *scope) (mine []cloudprovider.Instance, ok bool) {
	l := r.seen.latest(s.mem.touched)
	if l == nil {
		return nil, false
	}
	for _, id := range l.byCell[s.cell.UID] {
		mine = append(mine, l.instances[id])
	}
	if len(mine) > 0 {
		s.mem.absentLook = 0
	}
	return mine, true
}

// provenAbsent says that the Cell has no instance: two looks, some time apart,
// long enough after the launch, did not find one.
func (r *Reconciler) provenAbsent(s *scope) bool {
	l := r.seen.latest(s.mem.touched)
	if l == nil {
		return false
	}
	if len(l.byCell[s.cell.UID]) > 0 {
		s.mem.absentLook = 0
		return false
	}
	if s.mem.absentLook == 0 {
		s.mem.absentLook, s.mem.absentSince = l.number, l.began
		return false
	}
	return l.number > s.mem.absentLook && l.began.Sub(s.mem.absentSince) >= absenceGrace &&
		(s.cell.Status.Launch == nil || l.began.Sub(s.cell.Status.Launch.Time.Time) >= youngLaunch)
}

// touching is called after every call that may have changed something in the
// cloud: looks that began before prove nothing any more.
func (r *Reconciler) touching(s *scope) { s.mem.touched = r.seen.mark() }
