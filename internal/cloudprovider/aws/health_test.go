package aws

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

func health(t *testing.T, p *Provider) []cloudprovider.InstanceHealth {
	t.Helper()
	all, err := p.Health(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b cloudprovider.InstanceHealth) int { return strings.Compare(a.ID, b.ID) })
	for i := range all {
		for n := range all[i].Events {
			if all[i].Events[n].ID == "" {
				t.Error("an event has no ID")
			}
			all[i].Events[n].ID = ""
		}
	}
	return all
}

// TestHealth: of many instances those come back of which something is known, by
// a number of requests that does not depend on how many there are.
func TestHealth(t *testing.T) {
	e := newEndpoint(t)
	cfg := e.provider(t, "a").cfg
	cfg.Metrics = prometheus.NewRegistry()
	p, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range 8 {
		in, err := p.Create(t.Context(), request(fmt.Sprintf("token-%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		for got := in; got.State != cloudprovider.StateRunning; {
			if got, err = p.Get(t.Context(), in.ID); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, in.ID)
	}
	calls := func() float64 {
		return testutil.ToFloat64(p.calls.total.WithLabelValues("ec2:DescribeInstanceStatus", "ok"))
	}
	if got := health(t, p); len(got) != 0 || calls() != 3 {
		t.Errorf("of instances that are well: %+v, by %v requests", got, calls())
	}
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	script := func(id, what, body string) { e.admin(t, http.MethodPut, "instances/"+id+"/"+what, body) }
	script(ids[0], "checks", `{"system":"impaired"}`)
	script(ids[1], "checks", `{"instance":"impaired"}`)
	script(ids[2], "checks", `{"instance":"insufficient-data","system":"insufficient-data"}`)
	script(ids[3], "events", fmt.Sprintf(`[{"code":"instance-retirement","description":"degraded hardware","notBefore":%q},
		{"code":"system-maintenance","description":"[Completed] power","notBefore":%[1]q}]`, at.Format(time.RFC3339)))
	script(ids[4], "events", fmt.Sprintf(`[{"code":"system-maintenance","description":"[Canceled] power","notBefore":%q}]`, at.Format(time.RFC3339)))
	script(ids[0], "events", fmt.Sprintf(`[{"code":"system-reboot","notBefore":%q}]`, at.Format(time.RFC3339)))
	want := []cloudprovider.InstanceHealth{
		{ID: ids[0], Impaired: true, Events: []cloudprovider.ScheduledEvent{{Code: "system-reboot", NotBefore: at}}},
		{ID: ids[1], Impaired: true},
		{ID: ids[3], Events: []cloudprovider.ScheduledEvent{{Code: "instance-retirement", Description: "degraded hardware", NotBefore: at}}},
		{ID: ids[4]},
	}
	slices.SortFunc(want, func(a, b cloudprovider.InstanceHealth) int { return strings.Compare(a.ID, b.ID) })
	if diff := cmp.Diff(want, health(t, p)); diff != "" {
		t.Error(diff)
	}
	if calls() != 6 {
		t.Errorf("%v requests", calls())
	}
}

// TestHealthDenied: the right is optional, so that it lacks is the caller's to
// tell, and no alarm.
func TestHealthDenied(t *testing.T) {
	e := newEndpoint(t)
	e.fault(t, `[{"action":"DescribeInstanceStatus","code":"UnauthorizedOperation"}]`)
	cfg := e.provider(t, "a").cfg
	cfg.Metrics = prometheus.NewRegistry()
	cfg.Denied = func(action, message string) { t.Errorf("told: %s, %s", action, message) }
	p, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Health(t.Context())
	if cloudprovider.KindOf(err) != cloudprovider.Denied || !strings.Contains(err.Error(), "ec2:DescribeInstanceStatus") {
		t.Errorf("got %v", err)
	}
	if got := testutil.ToFloat64(p.calls.refusals.WithLabelValues("ec2:DescribeInstanceStatus")); got != 0 {
		t.Errorf("counted %v times as a right that should be there", got)
	}
	if got := testutil.ToFloat64(p.calls.total.WithLabelValues("ec2:DescribeInstanceStatus", "UnauthorizedOperation")); got != 1 {
		t.Errorf("asked %v times", got)
	}
}

// pagedStatus answers DescribeInstanceStatus in pages of one.
type pagedStatus struct {
	api
	impaired []string
	requests int
}

func (s *pagedStatus) DescribeInstanceStatus(_ context.Context, in *ec2.DescribeInstanceStatusInput, _ ...func(*ec2.Options)) (*ec2.DescribeInstanceStatusOutput, error) {
	s.requests++
	if *in.Filters[0].Name != "system-status.status" {
		return &ec2.DescribeInstanceStatusOutput{}, nil
	}
	n := 0
	if in.NextToken != nil {
		if _, err := fmt.Sscan(*in.NextToken, &n); err != nil {
			return nil, err
		}
	}
	out := &ec2.DescribeInstanceStatusOutput{InstanceStatuses: []types.InstanceStatus{{
		InstanceId: aws.String(s.impaired[n]), SystemStatus: &types.InstanceStatusSummary{Status: types.SummaryStatusImpaired},
	}}}
	if n+1 < len(s.impaired) {
		out.NextToken = aws.String(fmt.Sprint(n + 1))
	}
	return out, nil
}

func TestHealthInPages(t *testing.T) {
	p, _, _ := newStub(t, nil)
	s := &pagedStatus{impaired: []string{"i-1", "i-2", "i-3"}}
	p.ec2 = s
	var got []string
	for _, h := range health(t, p) {
		got = append(got, h.ID)
	}
	if diff := cmp.Diff(s.impaired, got); diff != "" || s.requests != 5 {
		t.Errorf("by %d requests: %s", s.requests, diff)
	}
}
