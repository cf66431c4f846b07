package provider

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/gateway"
)

func TestGatewaySeesTheCell(t *testing.T) {
	w := newWorld(t)
	w.add(func(p *corev1.Pod) { p.Annotations["pod.elotl.co/volume-size"] = "20Gi" })
	w.must()
	name := w.cell().Name
	if _, ok := w.kip.Cell(name); ok {
		t.Error("a cell without an instance is shown")
	}
	if _, ok := w.kip.Cell("other"); ok {
		t.Error("a cell that does not exist is shown")
	}
	w.lifecycle(enrolled)
	got, ok := w.kip.Cell(name)
	if !ok || got.PodUID != testUID || got.NodeName != testNode || got.InternalIP != "10.0.0.4" || got.PodIP != "10.0.0.5" {
		t.Errorf("%+v, %t", got, ok)
	}
	if cpu, pods := got.Capacity[corev1.ResourceCPU], got.Capacity[corev1.ResourcePods]; cpu.String() != "2" || pods.String() != "1" {
		t.Errorf("capacity %v", got.Capacity)
	}
	if disk := got.Capacity[corev1.ResourceEphemeralStorage]; disk.String() != "20Gi" {
		t.Errorf("disk %s", disk.String())
	}
	for label, want := range map[string]string{
		corev1.LabelInstanceTypeStable: "t3.nano", corev1.LabelTopologyZone: "us-west-2a", corev1.LabelTopologyRegion: "us-west-2",
		LabelCapacityType: "on-demand", "type": "virtual-kubelet", corev1.LabelHostname: testNode,
	} {
		if got.Labels[label] != want {
			t.Errorf("label %s=%q, want %q", label, got.Labels[label], want)
		}
	}

	pod := w.kip.Pod(name)
	if pod == nil || pod.UID != testUID || pod.Kind != "Pod" || pod.APIVersion != "v1" {
		t.Fatalf("pod %+v", pod)
	}
	w.deaf = true
	w.report(statusOf(corev1.PodRunning))
	if w.kip.Pod(name).Status.Phase != corev1.PodRunning || w.pod().Status.Phase != corev1.PodPending {
		t.Error("the newest status is the one that was reported")
	}
	other := w.cell()
	other.Spec.NodeName = "kip-provider-1"
	if err := w.api.Update(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.kip.Cell(name); ok || w.kip.Pod(name) != nil {
		t.Error("another node's cell is shown")
	}
}

// TestInstanceLabelsAreTheInstances: by these labels the pod chose its instance,
// so that its kubelet admits it with them, whatever the virtual node says.
func TestInstanceLabelsAreTheInstances(t *testing.T) {
	w := newWorld(t)
	w.kip.NodeLabels = map[string]string{
		corev1.LabelArchStable: "amd64", "beta.kubernetes.io/arch": "amd64", corev1.LabelTopologyZone: "us-west-2b",
		corev1.LabelTopologyRegion: "here", "team": "blue",
	}
	w.add()
	w.must()
	w.lifecycle(func(c *v1beta1.Cell) { enrolled(c); c.Status.Launch.Architecture = "arm64" })
	got, _ := w.kip.Cell(w.cell().Name)
	for label, want := range map[string]string{
		corev1.LabelArchStable: "arm64", "beta.kubernetes.io/arch": "arm64", corev1.LabelTopologyZone: "us-west-2a",
		corev1.LabelTopologyRegion: "here", "team": "blue",
	} {
		if got.Labels[label] != want {
			t.Errorf("label %s=%q, want %q", label, got.Labels[label], want)
		}
	}
	if _, ok := got.Labels[corev1.LabelFailureDomainBetaZone]; ok {
		t.Error("an old name is shown only where the virtual node has it")
	}
}

// TestGatewayIsNotToldThatAPodIsGoneBeforeItIs: a kubelet that sees no pod ends
// it.
func TestGatewayIsNotToldThatAPodIsGoneBeforeItIs(t *testing.T) {
	w := newWorld(t)
	w.running()
	name := w.cell().Name
	w.stalePods = true
	if _, ok := w.kip.Cell(name); ok {
		t.Error("Kip does not know the pod, and says that it knows the cell")
	}
	if _, err := w.reconcile(); err == nil {
		t.Error("the API server knows the pod")
	}
	if _, ok := w.kip.Cell(name); ok {
		t.Error("still not")
	}
	w.stalePods = false
	if _, ok := w.kip.Cell(name); !ok || w.kip.Pod(name) == nil {
		t.Error("the cache caught up")
	}

	changed, cancel := w.kip.Subscribe(name)
	defer cancel()
	if err := w.api.Delete(t.Context(), w.pod()); err != nil {
		t.Fatal(err)
	}
	w.must() // asks the API server itself
	if got, ok := w.kip.Cell(name); !ok || got.PodUID != testUID || w.kip.Pod(name) != nil {
		t.Errorf("the pod is gone for sure: %+v, %t", got, ok)
	}
	if !poked(changed) {
		t.Error("the watch was not woken")
	}
}

func TestStandbyCell(t *testing.T) {
	w := newWorld(t)
	cell := &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: "standby"}, Spec: v1beta1.CellSpec{NodeName: testNode}}
	enrolled(cell)
	if err := w.api.Create(t.Context(), cell); err != nil {
		t.Fatal(err)
	}
	if got, ok := w.kip.Cell("standby"); !ok || got.PodUID != "" || w.kip.Pod("standby") != nil {
		t.Errorf("%+v, %t", got, ok)
	}
	if _, err := w.kip.SetPodStatus(t.Context(), "standby", testUID, statusOf(corev1.PodRunning)); err == nil {
		t.Error("a standby cell has no pod to report of")
	}
}

func poked(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func TestSubscribe(t *testing.T) {
	w := newWorld(t)
	w.running()
	cell := w.cell()
	one, cancelOne := w.kip.Subscribe(cell.Name)
	two, cancelTwo := w.kip.Subscribe(cell.Name)
	other, cancelOther := w.kip.Subscribe("other")
	handlers := handlerOf(w.kip.podChanged, func(pod *corev1.Pod) { w.kip.forget(pod.UID) })
	cells := handlerOf(w.kip.cellChanged, w.kip.cellGone)
	pod := w.pod()
	again := pod.DeepCopy()
	again.UID = "another"
	for name, happen := range map[string]func(){
		"pod added":         func() { handlers.OnAdd(pod, true) },
		"pod changed":       func() { handlers.OnUpdate(pod, pod) },
		"pod replaced":      func() { handlers.OnUpdate(pod, again) },
		"pod deleted":       func() { handlers.OnDelete(pod) },
		"pod deletion lost": func() { handlers.OnDelete(cache.DeletedFinalStateUnknown{Obj: pod}) },
		"cell changed":      func() { cells.OnUpdate(cell, cell) },
		"status reported":   func() { w.report(statusOf(corev1.PodRunning)) },
	} {
		happen()
		if !poked(one) || !poked(two) {
			t.Errorf("%s: a watch was not woken", name)
		}
		if poked(other) {
			t.Errorf("%s: a stranger was woken", name)
		}
	}
	for range 3 { // nobody looks: it must not block
		cells.OnUpdate(cell, cell)
	}
	cells.OnDelete(cell)
	if !poked(one) {
		t.Error("the cell's end woke nobody")
	}
	cancelOne()
	cancelOne()
	cells.OnUpdate(cell, cell)
	if poked(one) {
		t.Error("woken after cancel")
	}
	cancelTwo()
	cancelOther()
	if n := len(w.kip.watchers); n != 0 {
		t.Errorf("%d watchers leak", n)
	}
}

// TestNothingIsKeptOfWhatIsGone: memory, and logs on disk.
func TestNothingIsKeptOfWhatIsGone(t *testing.T) {
	gone := map[string]func(*world, *corev1.Pod){
		"deleted": func(w *world, pod *corev1.Pod) {
			handlerOf(w.kip.podChanged, func(pod *corev1.Pod) { w.kip.forget(pod.UID) }).OnDelete(pod)
		},
		"replaced while the watch was broken": func(w *world, pod *corev1.Pod) {
			again := pod.DeepCopy()
			again.UID = "another"
			handlerOf(w.kip.podChanged, func(pod *corev1.Pod) { w.kip.forget(pod.UID) }).OnUpdate(pod, again)
		},
		"noted down after it was forgotten": func(w *world, _ *corev1.Pod) {
			if err := w.kip.sweep(w.t.Context()); err != nil {
				w.t.Fatal(err)
			}
		},
	}
	for name, happen := range gone {
		t.Run(name, func(t *testing.T) {
			w := finishedPod(t)
			w.settle()
			pod := w.pod()
			w.terminated()
			if err := w.api.Delete(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
			happen(w, pod)
			w.must()
			if w.logs.Has(testUID) || len(w.kip.records) != 0 || len(w.kip.cells) != 0 || len(w.kip.gone) != 0 {
				t.Errorf("logs %t, records %v, cells %v, gone %v", w.logs.Has(testUID), w.kip.records, w.kip.cells, w.kip.gone)
			}
		})
	}
}

func TestSweepKeepsWhatIsNeeded(t *testing.T) {
	w := finishedPod(t)
	w.settle()
	done := make(chan error)
	go func() { done <- w.kip.Sweep(t.Context()) }()
	for !w.clock.HasWaiters() {
		time.Sleep(time.Millisecond)
	}
	if !w.logs.Has(testUID) || len(w.kip.records) != 1 {
		t.Error("what is known of a pod that exists was forgotten")
	}
	if err := w.api.Delete(t.Context(), w.pod()); err != nil {
		t.Fatal(err)
	}
	w.clock.Step(sweepInterval)
	for w.logs.Has(testUID) {
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-done:
		t.Errorf("it must go on: %v", err)
	default:
	}
}

func TestReportsAreOfOwnPodsOnly(t *testing.T) {
	w := newWorld(t)
	w.running()
	name := w.cell().Name
	for reason, call := range map[string]func() error{
		"another UID":    func() error { _, err := w.kip.SetPodStatus(t.Context(), name, "x", corev1.PodStatus{}); return err },
		"another cell":   func() error { _, err := w.kip.SetPodStatus(t.Context(), "x", testUID, corev1.PodStatus{}); return err },
		"end of another": func() error { return w.kip.PodTerminated(t.Context(), name, "x") },
		"end elsewhere":  func() error { return w.kip.PodTerminated(t.Context(), "x", testUID) },
	} {
		if call() == nil {
			t.Errorf("%s: taken", reason)
		}
	}
	w.lifecycle(gone)
	if _, err := w.kip.SetPodStatus(t.Context(), name, testUID, statusOf(corev1.PodRunning)); err == nil {
		t.Error("news of an instance that is gone were taken")
	}
	if err := w.api.Delete(t.Context(), w.pod()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.kip.SetPodStatus(t.Context(), name, testUID, statusOf(corev1.PodRunning)); err == nil {
		t.Error("news of a pod that is gone were taken")
	}
}

func TestInterruptionIsTold(t *testing.T) {
	w := newWorld(t)
	w.running()
	w.told()
	i := gateway.Interruption{Kind: gateway.SpotInterruption, Action: "terminate", Time: w.clock.Now()}
	if err := w.kip.Interruption(t.Context(), w.cell().Name, i); err != nil {
		t.Fatal(err)
	}
	w.wantEvents("CellInterruption")
	if err := w.kip.Interruption(t.Context(), "unknown", i); err != nil {
		t.Fatal(err)
	}
	w.wantEvents()
}

func TestCellOfPod(t *testing.T) {
	w := newWorld(t)
	if pod, cell := w.kip.CellOfPod(t.Context(), "default", "web"); pod != nil || cell != "" {
		t.Error("found what is not there")
	}
	w.add()
	if pod, cell := w.kip.CellOfPod(t.Context(), "default", "web"); pod == nil || cell != "" {
		t.Errorf("pod %v, cell %q", pod, cell)
	}
	w.must()
	if _, cell := w.kip.CellOfPod(t.Context(), "default", "web"); cell != w.cell().Name {
		t.Errorf("cell %q", cell)
	}
	if holders, err := w.kip.Holders(t.Context()); err != nil || len(holders) != 1 || holders[testUID] != w.cell().Name {
		t.Errorf("holders %v, %v", holders, err)
	}
	pods, err := w.kip.Pods(t.Context())
	if err != nil || len(pods.Items) != 1 || pods.Kind != "PodList" {
		t.Errorf("%+v, %v", pods, err)
	}
}

// TestPodsAreAsTheirKubeletsSay: somebody who has seen the pod run in the API
// server finds it running at the node, though Kip's cache has not heard of it.
func TestPodsAreAsTheirKubeletsSay(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.must()
	w.lifecycle(enrolled)
	w.report(statusOf(corev1.PodRunning))
	pods, err := w.kip.Pods(t.Context())
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("%+v, %v", pods, err)
	}
	got := pods.Items[0].Status
	if got.Phase != corev1.PodRunning || len(got.ContainerStatuses) != 1 || got.ContainerStatuses[0].State.Running == nil {
		t.Errorf("%+v", got)
	}
}
