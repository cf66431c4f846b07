package aws

import (
	"context"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// terminatedAtOnce is the most instances in one request. EC2 would take a
// thousand; a refused one is repeated for each.
const terminatedAtOnce = 100

// Delete implements cloudprovider.Provider. Nothing is terminated that was not
// seen to carry this controller's tag: about an instance that neither Create
// nor the last List showed EC2 is asked first.
func (p *Provider) Delete(ctx context.Context, id string) error {
	if err := p.mine(ctx, id); err != nil {
		return err
	}
	return p.ends.terminate(ctx, id)
}

// mine refuses an instance that does not carry this controller's tag.
func (p *Provider) mine(ctx context.Context, id string) error {
	if p.own.has(id) {
		return nil
	}
	_, err := p.Get(ctx, id)
	return err
}

func (p *Provider) terminate(ctx context.Context, ids []string) error {
	_, err := p.ec2.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids})
	return wrap("ec2:TerminateInstances", err)
}

// ends gathers terminations: those that are asked for while a request is under
// way make up the next one. Nothing waits for others to come.
type ends struct {
	send func(context.Context, []string) error
	turn chan struct{} // holds a token while a request is under way

	mu   sync.Mutex
	open *ending // which may be joined; may be nil
}

// ending is one request.
type ending struct {
	ids  []string
	sent bool
	done chan struct{} // closed when err is the answer
	err  error
}

// terminate returns when EC2 answered for this instance.
func (e *ends) terminate(ctx context.Context, id string) error {
	mine := e.join(id)
	select {
	case e.turn <- struct{}{}:
		if e.begin(mine) {
			mine.err = e.send(ctx, mine.ids)
			close(mine.done)
		}
		<-e.turn
	case <-mine.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if len(mine.ids) == 1 || mine.err == nil {
		return mine.err
	}
	switch cloudprovider.KindOf(mine.err) {
	case cloudprovider.Throttled, cloudprovider.Transient:
		return mine.err
	}
	// One instance that is unknown or protected fails the request for all.
	return e.send(ctx, []string{id})
}

func (e *ends) join(id string) *ending {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open == nil || len(e.open.ids) == terminatedAtOnce {
		e.open = &ending{done: make(chan struct{})}
	}
	if !slices.Contains(e.open.ids, id) {
		e.open.ids = append(e.open.ids, id)
	}
	return e.open
}

// begin says whether the request is still to be sent, and that nobody may join
// it any more.
func (e *ends) begin(x *ending) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x.sent {
		return false
	}
	if x.sent = true; e.open == x {
		e.open = nil
	}
	return true
}

// own remembers which instances were seen to be ours.
type own struct {
	mu   sync.Mutex
	look uint64            // Lists that began
	ids  map[string]uint64 // the number of Lists that had begun when it was seen
}

func (o *own) has(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.ids[id]
	return ok
}

func (o *own) add(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids[id] = o.look
}

// listing begins a List; seen takes its answer: what was known before it began
// and is not in it is ours no more.
func (o *own) listing() (seen func([]cloudprovider.Instance)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.look++
	number := o.look
	return func(all []cloudprovider.Instance) {
		o.mu.Lock()
		defer o.mu.Unlock()
		for id, seen := range o.ids {
			if seen < number {
				delete(o.ids, id)
			}
		}
		for i := range all {
			o.ids[all[i].ID] = max(o.ids[all[i].ID], number)
		}
	}
}
