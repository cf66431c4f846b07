package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// livingCell is a cell that can be hit.
type livingCell struct {
	instance, pod string
	spot          bool
}

func (l livingCell) String() string { return fmt.Sprintf("%s of pod %s", l.instance, l.pod) }

// history is what was seen by looking again and again.
type history struct {
	// living are the cells whose instance ran at the last look.
	living map[string]livingCell
	// instances are those that a pod of a name has had, by their primary addresses.
	instances map[string]map[string][]string
	// phases are the pods' last ones.
	phases map[types.UID]corev1.PodPhase
	// completed says when a Job's index was first seen to be done.
	completed map[string]time.Time
	// ended are tasks.
	ended map[string]bool
}

func newHistory() history {
	return history{
		instances: map[string]map[string][]string{}, phases: map[types.UID]corev1.PodPhase{},
		completed: map[string]time.Time{}, ended: map[string]bool{},
	}
}

// living are the cells that can be hit now.
func (c *chaos) living() map[string]livingCell {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.seen.living)
}

func (c *chaos) hasEnded(task string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.ended[task]
}

// lookAround looks at the account and the cluster, and checks what must hold at
// any time.
func (c *chaos) lookAround(ctx context.Context) error {
	before, err := c.ownInstances(ctx)
	if err != nil {
		return err
	}
	var cells v1beta1.CellList
	if err := shared.cells.List(ctx, &cells); err != nil {
		return err
	}
	pods, err := shared.kube.CoreV1().Pods(c.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	all, err := shared.kube.BatchV1().Jobs(c.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	after, err := c.ownInstances(ctx)
	if err != nil {
		return err
	}
	c.checkInstances(before, cells.Items, after)
	c.notePods(pods.Items)
	c.noteInstances(after)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range all.Items {
		if jobDone(&j) {
			c.seen.ended[j.Name] = true
		}
	}
	return nil
}

// ownInstances are those of this test's pods, in any state.
func (c *chaos) ownInstances(ctx context.Context) (map[string]ec2types.Instance, error) {
	found, err := shared.cloud.instances(ctx)
	maps.DeleteFunc(found, func(_ string, i ec2types.Instance) bool { return tag(i, "KipNamespace") != c.name })
	return found, err
}

func terminated(i ec2types.Instance) bool {
	return i.State.Name == ec2types.InstanceStateNameTerminated
}

// checkInstances: an instance that was there before the Cells were listed and is
// there afterwards has its Cell, and shares it with no other.
func (c *chaos) checkInstances(before map[string]ec2types.Instance, cells []v1beta1.Cell, after map[string]ec2types.Instance) {
	known := map[string]bool{}
	for _, cell := range cells {
		known[string(cell.UID)] = true
	}
	instances := map[string][]string{}
	for _, id := range slices.Sorted(maps.Keys(after)) {
		if _, was := before[id]; !was || terminated(after[id]) {
			continue
		}
		uid := tag(after[id], "KipCellUID")
		instances[uid] = append(instances[uid], id)
		if !known[uid] {
			c.violated("instance %s of cell %s is %s, and the Cell is gone", id, tag(after[id], "KipCell"), after[id].State.Name)
		}
	}
	for uid, ids := range instances {
		if len(ids) > 1 {
			c.violated("the cell with UID %s has the instances %v at once", uid, ids)
		}
	}
}

func (c *chaos) notePods(pods []corev1.Pod) {
	for _, pod := range pods {
		c.mu.Lock()
		was := c.seen.phases[pod.UID]
		c.seen.phases[pod.UID] = pod.Status.Phase
		if hasEnded(&pod) == nil {
			c.seen.ended[pod.Name] = true
		}
		if index := jobIndex(pod.Name); index != "" && pod.Status.Phase == corev1.PodSucceeded && c.seen.completed[index].IsZero() {
			c.seen.completed[index] = time.Now()
		}
		c.mu.Unlock()
		if (was == corev1.PodSucceeded || was == corev1.PodFailed) && was != pod.Status.Phase {
			c.violated("pod %s was %s and is %s", pod.Name, was, pod.Status.Phase)
		}
	}
}

func (c *chaos) noteInstances(all map[string]ec2types.Instance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen.living = map[string]livingCell{}
	for id, i := range all {
		pod, ip := tag(i, "KipPodName"), aws.ToString(i.PrivateIpAddress)
		if i.State.Name == ec2types.InstanceStateNameRunning {
			c.seen.living[id] = livingCell{instance: id, pod: pod, spot: i.InstanceLifecycle == ec2types.InstanceLifecycleTypeSpot}
		}
		if c.seen.instances[pod] == nil {
			c.seen.instances[pod] = map[string][]string{}
		}
		if ip != "" && !slices.Contains(c.seen.instances[pod][ip], id) {
			c.seen.instances[pod][ip] = append(c.seen.instances[pod][ip], id)
		}
	}
}

// jobIndex is the Job and the index that a pod of an indexed Job is for, by its
// name: JOB-INDEX-RANDOM. It is empty for other pods.
func jobIndex(pod string) string {
	parts := strings.Split(pod, "-")
	if len(parts) != 4 || parts[0] != jobs {
		return ""
	}
	return strings.Join(parts[:3], "-")
}

func jobDone(j *batchv1.Job) bool {
	return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue
	})
}

// unrest is what is not in its place.
func (c *chaos) unrest(ctx context.Context) error {
	var wrong []error
	problem := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }

	pods, err := shared.kube.CoreV1().Pods(c.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	lives := map[types.UID]string{} // pods that must have a cell
	ready := map[string]int{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		app := pod.Labels["app"]
		switch {
		case pod.DeletionTimestamp != nil:
			problem("pod %s is being deleted", pod.Name)
			continue
		case hasEnded(pod) == nil:
			if app != jobs && app != never && app != onFailure || app == onFailure && pod.Status.Phase == corev1.PodFailed {
				problem("pod %s is %s: %s", pod.Name, pod.Status.Phase, pod.Status.Reason)
			}
			continue
		}
		lives[pod.UID] = pod.Name
		switch err := isReady(pod); {
		case err != nil:
			problem("pod %s: %w", pod.Name, err)
		case app == jobs || app == never || app == onFailure:
			problem("pod %s has not ended", pod.Name)
		default:
			ready[app]++
		}
	}
	for app, want := range map[string]int{"web": webReplicas, "db": dbReplicas, kept: 1} {
		if ready[app] != want {
			problem("%d pods of %s are ready, want %d", ready[app], app, want)
		}
	}
	all, err := shared.kube.BatchV1().Jobs(c.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, j := range all.Items {
		if !jobDone(&j) || j.Status.Succeeded != completions {
			problem("%d pods of %s have succeeded, want %d: %v", j.Status.Succeeded, j.Name, completions, j.Status.Conditions)
		}
	}
	return errors.Join(append(wrong, c.unrestOfCells(ctx, lives))...)
}

// unrestOfCells: each pod that lives has one cell, and each cell one instance.
func (c *chaos) unrestOfCells(ctx context.Context, lives map[types.UID]string) error {
	var wrong []error
	problem := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }

	var list v1beta1.CellList
	if err := shared.cells.List(ctx, &list); err != nil {
		return err
	}
	own := map[types.UID]string{}
	instances := map[string]string{}
	for _, cell := range list.Items {
		if cell.Spec.Pod == nil || cell.Spec.Pod.Namespace != c.name {
			continue
		}
		pod := cell.Spec.Pod
		switch {
		case cell.DeletionTimestamp != nil:
			problem("cell %s is being deleted", cell.Name)
		case lives[pod.UID] == "":
			problem("cell %s is there, and no pod for it", cell.Name)
		case own[pod.UID] != "":
			problem("pod %s has the cells %s and %s", pod.Name, own[pod.UID], cell.Name)
		}
		own[pod.UID] = cell.Name
		instances[cell.Status.InstanceID] = cell.Name
	}
	for uid, name := range lives {
		if own[uid] == "" {
			problem("pod %s has no cell", name)
		}
	}
	found, err := c.ownInstances(ctx)
	if err != nil {
		return err
	}
	for id, i := range found {
		switch {
		case terminated(i):
		case instances[id] == "":
			problem("instance %s of cell %s is %s, and no cell's", id, tag(i, "KipCell"), i.State.Name)
		case i.State.Name != ec2types.InstanceStateNameRunning:
			problem("instance %s of cell %s is %s", id, instances[id], i.State.Name)
		default:
			delete(instances, id)
		}
	}
	for id, cell := range instances {
		problem("cell %s has instance %q, which does not run", cell, id)
	}
	return errors.Join(wrong...)
}
