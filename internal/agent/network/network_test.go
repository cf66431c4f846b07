package network

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestWritePodNetwork(t *testing.T) {
	dir := t.TempDir()
	c := Config{
		Interface: "eth0", MTU: 9001, HostPorts: NFTables, Subnet: netip.MustParsePrefix("10.98.0.0/20"),
		Primary: netip.MustParseAddr("10.98.0.11"), Pod: netip.MustParseAddr("10.98.0.12"),
	}
	for range 2 {
		if err := c.WritePodNetwork(dir); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("containerd would see %v, %v; want one file", entries, err)
	}
	got, err := os.ReadFile(filepath.Join(dir, entries[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", entries[0].Name())
	if *update {
		_ = os.MkdirAll("testdata", 0o755)
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got), -update to accept:\n%s", path, diff)
	}
}

func TestInterfaceOf(t *testing.T) {
	name, mtu, err := InterfaceOf(netip.MustParseAddr("127.0.0.1"))
	if err != nil || name != "lo" || mtu == 0 {
		t.Errorf("InterfaceOf(127.0.0.1) = %q, %d, %v", name, mtu, err)
	}
	if _, _, err := InterfaceOf(netip.MustParseAddr("192.0.2.1")); err == nil {
		t.Error("an interface was found for an address nobody has")
	}
}

func TestEnsureResolver(t *testing.T) {
	cases := map[string]struct {
		reason, before, want string
		servers              []string
	}{
		"Missing": {reason: "a machine without one gets one", servers: []string{"10.96.0.10", "10.96.0.11"},
			want: "nameserver 10.96.0.10\nnameserver 10.96.0.11\n"},
		"Present": {reason: "what DHCP wrote stands", before: "nameserver 10.0.0.2\n", servers: []string{"10.96.0.10"},
			want: "nameserver 10.0.0.2\n"},
		"NothingKnown": {reason: "a pod without a resolver finds nothing", want: "nameserver 169.254.169.253\n"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			if tc.before != "" {
				if err := os.WriteFile(path, []byte(tc.before), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := EnsureResolver(path, tc.servers); err != nil {
				t.Fatal(err)
			}
			got, _ := os.ReadFile(path)
			if string(got) != tc.want {
				t.Errorf("%s: %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}

func TestPodResolver(t *testing.T) {
	dir := t.TempDir()
	path, truth := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "truth")
	write := func(path, content string) {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := podResolver(path, truth); got != path {
		t.Errorf("without any file it is %s", got)
	}
	write(path, "# systemd\nnameserver 127.0.0.53\noptions edns0\n")
	if got := podResolver(path, truth); got != path {
		t.Errorf("without another file it is %s", got)
	}
	write(truth, "nameserver 10.0.0.2\n")
	if got := podResolver(path, truth); got != truth {
		t.Errorf("a pod cannot reach the stub, and gets %s", got)
	}
	write(path, "nameserver 10.0.0.2\n")
	if got := podResolver(path, truth); got != path {
		t.Errorf("a server that all can reach is passed over for %s", got)
	}
}
