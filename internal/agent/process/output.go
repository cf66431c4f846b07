package process

import (
	"bytes"
	"io"
	"strings"
	"sync"
)

const (
	// tailLines and tailLineBytes bound what is kept in memory of a process'
	// output, for the message about its end.
	tailLines     = 10
	tailLineBytes = 500
)

// output passes a process' output on and remembers its last lines.
type output struct {
	to io.Writer

	mu      sync.Mutex
	lines   [tailLines]string
	next    int
	partial []byte
}

func newOutput(to io.Writer) *output {
	if to == nil {
		to = io.Discard
	}
	return &output{to: to}
}

// Write never fails: a full disk must not end the process whose log it is.
func (o *output) Write(b []byte) (int, error) {
	_, _ = o.to.Write(b)
	o.mu.Lock()
	defer o.mu.Unlock()
	for rest := b; len(rest) > 0; {
		line, after, complete := bytes.Cut(rest, []byte{'\n'})
		if room := tailLineBytes - len(o.partial); room > 0 {
			o.partial = append(o.partial, line[:min(room, len(line))]...)
		}
		if complete {
			o.lines[o.next%tailLines] = string(o.partial)
			o.next++
			o.partial = o.partial[:0]
		}
		rest = after
	}
	return len(b), nil
}

// tail returns the last lines written, oldest first.
func (o *output) tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var lines []string
	for i := max(0, o.next-tailLines); i < o.next; i++ {
		lines = append(lines, o.lines[i%tailLines])
	}
	if len(o.partial) > 0 {
		lines = append(lines, string(o.partial))
	}
	return strings.Join(lines, "\n")
}
