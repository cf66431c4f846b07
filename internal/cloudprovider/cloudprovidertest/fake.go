package cloudprovidertest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// Cloud is a cloud in memory. Controllers reach it through Provider. States
// follow from its clock, so nothing happens by itself. Change the settings
// before the first call.
type Cloud struct {
	// Clock is what instances age by.
	Clock clock.PassiveClock

	// Zones exist, each with FreeAddresses (0: as many as one likes).
	Zones         []string
	FreeAddresses int

	// PendingFor and ShuttingDownFor are how long those states last.
	PendingFor      time.Duration
	ShuttingDownFor time.Duration
	// StoppingFor is how long it takes to stop.
	StoppingFor time.Duration
	// VisibleAfter is how long List and Get do not see a new instance.
	VisibleAfter time.Duration
	// ForgetAfter is how long a terminated instance is shown; 0 means an hour.
	ForgetAfter time.Duration
	// SoldOut refuses offerings for lack of capacity; may be nil.
	SoldOut func(v1beta1.LaunchStatus) bool

	// Architectures are those with a machine image; nil means all.
	Architectures []string

	// ConsoleText is what every instance writes to its console.
	ConsoleText string

	// TakenRoutes are networks that lead to something else.
	TakenRoutes []string

	mu        sync.Mutex
	instances []*machine
	routes    map[string]string // network interfaces by network
	leftovers []cloudprovider.Leftover
	faults    []*Fault
	calls     map[Method]int
}

// Method names a method of the seam.
type Method string

const (
	Create Method = "Create"
	Get    Method = "Get"
	List   Method = "List"
	Delete Method = "Delete"
	Zones  Method = "Zones"

	Architectures Method = "Architectures"

	Console Method = "Console"

	Stop  Method = "Stop"
	Start Method = "Start"

	EnsureRoutes Method = "EnsureRoutes"
	RemoveRoutes Method = "RemoveRoutes"

	Leftovers      Method = "Leftovers"
	RemoveLeftover Method = "RemoveLeftover"
)

// Fault makes calls fail.
type Fault struct {
	Method Method
	// Err is what the caller gets; nil means a lost connection.
	Err error
	// AnswerLost lets the call do its work before it fails.
	AnswerLost bool
	// Times is how many calls fail; 0 means all from now on.
	Times int
	// If restricts it to some launches; may be nil.
	If func(cloudprovider.LaunchRequest) bool

	spent int
}

// machine is an instance and what its state follows from.
type machine struct {
	cloudprovider.Instance
	controller string
	made       time.Time
	stopped    time.Time // when it was asked to stop; zero: it runs
	ended      time.Time // when termination was asked for; zero: never
	reason     string
}

// New returns a cloud with three zones, in which everything happens at once.
func New(clk clock.PassiveClock) *Cloud {
	return &Cloud{Clock: clk, Zones: []string{"us-west-2a", "us-west-2b", "us-west-2c"}, calls: map[Method]int{}, routes: map[string]string{}}
}

// Provider is the view of one controller.
func (c *Cloud) Provider(controllerID string) *Fake { return &Fake{c, controllerID} }

// Script adds a fault. Of several that apply the oldest is used.
func (c *Cloud) Script(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &f)
}

// Heal takes all faults away.
func (c *Cloud) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = nil
}

// Calls is how often a method was called.
func (c *Cloud) Calls(m Method) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[m]
}

// All returns every instance that was ever launched, with its present state,
// whoever may see it.
func (c *Cloud) All() []cloudprovider.Instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []cloudprovider.Instance
	for _, m := range c.instances {
		all = append(all, c.shown(m))
	}
	return all
}

// Alive returns those that cost money.
func (c *Cloud) Alive() []cloudprovider.Instance {
	return slices.DeleteFunc(c.All(), func(i cloudprovider.Instance) bool {
		return i.State == cloudprovider.StateTerminated || i.State == cloudprovider.StateShuttingDown
	})
}

// Kill terminates an instance from outside.
func (c *Cloud) Kill(id, reason string) {
	c.change(id, func(m *machine) { m.ended, m.reason = c.Clock.Now(), reason })
}

// Stop stops one from outside.
func (c *Cloud) Stop(id, reason string) {
	c.change(id, func(m *machine) { m.stopped, m.reason = c.Clock.Now(), reason })
}

// Forget makes one disappear without a trace.
func (c *Cloud) Forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.instances = slices.DeleteFunc(c.instances, func(m *machine) bool { return m.ID == id })
}

func (c *Cloud) change(id string, f func(*machine)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.instances {
		if m.ID == id {
			f(m)
		}
	}
}

// begin counts a call and finds the fault that applies to it. The caller holds
// the lock.
func (c *Cloud) begin(ctx context.Context, method Method, req cloudprovider.LaunchRequest) (before, after error) {
	if err := ctx.Err(); err != nil {
		return err, nil
	}
	c.calls[method]++
	for _, f := range c.faults {
		if f.Method != method || f.Times > 0 && f.spent == f.Times || f.If != nil && !f.If(req) {
			continue
		}
		f.spent++
		err := f.Err
		if err == nil {
			err = &cloudprovider.Error{Kind: cloudprovider.Transient, Action: string(method), Message: "connection reset"}
		}
		if f.AnswerLost {
			return nil, err
		}
		return err, nil
	}
	return nil, nil
}

// shown is the machine as of now. The caller holds the lock.
func (c *Cloud) shown(m *machine) cloudprovider.Instance {
	i, now := m.Instance, c.Clock.Now()
	i.StateReason = m.reason
	switch {
	case !m.ended.IsZero() && now.Sub(m.ended) >= c.ShuttingDownFor:
		i.State, i.PrimaryIP, i.PodIP, i.PublicIP, i.NetworkInterface = cloudprovider.StateTerminated, "", "", "", ""
	case !m.ended.IsZero():
		i.State = cloudprovider.StateShuttingDown
	case !m.stopped.IsZero() && now.Sub(m.stopped) < c.StoppingFor:
		i.State = cloudprovider.StateStopping
	case !m.stopped.IsZero():
		i.State, i.PublicIP = cloudprovider.StateStopped, ""
	case now.Sub(m.LaunchTime) >= c.PendingFor:
		i.State = cloudprovider.StateRunning
	default:
		i.State = cloudprovider.StatePending
	}
	return i
}

// visible says whether reads show it. The caller holds the lock.
func (c *Cloud) visible(m *machine) bool {
	forget := c.ForgetAfter
	if forget == 0 {
		forget = time.Hour
	}
	now := c.Clock.Now()
	return now.Sub(m.made) >= c.VisibleAfter && (m.ended.IsZero() || now.Sub(m.ended) < c.ShuttingDownFor+forget)
}

// room says whether a zone has two more addresses. The caller holds the lock.
func (c *Cloud) room(zone string) bool {
	used := 0
	for _, m := range c.instances {
		if m.Zone == zone && c.shown(m).State != cloudprovider.StateTerminated {
			used += 2
		}
	}
	return c.FreeAddresses == 0 || used+2 <= c.FreeAddresses
}

// Fake is a Cloud as one controller sees it.
type Fake struct {
	*Cloud
	controller string
}

var (
	_ cloudprovider.Provider           = (*Fake)(nil)
	_ cloudprovider.ZoneLister         = (*Fake)(nil)
	_ cloudprovider.ArchitectureLister = (*Fake)(nil)
	_ cloudprovider.Router             = (*Fake)(nil)
	_ cloudprovider.ConsoleReader      = (*Fake)(nil)
	_ cloudprovider.Stopper            = (*Fake)(nil)
)

// Create implements cloudprovider.Provider.
func (f *Fake) Create(ctx context.Context, req cloudprovider.LaunchRequest) (*cloudprovider.Instance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, after := f.begin(ctx, Create, req)
	if before != nil {
		return nil, before
	}
	i, err := f.create(req)
	if after != nil {
		return nil, after
	}
	return i, err
}

func (f *Fake) create(req cloudprovider.LaunchRequest) (*cloudprovider.Instance, error) {
	refuse := func(kind cloudprovider.Kind, message string) error {
		return &cloudprovider.Error{Kind: kind, Action: "Create", Code: string(kind), Message: message}
	}
	for _, m := range f.instances {
		if m.controller != f.controller || m.ClientToken != req.ClientToken {
			continue
		}
		if i := f.shown(m); i.State != cloudprovider.StateTerminated {
			return &i, nil
		}
		return nil, refuse(cloudprovider.Terminated, m.ID+" was terminated")
	}
	zone := req.Launch.Zone
	if zone == "" {
		zone = f.Cloud.Zones[0]
	}
	switch {
	case len(req.UserData) > 16<<10:
		return nil, refuse(cloudprovider.InvalidConfiguration, "user data is too large")
	case !slices.Contains(f.Cloud.Zones, zone):
		return nil, refuse(cloudprovider.InvalidConfiguration, "no subnet in zone "+zone)
	case !slices.Contains(f.architectures(), cmp.Or(req.Launch.Architecture, "amd64")):
		return nil, refuse(cloudprovider.InvalidConfiguration, "no image for "+req.Launch.Architecture)
	case f.SoldOut != nil && f.SoldOut(req.Launch):
		return nil, refuse(cloudprovider.InsufficientCapacity, "no "+req.Launch.InstanceType+" in "+zone)
	case !f.room(zone):
		return nil, refuse(cloudprovider.SubnetFull, "no address in "+zone)
	}
	n := len(f.instances) + 1
	m := &machine{controller: f.controller, made: f.Clock.Now(), Instance: cloudprovider.Instance{
		ID:       fmt.Sprintf("i-%017x", n),
		CellName: req.CellName, CellUID: req.CellUID, ClientToken: req.ClientToken,
		InstanceType: req.Launch.InstanceType, Zone: zone, CapacityType: req.Launch.CapacityType,
		PrimaryIP:        fmt.Sprintf("10.0.%d.%d", n/100, 2*(n%100)),
		PodIP:            fmt.Sprintf("10.0.%d.%d", n/100, 2*(n%100)+1),
		NetworkInterface: fmt.Sprintf("eni-%017x", n),
		LaunchTime:       f.Clock.Now(),
	}}
	f.instances = append(f.instances, m)
	i := f.shown(m)
	return &i, nil
}

// Get implements cloudprovider.Provider.
func (f *Fake) Get(ctx context.Context, id string) (*cloudprovider.Instance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if before, after := f.begin(ctx, Get, cloudprovider.LaunchRequest{}); before != nil || after != nil {
		return nil, firstOf(before, after)
	}
	if m := f.mine(id); m != nil && f.visible(m) {
		i := f.shown(m)
		return &i, nil
	}
	return nil, &cloudprovider.Error{Kind: cloudprovider.NotFound, Action: "Get", Message: id}
}

// List implements cloudprovider.Provider.
func (f *Fake) List(ctx context.Context) ([]cloudprovider.Instance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if before, after := f.begin(ctx, List, cloudprovider.LaunchRequest{}); before != nil || after != nil {
		return nil, firstOf(before, after)
	}
	return f.list(func(types.UID) bool { return true }), nil
}

// ListCells implements cloudprovider.CellLister. Scripts take it for a List.
func (f *Fake) ListCells(ctx context.Context, cells []types.UID) ([]cloudprovider.Instance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if before, after := f.begin(ctx, List, cloudprovider.LaunchRequest{}); before != nil || after != nil {
		return nil, firstOf(before, after)
	}
	return f.list(func(uid types.UID) bool { return slices.Contains(cells, uid) }), nil
}

func (f *Fake) list(of func(cell types.UID) bool) (all []cloudprovider.Instance) {
	for _, m := range f.instances {
		if m.controller == f.controller && f.visible(m) && of(m.CellUID) {
			all = append(all, f.shown(m))
		}
	}
	return all
}

// Delete implements cloudprovider.Provider.
func (f *Fake) Delete(ctx context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, after := f.begin(ctx, Delete, cloudprovider.LaunchRequest{})
	if before != nil {
		return before
	}
	m := f.mine(id)
	if m == nil || !f.visible(m) {
		return firstOf(after, &cloudprovider.Error{Kind: cloudprovider.NotFound, Action: "Delete", Message: id})
	}
	if m.ended.IsZero() {
		m.ended, m.reason = f.Clock.Now(), "user request"
	}
	return after
}

// Zones implements cloudprovider.ZoneLister.
func (f *Fake) Zones(ctx context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if before, after := f.begin(ctx, Zones, cloudprovider.LaunchRequest{}); before != nil || after != nil {
		return nil, firstOf(before, after)
	}
	zones := slices.DeleteFunc(slices.Clone(f.Cloud.Zones), func(z string) bool { return !f.room(z) })
	slices.SortFunc(zones, strings.Compare)
	return zones, nil
}

// Architectures implements cloudprovider.ArchitectureLister.
func (f *Fake) Architectures(ctx context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if before, after := f.begin(ctx, Architectures, cloudprovider.LaunchRequest{}); before != nil || after != nil {
		return nil, firstOf(before, after)
	}
	return f.architectures(), nil
}

func (f *Fake) architectures() []string {
	if f.Cloud.Architectures == nil {
		return []string{"amd64", "arm64"}
	}
	return f.Cloud.Architectures
}

// Console implements cloudprovider.ConsoleReader.
func (f *Fake) Console(ctx context.Context, id string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if before, after := f.begin(ctx, Console, cloudprovider.LaunchRequest{}); before != nil || after != nil {
		return "", firstOf(before, after)
	}
	if m := f.mine(id); m == nil || !f.visible(m) {
		return "", &cloudprovider.Error{Kind: cloudprovider.NotFound, Action: "Console", Message: id}
	}
	return f.ConsoleText, nil
}

func (f *Fake) mine(id string) *machine {
	for _, m := range f.instances {
		if m.ID == id && m.controller == f.controller {
			return m
		}
	}
	return nil
}

// firstOf returns the first error that is not nil.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// InstancesOf returns the living instances of a Cell.
func (c *Cloud) InstancesOf(uid types.UID) []cloudprovider.Instance {
	return slices.DeleteFunc(c.Alive(), func(i cloudprovider.Instance) bool { return i.CellUID != uid })
}
