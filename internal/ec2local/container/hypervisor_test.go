package container_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/container"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

// process returns the host's ID of the machine's process 1.
func (w *world) process(t *testing.T, m machine.Spec) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.config.StateDir, "machines", m.ID, "process.json"))
	if err != nil {
		t.Fatal(err)
	}
	var who struct{ PID int }
	if err := json.Unmarshal(data, &who); err != nil {
		t.Fatal(err)
	}
	return who.PID
}

func alive(pid int) bool { return unix.Kill(pid, 0) == nil }

// exited waits for news of a machine's end.
func (w *world) exited(t *testing.T) string {
	t.Helper()
	select {
	case id := <-w.h.Exited():
		return id
	case <-time.After(10 * time.Second):
		t.Fatal("the end of the machine was not reported")
		return ""
	}
}

// silent checks that no end of a machine is reported.
func (w *world) silent(t *testing.T) {
	t.Helper()
	select {
	case id := <-w.h.Exited():
		t.Errorf("the end of %s was reported", id)
	case <-time.After(50 * time.Millisecond):
	}
}

func (w *world) console(t *testing.T, m machine.Spec) string {
	t.Helper()
	out, err := w.h.Console(m.ID)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestMachineView(t *testing.T) {
	w := newWorld(t)
	m := w.start(t, 1)
	i := guest(t, m)

	if i.Hostname != m.Hostname || i.PID != 1 || i.Processes != 1 {
		t.Errorf("host name %q, init is process %d of %d", i.Hostname, i.PID, i.Processes)
	}
	for name, inside := range i.Namespaces {
		if outside, _ := os.Readlink("/proc/self/ns/" + name); outside == inside {
			t.Errorf("the machine shares the host's %s namespace", name)
		}
	}
	if !slices.Contains(i.Addresses, m.NIC.PrimaryIP.String()) || slices.Contains(i.Addresses, m.NIC.SecondaryIPs[0].String()+"/20") {
		t.Errorf("addresses %v, want the primary one and not the secondary", i.Addresses)
	}
	for line := range strings.Lines(i.Cgroup) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); parts[2] != "/" && parts[2] != "/init" {
			t.Errorf("init sees a cgroup that is not the machine's root: %s", line)
		}
	}
	// Nothing of the host's disk but these.
	allowed := []string{
		filepath.Join(w.config.StateDir, "machines", m.ID), filepath.Join(w.image, "rootfs/opt"), "/usr", "/etc/alternatives",
	}
	for line := range strings.Lines(i.Mounts) {
		fields := strings.Fields(line)
		root, kind := fields[3], fields[slices.Index(fields, "-")+1]
		if slices.Contains([]string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay"}, kind) {
			continue
		}
		if !slices.ContainsFunc(allowed, func(p string) bool { return strings.HasSuffix(root, p) || strings.Contains(root, p+"/") }) {
			t.Errorf("the machine sees %s of the host: %s", root, line)
		}
	}
	if got := w.console(t, m); !strings.Contains(got, "init runs\n") {
		t.Errorf("console: %q", got)
	}

	read := func(path string) string { return mustAsk(t, m, "/read", url.Values{"path": {path}}) }
	if got := read("/proc/meminfo"); !strings.Contains(got, "MemTotal:         262144 kB") {
		t.Errorf("/proc/meminfo does not tell the machine's memory:\n%s", got)
	}
	if got := strings.Count(read("/proc/cpuinfo"), "processor\t"); got != 1 {
		t.Errorf("/proc/cpuinfo tells of %d CPUs, want 1", got)
	}
	if got := read("/sys/devices/system/cpu/online"); got != "0\n" {
		t.Errorf("CPUs online: %q", got)
	}
	if got, want := read("/etc/resolv.conf"), "nameserver "+networkConfig().HostAddress().String()+"\n"; got != want {
		t.Errorf("/etc/resolv.conf: got %q, want %q", got, want)
	}
	if got := read("/etc/hostname"); got != m.Hostname+"\n" {
		t.Errorf("/etc/hostname: %q", got)
	}
	if _, err := ask(m, "/read", url.Values{"path": {"/sbin/ip"}}); err != nil {
		t.Errorf("the host's programs are not in /sbin beside the image's init: %v", err)
	}
}

// A runtime makes a pod with hostUsers: false so: a user namespace that mounts
// its own /proc and /sys, though parts of the machine's are covered.
func TestUserNamespace(t *testing.T) {
	w := newWorld(t)
	m := w.start(t, 1)
	out, err := exec.Command("nsenter", "--all", "--target", strconv.Itoa(w.process(t, m)), "unshare",
		"--user", "--map-root-user", "--mount", "--pid", "--net", "--fork",
		"sh", "-ec", "mount -t proc proc /proc; mount -t sysfs -o ro sysfs /sys; ls /proc/1/exe /sys/class/net/lo/mtu").CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestHostIsProtected(t *testing.T) {
	w := newWorld(t)
	m := w.start(t, 1)
	before, err := os.ReadFile("/proc/sys/vm/overcommit_memory")
	if err != nil {
		t.Fatal(err)
	}
	set := func(path, value string) error {
		_, err := ask(m, "/write", url.Values{"path": {path}, "value": {value}})
		return err
	}
	for _, path := range []string{"/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/usr/bin/x", "/opt/x", "/sbin/x", "/sys/power/state"} {
		// sysrq-trigger is /dev/null: writing works, and nothing happens.
		if err := set(path, "b"); err == nil && path != "/proc/sysrq-trigger" {
			t.Errorf("the machine wrote to %s", path)
		}
	}
	// What a kubelet sets, it can set; the host does not notice.
	if err := set("/proc/sys/vm/overcommit_memory", "2"); err != nil {
		t.Errorf("the machine cannot set its own vm.overcommit_memory: %v", err)
	}
	if got := mustAsk(t, m, "/read", url.Values{"path": {"/proc/sys/vm/overcommit_memory"}}); got != "2" {
		t.Errorf("vm.overcommit_memory in the machine: %q, want what it set", got)
	}
	if after, err := os.ReadFile("/proc/sys/vm/overcommit_memory"); err != nil || string(after) != string(before) {
		t.Errorf("vm.overcommit_memory of the host: %q, %v; was %q", after, err, before)
	}
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/eth0/proxy_arp", "/proc/sys/net/ipv4/neigh/eth0/proxy_delay"} {
		if err := set(path, "1"); err != nil {
			t.Errorf("the machine cannot set %s of its own network: %v", path, err)
		}
	}
	if device, ok := hostDisk(t); ok {
		query := url.Values{"major": {fmt.Sprint(unix.Major(device))}, "minor": {fmt.Sprint(unix.Minor(device))}}
		if got, err := ask(m, "/mknod", query); err == nil {
			t.Errorf("the machine %s the host's disk", got)
		}
	}
}

// TestShares: a machine sees what the host puts into a directory meanwhile, and can change none of it.
func TestShares(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.h.Close()
	w.config.Shares = map[string]string{"/srv/share": dir, "/run/share": dir}
	w.open(t)
	m := w.start(t, 1)
	guest(t, m)
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	for at := range w.config.Shares {
		if got := mustAsk(t, m, "/read", url.Values{"path": {at + "/file"}}); got != "new" {
			t.Errorf("%s/file is %q in the machine", at, got)
		}
		if _, err := ask(m, "/write", url.Values{"path": {at + "/file"}, "value": {"changed"}}); err == nil {
			t.Errorf("the machine wrote to %s", at)
		}
	}
	// Not with its disk, either.
	if err := w.h.Remove(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != "new" {
		t.Errorf("after the machine's end the host's file is %q, %v", got, err)
	}
}

// hostDisk is the device that the host's root is on, if it is one.
func hostDisk(t *testing.T) (device uint64, ok bool) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	return st.Dev, unix.Major(st.Dev) != 0
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	m := w.start(t, 1)
	eat := func(mebibytes int) (string, error) {
		return ask(m, "/run", url.Values{"args": {fmt.Sprintf("eat %d", mebibytes)}, "wait": {"1"}})
	}
	if got, err := eat(100); err != nil || got != "ate 100\n" {
		t.Errorf("using less memory than there is: %q, %v", got, err)
	}
	if got, err := eat(400); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("using more memory than there is: %q, %v; want it killed", got, err)
	}
	if i := guest(t, m); i.PID != 1 {
		t.Error("init did not survive")
	}
	// Half a CPU, told by the cgroup of either version.
	quota, err := ask(m, "/read", url.Values{"path": {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us"}})
	if err != nil {
		quota = mustAsk(t, m, "/read", url.Values{"path": {"/sys/fs/cgroup/cpu.max"}})
	}
	if !strings.HasPrefix(quota, "50000") {
		t.Errorf("CPU quota: %q, want 50000 of 100000 µs", quota)
	}
}

func TestMoreCPUsThanTheHost(t *testing.T) {
	w := newWorld(t)
	m := w.spec(1)
	m.VCPUs = 448
	if err := w.h.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	cpus := mustAsk(t, m, "/read", url.Values{"path": {"/proc/cpuinfo"}})
	if got := strings.Count(cpus, "processor\t"); got != 448 {
		t.Errorf("/proc/cpuinfo tells of %d CPUs, want 448", got)
	}
}

func TestMetadataService(t *testing.T) {
	w := newWorld(t)
	a, b := w.start(t, 1), w.start(t, 101)
	w.serveMetadata(t)
	fetch := func(m machine.Spec, from string) (string, error) {
		return ask(m, "/fetch", url.Values{"url": {"http://169.254.169.254/"}, "from": {from}})
	}
	for _, m := range []machine.Spec{a, b} {
		if got, err := fetch(m, ""); err != nil || got != m.NIC.PrimaryIP.Addr().String() {
			t.Errorf("the metadata service takes %s for %q, %v", m.NIC.PrimaryIP.Addr(), got, err)
		}
	}
	// A pod's address, and a neighbour's.
	for _, ip := range []string{a.NIC.SecondaryIPs[0].String(), "10.222.0.77"} {
		mustAsk(t, a, "/address", url.Values{"args": {"address add " + ip + "/32 dev eth0"}})
	}
	if got, err := fetch(a, a.NIC.SecondaryIPs[0].String()); err != nil || got != a.NIC.SecondaryIPs[0].String() {
		t.Errorf("from the secondary address: %q, %v", got, err)
	}
	if got, err := fetch(a, "10.222.0.77"); err == nil {
		t.Errorf("the metadata service believes a stolen address: %q", got)
	}
}

func TestEnds(t *testing.T) {
	w := newWorld(t)
	cases := map[string]struct {
		reason   string
		end      func(t *testing.T, m machine.Spec) error
		reported bool
	}{
		"Exit": {
			reason:   "An init that exits is a machine that switched itself off.",
			end:      func(_ *testing.T, m machine.Spec) error { _, _ = ask(m, "/exit", nil); return nil },
			reported: true,
		},
		"Reboot": {
			reason:   "So is one that calls reboot(2).",
			end:      func(_ *testing.T, m machine.Spec) error { _, _ = ask(m, "/reboot", nil); return nil },
			reported: true,
		},
		"Killed": {
			reason: "Someone on the host may kill it.",
			end: func(t *testing.T, m machine.Spec) error {
				return unix.Kill(w.process(t, m), unix.SIGKILL)
			},
			reported: true,
		},
		"PowerOff": {
			reason: "What was asked for is not reported.",
			end: func(t *testing.T, m machine.Spec) error {
				err := w.h.PowerOff(t.Context(), m.ID, false)
				if out := w.console(t, m); !strings.Contains(out, "asked to power off") {
					t.Errorf("init was not asked; console: %q", out)
				}
				return err
			},
		},
		"Force": {
			reason: "A forced end is immediate.",
			end: func(t *testing.T, m machine.Spec) error {
				err := w.h.PowerOff(t.Context(), m.ID, true)
				if out := w.console(t, m); strings.Contains(out, "asked to power off") {
					t.Errorf("init was asked; console: %q", out)
				}
				return err
			},
		},
		"Deaf": {
			reason: "An init that does not listen is killed after the grace period.",
			end: func(t *testing.T, m machine.Spec) error {
				if err := unix.Kill(w.process(t, m), unix.SIGSTOP); err != nil {
					return err
				}
				return w.h.PowerOff(t.Context(), m.ID, false)
			},
		},
	}
	n := 0
	for name, tc := range cases {
		n++
		t.Run(name, func(t *testing.T) {
			m := w.start(t, n)
			mustAsk(t, m, "/run", url.Values{"args": {"sleep"}}) // in a session of its own
			init := w.process(t, m)
			if err := tc.end(t, m); err != nil {
				t.Fatalf("%s %v", tc.reason, err)
			}
			if tc.reported {
				if id := w.exited(t); id != m.ID {
					t.Errorf("%s reported: %s", tc.reason, id)
				}
			} else {
				w.silent(t)
			}
			if alive(init) {
				t.Errorf("%s Its process 1 is still there", tc.reason)
			}
			if left := processesOf(t); len(left) > 0 {
				t.Errorf("%s Processes left: %v", tc.reason, left)
			}
			for range 2 {
				if err := w.h.PowerOff(t.Context(), m.ID, false); err != nil {
					t.Errorf("%s Powering off what is off: %v", tc.reason, err)
				}
				if err := w.h.Remove(t.Context(), m.ID); err != nil {
					t.Errorf("%s Removing it: %v", tc.reason, err)
				}
			}
			if _, err := w.h.Console(m.ID); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s The console of a machine that is gone: %v", tc.reason, err)
			}
		})
	}
}

func TestStopAndStartKeepsTheDisk(t *testing.T) {
	w := newWorld(t)
	m := w.start(t, 1)
	for _, path := range []string{"/var/lib/mark", "/run/mark"} {
		mustAsk(t, m, "/write", url.Values{"path": {path}, "value": {"kept"}})
	}
	if err := w.h.Start(t.Context(), m); err != nil {
		t.Errorf("starting what runs: %v", err)
	}
	if err := w.h.PowerOff(t.Context(), m.ID, false); err != nil {
		t.Fatal(err)
	}
	w.start(t, 1)
	if got := mustAsk(t, m, "/read", url.Values{"path": {"/var/lib/mark"}}); got != "kept" {
		t.Errorf("the disk after a stop: %q", got)
	}
	if _, err := ask(m, "/read", url.Values{"path": {"/run/mark"}}); err == nil {
		t.Error("/run survived a stop")
	}
	if got := strings.Count(w.console(t, m), "init runs"); got != 2 {
		t.Errorf("the console tells of %d starts, want 2", got)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	before := traces(t)
	t.Run("Life", func(t *testing.T) {
		w := newWorld(t)
		for n := range 3 {
			m := w.start(t, n)
			// What a kubelet does to its cgroups.
			for _, dir := range []string{"/sys/fs/cgroup/memory/kubepods/burstable/pod1", "/sys/fs/cgroup/cpu/kubepods/burstable/pod1"} {
				_, _ = ask(m, "/write", url.Values{"path": {dir}, "mkdir": {"1"}})
			}
			mustAsk(t, m, "/run", url.Values{"args": {"sleep"}})
		}
		ids, err := w.h.Machines()
		if err != nil || len(ids) != 3 {
			t.Fatalf("machines: %v, %v", ids, err)
		}
		for _, id := range ids {
			if err := w.h.Remove(t.Context(), id); err != nil {
				t.Error(err)
			}
		}
		if left := processesOf(t); len(left) > 0 {
			t.Errorf("processes left: %v", left)
		}
		if ids, err := w.h.Machines(); err != nil || len(ids) > 0 {
			t.Errorf("machines left: %v, %v", ids, err)
		}
	})
	if after := traces(t); !slices.Equal(before, after) {
		t.Errorf("left over: %q, was %q", after, before)
	}
}

func TestFailedStart(t *testing.T) {
	w := newWorld(t)
	cases := map[string]struct {
		reason string
		change func(t *testing.T, m *machine.Spec)
		want   string
	}{
		"NoInit": {
			reason: "An image without init cannot be started.",
			change: func(t *testing.T, m *machine.Spec) { m.Image = t.TempDir() },
			want:   "no /sbin/init",
		},
		"BrokenInit": {
			reason: "The new process itself tells why it could not become init.",
			change: func(t *testing.T, m *machine.Spec) {
				m.Image = t.TempDir()
				init := filepath.Join(m.Image, "rootfs/sbin/init")
				if err := errors.Join(os.MkdirAll(filepath.Dir(init), 0o755), os.WriteFile(init, []byte("?"), 0o755)); err != nil {
					t.Fatal(err)
				}
			},
			want: "executing /sbin/init: exec format error",
		},
		"BadMAC": {
			reason: "The network refuses before init runs.",
			change: func(_ *testing.T, m *machine.Spec) { m.NIC.MAC = "x" },
			want:   "attaching",
		},
		"EvilID": {
			reason: "The ID is a directory's name.",
			change: func(_ *testing.T, m *machine.Spec) { m.ID = "../x" },
			want:   "no file name",
		},
	}
	n := 20
	for name, tc := range cases {
		n++
		t.Run(name, func(t *testing.T) {
			m := w.spec(n)
			tc.change(t, &m)
			err := w.h.Start(t.Context(), m)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), m.ID) {
				t.Errorf("%s got %v, want %q and the ID", tc.reason, err, tc.want)
			}
			if left := processesOf(t); len(left) > 0 {
				t.Errorf("%s Processes left: %v", tc.reason, left)
			}
			if name == "EvilID" {
				return
			}
			if err := w.h.Remove(t.Context(), m.ID); err != nil {
				t.Errorf("%s Removing what failed: %v", tc.reason, err)
			}
		})
	}
	w.silent(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.h.Start(ctx, w.spec(40)); err == nil {
		t.Error("a start with a context that has ended succeeded")
	}
	if err := w.h.Start(t.Context(), w.spec(40)); err != nil {
		t.Errorf("trying again: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	const count = 20
	var wg sync.WaitGroup
	for n := range count {
		wg.Go(func() {
			m := w.spec(n)
			if err := w.h.Start(t.Context(), m); err != nil {
				t.Error(err)
				return
			}
			if _, err := ask(m, "/info", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for n := range count {
		wg.Go(func() {
			if err := w.h.Remove(context.Background(), w.spec(n).ID); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left := processesOf(t); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

var _ machine.Hypervisor = (*container.Hypervisor)(nil)
