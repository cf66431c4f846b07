package health

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// Reasons by which a pod counts as out of touch, of its condition Ready and of
// events.
const (
	ReasonSilent   = "CellSilent"
	ReasonNotReady = "CellNotReady"
)

// vital is what is known of a cell that is watched. All times are this Kip's.
type vital struct {
	cell *v1beta1.Cell // as of the last look
	uid  types.UID

	// sign is when the cell gave its last sign of life; before the first one,
	// when it was first looked at.
	sign time.Time
	// from is when its time began to count against it, if that is later.
	from time.Time
	// trouble is why its kubelet says that it does not work, "" if it does not say
	// so, and troubled is since when it has.
	trouble  string
	troubled time.Time
	// unwell is why its pod counts as out of touch, "" while it does not.
	unwell string

	// impaired is the first and last of the looks at the cloud, without one
	// between them that found otherwise, by which the instance's checks fail.
	impaired struct{ first, last time.Time }
}

// renew forgets what counts against the cell.
func (v *vital) renew(now time.Time) {
	v.sign, v.from, v.troubled = now, now, now
	v.impaired.first, v.impaired.last = time.Time{}, time.Time{}
}

// timeout is for how long the cell may be unhealthy, 0 for ever.
func (v *vital) timeout(standard time.Duration) time.Duration {
	if s := v.cell.Spec.Instance.HealthyTimeoutSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return standard
}

// watched says whether a cell is expected to give signs of life. One that is
// not enrolled has its boot timeout.
func watched(c *v1beta1.Cell) bool { return c.Status.Enrolment != nil && serves(c) }

// idles says whether the cell waits until its pod has ended elsewhere. Kip answers
// its kubelet nothing until then, so that its connection must do for a sign of
// life. A standby cell without a pod is answered.
func idles(c *v1beta1.Cell) bool { return c.Status.Phase == v1beta1.CellReady && !c.Waiting() }

// serves says whether the cell has an instance, of which nothing is known that
// would end it.
func serves(c *v1beta1.Cell) bool {
	s := &c.Status
	return c.DeletionTimestamp == nil && s.InstanceID != "" && s.Failure == nil && s.Phase != v1beta1.CellTerminating && !gone(c)
}

func gone(c *v1beta1.Cell) bool {
	ready := meta.FindStatusCondition(c.Status.Conditions, v1beta1.ConditionReady)
	return ready != nil && ready.Reason == v1beta1.ReasonInstanceGone
}

// Heartbeat notes a sign of life, and what the kubelet says of itself if it does
// not work.
func (m *Monitor) Heartbeat(cell, trouble string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.vitals[cell]
	if v == nil {
		return
	}
	v.sign = m.cfg.Clock.Now()
	if trouble != "" && v.trouble == "" {
		v.troubled = v.sign
	}
	v.trouble = trouble
}

// Unwell says why the cell's pod counts as out of touch, as the reason of a
// condition, and since when; "" while it does not. It answers from memory.
func (m *Monitor) Unwell(cell string) (since time.Time, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.vitals[cell]
	if v == nil {
		return time.Time{}, ""
	}
	return v.since(), v.unwell
}

// since is when what its pod counts as out of touch for began.
func (v *vital) since() time.Time {
	if v.unwell == ReasonNotReady {
		return v.troubled
	}
	return v.sign
}

// take makes the vitals those of the cells that are watched now. The caller
// holds mu.
func (m *Monitor) take(cells []v1beta1.Cell, now time.Time) {
	before := m.vitals
	m.vitals = make(map[string]*vital, len(cells))
	for i := range cells {
		c := &cells[i]
		if c.Spec.NodeName != m.cfg.NodeName || !watched(c) {
			continue
		}
		v := before[c.Name]
		if v == nil || v.uid != c.UID {
			v = &vital{uid: c.UID, sign: now, from: now}
		}
		v.cell = c
		m.vitals[c.Name] = v
	}
}
