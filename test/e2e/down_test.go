package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// touchPrograms does what make build does when nothing has changed.
func touchPrograms(t *testing.T) {
	t.Helper()
	programs, err := filepath.Glob(filepath.Join(shared.Root, "bin", "*"))
	if err != nil || len(programs) == 0 {
		t.Fatalf("there are %d programs: %v", len(programs), err)
	}
	for _, p := range programs {
		if err := os.Chtimes(p, time.Time{}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

// whatRuns are the processes and containers of the cluster in a directory. A
// machine that is replaced has other containers.
func whatRuns(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	files, err := filepath.Glob(filepath.Join(dir, "run", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, filepath.Base(f)+" "+string(data))
	}
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	pods, err := kube.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kip := false
	for _, p := range pods.Items {
		if len(p.OwnerReferences) > 0 && p.OwnerReferences[0].Kind == "Job" {
			continue // it may end by itself
		}
		kip = kip || p.Name == localcluster.NodeName
		for _, c := range p.Status.ContainerStatuses {
			all = append(all, fmt.Sprintf("%s/%s %s, %d restarts", p.Namespace, p.Name, c.ContainerID, c.RestartCount))
		}
	}
	if len(files) < 7 || !kip {
		t.Fatalf("this is not all that runs: %q", all)
	}
	return all
}

// kip-local up can be interrupted anywhere and repeated; kip-local down leaves
// the machine as it was, whatever runs. This test makes a cluster of its own.
func TestUpAndDown(t *testing.T) {
	name := fmt.Sprintf("down%d", os.Getpid()%100000)
	dir, err := os.MkdirTemp(filepath.Join(shared.Root, ".cache"), name+"-")
	if err != nil {
		t.Fatal(err)
	}
	local := func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, filepath.Join(shared.Root, "bin", "kip-local"),
			append([]string{"--root", shared.Root, "--name", name, "--dir", dir}, args...)...)
		// As Ctrl-C does, not as a crash.
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 30 * time.Second
		return cmd
	}
	down := func() {
		ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
		defer cancel()
		if out, err := local(ctx, "down").CombinedOutput(); err != nil {
			t.Errorf("kip-local down: %v\n%s", err, out)
		}
	}
	t.Cleanup(func() {
		if _, err := os.Stat(dir); err == nil {
			down()
		}
	})
	look := func() []string {
		t.Helper()
		all, err := traces(t.Context(), name, dir)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := look()

	// In the midst of everything: the first processes, the control plane, the
	// example's cells.
	for _, after := range []time.Duration{500 * time.Millisecond, 3 * time.Second, 5 * time.Second} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		out, err := local(ctx, "up").CombinedOutput()
		cancel()
		if err == nil {
			t.Logf("up was done before it was interrupted after %s", after)
		}
		t.Logf("up, interrupted after %s\n%s", after, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), upTimeout)
	defer cancel()
	out, err := local(ctx, "up").CombinedOutput()
	if err != nil {
		t.Fatalf("kip-local up after interruptions: %v\n%s", err, out)
	}
	for _, word := range []string{"POD", "CELL", "INSTANCE TYPE", "ZONE", "USD/HOUR", "IP", "Next:"} {
		if !strings.Contains(string(out), word) {
			t.Errorf("up does not print %q:\n%s", word, out)
		}
	}
	was := whatRuns(t, dir)
	touchPrograms(t)
	start := time.Now()
	if out, err := local(ctx, "up").CombinedOutput(); err != nil {
		t.Errorf("a second kip-local up: %v\n%s", err, out)
	}
	if diff := cmp.Diff(was, whatRuns(t, dir)); diff != "" {
		t.Errorf("a second up, with nothing changed, replaced something (-before +after)\n%s", diff)
	}
	took := time.Since(start)
	t.Logf("a second up took %.1f s", took.Seconds())
	if took > time.Minute {
		t.Errorf("a second up took %s, want less than a minute", took)
	}
	if out, err := local(ctx, "status").CombinedOutput(); err != nil {
		t.Errorf("kip-local status: %v\n%s", err, out)
	}
	if running := look(); len(running) < len(before)+10 {
		t.Errorf("of a running cluster only %d traces are seen: this test looks at the wrong things", len(running)-len(before))
	}

	start = time.Now()
	down()
	t.Logf("down took %.1f s", time.Since(start).Seconds())
	if diff := cmp.Diff(before, look()); diff != "" {
		t.Errorf("the machine (-before +after)\n%s", diff)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cluster's directory is still there: %v", err)
	}
	if out, err := local(ctx, "down").CombinedOutput(); err != nil {
		t.Errorf("down where nothing runs: %v\n%s", err, out)
	}
}
