package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/ec2local/fault"
)

// awaitCause waits until the pod's condition has the reason, and checks that
// the pod is Pending and the condition's message and an event of the same
// reason have the words in them by which a user understands.
func (s *space) awaitCause(pod, reason string, words ...string) {
	s.Helper()
	p := s.awaitPod(pod, "condition CellReady with reason "+reason, func(p *corev1.Pod) error {
		if c := cellCondition(p); c.Reason != reason {
			return fmt.Errorf("it is %s: %s", c.Reason, c.Message)
		}
		return nil
	})
	if p.Status.Phase != corev1.PodPending {
		s.Errorf("pod %s is %s, want Pending", pod, p.Status.Phase)
	}
	message := cellCondition(p).Message
	s.Logf("condition %s: %s", reason, message)
	event := s.awaitEvent(pod, reason)
	for _, word := range words {
		if !strings.Contains(message, word) {
			s.Errorf("the condition of pod %s does not say %q: %s", pod, word, message)
		}
		if !strings.Contains(event, word) {
			s.Errorf("the event of pod %s does not say %q: %s", pod, word, event)
		}
	}
}

// stays makes sure that a waiting pod goes on waiting: it neither fails nor is
// it made anew.
func (s *space) stays(pod string) {
	s.Helper()
	before, err := s.pod(s.Context(), pod)
	if err != nil {
		s.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	after, err := s.pod(s.Context(), pod)
	if err != nil || after.UID != before.UID || after.Status.Phase != corev1.PodPending {
		s.Errorf("pod %s does not stay Pending: %s (%v)", pod, after.Status.Phase, err)
	}
}

func TestWaitsForFittingType(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	container := shell("main", forever)
	container.Resources = requests("2000", "32Mi")
	s.create(newPod("huge", container))
	s.awaitCause("huge", v1beta1.ReasonNoInstanceTypeFits, "2000 vCPUs")
	s.stays("huge")
	s.kubectl("patch", "pod", "huge", "--subresource=resize",
		"-p", `{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"50m"}}}]}}`)
	s.awaitReady("huge")
}

func TestWaitsForKnownType(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := newPod("typo", shell("main", forever))
	pod.Annotations = map[string]string{"pod.elotl.co/instance-type": "t3.nanoo"}
	s.create(pod)
	s.awaitCause("typo", v1beta1.ReasonNoInstanceTypeFits, "t3.nanoo")
	s.stays("typo")
	s.kubectl("annotate", "pod", "typo", "--overwrite", "pod.elotl.co/instance-type=t3.small")
	ready := s.awaitReady("typo")
	if l := s.cellOf(ready).Status.Launch; l.InstanceType != "t3.small" {
		t.Errorf("it runs on a %s, want the one that it names", l.InstanceType)
	}
}

func TestWaitsForValidAnnotation(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := newPod("invalid", shell("main", forever))
	pod.Annotations = map[string]string{"pod.elotl.co/launch-type": "cheap"}
	s.create(pod)
	s.awaitCause("invalid", v1beta1.ReasonInvalidPod, "pod.elotl.co/launch-type", "cheap", "spot")
	s.kubectl("annotate", "pod", "invalid", "pod.elotl.co/launch-type-")
	s.awaitReady("invalid")
}

// A bad image and a missing Secret are the kubelet's to tell of, in its words.
func TestWaitsForImage(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	image := "docker.io/elotl/" + s.name + ":latest"
	pod := newPod("early", small("main", image))
	pod.Spec.Containers[0].Args = []string{"serve"}
	s.create(pod)
	s.awaitPod("early", "its container waits for the image", func(p *corev1.Pod) error {
		for _, c := range p.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil && (w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff") && strings.Contains(w.Message, image) {
				t.Logf("%s: %s", w.Reason, w.Message)
				return nil
			}
		}
		return fmt.Errorf("it is %s: %s", p.Status.Phase, conditions(p))
	})
	if message := s.awaitEvent("early", "Failed"); !strings.Contains(message, image) {
		t.Errorf("the event does not name the image: %s", message)
	}
	s.stays("early")
	if err := shared.Push(t.Context(), images[testImage], image); err != nil {
		t.Fatal(err)
	}
	took := s.eventually("the pod starts", func(ctx context.Context) error {
		p, err := s.pod(ctx, "early")
		if err != nil {
			return err
		}
		return isReady(p)
	})
	t.Logf("it was ready %.1f s after its image was there", took.Seconds())
}

func TestWaitsForSecret(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	container := shell("main", forever)
	container.VolumeMounts = []corev1.VolumeMount{{Name: "secret", MountPath: "/secret"}}
	pod := newPod("early", container)
	pod.Spec.Volumes = []corev1.Volume{{Name: "secret", VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: "late"},
	}}}
	s.create(pod)
	if message := s.awaitEvent("early", "FailedMount"); !strings.Contains(message, `"late"`) {
		t.Errorf("the event does not name the Secret: %s", message)
	}
	s.stays("early")
	if _, err := shared.kube.CoreV1().Secrets(s.name).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "late"}, StringData: map[string]string{"word": "sesame"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.awaitReady("early")
	if got := s.kubectl("exec", "early", "--", "cat", "/secret/word"); got != "sesame" {
		t.Errorf("the Secret holds %q", got)
	}
}

// The cloud has none of what fits. Only this test's pods ask for these types as
// spot capacity, so only they are refused.
func TestWaitsForCapacity(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := func(name, types string) *corev1.Pod {
		p := newPod(name, shell("main", forever))
		p.Annotations = map[string]string{"pod.elotl.co/launch-type": "spot", "pod.elotl.co/instance-type": types}
		return p
	}
	err := shared.cloud.setFaults(t.Context(),
		fault.Rule{Name: "none", InstanceType: "r5a.*", CapacityType: "spot"},
		fault.Rule{Name: "not the cheapest", InstanceType: "m5a.large", CapacityType: "spot"},
		fault.Rule{Name: "too fast", InstanceType: "c5a.large", CapacityType: "spot", Code: "RequestLimitExceeded", Count: 2},
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := shared.cloud.setFaults(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	s.create(pod("none", "r5a.*"))
	s.create(pod("second", "m5a.large,m5a.xlarge"))
	s.create(pod("throttled", "c5a.large"))
	either := pod("either", "m5a.large")
	either.Annotations["pod.elotl.co/launch-type"] = "spot-preferred"
	s.create(either)

	second := s.awaitReady("second")
	if l := s.cellOf(second).Status.Launch; l.InstanceType != "m5a.xlarge" || l.CapacityType != v1beta1.Spot {
		t.Errorf("when the cheapest was refused, %s (%s) was launched", l.InstanceType, l.CapacityType)
	}
	s.awaitReady("throttled")
	if l := s.cellOf(s.awaitReady("either")).Status.Launch; l.InstanceType != "m5a.large" || l.CapacityType != v1beta1.OnDemand {
		t.Errorf("when there was no spot capacity, %s (%s) was launched for a pod that accepts either", l.InstanceType, l.CapacityType)
	}

	s.awaitCause("none", v1beta1.ReasonInsufficientCapacity, "r5a.", "capacity")
	s.stays("none")
	if err := shared.cloud.setFaults(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Kip remembers for three minutes that an offering was refused.
	took := s.within(4*time.Minute, "the pod starts when there is capacity again", func(ctx context.Context) error {
		p, err := s.pod(ctx, "none")
		if err != nil {
			return err
		}
		return isReady(p)
	})
	t.Logf("it was ready %.0f s after the cloud had capacity again", took.Seconds())
}

// As many instances as the configuration allows are there: the next pod waits,
// with that reason, until one has ended or more are allowed. It changes Kip's
// configuration, so it runs alone.
func TestWaitsForLimit(t *testing.T) {
	s := newSpace(t)
	configure := s.cellsConfigurer()
	allow := func(instances int) {
		t.Helper()
		configure(fmt.Sprintf("limits: {namespaces: [{name: %s, instances: %d}]}", s.name, instances))
	}
	allow(1)
	s.start(newPod("first", shell("main", forever)))
	watcher := s.watchRegress()
	s.create(newPod("second", shell("main", forever)))
	s.awaitCause("second", v1beta1.ReasonLimitReached, s.name, "cells.limits.namespaces", "1;")
	s.stays("second")
	allow(2)
	s.awaitReady("second")
	s.create(newPod("third", shell("main", forever)))
	s.awaitCause("third", v1beta1.ReasonLimitReached, s.name, "2;")
	watcher.stop()
	s.delete("first")
	s.awaitReady("third")
}
