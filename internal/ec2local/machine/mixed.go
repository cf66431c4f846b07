package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
)

// Kind is one way to run machines.
type Kind struct {
	// Of says whether an image is for this kind of machine.
	Of func(image string) bool
	Hypervisor
}

// Mixed is a [Hypervisor] whose machines are of the kind that their images are for. It must be closed, before the
// hypervisors that it is made of.
type Mixed struct {
	kinds   []Kind
	exited  chan string
	closing chan struct{}
	tasks   sync.WaitGroup // one for each kind, which passes on whose machines ended
}

var _ Hypervisor = (*Mixed)(nil)

// Mix makes a Mixed of kinds, of which the first that an image is of counts.
func Mix(kinds ...Kind) *Mixed {
	m := &Mixed{kinds: kinds, exited: make(chan string), closing: make(chan struct{})}
	for _, k := range kinds {
		m.tasks.Go(func() { m.pass(k.Exited()) })
	}
	return m
}

func (m *Mixed) pass(exited <-chan string) {
	for {
		select {
		case id := <-exited:
			select {
			case m.exited <- id:
			case <-m.closing:
				return
			}
		case <-m.closing:
			return
		}
	}
}

// Close waits for the Mixed's goroutines.
func (m *Mixed) Close() {
	close(m.closing)
	m.tasks.Wait()
}

// kind finds the kind of a machine by its image.
func (m *Mixed) kind(s Spec) (Hypervisor, error) {
	for _, k := range m.kinds {
		if k.Of(s.Image) {
			return k, nil
		}
	}
	return nil, fmt.Errorf("machine %s: %s is an image of no kind that can run here", s.ID, s.Image)
}

// Start implements [Hypervisor].
func (m *Mixed) Start(ctx context.Context, s Spec) error {
	k, err := m.kind(s)
	if err != nil {
		return err
	}
	return k.Start(ctx, s)
}

// Adopt implements [Hypervisor].
func (m *Mixed) Adopt(ctx context.Context, s Spec) (running bool, err error) {
	for _, k := range m.kinds {
		if running, err := k.Adopt(ctx, s); running || err != nil {
			return running, err
		}
	}
	return false, nil
}

// PowerOff implements [Hypervisor]. A machine is unknown to all kinds but its own, and that is no error.
func (m *Mixed) PowerOff(ctx context.Context, id string, force bool) error {
	for _, k := range m.kinds {
		if err := k.PowerOff(ctx, id, force); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements [Hypervisor].
func (m *Mixed) Remove(ctx context.Context, id string) error {
	for _, k := range m.kinds {
		if err := k.Remove(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// Exited implements [Hypervisor].
func (m *Mixed) Exited() <-chan string { return m.exited }

// Console implements [Hypervisor].
func (m *Mixed) Console(id string) ([]byte, error) {
	for _, k := range m.kinds {
		data, err := k.Console(id)
		if !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return nil, fmt.Errorf("machine %s: console: %w", id, fs.ErrNotExist)
}
