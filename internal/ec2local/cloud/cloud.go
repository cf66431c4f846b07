package cloud

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// Cloud is an account. Open makes one, Run brings its instances to life. All methods may be called from many
// goroutines, also while Run is not running: then records change but no machine does.
type Cloud struct {
	cfg   Config
	store store
	net   enforcer

	wg sync.WaitGroup // the drivers; grows only while mu is held and running is set

	mu           sync.Mutex
	world        World
	reservations map[string]*Reservation
	instances    map[string]*Instance
	tokens       map[string]string     // client token -> reservation ID
	addresses    map[netip.Addr]string // private address -> instance ID
	held         map[netip.Addr]string // private address of something else -> subnet ID
	nextAddress  map[string]int        // subnet -> where to look for a free address
	seq          int64
	drivers      map[string]*driver
	spotPrices   []SpotPrice // besides the market's
	spotSince    time.Time
	lag          Lag
	versions     map[string][]version // instance -> what it was, the oldest first
	generation   int                  // of what the network has to know; grows with each change of it
	running      context.Context      // Run's context while it runs, else nil
}

// Open reads the state of an account, or makes a new account.
func Open(cfg Config) (*Cloud, error) {
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if err := checkVPC(cfg.VPC, len(cfg.Zones)); err != nil {
		return nil, err
	}
	st, err := openStore(cfg.Dir)
	if err != nil {
		return nil, err
	}
	c := &Cloud{
		cfg: cfg, store: st,
		reservations: map[string]*Reservation{}, instances: map[string]*Instance{}, tokens: map[string]string{},
		addresses: map[netip.Addr]string{}, held: map[netip.Addr]string{}, nextAddress: map[string]int{}, drivers: map[string]*driver{},
		lag: cfg.Lag, versions: map[string][]version{},
		net: enforcer{changed: make(chan struct{}, 1)},
	}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

func checkVPC(vpc netip.Prefix, zones int) error {
	if !vpc.Addr().Is4() || vpc != vpc.Masked() || vpc.Bits() < 16 || vpc.Bits() > 20 {
		return fmt.Errorf("VPC %s: must be an IPv4 range from /16 to /20 without host bits", vpc)
	}
	if zones < 1 || zones > 15 {
		return fmt.Errorf("%d availability zones: must be 1 to 15", zones)
	}
	return nil
}

// load fills the cloud from its files.
func (c *Cloud) load() error {
	world, ok, err := c.store.readWorld()
	if err != nil {
		return err
	}
	if !ok {
		if world, err = c.newWorld(); err != nil {
			return err
		}
		if err := c.store.writeWorld(world); err != nil {
			return err
		}
	}
	if world.VPC.CIDR != c.cfg.VPC {
		return fmt.Errorf("the account in %s was made for VPC %s, not %s", c.cfg.Dir, world.VPC.CIDR, c.cfg.VPC)
	}
	if len(world.RouteTables) == 0 {
		return fmt.Errorf("the account in %s was made by an older ec2local: destroy it", c.cfg.Dir)
	}
	c.world = world
	reservations, instances, err := c.store.readAll()
	if err != nil {
		return err
	}
	c.add(reservations, instances)
	return nil
}

// add publishes reservations and instances that are on disk already. c.mu is held, or nobody else knows c yet.
func (c *Cloud) add(reservations []Reservation, instances []*Instance) {
	for _, r := range reservations {
		c.reservations[r.ID] = &r
		c.seq = max(c.seq, r.Seq)
		if r.ClientToken != "" {
			c.tokens[r.ClientToken] = r.ID
		}
	}
	for _, i := range instances {
		c.instances[i.ID] = i
		if i.HasMachine() {
			for _, a := range i.Interface.Addresses() {
				c.addresses[a] = i.ID
			}
		}
	}
	c.networkChanged()
}

// Run takes up the machines of all instances and drives the instances until ctx ends. It returns when everything it
// started has ended. Machines go on running. Run must not be called twice at a time.
func (c *Cloud) Run(ctx context.Context) {
	c.mu.Lock()
	c.running = ctx
	c.wg.Go(func() { c.keepEnforcing(ctx) })
	for id := range c.instances {
		c.spawn(id, true)
	}
	c.mu.Unlock()

	for ctx.Err() == nil {
		select {
		case id := <-c.cfg.Hypervisor.Exited():
			c.machineEnded(id)
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	c.running = nil
	c.mu.Unlock()
	c.wg.Wait()
}

// machineEnded records that an instance's machine ended by itself.
func (c *Cloud) machineEnded(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.instances[id]
	if !ok || i.State != Running && i.State != Pending {
		return
	}
	c.cfg.Log.Info("the machine ended by itself", "instance", id, "shutdown", i.ShutdownBehaviour)
	err := c.mutate(id, func(i *Instance) { c.ended(i) })
	if err != nil {
		c.cfg.Log.Error("recording that a machine ended", "instance", id, "error", err)
	}
}

// ended changes an instance whose machine ended by itself, by the instance's shutdown behaviour.
func (c *Cloud) ended(i *Instance) {
	next := Stopping
	if i.ShutdownBehaviour == ShutdownTerminate {
		next = ShuttingDown
	}
	const code = "Client.InstanceInitiatedShutdown"
	c.enter(i, next, Reason{Code: code, Message: code + ": Instance initiated shutdown"}, "")
}

// enter changes an instance's state.
func (c *Cloud) enter(i *Instance, s State, why Reason, transition string) {
	i.State, i.Since, i.Reason, i.Transition = s, c.Now(), why, transition
}

// mutate publishes a changed instance and pokes its driver. change gets a shallow copy: what hangs from it by slice,
// map or pointer must be replaced, not modified. c.mu is held.
func (c *Cloud) mutate(id string, change func(*Instance)) error {
	old := c.instances[id]
	next := *old
	change(&next)
	if err := c.store.writeInstance(&next); err != nil {
		return err
	}
	c.instances[id] = &next
	c.outdate(old)
	if next.State != old.State {
		c.cfg.Log.Info("instance changed state", "instance", id, "state", string(next.State),
			"was", string(old.State), "type", next.Type, "zone", next.Zone, "reason", next.Reason.Code)
	}
	if old.HasMachine() && !next.HasMachine() {
		for _, a := range next.Interface.Addresses() {
			delete(c.addresses, a)
		}
		c.networkChanged()
	}
	if d := c.drivers[id]; d != nil {
		d.poke(next.State)
	}
	return nil
}

// forget removes a terminated instance for good.
func (c *Cloud) forget(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.reservations[c.instances[id].ReservationID]
	if err := c.store.removeInstance(id); err != nil {
		return err
	}
	delete(c.instances, id)
	delete(c.versions, id)
	delete(c.drivers, id)
	if slices.ContainsFunc(r.Instances, func(other string) bool { return c.instances[other] != nil }) {
		return nil
	}
	if err := c.store.removeReservation(r.ID); err != nil {
		return err
	}
	delete(c.reservations, r.ID)
	delete(c.tokens, r.ClientToken)
	return nil
}

// Instances returns all instances as reads show them, the oldest first. They are not to be modified.
func (c *Cloud) Instances() []*Instance {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]*Instance, 0, len(c.instances))
	for _, i := range c.instances {
		if seen, ok := c.shown(i); ok {
			out = append(out, seen)
		}
	}
	slices.SortFunc(out, func(a, b *Instance) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Index, b.Index))
	})
	return out
}

// ByAddress returns the instance that has a private address, be it the primary or a secondary one.
func (c *Cloud) ByAddress(addr netip.Addr) (*Instance, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.instances[c.addresses[addr]]
	return i, ok
}

// InterfaceOwner returns the instance with an interface, as long as the interface exists.
func (c *Cloud) InterfaceOwner(id string) (*Instance, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.ownerOf(id)
	return i, i != nil
}

// Instance returns an instance by its ID, as it really is.
func (c *Cloud) Instance(id string) (*Instance, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.instances[id]
	if !ok {
		return nil, NotFound("i", id)
	}
	return i, nil
}

// Console returns what an instance wrote to its console.
func (c *Cloud) Console(id string) ([]byte, error) {
	c.mu.Lock()
	_, ok := c.known(id)
	c.mu.Unlock()
	if !ok {
		return nil, NotFound("i", id)
	}
	out, err := c.cfg.Hypervisor.Console(id)
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, query.Errorf("InternalError", "reading the console: %v", err)
	}
	return out, nil
}

// AccountID returns the number of the account.
func (c *Cloud) AccountID() string { return c.cfg.AccountID }

// Region returns the account's region.
func (c *Cloud) Region() string { return c.cfg.Region }

// Now is the time in UTC.
func (c *Cloud) Now() time.Time { return c.cfg.Clock.Now().UTC() }

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
