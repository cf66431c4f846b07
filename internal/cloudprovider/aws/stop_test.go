package aws

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// await asks for an instance until it is in a state.
func (p *Provider) await(t *testing.T, id string, state cloudprovider.State) *cloudprovider.Instance {
	t.Helper()
	for {
		i, err := p.Get(t.Context(), id)
		if err != nil {
			t.Fatalf("waiting for %s: %v", state, err)
		}
		if i.State == state {
			return i
		}
	}
}

func TestStopAndStart(t *testing.T) {
	e := newEndpoint(t)
	p := e.provider(t, "a")
	made, err := p.Create(t.Context(), request("token"))
	if err != nil {
		t.Fatal(err)
	}
	before := p.await(t, made.ID, cloudprovider.StateRunning)
	for range 2 { // also of one that is stopping, or stopped
		if err := p.Stop(t.Context(), made.ID); err != nil {
			t.Fatal(err)
		}
	}
	if i := p.await(t, made.ID, cloudprovider.StateStopped); i.PrimaryIP != before.PrimaryIP || i.PodIP != before.PodIP || i.PublicIP != "" {
		t.Errorf("stopped it has %+v, running it had %+v", i, before)
	}
	e.fault(t, `[{"action":"StartInstances","code":"InsufficientInstanceCapacity","count":1}]`)
	if err := p.Start(t.Context(), made.ID); cloudprovider.KindOf(err) != cloudprovider.InsufficientCapacity {
		t.Errorf("sold out: %v", err)
	}
	for range 2 {
		if err := p.Start(t.Context(), made.ID); err != nil {
			t.Fatal(err)
		}
	}
	if i := p.await(t, made.ID, cloudprovider.StateRunning); i.PrimaryIP != before.PrimaryIP || i.PodIP != before.PodIP || i.ClientToken != "token" {
		t.Errorf("started again it has %+v, before it had %+v", i, before)
	}

	other := e.provider(t, "b")
	for name, call := range map[string]error{"stop": other.Stop(t.Context(), made.ID), "start": other.Start(t.Context(), made.ID)} {
		if !cloudprovider.IsNotFound(call) {
			t.Errorf("%s of another controller's instance: %v", name, call)
		}
	}
}

// TestStopDenied: the right is optional, but who configures stopped cells needs
// to know.
func TestStopDenied(t *testing.T) {
	e := newEndpoint(t)
	cfg := e.provider(t, "a").cfg
	var told []string
	cfg.Metrics = prometheus.NewRegistry()
	cfg.Denied = func(action, _ string) { told = append(told, action) }
	p, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	i, err := p.Create(t.Context(), request("token"))
	if err != nil {
		t.Fatal(err)
	}
	e.fault(t, `[{"action":"StopInstances","code":"UnauthorizedOperation"}]`)
	if err := p.Stop(t.Context(), i.ID); denied(err) != "ec2:StopInstances" || len(told) != 1 || told[0] != "ec2:StopInstances" {
		t.Errorf("%v; told of %v", err, told)
	}
}
