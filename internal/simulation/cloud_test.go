package simulation

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// controllerID is ours; somebody else's instances are in the same cloud.
const controllerID = "kip"

// cloud is the provider's fake and what surrounds it here.
type cloud struct {
	*cloudprovidertest.Cloud
	world *world
	ours  *cloudprovidertest.Fake
	// theirs is an instance of another controller.
	theirs string
}

func newCloud(w *world) *cloud {
	c := &cloud{Cloud: cloudprovidertest.New(clock.RealClock{}), world: w}
	c.PendingFor, c.ShuttingDownFor = w.between(time.Second, 10*time.Second), w.between(time.Second, 40*time.Second)
	c.VisibleAfter = w.between(0, 8*time.Second)
	c.ours = c.Provider(controllerID)
	other, err := c.Provider("somebody else").Create(w.t.Context(), cloudprovider.LaunchRequest{
		ClientToken: "theirs", CellName: "theirs", CellUID: "theirs", Launch: v1beta1.LaunchStatus{Zone: c.Zones[0]},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	c.theirs = other.ID
	return c
}

// region is the real catalogue's.
var region = sync.OnceValue(func() *instancetype.Region {
	catalogue, err := instancetype.Embedded()
	if err != nil {
		panic(err)
	}
	region, err := catalogue.Region("us-west-2")
	if err != nil {
		panic(err)
	}
	return region
})

// offerings are those of three types.
func offerings(req v1beta1.Requirements, opts instancetype.Options) instancetype.Result {
	req.InstanceTypes = []string{"t3.nano", "t3a.nano", "t3.micro"}
	return region().Offerings(req, opts)
}

// shortage has most offerings sold out for a while.
func (w *world) shortage() {
	until := time.Now().Add(w.between(10*time.Second, 4*time.Minute))
	all := w.chance(0.3)
	spared := w.cloud.Zones[w.rand.IntN(len(w.cloud.Zones))]
	w.cloud.SoldOut = func(l v1beta1.LaunchStatus) bool {
		return time.Now().Before(until) && (all || l.Zone != spared)
	}
}

// kipCloud is the cloud as one Kip calls it.
type kipCloud struct {
	*cloud
	kip *kip
	who string
}

var (
	_ cloudprovider.Provider       = kipCloud{}
	_ cloudprovider.CellLister     = kipCloud{}
	_ cloudprovider.ZoneLister     = kipCloud{}
	_ cloudprovider.Router         = kipCloud{}
	_ cloudprovider.HealthReporter = kipCloud{}
)

func (c kipCloud) Create(ctx context.Context, req cloudprovider.LaunchRequest) (*cloudprovider.Instance, error) {
	return ask(ctx, c.kip, c.who+" launches "+req.CellName, toCloud, func() (*cloudprovider.Instance, error) {
		i, err := c.ours.Create(c.world.t.Context(), req)
		if err == nil {
			c.world.launched(i, req)
		}
		return i, err
	})
}

func (c kipCloud) Get(ctx context.Context, id string) (*cloudprovider.Instance, error) {
	return ask(ctx, c.kip, c.who+" gets "+id, toCloud, func() (*cloudprovider.Instance, error) { return c.ours.Get(c.world.t.Context(), id) })
}

func (c kipCloud) List(ctx context.Context) ([]cloudprovider.Instance, error) {
	return ask(ctx, c.kip, c.who+" lists instances", toCloud, func() ([]cloudprovider.Instance, error) { return c.ours.List(c.world.t.Context()) })
}

func (c kipCloud) ListCells(ctx context.Context, cells []types.UID) ([]cloudprovider.Instance, error) {
	return ask(ctx, c.kip, c.who+" lists instances of cells", toCloud, func() ([]cloudprovider.Instance, error) { return c.ours.ListCells(c.world.t.Context(), cells) })
}

func (c kipCloud) Delete(ctx context.Context, id string) error {
	_, err := ask(ctx, c.kip, c.who+" terminates "+id, toCloud, func() (struct{}, error) {
		c.world.check.terminating(id)
		err := c.ours.Delete(c.world.t.Context(), id)
		c.world.lookAtMachines()
		return struct{}{}, err
	})
	return err
}

func (c kipCloud) Zones(ctx context.Context) ([]string, error) {
	return c.ours.Zones(c.world.t.Context())
}

func (c kipCloud) EnsureRoutes(ctx context.Context, to cloudprovider.RouteTarget, networks []string) error {
	_, err := ask(ctx, c.kip, c.who+" routes to "+to.InstanceID, toCloud, func() (struct{}, error) {
		return struct{}{}, c.ours.EnsureRoutes(c.world.t.Context(), to, networks)
	})
	return err
}

func (c kipCloud) RemoveRoutes(ctx context.Context, to cloudprovider.RouteTarget) error {
	_, err := ask(ctx, c.kip, c.who+" removes routes to "+to.InstanceID, toCloud, func() (struct{}, error) {
		return struct{}{}, c.ours.RemoveRoutes(c.world.t.Context(), to)
	})
	return err
}

func (c kipCloud) Health(ctx context.Context) ([]cloudprovider.InstanceHealth, error) {
	return ask(ctx, c.kip, c.who+" asks for the instances' health", toCloud, func() (all []cloudprovider.InstanceHealth, _ error) {
		for _, m := range c.world.sortedMachines() {
			if m.event != nil && m.on {
				all = append(all, cloudprovider.InstanceHealth{ID: m.id, Events: []cloudprovider.ScheduledEvent{*m.event}})
			}
		}
		return all, nil
	})
}

// refusal is an answer of the cloud's.
func refusal(kind cloudprovider.Kind) error {
	return &cloudprovider.Error{Kind: kind, Action: "ec2:Scripted", Code: string(kind), Message: fmt.Sprintf("scripted %s", kind)}
}
