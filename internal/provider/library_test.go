package provider

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/virtual-kubelet/virtual-kubelet/errdefs"
	vklog "github.com/virtual-kubelet/virtual-kubelet/log"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/config"
)

func TestLibraryCallsOnlyPoke(t *testing.T) {
	w := newWorld(t)
	pod := w.add()
	q := w.takePokes()
	client := podClient{fake.NewClientset().CoreV1().Pods("default"), w.kip, "default"}
	for name, call := range map[string]func() error{
		"create": func() error { return w.kip.CreatePod(t.Context(), pod) },
		"update": func() error { return w.kip.UpdatePod(t.Context(), pod) },
		"delete": func() error { return w.kip.DeletePod(t.Context(), pod) },
		"remove": func() error { return client.Delete(t.Context(), "web", metav1.DeleteOptions{}) },
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := q.drain(); len(got) != 1 || got[0] != testPod {
			t.Errorf("%s poked %v", name, got)
		}
	}
	if len(w.calls) != 0 || w.pod() == nil {
		t.Errorf("calls %q", w.calls)
	}
	if pods, err := w.kip.GetPods(t.Context()); err != nil || pods != nil {
		t.Error("the library would delete these")
	}
	if _, err := w.kip.GetPod(t.Context(), "default", "web"); err != nil {
		t.Error(err)
	}
	if _, err := w.kip.GetPodStatus(t.Context(), "default", "none"); !errdefs.IsNotFound(err) {
		t.Errorf("%v must be the library's NotFound", err)
	}
}

// TestPokesAreNeverLost, however many there are and whoever is slow.
func TestPokesAreNeverLost(t *testing.T) {
	w := newWorld(t)
	w.kip.poke(testPod) // before the reconciler starts: it looks at all pods then
	q := w.takePokes()
	for i := range 5000 {
		w.kip.poke(testPod)
		w.kip.poke(types.NamespacedName{Namespace: "default", Name: fmt.Sprint(i)})
	}
	if n := len(q.drain()); n != 5001 {
		t.Errorf("%d pods are looked at, want 5001", n)
	}
}

// TestStatusIsWrittenOntoTheNewestPod: between Kip's word and its writing
// others may have changed the pod.
func TestStatusIsWrittenOntoTheNewestPod(t *testing.T) {
	const gate = corev1.PodConditionType("example.com/gate")
	w := newWorld(t)
	w.add()
	old := w.pod()
	old.Status = statusOf(corev1.PodRunning)
	old.Status.Conditions = append(old.Status.Conditions, cond(v1beta1.PodConditionCellReady, corev1.ConditionTrue), cond(gate, corev1.ConditionFalse))

	w.annotate("example.com/note", "new")
	now := w.pod()
	now.Status.Conditions = append(now.Status.Conditions, cond(gate, corev1.ConditionTrue), cond(v1beta1.PodConditionCellReady, corev1.ConditionFalse))
	if err := w.api.Status().Update(t.Context(), now); err != nil {
		t.Fatal(err)
	}

	set := fake.NewClientset(w.pod())
	var sent *corev1.Pod
	set.PrependReactor("update", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "status" {
			t.Errorf("%s of %q", a.GetVerb(), a.GetSubresource())
		}
		sent = a.(k8stesting.UpdateAction).GetObject().(*corev1.Pod)
		return false, nil, nil
	})
	c := podsGetter{set.CoreV1(), w.kip}.Pods("default")
	if _, err := c.UpdateStatus(t.Context(), old, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if sent.ResourceVersion != w.pod().ResourceVersion || sent.Annotations["example.com/note"] != "new" {
		t.Errorf("written onto version %s with %v", sent.ResourceVersion, sent.Annotations)
	}
	got := map[corev1.PodConditionType]corev1.ConditionStatus{}
	for _, c := range sent.Status.Conditions {
		got[c.Type] = c.Status
	}
	want := map[corev1.PodConditionType]corev1.ConditionStatus{
		gate: corev1.ConditionTrue, v1beta1.PodConditionCellReady: corev1.ConditionTrue, corev1.PodReady: corev1.ConditionTrue, corev1.ContainersReady: corev1.ConditionTrue,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if sent.Status.Phase != corev1.PodRunning {
		t.Errorf("phase %s", sent.Status.Phase)
	}
}

func TestStatusIsNotWritten(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		happen func(*world)
	}{
		"pod gone": {"there is nothing to write to", func(w *world) { w.stalePods = true }},
		"pod anew": {"it is another pod's status", func(w *world) { _ = w.api.Delete(w.t.Context(), w.pod()); w.add(func(p *corev1.Pod) { p.UID = "x" }) }},
		"pod finished": {"a final status stands", func(w *world) {
			p := w.pod()
			p.Status.Phase = corev1.PodFailed
			_ = w.api.Status().Update(w.t.Context(), p)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.add()
			old := w.pod()
			tc.happen(w)
			set := fake.NewClientset()
			if _, err := (podsGetter{set.CoreV1(), w.kip}).Pods("default").UpdateStatus(t.Context(), old, metav1.UpdateOptions{}); err != nil {
				t.Error(err)
			}
			if len(set.Actions()) != 0 {
				t.Errorf("%s: %v", tc.reason, set.Actions())
			}
		})
	}
}

func TestConflictIsLeftToTheReconciler(t *testing.T) {
	w := newWorld(t)
	pod := w.add()
	q := w.takePokes()
	set := fake.NewClientset()
	var answer error = apierrors.NewConflict(corev1.Resource("pods"), "web", errors.New("changed"))
	set.PrependReactor("update", "pods", func(k8stesting.Action) (bool, runtime.Object, error) { return true, nil, answer })
	c := podsGetter{set.CoreV1(), w.kip}.Pods("default")
	if _, err := c.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Errorf("the library would count this as a failure: %v", err)
	}
	if got := q.drain(); len(got) != 0 {
		t.Errorf("poked %v: the cache may be behind for long, and the API server would be asked all the time", got)
	}
	if _, err := c.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil || len(set.Actions()) != 1 {
		t.Errorf("the same version is written again: %v, %v", set.Actions(), err)
	}
	w.annotate("example.com/note", "new")
	answer = apierrors.NewInternalError(errors.New("away"))
	if _, err := c.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err == nil {
		t.Error("the library must try again")
	}
}

func TestLibraryNeverForgetsAPod(t *testing.T) {
	if at, err := retryForEver(t.Context(), "default/web", 1000, time.Now(), errors.New("again")); at != nil || err != nil {
		t.Errorf("%v, %v", at, err)
	}
	r := rateLimiter[string]()
	var last time.Duration
	for range 50 {
		last = r.When("default/web")
	}
	if last != 15*time.Second || r.When("default/other") > 10*time.Millisecond {
		t.Errorf("backs off %s for one pod, and makes another wait", last)
	}
}

func TestLibraryLog(t *testing.T) {
	var out bytes.Buffer
	log := libraryLog{slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	l := log.WithField("key", "default/web").WithFields(vklog.Fields{"n": 1, "nil": nil}).WithError(errors.New("cause"))
	for name, tc := range map[string]struct {
		call func()
		want string
	}{
		"error first":     {func() { l.Error(errors.New("boom")) }, `level=ERROR msg=boom`},
		"nothing":         {func() { l.Error() }, `level=ERROR msg=""`},
		"nil error":       {func() { l.Error(error(nil)) }, `level=ERROR msg=<nil>`},
		"nil pointer":     {func() { l.Warn((*stringer)(nil)) }, `level=WARN`},
		"numbers":         {func() { l.Info(1, 2, []int{3}) }, `level=DEBUG msg="1 2 [3]"`},
		"format":          {func() { l.Errorf("%s %d", "a", 1) }, `level=ERROR msg="a 1"`},
		"bad format":      {func() { l.Warnf("%d", "a") }, `level=WARN msg="%!d(string=a)"`},
		"no end of Kip":   {func() { l.Fatal("x") }, `level=ERROR msg=x`},
		"no end, format":  {func() { l.Fatalf("x%d", 1) }, `level=ERROR msg=x1`},
		"debug":           {func() { l.Debug("d") }, `level=DEBUG msg=d`},
		"debug, format":   {func() { l.Debugf("d%d", 1) }, `level=DEBUG msg=d1`},
		"info, format":    {func() { l.Infof("i") }, `level=DEBUG msg=i`},
		"an empty format": {func() { l.Infof("") }, `level=DEBUG msg=""`},
	} {
		out.Reset()
		tc.call()
		if got := out.String(); !strings.Contains(got, tc.want) || !strings.Contains(got, "key=default/web") || !strings.Contains(got, "err=cause") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

type stringer struct{ text string }

func (s *stringer) String() string { return s.text }

func TestQuietRecorder(t *testing.T) {
	w := newWorld(t)
	r := quietRecorder{w.events}
	r.Event(nil, "Normal", "ProviderCreateSuccess", "x")
	r.Eventf(nil, "Normal", "ProviderCreateSuccess", "x")
	w.wantEvents()
}

func TestNode(t *testing.T) {
	node := NewNode(NodeConfig{Name: testNode, IP: "10.0.0.1", Port: 10250, KubernetesVersion: "v1.36.3",
		Kubelet: config.Kubelet{Labels: map[string]string{"team": "a"}, Capacity: corev1.ResourceList{"nvidia.com/gpu": resource.MustParse("4")}}})
	if node.Labels["type"] != "virtual-kubelet" || node.Labels["team"] != "a" {
		t.Errorf("labels %v", node.Labels)
	}
	if !strings.HasPrefix(node.Spec.ProviderID, "kip://") {
		t.Errorf("provider ID %q: a cloud controller may delete the node", node.Spec.ProviderID)
	}
	if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != TaintKey {
		t.Errorf("taints %v", node.Spec.Taints)
	}
	if gpus := node.Status.Allocatable["nvidia.com/gpu"]; gpus.String() != "4" {
		t.Errorf("allocatable %v", node.Status.Allocatable)
	}
	// Without it no pod that requests or limits storage could be scheduled.
	if storage := node.Status.Allocatable[corev1.ResourceEphemeralStorage]; storage.IsZero() {
		t.Errorf("allocatable %v", node.Status.Allocatable)
	}
	if node.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 || node.Status.Addresses[0].Address != "10.0.0.1" {
		t.Errorf("status %+v", node.Status)
	}
	for _, c := range node.Status.Conditions {
		if (c.Type == corev1.NodeReady) != (c.Status == corev1.ConditionTrue) {
			t.Errorf("%+v", c)
		}
	}
}
