package aws

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

func newTestLine() (*line, *clocktesting.FakeClock) {
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	return newLine(clk), clk
}

func name(i int) types.UID { return types.UID(fmt.Sprint("cell-", i)) }

// launch takes a turn and uses it.
func (l *line) launch(cell types.UID) (wait time.Duration) {
	if wait = l.ask(cell); wait == 0 {
		l.use(cell)
	}
	return wait
}

func TestLineIsFirstComeFirstServed(t *testing.T) {
	l, clk := newTestLine()
	l.pace.atMost(2)
	for i := range 5 {
		if wait := l.launch(name(i)); wait != 0 {
			t.Fatalf("cell %d waits %s, EC2 takes five at once", i, wait)
		}
	}
	for i := 5; i < 15; i++ {
		if wait, want := l.launch(name(i)), time.Duration(i-4)*500*time.Millisecond; wait.Round(time.Millisecond) != want {
			t.Errorf("cell %d waits %s, want %s: two a second", i, wait, want)
		}
	}
	// The last one comes early, and again, and gains nothing by it.
	clk.Step(2 * time.Second)
	if wait := l.launch(name(14)); wait.Round(time.Millisecond) != 3*time.Second {
		t.Errorf("waits %s", wait)
	}
	for i := 5; i < 9; i++ {
		if wait := l.launch(name(i)); wait != 0 {
			t.Errorf("cell %d came when it was told, and waits %s", i, wait)
		}
	}
	if wait := l.launch("newcomer"); wait < 3*time.Second {
		t.Errorf("a newcomer waits %s, and six were there before it", wait)
	}
}

func TestTurnIsKeptUntilItIsUsed(t *testing.T) {
	l, clk := newTestLine()
	for range 2 {
		if wait := l.ask("a"); wait != 0 {
			t.Fatalf("waits %s", wait)
		}
	}
	l.use("a")
	for i := range 4 {
		if wait := l.launch(name(i)); wait != 0 {
			t.Errorf("cell %d waits %s: one turn was taken twice", i, wait)
		}
	}
	if wait := l.ask("a"); wait == 0 {
		t.Error("a turn was used twice")
	}
	clk.Step(time.Second)
	l.ask("b")
	clk.Step(turnFor + time.Second)
	l.tidy(clk.Now())
	if len(l.turns) != 0 {
		t.Errorf("turns that nobody used are kept: %v", l.turns)
	}
}

func TestWhoDoesNotComeBackLosesItsPlace(t *testing.T) {
	l, clk := newTestLine()
	l.pace.atMost(2)
	for i := range 25 {
		l.launch(name(i))
	}
	clk.Step(10 * time.Second) // the twenty that wait were deleted
	if wait := l.launch("newcomer"); wait == 0 {
		t.Error("a newcomer goes before those that are a moment late")
	}
	clk.Step(lateBy)
	if wait := l.launch("newcomer"); wait != 0 {
		t.Errorf("a newcomer waits %s for cells that do not come any more", wait)
	}
}

func TestRefusedGoesFirst(t *testing.T) {
	for kind, want := range map[cloudprovider.Kind]struct {
		first, told bool
		reason      string
	}{
		cloudprovider.InsufficientCapacity: {true, false, "the next offering is tried at once"},
		cloudprovider.QuotaExceeded:        {true, false, "the next offering is tried at once"},
		cloudprovider.Throttled:            {true, true, "the same call, when there is room"},
		cloudprovider.Denied:               {false, false, "it would hold up cells that can be launched"},
		cloudprovider.InvalidConfiguration: {false, false, "it would hold up cells that can be launched"},
	} {
		t.Run(string(kind), func(t *testing.T) {
			l, clk := newTestLine()
			l.pace.atMost(2)
			for i := range 10 {
				l.launch(name(i))
			}
			wait := l.refused("cell-0", kind)
			if (wait > 0) != want.told {
				t.Errorf("told to come again in %s: %s", wait, want.reason)
			}
			clk.Step(500 * time.Millisecond)
			if got := l.launch("cell-0") == 0; got != want.first {
				t.Errorf("first is %v: %s", got, want.reason)
			}
		})
	}
}

// TestTurnDoesNotHoldItsCaller: seconds may pass in the call, not minutes.
func TestTurnDoesNotHoldItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(clock.RealClock{})
		l.pace.atMost(2)
		began := time.Now()
		for i := range 7 {
			if err := l.turn(t.Context(), name(i)); err != nil {
				t.Fatalf("cell %d: %v", i, err)
			}
			l.use(name(i))
		}
		if took := time.Since(began).Round(time.Millisecond); took != time.Second {
			t.Errorf("seven turns took %s, want five at once and two more in a second", took)
		}
		l.ask("a")
		l.ask("b")
		err := l.turn(t.Context(), "c")
		if !cloudprovider.Held(err) || cloudprovider.RetryAfter(err).Round(time.Millisecond) != 1500*time.Millisecond {
			t.Errorf("got %v, want to be sent away for a second and a half", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.turn(ctx, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}

func TestPaceFollowsEC2(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	p := newPace(clk, allowance{5, 2}, fastest)
	for range 20 {
		p.taken(false)
	}
	if got := p.bucket.Limit(); got != quickly {
		t.Errorf("rate %v, want %v: a limit that is only assumed holds nobody up", got, quickly)
	}
	for range 40 {
		p.taken(true)
	}
	if got := p.bucket.Limit(); got != quickly+10 {
		t.Errorf("rate %v, want to find out what the account may do", got)
	}
	began := clk.Now()
	clk.Step(time.Second)
	for range 3 { // they were under way together
		p.tooFast(began)
	}
	half := (quickly + 10) / 2
	if got := p.bucket.Limit(); got != half {
		t.Errorf("rate %v, want half", got)
	}
	if _, ok := p.take(0); ok {
		t.Error("EC2's bucket is empty, and the one here is not")
	}
	for range 100 {
		p.taken(true)
	}
	if got := p.bucket.Limit(); got < half+0.9 || got > half+1.1 {
		t.Errorf("rate %v, want a slow recovery", got)
	}
	if p.taken(false); p.bucket.Limit() > half+1.1 {
		t.Errorf("rate %v: nobody asked for more", p.bucket.Limit())
	}
	for range 20 {
		clk.Step(time.Second)
		p.tooFast(clk.Now())
	}
	if got := p.bucket.Limit(); got != slowest {
		t.Errorf("rate %v, want %v: it must be able to recover", got, slowest)
	}
}

// TestThousandInstances: beyond what EC2 documents the rate is the refill of
// that bucket, without running into it first. It stays there where EC2 shows
// that it has the bucket.
func TestThousandInstances(t *testing.T) {
	for title, tc := range map[string]struct {
		reason string
		before bool // EC2 refused a launch among the first thousand
		after  int  // which launch of those beyond it refuses; 0 for none
		slower bool // the rate is the refill in the end
	}{
		"a new account":          {"EC2 has shown that it counts instances", true, 3, true},
		"only instances counted": {"the same, where requests are plenty", false, 3, true},
		"all buckets are larger": {"what is documented holds nobody up for long", false, 0, false},
		"both are, and known":    {"a refusal long ago was about requests", true, 0, false},
		"refused much later":     {"a larger bucket has an end too, which is no reason to go so slow for good", false, larger + 50, false},
	} {
		t.Run(title, func(t *testing.T) {
			l, clk := newTestLine()
			n := 0
			launch := func(refused bool) {
				for n++; l.launch(name(n)) != 0; {
					clk.Step(10 * time.Millisecond)
				}
				if refused {
					l.pace.tooFast(clk.Now())
					l.refused(name(n), cloudprovider.Throttled)
					for l.launch(name(n)) != 0 {
						clk.Step(10 * time.Millisecond)
					}
				}
				l.pace.taken(true)
			}
			for i := range 1000 {
				launch(tc.before && i == 100)
			}
			for l.beyond == 0 { // the bucket was filled up meanwhile
				if l.pace.bucket.Limit() <= 2 {
					t.Fatalf("rate %v before the bucket is empty", l.pace.bucket.Limit())
				}
				launch(false)
			}
			if got := l.pace.bucket.Limit(); got < 2 || got > 3 {
				t.Fatalf("rate %v when the bucket is empty, want the refill of 2 and no more than one call's growth", got)
			}
			for i := range 1000 {
				launch(i+1 == tc.after)
			}
			if got := l.pace.bucket.Limit(); (got < 3) != tc.slower {
				t.Errorf("rate %v in the end: %s", got, tc.reason)
			}
		})
	}
}
