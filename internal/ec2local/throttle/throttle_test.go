package throttle

import (
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// count is how many requests pass at once.
func count(take func() bool) (n int) {
	for n < 5000 && take() {
		n++
	}
	return n
}

func TestRequests(t *testing.T) {
	for name, tc := range map[string]struct {
		reason    string
		limits    Limits
		action    string
		selective bool
		atOnce    int
		later     int // ten seconds later
	}{
		"launch":          {"the smallest bucket Kip meets", EC2(), "RunInstances", true, 5, 5},
		"terminate":       {"an own bucket", EC2(), "TerminateInstances", true, 100, 50},
		"describe":        {"with a filter", EC2(), "DescribeInstances", true, 100, 100},
		"describe all":    {"without one", EC2(), "DescribeInstances", false, 50, 50},
		"describe images": {"only some actions care for filters", EC2(), "DescribeImages", false, 100, 100},
		"write":           {"any other action", EC2(), "AuthorizeSecurityGroupIngress", true, 50, 50},
		"tag":             {"an own bucket", EC2(), "CreateTags", true, 100, 100},
		"no limits":       {"the zero value", Limits{}, "RunInstances", true, 5000, 5000},
	} {
		t.Run(name, func(t *testing.T) {
			clk := clocktesting.NewFakePassiveClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
			b := New(tc.limits, clk)
			take := func() bool { return b.Request(tc.action, tc.selective) }
			if got := count(take); got != tc.atOnce {
				t.Errorf("%s: %d at once, want %d", tc.reason, got, tc.atOnce)
			}
			clk.SetTime(clk.Now().Add(10 * time.Second))
			if got := count(take); got != tc.later {
				t.Errorf("%s: %d ten seconds later, want %d", tc.reason, got, tc.later)
			}
		})
	}
}

func TestActionsDoNotShare(t *testing.T) {
	b := New(EC2(), clocktesting.NewFakePassiveClock(time.Now()))
	count(func() bool { return b.Request("DescribeSubnets", true) })
	count(func() bool { return b.Request("DescribeInstances", false) })
	if !b.Request("DescribeVpcs", true) || !b.Request("DescribeInstances", true) {
		t.Error("an empty bucket emptied another one")
	}
}

func TestResources(t *testing.T) {
	clk := clocktesting.NewFakePassiveClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	b := New(EC2(), clk)
	if _, ok := b.Resources("RunInstances", 1001); ok {
		t.Error("more than the bucket holds was given")
	}
	undo, ok := b.Resources("RunInstances", 1000)
	if !ok {
		t.Fatal("a full bucket gave nothing")
	}
	if _, ok := b.Resources("RunInstances", 1); ok {
		t.Error("an empty bucket gave something")
	}
	clk.SetTime(clk.Now().Add(time.Second))
	if got := count(func() bool { _, ok := b.Resources("RunInstances", 1); return ok }); got != 2 {
		t.Errorf("%d after a second, want 2", got)
	}
	undo()
	if _, ok := b.Resources("RunInstances", 900); !ok {
		t.Error("what a failed request took was not put back")
	}
}
