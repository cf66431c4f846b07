package metering

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// at is a time of the day in minutes after noon.
func at(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }

// ran is a Cell that enrolled and, if deleted is not 0, was deleted.
func ran(uid types.UID, enrolled, deleted int) *v1beta1.Cell {
	c := &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: string(uid), UID: uid}}
	c.Status.Enrolment = &v1beta1.EnrolmentStatus{Time: metav1.NewTime(at(enrolled))}
	if deleted != 0 {
		d := metav1.NewTime(at(deleted))
		c.DeletionTimestamp = &d
	}
	return c
}

func with(c *v1beta1.Cell, ready metav1.ConditionStatus, since int) *v1beta1.Cell {
	c.Status.Conditions = []metav1.Condition{{Type: v1beta1.ConditionReady, Status: ready, LastTransitionTime: metav1.NewTime(at(since))}}
	return c
}

func TestSpan(t *testing.T) {
	for name, tc := range map[string]struct {
		reason     string
		cell       *v1beta1.Cell
		start, end int // minutes; end 0: none
		ok         bool
	}{
		"never enrolled":   {reason: "it was of no use", cell: &v1beta1.Cell{}},
		"runs":             {reason: "no end yet", cell: with(ran("a", 10, 0), metav1.ConditionTrue, 11), start: 10, ok: true},
		"starts its pod":   {reason: "not ready since the launch is not ended", cell: with(ran("a", 10, 0), metav1.ConditionFalse, 5), start: 10, ok: true},
		"deleted":          {reason: "the wish counts, not how long the cloud takes", cell: with(ran("a", 10, 20), metav1.ConditionTrue, 11), start: 10, end: 20, ok: true},
		"pod ended before": {reason: "copying logs is not use", cell: with(ran("a", 10, 20), metav1.ConditionFalse, 18), start: 10, end: 18, ok: true},
		"lost":             {reason: "from then on it was of no use", cell: with(ran("a", 10, 0), metav1.ConditionFalse, 15), start: 10, end: 15, ok: true},
		"never ran":        {reason: "deleted while it enrolled", cell: ran("a", 10, 9)},
	} {
		t.Run(name, func(t *testing.T) {
			start, end, ok := span(tc.cell)
			if ok != tc.ok {
				t.Fatalf("%s: ok = %v", tc.reason, ok)
			}
			if !ok {
				return
			}
			if !start.Equal(at(tc.start)) || tc.end == 0 != end.IsZero() || tc.end != 0 && !end.Equal(at(tc.end)) {
				t.Errorf("%s: from %s to %s", tc.reason, start, end)
			}
		})
	}
}

func TestUsageIsSplitByHours(t *testing.T) {
	u := begin(at(-30))
	if !u.count(ran("a", 30, 150), at(151)) {
		t.Fatal("a Cell that ended was not counted")
	}
	want := map[time.Time]int64{at(0): 1800, at(60): 3600, at(120): 1800}
	if diff := cmp.Diff(want, u.Seconds); diff != "" {
		t.Error(diff)
	}
	if u.count(ran("a", 30, 150), at(152)) {
		t.Error("counted twice")
	}
}

func TestCloseHours(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		gone    []*v1beta1.Cell // counted before
		there   []*v1beta1.Cell
		now     int
		sending *Record
		carry   int64
	}{
		"not over":        {reason: "an hour that runs", there: []*v1beta1.Cell{ran("a", 0, 0)}, now: 59},
		"only just":       {reason: "the cache may lag behind", there: []*v1beta1.Cell{ran("a", 0, 0)}, now: 61},
		"one":             {reason: "a whole hour", there: []*v1beta1.Cell{ran("a", 0, 0)}, now: 62, sending: &Record{at(0), 1}},
		"a rest":          {reason: "what is left goes to the next hour", there: []*v1beta1.Cell{ran("a", 0, 0), ran("b", 30, 0)}, now: 62, sending: &Record{at(0), 1}, carry: 1800},
		"nothing":         {reason: "said all the same", now: 62, sending: &Record{at(0), 0}},
		"before it began": {reason: "counted from the beginning on", there: []*v1beta1.Cell{ran("a", -600, 0)}, now: 62, sending: &Record{at(0), 1}},
		"gone and there": {
			reason: "each once: counted, and its finalizer not removed yet",
			gone:   []*v1beta1.Cell{ran("a", 0, 40), ran("b", 0, 20)}, there: []*v1beta1.Cell{ran("a", 0, 40)}, now: 62, sending: &Record{at(0), 1},
		},
		"ended after": {reason: "the part in the hour", there: []*v1beta1.Cell{ran("a", 0, 61)}, now: 62, sending: &Record{at(0), 1}},
		"long away": {
			reason: "hours that nobody takes any more go to the one that somebody does",
			there:  []*v1beta1.Cell{ran("a", 0, 0)}, now: 20*60 + 5, sending: &Record{at(14 * 60), 15},
		},
	} {
		t.Run(name, func(t *testing.T) {
			u := begin(at(0))
			for _, c := range tc.gone {
				u.count(c, at(tc.now))
			}
			var cells []v1beta1.Cell
			for _, c := range tc.there {
				cells = append(cells, *c)
			}
			u.closeHours(cells, at(tc.now))
			if diff := cmp.Diff(tc.sending, u.Sending); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			if u.CarrySeconds != tc.carry {
				t.Errorf("%s: %d seconds carried, want %d", tc.reason, u.CarrySeconds, tc.carry)
			}
		})
	}
}

func TestNothingIsAddedToAClosedHour(t *testing.T) {
	u := begin(at(0))
	c := ran("a", 0, 0)
	u.closeHours([]v1beta1.Cell{*c}, at(62))
	u.count(ran("a", 0, 90), at(91))
	if diff := cmp.Diff(map[time.Time]int64{at(60): 1800}, u.Seconds); diff != "" {
		t.Errorf("the first hour was reported: %s", diff)
	}
}

func TestForget(t *testing.T) {
	u := begin(at(0))
	u.Counted = map[types.UID]time.Time{"long gone": at(0), "just gone": at(59), "there": at(0)}
	u.forget([]v1beta1.Cell{*ran("there", 0, 1)}, at(60))
	if diff := cmp.Diff(map[types.UID]time.Time{"just gone": at(59), "there": at(0)}, u.Counted); diff != "" {
		t.Error(diff)
	}
}

func TestUsageIsKeptAsItIs(t *testing.T) {
	u := begin(at(7).In(time.FixedZone("elsewhere", 3600)))
	u.count(ran("a", 30, 150), at(151))
	u.count(ran("b", 30, 170), at(171))
	u.Sending = &Record{at(0), 3}
	data, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	got := &usage{}
	if err := json.Unmarshal(data, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(u, got); diff != "" {
		t.Error(diff)
	}
	if got.count(ran("c", 30, 40), at(41)); got.Seconds[at(0)] != 1800+1800+600 {
		t.Errorf("what was read is not added to: %v", got.Seconds)
	}
}
