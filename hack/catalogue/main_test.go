package main

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRun: facts in, catalogue out, in the rows that internal/instancetype
// reads.
func TestRun(t *testing.T) {
	out := t.TempDir()
	stale := filepath.Join(out, "regions", "gone-1.json.gz")
	if err := os.MkdirAll(filepath.Dir(stale), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stale, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run("testdata", out); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"types.json.gz": `{
			"a1.big":   {"vcpus": 96, "memoryMiB": 1000, "arch": "arm64", "bareMetal": true, "onDemand": true, "referenceUSD": 9},
			"g1.slice": {"vcpus": 2, "memoryMiB": 8192, "arch": "amd64", "hypervisor": "nitro", "current": true,
			             "gpu": {"count": 1, "name": "L4", "manufacturer": "NVIDIA", "memoryMiB": 2861, "fraction": 0.125},
			             "enis": 2, "ipv4PerENI": 10, "onDemand": true, "spot": true, "instanceStoreGB": 100, "referenceUSD": 0.2},
			"p2.old":   {"vcpus": 32, "memoryMiB": 500, "arch": "amd64", "gpu": {"count": 8, "name": "K80", "manufacturer": "NVIDIA", "memoryMiB": 12288}, "onDemand": true},
			"t1.tiny":  {"vcpus": 2, "memoryMiB": 512, "arch": "amd64", "burstable": true, "baselineVCPUs": 0.1, "onDemand": true, "spot": true}
		}`,
		"regions/us-east-1.json.gz":     `{"zones": ["us-east-1a", "us-east-1b"], "gp3USD": 0.08, "types": {"a1.big": [9, 1], "g1.slice": [0.2, 3, 0.05], "t1.tiny": [0, 2]}}`,
		"regions/us-gov-west-1.json.gz": `{"types": {"t1.tiny": [0.01]}}`,
	}
	got := map[string]string{}
	err := filepath.WalkDir(out, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(out, path)
		if err != nil {
			return err
		}
		got[filepath.ToSlash(name)] = read(t, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range want {
		want[name] = canonical(t, want[name])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return canonical(t, string(raw))
}

func canonical(t *testing.T, s string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %s", err, s)
	}
	raw, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestRunRefuses(t *testing.T) {
	if err := run("", ""); err == nil || !strings.Contains(err.Error(), "-data") {
		t.Errorf("no flags: %v", err)
	}
	if err := run(t.TempDir(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "ec2-instance-types.json") {
		t.Errorf("no facts: %v", err)
	}
}
