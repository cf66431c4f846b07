package simulation

import (
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/gateway"
)

// callKind is whom a Kip asks.
type callKind int

const (
	inside callKind = iota // nobody: a moment at which others may go first
	toAPI
	toCloud
	toCell
)

// moment is when a Kip dies of a call.
type moment int

const (
	never moment = iota
	before
	after
)

// fate is what becomes of one call.
type fate struct {
	hold time.Duration // until it has its effect
	err  error         // instead of the effect
	lost error         // instead of the answer
	late time.Duration // until the answer arrives
	kill moment
}

func (f fate) word() string {
	s := ""
	if f.lost != nil {
		s += ", answer lost"
	}
	if f.kill == after {
		s += ", killed after"
	}
	return s
}

// plan is how much of what goes wrong in one world. Most worlds have some kinds
// of faults in plenty and others not at all: where everything fails nothing gets
// far enough to fail in an interesting way.
type plan struct {
	faultsFor time.Duration

	kill       float64 // a call kills its Kip
	apiFails   float64
	apiLost    float64
	apiSlow    float64
	cloudFails float64
	cloudLost  float64
	cloudSlow  float64
	cellFails  float64
	lag        time.Duration // of caches, at most
	duplicates float64
	bootHang   float64

	// Events of the world, each a mean time between two; 0 is never.
	kills, freezes, secondKips, stalls, relists, apiDown, cloudDown, partitions, cuts, wedges, clockJumps,
	instanceKills, instanceStops, interruptions, scheduledEvents, soldOut time.Duration
	deletePods, forceDeletes, deleteCells, annotate time.Duration
}

// newPlan draws one.
func (w *world) newPlan() plan {
	p := plan{faultsFor: w.between(4*time.Minute, 8*time.Minute), lag: 50 * time.Millisecond}
	rate := func(share float64, values ...float64) float64 {
		if !w.chance(share) {
			return 0
		}
		return values[w.rand.IntN(len(values))]
	}
	every := func(share float64, values ...time.Duration) time.Duration {
		if !w.chance(share) {
			return 0
		}
		return values[w.rand.IntN(len(values))]
	}
	p.kill = rate(0.5, 0.002, 0.01, 0.03)
	p.apiFails, p.apiLost, p.apiSlow = rate(0.3, 0.02, 0.2), rate(0.4, 0.02, 0.2), rate(0.3, 0.05, 0.3)
	p.cloudFails, p.cloudLost, p.cloudSlow = rate(0.4, 0.05, 0.3), rate(0.4, 0.05, 0.4), rate(0.4, 0.05, 0.3)
	p.cellFails = rate(0.3, 0.05, 0.3)
	p.lag = every(1, 50*time.Millisecond, time.Second, 5*time.Second)
	p.duplicates = rate(0.3, 0.1, 0.5)
	p.bootHang = rate(0.2, 0.1, 0.4)
	p.kills = every(0.3, 20*time.Second, time.Minute, 3*time.Minute)
	p.freezes = every(0.2, time.Minute, 3*time.Minute)
	p.secondKips = every(0.2, time.Minute, 3*time.Minute)
	p.stalls = every(0.3, 20*time.Second, time.Minute)
	p.relists = every(0.3, 20*time.Second, time.Minute)
	p.apiDown = every(0.2, time.Minute, 4*time.Minute)
	p.cloudDown = every(0.2, time.Minute, 4*time.Minute)
	p.partitions = every(0.3, 30*time.Second, 2*time.Minute)
	p.cuts = every(0.3, 10*time.Second, time.Minute)
	p.wedges = every(0.1, 2*time.Minute)
	p.clockJumps = every(0.1, time.Minute)
	p.instanceKills = every(0.3, 30*time.Second, 2*time.Minute)
	p.instanceStops = every(0.1, 2*time.Minute)
	p.interruptions = every(0.3, 30*time.Second, 2*time.Minute)
	p.scheduledEvents = every(0.1, 2*time.Minute)
	p.soldOut = every(0.3, time.Minute, 3*time.Minute)
	p.deletePods = every(0.7, 10*time.Second, 30*time.Second, 2*time.Minute)
	p.forceDeletes = every(0.2, time.Minute)
	p.deleteCells = every(0.2, time.Minute, 3*time.Minute)
	p.annotate = every(0.2, 30*time.Second)
	return p
}

// lag is how long news takes to reach a cache.
func (w *world) lag() time.Duration {
	if w.calm {
		return 10 * time.Millisecond
	}
	return w.between(0, w.plan.lag)
}

// reachable: the API server is.
func (w *world) reachable() bool { return w.calm || !time.Now().Before(w.apiBack) }

var errAway = apierrors.NewServiceUnavailable("scripted: the API server is away")

// fateOf draws a call's.
func (w *world) fateOf(k *kip, kind callKind, name string) (f fate) {
	if kind == inside {
		return f
	}
	p := &w.plan
	switch kind {
	case toAPI:
		f.late = w.between(0, 10*time.Millisecond)
	case toCloud:
		f.hold, f.late = w.between(0, 100*time.Millisecond), w.between(50*time.Millisecond, 500*time.Millisecond)
	}
	if w.calm {
		return f
	}
	if w.chance(p.kill) {
		f.kill = before
		if w.chance(0.5) {
			f.kill = after
		}
	}
	switch kind {
	case toAPI:
		switch {
		case !w.reachable():
			f.err, f.late = errAway, w.between(0, 2*time.Second)
		case w.chance(p.apiFails):
			f.err = errAway
		case w.chance(p.apiLost):
			f.lost = errors.New("scripted: connection reset")
		}
		if w.chance(p.apiSlow) {
			f.hold, f.late = w.between(0, 3*time.Second), w.between(0, 3*time.Second)
		}
	case toCloud:
		switch {
		case time.Now().Before(w.cloudBack):
			f.err, f.late = refusal(cloudprovider.Transient), w.between(0, 3*time.Second)
		case w.chance(p.cloudFails):
			kinds := []cloudprovider.Kind{cloudprovider.Throttled, cloudprovider.Transient, cloudprovider.Denied, cloudprovider.InsufficientCapacity, cloudprovider.QuotaExceeded}
			f.err = refusal(kinds[w.rand.IntN(len(kinds))])
		case w.chance(p.cloudLost):
			f.lost = refusal(cloudprovider.Transient)
		}
		if w.chance(p.cloudSlow) {
			f.hold, f.late = w.between(0, 8*time.Second), w.between(0, 8*time.Second)
		}
	case toCell:
		f.late = w.between(0, 20*time.Millisecond)
		if w.chance(p.cellFails) {
			f.err = errors.New("scripted: connection reset")
		}
	}
	return f
}

// schedule has the plan's events happen.
func (w *world) schedule() {
	p := &w.plan
	w.now(p.kills, "somebody kills Kip", func() {
		if k := w.someKip(); k != nil {
			k.kill()
		}
	})
	w.now(p.freezes, "Kip freezes", func() {
		if k := w.someKip(); k != nil {
			k.frozen = time.Now().Add(w.between(time.Second, time.Minute))
			w.tell("kip%d is frozen until %.0f", k.number, k.frozen.Sub(w.began).Seconds())
		}
	})
	w.now(p.secondKips, "another Kip", func() {
		if len(w.alive()) != 1 {
			return
		}
		old := w.alive()[0]
		w.several = true
		w.start()
		// There is no Lease here. With one the older would end within 9 s (ADR 44).
		w.after(w.between(time.Second, 15*time.Second), "the older Kip ends", old.kill)
	})
	w.now(p.stalls, "a watch stalls", func() { w.stall(false) })
	w.now(p.relists, "a watch breaks", func() { w.stall(true) })
	w.now(p.apiDown, "the API server goes away", func() { w.apiBack = time.Now().Add(w.between(time.Second, 90*time.Second)) })
	w.now(p.cloudDown, "the cloud goes away", func() { w.cloudBack = time.Now().Add(w.between(time.Second, 90*time.Second)) })
	w.now(p.partitions, "a partition", func() {
		if m := w.someMachine(); m != nil {
			m.partitioned, m.excused = true, true
			w.tell("%s of %s is partitioned", m.id, m.cell)
			m.cut()
			w.after(w.between(time.Second, 3*time.Minute), m.id+" is back", func() {
				m.partitioned = false
				w.wakeDialers()
			})
		}
	})
	w.now(p.cuts, "a connection breaks", func() {
		if m := w.someMachine(); m != nil {
			m.cut()
		}
	})
	w.now(p.wedges, "a kubelet hangs", func() {
		if m := w.someMachine(); m != nil {
			m.wedged, m.excused = true, true
			w.tell("%s of %s is wedged", m.id, m.cell)
		}
	})
	w.now(p.clockJumps, "a clock jumps", func() {
		if k := w.someKip(); k != nil {
			k.clock.ahead.Store(int64(w.rand.IntN(360) - 60))
			w.tell("kip%d's clock is %d s ahead", k.number, k.clock.ahead.Load())
		}
	})
	w.now(p.instanceKills, "an instance is terminated", func() {
		if m := w.someMachine(); m != nil {
			m.excused = true
			w.tell("%s of %s is terminated from outside", m.id, m.cell)
			w.cloud.Kill(m.id, "Server.InternalError")
			w.lookAtMachines()
		}
	})
	w.now(p.instanceStops, "an instance is stopped", func() {
		if m := w.someMachine(); m != nil {
			m.excused = true
			w.tell("%s of %s is stopped from outside", m.id, m.cell)
			w.cloud.Stop(m.id, "Client.UserInitiatedShutdown")
			w.lookAtMachines()
		}
	})
	w.now(p.interruptions, "a spot interruption", func() {
		if m := w.someMachine(); m != nil && m.notice == nil {
			w.tell("%s of %s will be taken", m.id, m.cell)
			deadline := time.Now().Add(2 * time.Minute).Truncate(time.Second)
			m.excused = true
			m.notice = &gateway.Interruption{Kind: gateway.SpotInterruption, Action: "terminate", Time: deadline}
			w.after(2*time.Minute, m.id+" is taken", func() {
				if m.on {
					w.cloud.Kill(m.id, "Server.SpotInstanceTermination")
					w.lookAtMachines()
				}
			})
		}
	})
	w.now(p.scheduledEvents, "a scheduled event", func() {
		if m := w.someMachine(); m != nil && m.event == nil {
			w.tell("%s of %s will be stopped", m.id, m.cell)
			at := time.Now().Add(w.between(time.Minute, 12*time.Minute))
			m.excused = true
			m.event = &cloudprovider.ScheduledEvent{ID: "event-" + m.id, Code: "instance-stop", NotBefore: at}
			w.after(time.Until(at), m.id+" is stopped", func() {
				if m.on {
					w.cloud.Stop(m.id, "Server.ScheduledStop")
					w.lookAtMachines()
				}
			})
		}
	})
	w.now(p.soldOut, "capacity is short", w.shortage)
	w.users.schedule()
}

// now has something go wrong again and again, until all is calm.
func (w *world) now(mean time.Duration, name string, do func()) {
	if mean == 0 {
		return
	}
	var again func()
	again = func() {
		if w.calm {
			return
		}
		w.tell("%s", name)
		do()
		w.after(w.between(mean/10, 2*mean), name, again)
	}
	w.after(w.between(0, 2*mean), name, again)
}

func (w *world) someKip() *kip {
	all := w.alive()
	if len(all) == 0 {
		return nil
	}
	return all[w.rand.IntN(len(all))]
}

func (w *world) someMachine() *machine {
	var on []*machine
	for _, m := range w.sortedMachines() {
		if m.on {
			on = append(on, m)
		}
	}
	if len(on) == 0 {
		return nil
	}
	return on[w.rand.IntN(len(on))]
}

func (w *world) stall(broken bool) {
	if k := w.someKip(); k != nil {
		what := []kind{pods, cells}[w.rand.IntN(2)]
		k.cache.stall(what, time.Now().Add(w.between(time.Second, 40*time.Second)), broken)
	}
}

// calmDown ends all that goes wrong.
func (w *world) calmDown() {
	w.calm = true
	w.tell("all is calm")
	w.cloud.SoldOut = nil
	for _, m := range w.sortedMachines() {
		// Where most kubelets hang Kip takes the fault for its own, for ever.
		m.partitioned, m.wedged = false, false
	}
	for _, k := range w.alive() {
		k.frozen = time.Time{}
		for _, what := range []kind{pods, cells} {
			k.cache.stall(what, time.Time{}, k.cache.broken[what])
		}
	}
	w.wakeDialers()
}

// keepAlive starts a Kip where none runs, as a StatefulSet does.
func (w *world) keepAlive() {
	if len(w.alive()) > 0 || w.starting {
		return
	}
	w.starting = true
	wait := w.between(time.Second, 10*time.Second)
	if !w.calm && w.chance(0.1) {
		wait = w.between(10*time.Second, 2*time.Minute)
	}
	w.after(wait, "Kip is started again", func() {
		w.starting = false
		w.start()
	})
}
