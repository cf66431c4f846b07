package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/localcluster"
)

// standbyType is what the measured pod would be launched on.
const standbyType = "t3a.nano"

// awaitStandby waits until so many cells wait for a pod and there is no other:
// the one of the pod before has gone.
func (b *bench) awaitStandby(ctx context.Context, count int) error {
	return await(ctx, "standby cells", func(ctx context.Context) (bool, error) {
		var cells v1beta1.CellList
		err := b.cells.List(ctx, &cells)
		for i := range cells.Items {
			if c := &cells.Items[i]; !c.Waiting() || c.Status.Phase != v1beta1.CellReady {
				return false, err
			}
		}
		return len(cells.Items) == count, err
	})
}

// onStandbyCell adds what Kip and the cell know. What came before the pod is
// not part of its start.
func (r runner) onStandbyCell(ctx context.Context, pod *corev1.Pod, s *sample) error {
	cell, err := r.cellOf(pod)
	if err != nil {
		return err
	}
	if cell.taken.IsZero() {
		return fmt.Errorf("pod %s was launched instead of taking a standby cell", pod.Name)
	}
	s.at[taken] = cell.taken
	m, err := r.machine(cell.instance)
	if err != nil {
		return err
	}
	return r.inside(ctx, m, pod, s)
}

// onStandby starts one pod after the other, each on a standby cell. The image is
// one that every cell has. The first is not counted.
func (r runner) onStandby(ctx context.Context, pods int) ([]sample, error) {
	const kept = 1
	if err := r.bootLater(ctx); err != nil {
		return nil, err
	}
	if err := r.keepStandby(ctx, standbyType, kept); err != nil {
		return nil, fmt.Errorf("having Kip keep standby cells: %w", err)
	}
	var samples []sample
	for i := range pods + 1 {
		if err := r.awaitStandby(ctx, kept); err != nil {
			return nil, err
		}
		pod := newPod(fmt.Sprintf("standby-%d", i), onKip)
		pod.Spec.Containers[0].Image = localcluster.PauseImage
		// Within the type's baseline: it was launched without surplus credits.
		pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("50m")
		s, err := r.single(ctx, pod, r.onStandbyCell)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			continue
		}
		samples = append(samples, s)
		r.progress("%d of %d: ready after %s ms on a standby cell", i, pods, milliseconds(s.at[ready].Sub(s.at[bound])))
	}
	if err := r.keepNoStandby(ctx, standbyType, kept); err != nil {
		return nil, fmt.Errorf("having Kip keep no standby cells: %w", err)
	}
	return samples, r.awaitNoCells(ctx)
}
