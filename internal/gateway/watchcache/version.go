package watchcache

import (
	"strconv"
	"sync/atomic"
	"time"
)

// Versions hands out resource versions, each greater than all before. It is
// safe for concurrent use.
type Versions struct {
	last atomic.Uint64
}

// NewVersions starts counting at start, the time at which the process started.
func NewVersions(start time.Time) *Versions {
	v := &Versions{}
	v.last.Store(uint64(start.UnixNano()))
	return v
}

// Next returns a version that is greater than every one returned before.
func (v *Versions) Next() uint64 { return v.last.Add(1) }

// Format writes a version the way metadata.resourceVersion does.
func Format(version uint64) string { return strconv.FormatUint(version, 10) }

// ParseVersion reads a resource version. Versions that this package never
// handed out (letters, signs, leading zeros) are refused.
func ParseVersion(s string) (version uint64, ok bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || Format(n) != s {
		return 0, false
	}
	return n, true
}
