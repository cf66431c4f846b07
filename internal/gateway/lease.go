package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// The Lease of a cell's node is the cell's heartbeat. It is kept here, for the
// kubelet to find again; the virtual node's own Lease is Kip's to renew.

var leaseKind = coordinationv1.SchemeGroupVersion.WithKind("Lease")

// ownLease makes sure that a request is about the Lease of the cell's node.
func (c *call) ownLease(name string) error {
	if c.req.namespace != corev1.NamespaceNodeLease || name != c.cell.NodeName {
		return refuse("it is not the lease of this cell's node")
	}
	return nil
}

func (c *call) getLease() error {
	if err := c.ownLease(c.req.name); err != nil {
		return err
	}
	c.mu.Lock()
	lease := c.lease
	c.mu.Unlock()
	if lease == nil {
		return apierrors.NewNotFound(leases.GroupResource(), c.req.name)
	}
	return c.writeObject(http.StatusOK, lease)
}

func (c *call) createLease() error {
	var lease coordinationv1.Lease
	if c.req.namespace != corev1.NamespaceNodeLease {
		return c.ownLease("")
	}
	if err := c.decodeBody(&lease, leaseKind); err != nil {
		return err
	}
	if err := c.ownLease(lease.Name); err != nil {
		return err
	}
	stored, err := c.storeLease(&lease, func(current *coordinationv1.Lease) error {
		if current != nil {
			return apierrors.NewAlreadyExists(leases.GroupResource(), lease.Name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.g.sink.Heartbeat(c.name, c.trouble())
	return c.writeObject(http.StatusCreated, stored)
}

func (c *call) updateLease() error {
	if err := c.ownLease(c.req.name); err != nil {
		return err
	}
	var lease coordinationv1.Lease
	if err := c.decodeBody(&lease, leaseKind); err != nil {
		return err
	}
	if lease.Name != c.req.name {
		return invalid("the name of a lease cannot change")
	}
	stored, err := c.storeLease(&lease, func(current *coordinationv1.Lease) error {
		switch {
		case current == nil:
			// After a restart of Kip. The kubelet makes it anew.
			return apierrors.NewNotFound(leases.GroupResource(), c.req.name)
		case lease.ResourceVersion != "" && lease.ResourceVersion != current.ResourceVersion:
			return apierrors.NewConflict(leases.GroupResource(), c.req.name, errors.New("it was changed meanwhile"))
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.g.sink.Heartbeat(c.name, c.trouble())
	return c.writeObject(http.StatusOK, stored)
}

// storeLease keeps what matters of a lease, if check does not mind.
func (c *call) storeLease(lease *coordinationv1.Lease, check func(current *coordinationv1.Lease) error) (*coordinationv1.Lease, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := check(c.lease); err != nil {
		return nil, err
	}
	stored := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name:              c.cell.NodeName,
			Namespace:         corev1.NamespaceNodeLease,
			UID:               types.UID("cell-" + c.cell.Name),
			ResourceVersion:   watchcache.Format(c.g.versions.Next()),
			CreationTimestamp: metav1.NewTime(c.g.clock.Now().Truncate(time.Second)),
			// Without its owner the kubelet would look its node up for every
			// renewal.
			OwnerReferences: lease.OwnerReferences,
		},
		Spec: lease.Spec,
	}
	if c.lease != nil {
		stored.CreationTimestamp = c.lease.CreationTimestamp
	}
	stored.SetGroupVersionKind(leaseKind)
	c.lease = stored
	return stored, nil
}

// writeObject answers with an object whose kind is set.
func (c *call) writeObject(code int, object runtime.Object) error {
	data, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	return c.writeJSON(code, data)
}
