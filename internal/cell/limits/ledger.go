package limits

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// rateWindow is what launches are counted in.
const rateWindow = time.Minute

// Ledger knows what the Cells of one virtual node commit Kip to. All methods may
// be called at any time and from anywhere, and answer from memory.
type Ledger struct {
	limits  Limits
	clock   clock.PassiveClock
	metrics *metrics
	freed   chan struct{}

	mu          sync.Mutex
	commitments map[string]commitment // by Cell
	all         sum
	namespaces  map[string]sum
	// launches of the last minute, the oldest first. What was refused for good
	// is taken out, what became of a Cell later is not.
	launches []launch
	waiting  line
}

// commitment is what one Cell's instance costs, as of a version of the Cell.
type commitment struct {
	namespace string
	microUSD  int64
	version   string
	// given: the namespace is that of a pod that is not in the Cell yet.
	given bool
}

// sum is of commitments.
type sum struct {
	instances int
	microUSD  int64
}

func (s sum) plus(microUSD int64) sum  { return sum{s.instances + 1, s.microUSD + microUSD} }
func (s sum) minus(microUSD int64) sum { return sum{s.instances - 1, s.microUSD - microUSD} }

type launch struct {
	cell string
	at   time.Time
}

// New makes a ledger without entries and registers its metrics.
func New(l Limits, clk clock.PassiveClock, reg prometheus.Registerer) (*Ledger, error) {
	m, err := newMetrics(reg)
	if err != nil {
		return nil, fmt.Errorf("limits: registering metrics: %w", err)
	}
	return &Ledger{
		limits: l, clock: clk, metrics: m, freed: make(chan struct{}, 1),
		commitments: map[string]commitment{}, namespaces: map[string]sum{},
	}, nil
}

// Limited reports whether anything is limited. If not, nothing is ever refused.
func (l *Ledger) Limited() bool { return l.limits.any() }

// CountsLaunches reports whether it makes a difference when something was launched.
func (l *Ledger) CountsLaunches() bool { return l.limits.LaunchesPerMinute != nil }

// Fill enters what an earlier Kip committed to: cells must be all, as the API
// server has them. Call it before anything else.
func (l *Ledger) Fill(cells []v1beta1.Cell) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range cells {
		l.note(&cells[i])
		if p := cells[i].Status.Phase; p == v1beta1.CellLaunching || p == v1beta1.CellBooting {
			// The cloud may not show it yet, if it was launched a moment ago.
			l.launched(cells[i].Name, l.clock.Now())
		}
	}
}

// FillLaunches enters what an earlier Kip launched: instances must be all that
// the cloud still knows, terminated ones included. Call it before the first Room.
func (l *Ledger) FillLaunches(instances []cloudprovider.Instance) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range instances {
		at := i.LaunchTime.Add(time.Second) // clouds know whole seconds only
		if now := l.clock.Now(); at.After(now) {
			at = now // or another clock was ahead
		}
		if !slices.ContainsFunc(l.launches, func(x launch) bool { return x.cell == i.CellName }) {
			l.launched(i.CellName, at)
		}
	}
	slices.SortFunc(l.launches, func(a, b launch) int { return a.at.Compare(b.at) })
}

// committed says whether there may be an instance, now or in a moment.
func committed(c *v1beta1.Cell) bool {
	if c.DeletionTimestamp != nil && !controllerutil.ContainsFinalizer(c, v1beta1.Finalizer) {
		return false
	}
	return c.Status.InstanceID != "" || c.Status.Phase != "" && c.Status.Phase != v1beta1.CellPending
}

// waits says whether a limit is what keeps the Cell from being launched.
func waits(c *v1beta1.Cell) bool {
	ready := meta.FindStatusCondition(c.Status.Conditions, v1beta1.ConditionReady)
	return c.DeletionTimestamp == nil && ready != nil && ready.Reason == v1beta1.ReasonLimitReached
}

func namespaceOf(c *v1beta1.Cell) string {
	if c.Spec.Pod == nil {
		return ""
	}
	return c.Spec.Pod.Namespace
}

// Note enters what a Cell says, as the API server has it or had it: an older
// version than is known is no news. It may be more than is allowed: what is, is.
func (l *Ledger) Note(cell *v1beta1.Cell) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.commitments[cell.Name]; ok {
		order, err := resourceversion.CompareResourceVersion(cell.ResourceVersion, c.version)
		if err == nil && (order < 0 || order == 0 && c.given) {
			return
		}
	}
	l.note(cell)
	if p := cell.Status.Phase; !committed(cell) && cell.DeletionTimestamp == nil && p == v1beta1.CellPending {
		// What was claimed was refused.
		l.launches = slices.DeleteFunc(l.launches, func(x launch) bool { return x.cell == cell.Name })
	}
	if !waits(cell) {
		l.leave(cell.Name)
	}
}

func (l *Ledger) note(cell *v1beta1.Cell) {
	if committed(cell) {
		l.enter(cell.Name, commitment{namespace: namespaceOf(cell), microUSD: MicroUSD(cell.Status.Launch), version: cell.ResourceVersion})
	} else {
		l.remove(cell.Name)
	}
}

// Knows reports whether a Cell counts.
func (l *Ledger) Knows(cell string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.commitments[cell]
	return ok
}

// Forget takes out a Cell that does not exist any more.
func (l *Ledger) Forget(cell string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(cell)
	l.leave(cell)
}

// Room says what keeps a Cell from being launched for a price, nil if nothing
// does. It commits to nothing. At price 0, before an offering was chosen, it
// says whether choosing one is of any use.
func (l *Ledger) Room(cell *v1beta1.Cell, microUSD int64) *Reached {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wait(cell, microUSD, l.room(cell.Name, namespaceOf(cell), microUSD))
}

// Claim is Room for a launch that is about to be written down, and enters it if
// there is room. Note takes it out when the Cell says otherwise.
func (l *Ledger) Claim(cell *v1beta1.Cell, microUSD int64) *Reached {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.wait(cell, microUSD, l.room(cell.Name, namespaceOf(cell), microUSD)); r != nil {
		return r
	}
	l.leave(cell.Name)
	l.enter(cell.Name, commitment{namespace: namespaceOf(cell), microUSD: microUSD, version: cell.ResourceVersion})
	l.launched(cell.Name, l.clock.Now())
	return nil
}

// Give enters that a standby cell is about to get a pod of the namespace, if that
// has room for it. For all namespaces together nothing changes, and nothing is
// launched; unless its instance is kept stopped: that costs more when it runs, and
// to start it is a launch. TakeBack undoes it, and so does Note when the Cell says
// otherwise.
func (l *Ledger) Give(cell *v1beta1.Cell, namespace string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.limits.any() {
		return true
	}
	c, known := l.commitments[cell.Name]
	if !known {
		return false
	}
	if cell.KeptStopped() {
		c.microUSD = max(c.microUSD, microUSD(cell.Status.Stop.RunningUSD))
		if l.room(cell.Name, namespace, c.microUSD) != nil {
			return false
		}
	} else if exceeds(l.limits.of(namespace), l.namespaces[namespace], namespace, c.microUSD, NamespaceInstances, NamespaceHourlyUSD) != nil {
		return false
	}
	c.namespace, c.version, c.given = namespace, cell.ResourceVersion, true
	l.enter(cell.Name, c)
	return true
}

// TakeBack says that the Cell was not given its pod after all.
func (l *Ledger) TakeBack(cell *v1beta1.Cell) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.commitments[cell.Name]; ok && c.given {
		c.namespace, c.microUSD, c.given = namespaceOf(cell), MicroUSD(cell.Status.Launch), false
		l.enter(cell.Name, c)
	}
}

// Launch is asked right before the cloud is. What it may refuse is a request
// that is repeated, long after it was claimed: it launches only now.
func (l *Ledger) Launch(cell *v1beta1.Cell) *Reached {
	l.mu.Lock()
	defer l.mu.Unlock()
	microUSD := MicroUSD(cell.Status.Launch)
	if r := l.wait(cell, microUSD, l.rate(cell.Name)); r != nil {
		return r
	}
	l.leave(cell.Name)
	l.launched(cell.Name, l.clock.Now())
	return nil
}

// launched counts a launch, once for a Cell. The caller holds mu.
func (l *Ledger) launched(cell string, at time.Time) {
	if !l.CountsLaunches() {
		return
	}
	now := l.clock.Now()
	l.launches = append(slices.DeleteFunc(l.launches, func(x launch) bool {
		return x.cell == cell || now.Sub(x.at) >= rateWindow
	}), launch{cell, at})
}

// enter replaces what is known of a Cell. The caller holds mu.
func (l *Ledger) enter(cell string, c commitment) {
	if was, ok := l.commitments[cell]; ok && was.namespace == c.namespace && was.microUSD == c.microUSD {
		l.commitments[cell] = c
		return
	}
	l.remove(cell)
	l.commitments[cell] = c
	l.all = l.all.plus(c.microUSD)
	l.namespaces[c.namespace] = l.namespaces[c.namespace].plus(c.microUSD)
	l.metrics.show(l.all)
}

// remove takes a Cell's commitment out, and tells who waits. The caller holds mu.
func (l *Ledger) remove(cell string) {
	c, ok := l.commitments[cell]
	if !ok {
		return
	}
	delete(l.commitments, cell)
	l.all = l.all.minus(c.microUSD)
	if s := l.namespaces[c.namespace].minus(c.microUSD); s.instances > 0 {
		l.namespaces[c.namespace] = s
	} else {
		delete(l.namespaces, c.namespace)
	}
	l.metrics.show(l.all)
	if len(l.waiting) > 0 {
		select {
		case l.freed <- struct{}{}:
		default:
		}
	}
}

// room says what keeps a Cell from costing so much. What it has committed to
// already does not count against it. The caller holds mu.
func (l *Ledger) room(cell, namespace string, microUSD int64) *Reached {
	all, own := l.all, l.namespaces[namespace]
	if c, ok := l.commitments[cell]; ok {
		all = all.minus(c.microUSD)
		if c.namespace == namespace {
			own = own.minus(c.microUSD)
		}
	}
	if r := exceeds(l.limits.Caps, all, namespace, microUSD, Instances, HourlyUSD); r != nil {
		return r
	}
	if r := exceeds(l.limits.of(namespace), own, namespace, microUSD, NamespaceInstances, NamespaceHourlyUSD); r != nil {
		return r
	}
	return l.rate(cell)
}

func exceeds(c Caps, has sum, namespace string, microUSD int64, instances, usd Limit) *Reached {
	with := has.plus(microUSD)
	switch {
	case c.Instances != nil && with.instances > *c.Instances:
		return refusal(instances, namespace, microUSD, int64(*c.Instances))
	case c.HourlyMicroUSD != nil && with.microUSD > *c.HourlyMicroUSD:
		return refusal(usd, namespace, microUSD, *c.HourlyMicroUSD)
	}
	return nil
}

// rate says whether a launch would be one too many in this minute. The caller
// holds mu.
func (l *Ledger) rate(cell string) *Reached {
	if !l.CountsLaunches() {
		return nil
	}
	allowed, now := *l.limits.LaunchesPerMinute, l.clock.Now()
	var recent []time.Time
	for _, x := range l.launches {
		if x.cell != cell && now.Sub(x.at) < rateWindow {
			recent = append(recent, x.at)
		}
	}
	if len(recent) < allowed {
		return nil
	}
	r := refusal(LaunchesPerMinute, "", 0, int64(allowed))
	if allowed > 0 {
		// Those that came before have the places that become free first.
		before := l.waiting.before(cell, LaunchesPerMinute)
		turn := recent[len(recent)-allowed+before%allowed].Add(rateWindow * time.Duration(1+before/allowed))
		r.RetryAfter = turn.Sub(now)
	}
	return r
}
