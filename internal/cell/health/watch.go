package health

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
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
	// silent: its pod counts as out of touch.
	silent bool

	// impaired is the first and last of the looks at the cloud, without one
	// between them that found otherwise, by which the instance's checks fail.
	impaired struct{ first, last time.Time }
}

// renew forgets what counts against the cell.
func (v *vital) renew(now time.Time) {
	v.sign, v.from = now, now
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
// not enrolled has its boot timeout. One that is Ready waits for its pod, and
// Kip answers its kubelet nothing until then.
func watched(c *v1beta1.Cell) bool {
	s := &c.Status
	return s.Enrolment != nil && s.Phase != v1beta1.CellReady && serves(c)
}

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

// Heartbeat notes a sign of life.
func (m *Monitor) Heartbeat(cell string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.vitals[cell]; v != nil {
		v.sign = m.cfg.Clock.Now()
	}
}

// Silent says whether the cell has given no sign of life for so long that its
// pod counts as out of touch, and since when. It answers from memory.
func (m *Monitor) Silent(cell string) (since time.Time, silent bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := m.vitals[cell]
	if v == nil || !v.silent {
		return time.Time{}, false
	}
	return v.sign, true
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
