package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/agent/credentialprovider"
	"github.com/elotl/kip/v2/internal/agent/deviceplugin"
	"github.com/elotl/kip/v2/internal/agent/imagecache"
	"github.com/elotl/kip/v2/internal/agent/imds"
	"github.com/elotl/kip/v2/internal/agent/kipsocket"
	"github.com/elotl/kip/v2/internal/agent/kubelet"
	"github.com/elotl/kip/v2/internal/agent/localapi"
	"github.com/elotl/kip/v2/internal/agent/machine"
	"github.com/elotl/kip/v2/internal/agent/networkpolicy"
	"github.com/elotl/kip/v2/internal/agent/process"
	"github.com/elotl/kip/v2/internal/agent/status"
	"github.com/elotl/kip/v2/internal/agent/watches"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/tunnel"
	"github.com/elotl/kip/v2/internal/userdata"
)

const (
	// gpuInterval is how often the agent looks for GPUs and for the kubelet that
	// is to be told.
	gpuInterval = 200 * time.Millisecond
	// gpuPatience is for drivers that are loaded while the machine boots.
	gpuPatience = 2 * time.Minute
)

// identityFile keeps the agent's key and certificate.
const identityFile = "/var/lib/kip/identity.pem"

// ErrPowerOff is what Run returns when Kip, or a signal to PID 1, asked for the
// end of the machine. Everything the agent ran has ended then; the caller
// switches the machine off.
var ErrPowerOff = errors.New("the machine is to be powered off")

// Config is what an Agent needs.
type Config struct {
	Version string
	// StartedAt is when the program started.
	StartedAt time.Time
	// MetadataEndpoint is the metadata service's URL.
	MetadataEndpoint string
	// ProgramDir holds kubelet, containerd, its shim, runc, and kube-proxy if
	// the image has it; NetworkPluginDir the CNI plugins.
	ProgramDir, NetworkPluginDir string
	// PodLogDir is where the kubelet has containers' log files.
	PodLogDir string
	// ContainerGrace is how long containers have to end before power off.
	ContainerGrace time.Duration
	Logger         *slog.Logger
}

// Agent runs a cell. A process has at most one.
type Agent struct {
	Config
	metadata *imds.Client
	timeline *status.Timeline
	reaper   *process.Reaper

	// powerOff is closed when the machine is to end.
	powerOff chan struct{}
	once     sync.Once

	interruptions *interruptions
	networkPolicy *networkpolicy.Policy

	// kubeletUp is closed by the kubelet's first request: the part of its start
	// that keeps the processors busy is over then.
	kubeletUp     chan struct{}
	kubeletUpOnce sync.Once

	mu       sync.Mutex
	instance imds.Instance
	services map[string]*process.Service
}

// New returns an Agent that does nothing until Run is called.
func New(c Config) *Agent {
	metadata := imds.New(c.MetadataEndpoint)
	return &Agent{
		Config:        c,
		metadata:      metadata,
		timeline:      status.NewTimeline(c.StartedAt),
		reaper:        process.NewReaper(),
		powerOff:      make(chan struct{}),
		kubeletUp:     make(chan struct{}),
		interruptions: newInterruptions(metadata, c.Logger),
		networkPolicy: networkpolicy.New(networkpolicy.File, c.Logger),
		services:      map[string]*process.Service{},
	}
}

// PowerOff makes Run end the cell's work and return ErrPowerOff. It does not
// wait, and may be called more than once.
func (a *Agent) PowerOff(reason string) {
	a.once.Do(func() {
		a.Logger.Info("the machine is to be powered off", "reason", reason)
		close(a.powerOff)
	})
}

// Run is the agent's life. It returns nil when ctx ended: then the agent's
// services have been stopped and the pod's containers run on. It returns
// ErrPowerOff when the machine is to end, and another error when the cell
// cannot work at all.
func (a *Agent) Run(ctx context.Context) error {
	// The reaper outlives everything that it waits for.
	reaping, stopReaping := context.WithCancel(context.WithoutCancel(ctx))
	var reaper sync.WaitGroup
	reaper.Go(func() { a.reaper.Run(reaping) })
	defer reaper.Wait()
	defer stopReaping()

	ctx, cancel := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-a.powerOff:
			cancel()
		case <-ctx.Done():
		}
	})
	defer watcher.Wait()
	defer cancel()

	err := a.run(ctx)
	select {
	case <-a.powerOff:
		return ErrPowerOff
	default:
		return err
	}
}

func (a *Agent) run(ctx context.Context) error {
	doc, instance, err := a.identify(ctx)
	if err != nil {
		return err
	}
	a.Logger.Info("this is a cell", "cell", doc.Cell, "instance", instance.ID, "version", a.Version,
		"address", instance.Primary.String(), "podAddress", instance.Pod.String())
	a.mu.Lock()
	a.instance = instance
	a.mu.Unlock()

	authority, err := localapi.NewAuthority()
	if err != nil {
		return err
	}
	toKubelet, err := newKubeletTransport(authority)
	if err != nil {
		return err
	}
	server, err := tunnel.NewServer(tunnel.ServerConfig{
		Cell:           doc.Cell,
		CACertificates: doc.CACertificates,
		EnrolmentToken: doc.EnrolmentToken,
		Store:          tunnel.FileStore(identityFile),
		API:            a.handler(doc, newKubeletProxy(toKubelet, a.Logger)),
		Version:        a.Version,
		Logger:         a.Logger,
	})
	if err != nil {
		return fmt.Errorf("preparing for Kip: %w", err)
	}

	group := newGroup(ctx)
	gpus := deviceplugin.New(deviceplugin.Config{
		Root: "/", Dir: kubelet.PluginDir, Want: int(doc.GPUs), Every: gpuInterval, Patience: gpuPatience, Logger: a.Logger,
	})
	if doc.GPUs > 0 {
		group.run("GPUs", func(ctx context.Context) error {
			gpus.Run(ctx)
			return nil
		})
	}
	if err := a.listen(group, server, authority, gpus.Known()); err != nil {
		return errors.Join(err, group.stop())
	}
	group.run("interruptions", func(ctx context.Context) error {
		a.interruptions.watch(ctx, server.Gateway())
		return nil
	})
	group.run("pod metrics", func(ctx context.Context) error {
		newPodMetrics(toKubelet, server.Gateway(), a.Logger).report(ctx)
		return nil
	})
	group.run("network policy", func(ctx context.Context) error {
		a.networkPolicy.Keep(ctx)
		return nil
	})
	if doc.PowerOffAfterSeconds > 0 {
		group.run("dead-man switch", func(ctx context.Context) error {
			(&deadMan{
				after: time.Duration(doc.PowerOffAfterSeconds) * time.Second, interval: deadManInterval, lastContact: server.LastContact,
				kubelet: &http.Client{Transport: toKubelet}, powerOff: a.PowerOff, logger: a.Logger,
			}).watch(ctx)
			return nil
		})
	}
	group.run("enrolment", func(ctx context.Context) error {
		select {
		case <-server.Enrolled():
			a.timeline.Reach(status.StepEnrolled)
		case <-ctx.Done():
		}
		return nil
	})
	if doc.ImageCache != "" {
		forCache, err := kipsocket.Listen(imagecache.AgentSocket)
		if err != nil {
			return errors.Join(err, group.stop())
		}
		group.run("image cache", func(ctx context.Context) error {
			return kipsocket.Serve(ctx, forCache, server.Gateway(), a.Logger, grant.Path, grant.ReportPath)
		})
	}
	group.run("services", func(ctx context.Context) error {
		return a.runServices(ctx, doc, instance, authority, toKubelet)
	})
	return group.wait()
}

// identify learns from the metadata service what cell this is. It waits for the
// network for as long as it takes: without it there is nothing else to do.
func (a *Agent) identify(ctx context.Context) (doc userdata.Document, instance imds.Instance, err error) {
	a.Logger.Info("asking the metadata service what this is", "version", a.Version)
	var instanceErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		if instance, instanceErr = a.metadata.AwaitInstance(ctx); instanceErr == nil {
			a.timeline.Reach(status.StepInstance)
		}
	})
	raw, err := a.metadata.Await(ctx, "user-data")
	wg.Wait()
	if err != nil {
		return doc, instance, fmt.Errorf("reading user data: %w", err)
	}
	if instanceErr != nil {
		return doc, instance, instanceErr
	}
	if doc, err = userdata.Decode(raw); err != nil {
		return doc, instance, fmt.Errorf("reading user data: %w", err)
	}
	a.timeline.Reach(status.StepUserData)
	return doc, instance, nil
}

// podsPath is where the kubelet lists and watches its pods.
const podsPath = "/api/v1/pods"

// listen opens the cell's two ports, one for Kip and one for the kubelet, and
// the socket for the kubelet's credential provider. The kubelet learns of its
// pod when it knows of the devices that the pod asks for.
func (a *Agent) listen(group *group, server *tunnel.Server, authority *localapi.Authority, devices <-chan struct{}) error {
	forKip, err := net.Listen("tcp", ":"+strconv.Itoa(tunnel.Port))
	if err != nil {
		return fmt.Errorf("listening for Kip: %w", err)
	}
	a.timeline.Reach(status.StepListening)
	group.run("tunnel", func(ctx context.Context) error { return server.Serve(ctx, forKip) })

	forKubelet, err := net.Listen("tcp", localapi.Address)
	if err != nil {
		return fmt.Errorf("listening for the kubelet: %w", err)
	}
	toGateway := watches.New(a.timed(server.Gateway()), a.Logger)
	toKip := localapi.Handler(toGateway, localapi.DefaultHold, a.Logger)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.kubeletUpOnce.Do(func() {
			a.timeline.Reach(status.StepKubeletRequest)
			close(a.kubeletUp)
		})
		if r.URL.Path == podsPath {
			select {
			case <-devices:
			case <-r.Context().Done():
				return
			}
		}
		toKip.ServeHTTP(w, r)
	})
	group.run("local API server", func(ctx context.Context) error {
		defer toGateway.Close()
		return localapi.Serve(ctx, forKubelet, authority, handler, a.Logger)
	})

	forPlugin, err := kipsocket.Listen(credentialprovider.Socket)
	if err != nil {
		return err
	}
	group.run("credential provider", func(ctx context.Context) error {
		return credentialprovider.Serve(ctx, forPlugin, server.Gateway(), a.Logger)
	})
	return nil
}

// timed notes when the gateway answers for the first time.
func (a *Agent) timed(gateway http.RoundTripper) http.RoundTripper {
	var first sync.Once
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := gateway.RoundTrip(r)
		if err == nil {
			first.Do(func() { a.timeline.Reach(status.StepGatewayAnswer) })
		}
		return resp, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// endContainers is PID 1's last duty before power off, between the kubelet's
// end and containerd's.
func (a *Agent) endContainers() {
	select {
	case <-a.powerOff:
		if machine.IsInit() {
			machine.EndContainers(a.ContainerGrace)
		}
	default: // only the agent ends; the pod runs on
	}
}
