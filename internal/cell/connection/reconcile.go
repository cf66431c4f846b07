package connection

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell"
)

var (
	_ reconcile.Reconciler           = (*Manager)(nil)
	_ manager.Runnable               = (*Manager)(nil)
	_ manager.LeaderElectionRunnable = (*Manager)(nil)
)

// SetupWithManager registers the controller and, as a runnable of the leader,
// Start.
func (m *Manager) SetupWithManager(mgr ctrl.Manager) error {
	if err := mgr.Add(m); err != nil {
		return fmt.Errorf("connection: adding the sessions: %w", err)
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("cell.connection").
		For(&v1beta1.Cell{}, builder.WithPredicates(cell.OfNode(m.cfg.NodeName))).
		Complete(m)
	if err != nil {
		return fmt.Errorf("connection: setting up the controller: %w", err)
	}
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: a cell talks to
// one Kip.
func (m *Manager) NeedLeaderElection() bool { return true }

// Reconcile makes the cell's session what the Cell wants: none, or one with the
// instance that it has now. It does not wait for the network.
func (m *Manager) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var cell v1beta1.Cell
	err := m.cfg.Client.Get(ctx, req.NamespacedName, &cell)
	if apierrors.IsNotFound(err) {
		m.end(req.Name)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("connection: reading the cell: %w", err)
	}
	t := target{cell: cell.Name, uid: cell.UID, instance: cell.Status.InstanceID, addr: m.cfg.Address(&cell), first: cell.StopsFirst()}
	// A cell that is draining is still talked to: its pod ends in good order,
	// and its logs are fetched. After that the Cell is deleted, and its end is
	// no loss.
	if t.addr == "" || cell.DeletionTimestamp != nil || cell.KeptStopped() || cell.Status.Phase == v1beta1.CellTerminating || cell.Spec.NodeName != m.cfg.NodeName {
		m.end(cell.Name)
		return reconcile.Result{}, nil
	}
	var key string
	if cell.Status.Enrolment != nil {
		key = cell.Status.Enrolment.KeySHA256
	}
	if s := m.session(cell.Name); s == nil || s.target != t {
		m.begin(t, cell.Status.Launch, key)
	} else if key != "" {
		s.setKey(key)
	}
	return reconcile.Result{}, nil
}
