package gateway

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// A kube-proxy tells endpoints of its own node from others by the node's name:
// Services with externalTrafficPolicy or internalTrafficPolicy Local lead to
// the former only. All pods on cells have the virtual node's name, and all
// kube-proxies believe to be it. So a cell is shown the name at the endpoints of
// its own pod only, and the others without: what is local is in the cell.
//
// To lead such traffic to another cell would be worse than useless. With the
// policy Local the client's address is kept, so the other cell would answer the
// client itself, who knows nothing of it.

// forgetNodes removes the nodes' names from the endpoints that all cells share.
func forgetNodes(object runtime.Object) {
	slice := object.(*discoveryv1.EndpointSlice)
	for i := range slice.Endpoints {
		slice.Endpoints[i].NodeName = nil
	}
}

// endpointSource is the shared source of EndpointSlices as one cell sees it.
type endpointSource struct {
	watchcache.Source
	state *cellState
	// asked is the cell as it was when it asked.
	asked Cell
}

func (c *cellState) localEndpoints(asked Cell, shared watchcache.Source) watchcache.Source {
	return endpointSource{shared, c, Cell{Name: asked.Name, NodeName: asked.NodeName, PodUID: asked.PodUID}}
}

// List implements watchcache.Source.
func (s endpointSource) List(sel watchcache.Selector) ([]*watchcache.Object, uint64) {
	objects, version := s.Source.List(sel)
	cell := s.cell()
	for i := range objects {
		objects[i] = s.show(objects[i], cell)
	}
	return objects, version
}

// Since implements watchcache.Source.
func (s endpointSource) Since(version uint64, sel watchcache.Selector, events []watchcache.Event) ([]watchcache.Event, uint64, error) {
	before := len(events)
	events, reached, err := s.Source.Since(version, sel, events)
	if len(events) > before {
		cell := s.cell()
		for i := before; i < len(events); i++ {
			events[i].Object = s.show(events[i].Object, cell)
		}
	}
	return events, reached, err
}

// cell is the cell as it is now: a watch outlives the time before the cell has
// a pod, whose address is in no slice until then.
func (s endpointSource) cell() Cell {
	if cell, ok := s.state.g.state.Cell(s.state.name); ok {
		return cell
	}
	return s.asked
}

// show gives the endpoints of the cell's pod their node back.
func (s endpointSource) show(object *watchcache.Object, cell Cell) *watchcache.Object {
	if cell.PodUID == "" || !object.Mentions(string(cell.PodUID)) {
		return object
	}
	var slice discoveryv1.EndpointSlice
	err := object.Decode(&slice)
	if err == nil {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; e.TargetRef != nil && e.TargetRef.UID == cell.PodUID {
				e.NodeName = &cell.NodeName
			}
		}
		object, err = object.Showing(&slice)
	}
	if err != nil {
		s.state.g.log.Error("an EndpointSlice is shown without what is local", "cell", cell.Name, "slice", object.Namespace+"/"+object.Name, "err", err)
	}
	return object
}
