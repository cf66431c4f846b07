package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestProgramsArePinned(t *testing.T) {
	seen := map[string]string{}
	for _, p := range programs {
		file := filepath.Join("..", p.module, "go.mod")
		if _, err := requiredVersion(file, p.source); err != nil {
			t.Errorf("%s: %v", p.name, err)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, pkg := range p.packages() {
			// Without a tool line go mod tidy would drop what the package needs.
			if pkg != "." && !slices.Contains(strings.Fields(string(content)), pkg) {
				t.Errorf("%s: %s has no tool line for %s", p.name, file, pkg)
			}
		}
		for _, name := range p.binaries() {
			if other, taken := seen[name]; taken {
				t.Errorf("%s and %s both make a binary called %s", other, p.name, name)
			}
			seen[name] = p.name
		}
		if p.rename != "" && len(p.main) != 1 {
			t.Errorf("%s renames one binary but has %d", p.name, len(p.main))
		}
	}
}

// What tests a cluster is of the cluster's own version.
func TestKubernetesHasOneVersion(t *testing.T) {
	versions := map[string]string{}
	for _, module := range []string{"kubernetes", "kubernetes-tests"} {
		var err error
		if versions[module], err = requiredVersion(filepath.Join("..", module, "go.mod"), "k8s.io/kubernetes"); err != nil {
			t.Fatal(err)
		}
	}
	if versions["kubernetes"] != versions["kubernetes-tests"] {
		t.Errorf("the modules pin different versions of Kubernetes: %v", versions)
	}
}

func TestEveryModuleIsBuilt(t *testing.T) {
	files, err := filepath.Glob("../*/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		module := filepath.Base(filepath.Dir(file))
		if !slices.ContainsFunc(programs, func(p program) bool { return p.module == module }) {
			t.Errorf("no program is built from %s", file)
		}
	}
}

func TestBinaries(t *testing.T) {
	cases := map[string]struct {
		reason  string
		program program
		want    []string
	}{
		"Several": {
			reason:  "go build names a binary after its package",
			program: program{source: "example.com/x/v2", main: []string{"cmd/a", "cmd/b"}},
			want:    []string{"a", "b"},
		},
		"Root": {
			reason:  "a main package at the top is called as its module",
			program: program{source: "example.com/x", main: []string{"."}},
			want:    []string{"x"},
		},
		"Renamed": {
			reason:  "etcd's main package is called server",
			program: program{source: "example.com/x/server/v3", main: []string{"."}, rename: "x"},
			want:    []string{"x"},
		},
		"Test": {
			reason:  "the binary of a package's tests is called as by go test -c",
			program: program{source: "example.com/x", main: []string{"test/a"}, test: true},
			want:    []string{"a.test"},
		},
		"Ours": {
			reason:  "a main.go of ours is called as its folder",
			program: program{source: "example.com/x", module: "small-x"},
			want:    []string{"small-x"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.program.binaries()); diff != "" {
				t.Errorf("%s: binaries (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	all := []program{{name: "a", group: "x"}, {name: "b", group: "y"}, {name: "c", group: "x"}}
	cases := map[string]struct {
		reason string
		names  []string
		want   []string
		err    string
	}{
		"Group":   {reason: "a group is its programs", names: []string{"x"}, want: []string{"a", "c"}},
		"Order":   {reason: "what others wait for is built first, however it was asked", names: []string{"c", "a"}, want: []string{"a", "c"}},
		"Twice":   {reason: "a program is built once", names: []string{"x", "a", "a"}, want: []string{"a", "c"}},
		"Unknown": {reason: "a mistyped name is not ignored", names: []string{"a", "z"}, err: `"z"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			chosen, err := choose(all, tc.names)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("%s: error %v, want one with %s", tc.reason, err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range chosen {
				got = append(got, p.name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestStampKubernetes(t *testing.T) {
	released := time.Date(2026, 7, 22, 20, 7, 38, 0, time.FixedZone("", 2*3600))
	got := stampKubernetes("v1.36.3", released)
	for _, want := range []string{
		"k8s.io/component-base/version.gitVersion=v1.36.3",
		"k8s.io/component-base/version.gitMajor=1",
		"k8s.io/component-base/version.gitMinor=36",
		"k8s.io/client-go/pkg/version.buildDate=2026-07-22T18:07:38Z",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("no definition %s in %q", want, got)
		}
	}
}
