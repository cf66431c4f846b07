package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SpotInterruption is the kind of an interruption for lack of capacity: the
// cloud wants a spot instance back.
const SpotInterruption = "spot-interruption"

// InterruptionStatus is the cloud's word that it will take the instance.
type InterruptionStatus struct {
	// Kind is what the cloud announced: SpotInterruption, or the code of a
	// scheduled event such as "instance-retirement".
	Kind string `json:"kind"`
	// Action is what the cloud will do: "terminate", "stop", "hibernate",
	// "reboot".
	// +optional
	Action string `json:"action,omitempty"`
	// Deadline is when it does it.
	Deadline metav1.Time `json:"deadline"`
	// Noticed is when Kip wrote this down. The pod's grace period counts from it.
	Noticed metav1.Time `json:"noticed"`
	// PodEnded is when the cell's kubelet had ended a pod that is to run again on
	// another cell. That one is not shown the pod before. Set once.
	// +optional
	PodEnded *metav1.Time `json:"podEnded,omitempty"`
}

// Drains reports that the cloud takes the instance and that the cell's pod is
// not known to have ended in it: no other cell may run the pod.
func (c *Cell) Drains() bool {
	return c.Status.Interruption != nil && c.Status.Interruption.PodEnded == nil
}
