package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
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
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/elotl/kip/v2/internal/agent/deviceplugin"
	"github.com/elotl/kip/v2/internal/agent/kubelet"
	"github.com/elotl/kip/v2/internal/agent/status"
	"github.com/elotl/kip/v2/internal/ec2local/container"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
	"github.com/elotl/kip/v2/internal/userdata"
)

func TestMain(m *testing.M) {
	container.MaybeRunInit()
	os.Exit(m.Run())
}

const (
	cluster  = "agenttest"
	cellName = "cell-of-the-boot-test"
	nodeName = "kip-provider-0"
	podImage = "kip.test/pod:1"

	// privateRegistry has the same image for those who log in.
	privateRegistry = "123456789012.dkr.ecr.us-west-2.amazonaws.com"
	privateImage    = privateRegistry + "/pod:1"
	loginName       = "AWS"
	loginPassword   = "what-ecr-handed-out"
)

// gpu is what the pod asks for. The machine has two, of which the machine image
// says what they are.
const (
	gpu     = corev1.ResourceName(deviceplugin.Resource)
	gpuSpec = `{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": [
		{"name": "0", "containerEdits": {"env": ["GPU=first"], "deviceNodes": [{"path": "/dev/nvidia0"}]}},
		{"name": "1", "containerEdits": {"env": ["GPU=second"], "deviceNodes": [{"path": "/dev/nvidia1"}]}}]}`
)

// programs are what the tools directory must hold.
var programs = []string{"containerd", "containerd-shim-runc-v2", "ctr", "runc", "kubelet", "kube-proxy"}
var plugins = []string{"ptp", "static", "portmap"}

// TestBoot boots a real cell, the agent being PID 1 of a machine made of
// namespaces, with a real containerd and kubelet, and plays Kip: one pod's whole
// life, and what must survive what.
func TestBoot(t *testing.T) {
	b := newBoot(t)
	kip := newFakeKip(t, b.node())
	kip.pod = b.pod()
	kip.pod.Spec.Containers[0].Image = privateImage

	start := time.Now()
	b.up(t, kip, kip)
	kip.mu.Lock()
	if want := privateRegistry + "/pod"; len(kip.images) != 1 || kip.images[0] != want {
		t.Errorf("the kubelet asked for credentials of %v, want those of %s once", kip.images, want)
	}
	kip.mu.Unlock()
	t.Logf("power on to Ready: %s", time.Since(start).Round(time.Millisecond))

	pod := net.JoinHostPort(b.spec.NIC.SecondaryIPs[0].String(), "8080")
	if conn, err := net.DialTimeout("tcp", pod, 300*time.Millisecond); err == nil {
		_ = conn.Close()
		t.Error("the pod can be reached before Kip has said what its network policy is")
	}
	b.open(t)
	first := b.askPod(t)
	if want := "pod " + b.spec.NIC.SecondaryIPs[0].String(); !strings.HasPrefix(first, want) {
		t.Errorf("the pod answers %q, want %q first: its own address", first, want)
	}
	if logs := b.agent(t, http.MethodGet, "/kubelet/containerLogs/default/web/web", http.StatusOK); !strings.Contains(logs, "the web server starts") {
		t.Errorf("the container's log through the tunnel is %q", logs)
	}
	s := b.status(t)
	t.Logf("boot: %+v", s.Boot)
	var anonymous int64
	for _, m := range s.Memory {
		t.Logf("memory: %-16s %6d KiB anonymous, %6d KiB resident", m.Name, m.AnonymousKiB, m.ResidentKiB)
		anonymous += m.AnonymousKiB
	}
	if anonymous == 0 || anonymous > 96<<10 {
		t.Errorf("the cell takes %d KiB beside its pod that cannot be reclaimed, want 96 MiB at most", anonymous)
	}

	if said, exit := b.exec(t, "/pod", "say", "hello"); said != "hello\n" || !strings.Contains(exit, `"message":"7"`) {
		t.Errorf("exec in the pod through the tunnel: output %q, result %q, want hello and exit code 7", said, exit)
	}

	if said, _ := b.exec(t, "/pod", "gpus"); said != "first [/dev/nvidia0]\n" && said != "second [/dev/nvidia1]\n" {
		t.Errorf("the pod asks for one GPU and has %q", said)
	}

	for _, service := range []string{"kubelet", "containerd"} {
		b.kill(t, service)
		b.awaitStatus(t, service+" restarted", func(s status.Status) bool {
			return s.Services[service].Running && s.Services[service].Restarts == 1
		})
	}
	if again := b.askPod(t); startOf(again) != startOf(first) {
		t.Errorf("the pod's container did not outlive kubelet and containerd: %q, then %q", first, again)
	}
	// Of a container that has run for a moment the kubelet has figures, and they
	// come with the next report or the one after.
	kip.await("Kip knows what the pod uses", time.Minute, func(p *corev1.Pod) bool {
		const cpu = `container_cpu_usage_seconds_total{container="web",`
		return strings.Contains(kip.report.Resource, cpu) && strings.Contains(kip.report.CAdvisor, cpu) && strings.Contains(string(kip.report.Pods), string(p.UID))
	})
	b.metadata.set("/latest/meta-data/spot/instance-action", `{"action":"terminate","time":"2026-03-01T08:22:00Z"}`)
	kip.await("Kip knows of the spot notice", 5*time.Second, func(*corev1.Pod) bool { return len(kip.interruptions) == 1 })

	kip.mu.Lock()
	ending := kip.pod.DeepCopy()
	kip.mu.Unlock()
	ending.DeletionTimestamp, ending.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now()}, ptr.To(int64(1))
	kip.set("MODIFIED", ending)
	kip.await("the kubelet ended and removed the pod", 30*time.Second, func(p *corev1.Pod) bool { return p == nil })

	b.agent(t, http.MethodPost, "/kip/v1/poweroff", http.StatusAccepted)
	select {
	case id := <-b.machines.Exited():
		if id != b.spec.ID {
			t.Errorf("machine %s ended", id)
		}
	case <-time.After(20 * time.Second):
		t.Error("the machine did not power off")
	}
}

// A cell that is told to end while its pod runs ends soon, and in order.
func TestPowerOffWithRunningPod(t *testing.T) {
	b := newBoot(t)
	kip := newFakeKip(t, b.node())
	kip.pod = b.pod()
	b.up(t, kip, kip)

	start := time.Now()
	if err := b.machines.PowerOff(t.Context(), b.spec.ID, false); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("power off took %s", took)
	}
	console, err := b.machines.Console(b.spec.ID)
	if err != nil || !strings.Contains(string(console), "powering off") {
		t.Errorf("the agent did not end by itself: %v\n%s", err, console)
	}
}

// The cell's disk is full: its kubelet ends the pod for that, as on any node, and
// an event says so.
func TestFullDisk(t *testing.T) {
	b := newBoot(t)
	kip := newFakeKip(t, b.node())
	kip.pod = b.pod()
	b.up(t, kip, kip)

	// A kubelet looks once, when it starts, what disks there are.
	b.run(t, "mount", "-t", "tmpfs", "-o", "size=300m", "disk", kubelet.DataDir)
	b.kill(t, "kubelet")
	b.awaitStatus(t, "the kubelet has its own disk", func(s status.Status) bool {
		return s.Services["kubelet"].Running && s.Services["kubelet"].Restarts == 1
	})
	b.run(t, "fallocate", "-l", "299M", kubelet.DataDir+"/full")
	full := time.Now()
	kip.await("an event tells of it", 2*time.Minute, func(*corev1.Pod) bool {
		return slices.ContainsFunc(kip.events, func(e corev1.Event) bool {
			// The latter if the kubelet sees the disk before it sees the pod again.
			why := strings.Contains(e.Message, "low on resource: ephemeral-storage") || strings.Contains(e.Message, "DiskPressure")
			return e.Reason == "Evicted" && e.InvolvedObject.UID == "pod-uid" && why
		})
	})
	kip.await("the pod has ended", time.Minute, func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded // by its containers' exit codes
	})
	t.Logf("%s after its disk was full the pod has ended", time.Since(full).Round(time.Second))
}

// boot is a world for one cell.
type boot struct {
	machines  *container.Hypervisor
	spec      machine.Spec
	metadata  *metadata
	authority *pki.Authority
	dialer    *tunnel.Dialer
	transport *http.Transport
	token     string
}

func newBoot(t *testing.T) *boot {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("booting a cell needs root")
	}
	if testing.Short() {
		t.Skip("booting a cell takes half a minute")
	}
	tools := os.Getenv("KIP_TOOLS")
	if tools == "" {
		tools = "../../.cache/tools/bin"
	}
	for _, p := range append(programs, plugins...) {
		if _, err := os.Stat(filepath.Join(tools, p)); err != nil {
			t.Skipf("booting a cell needs the third-party programs (make tools): %v", err)
		}
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("booting a cell needs the nft program (package nftables)")
	}

	config := vpcnet.Config{
		Cluster: cluster,
		CIDR:    netip.MustParsePrefix("10.223.0.0/16"),
	}
	network, err := vpcnet.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Destroy(); err != nil {
			t.Error(err)
		}
	})
	b := &boot{metadata: &metadata{items: map[string]string{}}}
	b.spec = machine.Spec{
		ID: "i-0123456789abcdef0", Hostname: "ip-10-223-0-11", Image: buildImage(t, tools),
		VCPUs: 2, MemoryMiB: 2048, RootVolumeGiB: 10, GPUs: 2,
		NIC: machine.NIC{
			MAC: "02:00:00:00:00:11", Device: "i-agenttest",
			PrimaryIP:    netip.MustParsePrefix("10.223.0.11/20"),
			SecondaryIPs: []netip.Addr{netip.MustParseAddr("10.223.0.12")},
			Gateway:      netip.MustParseAddr("10.223.0.1"),
		},
	}
	b.machines, err = container.New(container.Config{
		StateDir: t.TempDir(), Cluster: cluster, Network: network, Nameserver: config.HostAddress(),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b.dump(t)
		}
		ctx := context.Background()
		if err := b.machines.PowerOff(ctx, b.spec.ID, true); err != nil {
			t.Error(err)
		}
		if err := b.machines.Remove(ctx, b.spec.ID); err != nil {
			t.Error(err)
		}
		b.machines.Close()
	})

	images, private := net.JoinHostPort(config.HostAddress().String(), "5000"), net.JoinHostPort(config.HostAddress().String(), "5001")
	serveImages(t, images, private)
	b.identify(t,
		userdata.Mirror{Hosts: []string{userdata.DefaultMirror}, Endpoint: "http://" + images},
		userdata.Mirror{Hosts: []string{privateRegistry}, Endpoint: "http://" + private},
	)
	listener, err := network.ListenIMDS()
	if err != nil {
		t.Fatal(err)
	}
	serve(t, listener, b.metadata)
	return b
}

// identify makes Kip's authority, the cell's user data and its metadata.
func (b *boot) identify(t *testing.T, mirrors ...userdata.Mirror) {
	t.Helper()
	var err error
	if b.authority, err = pki.Create(time.Now()); err != nil {
		t.Fatal(err)
	}
	b.token = b.authority.EnrolmentToken("uid-of-the-cell")
	data, err := userdata.Encode(userdata.Document{
		Cell:            cellName,
		CACertificates:  string(b.authority.CertificatePEM()),
		EnrolmentToken:  b.token,
		Node:            userdata.Node{Name: nodeName, ClusterDNS: []string{"10.223.255.1"}, ClusterDomain: "cluster.local"},
		RegistryMirrors: mirrors,
		SandboxImage:    podImage,
		GPUs:            1,
	})
	if err != nil {
		t.Fatal(err)
	}
	nic := "/latest/meta-data/network/interfaces/macs/" + b.spec.NIC.MAC + "/"
	for item, value := range map[string]string{
		"/latest/user-data":             string(data),
		"/latest/meta-data/instance-id": b.spec.ID,
		"/latest/meta-data/mac":         b.spec.NIC.MAC,
		nic + "local-ipv4s":             b.spec.NIC.PrimaryIP.Addr().String() + "\n" + b.spec.NIC.SecondaryIPs[0].String(),
		nic + "subnet-ipv4-cidr-block":  b.spec.NIC.PrimaryIP.Masked().String(),
	} {
		b.metadata.set(item, value)
	}
	client := pki.NewClient(pki.NewAuthorities(b.authority), time.Now)
	b.dialer = tunnel.NewDialer(tunnel.DialerConfig{ClientCertificate: client.Certificate, Roots: b.authority.Roots()})
	b.transport = b.dialer.Transport(b.address(), cellName)
	t.Cleanup(b.transport.CloseIdleConnections)
}

func (b *boot) address() string {
	return net.JoinHostPort(b.spec.NIC.PrimaryIP.Addr().String(), fmt.Sprint(tunnel.Port))
}

// up starts the machine and waits until the pod that Kip shows it is ready.
// gateway is how the agent reaches Kip.
func (b *boot) up(t *testing.T, kip *fakeKip, gateway http.Handler) {
	t.Helper()
	if err := b.machines.Start(t.Context(), b.spec); err != nil {
		t.Fatal(err)
	}
	b.connect(t, gateway)
	kip.await("the pod is ready", time.Minute, isReady)
}

// connect does Kip's part: wait for the cell, enrol it, serve its gateway.
func (b *boot) connect(t *testing.T, kip http.Handler) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := b.dialer.Await(ctx, b.address()); err != nil {
		t.Fatal(err)
	}
	sign := func(_ context.Context, pub crypto.PublicKey, _ string) ([]byte, error) {
		return b.authority.SignCell(pub, cellName, time.Now())
	}
	if err := b.dialer.Enrol(ctx, b.address(), cellName, b.token, sign); err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		err := b.dialer.ServeGateway(serving, b.address(), cellName, kip, func(*x509.Certificate) {})
		t.Logf("the gateway connection ended: %v", err)
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(stop)
}

// agent asks the agent's API and returns the answer.
func (b *boot) agent(t *testing.T, method, path string, want int) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "https://"+cellName+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		t.Fatalf("%s %s: status %d, %s, %v", method, path, resp.StatusCode, body, err)
	}
	return string(body)
}

// open tells the agent that no NetworkPolicy is about the pod.
func (b *boot) open(t *testing.T) {
	t.Helper()
	body, err := json.Marshal(rules.Update{Revision: "1", Rules: &rules.Rules{}})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://"+cellName+rules.Path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusNoContent {
		t.Fatalf("the agent does not take the network policy: status %d, %s", resp.StatusCode, said)
	}
}

func (b *boot) status(t *testing.T) (s status.Status) {
	t.Helper()
	if err := json.Unmarshal([]byte(b.agent(t, http.MethodGet, "/kip/v1/status", http.StatusOK)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// exec runs a command in the pod as kubectl does, over a WebSocket, and returns
// its output and the kubelet's word about its end.
func (b *boot) exec(t *testing.T, command ...string) (output, result string) {
	t.Helper()
	query := url.Values{"command": command, "output": {"1"}, "error": {"0"}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+cellName+"/kubelet/exec/default/web/web?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "v5.channel.k8s.io",
	} {
		req.Header.Set(key, value)
	}
	resp, err := b.transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("exec: status %d, %s", resp.StatusCode, body)
	}
	channels := map[byte]string{}
	for {
		// Frames of a server have no mask, and these are short.
		var head [2]byte
		if _, err := io.ReadFull(resp.Body, head[:]); err != nil || head[0]&0xf == 8 {
			return channels[1], channels[3]
		}
		length := int(head[1])
		if length == 126 {
			var long [2]byte
			if _, err := io.ReadFull(resp.Body, long[:]); err != nil {
				t.Fatal(err)
			}
			length = int(binary.BigEndian.Uint16(long[:]))
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(resp.Body, payload); err != nil {
			t.Fatal(err)
		}
		if length > 0 {
			channels[payload[0]] += string(payload[1:])
		}
	}
}

func (b *boot) awaitStatus(t *testing.T, what string, ok func(status.Status) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		s := b.status(t)
		if ok(s) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s; the agent says %+v", what, s)
		}
	}
}

// askPod asks the pod's web server at the pod's own address.
func (b *boot) askPod(t *testing.T) string {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + net.JoinHostPort(b.spec.NIC.SecondaryIPs[0].String(), "8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func startOf(answer string) string { return answer[strings.LastIndex(answer, " ")+1:] }

// kill kills one of the cell's services from outside.
func (b *boot) kill(t *testing.T, service string) {
	t.Helper()
	if err := syscall.Kill(b.pid(t, service), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// run runs a program among the machine's files.
func (b *boot) run(t *testing.T, command ...string) {
	t.Helper()
	args := append([]string{"--target", strconv.Itoa(b.pid(t, "init")), "--mount"}, command...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, out)
	}
}

// pid finds a program of the cell where it is a process of the host in one of the
// machine's cgroups.
func (b *boot) pid(t *testing.T, service string) (pid int) {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		if !strings.Contains(string(groups), b.spec.ID) || strings.TrimSpace(string(comm)) != service {
			continue
		}
		if _, err := fmt.Sscan(filepath.Base(dir), &pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Fatalf("the cell runs no %s", service)
	return 0
}

// dump shows what the cell said, after a failure.
func (b *boot) dump(t *testing.T) {
	console, err := b.machines.Console(b.spec.ID)
	t.Logf("console: %v\n%s", err, console)
}

func (b *boot) node() *corev1.Node {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("2Gi"),
		corev1.ResourcePods: resource.MustParse("10"), corev1.ResourceEphemeralStorage: resource.MustParse("10Gi"),
		gpu: resource.MustParse("2"),
	}
	return &corev1.Node{
		TypeMeta:   meta("Node"),
		ObjectMeta: metav1.ObjectMeta{Name: nodeName, UID: "node-uid", ResourceVersion: "1"},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity,
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: b.spec.NIC.PrimaryIP.Addr().String()}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

func (b *boot) pod() *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   meta("Pod"),
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "pod-uid", ResourceVersion: "1", CreationTimestamp: metav1.Now()},
		Spec: corev1.PodSpec{
			NodeName: nodeName, RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst,
			TerminationGracePeriodSeconds: ptr.To(int64(1)),
			AutomountServiceAccountToken:  ptr.To(false), EnableServiceLinks: ptr.To(false),
			SecurityContext: &corev1.PodSecurityContext{},
			Volumes:         []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			Containers: []corev1.Container{{
				Name: "web", Image: podImage, Command: []string{"/pod", "web"}, ImagePullPolicy: corev1.PullIfNotPresent,
				Env: []corev1.EnvVar{{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{
					FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.podIP"}}}},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{gpu: resource.MustParse("1")}, Limits: corev1.ResourceList{gpu: resource.MustParse("1")},
				},
				VolumeMounts:             []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}},
				TerminationMessagePath:   "/dev/termination-log",
				TerminationMessagePolicy: corev1.TerminationMessageReadFile,
				ReadinessProbe: &corev1.Probe{
					ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
						Path: "/", Port: intstr.FromInt32(8080), Scheme: corev1.URISchemeHTTP}},
					PeriodSeconds: 1, TimeoutSeconds: 1, SuccessThreshold: 1, FailureThreshold: 3,
				},
			}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBestEffort},
	}
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// buildImage lays out a machine image with the agent of this tree.
func buildImage(t *testing.T, tools string) string {
	t.Helper()
	image := t.TempDir()
	root := filepath.Join(image, "rootfs")
	for _, dir := range []string{"opt/kip/bin", "opt/kip/cni/bin", "sbin", "etc/cdi"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range programs {
		provide(t, filepath.Join(tools, p), filepath.Join(root, "opt/kip/bin", p))
	}
	for _, p := range plugins {
		provide(t, filepath.Join(tools, p), filepath.Join(root, "opt/kip/cni/bin", p))
	}
	if err := os.WriteFile(filepath.Join(root, "etc/cdi/nvidia.json"), []byte(gpuSpec), 0o600); err != nil {
		t.Fatal(err)
	}
	build(t, "../../cmd/kip-cell", filepath.Join(root, "opt/kip/bin/kip-cell"))
	if err := os.Symlink("/opt/kip/bin/kip-cell", filepath.Join(root, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	return image
}

func build(t *testing.T, pkg, to string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", to, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
}

// provide links or copies a program.
func provide(t *testing.T, from, to string) {
	t.Helper()
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		t.Fatal(err)
	}
	if os.Link(from, to) == nil {
		return
	}
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

// serveImages runs a registry that has the pod's image, which is the sandbox's
// as well, and at another address the same one behind a login.
func serveImages(t *testing.T, address, private string) {
	t.Helper()
	images := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	behindLogin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, password, _ := r.BasicAuth(); name != loginName || password != loginPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="https://`+privateRegistry+`/"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		images.ServeHTTP(w, r)
	})
	for address, handler := range map[string]http.Handler{address: images, private: behindLogin} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, listener, handler)
	}

	program := filepath.Join(t.TempDir(), "pod")
	build(t, "./testdata/pod", program)
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	_ = w.WriteHeader(&tar.Header{Name: "pod", Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg})
	_, _ = w.Write(content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64", RootFS: rootFS(t, image), Config: v1.Config{Entrypoint: []string{"/pod", "pause"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	reference, err := name.ParseReference(address+"/pod:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, image); err != nil {
		t.Fatal(err)
	}
}

func rootFS(t *testing.T, image v1.Image) v1.RootFS {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return config.RootFS
}

func serve(t *testing.T, listener net.Listener, handler http.Handler) {
	t.Helper()
	server := &http.Server{Handler: handler}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		_ = server.Close()
		wg.Wait()
	})
}

// metadata is the cell's metadata service.
type metadata struct {
	mu    sync.Mutex
	items map[string]string
}

func (m *metadata) set(item, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.items[item] = value
}

func (m *metadata) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	value, ok := m.items[r.URL.Path]
	m.mu.Unlock()
	switch {
	case r.Method == http.MethodPut:
		_, _ = io.WriteString(w, "token")
	case r.Header.Get("X-aws-ec2-metadata-token") != "token":
		w.WriteHeader(http.StatusUnauthorized)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	default:
		_, _ = io.WriteString(w, value)
	}
}
