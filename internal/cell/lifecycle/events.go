package lifecycle

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// event tells about a Cell where its user looks: at the pod, if it has one.
func (r *Reconciler) event(s *scope, kind, reason, message string) {
	var about runtime.Object = s.cell
	if p := s.cell.Spec.Pod; p != nil {
		about = &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
	}
	r.cfg.Events.Event(about, kind, reason, message)
}
