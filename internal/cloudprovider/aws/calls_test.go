package aws

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// TestDeniedIsTold: each right that lacks is named, whoever needed it.
func TestDeniedIsTold(t *testing.T) {
	const passRole = "You are not authorized to perform this operation. User: arn:aws:iam::1:user/kip is not authorized to perform: " +
		"iam:PassRole on resource: arn:aws:iam::1:role/cell"
	for name, tc := range map[string]struct {
		rule, action, reason string
		call                 func(*testing.T, *Provider) error
	}{
		"list": {`{"action":"DescribeInstances","code":"UnauthorizedOperation"}`, "ec2:DescribeInstances", "no pod waits for it",
			func(t *testing.T, p *Provider) error { _, err := p.List(t.Context()); return err }},
		"security group": {`{"action":"DescribeSecurityGroups","code":"UnauthorizedOperation"}`, "ec2:DescribeSecurityGroups", "read ahead",
			func(t *testing.T, p *Provider) error { return p.Warm(t.Context()) }},
		"pass role": {`{"code":"UnauthorizedOperation","message":"` + passRole + `"}`, "iam:PassRole", "another right than the request's own",
			func(t *testing.T, p *Provider) error { _, err := p.Create(t.Context(), request("token")); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			e.fault(t, "["+tc.rule+"]")
			cfg := e.provider(t, "a").cfg
			var mu sync.Mutex
			var told []string
			cfg.Metrics = prometheus.NewRegistry()
			cfg.Denied = func(action, message string) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, action+"|"+message)
			}
			p, err := New(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.call(t, p); cloudprovider.KindOf(err) != cloudprovider.Denied || !strings.Contains(err.Error(), tc.action) {
				t.Errorf("%s: got %v, want it denied and the action named", tc.reason, err)
			}
			if len(told) == 0 || !strings.HasPrefix(told[0], tc.action+"|") {
				t.Errorf("%s: told %q", tc.reason, told)
			}
			if got := testutil.ToFloat64(p.calls.refusals.WithLabelValues(tc.action)); got < 1 {
				t.Errorf("%s: counted %v", tc.reason, got)
			}
		})
	}
}

func TestCallsAreCounted(t *testing.T) {
	e := newEndpoint(t)
	p := e.provider(t, "a")
	e.fault(t, `[{"action":"DescribeInstances","code":"InternalError","count":1},{"code":"InsufficientInstanceCapacity","count":1},{"lose":"before","count":1}]`)
	if _, err := p.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"refused", "launched"} {
		_, err := p.Create(t.Context(), request(token))
		if (err != nil) != (token == "refused") {
			t.Errorf("%s: %v", token, err)
		}
	}
	for _, tc := range []struct {
		action, code string
		want         float64
	}{
		{"ec2:DescribeInstances", "InternalError", 1}, {"ec2:DescribeInstances", "ok", 1},
		{"ec2:RunInstances", "InsufficientInstanceCapacity", 1}, {"ec2:RunInstances", "none", 1}, {"ec2:RunInstances", "ok", 1},
	} {
		if got := testutil.ToFloat64(p.calls.total.WithLabelValues(tc.action, tc.code)); got != tc.want {
			t.Errorf("%s %s: %v, want %v", tc.action, tc.code, got, tc.want)
		}
	}
}

// TestOtherActionsWaitForTheirPace, and are sent away when that takes long.
func TestOtherActionsWaitForTheirPace(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	c, err := newCalls(Config{Clock: clk})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		if _, err := c.await(t.Context(), "TerminateInstances"); err != nil {
			t.Fatalf("request %d: %v", n, err)
		}
	}
	passed := make(chan error, 1)
	go func() {
		_, err := c.await(t.Context(), "TerminateInstances")
		passed <- err
	}()
	for !clk.HasWaiters() {
		time.Sleep(time.Millisecond)
	}
	clk.Step(200 * time.Millisecond)
	if err := <-passed; err != nil {
		t.Error(err)
	}
	if _, err := c.await(t.Context(), "DescribeInstances"); err != nil {
		t.Errorf("another action: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.await(ctx, "TerminateInstances"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

// TestOtherActionsAreSentAway instead of waiting for long.
func TestOtherActionsAreSentAway(t *testing.T) {
	c, err := newCalls(Config{Clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))})
	if err != nil {
		t.Fatal(err)
	}
	c.paces["CreateTags"] = newPace(c.clock, allowance{1, 0.05}, 0.05)
	if _, err := c.await(t.Context(), "CreateTags"); err != nil {
		t.Fatal(err)
	}
	_, err = c.await(t.Context(), "CreateTags")
	if !cloudprovider.Held(err) || cloudprovider.RetryAfter(err) != 20*time.Second || !strings.Contains(err.Error(), "ec2:CreateTags") {
		t.Errorf("got %v, want to be sent away for 20 seconds", err)
	}
}
