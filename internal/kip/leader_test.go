package kip

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// lease is the one Lease of a virtual node, as the API server keeps it.
type lease struct {
	mu      sync.Mutex
	version int
	record  []byte
}

// contender is one Kip's view of it.
type contender struct {
	name  string
	lease *lease

	mu   sync.Mutex
	seen int
	cut  bool // the API server does not answer this Kip
}

var leases = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}

func (c *contender) do(f func(l *lease) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return errors.New("the API server does not answer")
	}
	c.lease.mu.Lock()
	defer c.lease.mu.Unlock()
	if err := f(c.lease); err != nil {
		return err
	}
	c.seen = c.lease.version
	return nil
}

func (c *contender) Get(context.Context) (record *resourcelock.LeaderElectionRecord, raw []byte, err error) {
	err = c.do(func(l *lease) error {
		if l.version == 0 {
			return apierrors.NewNotFound(leases, "kip-provider-0")
		}
		raw = l.record
		return json.Unmarshal(raw, &record)
	})
	return record, raw, err
}

func (c *contender) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return c.Update(ctx, record)
}

func (c *contender) Update(_ context.Context, record resourcelock.LeaderElectionRecord) error {
	return c.do(func(l *lease) (err error) {
		if c.seen != l.version {
			return apierrors.NewConflict(leases, "kip-provider-0", errors.New("somebody else wrote it"))
		}
		l.version++
		l.record, err = json.Marshal(record)
		return err
	})
}

func (*contender) RecordEvent(string) {}

func (c *contender) Identity() string { return c.name }

func (c *contender) Describe() string { return "kip-provider-0" }

// leave cuts the Kip off from the API server, as a network does.
func (c *contender) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
}

// kipOf runs what a Kip consists of: a part that is the leader's, and one that
// is not.
type kipOf struct {
	*contender
	stop  context.CancelFunc
	ready chan struct{} // what runs always runs
	leads chan struct{} // what the leader runs runs
	ended chan error
	over  chan struct{} // what the leader ran has ended
}

func startKip(t *testing.T, l *lease, name string) *kipOf {
	t.Helper()
	k := &kipOf{
		contender: &contender{name: name, lease: l},
		ready:     make(chan struct{}), leads: make(chan struct{}), over: make(chan struct{}), ended: make(chan error, 1),
	}
	options := ctrl.Options{Metrics: metricsserver.Options{BindAddress: "0"}}
	elected(k.contender)(&options)
	mgr, err := ctrl.NewManager(&rest.Config{Host: "http://127.0.0.1:1"}, options)
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range []manager.Runnable{
		always(func(ctx context.Context) error {
			close(k.ready)
			<-ctx.Done()
			return nil
		}),
		manager.RunnableFunc(func(ctx context.Context) error {
			close(k.leads)
			<-ctx.Done()
			close(k.over)
			return nil
		}),
	} {
		if err := mgr.Add(run); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	k.stop = cancel
	go func() { k.ended <- mgr.Start(ctx) }()
	<-k.ready
	synctest.Wait()
	return k
}

// end stops it, for the test's end.
func (k *kipOf) end(t *testing.T) {
	t.Helper()
	k.stop()
	if err := <-k.ended; err != nil {
		t.Errorf("%s: %v", k.name, err)
	}
}

func is(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// A clean end, as of a pod that is replaced, hands the lead over at once.
func TestLeadIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{}
		first := startKip(t, l, "first")
		second := startKip(t, l, "second")
		time.Sleep(time.Minute)
		if !is(first.leads) || is(second.leads) {
			t.Fatalf("first leads: %t, second leads: %t", is(first.leads), is(second.leads))
		}
		ended := time.Now()
		first.end(t)
		if !is(first.over) {
			t.Error("the first gave the lead up with a part of it at work")
		}
		<-second.leads
		if took := time.Since(ended); took > 3*time.Second {
			t.Errorf("the second leads %s after the first ended", took)
		}
		second.end(t)
	})
}

// A leader that does not reach the API server ends before another leads; and
// that does within the time that is promised.
func TestLostLeadEndsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{}
		first := startKip(t, l, "first")
		second := startKip(t, l, "second")
		time.Sleep(time.Minute)
		lost := time.Now()
		first.leave()
		if err := <-first.ended; err == nil {
			t.Error("the first lost its lead and did not say so")
		}
		if is(second.leads) {
			t.Error("the second led before the first had ended")
		}
		<-first.over
		<-second.leads
		if took := time.Since(lost); took > 15*time.Second {
			t.Errorf("the second leads after %s", took)
		}
		second.end(t)
	})
}

// A Kip that was killed and starts again under its old name leads at once,
// though its old lease has not expired: its predecessor is known to be gone.
func TestSameNameLeadsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lease{}
		killed := startKip(t, l, "kip-provider-0/uid")
		killed.leave()
		began := time.Now()
		again := startKip(t, l, "kip-provider-0/uid")
		<-again.leads
		if took := time.Since(began); took > time.Second {
			t.Errorf("it leads after %s", took)
		}
		if err := <-killed.ended; err == nil {
			t.Error("the killed one lost its lead and did not say so")
		}
		again.end(t)
	})
}
