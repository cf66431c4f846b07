package podmetrics

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/elotl/kip/v2/internal/podmetrics/report"
)

// TestReportsAreMerged: the reports of two real cells make one answer of one
// node, in which no family comes twice.
func TestReportsAreMerged(t *testing.T) {
	h := newHarness(t)
	r := realReport()
	pods := []string{"shop/b", "shop/a", "bank/c"}
	for i, name := range pods {
		namespace, name, _ := strings.Cut(name, "/")
		pod := newPod(namespace, name, fmt.Sprintf("uid-%d", i))
		h.report(t, fmt.Sprintf("cell-%d", i), pod, renamed(t, r, pod))
	}
	slices.Sort(pods)

	for path, text := range map[string]string{"resource": h.resource(t), "cadvisor": h.cadvisor(t), "probes": h.probes(t)} {
		one := map[string]string{"resource": r.Resource, "cadvisor": r.CAdvisor, "probes": r.Probes}[path]
		seen := map[string]int{}
		for name, family := range parse(t, text) { // refuses a second HELP or TYPE
			for _, m := range family.GetMetric() {
				l := labels(m)
				if l["pod"] == "" && !strings.HasPrefix(name, "node_") {
					t.Errorf("%s: %s is about no pod", path, name)
				}
				seen[l["namespace"]+"/"+l["pod"]]++
			}
		}
		delete(seen, "/")
		for _, pod := range pods {
			if want := strings.Count(one, `pod="`+realName+`"`); seen[pod] == 0 || path != "probes" && seen[pod] != want {
				t.Errorf("%s: %d series of %s, and its kubelet has %d", path, seen[pod], pod, want)
			}
		}
		if len(seen) != len(pods) {
			t.Errorf("%s: series of %v", path, seen)
		}
	}

	summary, err := h.Summary(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range summary.Pods {
		names = append(names, p.PodRef.Namespace+"/"+p.PodRef.Name)
		if len(p.Containers) != 1 || p.Containers[0].Rootfs == nil || p.Network == nil || p.EphemeralStorage == nil {
			t.Errorf("%s lost some of its stats: %+v", p.PodRef.Name, p)
		}
		// kube-api-access-… is no volume of this pod's specification, and
		// "config" is a claim there.
		if len(p.VolumeStats) != 2 || p.VolumeStats[0].PVCRef == nil || *p.VolumeStats[0].PVCRef != (statsv1alpha1.PVCReference{Namespace: p.PodRef.Namespace, Name: "data"}) || p.VolumeStats[1].PVCRef != nil {
			t.Errorf("%s: volumes %+v", p.PodRef.Name, p.VolumeStats)
		}
	}
	if diff := cmp.Diff(pods, names); diff != "" {
		t.Errorf("pods, in the order of their names (-want +got)\n%s", diff)
	}
	node := summary.Node
	const ofOne = 2514944 // working set in summary.json
	if node.NodeName != "kip-provider-0" || value(node.Memory.WorkingSetBytes) != 3*ofOne || value(node.Memory.AvailableBytes) != 1<<30-3*ofOne || value(node.CPU.UsageNanoCores) != 3*695607 {
		t.Errorf("the node is not the sum of its pods: %+v %+v", node.CPU, node.Memory)
	}
	if only, err := h.Summary(t.Context(), true); err != nil || len(only.Pods) != 3 || only.Pods[0].Network != nil || only.Pods[0].CPU == nil || only.Pods[0].Containers[0].Memory == nil || only.Pods[0].Containers[0].Rootfs != nil {
		t.Errorf("only CPU and memory: %+v, %v", only, err)
	}
}

func TestReportsThatAreNone(t *testing.T) {
	h := newHarness(t)
	encode := func(pods string) []byte {
		data, err := report.Report{Pods: []byte(pods)}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, tc := range map[string]struct {
		reason string
		data   []byte
	}{
		"Damaged":   {"no gzip", []byte("x")},
		"NoPods":    {"no list", encode(`{}`)},
		"Empty":     {"its pod is not in it", encode(`[]`)},
		"AnotherID": {"a pod of that name, and another one", encode(`[{"podRef":{"namespace":"default","name":"` + realName + `","uid":"x"}}]`)},
		"Another":   {"another cell's pod", encode(`[{"podRef":{"namespace":"kube-system","name":"dns","uid":"y"}}]`)},
	} {
		h.holders[realUID] = "cell-1"
		if err := h.Report("cell-1", realPod(), tc.data); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s (%s): %v", name, tc.reason, err)
		}
	}
	if got := h.resource(t) + h.cadvisor(t) + h.probes(t); got != "" {
		t.Errorf("answers became of it: %s", got)
	}
}

// TestStatsOfACell: a cell can report of its own containers only.
func TestStatsOfACell(t *testing.T) {
	pod := realPod()
	stats, err := ownStats([]byte(`[{"podRef":{"name":"other","namespace":"default","uid":"z"}},
		{"podRef":{"name":"`+realName+`","namespace":"default","uid":"`+realUID+`"},
		"containers":[{"name":"web","userDefinedMetrics":[{"name":"x","type":"gauge","units":"y"}]},{"name":"web"},{"name":"stranger"}],
		"volume":[{"name":"secret","pvcRef":{"name":"theirs","namespace":"bank"}},{"name":"stranger"}]}]`), pod)
	if err != nil {
		t.Fatal(err)
	}
	want := &statsv1alpha1.PodStats{
		PodRef:      statsv1alpha1.PodReference{Name: realName, Namespace: "default", UID: realUID},
		Containers:  []statsv1alpha1.ContainerStats{{Name: "web"}},
		VolumeStats: []statsv1alpha1.VolumeStats{{Name: "secret"}},
	}
	if diff := cmp.Diff(want, stats); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestReportsEnd(t *testing.T) {
	pod, other := newPod("shop", "web", "uid-1"), newPod("shop", "other", "uid-2")
	r := realReport()
	shown := func(h *harness) string {
		var names []string
		for _, m := range parse(t, h.resource(t))["pod_memory_working_set_bytes"].GetMetric() {
			names = append(names, labels(m)["pod"])
		}
		return strings.Join(names, " ")
	}
	for name, tc := range map[string]struct {
		reason string
		then   func(*harness)
		want   string
	}{
		"Current": {"four reports are due in a minute", func(h *harness) { h.clock.Step(expiry) }, "other web"},
		"Silent": {"what a cell said a minute ago is not what is", func(h *harness) {
			h.clock.Step(expiry / 2)
			h.report(t, "cell-2", other, renamed(t, r, other))
			h.clock.Step(expiry/2 + time.Second)
		}, "other"},
		"Gone":    {"a cell that has no pod now is gone at once", func(h *harness) { delete(h.holders, pod.UID) }, "other"},
		"Moved":   {"another cell has the pod, and has not reported", func(h *harness) { h.holders[pod.UID] = "cell-3" }, "other"},
		"Arrived": {"and then it has", func(h *harness) { h.report(t, "cell-3", pod, renamed(t, r, pod)) }, "other web"},
		"Renewed": {"a new pod of the same cell's name", func(h *harness) {
			delete(h.holders, pod.UID)
			h.holders["uid-9"] = "cell-1"
		}, "other"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.report(t, "cell-1", pod, renamed(t, r, pod))
			h.report(t, "cell-2", other, renamed(t, r, other))
			tc.then(h)
			if got := shown(h); got != tc.want {
				t.Errorf("%s: shown are %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}

func TestExpiredReportsAreGivenUp(t *testing.T) {
	h := newHarness(t)
	pod := newPod("shop", "web", "uid-1")
	h.used(t, "cell-1", pod, 1, 1)
	h.clock.Step(expiry)
	h.used(t, "cell-2", pod, 1, 1)
	h.sweep()
	if n := h.count(); n != 2 {
		t.Errorf("%d reports are kept, want both", n)
	}
	h.clock.Step(time.Second)
	h.sweep()
	if n := h.count(); n != 1 {
		t.Errorf("%d reports are kept, want the young one", n)
	}
}

// TestNodesCPUTime: what the node used is a counter. It takes part of no pod's
// end, and of nothing that was before Kip began.
func TestNodesCPUTime(t *testing.T) {
	type step struct {
		cell, pod string
		seconds   float64
	}
	const interval = 15 * time.Second
	for name, tc := range map[string]struct {
		reason string
		young  bool // the pods were made after Kip began
		steps  []step
		want   float64
	}{
		"New":       {"all that a pod used since it was made", true, []step{{"c1", "a", 2}, {"c1", "a", 5}}, 5},
		"Restarted": {"of a pod that ran before Kip began only what it uses now", false, []step{{"c1", "a", 7200}, {"c1", "a", 7203}}, 3},
		"Two":       {"the sum", true, []step{{"c1", "a", 2}, {"c2", "b", 3}, {"c1", "a", 4}}, 7},
		"Moved":     {"the next cell's pod begins at zero, and that is no loss", true, []step{{"c1", "a", 10}, {"c2", "a", 1}}, 11},
		"Backwards": {"a counter that was reset", true, []step{{"c1", "a", 10}, {"c1", "a", 1}, {"c1", "a", 2}}, 11},
		"Absurd":    {"more than an instance can use counts as what it could", true, []step{{"c1", "a", 0}, {"c1", "a", 1e9}}, maxCores * interval.Seconds()},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			created := metav1.NewTime(h.clock.Now().Add(-time.Hour))
			if tc.young {
				created = metav1.NewTime(h.clock.Now().Add(time.Second))
			}
			for _, s := range tc.steps {
				h.clock.Step(interval)
				pod := newPod("shop", s.pod, "uid-"+s.pod)
				pod.CreationTimestamp = created
				h.used(t, s.cell, pod, s.seconds, 1<<20)
			}
			clear(h.holders) // all pods end, and nothing is taken back
			m := parse(t, h.resource(t))["node_cpu_usage_seconds_total"].GetMetric()[0]
			if got := m.GetCounter().GetValue(); got != tc.want {
				t.Errorf("%s: %v s, want %v", tc.reason, got, tc.want)
			}
			if m.GetTimestampMs() != h.clock.Now().UnixMilli() {
				t.Errorf("its time is %d, want that of the last report", m.GetTimestampMs())
			}
		})
	}
}

func TestNothingReported(t *testing.T) {
	h := newHarness(t)
	if got := h.resource(t); got != "" {
		t.Errorf("a node of which nothing is known says %s", got)
	}
	summary, err := h.Summary(t.Context(), false)
	if err != nil || summary.Node.NodeName != "kip-provider-0" || summary.Node.CPU != nil || summary.Pods == nil {
		t.Errorf("%+v, %v; lists are not null", summary, err)
	}
}
