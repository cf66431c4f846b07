package health

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/gateway"
)

const (
	// deniedRecheck is how often a right that Kip need not have is tried again.
	deniedRecheck = 10 * time.Minute

	// eventLead is how long before a scheduled event a pod is ended, beside its
	// grace period: for a replacement to boot on a bad day, when others look for
	// one too.
	eventLead = 10 * time.Minute
	// shortNotice is the time that a pod has when the event is due already. The
	// cloud says only before when it will not happen.
	shortNotice = 2 * time.Minute
)

// actions are what the cloud does to an instance at a scheduled event that ends
// what runs on it. All other events are only told.
var actions = map[string]string{
	"instance-stop":       "stop",
	"instance-retirement": "stop",
	"instance-reboot":     "reboot",
	"system-reboot":       "reboot",
}

// LookAtCloud asks the cloud once, and says when to ask again. Start calls it;
// simulations may instead.
func (m *Monitor) LookAtCloud(ctx context.Context) time.Duration {
	began := m.cfg.Clock.Now()
	reports, err := m.cfg.Cloud.Health(ctx)
	if ctx.Err() != nil {
		return m.cfg.CloudInterval
	}
	if result := m.tellLook(err); result != "ok" {
		if result == "denied" {
			return deniedRecheck
		}
		return m.cfg.CloudInterval
	}
	byID := make(map[string]cloudprovider.InstanceHealth, len(reports))
	for _, r := range reports {
		byID[r.ID] = r
	}
	m.noteImpaired(byID, began)
	if err := m.follow(ctx, byID); err != nil && ctx.Err() == nil {
		m.cfg.Logger.Warn("following scheduled events; it is repeated", "err", err)
	}
	return m.cfg.CloudInterval
}

// tellLook counts how a look went, and tells it when it is not what it was.
func (m *Monitor) tellLook(err error) (result string) {
	result = "ok"
	switch {
	case cloudprovider.KindOf(err) == cloudprovider.Denied:
		result = "denied"
	case err != nil:
		result = "failed"
	}
	m.metrics.looks.WithLabelValues(result).Inc()
	news := m.cloudTold != result
	m.cloudTold = result
	switch {
	case !news || result == "ok":
	case result == "failed":
		m.cfg.Logger.Warn("the cloud does not say how its instances are; it is asked again", "err", err)
	case m.cfg.ByCloud:
		m.cfg.Logger.Error("Kip may not ask how instances are, so no cell is given up while its instance runs", "err", err)
		m.cfg.Events.Eventf(m.node(), corev1.EventTypeWarning, "HealthCheckDenied",
			"cells.healthcheck.cloudAPI needs a right that Kip does not have, and no cell is given up while its instance runs: %v", err)
	default:
		m.cfg.Logger.Info("Kip may not ask how instances are, so it does without: scheduled events are not noticed", "err", err)
	}
	return result
}

// memory is how long what the cloud said last stands for what is.
func (m *Monitor) memory() time.Duration { return 2*m.cfg.CloudInterval + stall }

// noteImpaired takes over for which instances the checks fail.
func (m *Monitor) noteImpaired(byID map[string]cloudprovider.InstanceHealth, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.vitals {
		i := &v.impaired
		if !byID[v.cell.Status.InstanceID].Impaired {
			i.first, i.last = time.Time{}, time.Time{}
			continue
		}
		// Of a long time without a look nobody knows what it was like.
		if i.first.IsZero() || at.Sub(i.last) > m.memory() {
			i.first = at
			m.cfg.Logger.Warn("the cloud's status checks of an instance fail", "cell", v.cell.Name, "instance", v.cell.Status.InstanceID)
		}
		i.last = at
	}
}

// follow tells of scheduled events, and interrupts cells in time.
func (m *Monitor) follow(ctx context.Context, byID map[string]cloudprovider.InstanceHealth) error {
	var cells v1beta1.CellList
	if err := m.cfg.Client.List(ctx, &cells); err != nil {
		return fmt.Errorf("listing cells: %w", err)
	}
	told := map[string]bool{}
	for i := range cells.Items {
		c := &cells.Items[i]
		if c.Spec.NodeName != m.cfg.NodeName || !serves(c) {
			continue
		}
		for _, e := range byID[c.Status.InstanceID].Events {
			told[e.ID] = true
			if err := m.expect(ctx, c, e); err != nil {
				return err
			}
		}
	}
	m.told = told
	return nil
}

// expect does what a scheduled event asks for now.
func (m *Monitor) expect(ctx context.Context, cell *v1beta1.Cell, e cloudprovider.ScheduledEvent) error {
	now := m.cfg.Clock.Now()
	action := actions[e.Code]
	at := e.NotBefore.Add(-eventLead - m.gracePeriod(ctx, cell))
	if !m.told[e.ID] {
		m.tellEvent(cell, e, action != "", at)
	}
	if action == "" || now.Before(at) {
		return nil
	}
	deadline := e.NotBefore
	if soon := now.Add(shortNotice); soon.After(deadline) {
		deadline = soon
	}
	if old := cell.Status.Interruption; old != nil && !deadline.Before(old.Deadline.Time) {
		return nil
	}
	i := gateway.Interruption{Kind: gateway.InterruptionKind(e.Code), Action: action, Time: deadline}
	if err := m.cfg.Interrupt(ctx, cell.Name, i); err != nil {
		return fmt.Errorf("interrupting cell %s: %w", cell.Name, err)
	}
	return nil
}

func (m *Monitor) gracePeriod(ctx context.Context, cell *v1beta1.Cell) time.Duration {
	pod := &corev1.Pod{}
	if p := podOf(cell); p == nil || m.cfg.Client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Name}, pod) != nil ||
		pod.Spec.TerminationGracePeriodSeconds == nil {
		return corev1.DefaultTerminationGracePeriodSeconds * time.Second
	}
	return time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
}

func (m *Monitor) tellEvent(cell *v1beta1.Cell, e cloudprovider.ScheduledEvent, ends bool, at time.Time) {
	m.cfg.Logger.Warn("the cloud has scheduled an event for an instance", "cell", cell.Name, "instance", cell.Status.InstanceID,
		"event", e.Code, "notBefore", e.NotBefore, "description", e.Description)
	pod := podOf(cell)
	if pod == nil {
		return
	}
	prospect := "nothing is done about it"
	if ends {
		prospect = fmt.Sprintf("from %s on the pod is ended and replaced; delete it before, at a time that suits", at.UTC().Format(time.RFC3339))
	}
	m.cfg.Events.Eventf(pod, corev1.EventTypeWarning, "InstanceEventScheduled", "%s for instance %s of cell %s, not before %s (%s): %s",
		e.Code, cell.Status.InstanceID, cell.Name, e.NotBefore.UTC().Format(time.RFC3339), e.Description, prospect)
}
