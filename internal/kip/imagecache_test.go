package kip

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func TestImageCacheFilled(t *testing.T) {
	held := func(holder string, ago time.Duration) *coordinationv1.LeaseSpec {
		return &coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: ptr.To(int32(15)), RenewTime: &metav1.MicroTime{Time: time.Now().Add(-ago)},
		}
	}
	for name, tc := range map[string]struct {
		reason string
		lease  *coordinationv1.LeaseSpec
		want   bool
	}{
		"Works":    {"it renews its lease", held("a", time.Second), true},
		"Died":     {"nobody has taken over yet", held("a", time.Minute), false},
		"Released": {"it has ended in order", held("", time.Second), false},
		"New":      {"nobody has held it", &coordinationv1.LeaseSpec{}, false},
		"None":     {"there is no image cache", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			set := fake.NewClientset()
			if tc.lease != nil {
				lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "kip", Name: imageCacheSecret}, Spec: *tc.lease}
				if err := set.Tracker().Add(lease); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := imageCacheFilled(t.Context(), set, "kip"); err != nil || got != tc.want {
				t.Errorf("%s: %t, %v", tc.reason, got, err)
			}
		})
	}
}
