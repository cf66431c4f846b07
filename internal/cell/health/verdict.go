package health

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// verdict is that a cell is given up, and why.
type verdict struct {
	cell    *v1beta1.Cell
	failure v1beta1.FailureStatus
}

// giveUp writes a verdict into the Cell, as the API server has it now. If
// somebody else writes at the same time the next look decides again.
func (m *Monitor) giveUp(ctx context.Context, v verdict) error {
	cell := &v1beta1.Cell{}
	if err := m.cfg.Live.Get(ctx, client.ObjectKeyFromObject(v.cell), cell); err != nil {
		return client.IgnoreNotFound(err)
	}
	if cell.UID != v.cell.UID || !watched(cell) {
		return nil
	}
	base := cell.DeepCopy()
	v.failure.Time = metav1.NewTime(m.cfg.Clock.Now())
	cell.Status.Failure = &v.failure
	err := m.cfg.Client.Status().Patch(ctx, cell, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("giving up cell %s: %w", cell.Name, err)
	}
	m.metrics.givenUp.WithLabelValues(string(v.failure.Reason)).Inc()
	m.cfg.Logger.Warn("cell given up", "cell", cell.Name, "instance", cell.Status.InstanceID, "why", v.failure.Message)
	return nil
}
