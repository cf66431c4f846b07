package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// TestStandbyCell: a pod takes a cell that waits, another one comes in its place,
// and without the configuration it goes again while the pod runs on.
func TestStandbyCell(t *testing.T) {
	s := newSpace(t)
	path := filepath.Join(shared.Dir, "provider.yaml")
	without, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const cells = "\ncells:\n"
	with := bytes.Replace(without, []byte(cells), []byte(cells+"  standbyCells: [{instanceType: t3a.nano, count: 1}]\n"), 1)
	if bytes.Equal(with, without) {
		t.Fatalf("%s does not say how cells are made", path)
	}
	t.Cleanup(func() { useProviderConfig(s, path, without) })
	useProviderConfig(s, path, with)
	first := s.awaitStandby()

	pod := s.start(newPod("pod", shell("main", "echo it runs; "+forever)))
	cell := s.cellOf(pod)
	if cell.Name != first.Name || cell.UID != first.UID || cell.Status.InstanceID != first.Status.InstanceID {
		t.Fatalf("the pod has cell %s, and %s waited for it", cell.Name, first.Name)
	}
	if out := s.kubectl("exec", "pod", "--", "echo", "hello"); out != "hello\n" {
		t.Errorf("exec says %q", out)
	}
	s.eventually("its log is there", func(context.Context) error {
		if out := s.kubectl("logs", "pod"); out != "it runs\n" {
			return fmt.Errorf("logs says %q", out)
		}
		return nil
	})
	if next := s.awaitStandby(); next.Name == first.Name {
		t.Errorf("cell %s has a pod and waits for another", next.Name)
	}

	useProviderConfig(s, path, without)
	s.eventually("the cell that waits goes", func(ctx context.Context) error {
		waiting, err := standbyCells(ctx)
		if len(waiting) > 0 {
			err = errors.Join(err, fmt.Errorf("%s is there", waiting[0].Name))
		}
		return err
	})
	now := s.awaitReady("pod")
	if diff := cmp.Diff(lives(pod), lives(now)); diff != "" || s.cellOf(now).UID != cell.UID {
		t.Errorf("the pod did not run on: %s", diff)
	}
	s.delete("pod")
}

// awaitStandby waits until exactly one cell waits for a pod.
func (s *space) awaitStandby() (cell v1beta1.Cell) {
	s.Helper()
	s.eventually("a cell waits for a pod", func(ctx context.Context) error {
		waiting, err := standbyCells(ctx)
		if err != nil {
			return err
		}
		if len(waiting) != 1 || waiting[0].Status.Phase != v1beta1.CellReady {
			return fmt.Errorf("there are %d, and not one that is Ready", len(waiting))
		}
		cell = waiting[0]
		return nil
	})
	return cell
}

func standbyCells(ctx context.Context) ([]v1beta1.Cell, error) {
	var all v1beta1.CellList
	if err := shared.cells.List(ctx, &all, client.MatchingLabels{v1beta1.LabelNode: "kip-provider-0"}); err != nil {
		return nil, err
	}
	var waiting []v1beta1.Cell
	for _, c := range all.Items {
		if c.Waiting() {
			waiting = append(waiting, c)
		}
	}
	return waiting, nil
}
