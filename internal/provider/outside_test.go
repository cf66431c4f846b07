package provider

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// TestEndedFromOutside: somebody terminates, or stops, the instances of pods.
// Until an instance is seen terminated its pod may run: the pod has not failed
// before, so that no Job makes another, and is not launched again before.
func TestEndedFromOutside(t *testing.T) {
	for name, end := range map[string]func(*fleet, string){
		"terminated": func(f *fleet, id string) { f.cloud.Kill(id, "Client.UserInitiatedShutdown") },
		"stopped":    func(f *fleet, id string) { f.cloud.Stop(id, "Client.UserInitiatedShutdown") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			f.add("once", time.Second, 30*time.Second, policy(corev1.RestartPolicyNever))
			f.add("again", time.Second, 30*time.Second, policy(corev1.RestartPolicyAlways))
			for range 20 {
				f.second()
			}
			first := f.cloud.Alive()
			if len(first) != 2 {
				t.Fatalf("%d instances run", len(first))
			}
			for _, i := range first {
				end(f, i.ID)
			}
			get := func(name string) corev1.PodStatus {
				t.Helper()
				var pod corev1.Pod
				if err := f.api.Get(t.Context(), types.NamespacedName{Namespace: "default", Name: name}, &pod); err != nil {
					t.Fatal(err)
				}
				return pod.Status
			}
			for range 120 {
				f.second()
				states := map[string]cloudprovider.State{}
				for _, i := range f.cloud.All() {
					states[i.CellName] = i.State
				}
				over := true
				for _, i := range first {
					over = over && states[i.CellName] == cloudprovider.StateTerminated
				}
				once := get("once")
				if over {
					continue
				}
				if once.Phase == corev1.PodFailed {
					t.Fatalf("the pod failed while instances are %v", states)
				}
				if len(states) > 2 {
					t.Fatalf("the pod is launched again while instances are %v", states)
				}
			}
			if s := get("once"); s.Phase != corev1.PodFailed || s.Reason != "CellLost" {
				t.Errorf("the pod that may not run again is %s, %s", s.Phase, s.Reason)
			}
			if s := get("again"); s.Phase != corev1.PodRunning || len(f.cloud.Alive()) != 1 {
				t.Errorf("the pod that may run again is %s, on %d instances", s.Phase, len(f.cloud.Alive()))
			}
		})
	}
}
