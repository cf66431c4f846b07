package gatewaytest

import (
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/gateway"
)

// State is a gateway.State that a test sets. The zero State is empty.
type State struct {
	mu    sync.Mutex
	cells map[string]*stateCell
}

type stateCell struct {
	known       bool
	cell        gateway.Cell
	pod         *corev1.Pod
	subscribers map[chan struct{}]struct{}
}

var _ gateway.State = (*State)(nil)

func (s *State) get(name string) *stateCell {
	if s.cells == nil {
		s.cells = map[string]*stateCell{}
	}
	c := s.cells[name]
	if c == nil {
		c = &stateCell{subscribers: map[chan struct{}]struct{}{}}
		s.cells[name] = c
	}
	return c
}

// change changes a cell and pokes its subscribers.
func (s *State) change(name string, f func(*stateCell)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.get(name)
	f(c)
	for ch := range c.subscribers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// SetCell makes a cell known as it is given.
func (s *State) SetCell(cell gateway.Cell) {
	s.change(cell.Name, func(c *stateCell) { c.known, c.cell = true, cell })
}

// RemoveCell makes a cell unknown, as before Kip has read its state.
func (s *State) RemoveCell(name string) {
	s.change(name, func(c *stateCell) { c.known = false })
}

// Bind gives a known cell its pod.
func (s *State) Bind(name string, pod *corev1.Pod) {
	s.change(name, func(c *stateCell) { c.cell.PodUID, c.pod = pod.UID, pod.DeepCopy() })
}

// SetPod changes the pod of a cell without binding it; nil says that it is
// gone.
func (s *State) SetPod(name string, pod *corev1.Pod) {
	s.change(name, func(c *stateCell) { c.pod = pod.DeepCopy() })
}

// Cell implements gateway.State.
func (s *State) Cell(name string) (gateway.Cell, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.get(name)
	return c.cell, c.known
}

// Pod implements gateway.State.
func (s *State) Pod(name string) *corev1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(name).pod
}

// Subscribe implements gateway.State.
func (s *State) Subscribe(name string) (<-chan struct{}, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.get(name)
	ch := make(chan struct{}, 1)
	c.subscribers[ch] = struct{}{}
	return ch, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(c.subscribers, ch)
	}
}

// Subscribers is how many watches a cell has open at its State.
func (s *State) Subscribers(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.get(name).subscribers)
}
