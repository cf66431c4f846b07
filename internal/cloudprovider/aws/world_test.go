package aws

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/lifecycle"
	"github.com/elotl/kip/v2/internal/ec2local"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/hollow"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
	"github.com/elotl/kip/v2/internal/ec2local/throttle"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// workers are as many as the controller has.
const workers = 20

// world is the lifecycle controller with this driver, over an ec2local with
// hollow instances, without sockets: inside a bubble of testing/synctest its
// hours pass in seconds.
type world struct {
	t      *testing.T
	cloud  *ec2local.Server
	driver *Provider
	api    client.WithWatch
	kip    *lifecycle.Reconciler
	events *record.FakeRecorder
	queue  workqueue.TypedDelayingInterface[string]
	// lookEvery is how often the cloud is looked at, in whole seconds.
	lookEvery time.Duration

	mu      sync.Mutex
	calls   map[string]int // by action
	refused map[string]int // by action and code, as in "RunInstances Unsupported"
	reasons map[string]int // of conditions, by cells that ever had them
	had     map[string]bool
}

// newWorld needs Offerings, as lifecycle has it.
func newWorld(t *testing.T, limits throttle.Limits, offerings func(v1beta1.Requirements, instancetype.Options) instancetype.Result) *world {
	t.Helper()
	image := filepath.Join(t.TempDir(), "images", "cell")
	if err := os.MkdirAll(filepath.Join(image, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(image, "image.json"), []byte(`{"name":"cell-1","architecture":"x86_64"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, lookEvery: time.Minute, calls: map[string]int{}, refused: map[string]int{}, reasons: map[string]int{}, had: map[string]bool{}}
	log := slog.New(slog.DiscardHandler)
	var err error
	w.cloud, err = ec2local.New(ec2local.Config{
		Dir: t.TempDir(), Images: filepath.Dir(image), Region: "us-west-2", Zones: []string{"us-west-2a", "us-west-2b", "us-west-2c"},
		VPC: netip.MustParsePrefix("10.98.0.0/16"), Credentials: signature.Credentials{testKey: testSecret},
		Types: ec2local.CatalogueTypes(catalogue(t)), Hypervisor: hollow.Hypervisor{}, Throttling: limits,
		Delays: cloud.Delays{Retention: time.Hour}, Clock: clock.RealClock{}, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	w.events = record.NewFakeRecorder(100000)
	w.driver, err = newProvider(Config{
		Region: "us-west-2", ControllerID: "c/n/node", Image: ImageSpec{Filters: []ImageFilter{{"name", []string{"cell-*"}}}},
		Catalogue: catalogue(t), Clock: clock.RealClock{}, Metrics: metrics, Logger: log,
		Denied: func(action, _ string) { w.events.Event(&v1beta1.Cell{}, "Warning", "NodeDenied", action) },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.driver.ec2 = ec2.New(ec2.Options{
		Region: "us-west-2", BaseEndpoint: aws.String("http://ec2.local"), HTTPClient: w, Retryer: newReadRetryer(),
		Credentials: credentials.NewStaticCredentialsProvider(testKey, testSecret, ""),
	}, func(o *ec2.Options) { o.APIOptions = append(o.APIOptions, w.driver.calls.register) })

	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	w.api = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1beta1.Cell{}).Build()
	w.kip, err = lifecycle.New(lifecycle.Config{
		Client: w.api, Live: w.api, Cloud: w.driver, NodeName: "node", Offerings: offerings,
		UserData: func(*v1beta1.Cell) ([]byte, error) { return []byte("{}"), nil },
		Clock:    clock.RealClock{}, Events: w.events, Metrics: metrics, Logger: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// Do is the way to ec2local and back, which takes as long as to EC2.
func (w *world) Do(r *http.Request) (answer *http.Response, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	request := r.Clone(r.Context())
	request.Body, request.Host, request.RemoteAddr = io.NopCloser(bytes.NewReader(body)), r.URL.Host, "127.0.0.1:1"
	request.Header.Set("Content-Length", strconv.Itoa(len(body)))
	time.Sleep(100 * time.Millisecond)
	defer func() {
		if lost := recover(); lost != nil {
			answer, err = nil, io.ErrUnexpectedEOF
		}
		time.Sleep(200 * time.Millisecond)
	}()
	action := form.Get("Action")
	w.count(func() { w.calls[action]++ })
	out := httptest.NewRecorder()
	w.cloud.ServeHTTP(out, request)
	if out.Code != http.StatusOK {
		_, code, _ := strings.Cut(out.Body.String(), "<Code>")
		code, _, _ = strings.Cut(code, "</Code>")
		w.count(func() { w.refused[action+" "+code]++ })
	}
	return out.Result(), nil
}

func (w *world) count(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// faults replaces ec2local's script.
func (w *world) faults(rules string) {
	w.t.Helper()
	r := httptest.NewRequest(http.MethodPut, "/_ec2local/faults", strings.NewReader(rules))
	r.RemoteAddr = "127.0.0.1:1"
	out := httptest.NewRecorder()
	if w.cloud.ServeHTTP(out, r); out.Code != http.StatusNoContent {
		w.t.Fatalf("faults: %d %s", out.Code, out.Body)
	}
}

// add writes a Cell without a pod.
func (w *world) add(name string, req v1beta1.Requirements) {
	w.t.Helper()
	err := w.api.Create(w.t.Context(), &v1beta1.Cell{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Finalizers: []string{v1beta1.Finalizer}},
		Spec:       v1beta1.CellSpec{NodeName: "node", Requirements: req},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// run reconciles the cells as the controller does, and looks at the cloud now
// and then, until done says so or too much time has passed.
func (w *world) run(cells []string, limit time.Duration, done func() bool) (took time.Duration, looks int) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	w.queue = workqueue.NewTypedDelayingQueue[string]()
	var wg sync.WaitGroup
	wg.Go(func() { w.cloud.Drive(ctx) })
	for range workers {
		wg.Go(func() {
			for {
				name, end := w.queue.Get()
				if end {
					return
				}
				w.reconcile(ctx, name)
				w.queue.Done(name)
			}
		})
	}
	began := time.Now()
	for _, name := range cells {
		w.queue.Add(name)
	}
	for !done() && time.Since(began) < limit {
		time.Sleep(time.Second)
		if int(time.Since(began)/time.Second)%int(w.lookEvery/time.Second) != 0 {
			continue
		}
		looks++
		news, err := w.kip.Observe(ctx)
		if err != nil {
			continue // the next look may do better
		}
		for _, name := range news {
			w.queue.Add(name)
		}
	}
	took = time.Since(began)
	w.queue.ShutDown()
	cancel()
	wg.Wait()
	return took, looks
}

func (w *world) reconcile(ctx context.Context, name string) {
	result, err := w.kip.Reconcile(ctx, reconcile.Request{NamespacedName: types.NamespacedName{Name: name}})
	if err != nil {
		if ctx.Err() == nil {
			w.t.Errorf("Reconcile %s: %v", name, err)
		}
		return
	}
	if result.RequeueAfter > 0 {
		w.queue.AddAfter(name, result.RequeueAfter)
	}
	cell := w.cell(name)
	if cell == nil {
		return
	}
	if c := meta.FindStatusCondition(cell.Status.Conditions, v1beta1.ConditionReady); c != nil {
		w.count(func() {
			if !w.had[name+c.Reason] {
				w.had[name+c.Reason] = true
				w.reasons[c.Reason]++
			}
		})
	}
	if cell.Status.Phase == v1beta1.CellBooting && cell.Status.Enrolment == nil {
		base := cell.DeepCopy()
		cell.Status.Enrolment = &v1beta1.EnrolmentStatus{KeySHA256: "abc", Time: metav1.Now()}
		if err := w.api.Status().Patch(ctx, cell, client.MergeFrom(base)); err != nil && ctx.Err() == nil {
			w.t.Errorf("enrolling %s: %v", name, err)
		}
		w.queue.Add(name)
	}
}

// cell reads a Cell, nil if it is gone.
func (w *world) cell(name string) *v1beta1.Cell {
	cell := &v1beta1.Cell{}
	err := w.api.Get(context.Background(), types.NamespacedName{Name: name}, cell)
	if client.IgnoreNotFound(err) != nil {
		w.t.Errorf("reading %s: %v", name, err)
	}
	if err != nil {
		return nil
	}
	return cell
}

// started counts the cells that were Ready.
func (w *world) started() (n int) {
	w.count(func() { n = w.reasons[v1beta1.ReasonEnrolled] })
	return n
}

// oneEach checks that every cell has its instance, and no other one exists.
func (w *world) oneEach(cells []string) {
	w.t.Helper()
	all, err := w.driver.List(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	of := map[types.UID][]string{}
	for _, i := range all {
		of[i.CellUID] = append(of[i.CellUID], i.ID)
	}
	if len(all) != len(cells) {
		w.t.Errorf("%d instances for %d cells", len(all), len(cells))
	}
	for _, name := range cells {
		cell := w.cell(name)
		if ids := of[cell.UID]; len(ids) != 1 || ids[0] != cell.Status.InstanceID || cell.Status.Phase != v1beta1.CellReady {
			w.t.Errorf("%s is %s with instance %q, the cloud has %q for it", name, cell.Status.Phase, cell.Status.InstanceID, ids)
		}
	}
}

func names(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("cell-%04d", i))
	}
	return all
}
