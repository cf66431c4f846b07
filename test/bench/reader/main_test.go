package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	root := t.TempDir()
	write := func(name string, size int) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for d := range 20 {
		write(fmt.Sprintf("0/small/%02d/a", d), 1000)
		write(fmt.Sprintf("0/small/%02d/b", d), 2000)
	}
	write("0/large/a", 40*run+100)
	for name, tc := range map[string]struct {
		reason  string
		percent string
		want    result
	}{
		"Nothing": {"the large file is looked at", "0", result{Files: 1}},
		"Part":    {"two directories of twenty, and four runs of forty", "10", result{Files: 5, Bytes: 2*3000 + 4*run}},
		"All":     {"the last run is a short one", "100", result{Files: 41, Bytes: 20*3000 + 40*run + 100}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(root, []string{tc.percent})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
	if _, err := read(root, nil); err == nil {
		t.Error("no percentage is no error")
	}
}
