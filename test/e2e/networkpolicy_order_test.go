package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// kipAway is how long Kip is down while rules must stay in force.
const kipAway = time.Minute

// putPolicy creates or replaces a policy of the test's namespace.
func (s *space) putPolicy(name string, spec networkingv1.NetworkPolicySpec) {
	s.Helper()
	api := shared.kube.NetworkingV1().NetworkPolicies(s.name)
	np, err := api.Get(s.Context(), name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		np = &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
		_, err = api.Create(s.Context(), np, metav1.CreateOptions{})
	case err == nil:
		np.Spec = spec
		_, err = api.Update(s.Context(), np, metav1.UpdateOptions{})
	}
	if err != nil {
		s.Fatal(err)
	}
}

func (s *space) deletePolicy(name string) {
	s.Helper()
	if err := shared.kube.NetworkingV1().NetworkPolicies(s.name).Delete(s.Context(), name, metav1.DeleteOptions{}); err != nil {
		s.Fatal(err)
	}
}

func policySpec(t testing.TB, text string) (spec networkingv1.NetworkPolicySpec) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), &spec); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return spec
}

// A policy that is there before the pod lets none of the pod's packets pass, in
// neither direction, from the first on. Then it is changed, removed, and made
// again; and what is in force when Kip is killed stays so until Kip is back, and
// nobody whom Kip has not said gets in meanwhile. The one who asks is a pod of the
// ordinary node, which is not cut off when Kip is.
func TestNetworkPolicyOrder(t *testing.T) {
	s := newSpace(t)
	s.putPolicy("late", policySpec(t, `{podSelector: {matchLabels: {app: late}}, policyTypes: [Ingress, Egress]}`))
	s.create(onNode(newPeer("node")))
	s.create(onNode(newPeer("other")))
	s.create(newPeer("before"))
	node := s.awaitReady("node").Status.PodIP
	n := &network{addresses: map[string]string{"node": node}, probers: map[string]*prober{"node": s.prober("node")}}
	s.awaitReady("other")
	n.probers["other"] = s.prober("other")

	late := newPod("late", program("peer", "peer", node+":8000"))
	late = s.create(late)
	var address string
	s.eventually("the cell has its addresses", func(ctx context.Context) error {
		cell, err := findCell(ctx, late)
		if err == nil && cell.Status.PodIP == "" {
			err = fmt.Errorf("it is %s", cell.Status.Phase)
		}
		if err == nil {
			address = cell.Status.PodIP
		}
		return err
	})
	// From before the pod has a network to when it has tried for seconds to get
	// out.
	var arrived atomic.Int32
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n.probers["node"].try(t, "tcp", address+":8000", 100*time.Millisecond) == "ok" {
				arrived.Add(1)
			}
		}
	}()
	s.awaitReady("late")
	s.eventually("the pod has tried", func(context.Context) error {
		if log := s.kubectl("logs", "late"); !strings.Contains(log, "answered") {
			return fmt.Errorf("log %q", log)
		}
		return nil
	})
	close(stop)
	<-done
	if log := s.kubectl("logs", "late"); !strings.Contains(log, "answered 0 times") {
		t.Errorf("packets of a new pod passed a policy that was there before it: %s", log)
	}
	if arrived.Load() > 0 {
		t.Errorf("%d connections to a new pod passed a policy that was there before it", arrived.Load())
	}
	n.addresses["late"], n.addresses["before"] = address, s.awaitReady("before").Status.PodIP
	n.probers["late"] = s.prober("late")

	// After the pod, changed, deleted.
	becomes := func(what string, allowed, denied list) { t.Helper(); n.becomes(s, what, allowed, denied) }
	becomes("a pod without a policy is open", list{"node>before:8000"}, list{"node>late:8000"})
	s.putPolicy("late", policySpec(t, `{podSelector: {matchLabels: {app: late}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {app: node}}}]}]}`))
	becomes("a policy that is changed", list{"node>late:8000"}, list{"other>late:8000", "late>node:8000"})
	s.putPolicy("before", policySpec(t, `{podSelector: {matchLabels: {app: before}}, policyTypes: [Ingress]}`))
	becomes("a policy made after the pod", nil, list{"node>before:8000", "other>before:8000"})
	s.deletePolicy("late")
	becomes("a policy that is deleted", list{"node>late:8000", "other>late:8001/udp", "late>node:8000"}, nil)
	s.putPolicy("late", policySpec(t, `{podSelector: {matchLabels: {app: late}}, ingress: [{from: [{podSelector: {matchLabels: {app: node}}}]}]}`))
	becomes("a policy made again", list{"node>late:8000"}, list{"other>late:8000"})

	s.kill(localcluster.Kip)
	away := time.Now()
	// What changes meanwhile is in force when Kip is back, and not before.
	s.putPolicy("late", policySpec(t, `{podSelector: {matchLabels: {app: late}}, ingress: [{from: [{podSelector: {matchLabels: {app: other}}}]}]}`))
	s.deletePolicy("before")
	for time.Since(away) < kipAway {
		if wrong := n.wrong(t, list{"node>late:8000", "node>late:8001/udp"}, list{"other>late:8000", "node>before:8000", "other>before:8000/udp"}); len(wrong) > 0 {
			t.Fatalf("%.1f s after Kip was killed: %v", time.Since(away).Seconds(), wrong)
		}
	}
	s.startComponent(localcluster.Kip)
	becomes("what changed while Kip was away", list{"other>late:8000", "node>before:8000"}, list{"node>late:8000"})
}
