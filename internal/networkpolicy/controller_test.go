package networkpolicy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	kubefake "k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// agents are the cells' agents, without a kernel.
type agents struct {
	mu    sync.Mutex
	cells map[string]*fakeAgent
}

type fakeAgent struct {
	reachable bool
	state     rules.State
	updates   []rules.Update
	// fail is what the agent answers instead of what is right.
	fail int
}

func (a *agents) transport(cell string) (http.RoundTripper, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if agent := a.cells[cell]; agent == nil || !agent.reachable {
		return nil, errors.New("it is not connected")
	}
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		agent := a.cells[cell]
		answer := func(code int, text string) (*http.Response, error) {
			return &http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
		}
		if r.Method != http.MethodPut || r.URL.Path != rules.Path || r.URL.Host != cell {
			return answer(http.StatusNotFound, r.URL.String())
		}
		if agent.fail != 0 {
			return answer(agent.fail, "it cannot")
		}
		var u rules.Update
		if err := json.NewDecoder(r.Body).Decode(&u); err != nil {
			return answer(http.StatusBadRequest, err.Error())
		}
		next, err := agent.state.Apply(u)
		switch {
		case errors.Is(err, rules.ErrRevision):
			return answer(http.StatusConflict, err.Error())
		case err != nil:
			return answer(http.StatusInternalServerError, err.Error())
		}
		agent.state = next
		agent.updates = append(agent.updates, u)
		return answer(http.StatusNoContent, "")
	}), nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// with looks at a cell's agent, or changes it.
func (a *agents) with(cell string, f func(*fakeAgent)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cells[cell] == nil {
		a.cells[cell] = &fakeAgent{}
	}
	f(a.cells[cell])
}

func (a *agents) allows(cell string, conn connection) (ok bool) {
	a.with(cell, func(f *fakeAgent) { ok = f.state.Revision != "" && allows(f.state, conn) })
	return ok
}

// kip is a Kip with a cluster and cells.
type kip struct {
	*testing.T
	*agents
	kube       *kubefake.Clientset
	cellClient client.WithWatch
	controller *Controller
	events     *record.FakeRecorder
	stop       func()
}

func newKip(t *testing.T, objects ...k8sruntime.Object) *kip {
	t.Helper()
	scheme := k8sruntime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return &kip{
		T: t, agents: &agents{cells: map[string]*fakeAgent{}},
		kube: kubefake.NewClientset(objects...), cellClient: fake.NewClientBuilder().WithScheme(scheme).Build(),
	}
}

// start starts a Kip's life.
func (k *kip) start() {
	k.Helper()
	k.events = record.NewFakeRecorder(100)
	var err error
	k.controller, err = New(Config{
		NodeName: "kip-provider-0", Client: k.cellClient, Kube: k.kube, Transport: k.transport,
		Events: k.events, Clock: clock.RealClock{}, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		k.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- watcher{k.controller}.Start(ctx) }()
	go func() { done <- k.controller.Start(ctx) }()
	k.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			k.Error(err)
		}
	})
	k.Cleanup(k.stop)
}

// cell makes a Cell for the pod, whose agent can be reached.
func (k *kip) cell(name string, pod *corev1.Pod, address string) {
	k.Helper()
	cell := &v1beta1.Cell{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1beta1.CellSpec{NodeName: "kip-provider-0", Pod: &v1beta1.PodReference{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
		}},
		Status: v1beta1.CellStatus{PodIP: address},
	}
	if err := k.cellClient.Create(k.Context(), cell); err != nil {
		k.Fatal(err)
	}
	k.connect(name)
}

func (k *kip) connect(cell string) {
	k.Helper()
	k.with(cell, func(f *fakeAgent) { f.reachable = true })
	k.reconcile(cell)
	k.controller.Connected(cell)
}

func (k *kip) reconcile(cell string) {
	k.Helper()
	if _, err := k.controller.Reconcile(k.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: cell}}); err != nil {
		k.Fatal(err)
	}
}

func (k *kip) eventually(what string, condition func() bool) {
	k.Helper()
	for range 1000 {
		if condition() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	k.Fatalf("it does not come about that %s", what)
}

func somePod(name, address string, labels map[string]string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "east", Name: name, UID: types.UID("uid of " + name), Labels: labels}}
	if address != "" {
		p.Status.PodIPs = []corev1.PodIP{{IP: address}}
	}
	return p
}

func from(address string) connection {
	return connection{peer: address, protocol: corev1.ProtocolTCP, port: 80}
}

var (
	east    = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "east"}}
	friends = &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "east", Name: "friends"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "server"}},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
				{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "friend"}}},
			}}},
		},
	}
	server = map[string]string{"app": "server"}
	friend = map[string]string{"app": "friend"}
)

// A cell is told the whole first, then what changed; it is asked when it is
// connected again, and told the whole when it is another than it was.
func TestTelling(t *testing.T) {
	pod := somePod("server", "", server)
	k := newKip(t, east, friends.DeepCopy(), pod, somePod("a", "10.0.0.1", friend))
	k.start()
	k.cell("cell", pod, "10.0.0.9")
	k.eventually("the cell is told", func() bool { return k.allows("cell", from("10.0.0.1")) })

	if _, err := k.kube.CoreV1().Pods("east").Create(t.Context(), somePod("b", "10.0.0.2", friend), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	k.eventually("a new friend is let in", func() bool { return k.allows("cell", from("10.0.0.2")) })
	k.with("cell", func(f *fakeAgent) {
		last := f.updates[len(f.updates)-1]
		if last.From == "" || last.Rules != nil || len(last.Sets) != 1 {
			t.Errorf("for one address the cell was told %+v", last)
		}
		for _, c := range last.Sets {
			if c.Whole || len(c.Add) != 1 || len(c.Remove) != 0 {
				t.Errorf("for one address the set is changed by %+v", c)
			}
		}
		// Another agent, which knows nothing of before.
		f.state = rules.State{}
	})
	k.controller.Connected("cell")
	k.eventually("another agent is told the whole", func() bool {
		return k.allows("cell", from("10.0.0.1")) && k.allows("cell", from("10.0.0.2"))
	})

	var told int
	k.with("cell", func(f *fakeAgent) { told = len(f.updates) })
	k.controller.Connected("cell")
	k.eventually("the agent is asked", func() bool {
		var updates []rules.Update
		k.with("cell", func(f *fakeAgent) { updates = f.updates })
		return len(updates) == told+1 && updates[told].From != "" && len(updates[told].Sets) == 0
	})

	// A restarted Kip tells the whole, whatever the agent has.
	k.stop()
	k.start()
	k.connect("cell")
	k.eventually("the next Kip tells the whole", func() bool {
		var last rules.Update
		k.with("cell", func(f *fakeAgent) { last = f.updates[len(f.updates)-1] })
		return last.From == "" && len(last.Sets) == 1
	})
	k.eventually("nothing is pending", func() bool { return k.controller.index.pending() == 0 })
	if err := k.cellClient.Delete(t.Context(), &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: "cell"}}); err != nil {
		t.Fatal(err)
	}
	k.reconcile("cell")
	if len(k.controller.cells) != 0 || len(k.controller.index.targets) != 0 {
		t.Error("a cell that is gone is remembered")
	}
}

// A friend's address is known by its Cell, before its status says so.
func TestAddressAheadOfStatus(t *testing.T) {
	pod, late := somePod("server", "10.0.0.9", server), somePod("late", "", friend)
	k := newKip(t, east, friends.DeepCopy(), pod, late)
	k.start()
	k.cell("cell", pod, "10.0.0.9")
	k.eventually("the cell is told", func() bool { return k.controller.index.pending() == 0 })
	k.cell("cell of late", late, "10.0.0.7")
	k.eventually("the friend is let in", func() bool { return k.allows("cell", from("10.0.0.7")) })
	if err := k.cellClient.Delete(t.Context(), &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: "cell of late"}}); err != nil {
		t.Fatal(err)
	}
	k.reconcile("cell of late")
	k.eventually("whoever has the address next is not", func() bool { return !k.allows("cell", from("10.0.0.7")) })
}

// Before all was read no cell is told anything: what was not read may deny.
func TestNothingIsToldTooEarly(t *testing.T) {
	for _, resource := range []string{"networkpolicies", "pods", "namespaces"} {
		t.Run(resource, func(t *testing.T) {
			pod := somePod("server", "10.0.0.9", server)
			k := newKip(t, east, friends.DeepCopy(), pod)
			release := make(chan struct{})
			var asked sync.Once
			listed := make(chan struct{})
			k.kube.PrependReactor("list", resource, func(k8stesting.Action) (bool, k8sruntime.Object, error) {
				asked.Do(func() { close(listed) })
				<-release
				return false, nil, nil
			})
			k.kube.PrependWatchReactor(resource, func(action k8stesting.Action) (bool, watch.Interface, error) {
				if a, ok := action.(k8stesting.WatchActionImpl); ok && a.ListOptions.SendInitialEvents != nil {
					return true, nil, errors.New("lists are not streamed here")
				}
				return false, nil, nil
			})
			k.start()
			k.cell("cell", pod, "10.0.0.9")
			<-listed
			time.Sleep(300 * time.Millisecond)
			k.with("cell", func(f *fakeAgent) {
				if len(f.updates) > 0 {
					t.Errorf("before the %s were read the cell was told %+v", resource, f.updates)
				}
			})
			close(release)
			k.eventually("the cell is told", func() bool {
				told := false
				k.with("cell", func(f *fakeAgent) { told = len(f.updates) > 0 })
				return told
			})
			if k.allows("cell", from("10.0.0.1")) {
				t.Error("the cell is open")
			}
		})
	}
}

// An agent that fails is tried again, and its pod's users are told, once.
func TestFailureIsReported(t *testing.T) {
	pod := somePod("server", "10.0.0.9", server)
	k := newKip(t, east, pod)
	k.with("cell", func(f *fakeAgent) { f.fail = http.StatusNotImplemented })
	k.start()
	k.cell("cell", pod, "10.0.0.9")
	select {
	case e := <-k.events.Events:
		if !strings.Contains(e, ReasonNotEnforced) || !strings.Contains(e, "it cannot") {
			t.Errorf("event %q", e)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
	if k.controller.index.pending() != 1 {
		t.Error("a cell that does not enforce its rules is not pending")
	}
	k.with("cell", func(f *fakeAgent) { f.fail = 0 })
	k.eventually("it is tried again", func() bool { return k.allows("cell", from("10.0.0.1")) })
	select {
	case e := <-k.events.Events:
		t.Errorf("another event: %s", e)
	default:
	}
}

// What is read of a policy that nobody understands is that it denies.
func TestPolicyNotUnderstood(t *testing.T) {
	for name, spoil := range map[string]func(*networkingv1.NetworkPolicySpec){
		"selector": func(s *networkingv1.NetworkPolicySpec) {
			s.PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Like"}}
		},
		"block": func(s *networkingv1.NetworkPolicySpec) {
			s.Ingress[0].From = []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/33"}}}
		},
		"exception": func(s *networkingv1.NetworkPolicySpec) {
			s.Ingress[0].From = []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/8", Except: []string{"x"}}}}
		},
	} {
		np := friends.DeepCopy()
		spoil(&np.Spec)
		c := &Controller{cfg: Config{Log: slog.New(slog.DiscardHandler)}}
		got, sets := compute(newPod(somePod("other", "10.0.0.1", nil)), []*policy{c.read(np)})
		if !got.Ingress.Isolated || !got.Egress.Isolated || len(got.Ingress.Allow)+len(got.Egress.Allow)+len(sets) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// One pod's address in a cluster of thousands concerns those whom it concerns.
func TestOneAddressAmongThousands(t *testing.T) {
	const namespaces, perNamespace = 50, 100
	changed := map[string]int{}
	x := newIndex("epoch", time.Now, func(cell string) { changed[cell]++ })
	address := netip.MustParseAddr("10.0.0.1")
	var some *corev1.Pod
	for n := range namespaces {
		name := fmt.Sprint("ns", n)
		x.putNamespace(name, nil)
		np := friends.DeepCopy()
		np.Namespace = name
		p, err := newPolicy(np)
		if err != nil {
			t.Fatal(err)
		}
		x.putPolicy(p)
		for i := range perNamespace {
			pod := somePod(fmt.Sprint("pod", i), address.String(), server)
			if i%10 == 0 {
				pod.Labels = friend
				some = pod
			}
			pod.Namespace, pod.UID = name, types.UID(fmt.Sprint(n, i))
			address = address.Next()
			x.putPod(newPod(pod))
			cell := fmt.Sprint("cell", n, "-", i)
			x.putCell(cell, podKey{name, pod.Name}, pod.UID, netip.Addr{})
			x.next(cell, told{})
			x.done(cell, time.Time{})
		}
	}
	clear(changed)
	some.Status.PodIPs = []corev1.PodIP{{IP: "10.9.9.9"}}
	start := time.Now()
	x.putPod(newPod(some))
	took := time.Since(start)
	if want := perNamespace - perNamespace/10; len(changed) != want {
		t.Errorf("%d cells are told of one pod's address, want the %d servers of its namespace", len(changed), want)
	}
	t.Logf("with %d cells, one address was worked out in %s for %d of them", namespaces*perNamespace, took, len(changed))
}

// A set that nobody needed for a while is another one, though its name is the
// same: a cell that was not told of that while must not be taken to know it.
func TestSetMadeAgain(t *testing.T) {
	x := newIndex("epoch", time.Now, func(string) {})
	np, err := newPolicy(friends)
	if err != nil {
		t.Fatal(err)
	}
	pod := somePod("server", "10.0.0.9", server)
	x.putPolicy(np)
	x.putPod(newPod(pod))
	x.putPod(newPod(somePod("a", "10.0.0.1", friend)))
	x.putCell("cell", podKey{"east", "server"}, pod.UID, netip.Addr{})
	u, last, _, ok := x.next("cell", told{})
	before, err := rules.State{}.Apply(u)
	if !ok || err != nil || !allows(before, from("10.0.0.1")) {
		t.Fatalf("%v, %v, %+v", ok, err, before)
	}
	x.removePolicy("east", "friends")
	x.removePod(podKey{"east", "a"})
	x.putPod(newPod(somePod("b", "10.0.0.2", friend)))
	x.putPolicy(np)
	u, _, _, _ = x.next("cell", last)
	after, err := before.Apply(u)
	if err != nil || allows(after, from("10.0.0.1")) || !allows(after, from("10.0.0.2")) {
		t.Errorf("after %+v the cell has %+v, %v", u, after.Sets, err)
	}
}
