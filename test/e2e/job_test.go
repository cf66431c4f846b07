package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// terminatedWithin is how soon after its pod's end an instance should be on its
// way out: it is paid for by the second.
const terminatedWithin = 2 * time.Second

// keptBytes is how much of a container's log Kip keeps at least.
const keptBytes = 10 << 20

const job = `
apiVersion: batch/v1
kind: Job
metadata: {name: job}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: job}}
    spec:
      restartPolicy: Never
      nodeSelector: {type: virtual-kubelet}
      tolerations: [{key: virtual-kubelet.io/provider, operator: Exists}]
      containers:
      - name: work
        image: docker.io/elotl/kip-e2e
        imagePullPolicy: IfNotPresent
        args: [print, "%d"]
        resources: {requests: {cpu: 100m, memory: 64Mi}}
`

// Of a Job that ended, the instance goes at once, and the log stays until the
// pod is deleted. It restarts Kip, so it runs alone.
func TestJob(t *testing.T) {
	s := newSpace(t)
	name, instance, took := s.runJob()
	// How fast that is, is the machine's business too: reported, not judged.
	t.Logf("the instance was being terminated at most %.1f s after the container's end (aim: %s), 10 MiB of log kept", (took + time.Second).Seconds(), terminatedWithin)
	s.kubectl("wait", "job/job", "--for=condition=Complete", "--timeout=60s")

	complete := func(when string) {
		t.Helper()
		log := s.kubectl("logs", "job/job")
		if len(log) != keptBytes || !strings.HasPrefix(log, "00000000 x") {
			t.Errorf("%s the log has %d bytes, want all %d", when, len(log), keptBytes)
		}
		for i, line := range strings.Split(strings.TrimSuffix(log, "\n"), "\n") {
			if !strings.HasPrefix(line, fmt.Sprintf("%08d ", i)) {
				t.Errorf("%s line %d begins with %.20q", when, i, line)
				break
			}
		}
		if end := s.kubectl("logs", "job/job", "--tail=1"); end != log[strings.LastIndexByte(log[:len(log)-1], '\n')+1:] {
			t.Errorf("%s --tail=1 shows %q", when, end)
		}
	}
	complete("after the end")
	s.eventually("the instance is gone", func(ctx context.Context) error {
		state, err := shared.cloud.state(ctx, instance)
		if err == nil && state != types.InstanceStateNameTerminated {
			err = fmt.Errorf("it is %s", state)
		}
		return err
	})
	complete("without the instance")

	s.killAndStart(localcluster.Kip)
	s.awaitLogs("job/job")
	complete("after a restart of Kip")

	s.deleteJob(name)
	if out, code := s.tryKubectl("", "logs", name); code == 0 {
		t.Errorf("the deleted pod still has a log: %.100q", out)
	}
}

// runJob makes the Job and returns when the instance of its pod is being
// terminated. Took is how long after the container's end that is seen; it is up
// to a second too short, since the end is told in whole seconds.
func (s *space) runJob() (pod, instance string, took time.Duration) {
	s.Helper()
	s.apply(fmt.Sprintf(job, keptBytes))
	s.eventually("the Job makes its pod", func(context.Context) error {
		if len(s.podsOf("job")) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	pod = s.podsOf("job")[0].Name
	launched := s.awaitPod(pod, "its instance was launched", func(pod *corev1.Pod) error {
		cell, err := findCell(s.Context(), pod)
		if err == nil && cell.Status.InstanceID == "" {
			err = errors.New("it was not")
		}
		return err
	})
	instance = s.cellOf(launched).Status.InstanceID

	var left time.Time
	s.eventually("the instance is being terminated", func(ctx context.Context) error {
		state, err := shared.cloud.state(ctx, instance)
		if err == nil && state != types.InstanceStateNameShuttingDown && state != types.InstanceStateNameTerminated {
			err = fmt.Errorf("it is %s", state)
		}
		left = time.Now()
		return err
	})
	ended, err := s.pod(s.Context(), pod)
	if err != nil {
		s.Fatal(err)
	}
	if ended.Status.Phase != corev1.PodSucceeded {
		s.Fatalf("the instance went while the pod is %s: %s", ended.Status.Phase, conditions(ended))
	}
	return pod, instance, left.Sub(ended.Status.ContainerStatuses[0].State.Terminated.FinishedAt.Add(time.Second))
}

// deleteJob deletes the Job and waits until its pod is gone.
func (s *space) deleteJob(pod string) {
	s.Helper()
	background := metav1.DeletePropagationBackground
	if err := shared.kube.BatchV1().Jobs(s.name).Delete(s.Context(), "job", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		s.Fatal(err)
	}
	s.awaitGone(pod)
}

// awaitLogs waits until Kip answers for its pods after a start.
func (s *space) awaitLogs(of string) {
	s.Helper()
	s.eventually("kubectl logs works", func(context.Context) error {
		if out, code := s.tryKubectl("", "logs", of, "--tail=1"); code != 0 {
			return errors.New(out)
		}
		return nil
	})
}

// A pod that fails is not run again, and its exit code and log can be seen.
func TestFailedPod(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := newPod("failing", shell("work", "echo out; echo problem >&2; exit 7"))
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	s.create(pod)
	ended := s.awaitPod("failing", "its end", hasEnded)
	if end := ended.Status.ContainerStatuses[0].State.Terminated; ended.Status.Phase != corev1.PodFailed || end == nil || end.ExitCode != 7 {
		t.Errorf("the pod is %s with %+v, want Failed and exit code 7", ended.Status.Phase, end)
	}
	s.awaitLogs("failing")
	if log := s.kubectl("logs", "failing"); !strings.Contains(log, "out\n") || !strings.Contains(log, "problem\n") {
		t.Errorf("the log is %q", log)
	}
	s.eventually("the cell is gone", func(ctx context.Context) error {
		if cell, err := findCell(ctx, ended); err == nil {
			return fmt.Errorf("it is %s", cell.Status.Phase)
		}
		return nil
	})
	if now := s.awaitPod("failing", "its end", hasEnded); now.UID != ended.UID {
		t.Error("the pod was replaced")
	}
}
