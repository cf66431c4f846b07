package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shelf is a hypervisor that writes down what is asked of it.
type shelf struct {
	name    string
	calls   *[]string
	runs    []string // the machines that it knows
	exited  chan string
	failing error
}

func (s *shelf) note(call, id string) error {
	*s.calls = append(*s.calls, s.name+" "+call+" "+id)
	return s.failing
}
func (s *shelf) Start(_ context.Context, m Spec) error               { return s.note("start", m.ID) }
func (s *shelf) PowerOff(_ context.Context, id string, _ bool) error { return s.note("power-off", id) }
func (s *shelf) Remove(_ context.Context, id string) error           { return s.note("remove", id) }
func (s *shelf) Adopt(_ context.Context, m Spec) (bool, error) {
	return slices.Contains(s.runs, m.ID), s.note("adopt", m.ID)
}
func (s *shelf) Exited() <-chan string { return s.exited }
func (s *shelf) Console(id string) ([]byte, error) {
	if !slices.Contains(s.runs, id) {
		return nil, fmt.Errorf("%s: %w", id, fs.ErrNotExist)
	}
	return []byte(s.name), nil
}

func TestMixed(t *testing.T) {
	var calls []string
	a := &shelf{name: "a", calls: &calls, runs: []string{"i-1"}, exited: make(chan string)}
	b := &shelf{name: "b", calls: &calls, runs: []string{"i-2"}, exited: make(chan string)}
	is := func(want string) func(string) bool { return func(image string) bool { return image == want } }
	m := Mix(Kind{is("a"), a}, Kind{is("b"), b})
	defer m.Close()

	cases := map[string]struct {
		reason string
		call   func() error
		want   []string
	}{
		"Start":    {"The image says which kind it is.", func() error { return m.Start(t.Context(), Spec{ID: "i-2", Image: "b"}) }, []string{"b start i-2"}},
		"PowerOff": {"Who does not know the machine has nothing to do.", func() error { return m.PowerOff(t.Context(), "i-2", false) }, []string{"a power-off i-2", "b power-off i-2"}},
		"Remove":   {"So here.", func() error { return m.Remove(t.Context(), "i-1") }, []string{"a remove i-1", "b remove i-1"}},
		"Adopt": {"Who has it has it: the image may be gone meanwhile.", func() error {
			if running, err := m.Adopt(t.Context(), Spec{ID: "i-1"}); !running || err != nil {
				return fmt.Errorf("runs: %t, %w", running, err)
			}
			return nil
		}, []string{"a adopt i-1"}},
		"AdoptNone": {"Nobody has it.", func() error {
			if running, err := m.Adopt(t.Context(), Spec{ID: "i-3"}); running || err != nil {
				return fmt.Errorf("runs: %t, %w", running, err)
			}
			return nil
		}, []string{"a adopt i-3", "b adopt i-3"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			calls = nil
			if err := tc.call(); err != nil {
				t.Errorf("%s got %v", tc.reason, err)
			}
			if diff := cmp.Diff(tc.want, calls); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
	if err := m.Start(t.Context(), Spec{ID: "i-3", Image: "c"}); err == nil {
		t.Error("an image of no kind was started")
	}
	if out, err := m.Console("i-2"); err != nil || string(out) != "b" {
		t.Errorf("the console of b's machine: %q, %v", out, err)
	}
	if _, err := m.Console("i-3"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the console of nobody's machine: %v", err)
	}
	go func() { b.exited <- "i-2" }()
	if id := <-m.Exited(); id != "i-2" {
		t.Errorf("the end of %s is reported, want i-2", id)
	}
	b.failing = errors.New("no")
	if err := m.Remove(t.Context(), "i-2"); !errors.Is(err, b.failing) {
		t.Errorf("a failed removal is %v", err)
	}
}
