package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/elotl/kip/v2/internal/agent/containerd"
	"github.com/elotl/kip/v2/internal/localcluster"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/test/install"
)

// TestInstallPage follows docs/install-eks.md, command by command, on a new
// cluster without Kip, and compares cluster and account before and after.
//
// What is not the page's: the values of its first block; that the AWS CLI is told
// of ec2local, and Kip by AWS_ENDPOINT_URL. ECR is reached through a proxy, for
// there is no such host, and nodes get ECR's images without a login, from the
// local registry, where they are stored. That registry is also a mirror that the
// machine image of cells has built in, as an operator's own may have; an own
// image instead of the archive for Amazon's, as the account has no S3 (make
// test-vm boots that way).
//
// Having a cluster of its own, it runs beside the tests that share one.
func TestInstallPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(shared.Root, "docs", "install-eks.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := install.Blocks(string(page))
	if err != nil {
		t.Fatal(err)
	}
	o := newOperator(t)
	before := o.everything(t)

	o.set("CLUSTER_NAME", o.Name)
	o.set("USE_REGION", region)
	o.set("IMAGE_REGISTRY", ecrHost+"/elotl")
	o.set("IMAGE_TAG", "1.0-page")
	o.set("ARCHITECTURES", runtime.GOARCH) // both take twice as long
	o.set("NAMESPACE", "kip-elsewhere")    // one that is not the default finds what is tied to that
	o.set("KIP_SERVICE_ACCOUNT_NAME", "kip-provider")
	o.set("CELL_IMAGE_ID", o.image)
	steps, sawCell := 0, false
	take := func(b install.Block) string {
		steps++
		return o.run(t, fmt.Sprintf("line %d", b.Line), b.Commands)
	}
	optional := func(kind string) {
		for _, b := range blocks {
			if b.Kind == kind {
				take(b)
				return
			}
		}
		t.Fatalf("the page has no block of kind %q", kind)
	}
	for _, b := range blocks {
		// Where the page says that the file system is made, and removed.
		switch {
		case b.Kind == "" && strings.Contains(b.Commands, "/deploy.sh"):
			optional("image-cache")
			optional("image-cache-role")
		case b.Kind == "" && strings.Contains(b.Commands, "delete-security-group"):
			optional("image-cache-removal")
		}
		if !slices.Contains([]string{"", "lookup", "image", "image-removal"}, b.Kind) {
			continue
		}
		if b.Kind == "image" {
			o.wayToECR(t)
		}
		out := take(b)
		if b.Kind == "image" {
			o.env("unset HTTPS_PROXY SSL_CERT_FILE\n")
		}
		if strings.Contains(b.Commands, "get cells") {
			sawCell = true
			for _, want := range []string{"hello-", "Running", "i-0", "hello from a cell"} {
				if !strings.Contains(out, want) {
					t.Errorf("what runs on Kip does not show %q:\n%s", want, out)
				}
			}
		}
	}
	if steps < 15 || !sawCell {
		t.Errorf("%d steps were taken, the page's own check among them: %t", steps, sawCell)
	}
	// The page leaves the identity provider, which may have other users.
	o.run(t, "the identity provider", `aws iam delete-open-id-connect-provider --open-id-connect-provider-arn "arn:aws:iam::$AWS_ACCOUNT_ID:oidc-provider/$OIDC_PROVIDER"`)
	if diff := cmp.Diff(before, o.everything(t)); diff != "" {
		t.Errorf("cluster and account (-before +after)\n%s", diff)
	}
}

// operator is somebody at a shell, with a cluster and an account.
type operator struct {
	*localcluster.Cluster
	kube       kubernetes.Interface
	ec2        *ec2.Client
	dir, image string
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), upTimeout)
	defer cancel()
	name := fmt.Sprintf("page%d", os.Getpid()%100000)
	dir, err := os.MkdirTemp(filepath.Join(shared.Root, ".cache"), name+"-")
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := localcluster.Open(localcluster.Config{
		Name: name, Dir: dir, Root: shared.Root, Kip: localcluster.KipNone, Progress: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), upTimeout)
		defer cancel()
		if err := cluster.Down(ctx); err != nil {
			t.Error(err)
		}
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	o := &operator{Cluster: cluster, dir: t.TempDir()}
	if err := cluster.Up(ctx); err != nil {
		t.Fatal(err)
	}
	if _, o.kube, err = cluster.Client(); err != nil {
		t.Fatal(err)
	}
	for name, image := range images {
		if err := cluster.Push(ctx, image, name); err != nil {
			t.Fatal(err)
		}
	}
	o.tools(t)
	o.makeImage(t)
	return o
}

// tools are the operator's programs and credentials.
func (o *operator) tools(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(o.Dir, "cluster.json"))
	if err != nil {
		t.Fatal(err)
	}
	var settings struct {
		Port   int    `json:"ec2Port"`
		Key    string `json:"accessKeyID"`
		Secret string `json:"secretAccessKey"`
	}
	if err := json.Unmarshal(data, &settings); err != nil {
		t.Fatal(err)
	}
	config, _, err := o.Client()
	if err != nil {
		t.Fatal(err)
	}
	host, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := fmt.Sprintf("http://%s:%d", host.Hostname(), settings.Port)
	o.ec2 = ec2.New(ec2.Options{
		Region: region, BaseEndpoint: aws.String(endpoint),
		Credentials: credentials.NewStaticCredentialsProvider(settings.Key, settings.Secret, ""),
	})
	awsCLI, err := exec.LookPath("aws")
	if err != nil {
		t.Fatal(err)
	}
	// Debian's AWS CLI does not know AWS_ENDPOINT_URL yet.
	script := fmt.Sprintf("#!/bin/sh\nexec %s --endpoint-url %s \"$@\"\n", awsCLI, endpoint)
	if err := os.WriteFile(filepath.Join(o.dir, "aws"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"PATH":       o.dir + ":" + filepath.Join(shared.Root, ".cache", "tools", "bin") + ":" + os.Getenv("PATH"),
		"KUBECONFIG": o.Kubeconfig(), "HOME": o.dir, "AWS_PAGER": "",
		"AWS_ACCESS_KEY_ID": settings.Key, "AWS_SECRET_ACCESS_KEY": settings.Secret, "AWS_REGION": region, "AWS_DEFAULT_REGION": region,
		"AWS_ENDPOINT_URL": endpoint,
	} {
		o.set(name, value)
	}
	// The operator has built Kip before.
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	caches := strings.Fields(string(out))
	o.set("GOCACHE", caches[0])
	o.set("GOMODCACHE", caches[1])
}

// wayToECR is the operator's way to the account's private registry: a proxy that
// leads its name, and no other, to ec2local, with TLS by an authority that the
// operator trusts.
func (o *operator) wayToECR(t *testing.T) {
	t.Helper()
	authority, err := pki.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := authority.SignCell(key.Public(), ecrHost, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(signed, encoded)
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := url.Parse(*o.ec2.Options().BaseEndpoint)
	if err != nil {
		t.Fatal(err)
	}
	registry := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(endpoint))
	registry.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	registry.StartTLS()
	t.Cleanup(registry.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != ecrHost+":443" {
			http.Error(w, "there is no way to "+r.Host, http.StatusBadGateway)
			return
		}
		there, err := net.Dial("tcp", registry.Listener.Addr().String())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer here.Close()
		if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = io.Copy(there, here)
			there.Close()
		})
		_, _ = io.Copy(here, there)
		here.Close()
		wg.Wait()
	}))
	t.Cleanup(proxy.Close)
	trusted := filepath.Join(o.dir, "authority.pem")
	if err := os.WriteFile(trusted, authority.CertificatePEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	o.set("HTTPS_PROXY", proxy.URL)
	o.set("SSL_CERT_FILE", trusted)
}

// makeImage is the operator's machine image of cells: the local cluster's with
// the local registry as a mirror of all.
func (o *operator) makeImage(t *testing.T) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(o.Dir, "images", "kip-cell-*", "rootfs"))
	if err != nil || len(found) != 1 {
		t.Fatalf("there are %d machine images of cells: %v", len(found), err)
	}
	dir := filepath.Join(o.Dir, "images", "operators-own")
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", "--reflink=auto", filepath.Dir(found[0]), dir).CombinedOutput(); err != nil {
		t.Fatalf("copying the machine image: %v\n%s", err, out)
	}
	mirrors := filepath.Join(dir, "rootfs", containerd.RegistryDir, "_default")
	if err := os.MkdirAll(mirrors, 0o755); err != nil {
		t.Fatal(err)
	}
	config, _, err := o.Client()
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(config.Host, "https://"), ":6443")
	hosts := fmt.Sprintf("[host.\"http://%s:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n", host)
	if err := os.WriteFile(filepath.Join(mirrors, "hosts.toml"), []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	described := bytes.Buffer{}
	if err := json.NewEncoder(&described).Encode(map[string]string{"name": "operators-own"}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "image.json"), described.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := o.ec2.DescribeImages(t.Context(), &ec2.DescribeImagesInput{
		Filters: []types.Filter{{Name: aws.String("name"), Values: []string{"operators-own"}}},
	})
	if err != nil || len(all.Images) != 1 {
		t.Fatalf("the operator's machine image: %+v, %v", all, err)
	}
	o.image = *all.Images[0].ImageId
}

// set exports a variable in the operator's shell.
func (o *operator) set(name, value string) { o.env("export " + name + "='" + value + "'\n") }

func (o *operator) env(line string) {
	f, err := os.OpenFile(filepath.Join(o.dir, "env"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line); err != nil {
		panic(err)
	}
}

// run types commands into the operator's shell, which keeps its variables, and
// returns what they print.
func (o *operator) run(t *testing.T, what, commands string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), upTimeout)
	defer cancel()
	env := filepath.Join(o.dir, "env")
	script := "set -euo pipefail\n. " + env + "\n" + commands + "\nexport -p >" + env + ".next\nmv " + env + ".next " + env + "\n"
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = shared.Root, []string{"LANG=C.UTF-8"}
	// What the shell started holds its output open.
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("%s\n%s%s", what, commands, out)
	if err != nil {
		t.Fatalf("%s of the page: %v", what, err)
	}
	return string(out)
}

// everything is what an installation may leave behind, in cluster and account.
func (o *operator) everything(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, kind := range []string{"nodes", "namespaces", "customresourcedefinitions", "clusterroles", "clusterrolebindings", "roles -A", "rolebindings -A",
		"priorityclasses", "deployments -A", "statefulsets -A", "leases -n kube-node-lease", "csinodes"} {
		out := o.run(t, kind, "kubectl get "+kind+" -o name\n")
		for line := range strings.Lines(out) {
			// The ordinary node's own come a little after it.
			if line = strings.TrimSpace(line); !strings.HasSuffix(line, "/"+localcluster.OrdinaryNode) {
				all = append(all, line)
			}
		}
	}
	for _, what := range []string{
		"ec2 describe-security-groups --query SecurityGroups[].GroupName", "ec2 describe-volumes --query Volumes[].VolumeId",
		"ec2 describe-instances --filters Name=instance-state-name,Values=pending,running,stopping,stopped,shutting-down --query Reservations[].Instances[].InstanceId",
		"ec2 describe-route-tables --query RouteTables[].Routes[].DestinationCidrBlock",
		"iam list-open-id-connect-providers --query OpenIDConnectProviderList[].Arn",
		"efs describe-file-systems --query FileSystems[].FileSystemId",
		"ecr describe-repositories --query repositories[].repositoryName",
	} {
		all = append(all, what+": "+strings.TrimSpace(o.run(t, what, "aws "+what+" --output text\n")))
	}
	for _, what := range []string{"get-role --role-name kip-enterprise", "get-role --role-name kip-cell", "get-instance-profile --instance-profile-name kip-cell"} {
		out := o.run(t, what, "aws iam "+what+" 2>&1 || true\n")
		if !strings.Contains(out, "NoSuchEntity") {
			all = append(all, what+": it exists")
		}
	}
	if _, err := o.kube.CoreV1().Nodes().Get(t.Context(), localcluster.OrdinaryNode, metav1.GetOptions{}); err != nil {
		t.Fatalf("the cluster lost its ordinary node: %v", err)
	}
	return all
}
