package simulation

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func copyObject(from, to client.Object) {
	switch to := to.(type) {
	case *v1beta1.Cell:
		from.(*v1beta1.Cell).DeepCopyInto(to)
	case *corev1.Pod:
		from.(*corev1.Pod).DeepCopyInto(to)
	}
}

func kindOfList(l client.ObjectList) kind {
	if _, ok := l.(*v1beta1.CellList); ok {
		return cells
	}
	return pods
}

func copyList(found []client.Object, l client.ObjectList) {
	switch l := l.(type) {
	case *v1beta1.CellList:
		l.Items = nil
		for _, o := range found {
			l.Items = append(l.Items, *o.(*v1beta1.Cell).DeepCopy())
		}
	case *corev1.PodList:
		l.Items = nil
		for _, o := range found {
			l.Items = append(l.Items, *o.(*corev1.Pod).DeepCopy())
		}
	}
}

// kipClient is a Kip's way to the API server: it reads from the cache, and asks
// for everything else.
type kipClient struct {
	client.Client // nil: Kip uses nothing else of it
	kip           *kip
	// who reads and writes by it.
	who string
	// looks: it is read by in goroutines that reconcile nothing, too.
	looks bool
	// live reads past the cache.
	live bool
}

func (k *kip) client(who string) *kipClient {
	return &kipClient{kip: k, who: who}
}

// liveReader reads past the cache.
func (k *kip) liveReader(who string) *kipClient {
	c := k.client(who)
	c.live = true
	return c
}

// step makes reading one, where it is the first thing that a goroutine does
// after it was woken: many are woken at once. It is not where somebody reads who
// holds a lock, or the loop itself, which hands news to handlers.
func (c *kipClient) step(ctx context.Context, what string) error {
	if c.kip.isDead() {
		return errKilled
	}
	id := controller.ReconcileIDFromContext(ctx)
	again := id != "" && c.kip.begins(id, what)
	if again || id == "" && (!c.looks || ctx == context.Background()) {
		return nil
	}
	who := c.who
	if part, ok := ctx.Value(partKey{}).(string); ok && id == "" {
		who = part
	}
	_, err := ask(ctx, c.kip, who+" looks at "+what, inside, func() (struct{}, error) { return struct{}{}, nil })
	return err
}

// begins notes what a reconciliation is about: what it looks at first. It is true
// if that is known.
func (k *kip) begins(id types.UID, what string) (again bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, again = k.about[id]; !again {
		k.about[id] = what
	}
	return again
}

// aboutOf is what the reconciliation is about that a context is of.
func (k *kip) aboutOf(ctx context.Context) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.about[controller.ReconcileIDFromContext(ctx)]
}

// partKey is of the part of Kip that a context came from.
type partKey struct{}

func (c *kipClient) Get(ctx context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	k := kindOf(o)
	if c.live {
		found, err := ask(ctx, c.kip, fmt.Sprintf("%s gets %s %s", c.who, k, key.Name), toAPI, func() (client.Object, error) {
			return c.kip.world.api.get(k, key)
		})
		if err == nil {
			copyObject(found, o)
		}
		return err
	}
	if err := c.step(ctx, string(k)+" "+key.Name); err != nil {
		return err
	}
	return c.kip.cache.get(key, o)
}

func (c *kipClient) List(ctx context.Context, l client.ObjectList, opts ...client.ListOption) error {
	if c.live {
		k := kindOfList(l)
		found, err := ask(ctx, c.kip, fmt.Sprintf("%s lists %s because of %s", c.who, k, c.kip.aboutOf(ctx)), toAPI, func() ([]client.Object, error) {
			return c.kip.world.api.list(k), nil
		})
		if err == nil {
			copyList(found, l)
		}
		return err
	}
	if err := c.step(ctx, "all "+string(kindOfList(l))); err != nil {
		return err
	}
	return c.kip.cache.list(l, opts)
}

// write asks for a change and takes over what became of the object.
func (c *kipClient) write(ctx context.Context, verb string, o client.Object, effect func() (client.Object, error)) error {
	now, err := ask(ctx, c.kip, fmt.Sprintf("%s %s %s %s", c.who, verb, kindOf(o), o.GetName()), toAPI, effect)
	if err == nil {
		copyObject(now, o)
	}
	return err
}

func (c *kipClient) Create(ctx context.Context, o client.Object, _ ...client.CreateOption) error {
	sent := o.DeepCopyObject().(client.Object)
	return c.write(ctx, "creates", o, func() (client.Object, error) { return c.kip.world.api.create(sent) })
}

func (c *kipClient) Update(ctx context.Context, o client.Object, _ ...client.UpdateOption) error {
	sent := o.DeepCopyObject().(client.Object)
	return c.write(ctx, "updates", o, func() (client.Object, error) { return c.kip.world.api.update(sent, false) })
}

func (c *kipClient) Patch(ctx context.Context, o client.Object, patch client.Patch, _ ...client.PatchOption) error {
	return c.patch(ctx, o, patch, false)
}

func (c *kipClient) patch(ctx context.Context, o client.Object, patch client.Patch, status bool) error {
	data, err := patch.Data(o)
	if err != nil {
		return err
	}
	verb := "patches"
	if status {
		verb = "patches the status of"
	}
	k, key := kindOf(o), client.ObjectKeyFromObject(o)
	return c.write(ctx, verb, o, func() (client.Object, error) { return c.kip.world.api.patch(k, key, data, status) })
}

func (c *kipClient) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	var options client.DeleteOptions
	options.ApplyOptions(opts)
	k, key := kindOf(o), client.ObjectKeyFromObject(o)
	_, err := ask(ctx, c.kip, fmt.Sprintf("%s deletes %s %s", c.who, k, key.Name), toAPI, func() (struct{}, error) {
		return struct{}{}, c.kip.world.api.delete(k, key, options)
	})
	return err
}

func (c *kipClient) Status() client.SubResourceWriter { return statusWriter{c: c} }

type statusWriter struct {
	client.SubResourceWriter // nil: as above
	c                        *kipClient
}

func (s statusWriter) Patch(ctx context.Context, o client.Object, patch client.Patch, _ ...client.SubResourcePatchOption) error {
	return s.c.patch(ctx, o, patch, true)
}

// clientset is what virtual-kubelet's library reaches the API server by.
type clientset struct {
	kubernetes.Interface // nil: as above
	kip                  *kip
}

func (c clientset) CoreV1() coreclient.CoreV1Interface { return core{kip: c.kip} }

func (c clientset) CoordinationV1() coordinationclient.CoordinationV1Interface { return coordination{} }

type core struct {
	coreclient.CoreV1Interface
	kip *kip
}

func (c core) Nodes() coreclient.NodeInterface { return c.kip.node }

func (c core) Pods(namespace string) coreclient.PodInterface { return podClient{kip: c.kip} }

type podClient struct {
	coreclient.PodInterface
	kip *kip
}

func (c podClient) UpdateStatus(ctx context.Context, pod *corev1.Pod, _ metav1.UpdateOptions) (*corev1.Pod, error) {
	sent := pod.DeepCopy()
	now, err := ask(ctx, c.kip, "updates the status of pods "+pod.Name, toAPI, func() (client.Object, error) {
		return c.kip.world.api.update(sent, true)
	})
	if err != nil {
		return nil, err
	}
	return now.(*corev1.Pod).DeepCopy(), nil
}

// nodes is the virtual node's own object, with which nothing goes wrong: none of
// what is simulated depends on it.
type nodes struct {
	coreclient.NodeInterface
	node *corev1.Node
}

func (n *nodes) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Node, error) {
	if n.node == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	return n.node.DeepCopy(), nil
}

func (n *nodes) Create(_ context.Context, node *corev1.Node, _ metav1.CreateOptions) (*corev1.Node, error) {
	n.node = node.DeepCopy()
	return node, nil
}

func (n *nodes) Patch(context.Context, string, types.PatchType, []byte, metav1.PatchOptions, ...string) (*corev1.Node, error) {
	return n.node.DeepCopy(), nil
}

type coordination struct {
	coordinationclient.CoordinationV1Interface
}

func (coordination) Leases(string) coordinationclient.LeaseInterface { return leases{} }

// leases are renewed, whoever renews them.
type leases struct {
	coordinationclient.LeaseInterface
}

func (leases) Get(context.Context, string, metav1.GetOptions) (*coordinationv1.Lease, error) {
	return nil, apierrors.NewNotFound(coordinationv1.Resource("leases"), nodeName)
}

func (leases) Create(_ context.Context, l *coordinationv1.Lease, _ metav1.CreateOptions) (*coordinationv1.Lease, error) {
	return l, nil
}

func (leases) Update(_ context.Context, l *coordinationv1.Lease, _ metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	return l, nil
}
