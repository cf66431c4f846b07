package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// traces lists everything on this machine that a cluster could leave behind.
// The machine may do other things meanwhile: of processes only those count that
// have to do with the cluster, by their arguments or their cgroup, and what
// bears another cluster's name does not count at all.
func traces(ctx context.Context, name, dir string) ([]string, error) {
	var all []string
	add := func(kind string, lines ...string) {
		for _, line := range lines {
			if line = strings.TrimSpace(line); line != "" && !ofAnotherCluster(line, name) {
				all = append(all, kind+" "+line)
			}
		}
	}
	processes, err := allProcesses()
	if err != nil {
		return nil, err
	}
	for _, pid := range processes {
		args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		groups, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		command := strings.ReplaceAll(string(args), "\x00", " ")
		if (strings.Contains(command, dir) || strings.Contains(string(groups), "/kip-"+name)) && !strings.Contains(string(stat), ") Z ") {
			add("process", fmt.Sprintf("%d %s", pid, command))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 {
			add("mount", f[3]+" on "+f[4])
		}
	}
	for _, pattern := range []string{"/run/netns/*", "/sys/class/net/*", "/sys/fs/cgroup/kip*", "/sys/fs/cgroup/*/kip*", "/dev/shm/*", "/dev/mapper/*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		add("file", files...)
	}
	for _, setting := range []string{"net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding", "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables"} {
		if value, err := os.ReadFile("/proc/sys/" + setting); err == nil {
			add("setting", setting+" = "+string(value))
		}
	}
	for _, command := range [][]string{
		{"ip", "-o", "link"}, {"ip", "-o", "address"}, {"ip", "route", "show", "table", "all"}, {"ip", "rule"},
		{"nft", "list", "ruleset"}, {"iptables-save"}, {"ip6tables-save"}, {"losetup", "-a"},
	} {
		out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output()
		if err != nil {
			continue // the machine has no such tool, or the tool no such table
		}
		for line := range strings.Lines(string(out)) {
			// Counters and comments change by themselves.
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") && !strings.Contains(line, "valid_lft") {
				add(strings.Join(command, " "), line)
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// ofAnotherCluster tells by the names that clusters give to what they make.
func ofAnotherCluster(line, name string) bool {
	for field := range strings.FieldsFuncSeq(line, func(r rune) bool { return strings.ContainsRune(" /:@", r) }) {
		if rest, ok := strings.CutPrefix(field, "kip-"); ok && rest != name && !strings.HasPrefix(rest, name+"-") {
			return true
		}
	}
	return strings.Contains(line, "/.cache/clusters/") || name != shared.Name && strings.Contains(line, shared.Dir)
}
