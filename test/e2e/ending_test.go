package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// awaitInstanceGone waits until the cell's instance costs nothing any more.
func (s *space) awaitInstanceGone(cell *v1beta1.Cell) {
	s.Helper()
	s.eventually("the instance of "+cell.Name+" is gone", func(ctx context.Context) error {
		living, err := shared.cloud.living(ctx)
		if err != nil {
			return err
		}
		if _, lives := living[cell.Status.InstanceID]; lives {
			return errors.New("it lives")
		}
		return nil
	})
}

// The ways to end a pod before its time: a shorter grace period, none at all,
// and eviction, which budgets can forbid. The instance goes every time.
func TestEnding(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const deaf = `trap '' TERM; while :; do sleep 1; done`
	cells := map[string]*v1beta1.Cell{}
	for name, script := range map[string]string{"short": deaf, "forced": deaf, "evicted": forever} {
		pod := newPod(name, shell("main", script))
		grace := int64(600)
		pod.Spec.TerminationGracePeriodSeconds = &grace
		s.create(pod)
	}
	for _, name := range []string{"short", "forced", "evicted"} {
		cells[name] = s.cellOf(s.awaitReady(name))
	}

	began := time.Now()
	s.kubectl("delete", "pod", "short", "--grace-period=2")
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("a pod that does not listen was gone after %s", took)
	}
	s.awaitInstanceGone(cells["short"])

	s.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
	s.awaitInstanceGone(cells["forced"])

	s.apply(`
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: budget}
spec: {minAvailable: 1, selector: {matchLabels: {app: evicted}}}
`)
	s.eventually("the budget counts the pod", func(ctx context.Context) error {
		b, err := shared.kube.PolicyV1().PodDisruptionBudgets(s.name).Get(ctx, "budget", metav1.GetOptions{})
		if err == nil && b.Status.CurrentHealthy != 1 {
			err = fmt.Errorf("it counts %d", b.Status.CurrentHealthy)
		}
		return err
	})
	evict := func() error {
		return shared.kube.CoreV1().Pods(s.name).EvictV1(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "evicted", Namespace: s.name}})
	}
	if err := evict(); !apierrors.IsTooManyRequests(err) {
		t.Errorf("an eviction against the budget: %v", err)
	}
	if pod, err := s.pod(t.Context(), "evicted"); err != nil || pod.DeletionTimestamp != nil {
		t.Fatalf("the pod is being deleted (%v)", err)
	}
	s.kubectl("delete", "pdb", "budget")
	watch, err := shared.kube.CoreV1().Pods(s.name).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=evicted"})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	s.eventually("the eviction without a budget", func(context.Context) error { return evict() })
	var last *corev1.Pod
	for event := range watch.ResultChan() {
		if pod, ok := event.Object.(*corev1.Pod); ok {
			last = pod
		}
		if event.Type == "DELETED" {
			break
		}
	}
	var reasons []string
	for _, c := range last.Status.Conditions {
		if c.Type == corev1.DisruptionTarget {
			reasons = append(reasons, c.Reason)
		}
	}
	if got := strings.Join(reasons, ","); got != "EvictionByEvictionAPI" {
		t.Errorf("the evicted pod's DisruptionTarget is %q", got)
	}
	s.awaitInstanceGone(cells["evicted"])
}
