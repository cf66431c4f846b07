package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// TestStandbyCell: a pod takes a cell that waits, another one comes in its place,
// and without the configuration it goes again while the pod runs on. Another pod
// takes one whose instance is stopped.
func TestStandbyCell(t *testing.T) {
	s := newSpace(t)
	configure := s.cellsConfigurer()
	const running, stopped = "{instanceType: t3a.nano, count: 1}", "{instanceType: t3a.nano, count: 1, stopped: true}"
	configure("standbyCells: [" + running + ", " + stopped + "]")
	first := s.awaitStandby(v1beta1.CellReady)

	pod := s.start(newPod("pod", shell("main", "echo it runs; "+forever)))
	cell := s.tookCell(pod, first)
	if out := s.kubectl("exec", "pod", "--", "echo", "hello"); out != "hello\n" {
		t.Errorf("exec says %q", out)
	}
	s.eventually("its log is there", func(context.Context) error {
		if out := s.kubectl("logs", "pod"); out != "it runs\n" {
			return fmt.Errorf("logs says %q", out)
		}
		return nil
	})
	if next := s.awaitStandby(v1beta1.CellReady); next.Name == first.Name {
		t.Errorf("cell %s has a pod and waits for another", next.Name)
	}

	asleep := s.awaitStandby(v1beta1.CellStopped)
	if asleep.Status.Enrolment != nil || asleep.Status.Stop.RunningUSD != first.Status.Launch.HourlyUSD {
		t.Errorf("the cell that is kept stopped: %+v", asleep.Status)
	}
	configure("standbyCells: [" + stopped + "]")
	s.eventually("the cell that runs goes", func(ctx context.Context) error { return noneWaits(ctx, v1beta1.CellReady) })
	second := s.start(newPod("second", shell("main", forever)))
	if woken := s.tookCell(second, asleep); woken.Status.Stop == nil || woken.Status.PrimaryIP != asleep.Status.PrimaryIP || second.Status.PodIP != asleep.Status.PodIP {
		t.Errorf("stopped the cell was %+v, with its pod it is %+v", asleep.Status, woken.Status)
	}

	configure("")
	s.eventually("all that wait go", func(ctx context.Context) error { return noneWaits(ctx, "") })
	now := s.awaitReady("pod")
	if diff := cmp.Diff(lives(pod), lives(now)); diff != "" || s.cellOf(now).UID != cell.UID {
		t.Errorf("the pod did not run on: %s", diff)
	}
	s.delete("pod")
	s.delete("second")
}

// tookCell returns the pod's cell, which must be the one that waited.
func (s *space) tookCell(pod *corev1.Pod, waited v1beta1.Cell) *v1beta1.Cell {
	s.Helper()
	cell := s.cellOf(pod)
	if cell.Name != waited.Name || cell.UID != waited.UID || cell.Status.InstanceID != waited.Status.InstanceID {
		s.Fatalf("pod %s has cell %s, and %s waited for it", pod.Name, cell.Name, waited.Name)
	}
	return cell
}

// awaitStandby waits until exactly one cell in a phase waits for a pod.
func (s *space) awaitStandby(phase v1beta1.CellPhase) (cell v1beta1.Cell) {
	s.Helper()
	s.eventually("a cell waits for a pod", func(ctx context.Context) error {
		waiting, err := standbyCells(ctx, phase)
		if err != nil {
			return err
		}
		if len(waiting) != 1 || phase == v1beta1.CellStopped && waiting[0].Status.Stop.Stopped == nil {
			return fmt.Errorf("there are %d that are %s", len(waiting), phase)
		}
		cell = waiting[0]
		return nil
	})
	return cell
}

func noneWaits(ctx context.Context, phase v1beta1.CellPhase) error {
	waiting, err := standbyCells(ctx, phase)
	if len(waiting) > 0 {
		err = errors.Join(err, fmt.Errorf("%s is there", waiting[0].Name))
	}
	return err
}

// standbyCells are those without a pod in a phase, "" for any.
func standbyCells(ctx context.Context, phase v1beta1.CellPhase) ([]v1beta1.Cell, error) {
	var all v1beta1.CellList
	if err := shared.cells.List(ctx, &all, client.MatchingLabels{v1beta1.LabelNode: "kip-provider-0"}); err != nil {
		return nil, err
	}
	var waiting []v1beta1.Cell
	for _, c := range all.Items {
		if c.Waiting() && (phase == "" || c.Status.Phase == phase) {
			waiting = append(waiting, c)
		}
	}
	return waiting, nil
}
