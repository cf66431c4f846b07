package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/localcluster"
)

// The tests in this file stop parts of the cluster and so run alone.

// backWithin is how soon after its start Kip should reach the cells again.
const backWithin = 5 * time.Second

// kill ends a component of the cluster as a crash would.
func (s *space) kill(component string) {
	s.Helper()
	if err := shared.Kill(component); err != nil {
		s.Fatal(err)
	}
}

func (s *space) startComponent(component string) {
	s.Helper()
	if err := shared.Start(s.Context(), component); err != nil {
		s.Fatal(err)
	}
}

func (s *space) killAndStart(component string) {
	s.Helper()
	s.kill(component)
	s.startComponent(component)
}

// Kip is killed while pods run: they run on, and nobody sees a difference.
func TestKipKilledWhilePodsRun(t *testing.T) {
	s := newSpace(t)
	for _, name := range []string{"a", "b", "c"} {
		s.create(newPod(name, shell("main", forever), program("server", "serve")))
	}
	for _, name := range []string{"a", "b", "c"} {
		s.awaitReady(name)
	}
	before := s.living()
	watcher := s.watchRegress()

	s.kill(localcluster.Kip)
	// Longer than a kubelet's request waits for Kip to come back.
	time.Sleep(12 * time.Second)
	start := time.Now()
	s.startComponent(localcluster.Kip)
	s.eventually("exec works again", func(context.Context) error {
		out, code := s.tryKubectl("", "exec", "a", "-c", "main", "--", "echo", "here")
		if code != 0 || out != "here\n" {
			return fmt.Errorf("code %d: %s", code, out)
		}
		return nil
	})
	took := time.Since(start)
	t.Logf("exec worked %.1f s after Kip was started (aim: %s)", took.Seconds(), backWithin)
	for _, name := range []string{"b", "c"} {
		s.kubectl("exec", name, "-c", "main", "--", "true")
	}
	// Long enough for the kubelets to report and Kip to look at everything.
	time.Sleep(12 * time.Second)
	watcher.stop()
	if diff := cmp.Diff(before, s.living()); diff != "" {
		t.Errorf("the instances (-before +after)\n%s", diff)
	}
}

// Kip is killed in the middle of launching, twice: each pod gets one instance.
func TestKipKilledWhileLaunching(t *testing.T) {
	s := newSpace(t)
	const pods = 4
	for i := range pods {
		s.create(newPod(fmt.Sprintf("pod-%d", i), shell("main", forever)))
	}
	ours := func(ctx context.Context) (cells []v1beta1.Cell, launched int, err error) {
		var list v1beta1.CellList
		if err := shared.cells.List(ctx, &list); err != nil {
			return nil, 0, err
		}
		for _, c := range list.Items {
			if c.Spec.Pod == nil || c.Spec.Pod.Namespace != s.name {
				continue
			}
			cells = append(cells, c)
			if c.Status.Launch != nil {
				launched++
			}
		}
		return cells, launched, nil
	}
	for atLeast := 1; atLeast <= 2; atLeast++ {
		s.eventually("cells are being launched", func(ctx context.Context) error {
			_, launched, err := ours(ctx)
			if err == nil && launched < atLeast {
				err = fmt.Errorf("%d are", launched)
			}
			return err
		})
		s.killAndStart(localcluster.Kip)
	}
	for i := range pods {
		s.awaitReady(fmt.Sprintf("pod-%d", i))
	}
	cells, _, err := ours(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(cells) != pods {
		t.Errorf("%d cells for %d pods", len(cells), pods)
	}
	instances, err := shared.cloud.instances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	perCell := map[string]int{}
	for _, i := range instances {
		perCell[tag(i, "KipCellUID")]++
	}
	for _, c := range cells {
		if n := perCell[string(c.UID)]; n != 1 {
			t.Errorf("%d instances were launched for cell %s, want 1", n, c.Name)
		}
	}
}

// Cells' own programs are killed: the agent starts them again, and the
// containers do not notice.
func TestCellProgramKilled(t *testing.T) {
	s := newSpace(t)
	pod := s.start(newPod("pod", shell("main", forever)))
	m := machineOf(t, s.cellOf(pod))
	for _, name := range []string{"kubelet", "containerd", "kube-proxy"} {
		t.Run(name, func(t *testing.T) {
			s := &space{t, s.name}
			watcher := s.watchRegress()
			defer watcher.stop()
			// The shell forks before it runs sleep: for a moment there are two.
			var mains []int
			s.eventually("the container's process is seen alone", func(context.Context) error {
				if mains = m.processes(t, "sh"); len(mains) != 1 {
					return fmt.Errorf("processes %v", mains)
				}
				return nil
			})
			before := m.processes(t, name)
			if len(before) != 1 {
				t.Fatalf("processes %v, want one", before)
			}
			if err := syscall.Kill(before[0], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			took := s.eventually("it runs again", func(context.Context) error {
				if now := m.processes(t, name); len(now) != 1 || now[0] == before[0] {
					return fmt.Errorf("processes %v, killed was %d", now, before[0])
				}
				return nil
			})
			t.Logf("it ran again after %.1f s", took.Seconds())
			s.eventually("exec works", func(context.Context) error {
				if out, code := s.tryKubectl("", "exec", "pod", "--", "echo", "here"); out != "here\n" {
					return fmt.Errorf("code %d: %s", code, out)
				}
				return nil
			})
			if now := m.processes(t, "sh"); !slices.Contains(now, mains[0]) {
				t.Errorf("the container's process %d is gone; there are %v", mains[0], now)
			}
		})
	}
	// Still a kubelet that does its work, not one that only answers.
	s.kubectl("logs", "pod")
	s.delete("pod")
}

// ec2local is killed: its instances run on, and it knows them when it is back.
func TestCloudKilled(t *testing.T) {
	s := newSpace(t)
	s.start(newPod("before", shell("main", forever)))
	before := s.living()
	watcher := s.watchRegress()
	s.kill(localcluster.EC2Local)
	// Made while the cloud does not answer at all.
	s.create(newPod("meanwhile", shell("main", forever)))
	s.awaitPod("meanwhile", "its condition tells of the cloud", func(pod *corev1.Pod) error {
		if c := cellCondition(pod); c.Reason != v1beta1.ReasonCloudError {
			return fmt.Errorf("%s: %s", c.Reason, c.Message)
		}
		return nil
	})
	s.startComponent(localcluster.EC2Local)
	after := s.living()
	maps.DeleteFunc(after, func(id, _ string) bool { return before[id] == "" })
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the instances (-before +after)\n%s", diff)
	}
	s.awaitReady("meanwhile")
	s.kubectl("exec", "before", "--", "true")
	watcher.stop()
	pod, err := s.pod(t.Context(), "before")
	if err != nil {
		t.Fatal(err)
	}
	// An adopted machine is one that can be ended too.
	instance := s.cellOf(pod).Status.InstanceID
	s.delete("before")
	s.eventually("the instance is gone", func(ctx context.Context) error {
		if living, err := shared.cloud.living(ctx); err != nil || living[instance].InstanceId != nil {
			return errors.Join(err, errors.New("it lives"))
		}
		return nil
	})
}

// living are the instances that cost money, with the cell each is for: of this
// test's pods only, since others' may still be on their way out.
func (s *space) living() map[string]string {
	s.Helper()
	found, err := shared.cloud.living(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	cells := map[string]string{}
	for id, i := range found {
		if tag(i, "KipNamespace") == s.name {
			cells[id] = tag(i, "KipCell")
		}
	}
	return cells
}

// regress watches the namespace's pods and fails the test when the status of
// one that was ready goes back.
type regress struct {
	s     *space
	watch watch.Interface
	done  sync.WaitGroup
}

func (s *space) watchRegress() *regress {
	s.Helper()
	list, err := shared.kube.CoreV1().Pods(s.name).List(s.Context(), metav1.ListOptions{})
	if err != nil {
		s.Fatal(err)
	}
	ready := map[string]*corev1.Pod{}
	for i := range list.Items {
		if isReady(&list.Items[i]) == nil {
			ready[list.Items[i].Name] = &list.Items[i]
		}
	}
	w, err := shared.kube.CoreV1().Pods(s.name).Watch(context.Background(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		s.Fatal(err)
	}
	r := &regress{s: s, watch: w}
	r.done.Go(func() {
		for e := range w.ResultChan() {
			pod, ok := e.Object.(*corev1.Pod)
			if !ok || ready[pod.Name] == nil {
				continue
			}
			if e.Type == watch.Deleted {
				s.Errorf("pod %s was deleted", pod.Name)
				continue
			}
			if err := isReady(pod); err != nil {
				s.Errorf("pod %s was ready, now %v", pod.Name, err)
			}
			if diff := cmp.Diff(lives(ready[pod.Name]), lives(pod)); diff != "" {
				s.Errorf("the containers of pod %s (-before +after)\n%s", pod.Name, diff)
			}
		}
	})
	return r
}

// stop ends the watch; afterwards the pods may change as they like.
func (r *regress) stop() {
	r.watch.Stop()
	r.done.Wait()
}

// lives are what tells one life of a container from the next.
func lives(pod *corev1.Pod) map[string]string {
	all := map[string]string{"UID": string(pod.UID), "IP": pod.Status.PodIP}
	for _, c := range pod.Status.ContainerStatuses {
		all[c.Name] = fmt.Sprintf("%s, restarted %d times, running %t", strings.TrimPrefix(c.ContainerID, "containerd://"), c.RestartCount, c.State.Running != nil)
	}
	return all
}
