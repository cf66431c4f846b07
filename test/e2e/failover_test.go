package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// leaderAgain is how soon after a leader was killed another is to lead.
const leaderAgain = 15 * time.Second

// extraKip is a Kip beside the cluster's own.
type extraKip struct {
	*space
	name            string
	cmd             *exec.Cmd
	health, metrics string
	log             string
	ended           chan error
}

// startKip starts a Kip as the cluster starts its own, with further flags.
func (s *space) startKip(name string, flags ...string) *extraKip {
	s.Helper()
	cmd, err := shared.Command(localcluster.Kip)
	if err != nil {
		s.Fatal(err)
	}
	dir := s.TempDir()
	k := &extraKip{
		space: s, name: name, cmd: cmd, ended: make(chan error, 1),
		health: freeAddress(s, "127.0.0.1"), metrics: freeAddress(s, "127.0.0.1"), log: filepath.Join(dir, "log"),
	}
	host := ""
	for _, a := range cmd.Args {
		if ip, ok := strings.CutPrefix(a, "--node-ip="); ok {
			host = ip
		}
	}
	cmd.Args = append(cmd.Args, "--kubelet-listen="+freeAddress(s, host), "--metrics-listen="+k.metrics, "--health-listen="+k.health,
		"--data-dir="+filepath.Join(dir, "data"))
	cmd.Args = append(cmd.Args, flags...)
	log, err := os.Create(k.log)
	if err != nil {
		s.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	go func() { k.ended <- cmd.Wait() }()
	s.Cleanup(func() {
		k.end(syscall.SIGKILL)
		data, err := os.ReadFile(k.log)
		if err != nil {
			s.Error(err)
		}
		if refused := forbidden.Find(data); refused != nil {
			s.Errorf("Kip %s lacks a right: %s", name, refused)
		}
		if s.Failed() {
			s.Logf("the end of the log of Kip %s\n%s", name, data[max(0, len(data)-6000):])
		}
	})
	return k
}

// freeAddress is one on which nobody listens.
func freeAddress(s *space, host string) string {
	s.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		s.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// end ends it, if it runs, and waits for that.
func (k *extraKip) end(signal syscall.Signal) {
	_ = k.cmd.Process.Signal(signal)
	err := <-k.ended
	k.ended <- err
}

// state is what it says of itself when it is ready.
func (k *extraKip) state(ctx context.Context) (string, error) {
	body, err := get(ctx, "http://"+k.health+"/readyz")
	return strings.TrimPrefix(strings.TrimSpace(body), "ok: "), err
}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// await waits until it says this of itself.
func (k *extraKip) await(state string) time.Duration {
	k.Helper()
	return k.eventually(k.name+" is the "+state, func(ctx context.Context) error {
		select {
		case err := <-k.ended:
			k.ended <- err
			return fmt.Errorf("it ended: %w", err)
		default:
		}
		is, err := k.state(ctx)
		if err == nil && is != state {
			err = fmt.Errorf("it is the %s", is)
		}
		return err
	})
}

// checkIdle: a Kip that stands by reads, and does nothing else.
func (k *extraKip) checkIdle() {
	k.Helper()
	text, err := get(k.Context(), "http://"+k.metrics+"/metrics")
	if err != nil {
		k.Fatal(err)
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	leader := false
	for lines.Scan() {
		metric, value, _ := strings.Cut(lines.Text(), " ")
		labels := metric[strings.IndexByte(metric+"{", '{'):]
		name := strings.TrimSuffix(metric, labels)
		switch n, err := strconv.ParseFloat(value, 64); {
		case err != nil || n == 0:
			leader = leader || name == "kip_leader"
		case name == "kip_leader", name == "kip_cells_connected", name == "kip_cloud_calls_total":
			k.Errorf("%s stands by, and its metrics say %s", k.name, lines.Text())
		case name == "rest_client_requests_total" && !strings.Contains(labels, `method="GET"`):
			k.Errorf("%s stands by, and has written: %s", k.name, lines.Text())
		}
	}
	if !leader {
		k.Errorf("%s has no metric kip_leader", k.name)
	}
}

// notReady watches a virtual node and remembers how it was when it was not
// Ready.
type notReady struct {
	stop func()
	mu   sync.Mutex
	seen []string
}

func (s *space) watchNode(name string) *notReady {
	s.Helper()
	w, err := shared.kube.CoreV1().Nodes().Watch(context.Background(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		s.Fatal(err)
	}
	n := &notReady{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := range w.ResultChan() {
			node, ok := e.Object.(*corev1.Node)
			if !ok {
				continue
			}
			for _, c := range node.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
					n.mu.Lock()
					n.seen = append(n.seen, fmt.Sprintf("%s (%s)", c.Status, c.Message))
					n.mu.Unlock()
				}
			}
		}
	})
	n.stop = sync.OnceFunc(func() {
		w.Stop()
		wg.Wait()
	})
	s.Cleanup(n.stop)
	return n
}

// A leader is killed, and one ends in order, while pods run and another is
// launched: the other Kip of the virtual node goes on with its work.
func TestFailover(t *testing.T) {
	s := newSpace(t)
	s.kill(localcluster.Kip)
	t.Cleanup(func() { _ = shared.Start(context.Background(), localcluster.Kip) })
	first := s.startKip("first", "--leader-elect", "--identity=first")
	first.await("leader")
	second := s.startKip("second", "--leader-elect", "--identity=second")
	second.await("standby")

	s.create(newPod("a", shell("main", `echo said; `+forever), program("server", "serve")))
	s.create(newPod("b", shell("main", forever)))
	s.awaitReady("a")
	s.awaitReady("b")
	second.checkIdle()
	before := s.living()
	pods, node := s.watchRegress(), s.watchNode(localcluster.NodeName)

	late := s.create(newPod("late", shell("main", forever)))
	s.eventually("an instance is asked for", func(ctx context.Context) error {
		cell, err := findCell(ctx, late)
		if err == nil && cell.Status.Launch == nil {
			err = errors.New("it is not yet")
		}
		return err
	})
	killed := time.Now()
	first.end(syscall.SIGKILL)
	second.await("leader")
	if took := time.Since(killed); took > leaderAgain {
		t.Errorf("the second leads %.1f s after the first was killed, want %s", took.Seconds(), leaderAgain)
	}
	works := func() {
		t.Helper()
		s.eventually("exec works", func(context.Context) error {
			out, code := s.tryKubectl("", "exec", "a", "-c", "main", "--", "echo", "here")
			if code != 0 || out != "here\n" {
				return fmt.Errorf("code %d: %s", code, out)
			}
			return nil
		})
		if out := s.kubectl("logs", "a", "-c", "main"); out != "said\n" {
			t.Errorf("the log is %q", out)
		}
	}
	works()
	t.Logf("exec worked %.1f s after the leader was killed", time.Since(killed).Seconds())
	s.awaitReady("late")
	if cell := s.cellOf(late); cell.Spec.Attempt != 0 {
		t.Errorf("the pod that was being launched runs in its attempt %d", cell.Spec.Attempt)
	}
	launched := s.living()
	if len(launched) != len(before)+1 {
		t.Errorf("there are instances %v, before %v: want one more", launched, before)
	}

	// The other way round, and in order.
	third := s.startKip("third", "--leader-elect", "--identity=third")
	third.await("standby")
	third.checkIdle()
	ended := time.Now()
	second.end(syscall.SIGTERM)
	third.await("leader")
	t.Logf("the third leads %.1f s after the second was told to end", time.Since(ended).Seconds())
	works()

	// The same name need not wait, as a container that starts again.
	third.end(syscall.SIGKILL)
	again := s.startKip("again", "--leader-elect", "--identity=third")
	t.Logf("a Kip that started again under its name leads after %.1f s", again.await("leader").Seconds())
	works()

	pods.stop()
	node.stop()
	for _, was := range node.seen {
		t.Errorf("the virtual node was %s", was)
	}
	if diff := cmp.Diff(launched, s.living()); diff != "" {
		t.Errorf("the instances (-before +after)\n%s", diff)
	}
	again.end(syscall.SIGTERM)
}
