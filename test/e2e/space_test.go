package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/localcluster"
)

// patience is how long is waited for what takes seconds on an idle machine.
// Virtual machines that are emulated take minutes.
var patience = 90 * time.Second

// space is a test's own namespace.
type space struct {
	*testing.T
	name string
}

// newSpace makes a namespace. When the test has failed, what is in it is told
// before it is removed.
func newSpace(t *testing.T) *space {
	t.Helper()
	ns, err := shared.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := &space{t, ns.Name}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			s.describe(ctx)
		}
		if err := shared.kube.CoreV1().Namespaces().Delete(ctx, s.name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	// A pod cannot be made before its service account.
	s.eventually("the namespace's service account", func(ctx context.Context) error {
		_, err := shared.kube.CoreV1().ServiceAccounts(s.name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return s
}

// describe prints what is needed to understand a failure.
func (s *space) describe(ctx context.Context) {
	for _, args := range [][]string{
		{"get", "pods", "-n", s.name, "-o", "wide"},
		{"get", "cells", "-o", "wide"},
		{"describe", "pods", "-n", s.name},
		{"get", "events", "-n", s.name, "--sort-by=.lastTimestamp"},
	} {
		out, _ := kubectlCommand(ctx, args...).CombinedOutput()
		s.Logf("kubectl %s\n%s", strings.Join(args, " "), out)
	}
	if log, err := os.ReadFile(shared.LogPath(localcluster.Kip)); err == nil {
		s.Logf("the end of Kip's log\n%s", log[max(0, len(log)-6000):])
	}
}

// eventually repeats a check until it succeeds, for at most patience.
func (s *space) eventually(what string, check func(context.Context) error) time.Duration {
	s.Helper()
	return s.within(patience, what, check)
}

// within repeats a check until it succeeds, and returns how long that took. It
// ends the test when the limit is over.
func (s *space) within(limit time.Duration, what string, check func(context.Context) error) time.Duration {
	s.Helper()
	start := time.Now()
	if err := poll(s.Context(), limit, check); err != nil {
		s.Fatalf("%s: %v", what, err)
	}
	return time.Since(start)
}

// poll repeats a check until it succeeds or the limit is over.
func poll(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		// The check's own error says more than that of its context.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, last)
		case <-tick.C:
		}
	}
}

// create makes a pod.
func (s *space) create(pod *corev1.Pod) *corev1.Pod {
	s.Helper()
	made, err := shared.kube.CoreV1().Pods(s.name).Create(s.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return made
}

// start makes a pod and waits until it is ready.
func (s *space) start(pod *corev1.Pod) *corev1.Pod {
	s.Helper()
	s.create(pod)
	return s.awaitReady(pod.Name)
}

func (s *space) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	return shared.kube.CoreV1().Pods(s.name).Get(ctx, name, metav1.GetOptions{})
}

// awaitReady waits until the pod is ready.
func (s *space) awaitReady(name string) *corev1.Pod {
	s.Helper()
	return s.awaitPod(name, "a ready pod", isReady)
}

// awaitPod waits until check is nil for the pod.
func (s *space) awaitPod(name, what string, check func(*corev1.Pod) error) *corev1.Pod {
	s.Helper()
	var pod *corev1.Pod
	s.eventually(name+": "+what, func(ctx context.Context) (err error) {
		if pod, err = s.pod(ctx, name); err != nil {
			return err
		}
		return check(pod)
	})
	return pod
}

// delete deletes a pod, with its own grace period, and waits until it is gone.
func (s *space) delete(name string) time.Duration {
	s.Helper()
	if err := shared.kube.CoreV1().Pods(s.name).Delete(s.Context(), name, metav1.DeleteOptions{}); err != nil {
		s.Fatal(err)
	}
	return s.awaitGone(name)
}

func (s *space) awaitGone(name string) time.Duration {
	s.Helper()
	return s.eventually(name+": the pod is gone", func(ctx context.Context) error {
		_, err := s.pod(ctx, name)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil:
			return errors.New("it is still there")
		}
		return err
	})
}

func isReady(pod *corev1.Pod) error {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("it is %s: %s", pod.Status.Phase, conditions(pod))
}

func hasEnded(pod *corev1.Pod) error {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	return fmt.Errorf("it is %s: %s", pod.Status.Phase, conditions(pod))
}

// conditions are those that are not fulfilled, for error messages.
func conditions(pod *corev1.Pod) string {
	var words []string
	for _, c := range pod.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			words = append(words, fmt.Sprintf("%s (%s: %s)", c.Type, c.Reason, c.Message))
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			words = append(words, fmt.Sprintf("%s waits (%s: %s)", c.Name, w.Reason, w.Message))
		}
	}
	return "no " + strings.Join(words, ", no ")
}

// cell returns the pod's condition that speaks of its cell.
func cellCondition(pod *corev1.Pod) corev1.PodCondition {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1beta1.PodConditionCellReady {
			return c
		}
	}
	return corev1.PodCondition{}
}

// cellOf returns the pod's newest cell.
func (s *space) cellOf(pod *corev1.Pod) *v1beta1.Cell {
	s.Helper()
	cell, err := findCell(s.Context(), pod)
	if err != nil {
		s.Fatal(err)
	}
	return cell
}

// findCell is cellOf for other goroutines than the test's.
func findCell(ctx context.Context, pod *corev1.Pod) (*v1beta1.Cell, error) {
	var cells v1beta1.CellList
	if err := shared.cells.List(ctx, &cells); err != nil {
		return nil, err
	}
	var newest *v1beta1.Cell
	for i, c := range cells.Items {
		if c.Spec.Pod != nil && c.Spec.Pod.UID == pod.UID && (newest == nil || c.Spec.Attempt > newest.Spec.Attempt) {
			newest = &cells.Items[i]
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("pod %s has no cell", pod.Name)
	}
	return newest, nil
}

// awaitEvent waits for an event about the pod whose reason is one of reasons,
// and returns its message.
func (s *space) awaitEvent(pod string, reasons ...string) string {
	s.Helper()
	var message string
	s.eventually(fmt.Sprintf("%s: an event %s", pod, strings.Join(reasons, " or ")), func(ctx context.Context) error {
		events, err := shared.kube.CoreV1().Events(s.name).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range events.Items {
			for _, reason := range reasons {
				if e.Reason == reason {
					message = e.Message
					return nil
				}
			}
			seen = append(seen, e.Reason)
		}
		return fmt.Errorf("there are %v", seen)
	})
	return message
}

// kubectlCommand is a call of the real kubectl as the administrator.
func kubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, kubectlPath(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+shared.Kubeconfig())
	// A kubectl that is killed must not leave its test waiting for its output.
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func kubectlPath() string { return shared.Root + "/.cache/tools/bin/kubectl" }

// kubectl runs kubectl in the test's namespace and returns what it prints.
func (s *space) kubectl(args ...string) string {
	s.Helper()
	out, code := s.tryKubectl("", args...)
	if code != 0 {
		s.Fatalf("kubectl %s ended with %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// tryKubectl is kubectl with an input, and with its exit code. What is printed
// to standard error follows the output when it failed.
func (s *space) tryKubectl(input string, args ...string) (out string, code int) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	cmd := kubectlCommand(ctx, append([]string{"-n", s.name}, args...)...)
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.String(), 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return stdout.String() + stderr.String(), exit.ExitCode()
	}
	s.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	return "", 0
}

// apply applies a manifest.
func (s *space) apply(manifest string) {
	s.Helper()
	if out, code := s.tryKubectl(manifest, "apply", "-f", "-"); code != 0 {
		s.Fatalf("kubectl apply: %s", out)
	}
}
