package hollowcell

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// loadAnnotation names a request that the pod's kubelet is to repeat.
const loadAnnotation = "ec2local.kip.elotl.co/load"

// setLoad begins what the annotation asks for, and ends what it asked for before.
func (w *worker) setLoad(ctx context.Context, tasks *sync.WaitGroup, of string) {
	if of == w.loadOf {
		return
	}
	if w.load != nil {
		w.load()
	}
	w.load, w.loadOf = nil, of
	var request func(context.Context) error
	switch of {
	case "leases":
		request = w.renewOnce
	case "configmaps":
		path := "/api/v1/namespaces/" + w.newest().Namespace + "/configmaps/kube-root-ca.crt"
		request = func(ctx context.Context) error { return w.ask(ctx, http.MethodGet, path, "", nil, nil) }
	default:
		return
	}
	ctx, w.load = context.WithCancel(ctx)
	tasks.Go(func() {
		for ctx.Err() == nil {
			if request(ctx) != nil { // the gateway may have a limit
				sleep(ctx, 100*time.Millisecond)
			}
		}
	})
}
