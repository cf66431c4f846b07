package gateway

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// syncPatience is how long a request waits for a cache that is being filled.
const syncPatience = 10 * time.Second

// sharedResource is a resource that every cell may read, kept in one cache
// that one watch on the API server fills.
type sharedResource struct {
	resource   schema.GroupVersionResource
	collection *watchcache.Collection
	reflector  *cache.Reflector
	// fields are the ones that it can be selected by.
	fields []string
	// view is what one cell sees of the collection; nil is all of it, as it is.
	view func(*cellState, Cell, watchcache.Source) watchcache.Source
}

// serviceFields are the fields of a Service that clients select by.
var serviceFields = []string{"spec.clusterIP", "spec.type"}

func newSharedResources(client kubernetes.Interface, versions *watchcache.Versions) []*sharedResource {
	endpoints := newShared(endpointSlices, "EndpointSlice", &discoveryv1.EndpointSlice{}, versions, client, client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll), nil, nil)
	endpoints.collection.Prepare = forgetNodes
	endpoints.view = (*cellState).localEndpoints
	return []*sharedResource{
		newShared(services, "Service", &corev1.Service{}, versions, client, client.CoreV1().Services(metav1.NamespaceAll), serviceFields, func(o runtime.Object) fields.Set {
			service := o.(*corev1.Service)
			return fields.Set{"spec.clusterIP": service.Spec.ClusterIP, "spec.type": string(service.Spec.Type)}
		}),
		endpoints,
		newShared(serviceCIDRs, "ServiceCIDR", &networkingv1.ServiceCIDR{}, versions, client, client.NetworkingV1().ServiceCIDRs(), nil, nil),
		newShared(runtimeClasses, "RuntimeClass", &nodev1.RuntimeClass{}, versions, client, client.NodeV1().RuntimeClasses(), nil, nil),
		newShared(csiDrivers, "CSIDriver", &storagev1.CSIDriver{}, versions, client, client.StorageV1().CSIDrivers(), nil, nil),
	}
}

// listWatcher is what the typed clients of all resources have in common.
type listWatcher[List runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (List, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

func newShared[List runtime.Object](
	resource schema.GroupVersionResource, kind string, example runtime.Object, versions *watchcache.Versions,
	client kubernetes.Interface, typed listWatcher[List], selectable []string, fieldsOf func(runtime.Object) fields.Set,
) *sharedResource {
	s := &sharedResource{
		resource:   resource,
		collection: watchcache.NewCollection(resource.GroupVersion().WithKind(kind), versions, watchcache.DefaultHistory, fieldsOf),
		fields:     append([]string{metav1.ObjectNameField, "metadata.namespace"}, selectable...),
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return typed.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return typed.Watch(ctx, options)
		},
	}
	s.reflector = cache.NewReflectorWithOptions(
		cache.ToListWatcherWithWatchListSemantics(lw, client), example, s.collection,
		cache.ReflectorOptions{Name: "gateway/" + resource.Resource},
	)
	return s
}

// sharedResource finds the cache of a resource, nil if there is none.
func (g *Gateway) sharedResource(resource schema.GroupVersionResource) *sharedResource {
	i := slices.IndexFunc(g.shared, func(s *sharedResource) bool { return s.resource == resource })
	if i < 0 {
		return nil
	}
	return g.shared[i]
}

// sharedSource finds the cache that a request is about, filled, and the
// selector to read it with.
func (c *call) sharedSource() (watchcache.Source, watchcache.Selector, error) {
	shared := c.g.sharedResource(c.req.resource)
	if shared == nil {
		return nil, watchcache.Selector{}, fmt.Errorf("there is no cache of %s", c.req.resource)
	}
	sel := watchcache.Selector{Labels: c.req.options.labelSelector, Fields: c.req.options.fieldSelector}
	for _, requirement := range sel.Fields.Requirements() {
		if !slices.Contains(shared.fields, requirement.Field) {
			return nil, sel, invalid("%s cannot be selected by the field %s", c.req.resource.Resource, printable(requirement.Field))
		}
	}
	if err := c.g.waitSynced(c.ctx, shared); err != nil {
		return nil, sel, err
	}
	if shared.view != nil {
		return shared.view(c.cellState, c.cell, shared.collection), sel, nil
	}
	return shared.collection, sel, nil
}

// waitSynced waits until a cache was filled once, but not for long.
func (g *Gateway) waitSynced(ctx context.Context, s *sharedResource) error {
	select {
	case <-s.collection.Synced():
		return nil
	default:
	}
	patience := g.clock.NewTimer(syncPatience)
	defer patience.Stop()
	select {
	case <-s.collection.Synced():
		return nil
	case <-patience.C():
		return unavailable("Kip has not read the cluster's %s yet", s.resource.Resource)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *call) listShared() error {
	source, sel, err := c.sharedSource()
	if err != nil {
		return err
	}
	return watchcache.WriteList(c.w, source, sel)
}

func (c *call) watchShared() error {
	source, sel, err := c.sharedSource()
	if err != nil {
		return err
	}
	return c.serveWatch(source, sel, false)
}
