package provider

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// kubeletConditions are the condition types that are the kubelet's alone: they
// are as it reported them, and gone when it left them out.
var kubeletConditions = map[corev1.PodConditionType]bool{
	corev1.PodScheduled:              true,
	corev1.PodInitialized:            true,
	corev1.PodReady:                  true,
	corev1.ContainersReady:           true,
	corev1.PodReadyToStartContainers: true,
	corev1.PodResizePending:          true,
	corev1.PodResizeInProgress:       true,
	corev1.AllContainersRestarting:   true,
}

// byKubelet says whose a condition is when a kubelet reports it. All others in
// a pod's status belong to whoever put them there and are taken from the API
// server.
func byKubelet(t corev1.PodConditionType) bool {
	// Kubelets report a disruption, and so do the API server and controllers.
	return kubeletConditions[t] || t == corev1.DisruptionTarget
}

// compose is the pod's status as Kip knows it: what the kubelet reported last,
// conditions of others from the API server, and the CellReady condition.
func compose(api, reported *corev1.PodStatus, cellReady corev1.PodCondition) corev1.PodStatus {
	status := latest(api, reported)
	setCondition(&status, cellReady)
	return status
}

// latest is compose without the CellReady condition.
func latest(api, reported *corev1.PodStatus) corev1.PodStatus {
	if reported == nil || terminal(api.Phase) && !terminal(reported.Phase) {
		return *api.DeepCopy()
	}
	status := *reported.DeepCopy()
	status.Conditions = mergeConditions(api.Conditions, status.Conditions, byKubelet)
	return status
}

// mergeConditions takes from ours what is ours and all else from theirs, in
// the order of theirs, so that nothing looks changed that is not.
func mergeConditions(theirs, ours []corev1.PodCondition, isOurs func(corev1.PodConditionType) bool) []corev1.PodCondition {
	own := map[corev1.PodConditionType]corev1.PodCondition{}
	for _, c := range ours {
		if isOurs(c.Type) {
			own[c.Type] = c
		}
	}
	var merged []corev1.PodCondition
	for _, c := range theirs {
		if o, ok := own[c.Type]; ok {
			merged = append(merged, o)
			delete(own, c.Type)
		} else if !kubeletConditions[c.Type] {
			merged = append(merged, c)
		}
	}
	for _, c := range ours {
		if _, ok := own[c.Type]; ok {
			merged = append(merged, c)
		}
	}
	return merged
}

// setCondition puts c in, keeping the transition time while its status stays.
func setCondition(status *corev1.PodStatus, c corev1.PodCondition) {
	if old := condition(status, c.Type); old != nil {
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	status.Conditions = append(status.Conditions, c)
}

func condition(status *corev1.PodStatus, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == t {
			return &status.Conditions[i]
		}
	}
	return nil
}

func terminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// cellReady translates a Cell's condition into the pod's. A nil Cell has not
// been written yet.
func cellReady(cell *v1beta1.Cell, now metav1.Time) corev1.PodCondition {
	c := corev1.PodCondition{
		Type:               v1beta1.PodConditionCellReady,
		Status:             corev1.ConditionFalse,
		Reason:             v1beta1.ReasonPending,
		Message:            "no instance was asked for yet",
		LastTransitionTime: now,
	}
	if cell == nil {
		return c
	}
	if ready := meta.FindStatusCondition(cell.Status.Conditions, v1beta1.ConditionReady); ready != nil {
		c.Status = corev1.ConditionStatus(ready.Status)
		c.Reason, c.Message = ready.Reason, ready.Message
		c.LastTransitionTime = ready.LastTransitionTime
	}
	return c
}

// lastCellReady is the condition of a pod that ended. It is written with the
// final status and never again, so it says what is about to happen.
func lastCellReady(c corev1.PodCondition) corev1.PodCondition {
	if c.Reason != v1beta1.ReasonInstanceGone {
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, v1beta1.ReasonTerminating, "the pod ended: its logs are kept and its instance is terminated"
	}
	return c
}

// report hands the pod's status to the library when the API server's differs.
// A final status stands.
func (p *Provider) report(pod *corev1.Pod, cell *v1beta1.Cell, ready corev1.PodCondition, disrupted *corev1.PodCondition) {
	if terminal(pod.Status.Phase) {
		return
	}
	p.mu.Lock()
	notify := p.notify
	p.mu.Unlock()
	reported := p.known(pod.UID).reported
	if reported != nil && terminal(reported.Phase) {
		ready = lastCellReady(ready)
	}
	status := compose(&pod.Status, reported, ready)
	// Here and not in compose: the kubelet must find its own words.
	settleResize(&status)
	if disrupted != nil {
		setCondition(&status, *disrupted)
	}
	p.outOfTouch(cell, &status)
	if notify == nil || equality.Semantic.DeepEqual(status, pod.Status) {
		return
	}
	update := pod.DeepCopy()
	update.Status = status
	notify(update)
}

// outOfTouch takes a pod out of service of which nothing is heard. What its
// kubelet said last stands for everything else, and for all of it as soon as the
// cell is heard again.
func (p *Provider) outOfTouch(cell *v1beta1.Cell, status *corev1.PodStatus) {
	if cell == nil || terminal(status.Phase) {
		return
	}
	if f := cell.Status.Failure; f != nil {
		notReady(status, v1beta1.ReasonUnhealthy, f.Time)
	} else if since, reason := p.Health.Unwell(cell.Name); reason != "" {
		// As the API server keeps times, or it would look like news for ever.
		notReady(status, reason, metav1.NewTime(since.Truncate(time.Second)))
	}
}

// newestStatus is what is known of the pod itself.
func (p *Provider) newestStatus(pod *corev1.Pod) *corev1.PodStatus {
	if reported := p.known(pod.UID).reported; reported != nil {
		return reported
	}
	return &pod.Status
}

// fail is the status of a pod whose cell was lost and whose policy forbids to
// run it again. instance says which is meant.
func fail(status *corev1.PodStatus, instance string, now metav1.Time) corev1.PodStatus {
	failed := *status.DeepCopy()
	failed.Phase = corev1.PodFailed
	failed.Reason = "CellLost"
	failed.Message = instance + " is gone, and the pod's restartPolicy is Never"
	for _, list := range [][]corev1.ContainerStatus{failed.InitContainerStatuses, failed.ContainerStatuses, failed.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].State.Terminated == nil {
				list[i].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					ExitCode: 137, Reason: "CellLost", Message: "the instance is gone; how the container ended is not known",
					ContainerID: list[i].ContainerID, FinishedAt: now,
				}}
				list[i].Ready = false
			}
		}
	}
	notReady(&failed, "CellLost", now)
	return failed
}

// otherOS says whether the pod is for another operating system than cells have,
// which nobody can change any more.
func otherOS(pod *corev1.Pod) bool { return pod.Spec.OS != nil && pod.Spec.OS.Name != corev1.Linux }

// rejected is the status of a pod that never runs, in the words of a kubelet.
func rejected(reason string, mistake error) corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodFailed, Reason: reason, Message: "Pod was rejected: " + mistake.Error()}
}

// interrupted is the status of a pod that will run again on another cell: it is
// not ready, and nothing of it runs.
func interrupted(status *corev1.PodStatus, cell string, now metav1.Time) corev1.PodStatus {
	s := *status.DeepCopy()
	waitAgain(&s, "CellLost", "the instance of cell "+cell+" is gone; the pod is started again on another")
	notReady(&s, "CellLost", now)
	return s
}

// waitAgain shows the containers of a pod as what they are on its next cell:
// not started. A kubelet that is shown an ended container of a pod with policy
// OnFailure would take it for done.
func waitAgain(status *corev1.PodStatus, reason, message string) {
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses} {
		for i := range list {
			c := &list[i]
			if c.State.Waiting == nil {
				if c.State.Terminated != nil {
					c.LastTerminationState = c.State
				}
				c.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
			}
			c.Ready = false
		}
	}
}

// notReady takes a pod out of service, from now on if it was ready.
func notReady(status *corev1.PodStatus, reason string, now metav1.Time) {
	for i := range status.Conditions {
		if c := &status.Conditions[i]; (c.Type == corev1.PodReady || c.Type == corev1.ContainersReady) && c.Status != corev1.ConditionFalse {
			c.Status, c.Reason, c.LastTransitionTime = corev1.ConditionFalse, reason, now
		}
	}
}
