package kubeletapi

import "sync"

// followers counts, by cell, the requests that read what containers write. A
// cell that ended is kept a moment longer for them.
type followers struct {
	mu     sync.Mutex
	byCell map[string]int
}

// add counts one more until the function that it returns is called.
func (f *followers) add(cell string) (done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byCell == nil {
		f.byCell = map[string]int{}
	}
	f.byCell[cell]++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.byCell[cell]--; f.byCell[cell] == 0 {
			delete(f.byCell, cell)
		}
	}
}

// Following says whether somebody reads logs of the cell, or is attached to a
// container in it, right now.
func (s *Server) Following(cell string) bool {
	s.followers.mu.Lock()
	defer s.followers.mu.Unlock()
	return s.followers.byCell[cell] > 0
}
