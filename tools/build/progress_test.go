package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEstimate(t *testing.T) {
	cases := map[string]struct {
		reason     string
		left, done int64
		elapsed    time.Duration
		want       time.Duration
	}{
		"Start": {
			reason: "with nothing done the measured speed counts",
			left:   priorRate * 100, want: 100 * time.Second,
		},
		"Slow machine": {
			reason: "after a while its own speed does: half of the measured one here",
			left:   priorRate * 100, done: priorRate * 500, elapsed: 1000 * time.Second,
			want: 196 * time.Second,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := estimate(tc.left, tc.done, tc.elapsed)
			if diff := got - tc.want; diff.Abs() > time.Second {
				t.Errorf("%s: got %s, want %s", tc.reason, got, tc.want)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	first := target{program: program{name: "first", module: "m", source: "example.com/m", main: []string{"."}}, version: "v1.0.0"}
	second := target{program: program{name: "second", module: "m", source: "example.com/m", main: []string{"."}}, version: "v1.0.0"}
	plan := []work{
		{first.key("example.com/shared"): 100, first.key("fmt"): 100},
		{second.key("example.com/shared"): 100, second.key("fmt"): 100, second.key("example.com/own"): 100},
	}
	var out bytes.Buffer
	p := newProgress(&out, []target{first, second}, plan)
	if p.packages != 3 {
		t.Errorf("%d packages, want 3: shared ones are compiled once", p.packages)
	}
	p.begin()
	if !p.compiled("fmt") || p.compiled("main.go:1: a mistake") {
		t.Error("only the lines that name a planned package are progress")
	}
	p.end()
	p.begin()
	p.end()
	if want := "[2/2] compiling second v1.0.0; 2 of 3 packages compiled"; !strings.Contains(out.String(), want) {
		t.Errorf("%q was not shown, but:\n%s", want, &out)
	}
}

func TestTail(t *testing.T) {
	var taken []string
	messages := &tail{keep: 2, line: func(line string) bool {
		if strings.HasPrefix(line, "take ") {
			taken = append(taken, line)
			return true
		}
		return false
	}}
	for _, part := range []string{"one\ntake ", "a\ntwo\nth", "ree\n", "half"} {
		if n, err := messages.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	if diff := cmp.Diff("two\nthree\nhalf", messages.String()); diff != "" {
		t.Errorf("the last lines, and the unfinished one, are kept (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"take a"}, taken); diff != "" {
		t.Errorf("taken lines (-want +got):\n%s", diff)
	}
}
