package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/test/runs"
)

// startTime is how long after a program's first report its container may still
// be lost if the kubelet or containerd that starts it is killed.
const startTime = 15 * time.Second

// judge compares what programs said of their runs with what became of their
// pods, and with what was done to their cells.
func (c *chaos) judge() {
	list, err := shared.kube.CoreV1().Pods(c.name).List(c.Context(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	pods := map[types.UID]*corev1.Pod{}
	for i := range list.Items {
		pods[list.Items[i].UID] = &list.Items[i]
	}
	all := c.log.Runs()
	c.mu.Lock()
	completed := c.seen.completed
	c.mu.Unlock()

	found := runs.Overlaps(all, func(r runs.Run) string { return "UID " + r.UID })
	found = append(found, runs.Overlaps(all, identity)...)
	found = append(found, runs.Repeated(all, func(r runs.Run) string { return jobIndex(r.Name) }, completed)...)
	ofPod := map[types.UID][]runs.Run{}
	for _, r := range all {
		ofPod[types.UID(r.UID)] = append(ofPod[types.UID(r.UID)], r)
	}
	found = append(found, c.judgeRuns(ofPod, pods)...)
	found = append(found, c.judgeEnds(ofPod, pods)...)
	for _, f := range found {
		c.violated("%s", f)
	}
	c.tell("%d runs of %d pods were reported; %d indexes of Jobs were completed", len(all), len(ofPod), len(completed))
}

// identity is the name of a StatefulSet's pod, of which there is one at a time.
func identity(r runs.Run) string {
	if strings.HasPrefix(r.Name, "db-") {
		return "pod " + r.Name
	}
	return ""
}

// judgeRuns: a run that was cut short has a reason, and it is not Kip's.
func (c *chaos) judgeRuns(ofPod map[types.UID][]runs.Run, pods map[types.UID]*corev1.Pod) (wrong []string) {
	for uid, all := range ofPod {
		pod := pods[uid]
		for n, r := range all {
			goesOn := n == len(all)-1 && pod != nil && pod.DeletionTimestamp == nil && hasEnded(pod) != nil
			if !r.Done && !goesOn && !c.explained(r) {
				wrong = append(wrong, fmt.Sprintf("nothing was done to its pod or its instance %v, but: %s", c.seen.instances[r.Name][r.HostIP], r))
			}
		}
		if pod != nil && pod.Spec.RestartPolicy == corev1.RestartPolicyNever && len(all) > 1 {
			wrong = append(wrong, fmt.Sprintf("pod %s, of policy Never, ran %d times: %v", pod.Name, len(all), all))
		}
	}
	return wrong
}

// explained says whether something of this test's may have ended the run.
func (c *chaos) explained(r runs.Run) bool {
	if c.deleted[types.UID(r.UID)] {
		return true
	}
	for _, id := range c.seen.instances[r.Name][r.HostIP] {
		for _, s := range c.strikes[id] {
			if s.harm == lethal || s.harm == harmsStart && s.at.Sub(r.First).Abs() < startTime {
				return true
			}
		}
	}
	return false
}

// judgeEnds: a pod ended as its policy and its program say, and each index of a
// Job once.
func (c *chaos) judgeEnds(ofPod map[types.UID][]runs.Run, pods map[types.UID]*corev1.Pod) (wrong []string) {
	succeeded := map[string][]string{}
	for uid, pod := range pods {
		done := slices.ContainsFunc(ofPod[uid], func(r runs.Run) bool { return r.Done })
		switch pod.Status.Phase {
		case corev1.PodSucceeded:
			if !done {
				wrong = append(wrong, fmt.Sprintf("pod %s is Succeeded, and its work was never done", pod.Name))
			}
			if index := jobIndex(pod.Name); index != "" {
				succeeded[index] = append(succeeded[index], pod.Name)
			}
		case corev1.PodFailed:
			if !c.struck(pod) {
				wrong = append(wrong, fmt.Sprintf("pod %s is Failed (%s: %s), and nothing was done to it", pod.Name, pod.Status.Reason, pod.Status.Message))
			}
		}
	}
	for index, names := range succeeded {
		if len(names) > 1 {
			wrong = append(wrong, fmt.Sprintf("index %s was completed by %v", index, names))
		}
	}
	return wrong
}

// struck says whether anything was done that harms a pod.
func (c *chaos) struck(pod *corev1.Pod) bool {
	for _, ids := range c.seen.instances[pod.Name] {
		for _, id := range ids {
			if slices.ContainsFunc(c.strikes[id], func(s strike) bool { return s.harm != harmless }) {
				return true
			}
		}
	}
	return c.deleted[pod.UID]
}

// bad is what a component's log must not say: that it broke, or that something was
// left for the garbage collection, which is the net for what must not happen.
var bad = regexp.MustCompile(`(?m)^(panic:|fatal error:|.*msg="(leaked instance|leftover of an instance)").*$`)

func (c *chaos) judgeLog(component string, from int64) {
	log, err := os.ReadFile(shared.LogPath(component))
	if err != nil {
		c.Fatal(err)
	}
	if line := bad.Find(log[min(int(from), len(log)):]); line != nil {
		c.violated("%s says: %s", component, line)
	}
}

// clear removes everything, and waits until nothing of it costs anything.
func (c *chaos) clear() {
	c.kubectl("delete", "deployments,statefulsets,jobs,pods", "--all", "--wait=false")
	err := poll(c.Context(), 2*patience, func(ctx context.Context) error {
		pods, err := shared.kube.CoreV1().Pods(c.name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var cells v1beta1.CellList
		if err := shared.cells.List(ctx, &cells); err != nil {
			return err
		}
		own := slices.DeleteFunc(cells.Items, func(cell v1beta1.Cell) bool {
			return cell.Spec.Pod == nil || cell.Spec.Pod.Namespace != c.name
		})
		instances, err := c.ownInstances(ctx)
		if err != nil {
			return err
		}
		living := 0
		for _, i := range instances {
			if !terminated(i) {
				living++
			}
		}
		if len(pods.Items)+len(own)+living > 0 {
			return fmt.Errorf("%d pods, %d cells and %d instances are left", len(pods.Items), len(own), living)
		}
		return nil
	})
	if err != nil {
		c.violated("it does not go: %v", err)
	}
}
