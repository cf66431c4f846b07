package health

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
)

const (
	// quietAfter: a kubelet that renews its lease every 10 seconds has missed
	// two. It only counts towards whether the fault is Kip's own. That is known
	// before the first cell counts as silent, if all broke off at one time.
	quietAfter = 25 * time.Second
	// silentAfter: the pod counts as out of touch. It is how long a kubelet's
	// lease lasts.
	silentAfter = 40 * time.Second

	// notReadyAfter is for how long a kubelet may say that it is not ready before
	// its cell is given up, if the cell's timeout is not longer: what Kubernetes
	// gives nodes, by default. Much of what kubelets complain about passes.
	notReadyAfter = 5 * time.Minute

	// heldFrom and heldShare: nothing is concluded while so many cells at least,
	// and more than so many percent of all, are quiet at once. Cells break one by
	// one; what breaks off most of them is Kip's network, or Kip. The share is
	// that by which Kubernetes' node controller takes a zone for disrupted.
	heldFrom  = 2
	heldShare = 55

	// stall: looks that come so much later than they should were held up by
	// whatever held up Kip: it may not have heard what the cells said meanwhile.
	stall = 10 * time.Second
	// lookTimeout bounds what is written in one look.
	lookTimeout = 5 * time.Second
)

// Look looks over the signs of life once, and gives up the cells that it is
// time for. Start calls it; simulations may instead.
func (m *Monitor) Look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var cells v1beta1.CellList
	if err := m.cfg.Client.List(ctx, &cells); err != nil {
		return fmt.Errorf("listing cells: %w", err)
	}
	changed, verdicts, held := m.judge(cells.Items)
	for _, v := range changed {
		m.tell(v)
		m.cfg.Changed(v.cell)
	}
	m.tellHeld(held)
	for _, v := range verdicts {
		if err := m.giveUp(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// change is a cell of which the reason changed by which its pod is out of touch;
// "" if it is not any more.
type change struct {
	cell    *v1beta1.Cell
	reason  string
	trouble string
	lasts   time.Duration
}

// balance is how many of the cells that are watched are quiet.
type balance struct {
	held         bool // for that, nothing is concluded
	quiet, total int
	changed      bool // held is
}

func (m *Monitor) judge(cells []v1beta1.Cell) (changed []change, verdicts []verdict, b balance) {
	now := m.cfg.Clock.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	late := now.Sub(m.looked) - m.cfg.Interval
	stalled := !m.looked.IsZero() && late > stall
	m.looked = now
	m.take(cells, now)
	if stalled {
		m.cfg.Logger.Warn("Kip stood still, so the cells' silence counts from now", "late", late)
		for _, v := range m.vitals {
			v.renew(now)
		}
	}

	b.total = len(m.vitals)
	for _, v := range m.vitals {
		if idles(v.cell) && m.cfg.Disconnected(v.cell.Name) == "" {
			v.sign, v.trouble = now, ""
		}
		if now.Sub(v.sign) >= quietAfter {
			b.quiet++
		}
	}
	b.held = b.quiet >= heldFrom && 100*b.quiet > heldShare*b.total
	b.changed, m.held = b.held != m.held, b.held

	silent := 0
	for _, v := range m.vitals {
		timeout := v.timeout(m.cfg.Timeout)
		if is := m.unwell(v, timeout, now); is != v.unwell {
			v.unwell = is
			changed = append(changed, change{v.cell, is, v.trouble, now.Sub(v.since())})
		}
		if v.unwell != "" {
			silent++
		}
		if b.held {
			v.from = now
		}
		if f := m.failure(v, timeout, now); f != nil {
			verdicts = append(verdicts, verdict{v.cell, *f})
		}
	}
	m.metrics.silent.Set(float64(silent))
	return changed, verdicts, b
}

// unwell is why the cell's pod counts as out of touch now. The caller holds mu.
func (m *Monitor) unwell(v *vital, timeout time.Duration, now time.Time) string {
	after := silentAfter
	if timeout != 0 && !m.cfg.ByCloud {
		after = min(after, timeout)
	}
	switch {
	// What was said before the fault turned out to be Kip's stays said.
	case now.Sub(v.sign) >= after && (v.unwell == ReasonSilent || !m.held):
		return ReasonSilent
	case v.trouble != "" && now.Sub(v.troubled) >= silentAfter:
		return ReasonNotReady
	}
	return ""
}

// failure is why the cell is to be given up, nil while it is not. The caller
// holds mu.
func (m *Monitor) failure(v *vital, timeout time.Duration, now time.Time) *v1beta1.FailureStatus {
	impaired := !v.impaired.first.IsZero() && now.Sub(v.impaired.last) <= m.memory()
	lasts := now.Sub(v.sign)
	switch {
	case timeout == 0:
		return nil
	case m.cfg.ByCloud:
		// Only looks count: of the time since the last one nothing is known.
		if lasts := v.impaired.last.Sub(v.impaired.first); lasts >= timeout {
			return &v1beta1.FailureStatus{Reason: v1beta1.FailureImpaired, Message: fmt.Sprintf(
				"the cloud's status checks of instance %s have failed for %s, so it is terminated", v.cell.Status.InstanceID, lasts.Round(time.Second))}
		}
		return nil
	case v.trouble != "" && lasts < quietAfter && now.Sub(v.troubled) >= max(timeout, notReadyAfter):
		return &v1beta1.FailureStatus{Reason: v1beta1.FailureNotReady, Message: fmt.Sprintf(
			"the cell's kubelet has not been ready for %s (%s), so its instance %s is terminated", now.Sub(v.troubled).Round(time.Second), v.trouble, v.cell.Status.InstanceID)}
	case lasts < timeout, now.Sub(v.from) < timeout && !impaired:
		// Where the cloud finds the instance impaired too, the fault is not Kip's.
		return nil
	}
	return &v1beta1.FailureStatus{Reason: v1beta1.FailureSilent, Message: fmt.Sprintf(
		"the cell has given no sign of life for %s (%s), so its instance %s is terminated", lasts.Round(time.Second), m.why(v.cell), v.cell.Status.InstanceID)}
}

// why is a clause that says what is known of a cell that is silent.
func (m *Monitor) why(cell *v1beta1.Cell) string {
	if why := m.cfg.Disconnected(cell.Name); why != "" {
		return why
	}
	return "its agent is connected, but its kubelet has not renewed its lease"
}

func (m *Monitor) tell(c change) {
	log := m.cfg.Logger.With("cell", c.cell.Name, "instance", c.cell.Status.InstanceID)
	what, why := "has given no sign of life", c.trouble
	switch c.reason {
	case "":
		log.Info("cell is well again")
		return
	case ReasonSilent:
		why = m.why(c.cell)
	case ReasonNotReady:
		what = "has a kubelet that has not been ready"
	}
	log.Warn("cell is unwell", "reason", c.reason, "for", c.lasts, "why", why)
	if pod := podOf(c.cell); pod != nil {
		m.cfg.Events.Eventf(pod, corev1.EventTypeWarning, c.reason, "cell %s %s for %s: %s", c.cell.Name, what, c.lasts.Round(time.Second), why)
	}
}

func (m *Monitor) tellHeld(b balance) {
	if !b.changed {
		return
	}
	if !b.held {
		m.metrics.held.Set(0)
		m.cfg.Logger.Info("most cells give signs of life again", "quiet", b.quiet, "of", b.total)
		return
	}
	m.metrics.held.Set(1)
	m.cfg.Logger.Error("most cells give no sign of life, so none is given up for it", "quiet", b.quiet, "of", b.total)
	m.cfg.Events.Eventf(m.node(), corev1.EventTypeWarning, "HealthCheckHeld",
		"%d of %d cells give no sign of life: the fault is more likely Kip's own or its network's, and no cell is given up for it", b.quiet, b.total)
}

// node is what events about Kip as a whole are about.
func (m *Monitor) node() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: m.cfg.NodeName, UID: types.UID(m.cfg.NodeName)}
}

// podOf is what events about a cell are about, nil if it has no pod.
func podOf(cell *v1beta1.Cell) *corev1.ObjectReference {
	p := cell.Spec.Pod
	if p == nil {
		return nil
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
}
