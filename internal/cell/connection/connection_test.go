package connection

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/pki"
)

// From an address at which nothing listens yet, to a new Kip that takes the
// cell up again, with the real tunnel.
func TestLifeOfACell(t *testing.T) {
	noLeak(t)
	w := newWorld(t)
	w.addCell(cellName, "")
	k := w.start(nil)
	k.reconcile(cellName)
	if _, err := k.Transport(cellName); !errors.Is(err, ErrNotConnected) || !strings.Contains(err.Error(), "no instance") {
		t.Errorf("before there is an address: %v", err)
	}

	addr := freeAddr(t)
	w.changeStatus(cellName, func(s *v1beta1.CellStatus) { s.PrimaryIP = addr })
	k.reconcile(cellName)
	time.Sleep(300 * time.Millisecond)
	var waiting *NotConnectedError
	if _, err := k.Transport(cellName); !errors.As(err, &waiting) || !strings.Contains(waiting.Waiting, "does not listen at "+addr) {
		t.Errorf("while it boots: %v", err)
	}

	listening := time.Now()
	a := w.agent(cellName, addr, &memoryStore{})
	k.waitConnected(cellName)
	if d := time.Since(listening); d > 2*time.Second {
		t.Errorf("connected %s after the agent listened", d)
	}
	enrolment := w.cell(cellName).Status.Enrolment
	if enrolment == nil || len(enrolment.KeySHA256) != 64 || enrolment.Time.IsZero() {
		t.Fatalf("the Cell's enrolment is %+v", enrolment)
	}
	checkTraffic := func(k *kip) {
		t.Helper()
		rt, err := k.Transport(cellName)
		if err != nil {
			t.Fatal(err)
		}
		if got := roundTrip(t, rt); got != "agent of "+cellName {
			t.Errorf("the agent says %q", got)
		}
		if got := roundTrip(t, a.Gateway()); got != "gateway of "+cellName {
			t.Errorf("the gateway says %q", got)
		}
	}
	checkTraffic(k)
	if got := k.value("kip_enrolments_total", ""); got != 1 {
		t.Errorf("%v enrolments, want 1", got)
	}
	if got := k.value("kip_cells_connected", ""); got != 1 {
		t.Errorf("%v cells connected, want 1", got)
	}

	k.stop()
	k.reconcile(cellName) // a stopped Kip begins nothing
	second := w.start(nil)
	second.reconcile(cellName)
	second.waitConnected(cellName)
	checkTraffic(second)
	if got := second.value("kip_enrolments_total", ""); got != 0 {
		t.Errorf("the new Kip enrolled the cell again, %v times", got)
	}
	if diff := cmp.Diff(enrolment, w.cell(cellName).Status.Enrolment); diff != "" {
		t.Errorf("the enrolment changed: -before +after\n%s", diff)
	}

	w.changeStatus(cellName, func(s *v1beta1.CellStatus) { s.Phase = v1beta1.CellDraining })
	second.reconcile(cellName)
	checkTraffic(second)
	w.changeStatus(cellName, func(s *v1beta1.CellStatus) { s.Phase = v1beta1.CellTerminating })
	second.reconcile(cellName)
	if second.Connected(cellName) {
		t.Error("a cell that is being terminated is connected")
	}
	eventually(t, "the session ends", func() bool { return second.value("kip_cells_connected", "") == 0 })
	if events := second.drainEvents(); len(events) > 0 {
		t.Errorf("events: %v", events)
	}
}

// TestBootsToBeStopped: the first boot of an instance that is kept stopped is
// noticed, and its token left for the second.
func TestBootsToBeStopped(t *testing.T) {
	noLeak(t)
	w := newWorld(t)
	a := w.agent(cellName, "", &memoryStore{})
	cell := w.addCell(cellName, a.addr)
	cell.Spec.Standby = &v1beta1.StandbySpec{Stopped: true}
	if err := w.api.Update(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	k := w.start(nil)
	if k.Listens(cellName) {
		t.Error("it listens before anybody has looked")
	}
	k.reconcile(cellName)
	eventually(t, "it listens", func() bool { return k.Listens(cellName) })
	k.reconcile(cellName)
	time.Sleep(100 * time.Millisecond)
	if k.Connected(cellName) || w.cell(cellName).Status.Enrolment != nil {
		t.Fatal("it is enrolled")
	}
	w.changeStatus(cellName, func(s *v1beta1.CellStatus) { s.Phase, s.Stop = v1beta1.CellStopped, &v1beta1.StopStatus{} })
	k.reconcile(cellName)
	if k.Listens(cellName) {
		t.Error("it listens while it is stopped")
	}
	w.changeStatus(cellName, func(s *v1beta1.CellStatus) {
		s.Phase, s.Stop.Started = v1beta1.CellBooting, &metav1.Time{Time: time.Now()}
	})
	k.reconcile(cellName)
	k.waitConnected(cellName)
	if w.cell(cellName).Status.Enrolment == nil {
		t.Error("it is connected without being enrolled")
	}
}

// An agent whose process restarts, and one whose connection breaks, are
// connected again without enrolling.
func TestReconnect(t *testing.T) {
	noLeak(t)
	w := newWorld(t)
	store := &memoryStore{}
	a := w.agent(cellName, "", store)
	w.addCell(cellName, a.addr)
	k := w.start(nil)
	k.reconcile(cellName)
	k.waitConnected(cellName)
	for range 3 {
		a.stop()
		eventually(t, "the loss is noticed", func() bool { return !k.Connected(cellName) })
		a = w.agent(cellName, a.addr, store)
		k.waitConnected(cellName)
		if got := roundTrip(t, a.Gateway()); got != "gateway of "+cellName {
			t.Errorf("the gateway says %q", got)
		}
	}
	if got := k.value("kip_enrolments_total", ""); got != 1 {
		t.Errorf("%v enrolments, want 1", got)
	}
	if got := k.value("kip_connections_lost_total", ""); got != 3 {
		t.Errorf("%v losses, want 3", got)
	}
}

// Whoever reads the user data later has a token that is worth nothing, even at
// the cell's own address.
func TestReplayedEnrolment(t *testing.T) {
	noLeak(t)
	w := newWorld(t)
	a := w.agent(cellName, "", &memoryStore{})
	w.addCell(cellName, a.addr)
	k := w.start(nil)
	k.reconcile(cellName)
	k.waitConnected(cellName)
	enrolment := w.cell(cellName).Status.Enrolment
	a.stop()

	attacker := w.agent(cellName, a.addr, &memoryStore{})
	eventually(t, "the attacker is refused", func() bool { return k.value("kip_enrolments_refused_total", "key") > 0 })
	select {
	case <-attacker.Enrolled():
		t.Error("the attacker has a certificate")
	default:
	}
	if k.Connected(cellName) {
		t.Error("the attacker is connected")
	}
	if diff := cmp.Diff(enrolment, w.cell(cellName).Status.Enrolment); diff != "" {
		t.Errorf("the enrolment changed: -before +after\n%s", diff)
	}
	events := k.drainEvents()
	if len(events) != 1 || !strings.HasPrefix(events[0], "Warning EnrolmentRefused") || !strings.Contains(events[0], a.addr) {
		t.Errorf("events: %q", events)
	}
	_, err := k.Transport(cellName)
	if err == nil || !strings.Contains(err.Error(), errOtherKey.Error()) {
		t.Errorf("the error says %v", err)
	}
}

// An agent that says it is enrolled, of which Kip knows nothing, is refused,
// unless Kip's cache is behind.
func TestEnrolledWithoutKip(t *testing.T) {
	noLeak(t)
	w := newWorld(t)
	store := &memoryStore{}
	a := w.agent(cellName, "", store)
	w.addCell(cellName, a.addr)
	first := w.start(nil)
	first.reconcile(cellName)
	first.waitConnected(cellName)
	first.stop()
	enrolment := w.cell(cellName).Status.Enrolment

	stale := func(cfg *Config) {
		cfg.Client = w.intercepted(interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
				err := c.Get(ctx, key, obj, opts...)
				obj.(*v1beta1.Cell).Status.Enrolment = nil
				return err
			},
		})
	}
	behind := w.start(stale)
	behind.reconcile(cellName)
	behind.waitConnected(cellName)
	behind.stop()
	if events := behind.drainEvents(); len(events) > 0 {
		t.Errorf("a cache that was behind made events: %q", events)
	}

	w.changeStatus(cellName, func(s *v1beta1.CellStatus) { s.Enrolment = nil })
	k := w.start(nil)
	k.reconcile(cellName)
	eventually(t, "it is refused", func() bool { return k.value("kip_enrolments_refused_total", "already") > 0 })
	if k.Connected(cellName) || w.cell(cellName).Status.Enrolment != nil {
		t.Error("Kip took the agent's word")
	}
	k.stop()

	w.changeStatus(cellName, func(s *v1beta1.CellStatus) { s.Enrolment = enrolment })
	k = w.start(nil)
	k.reconcile(cellName)
	k.waitConnected(cellName)
}

// A cell that was given up, which the cache does not know yet, takes no pod any
// more: what becomes of that was decided as of one that never ran.
func TestNoEnrolmentInACellThatEnds(t *testing.T) {
	noLeak(t)
	w := newWorld(t)
	a := w.agent(cellName, "", &memoryStore{})
	w.addCell(cellName, a.addr)
	before := w.cell(cellName)
	w.changeStatus(cellName, func(s *v1beta1.CellStatus) { s.Phase = v1beta1.CellTerminating })
	k := w.start(func(cfg *Config) {
		cfg.Client = w.intercepted(interceptor.Funcs{
			Get: func(_ context.Context, _ client.WithWatch, _ client.ObjectKey, obj client.Object, _ ...client.GetOption) error {
				before.DeepCopyInto(obj.(*v1beta1.Cell))
				return nil
			},
		})
	})
	k.reconcile(cellName)
	eventually(t, "it is not enrolled", func() bool {
		_, err := k.Transport(cellName)
		return err != nil && strings.Contains(err.Error(), errCellEnds.Error())
	})
	if w.cell(cellName).Status.Enrolment != nil {
		t.Error("the cell was enrolled")
	}
}

// Kip dies, or its call fails, before or after each call of an enrolment. The
// next Kip, or the next attempt, finishes it with the same key.
func TestFaultsWhileEnrolling(t *testing.T) {
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "cells"}, cellName, errors.New("written by another"))
	away := errors.New("the API server is away")
	type fault struct {
		reason string
		// before and after wrap the patch of the status; kill ends Kip.
		before, after func(kill func()) error
	}
	cases := map[string]fault{
		"None":            {},
		"ConflictOnce":    {reason: "The lifecycle controller writes the status too.", before: func(func()) error { return conflict }},
		"FailsBefore":     {reason: "Nothing was written.", before: func(func()) error { return away }},
		"ResponseLost":    {reason: "It was written, and Kip does not know.", after: func(func()) error { return away }},
		"KilledBefore":    {reason: "Nothing was written.", before: func(kill func()) error { kill(); return context.Canceled }},
		"KilledAfter":     {reason: "It was written, and the agent has no certificate.", after: func(kill func()) error { kill(); return context.Canceled }},
		"KilledBeforeTLS": {reason: "It was written and the answer read, and the agent has no certificate.", after: func(kill func()) error { kill(); return nil }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			noLeak(t)
			w := newWorld(t)
			a := w.agent(cellName, "", &memoryStore{})
			w.addCell(cellName, a.addr)
			var k *kip
			killed := make(chan struct{})
			times := 0
			k = w.start(func(cfg *Config) {
				// Called by the cell's one session only.
				kill := func() {
					k.cancel()
					close(killed)
				}
				cfg.Client = w.intercepted(interceptor.Funcs{
					SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
						times++
						if times == 1 && tc.before != nil {
							if err := tc.before(kill); err != nil {
								return err
							}
						}
						err := c.SubResource(sub).Patch(ctx, obj, patch, opts...)
						if times == 1 && tc.after != nil && err == nil {
							return tc.after(kill)
						}
						return err
					},
				})
			})
			k.reconcile(cellName)
			if strings.HasPrefix(name, "Killed") {
				<-killed
				k.stop()
				k = w.start(nil)
				k.reconcile(cellName)
			}
			k.waitConnected(cellName)
			if got := roundTrip(t, a.Gateway()); got != "gateway of "+cellName {
				t.Errorf("%s\nthe gateway says %q", tc.reason, got)
			}
			if events := k.drainEvents(); len(events) > 0 {
				t.Errorf("%s\nevents: %q", tc.reason, events)
			}
			if w.cell(cellName).Status.Enrolment == nil {
				t.Errorf("%s\nnothing is written down", tc.reason)
			}
		})
	}
}

// Two Kips with one agent: it is enrolled once, whoever is first.
func TestTwoKips(t *testing.T) {
	noLeak(t)
	w := newWorld(t)
	a := w.agent(cellName, "", &memoryStore{})
	w.addCell(cellName, a.addr)
	one, two := w.start(nil), w.start(nil)
	one.reconcile(cellName)
	two.reconcile(cellName)
	<-a.Enrolled()
	eventually(t, "one of them is connected", func() bool { return one.Connected(cellName) || two.Connected(cellName) })
	if got := roundTrip(t, a.Gateway()); got != "gateway of "+cellName {
		// The connection may just have gone over to the other.
		if got := roundTrip(t, a.Gateway()); got != "gateway of "+cellName {
			t.Errorf("the gateway says %q", got)
		}
	}
	one.stop()
	two.waitConnected(cellName)
	for _, k := range []*kip{one, two} {
		if events := k.drainEvents(); len(events) > 0 {
			t.Errorf("events: %q", events)
		}
	}
}

func TestReconcileFollowsTheCell(t *testing.T) {
	noLeak(t)
	w := newWorld(t)
	a := w.agent(cellName, "", &memoryStore{})
	k := w.start(nil)
	k.reconcile("never-existed")

	w.addCell(cellName, a.addr)
	k.reconcile(cellName)
	k.waitConnected(cellName)
	before := k.session(cellName)
	k.reconcile(cellName)
	if k.session(cellName) != before {
		t.Error("a Cell that did not change got another session")
	}

	// The same name, another object: other instance, other token.
	cell := w.cell(cellName)
	if err := w.api.Delete(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	b := w.agent("cell-b", "", &memoryStore{})
	cell.ObjectMeta = metav1.ObjectMeta{Name: cellName, UID: types.UID("another")}
	if err := w.api.Create(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	w.changeStatus(cellName, func(s *v1beta1.CellStatus) { s.PrimaryIP = b.addr })
	k.reconcile(cellName)
	if k.session(cellName) == before {
		t.Error("another Cell of the same name has the old session")
	}
	eventually(t, "the agent of another cell is refused", func() bool { return k.value("kip_enrolments_refused_total", "proof") > 0 })

	if err := w.api.Delete(t.Context(), w.cell(cellName)); err != nil {
		t.Fatal(err)
	}
	k.reconcile(cellName)
	if k.session(cellName) != nil {
		t.Error("a Cell that is gone has a session")
	}

	other := w.addCell("cell-c", b.addr)
	other.Spec.NodeName = "another-node"
	if err := w.api.Update(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	k.reconcile("cell-c")
	if k.session("cell-c") != nil {
		t.Error("a Cell of another node has a session")
	}
}

func TestNewRefuses(t *testing.T) {
	w := newWorld(t)
	k := w.start(nil)
	for name, change := range map[string]func(*Config){
		"NoClient":     func(c *Config) { c.Client = nil },
		"NoNode":       func(c *Config) { c.NodeName = "" },
		"MetricsTwice": func(*Config) {},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := k.cfg
			change(&cfg)
			if _, err := New(cfg); err == nil {
				t.Error("want an error")
			}
		})
	}
}

func TestPrimaryAddress(t *testing.T) {
	for ip, want := range map[string]string{"": "", "10.98.0.7": "10.98.0.7:6421", "2001:db8::7": "[2001:db8::7]:6421"} {
		if got := primaryAddress(&v1beta1.Cell{Status: v1beta1.CellStatus{PrimaryIP: ip}}); got != want {
			t.Errorf("address of %q is %q, want %q", ip, got, want)
		}
	}
}

// Kip's authority is replaced under a cell whose pod runs, by four Kips one after
// another; and the agent starts again in between.
func TestAuthorityIsReplaced(t *testing.T) {
	noLeak(t)
	w := newWorld(t)
	launched := w.authorities
	old := launched.Signer()
	next, err := pki.Create(time.Now().Add(-24 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	store := &memoryStore{}
	a := w.agent(cellName, "", store)
	w.addCell(cellName, a.addr)
	w.changeStatus(cellName, func(s *v1beta1.CellStatus) { s.Launch = &v1beta1.LaunchStatus{Authorities: launched.IDs()} })
	var enrolment *v1beta1.EnrolmentStatus
	for step, authorities := range []*pki.Authorities{
		launched, pki.NewAuthorities(old, next), pki.NewAuthorities(next, old), pki.NewAuthorities(next),
	} {
		w.authorities = authorities
		k := w.start(nil)
		k.reconcile(cellName)
		k.waitConnected(cellName)
		for range 2 { // told, and then signed for
			for _, s := range k.due() {
				s.renewNow(t.Context())
			}
		}
		if n := k.value("kip_cells_with_other_authorities", ""); n != 0 {
			t.Errorf("step %d: %v agents do not know Kip's authorities", step, n)
		}
		if got := roundTrip(t, a.Gateway()); got != "gateway of "+cellName {
			t.Errorf("step %d: the gateway says %q", step, got)
		}
		// With its user data, which never changes.
		a.stop()
		w.authorities = launched
		a = w.agent(cellName, a.addr, store)
		eventually(t, "it is connected again", func() bool { return k.Connected(cellName) })
		k.stop()
		if events := k.drainEvents(); len(events) > 0 {
			t.Errorf("step %d: events: %v", step, events)
		}
		if enrolment == nil {
			enrolment = w.cell(cellName).Status.Enrolment
		}
	}
	if diff := cmp.Diff(enrolment, w.cell(cellName).Status.Enrolment); diff != "" {
		t.Errorf("the enrolment changed: -before +after\n%s", diff)
	}
	leaf, err := pki.ParseCertificate(store.id.CertificatePEM)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pki.NewAuthorities(next).Roots(), DNSName: cellName}); err != nil {
		t.Errorf("the cell's certificate is not the new authority's: %v", err)
	}
}

// A cell that was launched before the authority was replaced enrols all the same.
func TestEnrolmentUnderTheOldAuthority(t *testing.T) {
	noLeak(t)
	w := newWorld(t)
	launched := w.authorities
	a := w.agent(cellName, "", &memoryStore{})
	w.addCell(cellName, a.addr)
	w.changeStatus(cellName, func(s *v1beta1.CellStatus) { s.Launch = &v1beta1.LaunchStatus{Authorities: launched.IDs()} })
	next, err := pki.Create(time.Now().Add(-24 * time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	w.authorities = pki.NewAuthorities(next, launched.Signer())
	k := w.start(nil)
	k.reconcile(cellName)
	k.waitConnected(cellName)
	if events := k.drainEvents(); len(events) > 0 {
		t.Errorf("events: %v", events)
	}
}
