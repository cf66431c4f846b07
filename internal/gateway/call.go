package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// maxInFlight is how many requests, watches included, one cell may have open.
// A pod of 200 ConfigMaps needs a good 200.
const maxInFlight = 1000

// call is one request on its way through a policy row.
type call struct {
	*cellState
	w    http.ResponseWriter
	r    *http.Request
	ctx  context.Context
	req  *request
	rule *rule
	// cell and pod are as they were when the request came. pod is nil if the
	// cell has none, or none any more.
	cell Cell
	pod  *corev1.Pod
	// by is how the request is counted if it goes well: the rule's word,
	// unless the handler knows better.
	by decision
	// stream is where the events of a watch are to come, under number; nil means
	// in the answer.
	stream *watchStream
	number uint64
	// ended is called when a watch has ended; may be nil.
	ended func()
	// filter sees what the API server answers on its way to the cell; may be nil.
	filter func(io.Reader) io.Reader
}

// outcome is what became of a request, for the log and the metrics.
type outcome struct {
	req *request // nil if it was not understood
	// resource and verb are how it is counted.
	resource, verb string
	by             decision
	err            error
}

// serve answers one request of a cell: who, whether, and only then what.
func (g *Gateway) serve(name string, w http.ResponseWriter, r *http.Request) {
	state := g.cell(name)
	out := &answer{ResponseWriter: w}
	o := outcome{resource: other, verb: other}
	defer func() {
		if p := recover(); p != nil {
			o.by, o.err = panicked, fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		g.conclude(name, out, r, &o)
	}()
	if state.inFlight.Add(1) > maxInFlight {
		o.err = apierrors.NewTooManyRequests("the cell has too many requests open", 1)
	} else {
		o.err = g.answer(state, out, r, &o)
	}
	state.inFlight.Add(-1)
}

func (g *Gateway) answer(state *cellState, w *answer, r *http.Request, o *outcome) error {
	if isKipPath(r.URL.Path) {
		return g.serveKip(state, w, r, o)
	}
	req, err := parseRequest(r)
	if err != nil {
		return err
	}
	o.req = req
	o.resource, o.verb = metricLabels(req)
	rule := ruleFor(req)
	if rule == nil {
		return refuse("a cell may not %s %s", req.verb, describe(req))
	}
	if (req.name != "") != needsName(req) {
		return refuse("%s %s is not how a kubelet asks", req.verb, describe(req))
	}
	if err := checkAccept(r.Header); err != nil {
		return err
	}
	cell, err := g.waitKnown(r.Context(), state.name)
	if err != nil {
		return err
	}
	c := &call{
		cellState: state, w: w, r: r, ctx: r.Context(), req: req, rule: rule,
		cell: cell, pod: g.boundPod(cell), by: rule.by,
	}
	if err := c.toStream(); err != nil {
		return err
	}
	err = rule.handle(c)
	o.by = c.by
	return err
}

// knownPatience is how long a request waits for State to know its cell. After
// a restart of Kip the cells are back before all of their pods are read.
const knownPatience = 10 * time.Second

// waitKnown returns the cell as State knows it, and waits for that a little.
func (g *Gateway) waitKnown(ctx context.Context, name string) (Cell, error) {
	if cell, ok := g.state.Cell(name); ok {
		return cell, nil
	}
	changed, cancel := g.state.Subscribe(name)
	defer cancel()
	patience := g.clock.NewTimer(knownPatience)
	defer patience.Stop()
	for {
		if cell, ok := g.state.Cell(name); ok {
			return cell, nil
		}
		select {
		case <-changed:
		case <-patience.C():
			return Cell{}, errUnknownCell()
		case <-ctx.Done():
			return Cell{}, ctx.Err()
		}
	}
}

func errUnknownCell() error { return unavailable("Kip does not know this cell yet, or no more") }

// boundPod is the pod of a cell. Whatever State says, only the pod that the
// cell was bound to is its own.
func (g *Gateway) boundPod(cell Cell) *corev1.Pod {
	pod := g.state.Pod(cell.Name)
	if pod == nil || cell.PodUID == "" || pod.UID != cell.PodUID {
		return nil
	}
	return pod
}

// conclude answers a request that failed, and counts and logs every one.
func (g *Gateway) conclude(cell string, w *answer, r *http.Request, o *outcome) {
	var refusal *refusal
	switch {
	case o.err == nil:
	case errors.As(o.err, &refusal):
		o.by = refused
	case o.by != panicked:
		o.by = failed
	}
	g.metrics.requests.WithLabelValues(o.resource, o.verb, string(o.by)).Inc()
	if o.err == nil {
		return
	}

	ctx := r.Context()
	log := g.log.With("cell", cell, "method", r.Method, "path", printable(r.URL.Path), "err", o.err)
	var status apierrors.APIStatus
	switch {
	case o.by == refused:
		if g.refusals.AllowN(g.clock.Now(), 1) {
			log.WarnContext(ctx, "refused a cell's request")
		}
	case ctx.Err() != nil: // the cell hung up
	case errors.As(o.err, &status):
		log.DebugContext(ctx, "a cell's request failed")
	default:
		log.ErrorContext(ctx, "a cell's request failed")
	}
	if w.started {
		return // in the midst of an answer: ending it is all that can be done
	}
	var (
		resource schema.GroupResource
		name     string
	)
	if o.req != nil {
		resource, name = o.req.resource.GroupResource(), o.req.name
	}
	writeStatus(w, statusOf(o.err, resource, name))
}

// needsName tells whether a request must be about one named object.
func needsName(req *request) bool {
	switch req.verb {
	case "list", "watch", "deletecollection":
		return false
	case "create":
		return req.subresource != ""
	}
	return true
}

// describe names what a request is about, for a message.
func describe(req *request) string {
	what := req.resource.GroupResource().String()
	if req.subresource != "" {
		what += "/" + req.subresource
	}
	what = printable(what)
	if req.namespace == "" {
		return what + " of the whole cluster"
	}
	return what
}

// answer knows whether an answer has begun.
type answer struct {
	http.ResponseWriter
	started bool
}

func (a *answer) WriteHeader(code int) {
	a.started = true
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(data []byte) (int, error) {
	a.started = true
	return a.ResponseWriter.Write(data)
}

// Unwrap lets http.ResponseController find the way to flush.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
