package agent

import (
	"context"
	"fmt"
	"sync"
)

// group runs the parts of the agent that live as long as it does. The first one
// that fails ends all.
type group struct {
	ctx    context.Context //nolint:containedctx // the group is the life of the agent
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
}

func newGroup(ctx context.Context) *group {
	g := &group{}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	return g
}

// failure is the cause with which a part's error ends the group.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// run starts a part, which returns when its context ends.
func (g *group) run(name string, part func(context.Context) error) {
	g.wg.Go(func() {
		if err := part(g.ctx); err != nil {
			g.cancel(failure{fmt.Errorf("%s: %w", name, err)})
		}
	})
}

// wait returns when all parts have ended, with the first failure, or nil when
// they ended because they were told to.
func (g *group) wait() error {
	g.wg.Wait()
	defer g.cancel(nil)
	if f, failed := context.Cause(g.ctx).(failure); failed { //nolint:errorlint // set above, never wrapped
		return f.error
	}
	return nil
}

// stop ends all parts and waits for them.
func (g *group) stop() error {
	g.cancel(nil)
	return g.wait()
}
