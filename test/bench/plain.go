package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/elotl/kip/v2/internal/agent/containerd"
	agentmachine "github.com/elotl/kip/v2/internal/agent/machine"
	"github.com/elotl/kip/v2/internal/localcluster"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/userdata"
)

const (
	plainName  = "plain"
	plainImage = "bench-plain"
	// plainType has more CPUs than any cell of the measured pod, so that the
	// comparison is not in Kip's favour.
	plainType = types.InstanceTypeM5Xlarge
	podCIDR   = "10.244.0.0/24"
)

// startPlainNode launches an ordinary node and waits until it is ready.
func (b *bench) startPlainNode(ctx context.Context) (machine, error) {
	err := b.makeImage(ctx, machineImage{
		name: plainImage, init: "/opt/kip/bin/plainnode",
		build: map[string]string{"opt/kip/bin/plainnode": "plainnode"},
		write: b.writePlainNode,
	})
	if err != nil {
		return machine{}, err
	}
	id, err := b.launch(ctx, plainImage)
	if err != nil {
		return machine{}, fmt.Errorf("launching the ordinary node: %w", err)
	}
	err = await(ctx, "the ordinary node to be ready", func(ctx context.Context) (bool, error) {
		node, err := b.kube.CoreV1().Nodes().Get(ctx, plainName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return len(node.Spec.Taints) == 0, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return machine{}, err
	}
	return b.machine(id)
}

// launch starts an instance past Kip.
func (b *bench) launch(ctx context.Context, image string) (string, error) {
	var settings struct {
		Port   int    `json:"ec2Port"`
		Key    string `json:"accessKeyID"`
		Secret string `json:"secretAccessKey"`
	}
	data, err := os.ReadFile(filepath.Join(b.Dir, "cluster.json"))
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(data, &settings); err != nil {
		return "", err
	}
	api := ec2.New(ec2.Options{
		Region: "us-west-2", BaseEndpoint: aws.String(fmt.Sprintf("http://127.0.0.1:%d", settings.Port)), HTTPClient: &http.Client{},
		Credentials: credentials.NewStaticCredentialsProvider(settings.Key, settings.Secret, ""),
	})
	images, err := api.DescribeImages(ctx, &ec2.DescribeImagesInput{Filters: []types.Filter{{Name: aws.String("name"), Values: []string{image}}}})
	if err != nil {
		return "", err
	}
	subnets, err := api.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{})
	if err != nil {
		return "", err
	}
	if len(images.Images) == 0 || len(subnets.Subnets) == 0 {
		return "", fmt.Errorf("ec2local has %d images %s and %d subnets", len(images.Images), image, len(subnets.Subnets))
	}
	out, err := api.RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: images.Images[0].ImageId, SubnetId: subnets.Subnets[0].SubnetId, InstanceType: plainType,
		MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
	})
	if err != nil {
		return "", err
	}
	return *out.Instances[0].InstanceId, nil
}

// writePlainNode writes everything that containerd and the kubelet of an
// ordinary node read. The runtime is configured as in a cell.
func (b *bench) writePlainNode(root string) error {
	server, err := url.Parse(b.config.Host)
	if err != nil {
		return err
	}
	host := server.Hostname()
	if err := (containerd.Config{
		RuncPath: "/opt/kip/bin/runc", NetworkPluginDir: "/opt/kip/cni/bin", SandboxImage: localcluster.PauseImage,
		RestrictOOMScoreAdj: !agentmachine.MayLowerOOMScore(),
	}).Write(root); err != nil {
		return err
	}
	mirror := userdata.Mirror{Hosts: []string{userdata.DefaultMirror}, Endpoint: "http://" + host + ":5000"}
	if err := containerd.WriteMirrors(root, []userdata.Mirror{mirror}); err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(b.Dir, "pki", "ca.crt"))
	if err != nil {
		return err
	}
	kubeconfig, err := b.plainKubeconfig(ca)
	if err != nil {
		return fmt.Errorf("making a certificate for the node: %w", err)
	}
	network, err := json.Marshal(plainNetwork())
	if err != nil {
		return err
	}
	kubelet, err := json.Marshal(plainKubelet(host))
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{
		"/etc/bench/ca.crt": ca, "/etc/bench/kubeconfig": kubeconfig, "/etc/bench/kubelet.json": kubelet,
		containerd.NetworkDir + "/10-bench.conflist": network,
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

type object = map[string]any

func plainNetwork() object {
	return object{"cniVersion": "1.0.0", "name": "bench", "plugins": []object{
		{"type": "ptp", "ipMasq": false, "ipam": object{
			"type": "host-local", "ranges": [][]object{{{"subnet": podCIDR}}}, "routes": []object{{"dst": "0.0.0.0/0"}},
		}},
		{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}},
	}}
}

// plainKubelet is what installers write, and what this kind of machine needs.
func plainKubelet(host string) object {
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + containerd.Socket,
		"authentication":           object{"anonymous": object{"enabled": false}, "webhook": object{"enabled": true}, "x509": object{"clientCAFile": "/etc/bench/ca.crt"}},
		"authorization":            object{"mode": "Webhook"},
		"clusterDNS":               []string{host}, "clusterDomain": "cluster.local", "resolvConf": "/etc/resolv.conf",
		"cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false, "oomScoreAdj": 0,
		"volumePluginDir": "/var/lib/kubelet/volume-plugins",
		"evictionHard":    object{"memory.available": "32Mi", "nodefs.available": "256Mi", "imagefs.available": "256Mi"},
	}
}

// plainKubeconfig lets the kubelet be the node.
func (b *bench) plainKubeconfig(ca []byte) ([]byte, error) {
	authority, err := tls.LoadX509KeyPair(filepath.Join(b.Dir, "pki", "ca.crt"), filepath.Join(b.Dir, "pki", "ca.key"))
	if err != nil {
		return nil, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "system:node:" + plainName, Organization: []string{"system:nodes"}},
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, authority.Leaf, key.Public(), authority.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		return nil, err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["bench"] = &clientcmdapi.Cluster{Server: b.config.Host, CertificateAuthorityData: ca}
	config.AuthInfos["node"] = &clientcmdapi.AuthInfo{
		ClientCertificateData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), ClientKeyData: keyPEM,
	}
	config.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: "node"}
	config.CurrentContext = "bench"
	return clientcmd.Write(*config)
}
