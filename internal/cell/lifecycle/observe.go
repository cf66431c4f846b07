package lifecycle

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// How often the cloud is asked what became of the instances.
const (
	// hurriedLook: while instances come or go, at these.
	hurriedLook = time.Second
	// idleLook: at all of them, to notice what ends by itself; once in this time
	// for each pageOf instances, so that looking costs no more the more there are.
	idleLook = 15 * time.Second
	pageOf   = 1000
	// slowestLook: while it fails.
	slowestLook = time.Minute
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

// look is when the cloud was asked.
type look struct {
	number uint64 // 0: it was not yet
	began  time.Time
}

// sight is a Cell's instances in the newest look that would have shown them, in
// the order of their IDs. It does not change.
type sight struct {
	look
	instances []cloudprovider.Instance
}

// observer holds what was seen last, of all Cells.
type observer struct {
	cloud cloudprovider.Provider
	// some is nil if the cloud can only be asked for all instances.
	some  cloudprovider.CellLister
	clock clock.PassiveClock

	mu    sync.Mutex
	begun uint64
	// all is the newest look at all instances. cells has what was seen in it or
	// since; a Cell that is not there had no instance in it.
	all   look
	cells map[types.UID]sight
	// moving are Cells in transition, and the last look that was at them.
	moving map[types.UID]uint64
	poke   chan struct{}
}

func newObserver(cloud cloudprovider.Provider, clk clock.PassiveClock) *observer {
	some, _ := cloud.(cloudprovider.CellLister)
	return &observer{cloud: cloud, some: some, clock: clk, cells: map[types.UID]sight{}, moving: map[types.UID]uint64{}, poke: make(chan struct{}, 1)}
}

// transitional says whether something about the Cell's instance is about to
// change.
func (o *observer) transitional(uid types.UID, yes bool) {
	o.mu.Lock()
	_, was := o.moving[uid]
	first := yes && len(o.moving) == 0
	switch {
	case !yes:
		delete(o.moving, uid)
	case !was:
		o.moving[uid] = 0
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
	return o.idle()
}

// idle is how often to look at all instances.
func (o *observer) idle() time.Duration {
	return idleLook * time.Duration(max(1, (len(o.cells)+pageOf-1)/pageOf))
}

// mark is the number of the newest look that began: it and older ones do not
// show what is done to the cloud from now on.
func (o *observer) mark() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.begun
}

// latest returns what was seen of a Cell last, false if that is too old to show
// anything since the given mark.
func (o *observer) latest(cell types.UID, since uint64) (sight, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, ok := o.cells[cell]
	if !ok {
		s.look = o.all
	}
	return s, s.number > since
}

// launched returns the living instance of an intent, if any look showed one:
// what exists needs no newer look to be believed.
func (o *observer) launched(cell types.UID, token string) *cloudprovider.Instance {
	s, _ := o.latest(cell, 0)
	for _, i := range s.instances {
		if i.ClientToken == token && i.State.Alive() {
			return &i
		}
	}
	return nil
}

// look asks the cloud and returns the names of the Cells for which the answer
// is news.
func (o *observer) look(ctx context.Context) ([]string, error) {
	now, some := o.begin()
	var all []cloudprovider.Instance
	var err error
	if some == nil {
		all, err = o.cloud.List(ctx)
	} else {
		all, err = o.some.ListCells(ctx, some)
	}
	if err != nil {
		return nil, fmt.Errorf("listing instances: %w", err)
	}
	found := map[types.UID]sight{}
	for _, cell := range some {
		found[cell] = sight{look: now} // it may have no instance
	}
	for _, i := range all {
		s := found[i.CellUID]
		s.look, s.instances = now, append(s.instances, i)
		found[i.CellUID] = s
	}
	for _, s := range found {
		slices.SortFunc(s.instances, func(a, b cloudprovider.Instance) int { return strings.Compare(a.ID, b.ID) })
	}
	return o.take(now, found, some == nil), nil
}

// begin begins a look: at all instances (nil) when it is time to, or nothing
// moves, or else at the Cells in transition that have not been looked at for
// longest.
func (o *observer) begin() (now look, some []types.UID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.begun++
	now = look{o.begun, o.clock.Now()}
	if o.some == nil || len(o.moving) == 0 || o.all.number == 0 || now.began.Sub(o.all.began) >= o.idle() {
		return now, nil
	}
	some = slices.SortedFunc(maps.Keys(o.moving), func(a, b types.UID) int {
		return cmp.Or(cmp.Compare(o.moving[a], o.moving[b]), cmp.Compare(a, b))
	})
	some = some[:min(len(some), cloudprovider.CellsAtOnce)]
	for _, cell := range some {
		o.moving[cell] = now.number
	}
	return now, some
}

// take makes what a look found the newest, but for what a later one did, and
// returns the names of the Cells whose instances are not as they were.
func (o *observer) take(now look, found map[types.UID]sight, all bool) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	news := map[string]bool{}
	replace := func(cell types.UID, after []cloudprovider.Instance) {
		before := o.cells[cell].instances
		if slices.Equal(before, after) {
			return
		}
		for _, i := range slices.Concat(before, after) {
			news[i.CellName] = true
		}
	}
	if all && now.number > o.all.number {
		o.all = now
		for cell, s := range o.cells {
			if _, still := found[cell]; !still && s.number < now.number {
				replace(cell, nil)
				delete(o.cells, cell)
			}
		}
	}
	for cell, s := range found {
		if now.number >= max(o.all.number, o.cells[cell].number) {
			replace(cell, s.instances)
			o.cells[cell] = s
		}
	}
	delete(news, "")
	return slices.Sorted(maps.Keys(news))
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
	seen, ok := r.seen.latest(s.cell.UID, s.mem.touched)
	if !ok {
		return nil, false
	}
	if len(seen.instances) > 0 {
		s.mem.absentLook = 0
	}
	return seen.instances, true
}

// provenAbsent says that the Cell has no instance: two looks, some time apart,
// long enough after the launch, did not find one.
func (r *Reconciler) provenAbsent(s *scope) bool {
	seen, ok := r.seen.latest(s.cell.UID, s.mem.touched)
	if !ok {
		return false
	}
	if len(seen.instances) > 0 {
		s.mem.absentLook = 0
		return false
	}
	if s.mem.absentLook == 0 {
		s.mem.absentLook, s.mem.absentSince = seen.number, seen.began
		return false
	}
	return seen.number > s.mem.absentLook && seen.began.Sub(s.mem.absentSince) >= absenceGrace &&
		(s.cell.Status.Launch == nil || seen.began.Sub(s.cell.Status.Launch.Time.Time) >= youngLaunch)
}

// touching is called after every call that may have changed something in the
// cloud: looks that began before prove nothing any more.
func (r *Reconciler) touching(s *scope) { s.mem.touched = r.seen.mark() }
