package simulation

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// What a pod's annotations say about its program.
const (
	annotationRuns     = "runs"     // for how long; without it, for ever
	annotationExits    = "exits"    // and with which code then
	annotationTakes    = "takes"    // from SIGTERM to its end
	annotationGraceful = "graceful" // it ends with 0 after SIGTERM
)

// users make pods, and controllers make them anew. They reach the API server
// always: what they see is not what is tested.
type users struct {
	world *world
	sets  []*set
	made  int

	// forced are pods that somebody removed by force, and said to know that they
	// may still run.
	forced map[types.UID]bool
	// cellsDeleted are Cells that somebody deleted.
	cellsDeleted map[types.UID]bool
	// loops: a program ends and is started again, for ever.
	loops bool
}

// set is a ReplicaSet, a StatefulSet or a Job with one pod.
type set struct {
	kind     string
	name     string
	template *corev1.Pod
	pod      string // its name
	uid      types.UID
	made     int
	done     bool
}

// program is what the pods of a world run.
func (u *users) template(policy corev1.RestartPolicy, runs time.Duration, exits string) *corev1.Pod {
	w := u.world
	grace := int64(w.rand.IntN(40) + 1)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Annotations: map[string]string{
			annotationTakes: w.between(0, 40*time.Second).String(),
		}},
		Spec: corev1.PodSpec{
			NodeName: nodeName, RestartPolicy: policy, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "app", Image: "app", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m")},
			}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}},
	}
	if runs > 0 {
		pod.Annotations[annotationRuns], pod.Annotations[annotationExits] = runs.String(), exits
	}
	if w.chance(0.3) {
		pod.Annotations[annotationGraceful] = "yes"
	}
	if w.chance(0.3) {
		pod.Annotations["pod.elotl.co/launch-type"] = "spot"
	}
	return pod
}

// begin makes a handful of pods in the first minutes.
func (u *users) begin() {
	w := u.world
	u.forced, u.cellsDeleted = map[types.UID]bool{}, map[types.UID]bool{}
	for range 2 + w.rand.IntN(4) {
		w.after(w.between(0, 2*time.Minute), "somebody wants something", u.want)
	}
	w.every(2*time.Second, "controllers look", u.control)
}

func (u *users) want() {
	w := u.world
	u.made++
	name := fmt.Sprintf("p%d", u.made)
	runs, exits := time.Duration(0), "0"
	if w.chance(0.4) {
		runs = w.between(5*time.Second, 4*time.Minute)
		if w.chance(0.4) {
			exits = "3"
		}
	}
	policies := []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}
	switch n := w.rand.IntN(6); n {
	case 0, 1, 2:
		u.loops = u.loops || runs > 0 && (n == 0 || n == 1 && exits != "0")
		pod := u.template(policies[n], runs, exits)
		pod.Name = name
		if w.chance(0.2) {
			pod.Annotations["pod.elotl.co/cloud-route"] = fmt.Sprintf("10.%d.0.0/16", 100+u.made)
		}
		u.create(pod)
	case 3, 4:
		s := &set{kind: []string{"ReplicaSet", "StatefulSet"}[n-3], name: name, template: u.template(corev1.RestartPolicyAlways, 0, "")}
		u.sets = append(u.sets, s)
	case 5:
		runs = w.between(5*time.Second, 2*time.Minute)
		u.sets = append(u.sets, &set{kind: "Job", name: name, template: u.template(policies[1+w.rand.IntN(2)], runs, "0")})
	}
}

func (u *users) create(pod *corev1.Pod) *corev1.Pod {
	o, err := u.world.api.create(pod)
	if err != nil {
		u.world.t.Fatal(err)
	}
	u.world.tell("pod %s is made, %s %s", pod.Name, o.GetUID(), pod.Spec.RestartPolicy)
	return o.(*corev1.Pod)
}

// control is a step of every controller.
func (u *users) control() {
	for _, s := range u.sets {
		u.controlSet(s)
	}
}

func (u *users) controlSet(s *set) {
	if s.done {
		return
	}
	if s.pod != "" {
		pod := u.world.api.pod(client.ObjectKey{Namespace: "default", Name: s.pod})
		if pod != nil && pod.UID != s.uid {
			pod = nil
		}
		ended := pod != nil && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed)
		switch {
		case pod == nil:
		case s.kind == "Job" && pod.Status.Phase == corev1.PodSucceeded:
			s.done = true
			return
		case s.kind == "StatefulSet" && ended, s.kind == "ReplicaSet" && ended && pod.DeletionTimestamp == nil:
			_ = u.world.api.delete(pods, client.ObjectKeyFromObject(pod), client.DeleteOptions{})
			return
		case s.kind == "StatefulSet", !ended && pod.DeletionTimestamp == nil:
			return
		}
	}
	pod := s.template.DeepCopy()
	pod.Name = s.name + "-0"
	if s.kind != "StatefulSet" {
		pod.Name = fmt.Sprintf("%s-%d", s.name, s.made)
	}
	s.made++
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: s.kind, Name: s.name, UID: types.UID(s.name), Controller: new(true)}}
	s.pod, s.uid = pod.Name, u.create(pod).UID
}

// schedule has users interfere.
func (u *users) schedule() {
	w, p := u.world, &u.world.plan
	w.now(p.deletePods, "somebody deletes a pod", func() {
		if pod := u.somePod(); pod != nil {
			w.tell("pod %s is deleted", pod.Name)
			_ = w.api.delete(pods, client.ObjectKeyFromObject(pod), client.DeleteOptions{})
		}
	})
	w.now(p.forceDeletes, "somebody removes a pod by force", func() {
		if pod := u.somePod(); pod != nil {
			w.tell("pod %s is removed by force", pod.Name)
			u.forced[pod.UID] = true
			_ = w.api.delete(pods, client.ObjectKeyFromObject(pod), client.DeleteOptions{GracePeriodSeconds: new(int64(0))})
		}
	})
	w.now(p.deleteCells, "somebody deletes a Cell", func() {
		if all := w.api.list(cells); len(all) > 0 {
			cell := all[w.rand.IntN(len(all))].(*v1beta1.Cell)
			w.tell("cell %s is deleted", cell.Name)
			u.cellsDeleted[cell.UID] = true
			_ = w.api.delete(cells, client.ObjectKeyFromObject(cell), client.DeleteOptions{})
		}
	})
	w.now(p.annotate, "somebody annotates a pod", func() {
		if pod := u.somePod(); pod != nil {
			pod = pod.DeepCopy()
			pod.Annotations["pod.elotl.co/volume-size"] = fmt.Sprintf("%dGi", 10+w.rand.IntN(10))
			_, _ = w.api.update(pod, false)
		}
	})
}

func (u *users) somePod() *corev1.Pod {
	all := slices.DeleteFunc(u.world.api.list(pods), func(o client.Object) bool { return o.GetDeletionTimestamp() != nil })
	if len(all) == 0 {
		return nil
	}
	return all[u.world.rand.IntN(len(all))].(*corev1.Pod)
}

// program sets when the program that has just started will end by itself.
func (m *machine) program(now time.Time) {
	k := &m.kubelet
	runs, err := time.ParseDuration(k.pod.Annotations[annotationRuns])
	if err != nil {
		return
	}
	k.endsAt = now.Add(runs)
	if k.pod.Annotations[annotationExits] != "0" {
		k.exitCode = 3
	}
}
