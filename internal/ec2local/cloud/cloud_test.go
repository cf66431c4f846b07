package cloud

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/ec2local/machine/machinetest"
)

var testDelays = Delays{Boot: 2 * time.Second, Terminate: 3 * time.Second, Stop: time.Second, Retention: time.Hour}

// config is that of an account with one image, in a folder of the test's own.
func config(t *testing.T, h *machinetest.Hypervisor) Config {
	t.Helper()
	dir := t.TempDir()
	image := filepath.Join(dir, "images", "cell")
	if err := os.MkdirAll(image, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(image, "image.json"), []byte(`{"name": "cell"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	return Config{
		Dir: filepath.Join(dir, "state"), Images: filepath.Join(dir, "images"), Region: "us-west-2",
		Zones: []string{"us-west-2a", "us-west-2b"}, AccountID: "123456789012", VPC: netip.MustParsePrefix("10.98.0.0/16"),
		Hypervisor: h, Delays: testDelays, Clock: clock.RealClock{},
		Types: func(name string) (Type, bool) {
			return Type{Name: name, VCPUs: 2, MemoryMiB: 1024, Architecture: "x86_64", AddressesPerInterface: 2, Spot: true}, name == "small"
		},
		Log: slog.New(slog.DiscardHandler),
	}
}

func open(t *testing.T, cfg Config) *Cloud {
	t.Helper()
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs a cloud until stop is called.
func run(c *Cloud) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	return func() { cancel(); wg.Wait() }
}

func small(token string) Launch {
	return Launch{Min: 1, Max: 1, ClientToken: token, ImageID: imageID("cell"), Type: "small", SecondaryCount: 1,
		ShutdownBehaviour: ShutdownTerminate}
}

func launch(t *testing.T, c *Cloud, l Launch) []*Instance {
	t.Helper()
	_, instances, err := c.Launch(l)
	if err != nil {
		t.Fatal(err)
	}
	return instances
}

func state(t *testing.T, c *Cloud, id string) State {
	t.Helper()
	i, err := c.Instance(id)
	if err != nil {
		return "forgotten"
	}
	return i.State
}

func TestStatesTakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := machinetest.New()
		c := open(t, config(t, h))
		defer run(c)()
		id := launch(t, c, small(""))[0].ID
		expect := func(after time.Duration, want State, machine bool) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := state(t, c, id); got != want || h.Running(id) != machine {
				t.Errorf("after %s: %s with running %t, want %s with %t", after, got, h.Running(id), want, machine)
			}
		}
		expect(testDelays.Boot-1, Pending, false)
		expect(1, Running, true)
		if _, err := c.Terminate([]string{id}, false); err != nil {
			t.Fatal(err)
		}
		expect(0, ShuttingDown, false)
		expect(testDelays.Terminate, Terminated, false)
		if n := len(c.addresses); n != 0 {
			t.Errorf("%d addresses are still taken", n)
		}
		expect(testDelays.Retention, "forgotten", false)
		if left, _ := filepath.Glob(filepath.Join(c.cfg.Dir, "*", "*")); len(left) != 0 {
			t.Errorf("forgotten, but there is still %v", left)
		}
	})
}

func TestTerminatedWhilePending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := machinetest.New()
		c := open(t, config(t, h))
		defer run(c)()
		id := launch(t, c, small(""))[0].ID
		time.Sleep(time.Second)
		if _, err := c.Terminate([]string{id}, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(testDelays.Terminate)
		synctest.Wait()
		if got := state(t, c, id); got != Terminated {
			t.Errorf("got %s", got)
		}
		if slices.ContainsFunc(h.Calls(), func(c machinetest.Call) bool { return c.Op == "Start" }) {
			t.Error("the machine was started all the same")
		}
	})
}

func TestHypervisorFailsForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := machinetest.New()
		c := open(t, config(t, h))
		defer run(c)()
		id := launch(t, c, small(""))[0].ID
		time.Sleep(testDelays.Boot)
		synctest.Wait()
		h.SetFault(func(op, _ string) error {
			if op == "Remove" {
				return errors.New("busy")
			}
			return nil
		})
		if _, err := c.Terminate([]string{id}, false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if got := state(t, c, id); got != ShuttingDown {
			t.Errorf("while the machine cannot be removed the instance is %s", got)
		}
		h.SetFault(nil)
		time.Sleep(maxBackoff)
		synctest.Wait()
		if got := state(t, c, id); got != Terminated {
			t.Errorf("then it is %s", got)
		}
	})
}

// TestKilledAtEveryCall ends the cloud in the middle of every call of the hypervisor in turn, both before and after the
// call did its work, starts another one on what is left, and sees that the account and the machines agree in the end.
func TestKilledAtEveryCall(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			done := false
			t.Run(fmt.Sprintf("call %d, done %t", n, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { done = killedAt(t, n, after) })
			})
			if done {
				break
			}
		}
	}
}

// killedAt plays two launches, an exit and a termination, and a kill at the n-th call. It answers whether there were
// fewer calls than that.
func killedAt(t *testing.T, n int, after bool) (done bool) {
	h := machinetest.New()
	cfg := config(t, h)
	ctx, kill := context.WithCancel(t.Context())
	calls := 0
	h.SetFault(func(string, string) error {
		if calls++; calls < n {
			return nil
		}
		// From here on the process is dead: nothing that it does reaches the machines.
		kill()
		if after && calls == n {
			return nil
		}
		return context.Canceled
	})
	c := open(t, cfg)
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	stays := launch(t, c, small("stays"))[0].ID
	ends := launch(t, c, small("ends"))[0].ID
	exits := launch(t, c, small("exits"))[0].ID
	time.Sleep(testDelays.Boot)
	synctest.Wait()
	if _, err := c.Terminate([]string{ends}, false); err != nil {
		t.Fatal(err)
	}
	h.End(exits)
	time.Sleep(time.Minute)
	kill()
	wg.Wait()
	done = calls < n
	select {
	case <-h.Exited(): // nobody was there to see it
	default:
	}

	h.SetFault(nil)
	next := open(t, cfg)
	stop := run(next)
	defer stop()
	time.Sleep(time.Minute)
	h.End(exits) // in case the machine had not been started before
	time.Sleep(time.Minute)
	synctest.Wait()
	if again := launch(t, next, small("stays"))[0].ID; again != stays {
		t.Errorf("the token is forgotten: %s became %s", stays, again)
	}
	want := map[string]State{stays: Running, ends: Terminated, exits: Terminated}
	for id, state := range want {
		i, err := next.Instance(id)
		if err != nil || i.State != state {
			t.Errorf("%s: got %+v, %v, want %s", id, i, err, state)
		}
	}
	if got := slices.Collect(maps.Keys(h.Machines())); len(got) != 1 || !h.Running(stays) {
		t.Errorf("the machines are %v, want %s running", got, stays)
	}
	return done
}

func TestHalfALaunchIsNone(t *testing.T) {
	h := machinetest.New()
	cfg := config(t, h)
	c := open(t, cfg)
	l := small("token")
	l.Min, l.Max = 3, 3
	launch(t, c, l)
	r, err := filepath.Glob(filepath.Join(cfg.Dir, reservationsDir, "*.json"))
	if err != nil || len(r) != 1 {
		t.Fatalf("the reservations are %v, %v", r, err)
	}
	if err := os.Remove(r[0]); err != nil {
		t.Fatal(err)
	}
	c = open(t, cfg)
	if got := c.Instances(); len(got) != 0 {
		t.Errorf("%d instances without a reservation", len(got))
	}
	if got := launch(t, c, l); len(got) != 3 {
		t.Errorf("%d instances", len(got))
	}
}

func TestAddresses(t *testing.T) {
	h := machinetest.New()
	c := open(t, config(t, h))
	first := launch(t, c, small(""))[0].Interface
	second := launch(t, c, small(""))[0].Interface
	want := []string{"10.98.0.4", "10.98.0.5", "10.98.0.6", "10.98.0.7"}
	for n, got := range append(first.Addresses(), second.Addresses()...) {
		if got.String() != want[n] {
			t.Errorf("address %d is %s, want %s", n, got, want[n])
		}
	}
	l := small("")
	l.PrimaryIP = netip.MustParseAddr("10.98.0.4")
	if _, _, err := c.Launch(l); err == nil {
		t.Error("an address was given twice")
	}
	for _, reserved := range []string{"10.98.0.0", "10.98.0.3", "10.98.15.255", "10.98.16.4"} {
		l.PrimaryIP = netip.MustParseAddr(reserved)
		if _, _, err := c.Launch(l); err == nil {
			t.Errorf("%s was given to an instance", reserved)
		}
	}
	l.PrimaryIP = netip.MustParseAddr("10.98.15.254")
	launch(t, c, l)
}

func TestOpenRefuses(t *testing.T) {
	cfg := config(t, machinetest.New())
	open(t, cfg)
	cfg.VPC = netip.MustParsePrefix("10.99.0.0/16")
	if _, err := Open(cfg); err == nil {
		t.Error("an account of another VPC was opened")
	}
}
