package controller

import (
	"context"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/elotl/kip/v2/api/v1beta1"
)

const fetched = "registry.example.com/team/app"

// fetchingWorld has an image of two layers whose second one the registry does not
// send before it is let. asked is told that it was asked for it.
func fetchingWorld(t *testing.T) (w *world, h *host, layers []v1.Layer, asked <-chan struct{}, send chan struct{}) {
	t.Helper()
	h = newHost(t, "registry.example.com")
	layers = []v1.Layer{layerOf(t, strings.Repeat("first", 1000)), layerOf(t, strings.Repeat("second", 1000))}
	h.push(t, "team/app:1", imageOf(t, layers...))
	second, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	was := make(chan struct{}, 10)
	send = make(chan struct{})
	h.before = func(digest string) {
		if digest == second.String() {
			was <- struct{}{}
			<-send
		}
	}
	return newWorld(t, h), h, layers, was, send
}

// condition is what is said of the image.
func condition(t *testing.T, w *world) (reason string, layers int, fetchedBy time.Time) {
	t.Helper()
	status := w.images(t)[fetched].Status
	if c := meta.FindStatusCondition(status.Conditions, v1beta1.ConditionReady); c != nil {
		reason = c.Reason
	}
	if status.FetchedBy != nil {
		fetchedBy = status.FetchedBy.Time
	}
	return reason, len(status.Layers), fetchedBy
}

// TestFetching: while an image is pulled, its CachedImage says which layers have
// come and how long cells may wait for the others.
func TestFetching(t *testing.T) {
	w, h, layers, asked, send := fetchingWorld(t)
	done := make(chan error)
	go func() { done <- w.run(t, "web", fetched+":1") }()
	<-asked
	if reason, n, by := condition(t, w); reason != v1beta1.ReasonFetching || n != 1 || !by.Equal(w.clock.Now().Add(fetchTime)) {
		t.Errorf("half of it is there: %s, %d layers, by %s", reason, n, by)
	}
	// Another pod with it keeps no worker from the images of others.
	if err := w.run(t, "web-2", fetched+":1"); err != nil {
		t.Error(err)
	}
	close(send)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	ready(t, w, fetched, layers...)
	if reason, _, by := condition(t, w); reason != v1beta1.ReasonCached || !by.IsZero() || h.sent(layers[0]) != 1 || h.sent(layers[1]) != 1 {
		t.Errorf("all of it is there: %s, by %s, pulled %d and %d times", reason, by, h.sent(layers[0]), h.sent(layers[1]))
	}
}

// TestFetchingFails: nobody waits for what does not come, and what came is not
// pulled again.
func TestFetchingFails(t *testing.T) {
	w, h, layers, asked, send := fetchingWorld(t)
	done := make(chan error)
	go func() { done <- w.run(t, "web", fetched+":1") }()
	<-asked
	h.set(func() { h.trouble = true })
	h.CloseClientConnections()
	close(send)
	if err := <-done; err == nil {
		t.Fatal("the registry hung up, and there is no error")
	}
	if reason, n, by := condition(t, w); reason != v1beta1.ReasonNotFetched || n != 1 || !by.IsZero() {
		t.Errorf("%s, %d layers, by %s", reason, n, by)
	}
	h.set(func() { h.trouble = false })
	w.clock.Step(restFor)
	if err := w.look(t, "web"); err != nil {
		t.Fatal(err)
	}
	ready(t, w, fetched, layers...)
	if n := h.sent(layers[0]); n != 1 {
		t.Errorf("the layer that had come was pulled %d times", n)
	}
}

// TestFetchingEnds with the controller: the next one goes on.
func TestFetchingEnds(t *testing.T) {
	w, h, layers, asked, send := fetchingWorld(t)
	ctx, kill := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.ensure(ctx, fetched+":1", nil) }()
	<-asked
	kill()
	if err := <-done; err == nil {
		t.Fatal("no error")
	}
	close(send)
	if reason, n, _ := condition(t, w); reason != v1beta1.ReasonFetching || n != 1 {
		t.Errorf("%s, %d layers", reason, n)
	}
	w.restart(t, h)
	if err := w.run(t, "web", fetched+":1"); err != nil {
		t.Fatal(err)
	}
	ready(t, w, fetched, layers...)
	if n := h.sent(layers[0]); n != 1 {
		t.Errorf("the layer that had come was pulled %d times", n)
	}
}
