package main

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// Groups of programs that can be named on the command line.
const (
	groupCluster = "cluster" // what a local cluster and its cells run
	groupDev     = "dev"     // what developing Kip needs
	groupTest    = "test"    // what only tests run
)

// A program is what is built, versioned and replaced as a whole: one or more
// binaries of one module.
type program struct {
	name   string // folder below .cache/tools
	group  string
	module string   // folder below tools with the go.mod that pins it
	source string   // path of the module whose version is the program's version
	main   []string // packages, relative to source, each of one binary; none if main.go is ours, beside the go.mod
	test   bool     // main has one package, whose tests are the program
	rename string   // name of the binary, where its package's is another; only with one package
	cgo    bool     // needs a C compiler and the Debian packages of set "build"
	tags   []string
	// stamp returns the linker's -X definitions that make the program tell its version.
	stamp func(version string, released time.Time) []string
	// link holds further flags for the linker.
	link []string
	// check are arguments that make each binary print its version; the build
	// fails if the output does not contain it.
	check []string
}

// binaries returns the names of the files that p consists of.
func (p program) binaries() []string {
	if p.rename != "" {
		return []string{p.rename}
	}
	if len(p.main) == 0 {
		return []string{p.module}
	}
	names := make([]string, len(p.main))
	for i, pkg := range p.main {
		names[i] = path.Base(path.Join(p.source, pkg))
		if p.test {
			names[i] += ".test"
		}
	}
	return names
}

// packages returns p's main packages as the go command, run in p's module, takes them.
func (p program) packages() []string {
	if len(p.main) == 0 {
		return []string{"."}
	}
	paths := make([]string, len(p.main))
	for i, pkg := range p.main {
		paths[i] = path.Join(p.source, pkg)
	}
	return paths
}

// buildFlags returns the flags that decide what is compiled, which go list needs as well.
// VCS information would make every commit of ours a reason to link again.
func (p program) buildFlags() []string {
	flags := []string{"-mod=readonly", "-trimpath", "-buildvcs=false"}
	if len(p.tags) > 0 {
		flags = append(flags, "-tags="+strings.Join(p.tags, ","))
	}
	return flags
}

// ldflags returns the linker's flags. Symbol tables are left out: they are a
// quarter of a binary, and every cell maps these files.
func (p program) ldflags(version string, released time.Time) string {
	flags := append([]string{"-s", "-w"}, p.link...)
	if p.stamp != nil {
		for _, definition := range p.stamp(version, released) {
			flags = append(flags, "-X", definition)
		}
	}
	return strings.Join(flags, " ")
}

// kubernetes returns the program of the binary called name. The six are one
// program each so that the first of them can be used while the others compile.
func kubernetes(name string) program {
	check := []string{"--version"}
	if name == "kubectl" {
		check = []string{"version", "--client"}
	}
	return program{
		name: name, group: groupCluster, module: "kubernetes",
		source: "k8s.io/kubernetes", main: []string{"cmd/" + name},
		stamp: stampKubernetes, check: check,
	}
}

// stampKubernetes sets what Kubernetes' own release scripts set. The module
// proxy knows no commit, so that stays empty; the date is that of the release,
// so two builds are equal. The variables exist twice.
func stampKubernetes(version string, released time.Time) []string {
	number := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(number) < 3 {
		number = []string{"", "", ""}
	}
	var definitions []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		definitions = append(definitions,
			pkg+".gitVersion="+version,
			pkg+".gitMajor="+number[0],
			pkg+".gitMinor="+number[1],
			pkg+".gitTreeState=clean",
			pkg+".gitCommit=",
			pkg+".buildDate="+released.UTC().Format(time.RFC3339),
		)
	}
	return definitions
}

// stampVersion sets one variable to the version, with or without its leading v.
func stampVersion(variable string, trim bool) func(string, time.Time) []string {
	return func(version string, _ time.Time) []string {
		if trim {
			version = strings.TrimPrefix(version, "v")
		}
		return []string{variable + "=" + version}
	}
}

// programs lists every program in the order of building: what others wait for first.
var programs = []program{
	kubernetes("kubelet"),
	{
		name: "containerd", group: groupCluster, module: "containerd",
		source: "github.com/containerd/containerd/v2",
		main:   []string{"cmd/containerd", "cmd/containerd-shim-runc-v2", "cmd/ctr"},
		// Cells have neither btrfs nor ZFS nor a thin pool, and these three need C headers.
		tags:  []string{"no_btrfs", "no_devmapper", "no_zfs"},
		stamp: stampVersion("github.com/containerd/containerd/v2/version.Version", false),
		check: []string{"-v"},
	},
	{
		name: "runc", group: groupCluster, module: "runc",
		source: "github.com/opencontainers/runc", main: []string{"."},
		cgo: true, // its first stage, which enters the namespaces, is C
		// netgo and osusergo keep glibc's name services, which a static binary cannot load, out.
		tags:  []string{"netgo", "osusergo", "seccomp", "urfave_cli_no_docs"},
		link:  []string{"-linkmode external", "-extldflags -static"},
		check: []string{"--version"}, // embedded in its source
	},
	kubernetes("kube-apiserver"),
	{
		name: "etcd", group: groupCluster, module: "etcd",
		source: "go.etcd.io/etcd/server/v3", main: []string{"."}, rename: "etcd",
		check: []string{"--version"}, // a constant in its source
	},
	kubernetes("kube-controller-manager"),
	kubernetes("kube-scheduler"),
	kubernetes("kubectl"),
	kubernetes("kube-proxy"),
	{
		name: "cni", group: groupCluster, module: "cni",
		source: "github.com/containernetworking/plugins",
		main: []string{
			"plugins/main/ptp", "plugins/main/loopback", "plugins/main/bridge",
			"plugins/ipam/static", "plugins/ipam/host-local", "plugins/meta/portmap",
		},
		stamp: stampVersion("github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion", false),
		check: []string{}, // without the environment of a CNI call they say who they are
	},
	{
		name: "coredns", group: groupCluster, module: "coredns",
		source: "github.com/coredns/coredns",
		stamp:  stampVersion("github.com/coredns/coredns/coremain.gitTag", false),
		check:  []string{"-version"},
	},
	{
		name: "registry", group: groupCluster, module: "registry",
		source: "github.com/distribution/distribution/v3",
		stamp:  stampVersion("github.com/distribution/distribution/v3/version.version", false),
		check:  []string{"--version"},
	},
	{
		name: "metrics-server", group: groupCluster, module: "metrics-server",
		source: "sigs.k8s.io/metrics-server", main: []string{"cmd/metrics-server"},
		stamp: stampVersion("k8s.io/client-go/pkg/version.gitVersion", false),
		check: []string{"--version"},
	},
	{
		name: "e2e", group: groupTest, module: "kubernetes-tests",
		source: "k8s.io/kubernetes", main: []string{"test/e2e"}, test: true,
		stamp: stampKubernetes, check: []string{"--version"},
	},
	{
		name: "agnhost", group: groupTest, module: "kubernetes-tests",
		source: "k8s.io/kubernetes", main: []string{"test/images/agnhost"},
		// Its image has a version of its own; the program has Kubernetes' here.
		stamp: stampVersion("main.Version", true), check: []string{"--version"},
	},
	{
		name: "helm", group: groupTest, module: "helm",
		source: "helm.sh/helm/v4", main: []string{"cmd/helm"},
		stamp: stampVersion("helm.sh/helm/v4/internal/version.version", false),
		check: []string{"version", "--short"},
	},
	{
		name: "controller-gen", group: groupDev, module: "controller-gen",
		source: "sigs.k8s.io/controller-tools", main: []string{"cmd/controller-gen"},
		stamp: stampVersion("sigs.k8s.io/controller-tools/pkg/version.version", false),
		check: []string{"--version"},
	},
	{
		name: "golangci-lint", group: groupDev, module: "golangci-lint",
		source: "github.com/golangci/golangci-lint/v2", main: []string{"cmd/golangci-lint"},
		stamp: func(version string, released time.Time) []string {
			// It believes its version only beside a date.
			return []string{
				"main.version=" + strings.TrimPrefix(version, "v"),
				"main.date=" + released.UTC().Format(time.RFC3339),
			}
		},
		check: []string{"version", "--short"},
	},
}

// choose returns the programs that names, of groups or programs, stand for, in the order of all.
func choose(all []program, names []string) ([]program, error) {
	var chosen []program
	known := map[string]bool{}
	for _, p := range all {
		known[p.name], known[p.group] = true, true
		if slices.Contains(names, p.name) || slices.Contains(names, p.group) {
			chosen = append(chosen, p)
		}
	}
	for _, name := range names {
		if !known[name] {
			return nil, fmt.Errorf("no program or group is called %q; `build list` shows all", name)
		}
	}
	return chosen, nil
}
