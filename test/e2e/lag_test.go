package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/localcluster"
)

// TestCloudLagsBehind lets EC2 show instances late and states that are old, as
// it sometimes does. Kip is killed when it has launched, so that it finds its
// instance in no list; nothing is launched twice, what runs is not taken for
// lost, and no Cell goes before its instance.
func TestCloudLagsBehind(t *testing.T) {
	s := newSpace(t)
	setLag(s, map[string]string{"appear": "8s", "stale": "4s"})
	t.Cleanup(func() { setLag(s, map[string]string{}) })
	for _, name := range []string{"ends", "stays", "at-once"} {
		s.create(newPod(name, shell("main", forever)))
	}
	s.eventually("something is launched", func(ctx context.Context) error {
		var cells v1beta1.CellList
		if err := shared.cells.List(ctx, &cells); err != nil {
			return err
		}
		for _, c := range cells.Items {
			if c.Spec.Pod != nil && c.Spec.Pod.Namespace == s.name && c.Status.Launch != nil {
				return nil
			}
		}
		return fmt.Errorf("of %d cells none is launched", len(cells.Items))
	})
	s.killAndStart(localcluster.Kip)
	// Its instance may not have appeared when it is to be ended.
	s.kubectl("delete", "pod", "at-once", "--wait=false")
	for _, name := range []string{"ends", "stays"} {
		s.awaitReady(name)
	}
	s.awaitGone("at-once")
	s.delete("ends")
	s.eventually("the Cells of pods that are gone are gone", func(ctx context.Context) error {
		var cells v1beta1.CellList
		if err := shared.cells.List(ctx, &cells); err != nil {
			return err
		}
		for _, c := range cells.Items {
			if c.Spec.Pod != nil && c.Spec.Pod.Namespace == s.name && c.Spec.Pod.Name != "stays" {
				return fmt.Errorf("cell %s is there", c.Name)
			}
		}
		return nil
	})

	setLag(s, map[string]string{}) // from here on the truth is shown
	all, err := shared.cloud.instances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	states := map[string][]types.InstanceStateName{}
	for _, i := range all {
		if tag(i, "KipNamespace") == s.name {
			states[tag(i, "KipPodName")] = append(states[tag(i, "KipPodName")], i.State.Name)
		}
	}
	for pod, want := range map[string]types.InstanceStateName{
		"ends": types.InstanceStateNameTerminated, "stays": types.InstanceStateNameRunning, "at-once": types.InstanceStateNameTerminated,
	} {
		// Of a pod that is deleted early there may have been none.
		if got := states[pod]; len(got) > 1 || len(got) == 1 && got[0] != want || len(got) == 0 && pod != "at-once" {
			t.Errorf("the instances of pod %s are %v, want one that is %s", pod, got, want)
		}
	}
	p, err := s.pod(t.Context(), "stays")
	if err != nil {
		t.Fatal(err)
	}
	if err := isReady(p); err != nil || p.Status.ContainerStatuses[0].RestartCount > 0 {
		t.Errorf("the pod that stays: %v; %+v", err, p.Status.ContainerStatuses)
	}
}

// setLag tells ec2local how far its answers are behind.
func setLag(s *space, lag map[string]string) {
	s.Helper()
	if err := shared.cloud.command(context.Background(), http.MethodPut, "lag", lag, nil); err != nil {
		s.Fatal(err)
	}
}
