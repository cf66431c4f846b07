package lifecycle

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/event"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

func TestSetupWithManager(t *testing.T) {
	w := newWorld(t)
	mgr, err := ctrl.NewManager(&rest.Config{Host: "http://127.0.0.1:1"}, ctrl.Options{
		Scheme: w.api.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"},
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) {
			m := meta.NewDefaultRESTMapper(nil)
			m.Add(v1beta1.GroupVersion.WithKind("Cell"), meta.RESTScopeRoot)
			m.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
			return m, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.kip.SetupWithManager(t.Context(), mgr); err != nil {
		t.Fatal(err)
	}
}

// TestStart: the cloud is asked once per tick, often while something moves and
// seldom otherwise, and each news reaches the controller.
func TestStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := cloudprovidertest.New(clock.RealClock{})
		w := newWorld(t)
		w.kip.cfg.Clock, w.kip.seen = clock.RealClock{}, newObserver(cloud.Provider("test"), clock.RealClock{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.kip.Start(ctx) }()
		var news []string
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			for {
				select {
				case e := <-w.kip.changed:
					news = append(news, e.Object.GetName())
				case <-ctx.Done():
					return
				}
			}
		}()

		time.Sleep(time.Minute)
		synctest.Wait()
		if n := cloud.Calls(cloudprovidertest.List); n != 5 {
			t.Errorf("%d looks in an idle minute, want 5", n)
		}
		i, err := cloud.Provider("test").Create(ctx, cloudprovider.LaunchRequest{
			ClientToken: "x", CellName: "cell-x", CellUID: "x", Launch: v1beta1.LaunchStatus{Zone: "us-west-2a"},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.kip.seen.transitional("x", true)
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if !slices.Equal(news, []string{"cell-x"}) {
			t.Errorf("heard of %q within two seconds, want cell-x", news)
		}
		cloud.Kill(i.ID, "")
		time.Sleep(time.Second)
		synctest.Wait()
		if !slices.Equal(news, []string{"cell-x", "cell-x"}) {
			t.Errorf("heard of %q, want cell-x twice", news)
		}

		before := cloud.Calls(cloudprovidertest.List)
		cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.List})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := cloud.Calls(cloudprovidertest.List) - before; n > 30 {
			t.Errorf("%d looks in ten minutes of failures, want them to become rare", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		<-heard
	})
}

func TestCellsOfPod(t *testing.T) {
	w := newWorld(t)
	w.add()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "pod-uid"}}
	got := w.kip.cellsOfPod(t.Context(), pod)
	if len(got) != 1 || got[0].NamespacedName != (types.NamespacedName{Name: testCell}) {
		t.Errorf("got %v", got)
	}
	pod.UID = "another"
	if got := w.kip.cellsOfPod(t.Context(), pod); len(got) != 0 {
		t.Errorf("got %v for a pod without a cell", got)
	}
}

func TestPodPhaseChanged(t *testing.T) {
	now := metav1.Now()
	running := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	for name, tc := range map[string]struct {
		reason string
		change func(*corev1.Pod)
		want   bool
	}{
		"heartbeat": {"does not concern the cell's phase", func(p *corev1.Pod) { p.Status.Message = "x" }, false},
		"phase":     {"running, ended", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, true},
		"deletion":  {"draining begins", func(p *corev1.Pod) { p.DeletionTimestamp = &now }, true},
		"other pod": {"of the same name", func(p *corev1.Pod) { p.UID = "new" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			after := running.DeepCopy()
			tc.change(after)
			if got := podPhaseChanged.Update(event.UpdateEvent{ObjectOld: running, ObjectNew: after}); got != tc.want {
				t.Errorf("%s: got %v", tc.reason, got)
			}
		})
	}
}
