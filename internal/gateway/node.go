package gateway

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// nodeView is the Node as the cell sees it: what its kubelet wrote, with what
// Kip knows better laid over it.
type nodeView struct {
	mu sync.Mutex
	// written is what the kubelet wrote last, nil before it did.
	written *corev1.Node
	// attached is what the API server's Node said when the cell asked last.
	attached []corev1.AttachedVolume
	single   *watchcache.Single
	// cell is what single was last made from, besides those two.
	cell    Cell
	made    bool
	created time.Time
}

// refreshNode brings the view of the node up to date.
func (c *cellState) refreshNode() {
	v := &c.node
	v.mu.Lock()
	defer v.mu.Unlock()
	cell, ok := c.g.state.Cell(c.name)
	if !ok {
		return
	}
	c.showNode(cell)
}

// showNode makes the view from cell and what was written. Its caller holds the
// lock.
func (c *cellState) showNode(cell Cell) {
	v := &c.node
	if v.made && equality.Semantic.DeepEqual(cell, v.cell) {
		return
	}
	node := overlaidNode(v.written, cell, v.attached, v.created)
	if _, err := v.single.Set(node.Name, node.UID, node); err != nil {
		c.g.log.Error("a node cannot be shown to its cell", "cell", c.name, "err", err)
		return
	}
	v.cell, v.made = cell, true
}

// overlaidNode is the Node that a cell sees: what its kubelet wrote, and over
// it what Kip knows better. Labels decide whether the kubelet admits its pod,
// and so does the capacity, which a kubelet in a container would take from the
// machine around it.
func overlaidNode(written *corev1.Node, cell Cell, attached []corev1.AttachedVolume, created time.Time) *corev1.Node {
	node := &corev1.Node{}
	if written != nil {
		node = written.DeepCopy()
	}
	node.TypeMeta = metav1.TypeMeta{}
	node.ObjectMeta = metav1.ObjectMeta{
		Name: cell.NodeName,
		// A cell's node is not the virtual node, nor another cell's.
		UID:               types.UID("cell-" + cell.Name),
		CreationTimestamp: metav1.NewTime(created.Truncate(time.Second)),
		Labels:            node.Labels,
		Annotations:       node.Annotations,
	}
	labels := map[string]string{
		corev1.LabelHostname: cell.NodeName,
		corev1.LabelOSStable: "linux",
	}
	maps.Copy(labels, node.Labels)
	maps.Copy(labels, cell.Labels)
	node.Labels = labels
	// Taints and cordons of the virtual node are the scheduler's business, and
	// it has decided.
	node.Spec = corev1.NodeSpec{}

	status := &node.Status
	status.VolumesAttached = attached
	if status.Capacity == nil {
		status.Capacity = corev1.ResourceList{}
	}
	if status.Allocatable == nil {
		status.Allocatable = corev1.ResourceList{}
	}
	maps.Copy(status.Capacity, cell.Capacity)
	maps.Copy(status.Allocatable, cell.Capacity)
	if cell.InternalIP != "" {
		status.Addresses = []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: cell.InternalIP},
			{Type: corev1.NodeHostName, Address: cell.NodeName},
		}
	}
	if !slices.ContainsFunc(status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady }) {
		status.Conditions = append(status.Conditions, corev1.NodeCondition{
			Type:               corev1.NodeReady,
			Status:             corev1.ConditionTrue,
			Reason:             "CellEnrolled",
			Message:            "Kip is connected to the cell",
			LastHeartbeatTime:  metav1.NewTime(created.Truncate(time.Second)),
			LastTransitionTime: metav1.NewTime(created.Truncate(time.Second)),
		})
	}
	return node
}

// noteAttached takes over which volumes are attached.
func (c *cellState) noteAttached(attached []corev1.AttachedVolume) {
	v := &c.node
	v.mu.Lock()
	defer v.mu.Unlock()
	if !slices.Equal(v.attached, attached) {
		v.attached, v.made = attached, false
	}
}

// maxTrouble is how much of a kubelet's words is passed on, in bytes: whoever is
// root on the cell may have written them.
const maxTrouble = 300

// trouble is why the kubelet says that its node is not ready, "" while it does
// not: a kubelet that renews its lease may be stuck, and knows it.
func (c *call) trouble() string {
	c.node.mu.Lock()
	node := c.node.written
	c.node.mu.Unlock()
	if node == nil {
		return ""
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
			why := cmp.Or(condition.Message, condition.Reason, "it does not say why")
			return strings.ToValidUTF8(why[:min(len(why), maxTrouble)], "")
		}
	}
	return ""
}

// nodeSource is the view as a watch sees it: up to date whenever it looks.
type nodeSource struct {
	*watchcache.Single
	cell *cellState
}

func (s nodeSource) List(sel watchcache.Selector) ([]*watchcache.Object, uint64) {
	s.cell.refreshNode()
	return s.Single.List(sel)
}

func (s nodeSource) Since(version uint64, sel watchcache.Selector, events []watchcache.Event) ([]watchcache.Event, uint64, error) {
	s.cell.refreshNode()
	return s.Single.Since(version, sel, events)
}

// ownNode makes sure that a request is about the cell's node.
func (c *call) ownNode() error {
	if c.req.name != c.cell.NodeName {
		return refuse("it is not the node of this cell")
	}
	return nil
}

// selectsOwnNode makes sure that a list or watch is of the cell's node alone.
func (c *call) selectsOwnNode() error {
	if name, ok := c.req.selectedName(); !ok || name != c.cell.NodeName {
		return refuse("nodes can only be selected by metadata.name=%s", c.cell.NodeName)
	}
	return nil
}

// getNode is how a kubelet looks whether a volume is attached, again and again,
// so that is looked up anew each time.
func (c *call) getNode() error {
	if err := c.ownNode(); err != nil {
		return err
	}
	attached, err := c.attachedVolumes()
	if err != nil {
		return err
	}
	c.noteAttached(attached)
	c.refreshNode()
	return c.writeSingle(c.cellState.node.single)
}

func (c *call) listNodes() error {
	if err := c.selectsOwnNode(); err != nil {
		return err
	}
	return watchcache.WriteList(c.w, nodeSource{c.cellState.node.single, c.cellState}, watchcache.Selector{})
}

func (c *call) watchNodes() error {
	if err := c.selectsOwnNode(); err != nil {
		return err
	}
	return c.serveWatch(nodeSource{c.cellState.node.single, c.cellState}, watchcache.Selector{}, true)
}

// patchNode applies a patch to the node as the cell sees it. What Kip knows
// better is laid over it again.
func (c *call) patchNode() error {
	if err := c.ownNode(); err != nil {
		return err
	}
	return c.writeNode(func(shown *corev1.Node) (*corev1.Node, error) {
		patched, patch, err := c.patchBody(shown)
		if err != nil {
			return nil, err
		}
		var node corev1.Node
		if err := json.Unmarshal(patched, &node); err != nil {
			return nil, invalid("the patched object is no Node")
		}
		if meta, _ := patch["metadata"].(map[string]any); meta["resourceVersion"] == nil {
			node.ResourceVersion = ""
		}
		return &node, nil
	})
}

// updateNode takes a whole node as the kubelet wrote it.
func (c *call) updateNode() error {
	if err := c.ownNode(); err != nil {
		return err
	}
	return c.writeNode(func(*corev1.Node) (*corev1.Node, error) {
		var node corev1.Node
		return &node, c.decodeBody(&node, corev1.SchemeGroupVersion.WithKind("Node"))
	})
}

// writeNode replaces what the kubelet wrote by what change makes of it.
func (c *call) writeNode(change func(shown *corev1.Node) (*corev1.Node, error)) error {
	v := &c.cellState.node
	// The body is read before the lock is taken: a slow sender must hold up
	// nobody. So the node may be another by then, which is checked below.
	shown, before, err := c.shownNode()
	if err != nil {
		return err
	}
	node, err := change(shown)
	if err != nil {
		return err
	}
	if node.Name != c.cell.NodeName {
		return invalid("the name of a node cannot change")
	}

	v.mu.Lock()
	defer v.mu.Unlock()
	_, version := v.single.Get()
	if version != before || (node.ResourceVersion != "" && node.ResourceVersion != watchcache.Format(version)) {
		return apierrors.NewConflict(nodes.GroupResource(), c.req.name, fmt.Errorf("it was changed meanwhile: apply the change to the newest version"))
	}
	cell, ok := c.g.state.Cell(c.name)
	if !ok {
		return errUnknownCell()
	}
	// A label that Kip lays over is not the kubelet's, and goes when Kip's goes.
	maps.DeleteFunc(node.Labels, func(key, _ string) bool { _, ok := v.cell.Labels[key]; return ok })
	v.written = &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Labels: node.Labels, Annotations: node.Annotations},
		Status:     node.Status,
	}
	v.made = false
	c.showNode(cell)
	return c.writeSingle(v.single)
}

// shownNode is the node as GET shows it, and its version.
func (c *call) shownNode() (*corev1.Node, uint64, error) {
	c.refreshNode()
	object, version := c.cellState.node.single.Get()
	if object == nil {
		return nil, 0, errUnknownCell()
	}
	var node corev1.Node
	if err := object.Decode(&node); err != nil {
		return nil, 0, fmt.Errorf("reading the node that is shown: %w", err)
	}
	node.ResourceVersion = watchcache.Format(version)
	return &node, version, nil
}
