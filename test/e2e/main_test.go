package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/localcluster"
)

// upTimeout is for a cluster on a busy machine.
const upTimeout = 4 * time.Minute

// shared is the cluster that all tests but TestDown run on.
var shared struct {
	*localcluster.Cluster
	config *rest.Config
	kube   kubernetes.Interface
	// cells reads Kip's own types.
	cells client.Client
	cloud *cloud
}

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	flag.Parse()
	if os.Getenv("KIP_E2E") != "1" || os.Geteuid() != 0 {
		fmt.Println("left out: the end-to-end tests make a whole cluster on this machine; they run as root with KIP_E2E=1")
		return 0
	}
	// The machine's processors bound how much goes on at once, not the tests,
	// which mostly wait.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set("4"); err != nil {
			return fail(err)
		}
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return fail(err)
	}
	keep := os.Getenv("KIP_E2E_KEEP") == "1"
	cfg := localcluster.Config{
		Name: fmt.Sprintf("e2e%d", os.Getpid()%100000), Root: root, Progress: progress,
		// As a process: the tests kill it, and read its log.
		Kip: localcluster.KipProcess,
		// make test-vm has virtual machines instead of sandboxes.
		Cells:      localcluster.CellKind(os.Getenv("KIP_E2E_CELLS")),
		ImageCache: withImageCache(),
	}
	if cfg.Cells.Virtual() {
		patience = 10 * time.Minute
	}
	if keep {
		cfg.Name, cfg.Dir = "e2e", filepath.Join(root, ".cache", "e2e")
	} else if cfg.Dir, err = os.MkdirTemp(filepath.Join(root, ".cache"), "e2e-"); err != nil {
		return fail(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
	defer cancel()
	shared.Cluster, err = localcluster.Open(cfg)
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err := end(keep); err != nil {
			code = fail(err)
		}
	}()
	if err := setUp(ctx); err != nil {
		return fail(err)
	}
	code = m.Run()
	if err := checkRights(); err != nil {
		return fail(err)
	}
	return code
}

// withImageCache says whether clusters have an image cache: with
// KIP_E2E_IMAGE_CACHE=1.
func withImageCache() bool { return os.Getenv("KIP_E2E_IMAGE_CACHE") == "1" }

// setUp starts the cluster and gives it the images that the tests use.
func setUp(ctx context.Context) error {
	if err := shared.Up(ctx); err != nil {
		return fmt.Errorf("starting the cluster: %w", err)
	}
	var err error
	if shared.config, shared.kube, err = shared.Client(); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		return err
	}
	if shared.cells, err = client.New(shared.config, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	if shared.cloud, err = newCloud(ctx); err != nil {
		return err
	}
	if err := pushTestImages(ctx); err != nil {
		return fmt.Errorf("making the test images: %w", err)
	}
	progress("the tests begin")
	return nil
}

// end ends the cluster, unless it is to be kept, and sees that nothing is left that
// bears its name, whatever the tests have done to it. What a failed test needs to
// be understood was told by then.
func end(keep bool) error {
	defer shared.Close()
	if keep {
		fmt.Printf("kept: export KUBECONFIG=%s\n", shared.Kubeconfig())
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
	defer cancel()
	if err := shared.Down(ctx); err != nil {
		return err
	}
	left, err := traces(ctx, shared.Name, shared.Dir)
	if err != nil {
		return err
	}
	left = slices.DeleteFunc(left, func(line string) bool {
		return !strings.Contains(line, shared.Dir) && !strings.Contains(line, "kip-"+shared.Name)
	})
	if len(left) > 0 {
		return fmt.Errorf("the cluster has left behind\n%s", strings.Join(left, "\n"))
	}
	return nil
}

// checkRights: Kip runs under its own account with the ClusterRole that ships.
// After all tests, nothing that it wanted was refused.
func checkRights() error {
	log, err := os.ReadFile(shared.LogPath(localcluster.Kip))
	if err != nil {
		return err
	}
	if shared.ImageCache {
		filling, err := os.ReadFile(shared.LogPath(localcluster.ImageCache))
		if err != nil {
			return err
		}
		log = append(log, filling...)
	}
	line, err := lacking(context.Background(), log)
	if err != nil {
		return err
	}
	if line != "" {
		return fmt.Errorf("the rights in kustomize/ lack one that Kip needs: %s", line)
	}
	if len(log) == 0 {
		return errors.New("Kip has written no log: it cannot be told whether it lacked a right")
	}
	// And in the cloud it has the policy that ships, which is the seed's bound
	// to its own tags.
	calls, denied, err := shared.cloud.calls(context.Background())
	if err != nil {
		return err
	}
	if len(denied) > 0 {
		return fmt.Errorf("the policy in kustomize/iam lacks a right that Kip needs: %+v", denied)
	}
	if len(calls) == 0 {
		return errors.New("ec2local saw no call of Kip's role: it cannot be told whether it lacked a right")
	}
	return nil
}

var began = time.Now()

func progress(format string, args ...any) {
	fmt.Printf("%6.1fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "FAIL:", err)
	return 1
}
