package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRequiredVersion(t *testing.T) {
	cases := map[string]struct {
		reason string
		gomod  string
		want   string
		err    string
	}{
		"Line":     {reason: "a requirement may stand alone", gomod: "module m\n\nrequire example.com/x v1.2.3\n", want: "v1.2.3"},
		"Block":    {reason: "or in a block", gomod: "require (\n\texample.com/xy v9.0.0\n\texample.com/x v1.2.3 // indirect\n)\n", want: "v1.2.3"},
		"Tool":     {reason: "a tool line names a package, not a version", gomod: "tool example.com/x\n", err: "requires no example.com/x"},
		"Replaced": {reason: "a replacement is no requirement", gomod: "replace (\n\texample.com/x => ../x\n)\n", err: "requires no example.com/x"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "go.mod")
			if err := os.WriteFile(file, []byte(tc.gomod), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := requiredVersion(file, "example.com/x")
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%s: error %v, want one with %q", tc.reason, err, tc.err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("%s: got %q, %v, want %q", tc.reason, got, err, tc.want)
			}
		})
	}
}
