package aws

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// waitAtMost is how long a call other than a launch may wait for its pace.
const waitAtMost = 10 * time.Second

// calls stands between the SDK and the wire: every attempt of every action of
// every AWS service passes it. It keeps EC2's actions to their pace, counts,
// and tells of what Kip is not allowed to do.
type calls struct {
	clock  clock.Clock
	denied func(action, message string) // may be nil
	launch *line

	mu    sync.Mutex
	paces map[string]*pace // of actions other than RunInstances

	total    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	refusals *prometheus.CounterVec
}

func newCalls(cfg Config) (*calls, error) {
	c := &calls{
		clock: cfg.Clock, denied: cfg.Denied, launch: newLine(cfg.Clock), paces: map[string]*pace{},
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_cloud_calls_total", Help: "Requests to the cloud's API by action and code: ok, the cloud's own code, or none if no answer came.",
		}, []string{"action", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kip_cloud_call_seconds", Help: "Duration of requests to the cloud's API by action.",
			Buckets: []float64{.025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20},
		}, []string{"action"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_cloud_denied_total", Help: "Requests that the cloud denied Kip the right for, by the action that the right is for.",
		}, []string{"action"}),
	}
	if cfg.Metrics == nil {
		return c, nil
	}
	for _, m := range []prometheus.Collector{c.total, c.seconds, c.refusals} {
		if err := cfg.Metrics.Register(m); err != nil {
			return nil, fmt.Errorf("aws: registering metrics: %w", err)
		}
	}
	return c, nil
}

// register is one of the SDK's APIOptions. After Retry comes what is done for
// each attempt.
func (c *calls) register(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("KipPace", c.attempt), "Retry", middleware.After)
}

func (c *calls) attempt(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
	out middleware.FinalizeOutput, md middleware.Metadata, err error,
) {
	service, operation := awsmiddleware.GetServiceID(ctx), awsmiddleware.GetOperationName(ctx)
	var p *pace
	if service == ec2.ServiceID {
		if p, err = c.await(ctx, operation); err != nil {
			return out, md, err
		}
	}
	began := c.clock.Now()
	out, md, err = next.HandleFinalize(ctx, in)
	c.learn(prefixOf(service)+":"+operation, p, began, err, ctx.Value(optionalKey{}) != nil)
	return out, md, err
}

// optionalKey marks the context of calls that Kip can do without.
type optionalKey struct{}

// optional is for calls whose right Kip need not have: that it is denied is the
// caller's to tell, if it matters.
func optional(ctx context.Context) context.Context {
	return context.WithValue(ctx, optionalKey{}, true)
}

// await waits until the action may be called. Launches waited in their line.
func (c *calls) await(ctx context.Context, action string) (*pace, error) {
	if action == "RunInstances" {
		return c.launch.pace, nil
	}
	p := c.pace(action)
	for until := c.clock.Now().Add(waitAtMost); ; {
		wait, ok := p.take(0)
		switch {
		case ok:
			return p, nil
		case c.clock.Now().Add(wait).After(until):
			return nil, &cloudprovider.Error{Kind: cloudprovider.Throttled, Action: "ec2:" + action, RetryAfter: wait,
				Message: "EC2 takes only so many requests at a time, and Kip makes no more"}
		}
		if err := sleep(ctx, c.clock, wait); err != nil {
			return nil, err
		}
	}
}

func (c *calls) pace(action string) *pace {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paces[action] == nil {
		a := allowanceOf(action)
		c.paces[action] = newPace(c.clock, a, a.refill)
	}
	return c.paces[action]
}

// allowanceOf is EC2's default for an action.
func allowanceOf(action string) allowance {
	if a, ok := allowances[action]; ok {
		return a
	}
	if strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "Get") {
		return allowance{100, 20}
	}
	return allowance{50, 5}
}

// prefixOf is a service's name in access policies.
func prefixOf(service string) string {
	if p, ok := map[string]string{"Marketplace Metering": "aws-marketplace"}[service]; ok {
		return p
	}
	return strings.ToLower(service)
}

// learn draws from an attempt what there is to be learned. The pace is that of
// the action, nil if it has none. That a right lacks is told unless it is
// optional.
func (c *calls) learn(action string, p *pace, began time.Time, err error, optional bool) {
	c.seconds.WithLabelValues(action).Observe(c.clock.Since(began).Seconds())
	code, kind := "ok", cloudprovider.Kind("")
	if err != nil {
		code, kind = "none", cloudprovider.Transient
		if answer, ok := errors.AsType[smithy.APIError](err); ok {
			code, kind = answer.ErrorCode(), classify(answer.ErrorCode())
		}
	}
	c.total.WithLabelValues(action, code).Inc()
	switch {
	case p == nil:
	case kind == cloudprovider.Throttled:
		p.tooFast(began)
	case code != "none":
		p.taken(p != c.launch.pace || c.launch.any())
	}
	if kind != cloudprovider.Denied || optional {
		return
	}
	refusal, _ := errors.AsType[*cloudprovider.Error](wrap(action, err))
	c.refusals.WithLabelValues(refusal.Action).Inc()
	if c.denied != nil {
		c.denied(refusal.Action, refusal.Error())
	}
}
