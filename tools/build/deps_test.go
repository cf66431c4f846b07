package main

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMissingDeps(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x86", "libthere.a"), "")
	all := []dependency{
		{name: "there", set: "a", files: []string{filepath.Join(dir, "*", "libthere.a")}},
		{name: "either", set: "a", files: []string{filepath.Join(dir, "none") + "|" + filepath.Join(dir, "x86")}},
		{name: "half", set: "a", files: []string{filepath.Join(dir, "x86"), filepath.Join(dir, "none")}},
		{name: "program", set: "a", files: []string{"no-such-program-anywhere"}},
		{name: "other", set: "b", files: []string{filepath.Join(dir, "none")}},
	}
	missing, err := missingDeps(all, []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range missing {
		got = append(got, d.name)
	}
	if diff := cmp.Diff([]string{"half", "program"}, got); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	if _, err := missingDeps(all, []string{"a", "c"}); err == nil {
		t.Error("an unknown set is no error")
	}
}
