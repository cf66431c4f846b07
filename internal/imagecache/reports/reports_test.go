package reports

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
)

func TestReport(t *testing.T) {
	const image = "docker.io/library/app:1"
	events := record.NewFakeRecorder(1)
	r, err := New(events, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range grant.Reasons {
		r.Report(&corev1.Pod{}, grant.Report{Image: image, Reason: reason, Message: "why it is so"})
		got := <-events.Events
		want := "Warning ImageCacheFailed"
		if reason == grant.NotCached {
			want = "Normal ImageCacheMissed"
		}
		if !strings.HasPrefix(got, want) || !strings.Contains(got, image) || (reason != grant.NotCached && !strings.Contains(got, "why it is so")) {
			t.Errorf("%s: event %q, want %s", reason, got, want)
		}
		if n := testutil.ToFloat64(r.reasons.WithLabelValues(reason)); n != 1 {
			t.Errorf("%s was counted %v times", reason, n)
		}
	}
}
