package kip

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/aws"
	"github.com/elotl/kip/v2/internal/config"
	imagecache "github.com/elotl/kip/v2/internal/imagecache/controller"
	"github.com/elotl/kip/v2/internal/imagecache/grants"
	"github.com/elotl/kip/v2/internal/imagecache/store"
	"github.com/elotl/kip/v2/internal/registry"
	"github.com/elotl/kip/v2/internal/registrylogin"
)

// imageCacheSecret has the image cache's master key, in Kip's own namespace.
// When it is lost the cache is empty, and fills again. The lease of the controller
// that works has the same name.
const imageCacheSecret = "kip-image-cache"

const masterKey = "master-key"

// cacheOptions are the flags of kip image-cache.
type cacheOptions struct {
	Options
	Share   string
	Scratch string
	Keep    []string
	MaxSize string
	Unused  time.Duration
}

// NewImageCacheCommand is the command kip image-cache.
func NewImageCacheCommand() *cobra.Command {
	o := cacheOptions{Unused: 14 * 24 * time.Hour}
	level := "info"
	cmd := &cobra.Command{
		Use:   "image-cache",
		Short: "Fill the image cache with the images of the pods on cells",
		Long: `Pulls the images of the pods on the virtual node, once, and writes each of their
layers to a share as a file system that cells mount instead of pulling. Which
pod may have which of them is decided by kip run.

It may be stopped and started at any time, and run several times: one of them
works. Without it, cells pull what is not in the cache.`,
		Example: `  # In a cluster, as the manifests in kustomize/image-cache do it:
  kip image-cache --share /share --scratch /scratch --max-size 500Gi`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.LogLevel.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("--log-level is %q; it takes debug, info, warn or error", level)
			}
			if o.Share == "" {
				return errors.New("--share is required: the directory where the share is mounted")
			}
			cmd.SilenceUsage = true
			return fillImageCache(cmd.Context(), o, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: o.LogLevel})))
		},
	}
	f := cmd.Flags()
	identityFlags(f, &o.Options)
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "how to reach the API server; empty: as the pod's service account")
	f.StringVar(&o.Share, "share", "", "the directory where the share is mounted")
	f.StringVar(&o.Scratch, "scratch", os.TempDir(), "a directory with room for the two largest layers, unpacked")
	f.StringSliceVar(&o.Keep, "keep", nil, "images that are in the cache though no pod uses them, separated by commas")
	f.StringVar(&o.MaxSize, "max-size", "", "how large the cache may become, such as 500Gi; empty: any size")
	f.DurationVar(&o.Unused, "unused", o.Unused, "for how long an image stays in the cache that no pod has")
	f.StringVar(&o.MetricsListen, "metrics-listen", ":9090", "where /metrics listens; 0 turns it off")
	f.StringVar(&o.HealthListen, "health-listen", ":8081", "where /healthz and /readyz listen; 0 turns them off")
	f.StringVar(&level, "log-level", level, "debug, info, warn or error")
	return cmd
}

// fillImageCache runs the image cache's controller until ctx ends.
func fillImageCache(ctx context.Context, o cacheOptions, log *slog.Logger) error {
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
	cfg, err := config.Load(o.ProviderConfig)
	if err != nil {
		return err
	}
	most, err := byteSize(o.MaxSize)
	if err != nil {
		return err
	}
	places, err := imagePlaces(cfg)
	if err != nil {
		return err
	}
	restConfig, err := apiServer(o.Options)
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return fmt.Errorf("making the API server's client: %w", err)
	}
	node, err := asNode(restConfig, o.NodeName)
	if err != nil {
		return err
	}
	keys, err := newImageCacheKeys(ctx, kube, o.Namespace)
	if err != nil {
		return err
	}
	share, err := store.New(o.Share, keys)
	if err != nil {
		return err
	}
	defer share.Close()
	mgr, err := newManager(restConfig, o.Options, func(m *ctrl.Options) {
		m.LeaderElection, m.LeaderElectionID, m.LeaderElectionNamespace = true, imageCacheSecret, o.Namespace
		// Whose pods it sees: Kips of other virtual nodes do not wait for it.
		m.LeaderElectionLabels = map[string]string{v1beta1.LabelNode: o.NodeName}
		// What ends with its context has ended when another one may begin.
		m.LeaderElectionReleaseOnCancel = true
	})
	if err != nil {
		return err
	}
	cloud, err := imageCacheCloud(ctx, o.Options, cfg, log)
	if err != nil {
		return err
	}
	var probes probes
	endProbes, err := probes.listen(o.HealthListen)
	if err != nil {
		return err
	}
	defer endProbes()
	probes.readyWhen(cachesRead(mgr.GetCache()), func() bool { return leads(mgr) })
	fill, err := imagecache.New(imagecache.Config{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), PullSecrets: pullSecrets(node), Registries: cloud, Places: places,
		Share: share, Scratch: o.Scratch, Architectures: cfg.Cells.Architectures, Keep: o.Keep, MaxBytes: most, Unused: o.Unused,
		Events: eventRecorder(mgr), Clock: clock.RealClock{}, Metrics: metrics.Registry, Logger: log,
	})
	if err != nil {
		return err
	}
	if err := fill.SetupWithManager(mgr); err != nil {
		return err
	}
	log.Info("image cache starts", "node", o.NodeName, "share", o.Share)
	if err := mgr.Start(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// imageCacheCloud is the cloud for logins to its registries and nothing else.
func imageCacheCloud(ctx context.Context, o Options, cfg *config.Config, log *slog.Logger) (cloudprovider.RegistryAuthorizer, error) {
	catalogue, err := loadCatalogue("")
	if err != nil {
		return nil, fmt.Errorf("loading the instance type catalogue: %w", err)
	}
	// What it may not is said of the images that it concerns.
	return newCloud(ctx, o, cfg, aws.ImageSpec{}, catalogue, func(string, string) {}, log)
}

func byteSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() <= 0 {
		return 0, fmt.Errorf("--max-size is %q; it takes a size such as 500Gi", text)
	}
	return q.Value(), nil
}

// asNode is a client with the virtual node's rights, by which what a pod refers
// to is read: the Node authorizer lets it see that of its own pods and no other.
func asNode(c *rest.Config, nodeName string) (kubernetes.Interface, error) {
	impersonating := rest.CopyConfig(c)
	impersonating.Impersonate = rest.ImpersonationConfig{UserName: "system:node:" + nodeName, Groups: []string{"system:nodes"}}
	node, err := kubernetes.NewForConfig(impersonating)
	if err != nil {
		return nil, fmt.Errorf("making the virtual node's client: %w", err)
	}
	return node, nil
}

// pullSecrets reads those of pods. One that is not there is left out, as a
// kubelet does: the image may be anybody's.
func pullSecrets(node kubernetes.Interface) func(context.Context, *corev1.Pod) ([]*corev1.Secret, error) {
	return func(ctx context.Context, pod *corev1.Pod) ([]*corev1.Secret, error) {
		var secrets []*corev1.Secret
		for _, ref := range pod.Spec.ImagePullSecrets {
			secret, err := node.CoreV1().Secrets(pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) || ref.Name == "" {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("reading pull secret %s: %w", ref.Name, err)
			}
			secrets = append(secrets, secret)
		}
		return secrets, nil
	}
}

// newImageCacheKeys reads the master key, and makes it at the first start.
func newImageCacheKeys(ctx context.Context, client kubernetes.Interface, namespace string) (*store.Keys, error) {
	keys, err := imageCacheKeys(ctx, client, namespace)
	if !apierrors.IsNotFound(err) {
		return keys, err
	}
	master := make([]byte, store.MasterSize)
	_, _ = rand.Read(master) // never fails
	_, err = client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: imageCacheSecret}, Data: map[string][]byte{masterKey: master},
	}, metav1.CreateOptions{})
	// Another one may have been faster; there is one key.
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("making the image cache's master key: %w", err)
	}
	return imageCacheKeys(ctx, client, namespace)
}

func imageCacheKeys(ctx context.Context, client kubernetes.Interface, namespace string) (*store.Keys, error) {
	secret, err := client.CoreV1().Secrets(namespace).Get(ctx, imageCacheSecret, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the image cache's master key, Secret %s/%s: %w", namespace, imageCacheSecret, err)
	}
	keys, err := store.NewKeys(secret.Data[masterKey])
	if err != nil {
		return nil, fmt.Errorf("reading the image cache's master key, Secret %s/%s: %w", namespace, imageCacheSecret, err)
	}
	return keys, nil
}

// imageGrants decides what cells may have from the image cache. The master key
// is read each time that it is needed: that is seldom, and whoever replaces it
// need not start Kip again.
func imageGrants(mgr ctrl.Manager, c *rest.Config, kube kubernetes.Interface, o Options, registries *registrylogin.Source, places *registry.Places, log *slog.Logger) (*grants.Source, error) {
	node, err := asNode(c, o.NodeName)
	if err != nil {
		return nil, err
	}
	return grants.New(grants.Config{
		Images: mgr.GetAPIReader(), PullSecrets: pullSecrets(node), Registries: registries, Places: places,
		Keys:    func(ctx context.Context) (*store.Keys, error) { return imageCacheKeys(ctx, kube, o.Namespace) },
		Filled:  func(ctx context.Context) (bool, error) { return imageCacheFilled(ctx, kube, o.Namespace, o.NodeName) },
		Metrics: metrics.Registry, Logger: log,
	})
}

// imageCacheFilled tells whether a kip image-cache works with the images of this
// node's pods: it renews its lease.
func imageCacheFilled(ctx context.Context, client kubernetes.Interface, namespace, node string) (bool, error) {
	lease, err := client.CoordinationV1().Leases(namespace).Get(ctx, imageCacheSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for the image cache's controller: %w", err)
	}
	holder, renewed, lasts := lease.Spec.HolderIdentity, lease.Spec.RenewTime, lease.Spec.LeaseDurationSeconds
	if lease.Labels[v1beta1.LabelNode] != node || holder == nil || *holder == "" || renewed == nil || lasts == nil {
		return false, nil
	}
	return time.Since(renewed.Time) < time.Duration(*lasts)*time.Second, nil
}
