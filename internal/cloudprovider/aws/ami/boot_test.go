package ami

import (
	"context"
	"encoding/base64"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/ec2local"
	"github.com/elotl/kip/v2/internal/ec2local/vm"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
	"github.com/elotl/kip/v2/internal/instancetype"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
	"github.com/elotl/kip/v2/internal/userdata"
)

// bootPatience is for an emulated computer on a machine with much else to do.
const bootPatience = 8 * time.Minute

// TestBoot makes an image of what make cell-image built, and launches an instance of it: firmware, kernel and agent run
// until the agent listens for Kip.
func TestBoot(t *testing.T) {
	built, err := filepath.Abs("../../../../.cache/cell-image/disk")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(built); os.Getenv("KIP_VM") != "1" || os.Geteuid() != 0 || err != nil {
		t.Skip("it runs as root with KIP_VM=1 and after make cell-image: make test-vm")
	}
	a := newCloud(t)
	id, err := Register(t.Context(), config(t, built))
	if err != nil {
		t.Fatal(err)
	}
	authority, err := pki.Create(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	document, err := userdata.Encode(userdata.Document{
		Cell: "cell", CACertificates: string(authority.CertificatePEM()), EnrolmentToken: authority.EnrolmentToken("uid"),
		Node: userdata.Node{Name: "node", ClusterDomain: "cluster.local"},
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.RunInstances(t.Context(), &ec2.RunInstancesInput{
		ImageId: aws.String(id), InstanceType: types.InstanceTypeT3Small, MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
		UserData:            aws.String(base64.StdEncoding.EncodeToString(document)),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String(rootDevice), Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(5)}}},
		NetworkInterfaces:   []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0), SecondaryPrivateIpAddressCount: aws.Int32(1)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	instance := out.Instances[0]
	defer a.terminate(t, *instance.InstanceId)
	address := net.JoinHostPort(*instance.PrivateIpAddress, strconv.Itoa(tunnel.Port))
	begin := time.Now()
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			t.Logf("the agent listened %s after the launch", time.Since(begin).Round(100*time.Millisecond))
			return
		}
		if time.Since(begin) > bootPatience {
			console, _ := a.GetConsoleOutput(t.Context(), &ec2.GetConsoleOutputInput{InstanceId: instance.InstanceId})
			text, _ := base64.StdEncoding.DecodeString(aws.ToString(console.Output))
			t.Fatalf("nobody listens: %v\n%s", err, text)
		}
	}
}

// newCloud is an account whose machines are real computers in a network of their own.
func newCloud(t *testing.T) *account {
	t.Helper()
	catalogue, err := instancetype.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	cidr := netip.MustParsePrefix("10.229.0.0/16")
	network, err := vpcnet.Open(t.Context(), vpcnet.Config{Cluster: "amitest", CIDR: cidr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := network.Destroy(); err != nil {
			t.Error(err)
		}
	})
	machines, err := vm.New(vm.Config{Dir: t.TempDir(), Network: network})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(machines.Close)
	metadata, err := network.ListenIMDS()
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, func(c *ec2local.Config) {
		c.VPC, c.Hypervisor, c.Network, c.Types = cidr, machines, network, ec2local.CatalogueTypes(catalogue)
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.server.Run(ctx, metadata) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	groups, err := a.DescribeSecurityGroups(t.Context(), &ec2.DescribeSecurityGroupsInput{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.AuthorizeSecurityGroupIngress(t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId: groups.SecurityGroups[0].GroupId,
		IpPermissions: []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(tunnel.Port), ToPort: aws.Int32(tunnel.Port),
			IpRanges: []types.IpRange{{CidrIp: aws.String(cidr.String())}}}},
	}); err != nil {
		t.Fatal(err)
	}
	return a
}

// terminate ends an instance and waits for its end, so that nothing of it is left.
func (a *account) terminate(t *testing.T, id string) {
	t.Helper()
	ctx := context.Background()
	if _, err := a.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); err != nil {
		t.Error(err)
		return
	}
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(100 * time.Millisecond) {
		// It is soon forgotten.
		out, err := a.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
		if err != nil {
			t.Error(err)
			return
		}
		if len(out.Reservations) == 0 || out.Reservations[0].Instances[0].State.Name == types.InstanceStateNameTerminated {
			return
		}
	}
	t.Errorf("instance %s does not end", id)
}
