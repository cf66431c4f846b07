package localcluster

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/ociimage"
)

// KipMode is how Kip runs in a cluster.
type KipMode string

const (
	// KipPod: as a pod of the ordinary node, installed by kustomize/deploy.sh
	// as on EKS, with the role of its service account.
	KipPod KipMode = "pod"
	// KipProcess: as a process of this machine under the same service account,
	// for those who work on it: it is replaced in a second, and its log is a file.
	KipProcess KipMode = "process"
	// KipNone: not at all; somebody else installs it.
	KipNone KipMode = "none"
)

// kipModes are all of them, the default first.
var kipModes = []string{string(KipPod), string(KipProcess), string(KipNone)}

const (
	kipNamespace = "kip"
	kipAccount   = "kip-provider"
	roleARN      = "arn:aws:iam::" + accountID + ":role/" + kipAccount
	kipImage     = "docker.io/elotl/kip"

	// deployTimeout is for a busy machine; an idle one needs some seconds.
	deployTimeout = "3m"
)

// startKip has Kip running as it was asked for, and not otherwise.
func (c *Cluster) startKip(ctx context.Context) error {
	if c.Kip != KipProcess {
		if err := c.processes.stop(ctx, c.kip()); err != nil {
			return err
		}
	}
	switch c.Kip {
	case KipNone:
		return nil
	case KipProcess, KipPod, "":
	default:
		return fmt.Errorf("%q is no way to run Kip; it takes %s", c.Kip, strings.Join(kipModes, ", "))
	}
	vpc, err := c.vpcID(ctx)
	if err != nil {
		return err
	}
	if err := c.makeRole(ctx, vpc); err != nil {
		return err
	}
	if c.Kip != KipProcess {
		return c.installPod(ctx, vpc)
	}
	if err := c.uninstallPod(ctx); err != nil {
		return err
	}
	if err := c.configureProcess(ctx, vpc); err != nil {
		return err
	}
	return c.ensure(c.kip)(ctx)
}

// installPod installs Kip as the installation page says: the image in a
// registry, and deploy.sh.
func (c *Cluster) installPod(ctx context.Context, vpc string) error {
	began := time.Now()
	tag, err := c.pushKip(ctx)
	if err != nil {
		return err
	}
	if err := c.writeProviderConfig(vpc, c.ec2HostURL()); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.Root, "kustomize", "deploy.sh"))
	cmd.Env = append(os.Environ(),
		"KUBECONFIG="+c.Kubeconfig(), "PATH="+filepath.Dir(c.tool("kubectl"))+":"+os.Getenv("PATH"),
		"CLUSTER_NAME="+c.settings.Name, "USE_REGION="+region, "NAMESPACE="+kipNamespace,
		"IMAGE_REGISTRY="+strings.TrimSuffix(kipImage, "/kip"), "IMAGE_TAG="+tag,
		"KIP_SERVICE_ACCOUNT_ROLE_ARN="+roleARN, "PROVIDER_CONFIG="+c.path("provider.yaml"),
		"AWS_ENDPOINT_URL="+c.ec2HostURL(), "DEPLOY_TIMEOUT="+deployTimeout,
	)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("installing Kip with kustomize/deploy.sh: %w\n%s", err, out)
	}
	c.Progress("kip runs as pod %s/%s on %s (%.1f s)", kipNamespace, NodeName, OrdinaryNode, time.Since(began).Seconds())
	return nil
}

// pushKip puts Kip's image into the registry under a tag of the program's own,
// so that another program is another pod. It returns the tag.
func (c *Cluster) pushKip(ctx context.Context) (tag string, err error) {
	sum, err := digest(c.bin("kip"))
	if err != nil {
		return "", err
	}
	tag = hex.EncodeToString(sum[:6])
	image, err := ociimage.Build(ociimage.Kip(c.bin("kip"), runtime.GOARCH))
	if err != nil {
		return "", err
	}
	return tag, c.Push(ctx, image, kipImage+":"+tag)
}

// makeRole makes Kip's role and what trusts the cluster's tokens, with the
// policies that ship, and that of the image cache's controller, if there is one.
// It may be repeated.
func (c *Cluster) makeRole(ctx context.Context, vpc string) error {
	api := iam.New(iam.Options{
		Region: region, BaseEndpoint: aws.String(c.ec2URL()),
		Credentials: credentials.NewStaticCredentialsProvider(c.settings.AccessKeyID, c.settings.SecretAccessKey, ""),
	})
	if _, err := api.CreateOpenIDConnectProvider(ctx, &iam.CreateOpenIDConnectProviderInput{
		Url: aws.String(tokenIssuer), ClientIDList: []string{"sts.amazonaws.com"},
	}); err != nil && !alreadyExists(err) {
		return fmt.Errorf("making the cluster's OIDC provider: %w", err)
	}
	roles := map[string]map[string]string{kipAccount: {"kip": "kip-policy-tight.json", "kip-optional": "kip-policy-optional.json"}}
	if c.ImageCache {
		roles[cacheAccount] = map[string]string{"images": "image-cache-policy.json"}
	}
	for account, policies := range roles {
		if err := c.makeAccountsRole(ctx, api, account, vpc, policies); err != nil {
			return fmt.Errorf("making the role of service account %s: %w", account, err)
		}
	}
	return nil
}

// makeAccountsRole makes a role of the same name as the service account that may
// take it.
func (c *Cluster) makeAccountsRole(ctx context.Context, api *iam.Client, account, vpc string, policies map[string]string) error {
	trust, err := c.policy("trust-policy.json", account, vpc)
	if err != nil {
		return err
	}
	if _, err := api.CreateRole(ctx, &iam.CreateRoleInput{
		RoleName: aws.String(account), AssumeRolePolicyDocument: aws.String(trust),
	}); err != nil && !alreadyExists(err) {
		return err
	}
	for name, file := range policies {
		permissions, err := c.policy(file, account, vpc)
		if err != nil {
			return err
		}
		if _, err := api.PutRolePolicy(ctx, &iam.PutRolePolicyInput{
			RoleName: aws.String(account), PolicyName: aws.String(name), PolicyDocument: aws.String(permissions),
		}); err != nil {
			return fmt.Errorf("giving it its rights: %w", err)
		}
	}
	return nil
}

func alreadyExists(err error) bool {
	_, ok := errors.AsType[*iamtypes.EntityAlreadyExistsException](err)
	return ok
}

// policy is one of the policies that ship, with this cluster's names.
func (c *Cluster) policy(file, account, vpc string) (string, error) {
	issuer, err := url.Parse(tokenIssuer)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(c.Root, "kustomize", "iam", file))
	if err != nil {
		return "", err
	}
	var unknown []string
	text := os.Expand(string(data), func(name string) string {
		switch name {
		case "AWS_ACCOUNT_ID":
			return accountID
		case "OIDC_PROVIDER":
			return issuer.Host
		case "NAMESPACE":
			return kipNamespace
		case "KIP_SERVICE_ACCOUNT_NAME":
			return account
		case "USE_REGION":
			return region
		case "CLUSTER_NAME":
			return c.settings.Name
		case "VPC_ID":
			return vpc
		case "KIP_CELL_ROLE_NAME":
			return "kip-cell"
		}
		unknown = append(unknown, name)
		return ""
	})
	if len(unknown) > 0 {
		return "", fmt.Errorf("kustomize/iam/%s wants names that are not known here: %s", file, strings.Join(unknown, ", "))
	}
	return text, nil
}

// uninstallPod removes Kip's StatefulSet and waits until its pod is gone: two
// Kips would take the cells' connections from each other.
func (c *Cluster) uninstallPod(ctx context.Context) error {
	_, kube, err := c.Client()
	if err != nil {
		return err
	}
	err = kube.AppsV1().StatefulSets(kipNamespace).Delete(ctx, "kip-provider", metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing Kip's StatefulSet: %w", err)
	}
	return poll(ctx, "the end of Kip's pod", func(ctx context.Context) (bool, error) {
		_, err := kube.CoreV1().Pods(kipNamespace).Get(ctx, NodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// podStatus is the state of Kip's pod, nil where there is none.
func (c *Cluster) podStatus(ctx context.Context) (*ComponentStatus, error) {
	_, kube, err := c.Client()
	if err != nil {
		return nil, err
	}
	pod, err := kube.CoreV1().Pods(kipNamespace).Get(ctx, NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for Kip's pod: %w", err)
	}
	s := &ComponentStatus{Name: Kip, Running: true, Since: pod.CreationTimestamp.Time}
	ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	if !ready {
		s.Ready = fmt.Errorf("its pod %s/%s is not Ready; kubectl describe says why", kipNamespace, NodeName)
	}
	return s, nil
}
