package limits

import (
	"slices"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// waiter is a Cell that was refused, and what it asked for.
type waiter struct {
	cell, namespace string
	microUSD        int64
	limit           Limit
}

// line holds who waits, the first to come first. Everybody is asked in this
// order when something becomes free; but who wants little does not wait for one
// who wants more than there is.
type line []waiter

func (w line) index(cell string) int {
	return slices.IndexFunc(w, func(x waiter) bool { return x.cell == cell })
}

// before counts who has waited for a limit longer than a Cell.
func (w line) before(cell string, limit Limit) (n int) {
	for _, x := range w {
		if x.cell == cell {
			break
		}
		if x.limit == limit {
			n++
		}
	}
	return n
}

// wait keeps a refused Cell's place. The caller holds mu.
func (l *Ledger) wait(cell *v1beta1.Cell, microUSD int64, r *Reached) *Reached {
	if r == nil {
		return nil
	}
	w := waiter{cell.Name, namespaceOf(cell), microUSD, r.Limit}
	i := l.waiting.index(w.cell)
	if i < 0 {
		l.waiting = append(l.waiting, w)
		l.metrics.waiting.WithLabelValues(string(w.limit)).Inc()
		return r
	}
	if was := l.waiting[i].limit; was != w.limit {
		l.metrics.waiting.WithLabelValues(string(was)).Dec()
		l.metrics.waiting.WithLabelValues(string(w.limit)).Inc()
	}
	if microUSD == 0 {
		w.microUSD = l.waiting[i].microUSD
	}
	l.waiting[i] = w
	return r
}

// leave gives a Cell's place up. The caller holds mu.
func (l *Ledger) leave(cell string) {
	if i := l.waiting.index(cell); i >= 0 {
		l.metrics.waiting.WithLabelValues(string(l.waiting[i].limit)).Dec()
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
}

// Freed has something to receive when something ended for which somebody waits.
func (l *Ledger) Freed() <-chan struct{} { return l.freed }

// Next returns the Cells that can go on with what is free now, if they ask again
// for what they asked for.
func (l *Ledger) Next() (cells []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, namespaces := l.all, map[string]sum{}
	for _, w := range l.waiting {
		own, ok := namespaces[w.namespace]
		if !ok {
			own = l.namespaces[w.namespace]
		}
		if w.limit == LaunchesPerMinute {
			continue // time helps it, and it knows when
		}
		if exceeds(l.limits.Caps, all, w.namespace, w.microUSD, Instances, HourlyUSD) != nil ||
			exceeds(l.limits.of(w.namespace), own, w.namespace, w.microUSD, NamespaceInstances, NamespaceHourlyUSD) != nil {
			continue
		}
		all, namespaces[w.namespace] = all.plus(w.microUSD), own.plus(w.microUSD)
		cells = append(cells, w.cell)
	}
	return cells
}
