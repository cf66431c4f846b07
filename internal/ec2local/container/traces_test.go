package container_test

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// processesOf returns the command lines of all living processes in the test cluster's cgroups. Those that wait for their
// parent, which after a supervisor's death is the host's init, do not count.
func processesOf(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		groups, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(groups), "/kip-"+clusterName+"/") {
			continue
		}
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "stat"))
		if strings.Contains(string(stat), ") Z ") {
			continue
		}
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
		found = append(found, filepath.Base(filepath.Dir(f))+" "+strings.ReplaceAll(string(command), "\x00", " "))
	}
	return found
}

// traces lists what machines and their network could leave on the host. Other programs may be at work meanwhile, so
// only what bears the test cluster's name counts.
func traces(t *testing.T) []string {
	t.Helper()
	found := processesOf(t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if target := strings.Fields(line)[4]; strings.Contains(target, clusterName) || strings.Contains(target, "/machines/i-0") {
			found = append(found, "mount "+target)
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		if strings.Contains(i.Name, clusterName) || strings.HasPrefix(i.Name, "i-") {
			found = append(found, "link "+i.Name)
		}
	}
	for _, pattern := range []string{"/run/netns/*" + clusterName + "*", "/sys/fs/cgroup/kip-" + clusterName, "/sys/fs/cgroup/*/kip-" + clusterName} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	slices.Sort(found)
	return found
}

// serveMetadata answers each metadata request with the address it comes from.
func (w *world) serveMetadata(t *testing.T) {
	t.Helper()
	l, err := w.network.ListenIMDS()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = io.WriteString(w, host)
	})}
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
}
