package agent_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	credentialproviderv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"github.com/elotl/kip/v2/internal/podmetrics/report"
)

// fakeKip is as little of an API server as a kubelet needs for one pod: what
// Kip's gateway shows a cell, without the cluster behind it.
type fakeKip struct {
	t *testing.T

	mu      sync.Mutex
	version int
	node    *corev1.Node
	pod     *corev1.Pod // nil before it is bound and after the kubelet removed it
	// watchers of pods.
	watchers map[chan metav1.WatchEvent]bool
	// interruptions are the bodies of the agent's reports.
	events        []corev1.Event
	interruptions []string
	// report is the last that the agent told of the pod's use.
	report report.Report
	// images are those whose registry's credentials were asked for.
	images  []string
	changed chan struct{}
}

func newFakeKip(t *testing.T, node *corev1.Node) *fakeKip {
	return &fakeKip{t: t, node: node, version: 1, watchers: map[chan metav1.WatchEvent]bool{}, changed: make(chan struct{})}
}

// await waits until ok is true of the pod the kubelet reports.
func (k *fakeKip) await(what string, patience time.Duration, ok func(*corev1.Pod) bool) {
	k.t.Helper()
	deadline := time.After(patience)
	for {
		k.mu.Lock()
		done, changed, pod := ok(k.pod), k.changed, k.pod
		k.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			status, _ := json.MarshalIndent(pod, "", " ")
			k.t.Fatalf("%s: not within %s; the pod is\n%s", what, patience, status)
		}
	}
}

// set changes the pod and tells the watchers. The caller holds no lock.
func (k *fakeKip) set(event string, pod *corev1.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.version++
	pod.ResourceVersion = fmt.Sprint(k.version)
	raw, err := json.Marshal(pod)
	if err != nil {
		k.t.Error(err)
	}
	k.pod = pod
	if event == "DELETED" {
		k.pod = nil
	}
	for w := range k.watchers {
		w <- metav1.WatchEvent{Type: event, Object: runtime.RawExtension{Raw: raw}}
	}
	k.poke()
}

func (k *fakeKip) poke() {
	close(k.changed)
	k.changed = make(chan struct{})
}

func (k *fakeKip) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/pods", k.pods)
	mux.HandleFunc("PATCH /api/v1/namespaces/{ns}/pods/{name}/status", k.patchPodStatus)
	mux.HandleFunc("GET /api/v1/namespaces/{ns}/pods/{name}", func(w http.ResponseWriter, _ *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.pod == nil {
			notFound(w)
			return
		}
		reply(w, http.StatusOK, k.pod)
	})
	mux.HandleFunc("DELETE /api/v1/namespaces/{ns}/pods/{name}", func(w http.ResponseWriter, _ *http.Request) {
		k.mu.Lock()
		pod := k.pod
		k.mu.Unlock()
		k.set("DELETED", pod)
		reply(w, http.StatusOK, pod)
	})
	mux.HandleFunc("GET /api/v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		k.list(w, r, corev1.NodeList{TypeMeta: meta("NodeList"), ListMeta: k.listMeta(), Items: []corev1.Node{*k.node}})
	})
	mux.HandleFunc("GET /api/v1/nodes/{name}", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, k.node) })
	mux.HandleFunc("PATCH /api/v1/nodes/{name}/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, k.node) })
	mux.HandleFunc("POST /kip/v1/interruption", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.interruptions = append(k.interruptions, string(body))
		k.poke()
	})
	mux.HandleFunc("POST "+report.Path, k.takeReport)
	mux.HandleFunc("POST /kip/v1/registry-credentials", k.registryCredentials)
	mux.HandleFunc("POST /api/v1/namespaces/{ns}/events", k.takeEvent)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodGet && (strings.Contains(r.URL.Path, "/namespaces/") || strings.Contains(r.URL.Path, "/csinodes/")):
			notFound(w)
		case r.Method == http.MethodGet:
			k.list(w, r, map[string]any{"kind": "List", "apiVersion": "v1", "metadata": k.listMeta(), "items": []any{}})
		default: // leases: taken and given back
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			_, _ = io.Copy(w, r.Body)
		}
	})
	mux.ServeHTTP(w, r)
}

func (k *fakeKip) takeReport(_ http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	told, err := report.Decode(data)
	if err != nil {
		k.t.Error(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.report = told
	k.poke()
}

func (k *fakeKip) takeEvent(w http.ResponseWriter, r *http.Request) {
	var event corev1.Event
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events = append(k.events, event)
	k.poke()
	reply(w, http.StatusCreated, event)
}

func (k *fakeKip) registryCredentials(w http.ResponseWriter, r *http.Request) {
	var question credentialproviderv1.CredentialProviderRequest
	if err := json.NewDecoder(r.Body).Decode(&question); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.images = append(k.images, question.Image)
	reply(w, http.StatusOK, credentialproviderv1.CredentialProviderResponse{
		TypeMeta:      metav1.TypeMeta{Kind: "CredentialProviderResponse", APIVersion: question.APIVersion},
		CacheKeyType:  credentialproviderv1.RegistryPluginCacheKeyType,
		CacheDuration: &metav1.Duration{Duration: time.Hour},
		Auth:          map[string]credentialproviderv1.AuthConfig{privateRegistry: {Username: loginName, Password: loginPassword}},
	})
}

func meta(kind string) metav1.TypeMeta { return metav1.TypeMeta{Kind: kind, APIVersion: "v1"} }

func (k *fakeKip) listMeta() metav1.ListMeta {
	k.mu.Lock()
	defer k.mu.Unlock()
	return metav1.ListMeta{ResourceVersion: fmt.Sprint(k.version)}
}

// list answers a list that never changes, and its watch, which says nothing.
func (k *fakeKip) list(w http.ResponseWriter, r *http.Request, list any) {
	if r.URL.Query().Get("watch") == "" {
		reply(w, http.StatusOK, list)
		return
	}
	if refuseWatchList(w, r) {
		return
	}
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

// refuseWatchList makes client-go list first and then watch.
func refuseWatchList(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Query().Get("sendInitialEvents") == "" {
		return false
	}
	err := apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("ListOptions").GroupKind(), "", nil)
	reply(w, http.StatusUnprocessableEntity, err.ErrStatus)
	return true
}

func (k *fakeKip) pods(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") == "" {
		list := corev1.PodList{TypeMeta: meta("PodList"), ListMeta: k.listMeta(), Items: []corev1.Pod{}}
		k.mu.Lock()
		if k.pod != nil {
			list.Items = append(list.Items, *k.pod)
		}
		k.mu.Unlock()
		reply(w, http.StatusOK, list)
		return
	}
	if refuseWatchList(w, r) {
		return
	}
	events := make(chan metav1.WatchEvent, 100)
	k.mu.Lock()
	if since := r.URL.Query().Get("resourceVersion"); k.pod != nil && since != k.pod.ResourceVersion && since == "1" {
		raw, _ := json.Marshal(k.pod)
		events <- metav1.WatchEvent{Type: "ADDED", Object: runtime.RawExtension{Raw: raw}}
	}
	k.watchers[events] = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.watchers, events)
	}()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			_ = json.NewEncoder(w).Encode(e)
			w.(http.Flusher).Flush()
		}
	}
}

func (k *fakeKip) patchPodStatus(w http.ResponseWriter, r *http.Request) {
	patch, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	k.mu.Lock()
	pod := k.pod
	k.mu.Unlock()
	if pod == nil {
		notFound(w)
		return
	}
	before, _ := json.Marshal(pod)
	after, err := strategicpatch.StrategicMergePatch(before, patch, &corev1.Pod{})
	if err != nil {
		k.t.Errorf("the kubelet's patch %s: %v", patch, err)
	}
	patched := &corev1.Pod{}
	if err := json.Unmarshal(after, patched); err != nil {
		k.t.Error(err)
	}
	k.set("MODIFIED", patched)
	reply(w, http.StatusOK, patched)
}

func notFound(w http.ResponseWriter) {
	reply(w, http.StatusNotFound, metav1.Status{TypeMeta: meta("Status"), Status: "Failure", Reason: "NotFound", Code: 404, Message: "there is none"})
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}
