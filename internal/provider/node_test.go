package provider

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestTaint(t *testing.T) {
	own := corev1.Taint{Key: TaintKey, Value: "kip", Effect: corev1.TaintEffectNoSchedule}
	other := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	cases := map[string]struct {
		reason  string
		disable bool
		have    []corev1.Taint
		want    []corev1.Taint
		writes  int
	}{
		"There": {
			reason: "nothing is written where nothing is to change",
			have:   []corev1.Taint{own}, want: []corev1.Taint{own},
		},
		"Removed": {
			reason:  "a node that was made with the taint loses it, and keeps a cordon",
			disable: true,
			have:    []corev1.Taint{own, other}, want: []corev1.Taint{other}, writes: 1,
		},
		"PutBack": {
			reason: "without the flag the taint is there, whoever took it away",
			have:   []corev1.Taint{other}, want: []corev1.Taint{other, own}, writes: 1,
		},
		"NeverThere": {
			reason:  "a node without the taint stays without",
			disable: true,
			have:    []corev1.Taint{other}, want: []corev1.Taint{other},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			const node = "kip-provider-0"
			client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: corev1.NodeSpec{Taints: tc.have}})
			wanted := NewNode(NodeConfig{Name: node, DisableTaint: tc.disable})
			if err := alignTaint(t.Context(), client.CoreV1().Nodes(), wanted); err != nil {
				t.Fatal(err)
			}
			got, err := client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got.Spec.Taints); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			writes := 0
			for _, a := range client.Actions() {
				if a.GetVerb() != "get" {
					writes++
				}
			}
			if writes != tc.writes {
				t.Errorf("%s: %d writes, want %d", tc.reason, writes, tc.writes)
			}
		})
	}

	t.Run("NoNode", func(t *testing.T) {
		client := fake.NewClientset()
		wanted := NewNode(NodeConfig{Name: "kip-provider-0"})
		if err := alignTaint(t.Context(), client.CoreV1().Nodes(), wanted); err != nil {
			t.Errorf("a node that is not there yet is made with its taint by the library: %v", err)
		}
		if diff := cmp.Diff([]corev1.Taint{own}, wanted.Spec.Taints); diff != "" {
			t.Error(diff)
		}
	})
}
