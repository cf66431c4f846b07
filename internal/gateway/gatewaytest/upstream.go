package gatewaytest

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// Request is one that reached the API server.
type Request struct {
	Method string
	// Path is as it was sent, encoding included.
	Path   string
	Query  url.Values
	Header http.Header
	Body   string
}

// Upstream is an API server that serves the objects it was given, by path, and
// records every request. It knows no rules: that nothing wrong reaches it is
// what tests are to prove.
type Upstream struct {
	URL string

	mu       sync.Mutex
	objects  map[string]any
	requests []Request
	watches  map[string][]chan watchEvent
}

type watchEvent struct {
	Type   string `json:"type"`
	Object any    `json:"object"`
}

// NewUpstream starts an API server that lives as long as the test.
func NewUpstream(t testing.TB) *Upstream {
	u := &Upstream{objects: map[string]any{}, watches: map[string][]chan watchEvent{}}
	server := httptest.NewServer(u)
	// A watch that is still open must not keep the server from closing.
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	u.URL = server.URL
	return u
}

// Config leads to the API server.
func (u *Upstream) Config() *rest.Config { return &rest.Config{Host: u.URL} }

// Put makes an object be found at a path ("/api/v1/namespaces/a/secrets/b"),
// and tells the watches of it.
func (u *Upstream) Put(path string, object any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	kind := "ADDED"
	if _, ok := u.objects[path]; ok {
		kind = "MODIFIED"
	}
	u.objects[path] = object
	for _, ch := range u.watches[path] {
		ch <- watchEvent{kind, object}
	}
}

// Objects are all that were put, by path.
func (u *Upstream) Objects() map[string]any {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.objects)
}

// Requests are those that reached the API server so far, oldest first.
func (u *Upstream) Requests() []Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]Request(nil), u.requests...)
}

// Take returns the requests so far and forgets them.
func (u *Upstream) Take() []Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	requests := u.requests
	u.requests = nil
	return requests
}

// Watches is how many watches of the object at a path are open.
func (u *Upstream) Watches(path string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.watches[path])
}

// ServeHTTP implements http.Handler.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	u.mu.Lock()
	u.requests = append(u.requests, Request{
		Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.Query(), Header: r.Header.Clone(), Body: string(body),
	})
	u.mu.Unlock()

	w.Header().Set("Content-Type", "application/json")
	path := r.URL.Path
	if name, ok := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name="); ok {
		path += "/" + name
		if r.URL.Query().Get("watch") == "true" {
			u.watch(w, r, path)
			return
		}
		u.list(w, path)
		return
	}
	u.mu.Lock()
	object, ok := u.objects[path]
	u.mu.Unlock()
	switch {
	case r.Method == http.MethodPost:
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
	case !ok:
		status := apierrors.NewNotFound(schema.GroupResource{Resource: "objects"}, path).Status()
		status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		w.WriteHeader(int(status.Code))
		_ = json.NewEncoder(w).Encode(status)
	default:
		_ = json.NewEncoder(w).Encode(object)
	}
}

func (u *Upstream) list(w http.ResponseWriter, path string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	items := []any{}
	if object, ok := u.objects[path]; ok {
		items = append(items, object)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"kind": "List", "apiVersion": "v1", "metadata": map[string]any{"resourceVersion": "7"}, "items": items,
	})
}

// kindOf is the kind of the objects that a kubelet follows by name.
func kindOf(path string) string {
	if strings.Contains(path, "/secrets/") {
		return "Secret"
	}
	return "ConfigMap"
}

func (u *Upstream) watch(w http.ResponseWriter, r *http.Request, path string) {
	events := make(chan watchEvent, 100)
	u.mu.Lock()
	if object, ok := u.objects[path]; ok {
		events <- watchEvent{"ADDED", object}
	}
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		events <- watchEvent{"BOOKMARK", &metav1.PartialObjectMetadata{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: kindOf(path)},
			ObjectMeta: metav1.ObjectMeta{ResourceVersion: "7", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}},
		}}
	}
	u.watches[path] = append(u.watches[path], events)
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		for i, ch := range u.watches[path] {
			if ch == events {
				u.watches[path] = append(u.watches[path][:i], u.watches[path][i+1:]...)
				return
			}
		}
	}()
	flush := http.NewResponseController(w)
	for {
		if err := flush.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case event := <-events:
			if err := json.NewEncoder(w).Encode(event); err != nil {
				return
			}
		}
	}
}
