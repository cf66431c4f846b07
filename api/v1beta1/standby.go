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

	// Stopped: the instance is stopped as soon as it has booted, without being
	// enrolled, and started when the cell gets a pod.
	// +optional
	Stopped bool `json:"stopped,omitempty"`
}

// StandbyStatus is what became of a standby cell that has a pod.
type StandbyStatus struct {
	// PodBound is when it was settled that this cell and no other has its pod.
	// The cell's kubelet is shown the pod from then on, and not before.
	PodBound metav1.Time `json:"podBound"`
}

// StopStatus is of a cell whose instance is kept stopped until there is a pod for
// it.
type StopStatus struct {
	// Time is when it was decided to stop the instance, before the cloud was asked.
	Time metav1.Time `json:"time"`

	// Stopped is when the cloud said for the first time that it is stopped. No pod
	// takes the cell before.
	// +optional
	Stopped *metav1.Time `json:"stopped,omitempty"`

	// RunningUSD is the hourly price of the instance when it runs. In the meantime
	// status.launch.hourlyUSD is that of what is kept.
	// +optional
	RunningUSD string `json:"runningUSD,omitempty"`

	// Started is when it was decided to start it for its pod, before the cloud was
	// asked.
	// +optional
	Started *metav1.Time `json:"started,omitempty"`
}

// StopsFirst reports that the cell's instance boots only to be stopped. Its agent
// is not enrolled: what a cell is told is the business of the instance's second
// boot.
func (c *Cell) StopsFirst() bool {
	return c.Spec.Standby != nil && c.Spec.Standby.Stopped && c.Status.Stop == nil
}

// KeptStopped reports that the cell's instance is stopped, or is to be, and that
// nothing has decided yet to start it.
func (c *Cell) KeptStopped() bool { return c.Status.Stop != nil && c.Status.Stop.Started == nil }

// Waiting reports that the cell is a standby cell without a pod.
func (c *Cell) Waiting() bool { return c.Spec.Standby != nil && c.Spec.Pod == nil }

// Settled reports that the cell has a pod for good. A standby cell whose
// spec.pod is set may still lose it to another cell of the pod.
func (c *Cell) Settled() bool {
	return c.Spec.Pod != nil && (c.Spec.Standby == nil || c.Status.Standby != nil)
}
