package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

const burstImage = "bench-standin"

// bootDelay keeps instances from booting while something else is measured: of a
// burst while others are still being launched, of standby cells while the pod
// that took the last one starts. On EC2 they do not boot on these processors.
const bootDelay = 5 * time.Second

// burst makes pods at a steady pace. Their cells have the real agent but no
// kubelet and no container runtime: dozens of those that start at once on one
// machine would measure its processors, and nothing of Kip.
func (r runner) burst(ctx context.Context, o startOptions) ([]sample, error) {
	const kubelet, runtime = "opt/kip/bin/kubelet", "opt/kip/bin/containerd"
	err := r.makeImage(ctx, machineImage{
		name:     burstImage,
		leaveOut: []string{kubelet, runtime, "opt/kip/bin/kube-proxy", "opt/kip/bin/ctr"},
		build:    map[string]string{kubelet: "standin", runtime: "standin"},
	})
	if err != nil {
		return nil, err
	}
	if err := r.useImages(ctx, burstImage); err != nil {
		return nil, fmt.Errorf("having Kip use other images: %w", err)
	}
	// EC2 would let two pods start in each second, which says nothing of Kip.
	r.Unthrottled = true
	if err := r.bootLater(ctx); err != nil {
		return nil, err
	}
	// Kip has started anew: what it reads once is read by the first.
	if _, err := r.wave(ctx, "warm", 1, o.rate); err != nil {
		return nil, err
	}
	r.progress("a burst of %d pods, %g a second", o.burst, o.rate)
	return r.wave(ctx, "burst", o.burst, o.rate)
}

// bootLater has instances boot bootDelay after their launch.
func (b *bench) bootLater(ctx context.Context) error {
	b.BootDelay = bootDelay
	if err := b.Start(ctx, localcluster.EC2Local); err != nil {
		return fmt.Errorf("having instances boot later: %w", err)
	}
	return nil
}

// wave makes pods, waits until all their cells are connected, and removes them.
func (r runner) wave(ctx context.Context, name string, count int, rate float64) ([]sample, error) {
	calm, err := awaitCalm(ctx)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	var pods []*corev1.Pod
	for i := range count {
		pod, err := r.create(ctx, newPod(fmt.Sprintf("%s-%d", name, i), onKip))
		if err != nil {
			return nil, err
		}
		pods = append(pods, pod)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	var log map[string]*cellLog
	err = await(ctx, "the cells of the burst", func(context.Context) (_ bool, err error) {
		if log, err = r.kipLog(); err != nil {
			return false, err
		}
		for _, pod := range pods {
			if c := log[pod.Name]; c == nil || c.connected.IsZero() {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	var samples []sample
	for _, pod := range pods {
		s := sample{pod: pod.Name, at: map[step]time.Time{}, calm: calm}
		saw, err := r.watch.await(ctx, pod, func(s seen) bool { return !s.bound.IsZero() })
		if err != nil {
			return nil, err
		}
		s.at[bound] = saw.bound
		if err := r.outside(ctx, log[pod.Name], &s); err != nil {
			return nil, err
		}
		samples = append(samples, s)
	}
	// By force: there is no kubelet that would end them.
	now := int64(0)
	err = r.kube.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("deleting the pods of the burst: %w", err)
	}
	return samples, r.awaitNoCells(ctx)
}
