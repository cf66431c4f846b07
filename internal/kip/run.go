package kip

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/connection"
	"github.com/elotl/kip/v2/internal/cell/garbagecollection"
	"github.com/elotl/kip/v2/internal/cell/health"
	"github.com/elotl/kip/v2/internal/cell/lifecycle"
	"github.com/elotl/kip/v2/internal/cell/standby"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/aws"
	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/imagecache/reports"
	"github.com/elotl/kip/v2/internal/instancetype"
	"github.com/elotl/kip/v2/internal/kubeletapi"
	"github.com/elotl/kip/v2/internal/networkpolicy"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/platforms"
	"github.com/elotl/kip/v2/internal/podlogs"
	"github.com/elotl/kip/v2/internal/podmetrics"
	"github.com/elotl/kip/v2/internal/provider"
	"github.com/elotl/kip/v2/internal/registry"
	"github.com/elotl/kip/v2/internal/registrylogin"
	"github.com/elotl/kip/v2/internal/servingcert"
	"github.com/elotl/kip/v2/internal/tunnel"
)

// Run runs Kip until ctx ends or a part of it fails for good.
func Run(ctx context.Context, o Options, log *slog.Logger) error {
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
	provider.UseLibraryLog(log)

	var probes probes
	endProbes, err := probes.listen(o.HealthListen)
	if err != nil {
		return err
	}
	defer endProbes()
	cfg, err := config.Load(o.ProviderConfig)
	if err != nil {
		return err
	}
	restConfig, err := apiServer(o)
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return fmt.Errorf("making the API server's client: %w", err)
	}
	catalogue, err := loadCatalogue(o.Catalogue)
	if err != nil {
		return fmt.Errorf("loading the instance type catalogue: %w", err)
	}
	region, err := catalogue.Region(cfg.Cloud.AWS.Region)
	if err != nil {
		return err
	}
	version, ca, err := firstAnswers(ctx, kube, o.Namespace, askAgain, log)
	if err != nil {
		return err
	}
	mgr, err := newElectedManager(restConfig, o)
	if err != nil {
		return err
	}
	probes.readyWhen(cachesRead(mgr.GetCache()), func() bool { return leads(mgr) })
	if err := registerLeader(mgr, metrics.Registry); err != nil {
		return err
	}
	logs, err := podlogs.NewStore(filepath.Join(o.DataDir, "logs"))
	if err != nil {
		return err
	}
	node := provider.NodeConfig{
		Name: o.NodeName, Kubelet: cfg.Kubelet, IP: o.NodeIP, KubernetesVersion: version,
		DisableTaint: o.DisableTaint,
	}
	if node.Port, err = portOf(o.KubeletListen); err != nil {
		return err
	}

	places, err := imagePlaces(cfg)
	if err != nil {
		return err
	}
	images, err := imageResolver(places, log)
	if err != nil {
		return err
	}

	// The provider needs the connections, and they the gateway, and it the
	// provider; the kubelet API needs the provider, and it who follows logs; the
	// provider needs the health monitor, and it the connections and the provider.
	// The circles are closed by functions that are not called before all are made.
	var kubelet *kubeletapi.Server
	var connections *connection.Manager
	var pods *provider.Provider
	var waiting *standby.Controller
	transport := func(cell string) (http.RoundTripper, error) { return connections.Transport(cell) }
	image, err := bootImage(cfg, version)
	if err != nil {
		return err
	}
	cloud, err := newCloud(ctx, o, cfg, image, catalogue, tellOfDenied(eventRecorder(mgr), o.NodeName), log)
	if err != nil {
		return err
	}
	monitor, err := health.New(healthConfig(cfg, o, mgr, cloud, log,
		func(cell string) string { return disconnected(connections, cell) },
		func(cell *v1beta1.Cell) { pods.CellChanged(cell) },
		func(ctx context.Context, cell string, i gateway.Interruption) error {
			return pods.Interruption(ctx, cell, i)
		},
	))
	if err != nil {
		return err
	}
	if err := mgr.Add(monitor); err != nil {
		return fmt.Errorf("adding the health monitor: %w", err)
	}
	pods, err = provider.New(provider.Config{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(),
		NodeName: o.NodeName, NodeLabels: provider.NodeLabels(node), Region: cfg.Cloud.AWS.Region,
		Defaults: cfg.InstanceDefaults(), Architectures: images.Of,
		Capacity: func(name string) (corev1.ResourceList, bool) {
			t, ok := catalogue.Type(name)
			if !ok {
				return nil, false
			}
			return t.PodCapacity(), true
		},
		Standby:   standbyFor(cfg, func() *standby.Controller { return waiting }),
		Health:    monitor,
		Transport: transport, Following: func(cell string) bool { return kubelet.Following(cell) }, Logs: logs,
		Recorder: eventRecorder(mgr), Metrics: metrics.Registry, Clock: clock.RealClock{}, Log: log,
	})
	if err != nil {
		return err
	}
	if err := pods.SetupWithManager(ctx, mgr); err != nil {
		return err
	}
	registries, err := registrylogin.New(registrylogin.Config{
		Cloud: cloud, Events: eventRecorder(mgr), Clock: clock.RealClock{}, Metrics: metrics.Registry, Logger: log,
	})
	if err != nil {
		return err
	}
	usage, err := podmetrics.New(podmetrics.Config{
		NodeName: o.NodeName, Memory: provider.NewNode(node).Status.Capacity.Memory().Value(), Holders: pods.Holders, Clock: clock.RealClock{}, Metrics: metrics.Registry,
	})
	if err != nil {
		return err
	}
	var cached gateway.ImageCache
	if cfg.Cells.ImageCache != nil {
		if cached, err = imageGrants(mgr, restConfig, kube, o, registries, places, log); err != nil {
			return err
		}
	}
	unused, err := reports.New(eventRecorder(mgr), metrics.Registry)
	if err != nil {
		return err
	}
	cells, err := gateway.New(gateway.Config{
		State: pods, Sink: pods, Registries: registries, PodMetrics: usage, ImageCache: cached, CacheReports: unused, Missing: pods.Missing, Upstream: restConfig, Client: kube, Metrics: metrics.Registry, Log: log,
	})
	if err != nil {
		return err
	}
	clientCertificate := pki.NewClient(ca, time.Now)
	dialer := tunnel.NewDialer(tunnel.DialerConfig{
		ClientCertificate: clientCertificate.Certificate, Roots: ca.Roots(), CACertificates: string(ca.CertificatesPEM()), Logger: log,
	})
	policies, err := networkpolicy.New(networkpolicy.Config{
		NodeName: o.NodeName, Client: mgr.GetClient(), Kube: kube, Transport: transport,
		Events: eventRecorder(mgr), Clock: clock.RealClock{}, Metrics: metrics.Registry, Log: log,
	})
	if err != nil {
		return err
	}
	if err := policies.SetupWithManager(mgr); err != nil {
		return err
	}
	connections, err = connection.New(connection.Config{
		NodeName: o.NodeName, Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Dialer: dialer, Authorities: ca, Gateway: cells.ForCell,
		OnConnect: policies.Connected,
		Events:    eventRecorder(mgr), Clock: clock.RealClock{}, Metrics: metrics.Registry, Logger: log,
	})
	if err != nil {
		return err
	}
	if err := connections.SetupWithManager(mgr); err != nil {
		return err
	}
	data, err := userData(cfg, o, ca)
	if err != nil {
		return err
	}
	launches, err := setUpCells(ctx, o, cfg, mgr, kube, cloud, region, data, ca.IDs(), connections.Listens, log)
	if err != nil {
		return err
	}
	waiting, err = newStandby(ctx, o, cfg, mgr, cloud, catalogue, region, launches, data, func(cell string) bool {
		_, unwell := monitor.Unwell(cell)
		return unwell == "" && connections.Connected(cell)
	}, log)
	if err != nil {
		return err
	}
	auth, runAuth, err := kubeletapi.ClusterAuth(kube, o.NodeName)
	if err != nil {
		return err
	}
	kubelet = kubeletapi.New(kubeletapi.Config{
		Pods: pods, Metrics: usage, Transport: transport, Logs: logs, Auth: auth, Clock: clock.RealClock{}, Log: log,
		Process: promhttp.HandlerFor(metrics.Registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}),
	})
	certificate, err := newServingCertificate(restConfig, kube, mgr, o, version, log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.KubeletListen)
	if err != nil {
		return fmt.Errorf("listening for the kubelet API: %w", err)
	}

	for _, run := range []manager.Runnable{
		always(cells.Start),
		always(func(ctx context.Context) error { runAuth(ctx); return nil }),
		always(func(ctx context.Context) error {
			return kubelet.Serve(ctx, listener, &tls.Config{GetCertificate: certificate.GetCertificate, MinVersion: tls.VersionTLS12})
		}),
		always(pods.Sweep),
		// The rest is the leader's.
		manager.RunnableFunc(images.Start),
		manager.RunnableFunc(usage.Start),
		manager.RunnableFunc(certificate.Run),
		manager.RunnableFunc(func(ctx context.Context) error {
			log.Info("kip leads", "node", o.NodeName)
			return pods.Run(ctx, kube, mgr.GetCache(), provider.NewNode(node))
		}),
	} {
		if err := mgr.Add(run); err != nil {
			return fmt.Errorf("adding to the manager: %w", err)
		}
	}
	log.Info("kip starts", "node", o.NodeName, "kubernetes", version, "region", cfg.Cloud.AWS.Region)
	if err := mgr.Start(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("kip stops; pods run on")
	return nil
}

// newServingCertificate makes what keeps the kubelet API's certificate.
func newServingCertificate(c *rest.Config, kube kubernetes.Interface, mgr ctrl.Manager, o Options, serverVersion string, log *slog.Logger) (*servingcert.Manager, error) {
	signer, err := servingcert.Signer(o.KubeletServingSigner, serverVersion)
	if err != nil {
		return nil, err
	}
	node, err := asNode(c, o.NodeName)
	if err != nil {
		return nil, err
	}
	return servingcert.New(servingcert.Config{
		Kip: kube, Node: node, Signer: signer, NodeName: o.NodeName, NodeIP: o.NodeIP,
		Events: eventRecorder(mgr), Clock: clock.RealClock{}, Metrics: metrics.Registry, Logger: log,
	})
}

// bootImage is which images cells are launched from. A stock image that gets
// what it lacks of a cell is Amazon's for nodes of the cluster's version, unless
// another is named.
func bootImage(cfg *config.Config, version string) (aws.ImageSpec, error) {
	spec := cfg.Cells.BootImageSpec
	image, err := aws.ParseImageSpec(spec.Owners, spec.ExecutableUsers, spec.ImageIDs, spec.Filters)
	if err != nil {
		return image, fmt.Errorf("cells.bootImageSpec: %w", err)
	}
	if !image.Empty() || len(cfg.Cells.Software) == 0 {
		return image, nil
	}
	kubernetes, err := utilversion.ParseGeneric(version)
	if err != nil {
		return image, fmt.Errorf("choosing an image for the API server's version: %w", err)
	}
	return aws.NodeImage(fmt.Sprintf("%d.%d", kubernetes.Major(), kubernetes.Minor())), nil
}

// newCloud makes the cloud's driver.
func newCloud(ctx context.Context, o Options, cfg *config.Config, image aws.ImageSpec, catalogue *instancetype.Catalogue,
	denied func(action, message string), log *slog.Logger,
) (*aws.Provider, error) {
	a := cfg.Cloud.AWS
	subnets, err := config.ParseSubnets(a.SubnetID)
	if err != nil {
		return nil, fmt.Errorf("cloud.aws.subnetID: %w", err)
	}
	cloud, err := aws.New(ctx, aws.Config{
		Region: a.Region, EndpointURL: a.EndpointURL, InsecureTLSSkipVerify: a.InsecureTLSSkipVerify,
		AccessKeyID: a.AccessKeyID, SecretAccessKey: a.SecretAccessKey,
		ControllerID: cloudprovider.ControllerID(o.ClusterName, o.Namespace, o.NodeName),
		Nametag:      cfg.Cells.Nametag,
		VPCID:        a.VPCID, SubnetIDs: subnets.IDs, SubnetTags: subnets.Tags,
		Image:            image,
		DefaultVolumeGiB: cfg.Cells.VolumeGiB(), PrivateIPOnly: cfg.Cells.PrivateIPOnly,
		ExtraCIDRs: cfg.Cells.ExtraCIDRs, ExtraSecurityGroups: cfg.Cells.ExtraSecurityGroups,
		InstanceProfile: cfg.Cells.DefaultIAMPermissions,
		Catalogue:       catalogue,
		Denied:          denied,
		Clock:           clock.RealClock{}, Metrics: metrics.Registry, Logger: log,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up AWS: %w", err)
	}
	return cloud, nil
}

// setUpCells makes the controllers that use the cloud, and returns the one that
// launches.
func setUpCells(ctx context.Context, o Options, cfg *config.Config, mgr ctrl.Manager, kube kubernetes.Interface, cloud *aws.Provider,
	region *instancetype.Region, data func(*v1beta1.Cell) ([]byte, error), authorities []string, listens func(cell string) bool, log *slog.Logger,
) (*lifecycle.Reconciler, error) {
	warm := func(ctx context.Context) error {
		if err := cloud.Warm(ctx); err != nil && ctx.Err() == nil {
			log.Warn("preparing for the first launch; it is tried again then", "err", err)
		}
		return nil
	}
	if err := mgr.Add(manager.RunnableFunc(warm)); err != nil {
		return nil, err
	}
	use, err := meter(ctx, o, cfg, mgr, kube, log)
	if err != nil {
		return nil, err
	}
	cells, err := lifecycle.New(lifecycle.Config{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Cloud: cloud, Routes: cloud, NodeName: o.NodeName,
		Offerings:   region.Offerings,
		Options:     instancetype.Options{PublicIPv4: !cfg.Cells.PrivateIPOnly, DefaultVolumeGiB: cfg.Cells.VolumeGiB()},
		UserData:    data,
		Listens:     listens,
		Authorities: authorities,
		MayLaunch:   use.mayLaunch,
		Ended:       use.ended,
		Clock:       clock.RealClock{},
		Events:      eventRecorder(mgr),
		Metrics:     metrics.Registry,
		Logger:      log,
		Limits:      cfg.Cells.Limits.Launches(),
		BootTimeout: cfg.Cells.BootTimeout.Duration,
	})
	if err != nil {
		return nil, err
	}
	if err := cells.SetupWithManager(ctx, mgr); err != nil {
		return nil, err
	}
	garbage, err := garbagecollection.New(garbagecollection.Config{
		Cloud: cloud, Routes: cloud, Cells: mgr.GetClient(), Live: mgr.GetAPIReader(), NodeName: o.NodeName, Clock: clock.RealClock{},
		DryRun: cfg.Cells.GarbageCollection.DryRun,
		Events: eventRecorder(mgr), Metrics: metrics.Registry, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	return cells, mgr.Add(garbage)
}

// tellOfDenied tells the operator, by an event on the virtual node, what the
// cloud does not let Kip do. That a pod waits for it is told on the pod; but
// lists, terminations and what Kip reads ahead belong to no pod.
func tellOfDenied(events record.EventRecorder, node string) func(action, message string) {
	about := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(node)}
	return func(action, message string) {
		events.Event(about, corev1.EventTypeWarning, v1beta1.ReasonDenied, "Kip's cloud credentials do not allow "+action+": "+message)
	}
}

// eventRecorder is client-go's first kind of recorder: its events are counted
// up, not repeated, when a cause stays.
func eventRecorder(mgr ctrl.Manager) record.EventRecorder {
	return mgr.GetEventRecorderFor("kip") //nolint:staticcheck // deprecated for a kind with another interface
}

// imageResolver asks the registries that cells ask.
func imageResolver(places *registry.Places, log *slog.Logger) (*platforms.Resolver, error) {
	return platforms.New(platforms.Config{Places: places, Clock: clock.RealClock{}, Metrics: metrics.Registry, Logger: log})
}

// imagePlaces are where images are asked for, the mirrors first.
func imagePlaces(cfg *config.Config) (*registry.Places, error) {
	var mirrors []registry.Mirror
	for _, m := range cfg.Cells.RegistryMirrors {
		mirrors = append(mirrors, registry.Mirror{Hosts: m.Hosts, Endpoint: m.Endpoint})
	}
	return registry.NewPlaces(mirrors)
}

// apiServer says how to reach the API server. There is no client-side limit:
// the API server's own fairness decides.
func apiServer(o Options) (*rest.Config, error) {
	var c *rest.Config
	var err error
	if o.Kubeconfig == "" {
		c, err = rest.InClusterConfig()
	} else {
		c, err = clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("finding the API server (--kubeconfig): %w", err)
	}
	c.QPS = -1
	c.UserAgent = "kip"
	return c, nil
}

// newManager makes the manager, whose caches hold this node's pods and cells
// and nothing else.
func newManager(c *rest.Config, o Options, change ...func(*ctrl.Options)) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1beta1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("registering API types: %w", err)
		}
	}
	options := ctrl.Options{
		Scheme: scheme,
		Cache: cache.Options{
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Pod{}:   {Field: fields.OneTermEqualSelector("spec.nodeName", o.NodeName)},
				&v1beta1.Cell{}: {Label: labels.SelectorFromSet(labels.Set{v1beta1.LabelNode: o.NodeName})},
			},
			DefaultTransform: cache.TransformStripManagedFields(),
		},
		Metrics: metricsserver.Options{BindAddress: o.MetricsListen},
		// Kip has its own, which do not wait for the manager.
		HealthProbeBindAddress: "0",
	}
	for _, f := range change {
		f(&options)
	}
	mgr, err := ctrl.NewManager(c, options)
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	return mgr, nil
}

// newElectedManager makes the manager of one of several Kips of the virtual
// node, if it is one of several.
func newElectedManager(c *rest.Config, o Options) (ctrl.Manager, error) {
	if !o.LeaderElect {
		return newManager(c, o)
	}
	lock, err := election(c, o)
	if err != nil {
		return nil, err
	}
	return newManager(c, o, elected(lock))
}

func portOf(listen string) (int32, error) {
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return 0, fmt.Errorf("--kubelet-listen %q: it takes an address such as :10250", listen)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("--kubelet-listen %q: %w", listen, err)
	}
	return int32(n), nil
}

func loadCatalogue(file string) (*instancetype.Catalogue, error) {
	if file == "" {
		return instancetype.Embedded()
	}
	return instancetype.Load(file)
}
