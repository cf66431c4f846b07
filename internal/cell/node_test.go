package cell

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func TestOfNode(t *testing.T) {
	of := func(node string) client.Object { return &v1beta1.Cell{Spec: v1beta1.CellSpec{NodeName: node}} }
	for name, tc := range map[string]struct {
		reason string
		object client.Object
		passes bool
	}{
		"own":      {"it is for this Kip to look after", of("kip-provider-0"), true},
		"other":    {"another Kip does", of("kip-provider-1"), false},
		"no Cell":  {"a watch on Cells that brings something else is wrong", &corev1.Pod{}, false},
		"nameless": {"it is nobody's", of(""), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := OfNode("kip-provider-0").Create(event.CreateEvent{Object: tc.object}); got != tc.passes {
				t.Errorf("%s: %t", tc.reason, got)
			}
		})
	}
}
