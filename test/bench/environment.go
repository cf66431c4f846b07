package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// environment is what figures depend on besides Kip: names and values in
// their order.
type environment [][2]string

// environment is to be called before anything is measured: it tells how busy
// the machine was.
func (b *bench) environment(ctx context.Context) (environment, error) {
	version, err := b.kube.Discovery().ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("asking for Kubernetes' version: %w", err)
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, err
	}
	// What follows the first hyphen is its builder's business.
	kernel, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	cgroups := "version 1"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroups = "version 2"
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil, err
	}
	return environment{
		{"Date", time.Now().UTC().Format("2006-01-02 15:04 UTC")},
		{"Commit", output(ctx, b.Root, "git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")},
		{"Processors", fmt.Sprintf("%d × %s", runtime.NumCPU(), procField("/proc/cpuinfo", "model name"))},
		{"Memory", procField("/proc/meminfo", "MemTotal")},
		{"Kernel", fmt.Sprintf("Linux %s, cgroups %s", kernel, cgroups)},
		{"Load before", strings.Join(strings.Fields(string(load))[:3], " ") + " (1, 5, 15 minutes)"},
		{"Kubernetes", version.GitVersion},
		{"containerd", version3(output(ctx, b.Root, filepath.Join(b.Root, ".cache", "tools", "bin", "containerd"), "--version"))},
		{"Go", runtime.Version()},
	}, nil
}

func (e environment) write(d *document) {
	var rows [][]string
	for _, row := range e {
		rows = append(rows, row[:])
	}
	d.table([]string{"Measured on", ""}, rows)
}

// version3 is the third word: "containerd github.com/… v2.3.7 abc".
func version3(words string) string {
	if f := strings.Fields(words); len(f) > 2 {
		return f[2]
	}
	return words
}

// output is what a command says. A report without it is still worth having.
func output(ctx context.Context, dir, name string, args ...string) string {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "unknown (" + err.Error() + ")"
	}
	return strings.TrimSpace(string(out))
}

// procField is the value after the first "name:" of a file in /proc.
func procField(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
