package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// A kubelet follows every ConfigMap that its pod refers to, and kube-root-ca.crt
// is one of every pod's. So cells that follow the same one share a watch at the
// API server, as long as there is such a cell. Who joins is judged by Kip like
// everybody, and the API server would judge all of them alike: they are one node
// to it. Secrets are followed by each cell for itself: Kip keeps none.

// followedKey is a ConfigMap as a virtual node sees it.
type followedKey struct{ node, namespace, name string }

// followed is a ConfigMap that cells follow.
type followed struct {
	followedKey
	single *watchcache.Single
	// first is closed when it was read for the first time; err is then why it
	// could not be.
	first chan struct{}
	err   error
	// readers, and when the last one left, are guarded by the following's mu.
	// Without any it ends.
	readers int
	left    time.Time
	end     context.CancelFunc
}

// following is all that is followed.
type following struct {
	mu    sync.Mutex
	over  bool
	all   map[followedKey]*followed
	tasks sync.WaitGroup
}

// stop ends all of it, and whatever would be followed from now on.
func (f *following) stop() {
	f.mu.Lock()
	f.over = true
	for _, o := range f.all {
		o.end()
	}
	f.mu.Unlock()
	f.tasks.Wait()
}

// followBackoff is how long the API server is left alone after a watch, and ever
// longer while it does not answer.
var followBackoff = wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.5, Steps: 6, Cap: 30 * time.Second}

// follow returns a ConfigMap of the cell's pod, read at least once. The caller
// calls release when it follows it no more.
func (c *call) follow(name string) (_ *followed, release func(), err error) {
	key := followedKey{c.cell.NodeName, c.req.namespace, name}
	f := &c.g.following
	f.mu.Lock()
	if f.over {
		f.mu.Unlock()
		return nil, nil, unavailable("Kip is about to end")
	}
	o := f.all[key]
	if o == nil {
		ctx, end := context.WithCancel(context.Background())
		o = &followed{
			followedKey: key, end: end, first: make(chan struct{}),
			single: watchcache.NewSingle(corev1.SchemeGroupVersion.WithKind("ConfigMap"), c.g.versions),
		}
		f.all[key] = o
		f.tasks.Go(func() { c.g.keepUp(ctx, o) })
	}
	o.readers++
	f.mu.Unlock()
	release = sync.OnceFunc(func() { f.release(o) })
	select {
	case <-o.first:
	case <-c.ctx.Done():
		release()
		return nil, nil, c.ctx.Err()
	}
	if o.err != nil {
		release()
		return nil, nil, o.err
	}
	return o, release, nil
}

// followedFor is how long nobody may follow a ConfigMap before Kip does not
// either: a kubelet lists and then watches.
const followedFor = 10 * time.Second

func (f *following) release(o *followed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o.readers--
	o.left = time.Now()
	if o.readers > 0 {
		return
	}
	time.AfterFunc(followedFor, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if o.readers == 0 && time.Since(o.left) >= followedFor {
			f.forget(o)
		}
	})
}

// forget ends it. The caller holds the lock.
func (f *following) forget(o *followed) {
	o.end()
	if f.all[o.followedKey] == o {
		delete(f.all, o.followedKey)
	}
}

// keepUp reads the ConfigMap and keeps what is shown of it up to date until ctx
// ends, or reading it the first time fails: who needs it will ask again.
func (g *Gateway) keepUp(ctx context.Context, o *followed) {
	version, err := g.read(ctx, o)
	if err != nil {
		o.err = err
		g.following.mu.Lock()
		g.following.forget(o)
		g.following.mu.Unlock()
	}
	close(o.first)
	for backoff := followBackoff; ctx.Err() == nil; {
		if version == "" {
			version, err = g.read(ctx, o)
		}
		if err == nil {
			version, err = g.watchFrom(ctx, o, version)
		}
		if err == nil {
			backoff = followBackoff
		} else if ctx.Err() == nil {
			g.log.Debug("a ConfigMap cannot be followed", "namespace", o.namespace, "name", o.name, "err", err)
		}
		timer := g.clock.NewTimer(backoff.Step())
		select {
		case <-timer.C():
			err = nil
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (o *followed) path() string { return "/api/v1/namespaces/" + o.namespace + "/configmaps" }

// read lists the ConfigMap, which may not be there, and returns the version from
// which to watch it.
func (g *Gateway) read(ctx context.Context, o *followed) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	body, err := g.ask(ctx, o, url.Values{})
	if err != nil {
		return "", err
	}
	defer body.Close()
	var list corev1.ConfigMapList
	if err := json.NewDecoder(io.LimitReader(body, maxUpstreamObject)).Decode(&list); err != nil {
		return "", fmt.Errorf("reading ConfigMap %s/%s: %w", o.namespace, o.name, err)
	}
	if len(list.Items) == 0 {
		o.single.Clear()
		return list.ResourceVersion, nil
	}
	return list.ResourceVersion, o.show(&list.Items[0])
}

// show makes the ConfigMap what cells see.
func (o *followed) show(object *corev1.ConfigMap) error {
	if object.Name != o.name || object.Namespace != o.namespace {
		return fmt.Errorf("the API server answered with ConfigMap %s/%s instead of %s/%s", object.Namespace, object.Name, o.namespace, o.name)
	}
	object.TypeMeta, object.ManagedFields, object.ResourceVersion = metav1.TypeMeta{}, nil, ""
	_, err := o.single.Set(object.Name, object.UID, object)
	return err
}

// watchFrom follows the ConfigMap until the watch ends, and returns from where
// to go on; "" is from the beginning.
func (g *Gateway) watchFrom(ctx context.Context, o *followed, version string) (reached string, err error) {
	body, err := g.ask(ctx, o, url.Values{
		"watch": {"true"}, "resourceVersion": {version}, "allowWatchBookmarks": {"true"},
		"timeoutSeconds": {strconv.Itoa(int((minWatchTimeout + rand.N(minWatchTimeout)) / time.Second))},
	})
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return "", nil
	}
	if err != nil {
		return version, err
	}
	defer body.Close()
	for events := json.NewDecoder(body); ; {
		var event struct {
			Type   watch.EventType  `json:"type"`
			Object corev1.ConfigMap `json:"object"`
		}
		if err := events.Decode(&event); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return version, err
		}
		if event.Type == watch.Error {
			return "", nil
		}
		version = event.Object.ResourceVersion
		switch event.Type {
		case watch.Added, watch.Modified:
			if err := o.show(&event.Object); err != nil {
				return "", err
			}
		case watch.Deleted:
			o.single.Clear()
		}
	}
}

// ask asks the API server about the ConfigMap, as the virtual node. A status that
// it answers instead is the error.
func (g *Gateway) ask(ctx context.Context, o *followed, query url.Values) (io.ReadCloser, error) {
	query.Set("fieldSelector", metav1.ObjectNameField+"="+o.name)
	resp, err := g.send(ctx, o.node, upstreamRequest{method: http.MethodGet, path: o.path(), query: query})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxUpstreamObject))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", o.path(), err)
	}
	return nil, statusError(o.path(), resp.StatusCode, data)
}

// selectConfigMap answers a list or watch of exactly one ConfigMap by name.
func (c *call) selectConfigMap() error {
	name, err := c.selected()
	if err != nil {
		return err
	}
	if err := c.refersToConfigMap(name); err != nil {
		return err
	}
	o, release, err := c.follow(name)
	if err != nil {
		return err
	}
	if object, _ := o.single.Get(); object == nil {
		if m, ok := c.ifMissing(); ok {
			c.tellMissing(m)
		}
	}
	if c.req.verb != "watch" {
		defer release()
		return watchcache.WriteList(c.w, o.single, watchcache.Selector{})
	}
	ctx, done := c.untilPodGone(c.ctx)
	c.ctx, c.ended = ctx, func() { done(); release() }
	if c.g.boundPod(c.cell) == nil {
		c.ended()
		return c.noPod() // it went before there was a stream to end
	}
	return c.serveWatch(o.single, watchcache.Selector{}, false)
}
