package container_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/container"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

func TestMain(m *testing.M) {
	container.MaybeRunInit()
	if len(os.Args) > 1 && os.Args[1] == supervisorArg {
		supervise(os.Args[2])
		return
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	imageDir = dir
	return m.Run()
}

// world is a VPC with a hypervisor in it, and an image whose init is testdata/init.
type world struct {
	config  container.Config
	network *vpcnet.Network
	h       *container.Hypervisor
	image   string
}

// clusterName is short and nobody else's.
const clusterName = "ctest"

func networkConfig() vpcnet.Config {
	return vpcnet.Config{
		Cluster: clusterName,
		CIDR:    netip.MustParsePrefix("10.222.0.0/16"),
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("machines made of namespaces need root")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("the VPC's network needs the nft program (package nftables)")
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	needRoot(t)
	if err := buildImage(); err != nil {
		t.Fatal(err)
	}
	w := &world{image: imageDir}
	network, err := vpcnet.Open(t.Context(), networkConfig())
	if err != nil {
		t.Fatal(err)
	}
	w.network = network
	t.Cleanup(func() {
		if err := network.Destroy(); err != nil {
			t.Error(err)
		}
	})
	w.config = container.Config{
		StateDir:      t.TempDir(),
		Cluster:       clusterName,
		Network:       network,
		Nameserver:    networkConfig().HostAddress(),
		PowerOffGrace: 2 * time.Second,
		Logger:        slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	w.open(t)
	t.Cleanup(func() {
		ids, err := w.h.Machines()
		if err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			if err := w.h.Remove(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
		w.h.Close()
	})
	return w
}

func (w *world) open(t *testing.T) {
	t.Helper()
	h, err := container.New(w.config)
	if err != nil {
		t.Fatal(err)
	}
	w.h = h
}

// imageDir is where the image is built, once for all tests.
var imageDir string

var buildImage = sync.OnceValue(func() error {
	cmd := exec.Command("go", "build", "-o", filepath.Join(imageDir, "rootfs/opt/init"), "./testdata/init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the test init: %w\n%s", err, out)
	}
	return errors.Join(
		os.Chmod(imageDir, 0o755),
		os.MkdirAll(filepath.Join(imageDir, "rootfs/sbin"), 0o755),
		os.Symlink("/opt/init", filepath.Join(imageDir, "rootfs/sbin/init")),
	)
})

// spec describes machine number n, in the subnet that n is in.
func (w *world) spec(n int) machine.Spec {
	subnet, host := n/100, 10+n%100
	return machine.Spec{
		ID:        fmt.Sprintf("i-%017x", n),
		Hostname:  fmt.Sprintf("machine-%d", n),
		Image:     w.image,
		VCPUs:     0.5,
		MemoryMiB: 256,
		NIC: machine.NIC{
			MAC:          fmt.Sprintf("02:00:00:00:%02x:%02x", n/256, n%256),
			Device:       fmt.Sprintf("i-%x", n),
			PrimaryIP:    netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 222, byte(subnet * 16), byte(host)}), 20),
			SecondaryIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 222, byte(subnet*16 + 1), byte(host)})},
			Gateway:      netip.AddrFrom4([4]byte{10, 222, byte(subnet * 16), 1}),
		},
	}
}

func (w *world) start(t *testing.T, n int) machine.Spec {
	t.Helper()
	m := w.spec(n)
	if err := w.h.Start(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// ask asks a machine's init to do something, at its primary address, and waits until it listens.
func ask(m machine.Spec, path string, query url.Values) (string, error) {
	u := url.URL{Scheme: "http", Host: netip.AddrPortFrom(m.NIC.PrimaryIP.Addr(), 8080).String(), Path: path, RawQuery: query.Encode()}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.DialTimeout("tcp", u.Host, time.Second)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			return "", err
		}
	}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(u.String())
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", strings.TrimSpace(string(body)))
	}
	return string(body), err
}

func mustAsk(t *testing.T, m machine.Spec, path string, query url.Values) string {
	t.Helper()
	answer, err := ask(m, path, query)
	if err != nil {
		t.Fatalf("%s of %s: %v", path, m.ID, err)
	}
	return answer
}

type guestInfo struct {
	Hostname, Mounts, Cgroup string
	PID, Processes           int
	Namespaces               map[string]string
	Addresses                []string
}

func guest(t *testing.T, m machine.Spec) guestInfo {
	t.Helper()
	var i guestInfo
	if err := json.Unmarshal([]byte(mustAsk(t, m, "/info", nil)), &i); err != nil {
		t.Fatal(err)
	}
	return i
}
