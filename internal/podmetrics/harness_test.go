package podmetrics

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/podmetrics/podmetricstest"
	"github.com/elotl/kip/v2/internal/podmetrics/report"
)

// The pod that a real kubelet answered about.
const (
	realNamespace = podmetricstest.Namespace
	realName      = podmetricstest.Name
	realUID       = podmetricstest.UID
)

// realReport is what the agent of that cell would send, and more: Kip is to
// leave out what is not the pod's. But comments are a section's beginning.
func realReport() report.Report {
	return report.Report{
		Pods: podmetricstest.Pods(), Resource: podmetricstest.Answer("resource.txt"),
		CAdvisor: podmetricstest.Answer("cadvisor.txt"), Probes: podmetricstest.Answer("probes.txt"),
	}
}

// renamed is the report as the cell of another pod would send it.
func renamed(t testing.TB, r report.Report, pod *corev1.Pod) []byte {
	t.Helper()
	data, err := podmetricstest.Renamed(r, pod).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func newPod(namespace, name, uid string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "web"}},
			Volumes: []corev1.Volume{
				{Name: "config", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
				{Name: "secret"},
			},
		},
	}
}

func realPod() *corev1.Pod { return newPod(realNamespace, realName, realUID) }

// harness is a Store whose pods are where the test says.
type harness struct {
	*Store
	clock   *clocktesting.FakeClock
	holders map[types.UID]string
}

func newHarness(t testing.TB) *harness {
	t.Helper()
	h := &harness{clock: clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)), holders: map[types.UID]string{}}
	var err error
	h.Store, err = New(Config{
		NodeName: "kip-provider-0", Memory: 1 << 30, Clock: h.clock, Metrics: prometheus.NewRegistry(),
		Holders: func(context.Context) (map[types.UID]string, error) { return h.holders, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// report has the cell, which has the pod now, report.
func (h *harness) report(t testing.TB, cell string, pod *corev1.Pod, data []byte) {
	t.Helper()
	h.holders[pod.UID] = cell
	if err := h.Report(cell, pod, data); err != nil {
		t.Fatal(err)
	}
}

// used has the cell report what its pod used of CPU, in seconds, and memory, in
// bytes.
func (h *harness) used(t testing.TB, cell string, pod *corev1.Pod, seconds float64, memory uint64) {
	t.Helper()
	nanoseconds := uint64(seconds * 1e9)
	pods, err := json.Marshal([]statsv1alpha1.PodStats{{
		PodRef: statsv1alpha1.PodReference{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)},
		CPU:    &statsv1alpha1.CPUStats{UsageCoreNanoSeconds: &nanoseconds},
		Memory: &statsv1alpha1.MemoryStats{WorkingSetBytes: &memory},
	}})
	if err != nil {
		t.Fatal(err)
	}
	data, err := report.Report{Pods: pods}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	h.report(t, cell, pod, data)
}

// text is what one of the Write methods writes.
func text(t testing.TB, write func(context.Context, *bytes.Buffer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (h *harness) resource(t testing.TB) string {
	return text(t, func(ctx context.Context, b *bytes.Buffer) error { return h.WriteResource(ctx, b) })
}

func (h *harness) cadvisor(t testing.TB) string {
	return text(t, func(ctx context.Context, b *bytes.Buffer) error { return h.WriteCAdvisor(ctx, b) })
}

func (h *harness) probes(t testing.TB) string {
	return text(t, func(ctx context.Context, b *bytes.Buffer) error { return h.WriteProbes(ctx, b) })
}

// parse reads text as Prometheus' own library does. It fails where a family
// has more than one HELP or TYPE.
func parse(t testing.TB, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return families
}

// labels are those of a metric.
func labels(m *dto.Metric) map[string]string {
	set := map[string]string{}
	for _, l := range m.GetLabel() {
		set[l.GetName()] = l.GetValue()
	}
	return set
}
