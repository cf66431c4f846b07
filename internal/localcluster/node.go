package localcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/internal/agent/containerd"
	agentmachine "github.com/elotl/kip/v2/internal/agent/machine"
	"github.com/elotl/kip/v2/internal/userdata"
)

// OrdinaryNode is the cluster's one ordinary node: an instance whose stock
// kubelet registers itself. What does not run on cells runs there, Kip first.
const OrdinaryNode = "node-0"

const (
	// nodeType allows 15 addresses on an interface: the node's and one for each
	// of its pods. It has more CPUs than a cell of a small pod, so that a
	// comparison with it is not in Kip's favour.
	nodeType = types.InstanceTypeM5Xlarge
	nodePods = 14

	// nodeTimeout is for a busy machine; an idle one needs two seconds.
	nodeTimeout = 2 * time.Minute
)

// nodeImage is the machine image of the ordinary node, with its configuration.
func (c *Cluster) nodeImage() machineImage {
	return machineImage{
		prefix: "local-node-", description: "Ordinary node of the local cluster",
		own:      []string{"local-node"},
		programs: cellImage.programs,
		plugins:  cellImage.plugins,
		init:     "local-node",
		write:    c.writeNode,
	}
}

// nodeAddresses are the node's own and those of its pods, near the end of the
// first subnet, a sixteenth of the VPC. Cells get theirs from its beginning.
func (s settings) nodeAddresses() (subnet netip.Prefix, own, firstPod, lastPod netip.Addr) {
	b := s.VPC.Addr().As4()
	at := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{b[0], b[1], 15, last}) }
	return netip.PrefixFrom(s.VPC.Addr(), 20), at(10), at(16), at(16 + nodePods - 1)
}

// account is the owner's client of ec2local.
func (c *Cluster) account() *ec2.Client {
	return ec2.New(ec2.Options{
		Region: region, BaseEndpoint: aws.String(c.ec2URL()),
		Credentials: credentials.NewStaticCredentialsProvider(c.settings.AccessKeyID, c.settings.SecretAccessKey, ""),
	})
}

// ensureNode has the ordinary node running from the newest image, and Ready.
func (c *Cluster) ensureNode(ctx context.Context) error {
	if c.NoOrdinaryNode || c.Cells == CellsHollow {
		return c.removeNode(ctx)
	}
	began := time.Now()
	image, err := c.makeImage(c.nodeImage())
	if err != nil {
		return err
	}
	api := c.account()
	images, err := api.DescribeImages(ctx, &ec2.DescribeImagesInput{Filters: []types.Filter{filter("name", image)}})
	if err != nil {
		return fmt.Errorf("looking for the node's machine image: %w", err)
	}
	if len(images.Images) != 1 {
		return fmt.Errorf("ec2local has %d machine images called %s", len(images.Images), image)
	}
	wanted := aws.ToString(images.Images[0].ImageId)
	have, err := c.nodeInstances(ctx)
	if err != nil {
		return err
	}
	running := false
	for _, i := range have {
		if aws.ToString(i.ImageId) == wanted && i.State.Name != types.InstanceStateNameShuttingDown && !running {
			running = true
			continue
		}
		if err := c.endNode(ctx, aws.ToString(i.InstanceId)); err != nil {
			return err
		}
	}
	if !running {
		if err := c.launchNode(ctx, wanted); err != nil {
			return err
		}
	}
	if err := c.awaitNode(ctx); err != nil {
		return err
	}
	if !running {
		c.Progress("%s is Ready (%.1f s)", OrdinaryNode, time.Since(began).Seconds())
	}
	return nil
}

// removeNode has the ordinary node gone, if an earlier Up made it.
func (c *Cluster) removeNode(ctx context.Context) error {
	if c.Kip == KipPod || c.Kip == "" {
		return fmt.Errorf("a Kip that runs as a pod runs on %s, which is to be left out", OrdinaryNode)
	}
	have, err := c.nodeInstances(ctx)
	if err != nil {
		return err
	}
	for _, i := range have {
		if err := c.endNode(ctx, aws.ToString(i.InstanceId)); err != nil {
			return err
		}
	}
	_, kube, err := c.Client()
	if err != nil {
		return err
	}
	if err := kube.CoreV1().Nodes().Delete(ctx, OrdinaryNode, metav1.DeleteOptions{}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("removing %s: %w", OrdinaryNode, err)
	}
	return nil
}

// nodeInstances are the instances of the ordinary node that are not gone yet:
// none or one, and two while one replaces the other.
func (c *Cluster) nodeInstances(ctx context.Context) ([]types.Instance, error) {
	out, err := c.account().DescribeInstances(ctx, &ec2.DescribeInstancesInput{Filters: []types.Filter{
		filter("tag:Name", OrdinaryNode),
		filter("instance-state-name", "pending", "running", "stopping", "stopped", "shutting-down"),
	}})
	if err != nil {
		return nil, fmt.Errorf("looking for the node's instance: %w", err)
	}
	var found []types.Instance
	for _, r := range out.Reservations {
		found = append(found, r.Instances...)
	}
	return found, nil
}

// NodeInstance is the ID of the ordinary node's instance.
func (c *Cluster) NodeInstance(ctx context.Context) (string, error) {
	found, err := c.nodeInstances(ctx)
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s has %d instances", OrdinaryNode, len(found))
	}
	return aws.ToString(found[0].InstanceId), nil
}

func (c *Cluster) launchNode(ctx context.Context, image string) error {
	subnet, own, first, last := c.settings.nodeAddresses()
	subnets, err := c.account().DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: []types.Filter{filter("cidr-block", subnet.String())}})
	if err != nil {
		return fmt.Errorf("looking for the node's subnet: %w", err)
	}
	if len(subnets.Subnets) != 1 {
		return fmt.Errorf("ec2local has %d subnets %s", len(subnets.Subnets), subnet)
	}
	addresses := []types.PrivateIpAddressSpecification{{PrivateIpAddress: aws.String(own.String()), Primary: aws.Bool(true)}}
	for a := first; a.Compare(last) <= 0; a = a.Next() {
		addresses = append(addresses, types.PrivateIpAddressSpecification{PrivateIpAddress: aws.String(a.String())})
	}
	group, err := c.nodeGroup(ctx)
	if err != nil {
		return err
	}
	_, err = c.account().RunInstances(ctx, &ec2.RunInstancesInput{
		ImageId: aws.String(image), InstanceType: nodeType, MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{
			DeviceIndex: aws.Int32(0), SubnetId: subnets.Subnets[0].SubnetId, PrivateIpAddresses: addresses, Groups: []string{group},
		}},
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeInstance,
			Tags:         []types.Tag{{Key: aws.String("Name"), Value: aws.String(OrdinaryNode)}},
		}},
	})
	if err != nil {
		return fmt.Errorf("launching %s: %w", OrdinaryNode, err)
	}
	return nil
}

// nodeGroup is the node's security group, which lets everything of the VPC in:
// the API server and cells.
func (c *Cluster) nodeGroup(ctx context.Context) (string, error) {
	const name = "local-node"
	found, err := c.account().DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{filter("group-name", name)}})
	if err != nil {
		return "", fmt.Errorf("looking for the node's security group: %w", err)
	}
	if len(found.SecurityGroups) > 0 && len(found.SecurityGroups[0].IpPermissions) > 0 {
		return aws.ToString(found.SecurityGroups[0].GroupId), nil
	}
	var id *string
	if len(found.SecurityGroups) > 0 { // made by an up that was interrupted
		id = found.SecurityGroups[0].GroupId
	} else {
		made, err := c.account().CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
			GroupName: aws.String(name), Description: aws.String("Ordinary node of the local cluster"),
		})
		if err != nil {
			return "", fmt.Errorf("making the node's security group: %w", err)
		}
		id = made.GroupId
	}
	if _, err := c.account().AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: id,
		IpPermissions: []types.IpPermission{{
			IpProtocol: aws.String("-1"), IpRanges: []types.IpRange{{CidrIp: aws.String(c.settings.VPC.String())}},
		}},
	}); err != nil {
		return "", fmt.Errorf("opening the node's security group: %w", err)
	}
	return aws.ToString(id), nil
}

// endNode terminates an instance of the node and waits until its addresses are
// free again.
func (c *Cluster) endNode(ctx context.Context, id string) error {
	c.Progress("%s is replaced", OrdinaryNode)
	if _, err := c.account().TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		return fmt.Errorf("ending the instance of %s: %w", OrdinaryNode, err)
	}
	return poll(ctx, "the end of instance "+id, func(ctx context.Context) (bool, error) {
		out, err := c.account().DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
		if err != nil {
			return false, err
		}
		for _, r := range out.Reservations {
			for _, i := range r.Instances {
				return i.State.Name == types.InstanceStateNameTerminated, nil
			}
		}
		return true, nil
	})
}

// leaseFresh is how old the lease of a node whose kubelet lives can be: it is
// renewed every ten seconds.
const leaseFresh = 40 * time.Second

// awaitNode waits until the node's kubelet serves. The node's own status says
// too little: it may be an earlier kubelet's, and is written anew every five
// minutes only.
func (c *Cluster) awaitNode(ctx context.Context) error {
	_, kube, err := c.Client()
	if err != nil {
		return err
	}
	return poll(ctx, OrdinaryNode+" to be Ready", func(ctx context.Context) (bool, error) {
		node, err := kube.CoreV1().Nodes().Get(ctx, OrdinaryNode, metav1.GetOptions{})
		if err != nil {
			return false, client.IgnoreNotFound(err)
		}
		lease, err := kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, OrdinaryNode, metav1.GetOptions{})
		if err != nil {
			return false, client.IgnoreNotFound(err)
		}
		if lease.Spec.RenewTime == nil || time.Since(lease.Spec.RenewTime.Time) > leaseFresh {
			return false, nil
		}
		for _, cond := range node.Status.Conditions {
			if cond.Type == corev1.NodeReady {
				return cond.Status == corev1.ConditionTrue, nil
			}
		}
		return false, nil
	})
}

// poll repeats a look until it says yes, for at most nodeTimeout.
func poll(ctx context.Context, what string, look func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := look(ctx)
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: values}
}

type object = map[string]any

// writeNode writes everything that the ordinary node's programs read. The
// runtime is configured as in a cell.
func (c *Cluster) writeNode(root string) error {
	if err := (containerd.Config{
		RuncPath: "/opt/kip/bin/runc", NetworkPluginDir: "/opt/kip/cni/bin", SandboxImage: PauseImage,
		RestrictOOMScoreAdj: !agentmachine.MayLowerOOMScore(),
	}).Write(root); err != nil {
		return err
	}
	if err := containerd.WriteMirrors(root, []userdata.Mirror{
		{Hosts: []string{userdata.DefaultMirror}, Endpoint: "http://" + c.registryAddress()},
	}); err != nil {
		return err
	}
	const dir = "/etc/kubernetes"
	if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
		return err
	}
	for file, user := range map[string]string{"kubelet.kubeconfig": OrdinaryNode, "kube-proxy.kubeconfig": "kube-proxy"} {
		if err := c.pki.kubeconfig(filepath.Join(root, dir, file), c.apiserverURL(), user, ""); err != nil {
			return err
		}
	}
	for file, source := range map[string]string{
		"ca.crt": "ca.crt", "kubelet.crt": OrdinaryNode + "-serving.crt", "kubelet.key": OrdinaryNode + "-serving.key",
	} {
		data, err := os.ReadFile(c.pki.path(source))
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(root, dir, file), data, 0o600); err != nil {
			return err
		}
	}
	_, own, _, _ := c.settings.nodeAddresses()
	for file, content := range map[string]object{
		dir + "/node.json":                          {"name": OrdinaryNode, "address": own},
		dir + "/kubelet.json":                       c.nodeKubelet(dir),
		dir + "/kube-proxy.json":                    c.nodeProxy(dir),
		containerd.NetworkDir + "/10-node.conflist": c.nodeNetwork(),
	} {
		data, err := json.MarshalIndent(content, "", "  ")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(root, file), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// nodeNetwork gives pods addresses of the VPC.
func (c *Cluster) nodeNetwork() object {
	subnet, own, first, last := c.settings.nodeAddresses()
	return object{"cniVersion": "1.0.0", "name": "node", "plugins": []object{
		{"type": "ptp", "ipMasq": false, "ipam": object{
			"type": "host-local", "routes": []object{{"dst": "0.0.0.0/0"}},
			"ranges": [][]object{{{"subnet": subnet, "rangeStart": first, "rangeEnd": last, "gateway": own}}},
		}},
		{"type": "portmap", "backend": "nftables", "capabilities": object{"portMappings": true}},
	}}
}

// nodeKubelet is what installers write, and what this kind of machine needs.
func (c *Cluster) nodeKubelet(dir string) object {
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + containerd.Socket,
		"authentication": object{"anonymous": object{"enabled": false}, "webhook": object{"enabled": true},
			"x509": object{"clientCAFile": dir + "/ca.crt"}},
		"authorization": object{"mode": "Webhook"},
		// Of the cluster's authority, as metrics-server checks it.
		"tlsCertFile": dir + "/kubelet.crt", "tlsPrivateKeyFile": dir + "/kubelet.key",
		"clusterDNS": []string{c.settings.host().String()}, "clusterDomain": clusterDomain, "resolvConf": "/etc/resolv.conf",
		"maxPods":      nodePods,
		"cgroupDriver": "cgroupfs", "failCgroupV1": false, "failSwapOn": false, "oomScoreAdj": 0,
		"volumePluginDir": "/var/lib/kubelet/volume-plugins",
		"evictionHard":    object{"memory.available": "32Mi", "nodefs.available": "256Mi", "imagefs.available": "256Mi"},
	}
}

func (c *Cluster) nodeProxy(dir string) object {
	_, own, _, _ := c.settings.nodeAddresses()
	return object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"mode": "nftables", "hostnameOverride": OrdinaryNode,
		"clientConnection":  object{"kubeconfig": dir + "/kube-proxy.kubeconfig"},
		"conntrack":         object{"maxPerCore": 0, "min": 0},
		"detectLocalMode":   "InterfaceNamePrefix",
		"detectLocal":       object{"interfaceNamePrefix": "veth"},
		"nodePortAddresses": []string{own.String() + "/32"},
	}
}
