package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/features"
	featurestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/gateway"
)

func sharedService(name, clusterIP string, set map[string]string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: set, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}},
		Spec:       corev1.ServiceSpec{ClusterIP: clusterIP},
	}
}

// TestSharedInformers reads what every node knows with the informers of a
// kubelet and a kube-proxy.
func TestSharedInformers(t *testing.T) {
	for i := range 4 {
		watchList, stream := i&1 != 0, i&2 != 0
		t.Run(fmt.Sprintf("WatchList=%t/Stream=%t", watchList, stream), func(t *testing.T) {
			featurestesting.SetFeatureDuringTest(t, features.WatchListClient, watchList)
			h := newHarness(t, func(c *gateway.Config) {
				c.Client = fake.NewClientset(
					sharedService("web", "10.96.0.10", nil), sharedService("headless", "None", nil),
					sharedService("mesh", "10.96.0.11", map[string]string{"service.kubernetes.io/service-proxy-name": "x"}),
					&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web-1"}},
					&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "headless-1", Labels: map[string]string{corev1.IsHeadlessService: ""}}},
					&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "kata"}},
					&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "efs.csi.aws.com"}},
				)
			})
			h.Stream = stream
			shared := h.Config.Client
			ctx, cancel := context.WithCancel(context.Background())
			client := h.client(t, true)
			factory := func(fieldSelector, labelSelector string) informers.SharedInformerFactory {
				f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
					o.FieldSelector, o.LabelSelector = fieldSelector, labelSelector
				}))
				t.Cleanup(f.Shutdown)
				return f
			}
			plain := factory("", "")
			proxied := factory(fields.OneTermNotEqualSelector("spec.clusterIP", "None").String(), "!service.kubernetes.io/service-proxy-name")
			slices := factory("", "!"+corev1.IsHeadlessService)
			classes, drivers, cidrs := plain.Node().V1().RuntimeClasses().Lister(), plain.Storage().V1().CSIDrivers().Lister(), plain.Networking().V1().ServiceCIDRs().Lister()
			services, endpoints := proxied.Core().V1().Services().Lister(), slices.Discovery().V1().EndpointSlices().Lister()
			for _, f := range []informers.SharedInformerFactory{plain, proxied, slices} {
				f.Start(ctx.Done())
			}
			t.Cleanup(cancel)
			for _, f := range []informers.SharedInformerFactory{plain, proxied, slices} {
				for kind, ok := range f.WaitForCacheSync(ctx.Done()) {
					if !ok {
						t.Fatalf("%s is not synced", kind)
					}
				}
			}
			names := func() string {
				var out []string
				s, _ := services.List(labels.Everything())
				for _, o := range s {
					out = append(out, o.Name)
					if len(o.ManagedFields) > 0 {
						t.Error("managedFields are sent to cells")
					}
				}
				e, _ := endpoints.List(labels.Everything())
				for _, o := range e {
					out = append(out, o.Name)
				}
				c, _ := classes.List(labels.Everything())
				for _, o := range c {
					out = append(out, o.Name)
				}
				d, _ := drivers.List(labels.Everything())
				for _, o := range d {
					out = append(out, o.Name)
				}
				n, _ := cidrs.List(labels.Everything())
				return fmt.Sprint(out, len(n))
			}
			if got, want := names(), "[web web-1 kata efs.csi.aws.com] 0"; got != want {
				t.Errorf("first: %s, want %s", got, want)
			}
			must := func(_ any, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(shared.CoreV1().Services(ns).Update(ctx, sharedService("web", "None", nil), metav1.UpdateOptions{}))
			must(shared.CoreV1().Services(ns).Create(ctx, sharedService("api", "10.96.0.12", nil), metav1.CreateOptions{}))
			must(nil, shared.DiscoveryV1().EndpointSlices(ns).Delete(ctx, "web-1", metav1.DeleteOptions{}))
			eventually(t, "the changes are seen", func() bool { return names() == "[api kata efs.csi.aws.com] 0" })
			if requests := h.Upstream.Requests(); len(requests) > 0 {
				t.Errorf("shared resources were asked of the API server by a cell: %v", requests)
			}
		})
	}
}

func TestSharedVersions(t *testing.T) {
	h := newHarness(t)
	client := h.client(t, false).CoreV1().Services("")
	list, err := client.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Shared.CoreV1().Services(ns).Create(t.Context(), sharedService("web", "10.96.0.10", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w, err := client.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	select {
	case e := <-w.ResultChan():
		if e.Type != watch.Added || e.Object.(*corev1.Service).Name != "web" {
			t.Errorf("resumed: %+v", e)
		}
	case <-time.After(5 * time.Second):
		t.Error("the watch is silent")
	}
	for _, version := range []string{"1", "9999999999999999999"} {
		if _, err := client.Watch(t.Context(), metav1.ListOptions{ResourceVersion: version}); !apierrors.IsResourceExpired(err) {
			t.Errorf("version %s: %v, want expired", version, err)
		}
	}
	if _, err := client.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.type=NodePort"}); err != nil {
		t.Error(err)
	}
	if _, err := client.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.secret=x"}); !apierrors.IsBadRequest(err) {
		t.Errorf("an unknown field: %v", err)
	}
}

// TestSharedNotSynced: before the caches are filled a cell waits, and is not
// told that there is nothing.
func TestSharedNotSynced(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	client := fake.NewClientset()
	client.PrependReactor("list", "services", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("not now")
	})
	h := newHarness(t, func(c *gateway.Config) { c.Client, c.Clock = client, clock })
	eventually(t, "the gateway runs", func() bool { return clock.Waiters() == 1 })
	answer := make(chan string)
	go func() {
		code, body := h.do(t, "GET", "/api/v1/services", "")
		answer <- fmt.Sprint(code, body)
	}()
	eventually(t, "the request waits", func() bool { return clock.Waiters() == 2 })
	clock.Step(10 * time.Second)
	if got := <-answer; !strings.HasPrefix(got, "503") || !strings.Contains(got, "services") {
		t.Errorf("got %s", got)
	}
}

// TestSharedBookmarks: a watch that is told nothing for long, since its
// selector hides all changes, still learns how far it has come.
func TestSharedBookmarks(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Now())
	h := newHarness(t, func(c *gateway.Config) { c.Clock = clock })
	client := h.client(t, false).CoreV1().Services("")
	list, err := client.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing waits but the gateway", func() bool { return clock.Waiters() == 1 })
	w, err := client.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion, AllowWatchBookmarks: true, FieldSelector: "metadata.name=web"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if _, err := h.Shared.CoreV1().Services(ns).Create(t.Context(), sharedService("other", "10.96.0.10", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change is cached", func() bool {
		l, err := client.List(t.Context(), metav1.ListOptions{})
		return err == nil && l.ResourceVersion != list.ResourceVersion
	})
	eventually(t, "the bookmark", func() bool {
		clock.Step(time.Minute)
		select {
		case e := <-w.ResultChan():
			return e.Type == watch.Bookmark && e.Object.(*corev1.Service).ResourceVersion > list.ResourceVersion
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	eventually(t, "the service is counted", func() bool { return h.count(t, "kip_gateway_shared_objects", "services") == 1 })
}

// TestManyWatches lets many cells watch one cache through changes.
func TestManyWatches(t *testing.T) {
	const cells, changes = 300, 20
	h := newHarness(t)
	if _, err := h.client(t, false).CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	writers := make([]*countingWriter, cells)
	for i := range writers {
		name := fmt.Sprint("many-", i)
		other := standbyCell()
		other.Name = name
		h.State.SetCell(other)
		handler := h.Gateway.ForCell(name)
		writers[i] = &countingWriter{header: http.Header{}}
		wg.Go(func() {
			r, _ := http.NewRequestWithContext(ctx, "GET", "/api/v1/services?watch=true", nil)
			handler.ServeHTTP(writers[i], r)
		})
	}
	eventually(t, "all watches stand", func() bool { return h.count(t, "kip_gateway_watches", "services") == cells })
	for i := range changes {
		if _, err := h.Shared.CoreV1().Services(ns).Create(ctx, sharedService(fmt.Sprint("s", i), "10.96.0.10", nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range writers {
		eventually(t, "every watch has all changes", func() bool { return w.lines() == changes })
	}
	cancel()
	wg.Wait()
	if got := h.count(t, "kip_gateway_watches"); got != 0 {
		t.Errorf("%v watches are counted after all have ended", got)
	}
}

// countingWriter is a ResponseWriter that counts the lines written.
type countingWriter struct {
	header http.Header
	mu     sync.Mutex
	n      int
}

func (w *countingWriter) Header() http.Header { return w.header }
func (w *countingWriter) WriteHeader(int)     {}
func (w *countingWriter) Flush()              {}
func (w *countingWriter) Write(data []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n += bytes.Count(data, []byte("\n"))
	return len(data), nil
}

func (w *countingWriter) lines() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}
