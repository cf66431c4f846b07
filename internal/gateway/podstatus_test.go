package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/elotl/kip/v2/internal/gateway"
)

// statusPatch is the patch that a kubelet makes: a two-way merge of the
// status, with the UID as its precondition.
func statusPatch(t *testing.T, uid types.UID, before, after corev1.PodStatus) []byte {
	t.Helper()
	original, err := json.Marshal(corev1.Pod{Status: before})
	if err != nil {
		t.Fatal(err)
	}
	modified, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}, Status: after})
	if err != nil {
		t.Fatal(err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(original, modified, corev1.Pod{})
	if err != nil {
		t.Fatal(err)
	}
	return patch
}

func TestPatchPodStatus(t *testing.T) {
	h := newHarness(t)
	pod := webPod()
	h.State.Bind(cell, pod)
	client := h.client(t, false).CoreV1().Pods(ns)

	before := pod.Status
	after := *before.DeepCopy()
	after.Phase = corev1.PodRunning
	after.PodIP, after.PodIPs = "10.98.0.11", []corev1.PodIP{{IP: "10.98.0.11"}}
	after.HostIP, after.HostIPs = "10.98.0.10", []corev1.HostIP{{IP: "10.98.0.10"}}
	after.Conditions = append(after.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
	after.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Ready: true, RestartCount: 2}}

	got, err := client.Patch(t.Context(), "web", types.StrategicMergePatchType, statusPatch(t, pod.UID, before, after), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(after, got.Status); diff != "" {
		t.Errorf("answer: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]corev1.PodStatus{after}, h.Sink.Statuses()); diff != "" {
		t.Errorf("sink: -want +got:\n%s", diff)
	}
	now, err := client.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || now.ResourceVersion != got.ResourceVersion {
		t.Errorf("GET after the patch: version %s, the patch answered %s (%v)", now.ResourceVersion, got.ResourceVersion, err)
	}

	// A condition that another writer set survives, one that is taken back goes.
	h.State.SetPod(cell, func() *corev1.Pod { p := now.DeepCopy(); p.ResourceVersion = ""; return p }())
	less := *after.DeepCopy()
	less.Conditions = []corev1.PodCondition{after.Conditions[0], {Type: corev1.PodReady, Status: corev1.ConditionFalse, Reason: "ContainersNotReady"}}
	mine := *after.DeepCopy()
	mine.Conditions = []corev1.PodCondition{after.Conditions[0], after.Conditions[2]}
	got, err = client.Patch(t.Context(), "web", types.StrategicMergePatchType, statusPatch(t, pod.UID, mine, less), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	conditions := map[corev1.PodConditionType]corev1.ConditionStatus{}
	for _, c := range got.Status.Conditions {
		conditions[c.Type] = c.Status
	}
	want := map[corev1.PodConditionType]corev1.ConditionStatus{
		corev1.PodScheduled: corev1.ConditionTrue, "kip.elotl.co/CellReady": corev1.ConditionTrue, corev1.PodReady: corev1.ConditionFalse,
	}
	if diff := cmp.Diff(want, conditions); diff != "" {
		t.Errorf("conditions: -want +got:\n%s", diff)
	}
	if requests := h.Upstream.Requests(); len(requests) > 0 {
		t.Errorf("a status went to the API server: %v", requests)
	}
}

// TestPodStatusOutcomes checks other ways to write a status, and that nothing
// but the status is ever taken.
func TestPodStatusOutcomes(t *testing.T) {
	const uid = `"uid":"11111111-2222-3333-4444-555555555555"`
	const strategic, merge = "application/strategic-merge-patch+json", "application/merge-patch+json"
	cases := map[string]struct {
		reason            string
		method, mediaType string
		path, body        string
		code              int
		says              string
		taken             bool // a status reaches the sink
	}{
		"JSONMerge":       {"the other type of patch", "PATCH", merge, "", `{"metadata":{` + uid + `},"status":{"phase":"Running","message":null}}`, 200, `"Running"`, true},
		"SpecIsNotTaken":  {"a cell may not change its pod's spec", "PATCH", strategic, "", `{"metadata":{` + uid + `,"labels":{"a":"b"}},"spec":{"serviceAccountName":"admin"},"status":{"phase":"Running"}}`, 200, `"seller"`, true},
		"OtherUID":        {"news of an earlier pod of the name", "PATCH", strategic, "", `{"metadata":{"uid":"x"},"status":{"phase":"Running"}}`, 409, "UID", false},
		"NoUID":           {"no word of which pod is meant", "PATCH", strategic, "", `{"status":{"phase":"Running"}}`, 400, "metadata.uid", false},
		"UIDIsNoString":   {"not even a UID", "PATCH", strategic, "", `{"metadata":{"uid":7},"status":{}}`, 400, "", false},
		"MetadataIsNone":  {"a directive that takes the metadata away", "PATCH", strategic, "", `{"metadata":null,"status":{}}`, 400, "", false},
		"Renamed":         {"a patch that makes it another pod", "PATCH", merge, "", `{"metadata":{` + uid + `,"name":"other"},"status":{}}`, 400, "name", false},
		"Replaced":        {"a directive that replaces the pod", "PATCH", strategic, "", `{"$patch":"replace","metadata":{` + uid + `}}`, 400, "", false},
		"OldVersion":      {"an out-of-date precondition", "PATCH", strategic, "", `{"metadata":{` + uid + `,"resourceVersion":"1"},"status":{"phase":"Running"}}`, 409, "meanwhile", false},
		"ForeignPodIP":    {"the address of another pod would get its traffic", "PATCH", strategic, "", `{"metadata":{` + uid + `},"status":{"podIP":"10.98.0.99"}}`, 403, "addresses", false},
		"ForeignPodIPs":   {"the same in the list", "PATCH", strategic, "", `{"metadata":{` + uid + `},"status":{"podIPs":[{"ip":"10.98.0.11"},{"ip":"10.98.0.99"}]}}`, 403, "addresses", false},
		"ForeignHostIP":   {"the same for the host", "PATCH", strategic, "", `{"metadata":{` + uid + `},"status":{"hostIP":"10.98.0.11"}}`, 403, "addresses", false},
		"HostNetwork":     {"a pod in the host's network has the host's address", "PATCH", strategic, "", `{"metadata":{` + uid + `},"status":{"podIP":"10.98.0.10","hostIP":"10.98.0.10"}}`, 200, "", true},
		"QOSIsNotTaken":   {"the quality of service is the API server's to say", "PATCH", merge, "", `{"metadata":{` + uid + `},"status":{"qosClass":"Guaranteed","nominatedNodeName":"n"}}`, 200, `"qosClass":"BestEffort"`, true},
		"JSONPatch":       {"a kubelet sends no JSON patch", "PATCH", "application/json-patch+json", "", `[{"op":"replace","path":"/status/phase","value":"Running"}]`, 415, "", false},
		"Apply":           {"nor an apply", "PATCH", "application/apply-patch+yaml", "", `{}`, 415, "", false},
		"NoJSON":          {"not a patch", "PATCH", strategic, "", `{`, 400, "", false},
		"Array":           {"not a patch", "PATCH", merge, "", `[]`, 400, "", false},
		"Null":            {"not a patch", "PATCH", merge, "", `null`, 400, "", false},
		"BadDirective":    {"a directive that there is not", "PATCH", strategic, "", `{"metadata":{` + uid + `},"$patch":"explode"}`, 400, "", false},
		"WrongType":       {"a patch that makes it no pod", "PATCH", merge, "", `{"metadata":{` + uid + `},"status":{"phase":{"a":1}}}`, 400, "", false},
		"Put":             {"the whole pod", "PUT", "application/json", "", `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","namespace":"shop",` + uid + `},"status":{"phase":"Failed"}}`, 200, `"Failed"`, true},
		"PutOther":        {"the whole other pod", "PUT", "application/json", "", `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","namespace":"shop","uid":"x"},"status":{}}`, 409, "", false},
		"PutOtherName":    {"another name", "PUT", "application/json", "", `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"api","namespace":"shop",` + uid + `},"status":{}}`, 400, "", false},
		"PutSecret":       {"another kind", "PUT", "application/json", "", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"web","namespace":"shop",` + uid + `}}`, 400, "", false},
		"OtherPod":        {"the pod of another cell", "PATCH", strategic, "/api/v1/namespaces/shop/pods/api/status", `{"metadata":{` + uid + `},"status":{}}`, 403, "not the pod of this cell", false},
		"OtherNamespace":  {"a pod of the same name elsewhere", "PATCH", strategic, "/api/v1/namespaces/bank/pods/web/status", `{"metadata":{` + uid + `},"status":{}}`, 403, "not the pod of this cell", false},
		"NotTheStatus":    {"the pod itself", "PATCH", strategic, "/api/v1/namespaces/shop/pods/web", `{"metadata":{` + uid + `},"status":{}}`, 403, "may not patch", false},
		"EphemeralChange": {"another subresource", "PATCH", strategic, "/api/v1/namespaces/shop/pods/web/ephemeralcontainers", `{}`, 403, "may not patch", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.State.Bind(cell, webPod())
			path := tc.path
			if path == "" {
				path = "/api/v1/namespaces/shop/pods/web/status"
			}
			code, body := h.do(t, tc.method, path, tc.body, "Content-Type", tc.mediaType)
			if code != tc.code || !strings.Contains(body, tc.says) {
				t.Errorf("%s: got %d %s; want %d and %q", tc.reason, code, body, tc.code, tc.says)
			}
			if taken := len(h.Sink.Statuses()) > 0; taken != tc.taken {
				t.Errorf("%s: a status reached the sink: %t, want %t", tc.reason, taken, tc.taken)
			}
			if requests := h.Upstream.Requests(); len(requests) > 0 {
				t.Errorf("%s: the API server was asked: %v", tc.reason, requests)
			}
		})
	}
}

func TestPodStatusFailures(t *testing.T) {
	h := newHarness(t)
	client := h.client(t, false).CoreV1().Pods(ns)
	pod := webPod()
	patch := statusPatch(t, pod.UID, corev1.PodStatus{}, corev1.PodStatus{Phase: corev1.PodRunning})
	write := func() error {
		_, err := client.Patch(t.Context(), "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		return err
	}
	if err := write(); !apierrors.IsNotFound(err) {
		t.Errorf("standby: %v, want not found", err)
	}
	h.State.Bind(cell, pod)
	h.Sink.Fail(apierrors.NewConflict(corev1.Resource("pods"), "web", errors.New("newer")))
	if err := write(); !apierrors.IsConflict(err) {
		t.Errorf("an API error of the sink is passed on: %v", err)
	}
	h.Sink.Fail(errors.New("the database at 10.0.0.1 is on fire"))
	if err := write(); !apierrors.IsInternalError(err) || strings.Contains(err.Error(), "10.0.0.1") {
		t.Errorf("another error is not told: %v", err)
	}
	h.Sink.Fail(nil)
	if err := write(); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestDeletePod(t *testing.T) {
	now := metav1.Now()
	zero, thirty := int64(0), int64(30)
	uid := webPod().UID
	other := types.UID("other")
	version := "5"
	cases := map[string]struct {
		reason   string
		deleting bool
		options  metav1.DeleteOptions
		check    func(error) bool
		done     bool
	}{
		"Done":         {"the kubelet's last word", true, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid}}, func(err error) bool { return err == nil }, true},
		"NotAsked":     {"a cell cannot delete its pod by itself", false, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid}}, apierrors.IsForbidden, false},
		"NoUID":        {"it must say which", true, metav1.DeleteOptions{GracePeriodSeconds: &zero}, apierrors.IsForbidden, false},
		"OtherUID":     {"an earlier pod of the name", true, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &other}}, apierrors.IsConflict, false},
		"Graceful":     {"what has ended needs no grace", true, metav1.DeleteOptions{GracePeriodSeconds: &thirty, Preconditions: &metav1.Preconditions{UID: &uid}}, apierrors.IsForbidden, false},
		"DefaultGrace": {"the same, unsaid", true, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}, apierrors.IsForbidden, false},
		"DryRun":       {"not a lie", true, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid}, DryRun: []string{"All"}}, apierrors.IsForbidden, false},
		"Version":      {"of a version that only the cell knows", true, metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}}, apierrors.IsForbidden, false},
	}
	for name, tc := range cases {
		for _, protobuf := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				h := newHarness(t)
				pod := webPod()
				if tc.deleting {
					pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &thirty
				}
				h.State.Bind(cell, pod)
				client := h.client(t, protobuf).CoreV1().Pods(ns)
				if err := client.Delete(context.Background(), "web", tc.options); !tc.check(err) {
					t.Errorf("%s: %v", tc.reason, err)
				}
				if done := len(h.Sink.Terminated()) == 1; done != tc.done {
					t.Errorf("%s: terminated: %t, want %t", tc.reason, done, tc.done)
				}
				if !tc.done {
					return
				}
				if err := client.Delete(context.Background(), "web", tc.options); !apierrors.IsNotFound(err) {
					t.Errorf("again: %v, want not found", err)
				}
			})
		}
	}
}

func TestInterruption(t *testing.T) {
	h := newHarness(t)
	for name, tc := range map[string]struct {
		method, path, body string
		code               int
	}{
		"Spot":        {"POST", "/kip/v1/interruption", `{"kind":"spot-interruption","action":"terminate","time":"2026-01-02T03:04:05Z"}`, http.StatusOK},
		"Rebalance":   {"POST", "/kip/v1/interruption", `{"kind":"rebalance-recommendation","time":"2026-01-02T03:04:05Z"}`, http.StatusOK},
		"Kind":        {"POST", "/kip/v1/interruption", `{"kind":"earthquake","time":"2026-01-02T03:04:05Z"}`, http.StatusBadRequest},
		"Action":      {"POST", "/kip/v1/interruption", `{"kind":"spot-interruption","action":"dance","time":"2026-01-02T03:04:05Z"}`, http.StatusBadRequest},
		"NoTime":      {"POST", "/kip/v1/interruption", `{"kind":"spot-interruption"}`, http.StatusBadRequest},
		"Unknown":     {"POST", "/kip/v1/interruption", `{"kind":"spot-interruption","time":"2026-01-02T03:04:05Z","x":1}`, http.StatusBadRequest},
		"Two":         {"POST", "/kip/v1/interruption", `{"kind":"rebalance-recommendation","time":"2026-01-02T03:04:05Z"}{}`, http.StatusBadRequest},
		"Large":       {"POST", "/kip/v1/interruption", `{"kind":"` + strings.Repeat("x", 5000) + `"}`, http.StatusRequestEntityTooLarge},
		"Get":         {"GET", "/kip/v1/interruption", ``, http.StatusForbidden},
		"Query":       {"POST", "/kip/v1/interruption?a=b", `{}`, http.StatusNotFound},
		"Other":       {"POST", "/kip/v1/status", `{}`, http.StatusNotFound},
		"Root":        {"GET", "/kip", ``, http.StatusNotFound},
		"ThroughDots": {"GET", "/kip/../api/v1/nodes", ``, http.StatusNotFound},
	} {
		if code, body := h.do(t, tc.method, tc.path, tc.body); code != tc.code {
			t.Errorf("%s: %d %s, want %d", name, code, body, tc.code)
		}
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	got := h.Sink.Interruptions(cell)
	slices.SortFunc(got, func(a, b gateway.Interruption) int { return strings.Compare(string(a.Kind), string(b.Kind)) })
	want := []gateway.Interruption{
		{Kind: gateway.RebalanceRecommendation, Time: at},
		{Kind: gateway.SpotInterruption, Action: "terminate", Time: at},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the sink got: -want +got:\n%s", diff)
	}
	if requests := h.Upstream.Requests(); len(requests) > 0 {
		t.Errorf("the API server was asked: %v", requests)
	}
}
