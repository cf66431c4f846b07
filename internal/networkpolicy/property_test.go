package networkpolicy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// allows is what a kernel makes of a state.
func allows(s rules.State, conn connection) bool {
	d := s.Rules.Ingress
	if conn.egress {
		d = s.Rules.Egress
	}
	if !d.Isolated {
		return true
	}
	peer, port := netip.MustParseAddr(conn.peer), uint16(conn.port)
	for _, a := range d.Allow {
		if len(a.Ports) > 0 && !slices.ContainsFunc(a.Ports, func(p rules.Port) bool {
			return string(p.Protocol) == string(conn.protocol) && p.First <= port && port <= p.Last
		}) {
			continue
		}
		if a.Peers == "" {
			return true
		}
		set := s.Sets[a.Peers]
		for m := range set.Members {
			if m.First.Compare(peer) <= 0 && peer.Compare(m.Last) <= 0 && (m.Port == 0 || m.Port == port) {
				return true
			}
		}
	}
	return false
}

// chance makes random clusters out of few names and numbers, so that things
// meet.
type chance struct{ *rand.Rand }

func pick[T any](c chance, from ...T) T { return from[c.IntN(len(from))] }

func (c chance) labels() map[string]string {
	l := map[string]string{}
	for _, key := range []string{"app", "tier"} {
		if c.IntN(3) > 0 {
			l[key] = pick(c, "a", "b", "c")
		}
	}
	return l
}

func (c chance) selector() *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	if c.IntN(2) == 0 {
		s.MatchLabels = map[string]string{pick(c, "app", "tier"): pick(c, "a", "b", "c")}
	}
	if c.IntN(3) == 0 {
		e := metav1.LabelSelectorRequirement{Key: pick(c, "app", "tier"), Operator: pick(c,
			metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = pick(c, []string{"a"}, []string{"b", "c"})
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}

var (
	namespaceNames = []string{"east", "west", "north"}
	blocks         = []string{"0.0.0.0/0", "10.0.0.0/28", "10.0.0.0/30", "10.0.0.4/30", "10.0.0.5/32", "10.0.0.128/25", "fd00::/8", "203.0.113.0/24"}
	addressesTried = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.200", "203.0.113.9"}
	portsTried     = []int32{1, 79, 80, 81, 90, 100, 65535}
)

func (c chance) address() string { return addressesTried[c.IntN(7)] }

func (c chance) pod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: pick(c, namespaceNames...), Name: name, UID: types.UID(fmt.Sprint(name, c.Uint64())), Labels: c.labels(),
	}}
	p.Spec.HostNetwork = c.IntN(8) == 0
	p.Status.Phase = pick(c, corev1.PodPending, corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed)
	if c.IntN(6) > 0 {
		p.Status.PodIPs = []corev1.PodIP{{IP: c.address()}, {IP: "fd00::1"}}
	}
	for range c.IntN(3) {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Ports: []corev1.ContainerPort{
			{Name: pick(c, "http", "dns", ""), ContainerPort: pick(c, portsTried...), Protocol: pick(c, corev1.ProtocolTCP, corev1.ProtocolUDP)},
		}})
	}
	return p
}

func (c chance) peers() (out []networkingv1.NetworkPolicyPeer) {
	for range c.IntN(3) {
		var p networkingv1.NetworkPolicyPeer
		switch c.IntN(4) {
		case 0:
			p.IPBlock = &networkingv1.IPBlock{CIDR: pick(c, blocks...)}
			for range c.IntN(3) {
				p.IPBlock.Except = append(p.IPBlock.Except, pick(c, blocks[1:]...))
			}
		case 1:
			p.PodSelector = c.selector()
		case 2:
			p.NamespaceSelector = c.selector()
		case 3:
			p.PodSelector, p.NamespaceSelector = c.selector(), c.selector()
		}
		out = append(out, p)
	}
	return out
}

func (c chance) ports() (out []networkingv1.NetworkPolicyPort) {
	for range c.IntN(3) {
		var p networkingv1.NetworkPolicyPort
		if c.IntN(3) > 0 {
			protocol := pick(c, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
			p.Protocol = &protocol
		}
		switch c.IntN(4) {
		case 0:
			name := intstr.FromString(pick(c, "http", "dns", "none"))
			p.Port = &name
		case 1:
			number := intstr.FromInt32(pick(c, portsTried...))
			p.Port = &number
		case 2:
			number, end := intstr.FromInt32(pick(c, portsTried[:4]...)), pick(c, portsTried[4:]...)
			p.Port, p.EndPort = &number, &end
		}
		out = append(out, p)
	}
	return out
}

func (c chance) policy(name string) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick(c, namespaceNames...), Name: name}}
	np.Spec.PodSelector = *c.selector()
	np.Spec.PolicyTypes = pick(c, nil, nil,
		[]networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Ingress", "Egress"})
	for range c.IntN(3) {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: c.peers(), Ports: c.ports()})
	}
	for range c.IntN(3) {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: c.peers(), Ports: c.ports()})
	}
	return np
}

// world is a cluster beside the index that is told of it, and the cells that are
// told by the index.
type world struct {
	*testing.T
	chance
	cluster
	index *index
	cells map[string]*corev1.Pod
	told  map[string]told
	state map[string]rules.State
	// whole and changes count what cells were told.
	whole, changes int
}

func newTestWorld(t *testing.T, seed uint64) *world {
	return &world{
		T: t, chance: chance{rand.New(rand.NewPCG(seed, 0))},
		index: newIndex("epoch", time.Now, func(string) {}),
		cells: map[string]*corev1.Pod{}, told: map[string]told{}, state: map[string]rules.State{},
	}
}

// step changes one thing.
func (w *world) step(i int) {
	switch w.IntN(8) {
	case 0:
		name := pick(w.chance, namespaceNames...)
		w.namespaces = slices.DeleteFunc(w.namespaces, func(n *corev1.Namespace) bool { return n.Name == name })
		if w.IntN(5) == 0 {
			w.index.removeNamespace(name)
			return
		}
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: w.labels()}}
		w.namespaces = append(w.namespaces, n)
		w.index.putNamespace(name, n.Labels)
	case 1, 2:
		p := w.chance.pod(fmt.Sprint("pod", i))
		w.pods = append(w.pods, p)
		w.putPod(p)
		if !p.Spec.HostNetwork || w.IntN(4) == 0 {
			cell := "cell of " + p.Name
			w.cells[cell] = p
			w.index.putCell(cell, podKey{p.Namespace, p.Name}, p.UID, netip.Addr{})
		}
	case 3:
		if len(w.pods) == 0 {
			return
		}
		i := w.IntN(len(w.pods))
		next := w.pods[i].DeepCopy()
		other := w.chance.pod("")
		switch w.IntN(3) {
		case 0:
			next.Labels = other.Labels
		case 1:
			next.Status = other.Status
		case 2:
			next.Spec.Containers = other.Spec.Containers
		}
		w.pods[i] = next
		for cell, p := range w.cells {
			if p.UID == next.UID {
				w.cells[cell] = next
			}
		}
		w.putPod(next)
	case 4:
		if len(w.pods) < 6 {
			return
		}
		p := w.pods[0]
		w.pods = w.pods[1:]
		w.index.removePod(podKey{p.Namespace, p.Name})
		delete(w.cells, "cell of "+p.Name)
		w.index.removeCell("cell of " + p.Name)
	default:
		np := w.chance.policy(fmt.Sprint("policy", w.IntN(5)))
		w.policies = slices.DeleteFunc(w.policies, func(o *networkingv1.NetworkPolicy) bool {
			return o.Namespace == np.Namespace && o.Name == np.Name
		})
		if w.IntN(3) == 0 {
			w.index.removePolicy(np.Namespace, np.Name)
			return
		}
		w.policies = append(w.policies, np)
		p, err := newPolicy(np)
		if err != nil {
			w.Fatal(err)
		}
		w.index.putPolicy(p)
	}
}

func (w *world) putPod(p *corev1.Pod) {
	trimmed, err := trim(p.DeepCopy())
	if err != nil {
		w.Fatal(err)
	}
	w.index.putPod(newPod(trimmed.(*corev1.Pod)))
}

// tell tells the cells, as the controller does and the agents take it.
func (w *world) tell() {
	for _, cell := range slices.Sorted(maps.Keys(w.cells)) {
		if w.IntN(3) == 0 {
			continue // it cannot be reached now
		}
		if w.IntN(20) == 0 {
			w.told[cell] = told{} // another Kip
		}
		u, now, _, ok := w.index.next(cell, w.told[cell])
		if !ok {
			w.Fatalf("nothing is known of %s", cell)
		}
		if u.From == "" {
			w.whole++
		} else {
			w.changes++
		}
		state, err := w.state[cell].Apply(u)
		if err != nil {
			w.Fatalf("%s does not take %+v: %v", cell, u, err)
		}
		w.state[cell], w.told[cell] = state, now
		w.index.done(cell, time.Time{})
		w.check(cell)
	}
}

func (w *world) check(cell string) {
	pod := w.cells[cell]
	for range 40 {
		conn := connection{
			egress: w.IntN(2) == 0, peer: pick(w.chance, addressesTried...),
			protocol: pick(w.chance, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP), port: pick(w.chance, portsTried...),
		}
		if got, want := allows(w.state[cell], conn), w.permits(pod, conn); got != want {
			for _, np := range w.policies {
				w.Logf("%s/%s %+v", np.Namespace, np.Name, np.Spec)
			}
			w.Fatalf("pod %s/%s %v: %+v is allowed: %t, want %t; rules %+v, sets %+v",
				pod.Namespace, pod.Name, pod.Labels, conn, got, want, w.state[cell].Rules, w.state[cell].Sets)
		}
	}
}

// Whatever changes in whatever order, a cell that was told what changed allows
// exactly what the definition allows.
func TestAsDefined(t *testing.T) {
	clusters, steps := 150, 80
	if testing.Short() {
		clusters = 10
	}
	whole, changes := 0, 0
	for seed := range uint64(clusters) {
		w := newTestWorld(t, seed)
		for i := range steps {
			w.step(i)
			if w.IntN(3) == 0 {
				w.tell()
			}
		}
		whole, changes = whole+w.whole, changes+w.changes
		w.empty()
	}
	t.Logf("cells were told the whole %d times, what changed %d times", whole, changes)
	if changes < whole {
		t.Error("hardly any cell was told a change: the test does not test them")
	}
}

// empty removes everything, after which the index remembers nothing.
func (w *world) empty() {
	for _, p := range w.pods {
		w.index.removeCell("cell of " + p.Name)
		w.index.removePod(podKey{p.Namespace, p.Name})
	}
	for _, np := range w.policies {
		w.index.removePolicy(np.Namespace, np.Name)
	}
	for _, n := range w.namespaces {
		w.index.removeNamespace(n.Name)
	}
	x := w.index
	if n := len(x.namespaces) + len(x.pods) + len(x.policies) + len(x.sets) + len(x.targets) + len(x.targetsOf) + len(x.launched); n != 0 {
		w.Errorf("%d entries are left in an index of nothing: %+v", n, x)
	}
}
