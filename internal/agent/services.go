package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/agent/containerd"
	"github.com/elotl/kip/v2/internal/agent/imagecache"
	"github.com/elotl/kip/v2/internal/agent/imds"
	"github.com/elotl/kip/v2/internal/agent/kubelet"
	"github.com/elotl/kip/v2/internal/agent/localapi"
	"github.com/elotl/kip/v2/internal/agent/machine"
	"github.com/elotl/kip/v2/internal/agent/network"
	"github.com/elotl/kip/v2/internal/agent/process"
	"github.com/elotl/kip/v2/internal/agent/status"
	"github.com/elotl/kip/v2/internal/userdata"
)

// Names of the services, as they appear in logs and in the status.
const (
	containerdService = "containerd"
	kubeletService    = "kubelet"
	proxyService      = "kube-proxy"
)

// snapshotterService is there with an image cache only.
const snapshotterService = imagecache.Program

const (
	logDir = "/var/log/kip"
	// logLimit bounds each service's log file, of which there are at most two.
	logLimit = 8 << 20

	resolverFile = "/etc/resolv.conf"

	// runtimePatience bounds the wait for containerd's socket before the
	// kubelet is started all the same, to fail and say why.
	runtimePatience = 30 * time.Second

	// snapshotterPatience bounds the wait for the snapshotter before containerd
	// is started, whose first question would fail.
	snapshotterPatience = 5 * time.Second

	// kubeletPatience bounds how long others are held back for the kubelet.
	kubeletPatience = 5 * time.Second

	// stopGrace is what a service has to end by itself.
	stopGrace = 2 * time.Second
)

// runServices writes all configuration and keeps containerd, the kubelet and
// kube-proxy running until ctx ends.
func (a *Agent) runServices(ctx context.Context, doc userdata.Document, instance imds.Instance, authority *localapi.Authority,
	toKubelet http.RoundTripper,
) error {
	layers := a.imageCacheLayers(doc)
	if layers != nil {
		defer layers.Close()
	}
	node, err := a.configure(doc, instance, authority, layers != nil)
	if err != nil {
		return err
	}
	runtime, err := a.service(containerdService, []string{"--config", containerd.ConfigFile})
	if err != nil {
		return err
	}
	runtime.OnStart = func(int) { a.timeline.Reach(status.StepContainerdStarted) }

	nodeDaemon, err := a.service(kubeletService, node.Args())
	if err != nil {
		return err
	}
	nodeDaemon.Before = a.awaitRuntime
	nodeDaemon.OnStart = func(int) { a.timeline.Reach(status.StepKubeletStarted) }

	daemons := []*process.Service{nodeDaemon}
	if _, err := os.Stat(filepath.Join(a.ProgramDir, proxyService)); err == nil {
		proxy, err := a.service(proxyService, node.ProxyArgs())
		if err != nil {
			return err
		}
		proxy.Before = a.awaitKubelet
		daemons = append(daemons, proxy)
	}

	// containerd ends last: until then containers can be ended in order. What
	// serves their files ends with it.
	runtimeCtx, stopRuntime := context.WithCancel(context.WithoutCancel(ctx))
	var runtimeDone, daemonsDone sync.WaitGroup
	if layers != nil {
		snapshotter, err := a.service(snapshotterService, []string{imagecache.SettingsFile})
		if err != nil {
			stopRuntime()
			return err
		}
		snapshotter.Command.Files = []*os.File{layers}
		runtime.Before = func(ctx context.Context) error { return awaitSocket(ctx, imagecache.Socket, snapshotterPatience) }
		runtimeDone.Go(func() { snapshotter.Run(runtimeCtx) })
		daemonsDone.Go(func() { imagecache.KeepShare(ctx, doc.ImageCache, a.Logger) })
	}
	runtimeDone.Go(func() { runtime.Run(runtimeCtx) })
	for _, d := range daemons {
		daemonsDone.Go(func() { d.Run(ctx) })
	}
	daemonsDone.Go(func() {
		(&kubeletHealth{client: &http.Client{Transport: toKubelet}, service: nodeDaemon, logger: a.Logger}).watch(ctx)
	})
	if doc.SandboxImage != "" {
		daemonsDone.Go(func() { a.pullSandboxImage(ctx, doc.SandboxImage, layers != nil) })
	}
	if len(doc.Routes) > 0 {
		daemonsDone.Go(func() { network.KeepRoutes(ctx, instance.Pod, doc.Routes, a.Logger) })
	}
	daemonsDone.Wait()
	a.endContainers()
	stopRuntime()
	runtimeDone.Wait()
	return nil
}

// imageCacheLayers mounts what layers of the image cache are served in; nil if
// there is no cache for this cell. A machine that cannot use it pulls images as
// ever.
func (a *Agent) imageCacheLayers(doc userdata.Document) *os.File {
	if doc.ImageCache == "" {
		return nil
	}
	_, err := os.Stat(filepath.Join(a.ProgramDir, imagecache.Program))
	var layers *os.File
	if err == nil {
		layers, err = imagecache.Layers()
	}
	if err != nil {
		a.Logger.Warn("this machine cannot use the image cache; images are pulled", "error", err)
		return nil
	}
	return layers
}

// configure writes every file that the services read, and sets up the network.
func (a *Agent) configure(doc userdata.Document, instance imds.Instance, authority *localapi.Authority, cached bool) (kubelet.Node, error) {
	program, err := os.Executable()
	if err != nil {
		return kubelet.Node{}, fmt.Errorf("finding the agent's own program: %w", err)
	}
	node := kubelet.Node{
		Name:               doc.Node.Name,
		Address:            instance.Primary,
		DNSServers:         doc.Node.ClusterDNS,
		DNSDomain:          doc.Node.ClusterDomain,
		MaxContainerLogMiB: doc.Node.MaxContainerLogMiB,
		RuntimeSocket:      containerd.Socket,
		MayLowerOOMScore:   machine.MayLowerOOMScore(),
		CredentialProvider: program,
	}
	name, mtu, err := network.InterfaceOf(instance.Primary)
	if err != nil {
		return node, err
	}
	filter, err := network.FindPacketFilter(a.programDirs())
	if err != nil {
		a.Logger.Warn("Services and host ports are not made with nftables as they should be", "with", filter, "err", err)
	}
	node.ProxyMode = string(filter)
	pod := network.Config{
		Interface: name, MTU: mtu, HostPorts: filter,
		Primary: instance.Primary, Pod: instance.Pod, Subnet: instance.Subnet,
	}
	// Before anything is forwarded: what the policies allow is not known yet.
	if err := a.networkPolicy.Begin(name); err != nil {
		return node, err
	}
	if err := pod.Forward(); err != nil {
		return node, err
	}
	// Before containerd starts: without a network it would tell the kubelet
	// that it is not ready, and the kubelet asks again only seconds later.
	if err := pod.WritePodNetwork(containerd.NetworkDir); err != nil {
		return node, err
	}
	if err := network.EnsureResolver(resolverFile, doc.Node.ClusterDNS); err != nil {
		return node, err
	}
	node.ResolverFile = network.PodResolver(resolverFile)
	runtime := containerd.Config{
		RuncPath:            filepath.Join(a.ProgramDir, "runc"),
		NetworkPluginDir:    a.NetworkPluginDir,
		SandboxImage:        doc.SandboxImage,
		RestrictOOMScoreAdj: !node.MayLowerOOMScore,
	}
	if cached {
		mirrors, err := containerd.ByRegistry(doc.RegistryMirrors)
		if err != nil {
			return node, err
		}
		if err := imagecache.WriteSettings("/", doc.SandboxImage, mirrors); err != nil {
			return node, err
		}
		runtime.Snapshotter, runtime.SnapshotterDir = imagecache.Socket, imagecache.Dir
	}
	if err := runtime.Write("/"); err != nil {
		return node, err
	}
	if err := containerd.WriteMirrors("/", doc.RegistryMirrors); err != nil {
		return node, err
	}
	if err := node.Write("/"); err != nil {
		return node, err
	}
	if err := node.WriteProxy("/"); err != nil {
		return node, err
	}
	return node, writeCredentials(authority)
}

// writeCredentials issues and writes what kubelet and kube-proxy prove
// themselves with.
func writeCredentials(authority *localapi.Authority) error {
	server, err := authority.Server("kubelet")
	if err != nil {
		return err
	}
	client, err := authority.Client("kubelet")
	if err != nil {
		return err
	}
	proxy, err := authority.Client("kube-proxy")
	if err != nil {
		return err
	}
	return kubelet.Credentials{
		CA:      authority.PEM(),
		Server:  kubelet.KeyPair{Certificate: server.CertificatePEM, Key: server.KeyPEM},
		Kubelet: kubelet.KeyPair{Certificate: client.CertificatePEM, Key: client.KeyPEM},
		Proxy:   kubelet.KeyPair{Certificate: proxy.CertificatePEM, Key: proxy.KeyPEM},
	}.Write("/", "https://"+localapi.Address)
}

// service describes one of the programs and makes it known to the status.
func (a *Agent) service(name string, args []string) (*process.Service, error) {
	log, err := process.OpenLogFile(filepath.Join(logDir, name+".log"), logLimit)
	if err != nil {
		return nil, fmt.Errorf("preparing %s: %w", name, err)
	}
	s := process.NewService(process.Config{
		Name: name,
		Command: process.Command{
			Path: filepath.Join(a.ProgramDir, name),
			Args: args,
			Env:  a.environment(),
		},
		Log:       log,
		StopGrace: stopGrace,
		Backoff:   process.DefaultBackoff,
		Reaper:    a.reaper,
		Logger:    a.Logger,
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.services[name] = s
	return s, nil
}

// environment is what services run with. containerd finds its shim in PATH, and
// the programs find mount, nft and the like.
func (a *Agent) environment() []string {
	return []string{"PATH=" + strings.Join(a.programDirs(), ":"), "HOME=/root"}
}

func (a *Agent) programDirs() []string {
	return []string{a.ProgramDir, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
}

// pullSandboxImage has containerd pull the image that every pod needs while the
// kubelet waits for its node. When that fails the first pod pulls it, later, and
// says what is wrong.
func (a *Agent) pullSandboxImage(ctx context.Context, image string, cached bool) {
	client := filepath.Join(a.ProgramDir, "ctr")
	if _, err := os.Stat(client); err != nil {
		return
	}
	if err := a.awaitKubelet(ctx); err != nil {
		return
	}
	args := []string{
		"--address", containerd.Socket, "--namespace", "k8s.io",
		// As the CRI plugin would have labelled it.
		"images", "pull", "--label", "io.cri-containerd.pinned=pinned",
		"--hosts-dir", containerd.RegistryDir, image,
	}
	if cached {
		args = append(args[:len(args)-1], "--snapshotter", containerd.CacheSnapshotter, image)
	}
	pull := process.NewService(process.Config{
		Name:    "sandbox-image",
		Command: process.Command{Path: client, Args: args, Env: a.environment()},
		Reaper:  a.reaper,
		Logger:  a.Logger,
	})
	if err := pull.RunOnce(ctx); err != nil && ctx.Err() == nil {
		a.Logger.Warn("the sandbox image could not be pulled ahead", "image", image, "error", err, "lastLines", pull.LastLines())
		return
	}
	a.timeline.Reach(status.StepSandboxImage)
}

// awaitKubelet holds back what the pod needs less urgently than the kubelet.
// After its first request that sits idle for a second, waiting for its node.
func (a *Agent) awaitKubelet(ctx context.Context) error {
	select {
	case <-a.kubeletUp:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(kubeletPatience):
		return errors.New("the kubelet has not asked for anything yet")
	}
}

// awaitRuntime waits until containerd accepts connections.
func (a *Agent) awaitRuntime(ctx context.Context) error {
	err := awaitSocket(ctx, containerd.Socket, runtimePatience)
	if err == nil {
		a.timeline.Reach(status.StepContainerdReady)
	}
	return err
}

// awaitSocket waits until somebody accepts connections there.
func awaitSocket(ctx context.Context, socket string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", socket, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
