package simulation

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/virtual-kubelet/virtual-kubelet/trace"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/connection"
	"github.com/elotl/kip/v2/internal/cell/garbagecollection"
	"github.com/elotl/kip/v2/internal/cell/health"
	"github.com/elotl/kip/v2/internal/cell/lifecycle"
	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/provider"
)

const (
	bootTimeout    = 2 * time.Minute
	healthyTimeout = 90 * time.Second
	statusInterval = 5 * time.Second
)

// kip is one life of a Kip.
type kip struct {
	world  *world
	number int
	cache  *view
	clock  *wallClock
	node   *nodes

	provider *provider.Provider

	mu sync.Mutex
	// about is what reconciliations are about.
	about map[types.UID]string

	// frozen: nothing that it asked for goes on before.
	frozen time.Time

	gone   chan struct{} // closed when it dies
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

func (k *kip) isDead() bool {
	select {
	case <-k.gone:
		return true
	default:
		return false
	}
}

// kill is kill -9: what it asked for and the API server or the cloud have got
// happens all the same, and nothing else.
func (k *kip) kill() {
	if k.isDead() {
		return
	}
	k.world.tell("kip%d is dead", k.number)
	close(k.gone)
	k.cancel()
	k.frozen = time.Time{} // what it had sent is on its way, and was not held by it
	for _, m := range k.world.sortedMachines() {
		if m.conn != nil && m.conn.kip == k {
			m.cut()
		}
	}
}

// alive are the Kips that run.
func (w *world) alive() []*kip {
	return slices.DeleteFunc(slices.Clone(w.kips), (*kip).isDead)
}

// start starts another Kip, which remembers nothing.
func (w *world) start() {
	ctx, cancel := context.WithCancel(w.t.Context())
	k := &kip{world: w, number: len(w.kips), clock: &wallClock{world: w}, node: &nodes{}, about: map[types.UID]string{}, gone: make(chan struct{}), cancel: cancel}
	k.cache = newView(k)
	w.kips = append(w.kips, k)
	w.tell("kip%d starts", k.number)
	run, err := k.assemble(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	k.ended.Go(func() {
		// As a manager does: first the caches, then everything else.
		for {
			_, err := ask(ctx, k, "lists everything", toAPI, func() (none struct{}, _ error) { k.cache.fill(); return none, nil })
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
		for i, r := range run {
			ctx := context.WithValue(ctx, partKey{}, fmt.Sprintf("part %d", i))
			k.ended.Go(func() {
				if err := r.Start(ctx); err != nil && ctx.Err() == nil {
					w.after(0, "Kip ends", func() { w.check.violated("kip%d ends by itself: %v", k.number, err) })
				}
			})
		}
	})
}

// assemble puts Kip together as package kip does.
func (k *kip) assemble(ctx context.Context) ([]manager.Runnable, error) {
	w := k.world
	mgr := &simulatedManager{kip: k}
	events := recorder{k}
	log := slog.New(slog.NewTextHandler(&errorLog{k}, &slog.HandlerOptions{Level: slog.LevelError}))
	if w.trace.print {
		log = slog.New(slog.NewTextHandler(printer{k}, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
	}
	var connections *connection.Manager
	watched := k.client("health")
	watched.looks = true
	monitor, err := health.New(health.Config{
		NodeName: nodeName, Client: watched, Live: k.liveReader("health"),
		Timeout: healthyTimeout, Interval: statusInterval, Cloud: kipCloud{w.cloud, k, "health"}, CloudInterval: time.Minute,
		Disconnected: func(cell string) string {
			if connections.Connected(cell) {
				return ""
			}
			return "it is not connected"
		},
		Changed: func(c *v1beta1.Cell) { k.provider.CellChanged(c) },
		Interrupt: func(ctx context.Context, cell string, i gateway.Interruption) error {
			return k.provider.Interruption(ctx, cell, i)
		},
		Clock: k.clock, Events: events, Metrics: prometheus.NewRegistry(), Logger: log,
	})
	if err != nil {
		return nil, err
	}
	// The library asks it from its own queues.
	asked := k.client("provider")
	asked.looks = true
	k.provider, err = provider.New(provider.Config{
		Client: asked, Live: k.liveReader("provider"), NodeName: nodeName, NodeLabels: map[string]string{"type": "virtual-kubelet"}, Region: "us-west-2",
		Architectures: func(*corev1.Pod) ([]string, bool) { return []string{"amd64"}, true },
		Capacity:      func(string) (corev1.ResourceList, bool) { return nil, false },
		Transport:     func(string) (http.RoundTripper, error) { return dialer{k}, nil },
		Health:        monitor, Following: func(string) bool { return false }, Logs: w.logs,
		Recorder: events, Metrics: prometheus.NewRegistry(), Clock: k.clock, Log: log,
	})
	if err != nil {
		return nil, err
	}
	if err := k.provider.SetupWithManager(ctx, mgr); err != nil {
		return nil, err
	}
	g, err := gateway.New(gateway.Config{
		State: serialState{k.provider, k}, Sink: k.provider, Registries: noRegistries{}, PodMetrics: noPodMetrics{},
		Upstream: nowhere, Client: unused(),
		Clock: k.clock, Metrics: prometheus.NewRegistry(), Log: log,
	})
	if err != nil {
		return nil, err
	}
	connections, err = connection.New(connection.Config{
		NodeName: nodeName, Client: k.client("connection"), Live: k.liveReader("connection"), Dialer: dialer{k}, Authorities: pki.NewAuthorities(authority()), Gateway: g.ForCell,
		Clock: k.clock, Events: events, Metrics: prometheus.NewRegistry(), Logger: log,
	})
	if err != nil {
		return nil, err
	}
	if err := connections.SetupWithManager(mgr); err != nil {
		return nil, err
	}
	cloud := kipCloud{w.cloud, k, "lifecycle"}
	life, err := lifecycle.New(lifecycle.Config{
		Client: k.client("lifecycle"), Live: k.liveReader("lifecycle"), Cloud: cloud, Routes: cloud, NodeName: nodeName, Offerings: offerings, BootTimeout: bootTimeout,
		UserData: func(c *v1beta1.Cell) ([]byte, error) { return []byte(authority().EnrolmentToken(c.UID)), nil },
		Ended:    w.check.used,
		Clock:    k.clock, Events: events, Metrics: prometheus.NewRegistry(), Logger: log,
	})
	if err != nil {
		return nil, err
	}
	if err := life.SetupWithManager(ctx, mgr); err != nil {
		return nil, err
	}
	cloud.who = "garbage"
	garbage, err := garbagecollection.New(garbagecollection.Config{
		Cloud: cloud, Routes: cloud, Cells: k.client("garbage"), Live: k.liveReader("garbage"), NodeName: nodeName,
		Clock: k.clock, Events: events, Metrics: prometheus.NewRegistry(), Logger: log,
	})
	if err != nil {
		return nil, err
	}
	node := provider.NewNode(provider.NodeConfig{Name: nodeName, Kubelet: config.Kubelet{
		CPU: resource.MustParse("100"), Memory: resource.MustParse("100Gi"), Pods: resource.MustParse("100"),
	}, IP: "10.0.0.1", Port: 10250, KubernetesVersion: "v1.36.3"})
	library := manager.RunnableFunc(func(ctx context.Context) error { return k.provider.Run(ctx, clientset{kip: k}, k.cache, node) })
	return append(mgr.run, monitor, garbage, library, manager.RunnableFunc(k.provider.Sweep)), nil
}

// authority is Kip's. All worlds have the same one.
var authority = sync.OnceValue(func() *pki.Authority {
	// The bubble's time begins with the century.
	a, err := pki.Create(time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC))
	if err != nil {
		panic(err)
	}
	return a
})

// nowhere is where requests of cells would go that are not about their pods; no
// kubelet here makes any.
var nowhere = &rest.Config{Host: "http://127.0.0.1:0"}

var unused = sync.OnceValue(func() kubernetes.Interface { return kubernetes.NewForConfigOrDie(nowhere) })

// simulatedManager collects what there is to run.
type simulatedManager struct {
	manager.Manager // nil: Kip uses nothing else of it
	kip             *kip
	run             []manager.Runnable
}

var scheme = sync.OnceValue(func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1beta1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
})

func (m *simulatedManager) Add(r manager.Runnable) error {
	m.run = append(m.run, r)
	return nil
}
func (m *simulatedManager) GetCache() ctrlcache.Cache            { return m.kip.cache }
func (m *simulatedManager) GetFieldIndexer() client.FieldIndexer { return m.kip.cache }
func (m *simulatedManager) GetScheme() *runtime.Scheme           { return scheme() }
func (m *simulatedManager) GetLogger() logr.Logger               { return logr.Discard() }
func (m *simulatedManager) GetControllerOptions() ctrlconfig.Controller {
	// The queue with priorities may leave a goroutine behind when it is shut down,
	// for which the bubble would wait.
	return ctrlconfig.Controller{SkipNameValidation: new(true), UsePriorityQueue: new(false), Logger: logr.Discard()}
}

var _ ctrl.Manager = (*simulatedManager)(nil)

// serialState makes the waking of the gateway's watches a step.
type serialState struct {
	*provider.Provider
	kip *kip
}

func (s serialState) Subscribe(cell string) (changed <-chan struct{}, cancel func()) {
	from, end := s.Provider.Subscribe(cell)
	to, over := make(chan struct{}, 1), make(chan struct{})
	w := s.kip.world
	go func() {
		for {
			select {
			case <-from:
			case <-over:
				return
			}
			w.at(time.Now(), s.kip, "kip wakes watches of "+cell, func() bool {
				select {
				case to <- struct{}{}:
				default:
				}
				return false
			})
		}
	}()
	return to, func() { end(); close(over) }
}

// wallClock is a Kip's. Its wall may jump; what has passed on it does not.
type wallClock struct {
	clock.RealClock
	world *world
	ahead atomic.Int64 // seconds
}

// Now has what a bubble's time lacks: beside the wall's time the monotonic one,
// by which Go tells how long something took. There is no way to make such a time
// but by its layout: a flag, the seconds since 1885 and the nanoseconds; then the
// monotonic part.
func (c *wallClock) Now() time.Time {
	real := time.Now()
	wall := real.Add(time.Duration(c.ahead.Load()) * time.Second)
	now := wall
	const since1885 = 85*365 + 20
	layout := (*struct {
		wall      uint64
		monotonic int64
	})(unsafe.Pointer(&now))
	layout.wall = 1<<63 | uint64(wall.Unix()+since1885*86400)<<30 | uint64(wall.Nanosecond())
	layout.monotonic = int64(real.Sub(c.world.began)) + 1
	return now
}

func (c *wallClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// namingTracer tells the library's queues apart, which trace what they do.
type namingTracer struct{ trace.Tracer }

func (t namingTracer) StartSpan(ctx context.Context, name string) (context.Context, trace.Span) {
	return t.Tracer.StartSpan(context.WithValue(ctx, partKey{}, "library's "+name), name)
}

// recorder takes events.
type recorder struct{ kip *kip }

var _ record.EventRecorder = recorder{}

func (r recorder) Event(runtime.Object, string, string, string)          {}
func (r recorder) Eventf(runtime.Object, string, string, string, ...any) {}
func (r recorder) AnnotatedEventf(runtime.Object, map[string]string, string, string, string, ...any) {
}

// printer prints Kip's log among what happens.
type printer struct{ kip *kip }

func (p printer) Write(line []byte) (int, error) {
	w := p.kip.world
	fmt.Printf("%10.3f kip%d log: %s", time.Since(w.began).Seconds(), p.kip.number, line)
	return len(line), nil
}

// errorLog looks for panics, of which a recovered one would go unnoticed.
type errorLog struct{ kip *kip }

func (e *errorLog) Write(line []byte) (int, error) {
	if panicked.Match(line) {
		w, what := e.kip.world, string(line)
		w.after(0, "a panic", func() { w.check.violated("kip%d: %s", e.kip.number, what) })
	}
	return len(line), nil
}
