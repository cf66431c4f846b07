package garbagecollection

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

func cell(name string, uid types.UID, instance string) *v1beta1.Cell {
	return &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid}, Status: v1beta1.CellStatus{InstanceID: instance}}
}

func TestCollect(t *testing.T) {
	const first = "i-00000000000000001"
	for name, tc := range map[string]struct {
		reason string
		cached []client.Object
		live   []client.Object
		ended  bool
	}{
		"no cell":                 {reason: "nothing accounts for it", ended: true},
		"cell with it":            {reason: "the ordinary case", cached: []client.Object{cell("c", "uid", first)}, live: []client.Object{cell("c", "uid", first)}},
		"cell that launches":      {reason: "the ID is not on record yet", cached: []client.Object{cell("c", "uid", "")}, live: []client.Object{cell("c", "uid", "")}},
		"cell with another":       {reason: "launched twice", cached: []client.Object{cell("c", "uid", "i-2")}, live: []client.Object{cell("c", "uid", "i-2")}, ended: true},
		"cell of the same name":   {reason: "another UID is another cell", cached: []client.Object{cell("c", "new", "")}, live: []client.Object{cell("c", "new", "")}, ended: true},
		"cache lags":              {reason: "the API server has the last word", live: []client.Object{cell("c", "uid", first)}},
		"cache has what was gone": {reason: "left to the next round", cached: []client.Object{cell("c", "uid", first)}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := cloudprovidertest.New(clock.RealClock{})
				c, events := newCollector(t, cloud, tc.cached, tc.live)
				launch(t, cloud.Provider("test"), "c", "uid")
				for round := range 6 {
					if err := c.Collect(t.Context()); err != nil {
						t.Fatal(err)
					}
					if n := len(cloud.Alive()); n != 1 && round < 3 {
						t.Fatalf("round %d: ended after %d s: too young, or seen once only", round, 50*round)
					}
					time.Sleep(50 * time.Second)
				}
				if got := len(cloud.Alive()) == 0; got != tc.ended {
					t.Errorf("%s: ended = %v, want %v", tc.reason, got, tc.ended)
				}
				if got := len(events.Events) == 1; got != tc.ended {
					t.Errorf("%d events", len(events.Events))
				}
			})
		})
	}
}

// TestRoutesGoWithALeak: nobody knows the interface of an instance that is gone.
func TestRoutesGoWithALeak(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		err    error
		routes int
		alive  int
	}{
		"removed":     {reason: "the ordinary case"},
		"unreachable": {reason: "the instance is the record of what is to be removed", err: errors.New("no answer"), routes: 1, alive: 1},
		"denied":      {reason: "an instance costs more than a dead route", err: &cloudprovider.Error{Kind: cloudprovider.Denied}, routes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cloud := cloudprovidertest.New(clock.RealClock{})
				c, _ := newCollector(t, cloud, nil, nil)
				provider := cloud.Provider("test")
				launch(t, provider, "c", "uid")
				i := cloud.Alive()[0]
				if err := provider.EnsureRoutes(t.Context(), cloudprovider.RouteTarget{InstanceID: i.ID, NetworkInterface: i.NetworkInterface}, []string{"10.20.0.0/16"}); err != nil {
					t.Fatal(err)
				}
				if tc.err != nil {
					cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.RemoveRoutes, Err: tc.err})
				}
				for range 6 {
					if err := c.Collect(t.Context()); err != nil && tc.alive == 0 {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
				}
				if r, a := len(cloud.Routes()), len(cloud.Alive()); r != tc.routes || a != tc.alive {
					t.Errorf("%s: %d routes and %d instances left, want %d and %d", tc.reason, r, a, tc.routes, tc.alive)
				}
			})
		})
	}
}

func TestOthersInstancesAreNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := cloudprovidertest.New(clock.RealClock{})
		c, _ := newCollector(t, cloud, nil, nil)
		launch(t, cloud.Provider("another"), "c", "uid")
		for range 5 {
			time.Sleep(time.Minute)
			if err := c.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if len(cloud.Alive()) != 1 {
			t.Error("an instance of another controller was terminated")
		}
	})
}

func TestStartRepeatsAfterErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := cloudprovidertest.New(clock.RealClock{})
		c, _ := newCollector(t, cloud, nil, nil)
		cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.List, Times: 3})
		cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Delete, Times: 1})
		launch(t, cloud.Provider("test"), "c", "uid")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Start(ctx) }()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(cloud.Alive()); n != 0 {
			t.Errorf("%d instances left after ten minutes", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestDryRun: what would be done is told once, and nothing is done.
func TestDryRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := cloudprovidertest.New(clock.RealClock{})
		c, events := newCollector(t, cloud, nil, nil, func(cfg *Config) { cfg.DryRun = true })
		launch(t, cloud.Provider("test"), "c", "uid")
		for range 10 {
			time.Sleep(time.Minute)
			if err := c.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if len(cloud.Alive()) != 1 {
			t.Error("the instance was terminated")
		}
		if len(events.Events) != 1 {
			t.Errorf("%d events", len(events.Events))
		}
		if e := <-events.Events; !strings.Contains(e, "InstanceLeaked") || !strings.Contains(e, "dry run") {
			t.Errorf("told was %q", e)
		}
		if got := testutil.ToFloat64(c.leaked.WithLabelValues("no-cell")); got != 1 {
			t.Errorf("counted %v times", got)
		}
	})
}

func newCollector(t *testing.T, cloud *cloudprovidertest.Cloud, cached, live []client.Object, change ...func(*Config)) (*Collector, *record.FakeRecorder) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	events := record.NewFakeRecorder(10)
	cfg := Config{
		Cloud: cloud.Provider("test"), Routes: cloud.Provider("test"), NodeName: "kip-provider-0",
		Cells: fake.NewClientBuilder().WithScheme(scheme).WithObjects(cached...).Build(),
		Live:  fake.NewClientBuilder().WithScheme(scheme).WithObjects(live...).Build(),
		Clock: clock.RealClock{}, Events: events, Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c, events
}

func launch(t *testing.T, p cloudprovider.Provider, name string, uid types.UID) {
	t.Helper()
	if _, err := p.Create(t.Context(), cloudprovider.LaunchRequest{
		ClientToken: string(uid), CellName: name, CellUID: uid, Launch: v1beta1.LaunchStatus{Zone: "us-west-2a"},
	}); err != nil {
		t.Fatal(err)
	}
}
