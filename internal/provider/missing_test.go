package provider

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/elotl/kip/v2/internal/gateway"
)

func TestMissingIsTold(t *testing.T) {
	cases := map[string]struct {
		reason  string
		missing gateway.Missing
		want    string
	}{
		"Secret":            {"the pod waits", gateway.Missing{Kind: "Secret", Name: "a"}, "Warning MandatorySecretNotFound there is no Secret a; the pod waits for it"},
		"OptionalSecret":    {"nothing is wrong", gateway.Missing{Kind: "Secret", Name: "a", Optional: true}, "Normal OptionalSecretNotFound there is no Secret a; the pod starts without it"},
		"ConfigMap":         {"the pod waits", gateway.Missing{Kind: "ConfigMap", Name: "a"}, "Warning MandatoryConfigMapNotFound there is no ConfigMap a; the pod waits for it"},
		"OptionalConfigMap": {"nothing is wrong", gateway.Missing{Kind: "ConfigMap", Name: "a", Optional: true}, "Normal OptionalConfigMapNotFound there is no ConfigMap a; the pod starts without it"},
		"Attachment": {"somebody must attach it", gateway.Missing{Kind: "VolumeAttachment", Name: "pv-a"}, "Warning VolumeNotAttached volume pv-a is mounted when it is attached to the pod's instance; " +
			"Kip attaches no volumes, and the status of node kip-provider-0 does not say that anybody else has"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			events := record.NewFakeRecorder(1)
			(&Provider{Config: Config{Recorder: events, NodeName: "kip-provider-0"}}).Missing(&corev1.Pod{}, tc.missing)
			if got := <-events.Events; got != tc.want {
				t.Errorf("%s: %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}
