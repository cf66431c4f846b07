package watchcache

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestSingleTellsTheNewestState(t *testing.T) {
	set := func(uid types.UID, phase corev1.PodPhase) func(*testing.T, *Single) {
		return func(t *testing.T, s *Single) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: uid}, Status: corev1.PodStatus{Phase: phase}}
			if _, err := s.Set("web", uid, pod); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := func(_ *testing.T, s *Single) { s.Clear() }
	type steps []func(*testing.T, *Single)

	cases := map[string]struct {
		reason        string
		before, after steps
		want          []string
		wantErr       error
	}{
		"Nothing":         {reason: "no change", want: []string{}},
		"Appears":         {reason: "the pod is bound", after: steps{set("1", "Pending")}, want: []string{"ADDED web"}},
		"AppearsChanges":  {reason: "a watch that saw nothing sees it for the first time", after: steps{set("1", "Pending"), set("1", "Running")}, want: []string{"ADDED web"}},
		"Changes":         {reason: "two changes are one event", before: steps{set("1", "Pending")}, after: steps{set("1", "Running"), set("1", "Failed")}, want: []string{"MODIFIED web"}},
		"Same":            {reason: "an equal state is no change", before: steps{set("1", "Pending")}, after: steps{set("1", "Pending")}, want: []string{}},
		"Goes":            {reason: "it is gone", before: steps{set("1", "Pending")}, after: steps{gone}, want: []string{"DELETED web"}},
		"ChangesGoes":     {reason: "only that it is gone matters", before: steps{set("1", "Pending")}, after: steps{set("1", "Running"), gone}, want: []string{"DELETED web"}},
		"CameAndWent":     {reason: "a watch that never saw it is told nothing", after: steps{set("1", "Pending"), gone}, want: []string{}},
		"GoneTwice":       {reason: "gone is gone", before: steps{set("1", "Pending"), gone}, after: steps{gone}, want: []string{}},
		"Another":         {reason: "another UID is another object: list again", before: steps{set("1", "Pending")}, after: steps{set("2", "Pending")}, wantErr: ErrExpired},
		"AnotherLater":    {reason: "also when the first was seen to go", before: steps{set("1", "Pending"), gone}, after: steps{set("2", "Pending")}, wantErr: ErrExpired},
		"AnotherUnseen":   {reason: "a change after the new one is fine", before: steps{set("1", "Pending"), set("2", "Pending")}, after: steps{set("2", "Running")}, want: []string{"MODIFIED web"}},
		"SameReturns":     {reason: "a watch that did not look meanwhile may take it for new", before: steps{set("1", "Pending")}, after: steps{gone, set("1", "Running")}, want: []string{"ADDED web"}},
		"SameReturnsSeen": {reason: "a watch that saw it go sees it come", before: steps{set("1", "Pending"), gone}, after: steps{set("1", "Running")}, want: []string{"ADDED web"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := NewSingle(corev1.SchemeGroupVersion.WithKind("Pod"), NewVersions(time.Unix(1, 0)))
			for _, step := range tc.before {
				step(t, s)
			}
			_, from := s.List(Selector{})
			woken := false
			defer s.Subscribe(func() { woken = true })()
			for _, step := range tc.after {
				step(t, s)
			}
			events, reached, err := s.Since(from, Selector{}, nil)
			if !errors.Is(err, tc.wantErr) {
				t.Fatalf("%s: error %v, want %v", tc.reason, err, tc.wantErr)
			}
			if tc.wantErr == nil {
				if diff := cmp.Diff(tc.want, seen(events)); diff != "" {
					t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
				}
			}
			if len(events) > 0 && events[0].Version != reached {
				t.Errorf("the event's version is %d, reached is %d", events[0].Version, reached)
			}
			if !woken && (len(tc.want) > 0 || tc.wantErr != nil) {
				t.Error("the watch was not woken")
			}
		})
	}
}

func TestSingleRefusesForeignVersions(t *testing.T) {
	s := NewSingle(corev1.SchemeGroupVersion.WithKind("Pod"), NewVersions(time.Unix(100, 0)))
	_, now := s.Get()
	for _, version := range []uint64{0, 1, now - 1, now + 1} {
		if _, _, err := s.Since(version, Selector{}, nil); !errors.Is(err, ErrExpired) {
			t.Errorf("version %d: got %v, want ErrExpired", version, err)
		}
	}
}

func TestObjectKeepsItsJSON(t *testing.T) {
	kind := corev1.SchemeGroupVersion.WithKind("Pod")
	for name, pod := range map[string]*corev1.Pod{
		"Empty": {},
		"Full": {
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Annotations: map[string]string{"a": `{"metadata":{"resourceVersion":"1"}}`}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "é"}}},
		},
	} {
		rest, err := encode(pod)
		if err != nil {
			t.Fatal(name, err)
		}
		object := &Object{rest: rest}
		var got corev1.Pod
		if err := json.Unmarshal(object.AppendJSON(nil, kind, 42), &got); err != nil {
			t.Fatal(name, err)
		}
		want := pod.DeepCopy()
		want.ResourceVersion = "42"
		want.SetGroupVersionKind(kind)
		if diff := cmp.Diff(want, &got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
		var decoded corev1.Pod
		if err := object.Decode(&decoded); err != nil {
			t.Fatal(name, err)
		}
		if diff := cmp.Diff(pod, &decoded); diff != "" {
			t.Errorf("%s: decoded: -want +got:\n%s", name, diff)
		}
	}
	if _, err := encode(&corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod"}}); err == nil {
		t.Error("an object with a kind was encoded: it would have two")
	}
}

func TestVersions(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	v := NewVersions(start)
	a, b := v.Next(), v.Next()
	if a <= uint64(start.UnixNano()) || b <= a {
		t.Errorf("versions do not grow from the start: %d, %d", a, b)
	}
	for s, ok := range map[string]bool{Format(a): true, "0": true, "": false, "01": false, "-1": false, "+1": false, "1e3": false, "x": false, "18446744073709551616": false} {
		if _, got := ParseVersion(s); got != ok {
			t.Errorf("ParseVersion(%q): %t, want %t", s, got, ok)
		}
	}
}
