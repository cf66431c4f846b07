package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/elotl/kip/v2/test/conformance"
)

// someSpecs are a few of Kubernetes' own tests, one or two for each thing that
// a node does for a pod; make conformance runs them all.
var someSpecs = []string{
	"[sig-network] Networking Granular Checks: Pods should function for intra-pod communication: http [NodeConformance] [Conformance]",
	"[sig-node] ConfigMap should be consumable via the environment [NodeConformance] [Conformance]",
	"[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop http hook properly [NodeConformance] [Conformance]",
	"[sig-node] Ephemeral Containers [NodeConformance] should update the ephemeral containers in an existing pod [Conformance]",
	"[sig-node] InitContainer [NodeConformance] should invoke init containers on a RestartNever pod [Conformance]",
	"[sig-node] NodeLease [NodeConformance] NodeLease the kubelet should create and update a lease in the kube-node-lease namespace",
	"[sig-node] Pod InPlace Resize Container burstable pods - extended 6 containers - various operations performed (including adding limits and requests) [MinimumKubeletVersion:1.34] [Conformance]",
	"[sig-node] Pods should delete a collection of pods [Conformance]",
	"[sig-node] Pods should run through the lifecycle of Pods and PodStatus [Conformance]",
	"[sig-node] Probing container should be restarted with a local redirect http liveness probe [NodeConformance]",
	"[sig-node] Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false [LinuxOnly] [NodeConformance] [Conformance]",
	"[sig-node] Variable Expansion should allow substituting values in a volume subpath [Conformance]",
	"[sig-storage] EmptyDir volumes volume on tmpfs should have the correct mode [LinuxOnly] [NodeConformance] [Conformance]",
	"[sig-storage] Projected combined should project all components that make up the projection API [Projection] [NodeConformance] [Conformance]",
	"[sig-storage] Projected secret optional updates should be reflected in volume [NodeConformance] [Conformance]",
}

// Kubernetes' own tests pass on a cluster whose only node is the virtual one,
// which takes any pod.
func TestConformance(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp(filepath.Join(shared.Root, ".cache"), "conformance-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var specs []conformance.Spec
	for _, name := range someSpecs {
		specs = append(specs, conformance.Spec{Name: name})
	}
	cluster := conformance.Config{Name: fmt.Sprintf("cnf%d", os.Getpid()%100000), Root: shared.Root, Dir: dir, Progress: t.Logf,
		ImageCache: withImageCache()}
	passed := 0
	err = conformance.WithCluster(t.Context(), cluster, func(ctx context.Context, suite conformance.Suite) error {
		return suite.RunAll(ctx, specs, 4, time.Time{}, func(spec conformance.Spec, r conformance.Result) {
			if r.State == conformance.Passed {
				passed++
				return
			}
			log, err := suite.Log(spec)
			if err != nil {
				log = err.Error()
			}
			t.Errorf("%s %s:\n%s", r.State, spec.Name, log)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if passed != len(specs) && !t.Failed() {
		t.Errorf("%d of %d specs passed", passed, len(specs))
	}
}
