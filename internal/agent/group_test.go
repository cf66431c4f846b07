package agent

import (
	"context"
	"errors"
	"testing"
)

func TestGroup(t *testing.T) {
	errFailed := errors.New("failed")
	untilTold := func(ctx context.Context) error { <-ctx.Done(); return nil }
	cases := map[string]struct {
		reason string
		run    func(g *group, end context.CancelFunc)
		want   error
	}{
		"OneFails": {
			reason: "the failure of one ends all and is what is reported",
			run: func(g *group, _ context.CancelFunc) {
				g.run("fails", func(context.Context) error { return errFailed })
			},
			want: errFailed,
		},
		"ToldToEnd": {
			reason: "the end of the agent is no failure",
			run:    func(_ *group, end context.CancelFunc) { end() },
		},
		"Returns": {
			reason: "a part that is done early does not end the others",
			run: func(g *group, end context.CancelFunc) {
				g.run("returns", func(context.Context) error { return nil })
				g.run("ends", func(ctx context.Context) error { end(); return nil })
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			g := newGroup(ctx)
			g.run("waits", untilTold)
			tc.run(g, cancel)
			if err := g.wait(); !errors.Is(err, tc.want) || (tc.want == nil && err != nil) {
				t.Errorf("%s: %v, want %v", tc.reason, err, tc.want)
			}
		})
	}
}
