package v1beta1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// FailureReason is why a cell was given up.
type FailureReason string

const (
	// FailureSilent: the cell gave no sign of life for too long.
	FailureSilent FailureReason = "Silent"
	// FailureNotReady: the cell's kubelet said of itself, for too long, that it is
	// not ready.
	FailureNotReady FailureReason = "NotReady"
	// FailureImpaired: the cloud's own checks of the instance failed for too long.
	FailureImpaired FailureReason = "Impaired"
	// FailureEnded: somebody else than Kip stopped the instance or began to end it.
	FailureEnded FailureReason = "Ended"
)

// FailureStatus is Kip's word that the cell works no more. It is written before
// anything is done about it, and never taken back: the instance is terminated,
// and what becomes of the pod is decided when it is proven gone.
type FailureStatus struct {
	Reason FailureReason `json:"reason"`
	// Message is a sentence for the pod's owner.
	Message string `json:"message"`
	// Time is when it was decided.
	Time metav1.Time `json:"time"`
}
