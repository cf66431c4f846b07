package cloudprovidertest

import (
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

func TestFakeConforms(t *testing.T) {
	for name, settle := range map[string]func(*Cloud){
		"at once": func(*Cloud) {},
		"slow and eventually consistent": func(c *Cloud) {
			c.PendingFor, c.ShuttingDownFor, c.VisibleAfter = 10*time.Second, 20*time.Second, 3*time.Second
		},
	} {
		t.Run(name, func(t *testing.T) {
			Run(t, func(*testing.T) Environment {
				clk := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
				cloud := New(clk)
				settle(cloud)
				return Environment{
					Provider: cloud.Provider("a"), Other: cloud.Provider("b"),
					Launch:   v1beta1.LaunchStatus{InstanceType: "t3.micro", Zone: "us-west-2a", Architecture: "amd64"},
					Pass:     clk.Step,
					Patience: time.Minute,
					Refuse: func(k cloudprovider.Kind) bool {
						cloud.Script(Fault{Method: Create, Times: 1, Err: &cloudprovider.Error{Kind: k}})
						return true
					},
				}
			})
		})
	}
}

func TestFaultAnswerLost(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Now())
	cloud := New(clk)
	cloud.Script(Fault{Method: Create, Times: 1, AnswerLost: true})
	e := Environment{Provider: cloud.Provider("a"), Launch: v1beta1.LaunchStatus{Zone: "us-west-2a"}}
	req := e.request()
	if _, err := e.Provider.Create(t.Context(), req); cloudprovider.KindOf(err) != cloudprovider.Transient {
		t.Fatalf("got %v, want a lost answer", err)
	}
	if n := len(cloud.InstancesOf(req.CellUID)); n != 1 {
		t.Fatalf("%d instances, want the one whose answer was lost", n)
	}
	e.create(t, req)
	if n := len(cloud.InstancesOf(req.CellUID)); n != 1 {
		t.Errorf("%d instances after the repetition, want 1", n)
	}
}
