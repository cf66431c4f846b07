package process

import "time"

// Backoff says how long a service pauses before it is started again.
type Backoff struct {
	// First is the pause after the second failure in a row (there is none after
	// the first: a process killed once is back at once). It doubles with each
	// further one up to Longest.
	First, Longest time.Duration
	// Settled is how long a process must have run for its end to count as a
	// first failure again.
	Settled time.Duration
}

// DefaultBackoff suits the daemons of a cell.
var DefaultBackoff = Backoff{First: 200 * time.Millisecond, Longest: 10 * time.Second, Settled: 10 * time.Second}

// after returns the pause after that many failures in a row.
func (b Backoff) after(failures int) time.Duration {
	if failures <= 1 {
		return 0
	}
	pause := b.First
	for range failures - 2 {
		if pause *= 2; pause >= b.Longest {
			return b.Longest
		}
	}
	return min(pause, b.Longest)
}
