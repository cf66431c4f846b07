package container

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

func TestFindCgroups(t *testing.T) {
	const rest = "20 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n" +
		"21 20 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"
	cases := map[string]struct {
		reason      string
		memberships string
		mountinfo   string
		want        []hierarchy
		pure        bool
	}{
		"Version2": {
			reason:      "A system of today.",
			memberships: "0::/user.slice/session-1.scope\n",
			mountinfo:   rest + "25 21 0:23 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
			want:        []hierarchy{{mountpoint: "/sys/fs/cgroup", unified: true}},
			pure:        true,
		},
		"Version1": {
			reason:      "Controllers may share a hierarchy, and the machine must not see the host's named ones.",
			memberships: "3:cpu,cpuacct:/\n2:memory:/a:b\n1:name=systemd:/\n",
			mountinfo: rest + "30 21 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"31 21 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"32 21 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n",
			want: []hierarchy{
				{mountpoint: "/sys/fs/cgroup/cpu,cpuacct", controllers: "cpu,cpuacct"},
				{mountpoint: "/sys/fs/cgroup/memory", controllers: "memory"},
				{mountpoint: "/sys/fs/cgroup/systemd", controllers: "name=systemd"},
			},
		},
		"Both": {
			reason:      "The unified hierarchy beside version 1 is one more to be in.",
			memberships: "1:memory:/\n0::/\n",
			mountinfo: rest + "31 21 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"32 21 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			want: []hierarchy{
				{mountpoint: "/sys/fs/cgroup/memory", controllers: "memory"},
				{mountpoint: "/sys/fs/cgroup/unified", unified: true},
			},
		},
		"NotMounted": {
			reason:      "What the host has not mounted, nobody sees.",
			memberships: "2:memory:/\n1:pids:/\n",
			mountinfo:   rest + "31 21 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			want:        []hierarchy{{mountpoint: "/sys/fs/cgroup/memory", controllers: "memory"}},
		},
		"PartOnly": {
			reason:      "A bind mount of someone's cgroup is no hierarchy.",
			memberships: "1:memory:/\n0::/\n",
			mountinfo: rest + "31 21 0:31 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"32 21 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			want: []hierarchy{{mountpoint: "/sys/fs/cgroup/unified", unified: true}},
			pure: true,
		},
		"None": {
			reason:      "Machines without limits are not wanted.",
			memberships: "0::/\n",
			mountinfo:   rest,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := findCgroups("kip", tc.memberships, tc.mountinfo)
			if tc.want == nil {
				if err == nil {
					t.Errorf("%s got %+v, want an error", tc.reason, got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got.hierarchies, cmp.AllowUnexported(hierarchy{})); diff != "" {
				t.Errorf("%s (-want +got)\n%s", tc.reason, diff)
			}
			if got.pure() != tc.pure {
				t.Errorf("%s version 2 only: %t, want %t", tc.reason, got.pure(), tc.pure)
			}
		})
	}
}

func TestHierarchyInside(t *testing.T) {
	cases := map[string]struct{ dir, options string }{
		"memory":       {"memory", "memory"},
		"cpu,cpuacct":  {"cpu,cpuacct", "cpu,cpuacct"},
		"name=systemd": {"systemd", "none,name=systemd"},
	}
	for controllers, want := range cases {
		dir, options := hierarchy{controllers: controllers}.inside()
		if dir != want.dir || options != want.options {
			t.Errorf("%s: got %q %q, want %q %q", controllers, dir, options, want.dir, want.options)
		}
	}
}

func TestQuota(t *testing.T) {
	for vcpus, want := range map[float64]int64{0.25: 25_000, 1: 100_000, 448: 44_800_000, 0: 1000} {
		if got := quota(vcpus); got != want {
			t.Errorf("%v CPUs: got %d µs, want %d", vcpus, got, want)
		}
	}
}

// TestRmdirAll uses directories without files: those of cgroups cannot be unlinked.
func TestRmdirAll(t *testing.T) {
	top := filepath.Join(t.TempDir(), "kip-x")
	if err := os.MkdirAll(filepath.Join(top, "i-1/kubepods/burstable"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := rmdirAll(top); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(top); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

// TestCreateV1 writes limits into a directory that looks like a version 1 hierarchy.
func TestCreateV1(t *testing.T) {
	h := hierarchy{mountpoint: t.TempDir(), controllers: "cpuset,memory"}
	c := &cgroups{cluster: "x", hierarchies: []hierarchy{h}}
	dir := c.path(h, "i-1")
	files := map[string]string{
		filepath.Join(h.mountpoint, "cpuset.cpus"): "0-3\n", filepath.Join(h.mountpoint, "cpuset.mems"): "0\n",
		filepath.Join(c.parent(h), "cpuset.cpus"): "\n", filepath.Join(c.parent(h), "cpuset.mems"): "0\n",
		filepath.Join(dir, "cpuset.cpus"): "\n", filepath.Join(dir, "cpuset.mems"): "\n",
		filepath.Join(dir, "memory.limit_in_bytes"): "",
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, content := range files {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.createV1(h, machine.Spec{ID: "i-1", MemoryMiB: 512}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"cpuset.cpus": "0-3\n", "cpuset.mems": "0\n", "memory.limit_in_bytes": "536870912"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}
