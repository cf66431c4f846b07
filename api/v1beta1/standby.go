package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// LabelPodUID is the label on a Cell with the UID of its pod. By it the cells
// of a pod are found at the API server itself.
const LabelPodUID = "kip.elotl.co/pod-uid"

// StandbySpec is of a cell that was launched before there was a pod for it.
type StandbySpec struct {
	// Configuration is a hash of all that decided what the instance is, but for
	// its type and zone. A cell of another hash than the present one takes no pod.
	Configuration string `json:"configuration"`
}

// StandbyStatus is what became of a standby cell that has a pod.
type StandbyStatus struct {
	// PodBound is when it was settled that this cell and no other has its pod.
	// The cell's kubelet is shown the pod from then on, and not before.
	PodBound metav1.Time `json:"podBound"`
}

// Waiting reports that the cell is a standby cell without a pod.
func (c *Cell) Waiting() bool { return c.Spec.Standby != nil && c.Spec.Pod == nil }

// Settled reports that the cell has a pod for good. A standby cell whose
// spec.pod is set may still lose it to another cell of the pod.
func (c *Cell) Settled() bool {
	return c.Spec.Pod != nil && (c.Spec.Standby == nil || c.Status.Standby != nil)
}
