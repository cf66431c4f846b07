package metering

import (
	"math"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
)

const hour = time.Hour

// usage is what outlives Kip. Its times are UTC.
type usage struct {
	// Began is when usage was counted first. What was before is nobody's.
	Began time.Time `json:"began"`
	// Closed is the end of the newest hour that was closed; nothing is added to
	// what was before.
	Closed time.Time `json:"closed"`
	// Seconds were used by Cells that are gone, by the beginning of the hour.
	Seconds map[time.Time]int64 `json:"seconds,omitempty"`
	// CarrySeconds were used in closed hours and not reported.
	CarrySeconds int64 `json:"carrySeconds,omitempty"`
	// Sending is the record that the marketplace has not confirmed.
	Sending *Record `json:"sending,omitempty"`
	// Counted are Cells that are in Seconds and may still exist, with the time
	// at which they were counted.
	Counted map[types.UID]time.Time `json:"counted,omitempty"`
}

// begin is the usage at the start of everything.
func begin(now time.Time) *usage {
	now = now.UTC()
	return &usage{Began: now, Closed: now.Truncate(hour)}
}

// span is when a cell was of use: from its enrolment until it began to end. end
// is zero while it runs. Both are on record in the Cell, so that they are the
// same whenever they are read.
func span(cell *v1beta1.Cell) (start, end time.Time, ok bool) {
	if cell.Status.Enrolment == nil {
		return start, end, false
	}
	start = cell.Status.Enrolment.Time.Time
	ready := meta.FindStatusCondition(cell.Status.Conditions, v1beta1.ConditionReady)
	if ready != nil && ready.Status == metav1.ConditionFalse && ready.LastTransitionTime.After(start) {
		end = ready.LastTransitionTime.Time
	}
	if d := cell.DeletionTimestamp; d != nil && (end.IsZero() || d.Before(&metav1.Time{Time: end})) {
		end = d.Time
	}
	return start, end, end.IsZero() || end.After(start)
}

// within is how much of a span lies between two points in time.
func (u *usage) within(start, end, from, to time.Time) int64 {
	for _, earliest := range []time.Time{from, u.Began} {
		if start.Before(earliest) {
			start = earliest
		}
	}
	if end.IsZero() || end.After(to) {
		end = to
	}
	return max(0, int64(math.Round(end.Sub(start).Seconds())))
}

// count adds a Cell that goes. It says whether that was news.
func (u *usage) count(cell *v1beta1.Cell, now time.Time) bool {
	start, end, ok := span(cell)
	if _, twice := u.Counted[cell.UID]; !ok || end.IsZero() || twice {
		return false
	}
	for h := u.Closed; h.Before(end); h = h.Add(hour) {
		if s := u.within(start, end, h, h.Add(hour)); s > 0 {
			if u.Seconds == nil {
				u.Seconds = map[time.Time]int64{}
			}
			u.Seconds[h] += s
		}
	}
	if u.Counted == nil {
		u.Counted = map[types.UID]time.Time{}
	}
	u.Counted[cell.UID] = now.UTC()
	return true
}

// forget drops the UIDs of Cells that are gone for good: counted long ago, and
// not among those that exist.
func (u *usage) forget(cells []v1beta1.Cell, now time.Time) {
	exist := make(map[types.UID]bool, len(cells))
	for i := range cells {
		exist[cells[i].UID] = true
	}
	for uid, at := range u.Counted {
		if !exist[uid] && now.Sub(at) > remember {
			delete(u.Counted, uid)
		}
	}
}

// closeHours closes the hours that are over, oldest first, up to one that is
// worth a record, given the Cells that exist.
func (u *usage) closeHours(cells []v1beta1.Cell, now time.Time) (closed bool) {
	for u.Sending == nil && !now.Before(u.Closed.Add(hour+lateness)) {
		u.closeHour(cells)
		closed = true
		if now.Sub(u.Closed) > tooOld {
			u.sent(false)
		}
	}
	return closed
}

func (u *usage) closeHour(cells []v1beta1.Cell) {
	from, to := u.Closed, u.Closed.Add(hour)
	seconds := u.CarrySeconds + u.Seconds[from]
	for i := range cells {
		start, end, ok := span(&cells[i])
		if _, counted := u.Counted[cells[i].UID]; ok && !counted {
			seconds += u.within(start, end, from, to)
		}
	}
	delete(u.Seconds, from)
	whole := min(seconds/3600, math.MaxInt32)
	u.Closed, u.CarrySeconds = to, seconds-whole*3600
	u.Sending = &Record{Hour: from, CellHours: int32(whole)}
}

// sent is called with what the marketplace said of the record: counted, or that
// it will not count it, so that the usage goes to the next hour.
func (u *usage) sent(counted bool) {
	if u.Sending != nil && !counted {
		u.CarrySeconds += int64(u.Sending.CellHours) * 3600
	}
	u.Sending = nil
}
