package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// The CSINode of a cell's node says which CSI drivers run in the cell. It is
// the kubelet's to write and nobody else's to read.

var csiNodeKind = storagev1.SchemeGroupVersion.WithKind("CSINode")

func (c *call) currentCSINode() (*storagev1.CSINode, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.csiNode == nil {
		return nil, apierrors.NewNotFound(csiNodes.GroupResource(), c.cell.NodeName)
	}
	return c.csiNode, nil
}

func (c *call) getCSINode() error {
	if err := c.ownNode(); err != nil {
		return err
	}
	current, err := c.currentCSINode()
	if err != nil {
		return err
	}
	return c.writeObject(http.StatusOK, current)
}

func (c *call) createCSINode() error {
	var node storagev1.CSINode
	if err := c.decodeBody(&node, csiNodeKind); err != nil {
		return err
	}
	if node.Name != c.cell.NodeName {
		return refuse("it is not the node of this cell")
	}
	stored, err := c.storeCSINode(&node, func(current *storagev1.CSINode) error {
		if current != nil {
			return apierrors.NewAlreadyExists(csiNodes.GroupResource(), node.Name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.writeObject(http.StatusCreated, stored)
}

func (c *call) updateCSINode() error {
	if err := c.ownNode(); err != nil {
		return err
	}
	var node storagev1.CSINode
	if err := c.decodeBody(&node, csiNodeKind); err != nil {
		return err
	}
	return c.replaceCSINode(&node)
}

func (c *call) patchCSINode() error {
	if err := c.ownNode(); err != nil {
		return err
	}
	current, err := c.currentCSINode()
	if err != nil {
		return err
	}
	patched, _, err := c.patchBody(current)
	if err != nil {
		return err
	}
	var node storagev1.CSINode
	if err := json.Unmarshal(patched, &node); err != nil {
		return invalid("the patched object is no CSINode")
	}
	return c.replaceCSINode(&node)
}

func (c *call) replaceCSINode(node *storagev1.CSINode) error {
	if node.Name != c.cell.NodeName {
		return invalid("the name of a CSINode cannot change")
	}
	stored, err := c.storeCSINode(node, func(current *storagev1.CSINode) error {
		switch {
		case current == nil:
			return apierrors.NewNotFound(csiNodes.GroupResource(), c.req.name)
		case node.ResourceVersion != "" && node.ResourceVersion != current.ResourceVersion:
			return apierrors.NewConflict(csiNodes.GroupResource(), c.req.name, errors.New("it was changed meanwhile"))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.writeObject(http.StatusOK, stored)
}

// storeCSINode keeps what matters of a CSINode, if check does not mind.
func (c *call) storeCSINode(node *storagev1.CSINode, check func(current *storagev1.CSINode) error) (*storagev1.CSINode, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := check(c.csiNode); err != nil {
		return nil, err
	}
	stored := &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{
			Name:              c.cell.NodeName,
			UID:               types.UID("cell-" + c.cell.Name),
			ResourceVersion:   watchcache.Format(c.g.versions.Next()),
			CreationTimestamp: metav1.NewTime(c.g.clock.Now().Truncate(time.Second)),
			Labels:            node.Labels,
			Annotations:       node.Annotations,
			OwnerReferences:   node.OwnerReferences,
		},
		Spec: node.Spec,
	}
	if c.csiNode != nil {
		stored.CreationTimestamp = c.csiNode.CreationTimestamp
	}
	stored.SetGroupVersionKind(csiNodeKind)
	c.csiNode = stored
	return stored, nil
}

// deleteCSINode forgets the CSINode. A kubelet does so before it makes it
// anew.
func (c *call) deleteCSINode() error {
	if err := c.ownNode(); err != nil {
		return err
	}
	var options metav1.DeleteOptions
	if err := c.decodeDeleteOptions(&options); err != nil {
		return err
	}
	if _, err := c.currentCSINode(); err != nil {
		return err
	}
	c.mu.Lock()
	c.csiNode = nil
	c.mu.Unlock()
	writeSuccess(c.w)
	return nil
}

// deleteResourceSlices answers a kubelet that wants its node's ResourceSlices
// cleaned up, as every kubelet does when it starts. A cell has none. To pass
// the request on would delete those of the virtual node.
func (c *call) deleteResourceSlices() error {
	if node, ok := c.req.options.fieldSelector.RequiresExactMatch("spec.nodeName"); !ok || node != c.cell.NodeName {
		return refuse("resource slices can only be selected by spec.nodeName=%s", c.cell.NodeName)
	}
	writeSuccess(c.w)
	return nil
}
