package kip

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func TestImageCacheFilled(t *testing.T) {
	held := func(holder string, ago time.Duration) *coordinationv1.LeaseSpec {
		return &coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: ptr.To(int32(15)), RenewTime: &metav1.MicroTime{Time: time.Now().Add(-ago)},
		}
	}
	for name, tc := range map[string]struct {
		reason string
		node   string
		lease  *coordinationv1.LeaseSpec
		want   bool
	}{
		"Works":    {"it renews its lease", "kip-provider-0", held("a", time.Second), true},
		"Another":  {"it does not see this node's pods", "kip-provider-1", held("a", time.Second), false},
		"Died":     {"nobody has taken over yet", "kip-provider-0", held("a", time.Minute), false},
		"Released": {"it has ended in order", "kip-provider-0", held("", time.Second), false},
		"New":      {"nobody has held it", "kip-provider-0", &coordinationv1.LeaseSpec{}, false},
		"None":     {"there is no image cache", "kip-provider-0", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			set := fake.NewClientset()
			if tc.lease != nil {
				lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kip", Name: imageCacheSecret, Labels: map[string]string{v1beta1.LabelNode: tc.node}}, Spec: *tc.lease}
				if err := set.Tracker().Add(lease); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := imageCacheFilled(t.Context(), set, "kip", "kip-provider-0"); err != nil || got != tc.want {
				t.Errorf("%s: %t, %v", tc.reason, got, err)
			}
		})
	}
}
