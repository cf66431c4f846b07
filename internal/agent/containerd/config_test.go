package containerd

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/userdata"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update to accept:\n%s", path, diff)
	}
}

func TestRender(t *testing.T) {
	golden(t, "config.toml", Config{
		RuncPath: "/opt/kip/bin/runc", NetworkPluginDir: "/opt/kip/cni/bin",
		SandboxImage: "registry.k8s.io/pause:3.10.1", RestrictOOMScoreAdj: true,
	}.Render())
	cached := Config{
		RuncPath: "/opt/kip/bin/runc", NetworkPluginDir: "/opt/kip/cni/bin",
		Snapshotter: "/run/kip/snapshotter.sock", SnapshotterDir: "/var/lib/kip/snapshotter",
	}.Render()
	golden(t, "imagecache.toml", strings.ReplaceAll(cached, "linux/"+runtime.GOARCH, "linux/ARCH"))
}

func TestWriteMirrors(t *testing.T) {
	const local = "http://10.98.255.1:5000"
	cases := map[string]struct {
		reason  string
		mirrors []userdata.Mirror
		// want is file to content.
		want  map[string]string
		fails bool
	}{
		"NamedAndPort": {
			reason:  "each named registry has a directory; a port is written as containerd looks for it",
			mirrors: []userdata.Mirror{{Hosts: []string{"docker.io", "registry.local:5000"}, Endpoint: local}},
			want:    map[string]string{"docker.io": hosts(local), "registry.local_5000_": hosts(local)},
		},
		"Pattern": {
			reason: "a pattern and the default end in one catch-all, in order and once",
			mirrors: []userdata.Mirror{
				{Hosts: []string{"*.dkr.ecr.us-west-2.amazonaws.com", "_default"}, Endpoint: local},
				{Hosts: []string{"_default"}, Endpoint: "https://cache.example"},
			},
			want: map[string]string{"_default": hosts(local, "https://cache.example")},
		},
		"Path": {
			reason:  "one mirror can keep registries apart by paths of its own",
			mirrors: []userdata.Mirror{{Hosts: []string{"quay.io"}, Endpoint: local + "/v2/quay.io"}},
			want:    map[string]string{"quay.io": hosts(local+"/v2/quay.io") + "override_path = true\n"},
		},
		"NoURL": {
			reason:  "a mirror without a scheme is refused before containerd silently ignores it",
			mirrors: []userdata.Mirror{{Hosts: []string{"docker.io"}, Endpoint: "10.98.255.1:5000"}},
			fails:   true,
		},
		"PathAsHost": {
			reason:  "a host name cannot lead out of the directory",
			mirrors: []userdata.Mirror{{Hosts: []string{"../../x"}, Endpoint: local}},
			fails:   true,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			err := WriteMirrors(root, tc.mirrors)
			if (err != nil) != tc.fails {
				t.Fatalf("%s: error %v", tc.reason, err)
			}
			got := map[string]string{}
			entries, _ := os.ReadDir(filepath.Join(root, RegistryDir))
			for _, e := range entries {
				content, err := os.ReadFile(filepath.Join(root, RegistryDir, e.Name(), "hosts.toml"))
				if err != nil {
					t.Fatal(err)
				}
				got[e.Name()] = string(content)
			}
			if tc.want == nil {
				tc.want = map[string]string{}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", tc.reason, diff)
			}
		})
	}
}

func hosts(endpoints ...string) (s string) {
	for _, e := range endpoints {
		s += "[host.\"" + e + "\"]\ncapabilities = [\"pull\", \"resolve\"]\ndial_timeout = \"2s\"\n"
	}
	return s
}
