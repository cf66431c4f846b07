package localcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const adminKubeconfig = "admin.kubeconfig"

// Config says where a cluster lives.
type Config struct {
	// Name tells clusters on one machine apart; it is part of the names of
	// network devices, so at most nine lower case letters and digits.
	Name string
	// Dir is the cluster's directory; it is made if need be.
	Dir string
	// Root is Kip's source tree, with .cache/tools/bin, bin and kustomize.
	Root string
	// BootDelay is how long instances stay pending before they boot. It may be
	// changed at any time; Up and Start bring it into effect.
	BootDelay time.Duration
	// Kip is how Kip runs, by default KipPod. Up brings a change into effect.
	Kip KipMode
	// DisableTaint: the virtual node takes any pod. Only a Kip that runs as a
	// process is started so.
	DisableTaint bool
	// NoOrdinaryNode: the virtual node is the only one, which takes a Kip that
	// runs as a process.
	NoOrdinaryNode bool
	// Cells is what cells are, by default CellsContainer. Up brings a change
	// into effect for new ones.
	Cells CellKind
	// ImageCache: cells mount layers of images from a directory of this machine
	// instead of pulling them; virtual machines by NFS, containers as it is.
	ImageCache bool
	// Unthrottled: the cloud answers any number of requests. EC2 does not.
	Unthrottled bool
	// Audit: the API server writes down what Kip asks of it, for itself and for
	// its cells (AuditPath).
	Audit bool
	// Progress is told, in one line each, what is being done.
	Progress func(format string, args ...any)
}

// Cluster is one local cluster. One command at a time works on it.
type Cluster struct {
	Config
	settings  settings
	pki       certificates
	processes processes
	lock      *os.File
	// software is an item of cells.software in provider.yaml, empty where the
	// cells' image needs none.
	software string
}

// Open takes the cluster up from its directory, making it if need be, and
// locks it against other commands until Close.
func Open(cfg Config) (*Cluster, error) {
	if cfg.Name == "" || len(cfg.Name) > 9 || strings.Trim(cfg.Name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return nil, fmt.Errorf("cluster name %q: it takes one to nine lower case letters and digits", cfg.Name)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, ...any) {}
	}
	for _, p := range []*string{&cfg.Dir, &cfg.Root} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, err
		}
		*p = abs
	}
	c := &Cluster{Config: cfg, processes: processes{pidDir: filepath.Join(cfg.Dir, "run"), logDir: filepath.Join(cfg.Dir, "logs")}}
	for _, dir := range []string{cfg.Dir, c.processes.pidDir, c.processes.logDir, c.path("images"), c.path("ec2")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("making the cluster's directory: %w", err)
		}
	}
	if err := c.acquire(); err != nil {
		return nil, err
	}
	var err error
	if c.settings, err = loadSettings(cfg.Dir, cfg.Name); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.pki = certificates{c.path("pki")}
	return c, nil
}

// acquire takes the cluster's lock, which ends with this process at the latest.
func (c *Cluster) acquire() error {
	lock, err := os.OpenFile(c.path("lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return fmt.Errorf("another command works on cluster %q (%s); wait for it or end it", c.Name, c.Dir)
	}
	c.lock = lock
	return nil
}

// Close lets other commands work on the cluster.
func (c *Cluster) Close() error { return c.lock.Close() }

func (c *Cluster) path(file string) string { return filepath.Join(c.Dir, file) }
func (c *Cluster) tool(name string) string {
	return filepath.Join(c.Root, ".cache", "tools", "bin", name)
}
func (c *Cluster) bin(name string) string { return filepath.Join(c.Root, "bin", name) }

// Kubeconfig is the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() string { return c.path(adminKubeconfig) }

// Client is the administrator's client.
func (c *Cluster) Client() (*rest.Config, kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return nil, nil, fmt.Errorf("reading the administrator's kubeconfig: %w", err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	return config, client, err
}

// all are the cluster's processes in the order in which they are started.
func (c *Cluster) all() []process {
	return []process{c.ec2(), c.etcd(), c.apiserver(), c.controllerManager(), c.scheduler(), c.registry(), c.dns(), c.metricsServer(), c.nfsServer(), c.kip(), c.imageCache()}
}

// Up starts what does not run and replaces what changed.
func (c *Cluster) Up(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("a local cluster makes network namespaces and containers: run it as root")
	}
	if err := c.checkImageCache(); err != nil {
		return err
	}
	if err := c.prepare(); err != nil {
		return err
	}
	steps := []func(context.Context) error{
		c.ensure(c.ec2), c.ensure(c.etcd), c.ensure(c.apiserver),
		c.install,
		c.ensure(c.controllerManager), c.ensure(c.scheduler), c.ensure(c.registry), c.ensure(c.dns), c.ensure(c.metricsServer), c.startNFSServer,
		c.pushImages, c.pushSoftware, c.ensureNode, c.startKip, c.startImageCache,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepare writes the files that need no running process.
func (c *Cluster) prepare() error {
	if err := c.pki.make(c.settings); err != nil {
		return err
	}
	for file, user := range map[string]string{
		adminKubeconfig: "admin", "controller-manager.kubeconfig": "controller-manager",
		"scheduler.kubeconfig": "scheduler", "coredns.kubeconfig": "coredns", "metrics-server.kubeconfig": MetricsServer,
	} {
		if err := c.pki.kubeconfig(c.path(file), c.apiserverURL(), user, ""); err != nil {
			return fmt.Errorf("writing %s: %w", file, err)
		}
	}
	for _, write := range []func() error{c.raiseInotify, c.writeCredentials, c.writeRegistryConfig, c.writeCorefile, c.writeMetricsAPI, c.writeAuditPolicy, c.makeShare, c.writeGaneshaConfig, c.makeCellImage} {
		if err := write(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) ensure(p func() process) func(context.Context) error {
	return func(ctx context.Context) error {
		proc := p()
		began := time.Now()
		started, err := c.processes.ensure(ctx, proc)
		if err == nil && started {
			c.Progress("%s started (%.1f s)", proc.Name, time.Since(began).Seconds())
		}
		return err
	}
}

// install applies what the cluster needs in the API server, and Kip's own parts
// from the files that ship, unless somebody else installs Kip.
func (c *Cluster) install(ctx context.Context) error {
	if c.Kip != KipNone {
		if err := c.kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-k", filepath.Join(c.Root, "kustomize", "base")); err != nil {
			return fmt.Errorf("installing Kip's objects: %w", err)
		}
	}
	if err := c.kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-f", filepath.Join(c.Root, "kustomize", "local"), "-f", c.path(metricsAPIFile)); err != nil {
		return fmt.Errorf("installing what only a local cluster has: %w", err)
	}
	return nil
}

func (c *Cluster) kubectl(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, c.tool("kubectl"), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// tokenSeconds: Kip as a process has no kubelet that renews its tokens. Up asks
// for new ones each time.
const tokenSeconds = int64(365 * 24 * 3600)

// configureProcess writes what Kip as a process is started with: tokens of its
// service account for the API server and for AWS, and provider.yaml.
func (c *Cluster) configureProcess(ctx context.Context, vpc string) error {
	for file, audiences := range map[string][]string{"kip.token": nil, "kip-aws.token": {"sts.amazonaws.com"}} {
		if err := c.writeToken(ctx, kipAccount, file, audiences...); err != nil {
			return err
		}
	}
	if err := c.pki.kubeconfig(c.path("kip.kubeconfig"), c.apiserverURL(), kipAccount, c.path("kip.token")); err != nil {
		return err
	}
	return c.writeProviderConfig(vpc, c.ec2URL())
}

// writeToken gets a token for a service account of Kip's namespace.
func (c *Cluster) writeToken(ctx context.Context, account, file string, audiences ...string) error {
	_, client, err := c.Client()
	if err != nil {
		return err
	}
	seconds := tokenSeconds
	token, err := client.CoreV1().ServiceAccounts(kipNamespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds, Audiences: audiences},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("getting a token for service account %s: %w", account, err)
	}
	return writeFile(c.path(file), []byte(token.Status.Token), 0o600)
}

// Down ends the cluster: Kip first, so that it launches nothing more, then the
// instances and their network, then the rest. The directory is removed.
func (c *Cluster) Down(ctx context.Context) error {
	procs := c.all()
	slices.Reverse(procs)
	for _, p := range procs {
		_, alive, err := c.processes.find(p.Name)
		if err != nil {
			return err
		}
		if err := c.processes.stop(ctx, p); err != nil {
			return err
		}
		if alive {
			c.Progress("%s ended", p.Name)
		}
	}
	if err := c.destroyCloud(ctx); err != nil {
		return err
	}
	if err := c.restoreInotify(); err != nil {
		return fmt.Errorf("restoring the machine's inotify limit: %w", err)
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		return fmt.Errorf("removing the cluster's directory: %w", err)
	}
	return nil
}

// destroyCloud ends what outlives ec2local itself: instances, network, cgroups.
func (c *Cluster) destroyCloud(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, c.bin("ec2local"), "destroy", "--state="+c.path("ec2"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ending the instances and their network: %w\n%s", err, out)
	}
	c.Progress("instances and network removed")
	return nil
}

// ComponentStatus is the state of one of the cluster's components.
type ComponentStatus struct {
	Name string
	// PID is 0 for Kip as a pod.
	PID     int
	Running bool
	Ready   error
	Since   time.Time
}

// Status looks at every process.
func (c *Cluster) Status(ctx context.Context) ([]ComponentStatus, error) {
	var all []ComponentStatus
	for _, p := range c.all() {
		r, alive, err := c.processes.find(p.Name)
		if err != nil {
			return nil, err
		}
		s := ComponentStatus{Name: p.Name, Running: alive}
		probe, cancel := context.WithTimeout(ctx, 3*time.Second)
		if alive {
			s.PID, s.Since = r.PID, r.Started
			s.Ready = p.Ready(probe)
		} else if (p.Name == ImageCache || p.Name == NFSServer) && r.PID == 0 {
			// It was not asked for.
			cancel()
			continue
		} else if p.Name == Kip {
			// An API server that does not answer is told of already.
			if pod, err := c.podStatus(probe); err == nil && pod != nil {
				s = *pod
			}
		}
		cancel()
		all = append(all, s)
	}
	return all, nil
}

// Running says whether a process runs, ready or not.
func (c *Cluster) Running(name string) (bool, error) {
	_, alive, err := c.processes.find(name)
	return alive, err
}

// Kill ends a process as a crash would. Kip can be killed and started this way
// only where it is one.
func (c *Cluster) Kill(name string) error { return c.processes.kill(name) }

// Start starts one process, if it does not run, and waits for it.
func (c *Cluster) Start(ctx context.Context, name string) error {
	for _, p := range c.all() {
		if p.Name == name {
			_, err := c.processes.ensure(ctx, p)
			return err
		}
	}
	return fmt.Errorf("there is no component %q; there are %s", name, strings.Join(Components, ", "))
}

// Command is how a component is started, for another process like it.
func (c *Cluster) Command(name string) (*exec.Cmd, error) {
	for _, p := range c.all() {
		if p.Name == name {
			return c.processes.command(p), nil
		}
	}
	return nil, fmt.Errorf("there is no component %q; there are %s", name, strings.Join(Components, ", "))
}

// LogPath is where a component writes.
func (c *Cluster) LogPath(name string) string { return c.processes.logPath(name) }
