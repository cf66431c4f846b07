package deviceplugin

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// patience bounds what takes milliseconds.
const patience = 30 * time.Second

// cell is a machine with a kubelet's directory of plugins.
type cell struct {
	*testing.T
	root, dir string
	plugin    *Plugin
}

func newCell(t *testing.T, want int) *cell {
	t.Helper()
	c := &cell{T: t, root: t.TempDir(), dir: t.TempDir()}
	c.write("dev/null", "")
	c.plugin = New(Config{
		Root: c.root, Dir: c.dir, Want: want, Every: 5 * time.Millisecond, Patience: patience, Logger: slog.New(slog.DiscardHandler),
	})
	return c
}

func (c *cell) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.plugin.Run(ctx) })
	c.Cleanup(func() { cancel(); running.Wait() })
}

func (c *cell) write(file, content string) {
	c.Helper()
	path := filepath.Join(c.root, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		c.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		c.Fatal(err)
	}
}

// addGPUs loads a driver, as it were.
func (c *cell) addGPUs() {
	c.write("dev/nvidia0", "")
	c.write("dev/nvidia1", "")
	c.write("dev/nvidiactl", "")
	c.write("dev/nvidia-uvm", "")
	c.write("etc/cdi/nvidia.yaml", "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\n")
}

// kubelet is the kubelet's side, in its own types over the real gRPC.
type kubelet struct {
	pluginapi.UnimplementedRegistrationServer
	cell       *cell
	registered chan *pluginapi.RegisterRequest
	server     *grpc.Server
}

func (k *kubelet) Register(_ context.Context, r *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	if r.Version != pluginapi.Version {
		return nil, status.Error(codes.InvalidArgument, "another version: "+r.Version)
	}
	k.registered <- r
	return &pluginapi.Empty{}, nil
}

// startKubelet empties the directory, as a kubelet does.
func (c *cell) startKubelet() *kubelet {
	c.Helper()
	old, err := filepath.Glob(filepath.Join(c.dir, "*"))
	if err != nil {
		c.Fatal(err)
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil && !os.IsNotExist(err) {
			c.Fatal(err)
		}
	}
	k := &kubelet{cell: c, registered: make(chan *pluginapi.RegisterRequest, 10), server: grpc.NewServer()}
	pluginapi.RegisterRegistrationServer(k.server, k)
	listener, err := net.Listen("unix", filepath.Join(c.dir, kubeletSocket))
	if err != nil {
		c.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = k.server.Serve(listener) })
	c.Cleanup(func() { k.server.Stop(); serving.Wait() })
	return k
}

// awaitPlugin waits for a registration and connects to who it is of.
func (k *kubelet) awaitPlugin() pluginapi.DevicePluginClient {
	k.cell.Helper()
	var r *pluginapi.RegisterRequest
	select {
	case r = <-k.registered:
	case <-time.After(patience):
		k.cell.Fatal("no plugin has registered")
	}
	if r.ResourceName != "nvidia.com/gpu" {
		k.cell.Errorf("it offers %s", r.ResourceName)
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(k.cell.dir, r.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		k.cell.Fatal(err)
	}
	k.cell.Cleanup(func() { _ = conn.Close() })
	return pluginapi.NewDevicePluginClient(conn)
}

// devices are the healthy ones of the next list.
func devices(t *testing.T, stream grpc.ServerStreamingClient[pluginapi.ListAndWatchResponse]) []string {
	t.Helper()
	list, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{}
	for _, d := range list.Devices {
		if d.Health != pluginapi.Healthy {
			t.Errorf("device %s is %s", d.ID, d.Health)
		}
		ids = append(ids, d.ID)
	}
	return ids
}

func isKnown(p *Plugin) bool {
	select {
	case <-p.Known():
		return true
	default:
		return false
	}
}

func awaitKnown(t *testing.T, p *Plugin) {
	t.Helper()
	select {
	case <-p.Known():
	case <-time.After(patience):
		t.Error("the kubelet was told, and the pod is held back")
	}
}

func TestPlugin(t *testing.T) {
	c := newCell(t, 2)
	c.addGPUs()
	c.run()
	ctx := t.Context()
	plugin := c.startKubelet().awaitPlugin()
	options, err := plugin.GetDevicePluginOptions(ctx, &pluginapi.Empty{})
	if err != nil || options.PreStartRequired || options.GetPreferredAllocationAvailable {
		t.Errorf("options %v, %v", options, err)
	}
	if isKnown(c.plugin) {
		t.Error("it takes the GPUs for known before the kubelet has asked")
	}
	stream, err := plugin.ListAndWatch(ctx, &pluginapi.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0", "1"}, devices(t, stream)); diff != "" {
		t.Errorf("the GPUs (-want +got)\n%s", diff)
	}
	awaitKnown(t, c.plugin)
	got, err := plugin.Allocate(ctx, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{
		{DevicesIds: []string{"1"}}, {}, {DevicesIds: []string{"0", "1"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var names [][]string
	for _, r := range got.ContainerResponses {
		container := []string{}
		for _, d := range r.CdiDevices {
			container = append(container, d.Name)
		}
		names = append(names, container)
		if len(r.Envs)+len(r.Mounts)+len(r.Devices)+len(r.Annotations) > 0 {
			t.Errorf("there is more than names: %v", r)
		}
	}
	want := [][]string{{"nvidia.com/gpu=1"}, {}, {"nvidia.com/gpu=0", "nvidia.com/gpu=1"}}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("containers get (-want +got)\n%s", diff)
	}
	if _, err := plugin.PreStartContainer(ctx, &pluginapi.PreStartContainerRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that there is not: %v", err)
	}
}

// The driver is loaded after the agent has started: the pod waits for it.
func TestDriverComesLate(t *testing.T) {
	c := newCell(t, 1)
	c.run()
	stream, err := c.startKubelet().awaitPlugin().ListAndWatch(t.Context(), &pluginapi.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	if ids := devices(t, stream); len(ids) > 0 {
		t.Errorf("without a driver there are %v", ids)
	}
	if isKnown(c.plugin) {
		t.Error("the pod is let in without GPUs")
	}
	c.addGPUs()
	if ids := devices(t, stream); len(ids) != 2 {
		t.Errorf("with the driver there are %v", ids)
	}
	awaitKnown(t, c.plugin)
}

// GPUs that never come: the kubelet refuses the pod and says why.
func TestPatienceEnds(t *testing.T) {
	c := newCell(t, 1)
	c.plugin.cfg.Patience = time.Millisecond
	c.run()
	stream, err := c.startKubelet().awaitPlugin().ListAndWatch(t.Context(), &pluginapi.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	if ids := devices(t, stream); len(ids) > 0 {
		t.Errorf("without a driver there are %v", ids)
	}
	awaitKnown(t, c.plugin)
}

// A kubelet that is started again knows no plugin.
func TestKubeletRestarts(t *testing.T) {
	c := newCell(t, 2)
	c.addGPUs()
	c.run()
	for range 3 {
		k := c.startKubelet()
		stream, err := k.awaitPlugin().ListAndWatch(t.Context(), &pluginapi.Empty{})
		if err != nil {
			t.Fatal(err)
		}
		if ids := devices(t, stream); len(ids) != 2 {
			t.Errorf("there are %v", ids)
		}
		k.server.Stop()
	}
}

func TestFind(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		files  map[string]string
		want   int
		lacks  string
	}{
		"nothing":            {"a machine without GPUs", nil, 0, "driver is not loaded"},
		"one":                {"nodes of the driver itself are no GPUs", map[string]string{"dev/nvidia0": "", "dev/nvidiactl": "", "dev/nvidia-modeset": "", "var/run/cdi/nvidia.json": `{"kind": "nvidia.com/gpu"}`}, 1, ""},
		"no specification":   {"containerd would not know the names", map[string]string{"dev/nvidia0": ""}, 0, "nvidia-ctk"},
		"a device of others": {"another kind", map[string]string{"dev/nvidia0": "", "etc/cdi/x.yaml": "kind: vendor.com/device"}, 0, "nvidia-ctk"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCell(t, 0)
			for file, content := range tc.files {
				c.write(file, content)
			}
			n, err := find(c.root)
			if n != tc.want || (err != nil) != (tc.lacks != "") || err != nil && !strings.Contains(err.Error(), tc.lacks) {
				t.Errorf("%s: %d, %v", tc.reason, n, err)
			}
		})
	}
}

func FuzzParseAllocateRequest(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{10, 3, 10, 1, '0'})
	f.Fuzz(func(t *testing.T, b []byte) {
		containers, err := parseAllocateRequest(b)
		if err == nil && len(containers) > len(b) {
			t.Errorf("%d containers in %d bytes", len(containers), len(b))
		}
	})
}
