package gateway_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/gateway"
)

func podEvent(name string) *corev1.Event {
	at := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: name, Namespace: ns, Labels: map[string]string{"a": "b"}, Finalizers: []string{"kip.elotl.co/x"}},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: ns, Name: "web", UID: webPod().UID, ResourceVersion: "77", FieldPath: "spec.containers{web}"},
		Reason:         "Started", Message: "Started container web", Type: "Normal",
		Source:         corev1.EventSource{Component: "scheduler", Host: "control-plane"},
		FirstTimestamp: at, LastTimestamp: at, Count: 1,
		ReportingController: "admin", ReportingInstance: "elsewhere",
		Related: &corev1.ObjectReference{Kind: "Secret", Name: "other"},
	}
}

func TestEventIsMadeAnew(t *testing.T) {
	for _, protobuf := range []bool{false, true} {
		h := newHarness(t)
		h.State.Bind(cell, webPod())
		told := podEvent("web.1")
		told.Message = strings.Repeat("é", 2000)
		if _, err := h.client(t, protobuf).CoreV1().Events(ns).Create(t.Context(), told, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		requests := h.Upstream.Requests()
		if len(requests) != 1 || requests[0].Path != "/api/v1/namespaces/shop/events" {
			t.Fatalf("at the API server: %v", requests)
		}
		var got corev1.Event
		if err := json.Unmarshal([]byte(requests[0].Body), &got); err != nil {
			t.Fatal(err)
		}
		want := podEvent("web.1")
		want.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}
		want.Labels, want.Finalizers, want.Related = nil, nil, nil
		want.InvolvedObject.ResourceVersion = ""
		want.Message = strings.Repeat("é", 512)
		want.Source = corev1.EventSource{Component: "kubelet", Host: node}
		want.ReportingController, want.ReportingInstance = "kubelet", node
		if diff := cmp.Diff(want, &got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

func TestEventOutcomes(t *testing.T) {
	cases := map[string]struct {
		reason    string
		namespace string
		change    func(*corev1.Event)
		check     func(error) bool
		sent      bool
	}{
		"OwnPod":         {"about its pod", ns, func(*corev1.Event) {}, func(err error) bool { return err == nil }, true},
		"OddField":       {"with a field path that is none", ns, func(e *corev1.Event) { e.InvolvedObject.FieldPath = "spec.containers{<b>}" }, func(err error) bool { return err == nil }, true},
		"OtherPod":       {"about another pod", ns, func(e *corev1.Event) { e.InvolvedObject.Name = "api" }, apierrors.IsForbidden, false},
		"OtherUID":       {"about an earlier pod of the name", ns, func(e *corev1.Event) { e.InvolvedObject.UID = "x" }, apierrors.IsForbidden, false},
		"OtherKind":      {"about a Secret", ns, func(e *corev1.Event) { e.InvolvedObject.Kind = "Secret" }, apierrors.IsForbidden, false},
		"OtherVersion":   {"about a Pod of another API", ns, func(e *corev1.Event) { e.InvolvedObject.APIVersion = "evil/v1" }, apierrors.IsForbidden, false},
		"OtherNamespace": {"elsewhere", "bank", func(e *corev1.Event) { e.Namespace = "bank" }, apierrors.IsForbidden, false},
		"Type":           {"of a type that there is not", ns, func(e *corev1.Event) { e.Type = "Fatal" }, apierrors.IsBadRequest, false},
		"Name":           {"with a name that is none", ns, func(e *corev1.Event) { e.Name = "../x" }, apierrors.IsBadRequest, false},
		"NoName":         {"with no name", ns, func(e *corev1.Event) { e.Name, e.GenerateName = "", "web." }, apierrors.IsBadRequest, false},
		"Node": {"about its node: nobody needs to know", "default", func(e *corev1.Event) {
			e.Namespace = "default"
			e.InvolvedObject = corev1.ObjectReference{Kind: "Node", Name: node, UID: node}
		}, func(err error) bool { return err == nil }, false},
		"OtherNode": {"about another node", "default", func(e *corev1.Event) {
			e.Namespace = "default"
			e.InvolvedObject = corev1.ObjectReference{Kind: "Node", Name: "node-7"}
		}, apierrors.IsForbidden, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.State.Bind(cell, webPod())
			event := podEvent("web.1")
			tc.change(event)
			_, err := h.client(t, false).CoreV1().Events(tc.namespace).Create(t.Context(), event, metav1.CreateOptions{})
			if !tc.check(err) {
				t.Errorf("%s: %v", tc.reason, err)
			}
			requests := h.Upstream.Requests()
			if sent := len(requests) == 1; sent != tc.sent {
				t.Errorf("%s: at the API server: %v", tc.reason, requests)
			}
			if tc.sent && strings.Contains(requests[0].Body, "<b>") {
				t.Errorf("%s: sent %s", tc.reason, requests[0].Body)
			}
		})
	}
}

func TestEventPatch(t *testing.T) {
	h := newHarness(t)
	h.State.Bind(cell, webPod())
	client := h.client(t, false)
	patch := []byte(`{"count":2,"lastTimestamp":"2026-01-01T00:01:00Z","message":"again","type":"Warning","metadata":{"labels":{"a":"b"}},"involvedObject":{"name":"api"}}`)
	if _, err := client.CoreV1().Events(ns).Patch(t.Context(), "web.1", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an event that the cell has not made: %v, want not found", err)
	}
	if requests := h.Upstream.Take(); len(requests) > 0 {
		t.Errorf("at the API server: %v", requests)
	}
	if _, err := client.CoreV1().Events(ns).Create(t.Context(), podEvent("web.1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	put(h, "/api/v1/namespaces/shop/events/web.1", podEvent("web.1"))
	h.Upstream.Take()
	if _, err := client.CoreV1().Events(ns).Patch(t.Context(), "web.1", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Errorf("its own: %v", err)
	}
	requests := h.Upstream.Take()
	if len(requests) != 1 || requests[0].Body != `{"count":2,"lastTimestamp":"2026-01-01T00:01:00Z","message":"again"}` || requests[0].Header.Get("Content-Type") != string(types.MergePatchType) {
		t.Errorf("at the API server: %+v", requests)
	}
	// The same name in the other group is another event.
	if _, err := client.EventsV1().Events(ns).Patch(t.Context(), "web.1", types.MergePatchType, []byte(`{"series":{"count":2}}`), metav1.PatchOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("in the other group: %v, want not found", err)
	}
}

func TestEventsV1(t *testing.T) {
	h := newHarness(t)
	h.State.Bind(cell, webPod())
	client := h.client(t, true).EventsV1().Events(ns)
	event := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "web.2", Namespace: ns}, EventTime: metav1.NowMicro(),
		Regarding: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: ns, Name: "web", UID: webPod().UID},
		Reason:    "Probing", Action: "Probe", Note: "failed", Type: "Warning", ReportingController: "admin", ReportingInstance: "x",
	}
	if _, err := client.Create(t.Context(), event, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	requests := h.Upstream.Take()
	var got eventsv1.Event
	if len(requests) != 1 || json.Unmarshal([]byte(requests[0].Body), &got) != nil || got.ReportingController != "kubelet" || got.ReportingInstance != node || got.Note != "failed" {
		t.Errorf("at the API server: %+v", requests)
	}
	if _, err := client.Patch(t.Context(), "web.2", types.MergePatchType, []byte(`{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:00.000000Z"},"note":"x"}`), metav1.PatchOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the API server of this test has no such event: %v", err)
	}
	if requests = h.Upstream.Take(); len(requests) != 1 || requests[0].Body != `{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:00.000000Z"}}` {
		t.Errorf("at the API server: %+v", requests)
	}
	// What kube-proxy says of its node.
	event.Regarding = corev1.ObjectReference{Kind: "Node", Name: node, UID: node}
	if _, err := client.Create(t.Context(), event, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	event.Regarding.Name = "node-7"
	if _, err := client.Create(t.Context(), event, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Error(err)
	}
	if requests = h.Upstream.Take(); len(requests) > 0 {
		t.Errorf("at the API server: %+v", requests)
	}
}

func TestEventBudget(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	h := newHarness(t, func(c *gateway.Config) { c.Clock = clock })
	h.State.Bind(cell, webPod())
	client := h.client(t, false).CoreV1().Events(ns)
	made := 0
	makeMany := func() {
		for range 80 {
			made++
			_, err := client.Create(t.Context(), podEvent(fmt.Sprint("web.", made)), metav1.CreateOptions{})
			if err != nil && !apierrors.IsTooManyRequests(err) {
				t.Fatal(err)
			}
		}
	}
	makeMany()
	if got := len(h.Upstream.Take()); got != 50 {
		t.Errorf("%d events at once, want 50", got)
	}
	clock.Step(10 * time.Second)
	makeMany()
	if got := len(h.Upstream.Take()); got != 10 {
		t.Errorf("%d events after 10 s, want 10", got)
	}
}

// TestRecorder uses a kubelet's recorder: the same event again and again
// becomes one that is counted.
func TestRecorder(t *testing.T) {
	h := newHarness(t)
	pod := webPod()
	h.State.Bind(cell, pod)
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: h.client(t, false).CoreV1().Events("")})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: node})
	recorder.Event(pod, "Warning", "Unhealthy", "probe failed")
	eventually(t, "the event is recorded", func() bool { return len(h.Upstream.Requests()) == 1 })
	first := h.Upstream.Take()[0]
	var made corev1.Event
	if err := json.Unmarshal([]byte(first.Body), &made); err != nil {
		t.Fatal(err)
	}
	put(h, first.Path+"/"+made.Name, &made)
	recorder.Event(pod, "Warning", "Unhealthy", "probe failed")
	eventually(t, "the event is counted", func() bool { return len(h.Upstream.Requests()) == 1 })
	second := h.Upstream.Take()[0]
	if second.Method != "PATCH" || second.Path != first.Path+"/"+made.Name || !strings.Contains(second.Body, `"count":2`) {
		t.Errorf("at the API server: %s %s %s", second.Method, second.Path, second.Body)
	}
}
