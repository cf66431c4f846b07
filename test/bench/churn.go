package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// churned is what pods that came and went took.
type churned struct {
	pods   int
	stuck  int // that did not in time
	took   time.Duration
	starts []time.Duration // made → runs
	usage  usage
	// first and last are Kip's resident memory, in bytes, in the first and the
	// last tenth of the time, the highest that was seen.
	first, last int64
	requests    requests
}

func (c churned) rate() float64 { return float64(c.pods) / max(c.took.Seconds(), 1) }

// lifeTimeout bounds one pod's life in the churn.
const lifeTimeout = 5 * time.Minute

// churn makes pods at a steady pace, and deletes each as soon as it runs.
func (s *scaling) churn(ctx context.Context) (c churned, err error) {
	if s.o.churn <= 0 {
		return c, nil
	}
	// What is asked only when a pod comes or goes is asked in a pod's life.
	offset, err := s.auditOffset()
	if err != nil {
		return c, err
	}
	pid, err := s.pid(ctx, localcluster.Kip)
	if err != nil {
		return c, err
	}
	began := time.Now()
	c.usage, err = s.usage(ctx, func(ctx context.Context) error {
		var mu sync.Mutex
		group, ctx := errgroup.WithContext(ctx)
		tick := time.NewTicker(time.Duration(float64(time.Second) / s.o.rate))
		defer tick.Stop()
		for i := 0; time.Since(began) < s.o.churn; i++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return group.Wait()
			}
			memory, err := readProcess(pid)
			if err != nil {
				return errors.Join(err, group.Wait())
			}
			switch at := time.Since(began); {
			case at < s.o.churn/10:
				c.first = max(c.first, memory.resident<<10)
			case at > s.o.churn*9/10:
				c.last = max(c.last, memory.resident<<10)
			}
			group.Go(func() error {
				start, err := s.live(ctx, fmt.Sprintf("churn-%d-%d", began.Unix(), i))
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					c.stuck++
					return nil
				}
				c.pods++
				c.starts = append(c.starts, start)
				return nil
			})
		}
		return group.Wait()
	})
	if err != nil {
		return c, err
	}
	c.took = time.Since(began)
	// Terminations follow the pods' ends.
	if err := s.awaitCells(ctx, s.have); err != nil {
		return c, err
	}
	c.requests, err = s.audited(offset, c.pods)
	return c, err
}

// live is one pod's life. It returns how long the pod took to run.
func (s *scaling) live(ctx context.Context, name string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, lifeTimeout)
	defer cancel()
	began := time.Now()
	pod, err := s.create(ctx, newPod(name, onKip))
	if err != nil {
		return 0, err
	}
	l, err := s.lives.await(ctx, pod.UID, func(l life) bool { return !l.runs.IsZero() })
	if err != nil {
		return 0, err
	}
	if err := s.kube.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return 0, fmt.Errorf("deleting pod %s: %w", name, err)
	}
	_, err = s.lives.await(ctx, pod.UID, func(l life) bool { return !l.gone.IsZero() })
	return l.runs.Sub(began), err
}

// inParallel calls f for 0 to n-1, some at a time.
func inParallel(ctx context.Context, n int, f func(i int) error) error {
	const atATime = 20
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error { return f(i) })
	}
	return group.Wait()
}
