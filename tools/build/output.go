package main

import (
	"bytes"
	"strings"
)

// A tail is a writer that hands each complete line to line, and keeps the last
// few of those that line did not take.
type tail struct {
	keep int
	line func(string) (taken bool)

	partial []byte
	lines   []string
}

func (t *tail) Write(p []byte) (int, error) {
	t.partial = append(t.partial, p...)
	for {
		end := bytes.IndexByte(t.partial, '\n')
		if end < 0 {
			return len(p), nil
		}
		line := string(t.partial[:end])
		t.partial = t.partial[end+1:]
		if !t.line(line) {
			t.lines = append(t.lines, line)
			if len(t.lines) > t.keep {
				t.lines = t.lines[1:]
			}
		}
	}
}

// String returns the lines kept, the unfinished last one included.
func (t *tail) String() string {
	lines := t.lines
	if len(t.partial) > 0 {
		lines = append(lines[:len(lines):len(lines)], string(t.partial))
	}
	return strings.Join(lines, "\n")
}
