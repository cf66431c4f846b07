package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/features"
	featurestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/tools/cache"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/gateway"
)

// kubelet is the part of a kubelet that watches its pods: the same reflector,
// started the same way, and all sets of pods that it was given.
type kubelet struct {
	mu   sync.Mutex
	sets [][]*corev1.Pod
}

func startKubelet(t *testing.T, h *harness, protobuf bool) *kubelet {
	t.Helper()
	k := &kubelet{}
	send := func(objects []any) {
		pods := []*corev1.Pod{}
		for _, o := range objects {
			pods = append(pods, o.(*corev1.Pod))
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.sets = append(k.sets, pods)
	}
	lw := cache.NewListWatchFromClient(h.client(t, protobuf).CoreV1().RESTClient(), "pods", metav1.NamespaceAll, fields.OneTermEqualSelector("spec.nodeName", node))
	reflector := cache.NewReflector(lw, &corev1.Pod{}, cache.NewUndeltaStore(send, cache.MetaNamespaceKeyFunc), 0)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { reflector.RunWithContext(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return k
}

// pods are those that the kubelet was given last, nil before it was given any.
func (k *kubelet) pods() []*corev1.Pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.sets) == 0 {
		return nil
	}
	return k.sets[len(k.sets)-1]
}

func (k *kubelet) has(uid types.UID, phase corev1.PodPhase) bool {
	pods := k.pods()
	return len(pods) == 1 && pods[0].UID == uid && pods[0].Status.Phase == phase
}

// everSaw tells whether one of the sets fulfils a condition.
func (k *kubelet) everSaw(condition func([]*corev1.Pod) bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, set := range k.sets {
		if condition(set) {
			return true
		}
	}
	return false
}

func TestKubeletSeesItsPod(t *testing.T) {
	for i := range 8 {
		watchList, protobuf, stream := i&1 != 0, i&2 != 0, i&4 != 0
		t.Run(fmt.Sprintf("WatchList=%t/Protobuf=%t/Stream=%t", watchList, protobuf, stream), func(t *testing.T) {
			featurestesting.SetFeatureDuringTest(t, features.WatchListClient, watchList)
			h := newHarness(t)
			h.Stream = stream
			pod := webPod()
			k := startKubelet(t, h, protobuf)
			eventually(t, "the standby cell's kubelet has its empty list", func() bool { return k.pods() != nil && len(k.pods()) == 0 })
			eventually(t, "its watch stands", func() bool { return h.State.Subscribers(cell) == 1 })

			h.State.Bind(cell, pod)
			bound := time.Now()
			eventually(t, "the bound pod is seen", func() bool { return k.has(pod.UID, corev1.PodPending) })
			if took := time.Since(bound); took > 500*time.Millisecond {
				t.Errorf("the kubelet saw its pod %v after it was bound", took)
			}
			seen := k.pods()[0]
			if len(seen.ManagedFields) != 0 || seen.ResourceVersion == pod.ResourceVersion || seen.Spec.Containers[0].Image != "registry.example.com/web:1" {
				t.Errorf("the pod is not as it should be shown: %+v", seen.ObjectMeta)
			}

			changed := pod.DeepCopy()
			changed.Status.Phase = corev1.PodRunning
			h.State.SetPod(cell, changed)
			eventually(t, "a change is seen", func() bool { return k.has(pod.UID, corev1.PodRunning) })

			h.State.SetPod(cell, nil)
			eventually(t, "the pod is gone", func() bool { return len(k.pods()) == 0 })
		})
	}
}

// TestKubeletIsToldToEndItsPod: what State shows as being deleted is ended,
// whatever the API server has; it hears nothing of the kubelet's last DELETE.
func TestKubeletIsToldToEndItsPod(t *testing.T) {
	h := newHarness(t)
	pod := webPod()
	h.State.Bind(cell, pod)
	k := startKubelet(t, h, true)
	eventually(t, "the pod is seen", func() bool { return k.has(pod.UID, corev1.PodPending) })

	stopped := pod.DeepCopy()
	end, grace := metav1.NewTime(time.Now().Add(20*time.Second).Truncate(time.Second)), int64(20)
	stopped.DeletionTimestamp, stopped.DeletionGracePeriodSeconds = &end, &grace
	h.State.SetPod(cell, stopped)
	eventually(t, "its end is seen", func() bool {
		pods := k.pods()
		return len(pods) == 1 && pods[0].DeletionTimestamp.Equal(&end) && *pods[0].DeletionGracePeriodSeconds == grace
	})
	err := h.client(t, true).CoreV1().Pods(ns).Delete(t.Context(), pod.Name, *metav1.NewPreconditionDeleteOptions(string(pod.UID)))
	if err == nil {
		t.Error("a deletion without the final grace period is no kubelet's")
	}
	err = h.client(t, true).CoreV1().Pods(ns).Delete(t.Context(), pod.Name,
		metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Sink.Terminated(); len(got) != 1 || got[0] != pod.UID {
		t.Errorf("terminated %v", got)
	}
	if got := h.Upstream.Requests(); len(got) != 0 {
		t.Errorf("the API server was asked: %v", got)
	}
}

// TestHTTP2 uses the protocol of the tunnel: a watch must be flushed through it.
func TestHTTP2(t *testing.T) {
	h := newHarness(t)
	server := httptest.NewUnstartedServer(h.Gateway.ForCell(cell))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/api/v1/pods?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Proto, resp.Status)
	}
	h.State.Bind(cell, webPod())
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, `{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1",`) {
		t.Errorf("%q, %v", line, err)
	}
}

// TestPodIsToldByUID: a pod of the same name that was made anew belongs to
// another cell, whatever State says.
func TestPodIsToldByUID(t *testing.T) {
	h := newHarness(t)
	pod := webPod()
	h.State.Bind(cell, pod)
	k := startKubelet(t, h, false)
	eventually(t, "the pod is seen", func() bool { return k.has(pod.UID, corev1.PodPending) })

	again := webPod()
	again.UID = "99999999-0000-0000-0000-000000000000"
	h.State.SetPod(cell, again)
	eventually(t, "the pod is gone", func() bool { return len(k.pods()) == 0 })
	if k.everSaw(func(pods []*corev1.Pod) bool { return len(pods) == 1 && pods[0].UID == again.UID }) {
		t.Error("the kubelet was shown a pod that is not its own")
	}
	if _, err := h.client(t, false).CoreV1().Pods(ns).Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get of the name: %v, want not found", err)
	}
}

// TestRestartOfKip: a kubelet must never be shown an empty list while Kip does
// not know yet, or it ends its pod.
func TestRestartOfKip(t *testing.T) {
	for _, watchList := range []bool{true, false} {
		t.Run(fmt.Sprintf("WatchList=%t", watchList), func(t *testing.T) {
			featurestesting.SetFeatureDuringTest(t, features.WatchListClient, watchList)
			h := newHarness(t)
			pod := webPod()
			h.State.Bind(cell, pod)
			k := startKubelet(t, h, false)
			eventually(t, "the pod is seen", func() bool { return k.has(pod.UID, corev1.PodPending) })

			h.State.RemoveCell(cell)
			h.State.SetPod(cell, nil)
			h.start(t) // knows nothing of the versions that the kubelet holds
			// The old gateway's watch ends when its server would.
			h.closeConnections()
			time.Sleep(100 * time.Millisecond)
			changed := pod.DeepCopy()
			changed.Status.Phase = corev1.PodRunning
			current, _ := h.State.Cell(cell)
			h.State.SetPod(cell, changed)
			h.State.SetCell(current)
			eventually(t, "the kubelet finds its pod again", func() bool { return k.has(pod.UID, corev1.PodRunning) })
			if k.everSaw(func(pods []*corev1.Pod) bool { return len(pods) == 0 }) {
				t.Error("the kubelet was told that its pod is gone")
			}
		})
	}
}

// TestUnknownCell: a cell that Kip does not know is told to wait, and never
// anything else.
func TestUnknownCell(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	h := newHarness(t, func(c *gateway.Config) { c.Clock = clock })
	eventually(t, "the gateway runs", func() bool { return clock.Waiters() == 1 })
	h.State.RemoveCell(cell)
	for _, path := range []string{"/api/v1/pods", "/api/v1/nodes/" + node, "/api/v1/namespaces/shop/pods/web", "/api/v1/services", "/api/v1/namespaces/shop/secrets/password"} {
		answer := make(chan string)
		go func() {
			code, body := h.do(t, "GET", path, "")
			answer <- fmt.Sprint(code, " ", body)
		}()
		eventually(t, "the request waits", func() bool { return clock.Waiters() == 2 })
		clock.Step(10 * time.Second)
		if got := <-answer; !strings.HasPrefix(got, "503 ") || !strings.Contains(got, "Kip does not know this cell yet") {
			t.Errorf("%s: %s", path, got)
		}
	}

	answer := make(chan string)
	go func() {
		code, _ := h.do(t, "GET", "/api/v1/pods", "")
		answer <- fmt.Sprint(code)
	}()
	eventually(t, "the request waits", func() bool { return clock.Waiters() == 2 })
	h.State.SetCell(standbyCell())
	if got := <-answer; got != "200" {
		t.Errorf("a cell that became known while it waited got %s", got)
	}
}

func TestGetPod(t *testing.T) {
	h := newHarness(t)
	client := h.client(t, true).CoreV1()
	if _, err := client.Pods(ns).Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("standby: %v, want not found", err)
	}
	h.State.Bind(cell, webPod())
	pod, err := client.Pods(ns).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || pod.UID != webPod().UID {
		t.Fatalf("own pod: %v, %v", pod, err)
	}
	list, err := client.Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node, ResourceVersion: "0"})
	if err != nil || len(list.Items) != 1 || list.ResourceVersion != pod.ResourceVersion {
		t.Errorf("list: %v, %v", list, err)
	}
	if requests := h.Upstream.Requests(); len(requests) > 0 {
		t.Errorf("pods were asked of the API server: %v", requests)
	}
}

// rawWatch opens a watch and returns its frames, and a function that waits for
// its end.
func rawWatch(t *testing.T, h *harness, query string) (frames <-chan string) {
	t.Helper()
	resp, err := http.Get(h.URL + "/api/v1/pods?watch=true&" + query)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	out := make(chan string, 100)
	go func() {
		defer close(out)
		scanner := bufio.NewScanner(resp.Body)
		for scanner.Scan() {
			var frame struct {
				Type   string
				Object struct {
					Code     int
					Metadata metav1.ObjectMeta
				}
			}
			if err := json.Unmarshal(scanner.Bytes(), &frame); err != nil {
				out <- err.Error()
				continue
			}
			text := frame.Type + " " + frame.Object.Metadata.Name
			if frame.Object.Metadata.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
				text += "initial-events-end"
			}
			out <- strings.TrimSpace(text)
		}
	}()
	return out
}

func next(t *testing.T, frames <-chan string) string {
	t.Helper()
	select {
	case frame, ok := <-frames:
		if !ok {
			return "END"
		}
		return frame
	case <-time.After(5 * time.Second):
		t.Fatal("the watch is silent")
		return ""
	}
}

func TestWatchProtocol(t *testing.T) {
	h := newHarness(t)
	h.State.Bind(cell, webPod())
	list, err := h.client(t, false).CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		reason, query string
		want          []string
	}{
		"Unset":           {"no version: the present state first", "", []string{"ADDED web"}},
		"Zero":            {"any version: the same", "resourceVersion=0", []string{"ADDED web"}},
		"Current":         {"the newest version: only what comes", "resourceVersion=" + list.ResourceVersion, nil},
		"InitialEvents":   {"the state, then the mark", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", []string{"ADDED web", "BOOKMARK initial-events-end"}},
		"InitialEventsRV": {"also for a client that has been here", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=" + list.ResourceVersion, []string{"ADDED web", "BOOKMARK initial-events-end"}},
		"NoBookmarks":     {"no mark for who takes no bookmarks", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan", []string{"ADDED web"}},
		"NoInitialEvents": {"no state for who does not want it", "sendInitialEvents=false&resourceVersionMatch=NotOlderThan", nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			frames := rawWatch(t, h, tc.query+"&timeoutSeconds=1")
			var got []string
			for frame := next(t, frames); frame != "END"; frame = next(t, frames) {
				got = append(got, frame)
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
			}
		})
	}

	for name, query := range map[string]string{"Old": "resourceVersion=1", "Future": "resourceVersion=9999999999999999999"} {
		code, body := h.do(t, "GET", "/api/v1/pods?watch=true&"+query, "")
		if code != http.StatusGone || !strings.Contains(body, `"reason":"Expired"`) {
			t.Errorf("%s version: %d %s, want 410 Expired", name, code, body)
		}
	}
}

// TestWatchTimeout checks with a clock of its own that a watch lasts as long
// as asked, and a while if nothing was asked.
func TestWatchTimeout(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	h := newHarness(t, func(c *gateway.Config) { c.Clock = clock })
	waiters := func(n int) { eventually(t, "the watch waits", func() bool { return clock.Waiters() >= n }) }
	waiters(1) // the gateway's own

	asked := rawWatch(t, h, "timeoutSeconds=600")
	waiters(3)
	clock.Step(599 * time.Second)
	h.State.Bind(cell, webPod())
	if frame := next(t, asked); frame != "ADDED web" {
		t.Errorf("before its time: %s", frame)
	}
	clock.Step(time.Second)
	if frame := next(t, asked); frame != "END" {
		t.Errorf("at its time: %s", frame)
	}

	unasked := rawWatch(t, h, "")
	waiters(3)
	if frame := next(t, unasked); frame != "ADDED web" {
		t.Errorf("before its time: %s", frame)
	}
	clock.Step(time.Hour)
	if frame := next(t, unasked); frame != "END" {
		t.Errorf("after an hour: %s", frame)
	}
}
