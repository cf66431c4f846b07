package gateway

import (
	"fmt"
	"net/http"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// podView is the pod as the cell sees it. It is brought up to date by whoever
// looks, from what State says then; so it cannot miss anything and needs no
// goroutine.
type podView struct {
	mu sync.Mutex
	// seen is the pod that single was last made from.
	seen   *corev1.Pod
	single *watchcache.Single
}

// refreshPod brings the view of the pod up to date.
func (c *cellState) refreshPod() {
	v := &c.pod
	v.mu.Lock()
	defer v.mu.Unlock()
	// State is asked under the lock, so that an older answer cannot replace a
	// newer one.
	cell, ok := c.g.state.Cell(c.name)
	if !ok {
		return // not known is not gone
	}
	pod := c.g.boundPod(cell)
	if pod == nil {
		v.seen = nil
		v.single.Clear()
		c.endStreams()
		return
	}
	if pod == v.seen {
		return
	}
	if _, err := v.single.Set(pod.Name, pod.UID, visiblePod(pod)); err != nil {
		c.g.log.Error("a pod cannot be shown to its cell", "cell", c.name, "pod", pod.Namespace+"/"+pod.Name, "err", err)
		return
	}
	v.seen = pod
}

// visiblePod is the pod without what no kubelet needs. The version is added
// when it is written.
func visiblePod(pod *corev1.Pod) *corev1.Pod {
	visible := *pod
	visible.TypeMeta = metav1.TypeMeta{}
	visible.ManagedFields = nil
	visible.ResourceVersion = ""
	return &visible
}

// podSource is the view as a watch sees it: up to date whenever it looks.
type podSource struct {
	*watchcache.Single
	cell *cellState
}

func (s podSource) List(sel watchcache.Selector) ([]*watchcache.Object, uint64) {
	s.cell.refreshPod()
	return s.Single.List(sel)
}

func (s podSource) Since(version uint64, sel watchcache.Selector, events []watchcache.Event) ([]watchcache.Event, uint64, error) {
	s.cell.refreshPod()
	return s.Single.Since(version, sel, events)
}

// checkPodSelector makes sure that a cell asks for the pods of its node, which
// are its own pod, and does not believe that it was given others.
func (c *call) checkPodSelector() error {
	o := c.req.options
	if !o.labelSelector.Empty() {
		return refuse("a kubelet does not select pods by label")
	}
	if o.fieldSelector.Empty() {
		return nil
	}
	node, ok := o.fieldSelector.RequiresExactMatch("spec.nodeName")
	if !ok || len(o.fieldSelector.Requirements()) != 1 || node != c.cell.NodeName {
		return refuse("pods can only be selected by spec.nodeName=%s", c.cell.NodeName)
	}
	return nil
}

func (c *call) listPods() error {
	if err := c.checkPodSelector(); err != nil {
		return err
	}
	return watchcache.WriteList(c.w, podSource{c.cellState.pod.single, c.cellState}, watchcache.Selector{})
}

func (c *call) watchPods() error {
	if err := c.checkPodSelector(); err != nil {
		return err
	}
	return c.serveWatch(podSource{c.cellState.pod.single, c.cellState}, watchcache.Selector{}, true)
}

// ownPod makes sure that the request is about the cell's pod. With no pod
// nothing is its own, and what it asks for is not there: that is how a kubelet
// learns that its pod has gone.
func (c *call) ownPod() error {
	if c.pod == nil {
		return apierrors.NewNotFound(pods.GroupResource(), c.req.name)
	}
	if c.pod.Namespace != c.req.namespace || c.pod.Name != c.req.name {
		return refuse("it is not the pod of this cell")
	}
	return nil
}

func (c *call) getPod() error {
	if err := c.ownPod(); err != nil {
		return err
	}
	c.refreshPod()
	return c.writeSingle(c.cellState.pod.single)
}

// writeSingle answers with the present state of an object of this cell.
func (c *call) writeSingle(single *watchcache.Single) error {
	object, version := single.Get()
	if object == nil {
		return apierrors.NewNotFound(c.req.resource.GroupResource(), c.req.name)
	}
	return c.writeJSON(http.StatusOK, object.AppendJSON(nil, single.Kind(), version))
}

func (c *call) writeJSON(code int, data []byte) error {
	c.w.Header().Set("Content-Type", mediaTypeJSON)
	c.w.WriteHeader(code)
	if _, err := c.w.Write(data); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}
