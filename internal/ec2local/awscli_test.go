package ec2local

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/ec2local/ec2api"
	"github.com/elotl/kip/v2/internal/ec2local/modeltest"
)

// awsCLI is Debian's AWS CLI, whatever else is in the path: a program in Python that testdata/run_aws.py can use.
const awsCLI = "/usr/bin/aws"

// cli runs commands of the AWS CLI against an endpoint. It has a recorder of its own, which sees nothing else.
type cli struct {
	t        *testing.T
	endpoint string
	recorder *modeltest.Recorder
	commands *json.Encoder
	answers  *json.Decoder
}

func newCLI(t *testing.T, e *endpoint) *cli {
	t.Helper()
	recorder := modeltest.NewRecorder(t, http.DefaultTransport.(*http.Transport).Clone())
	return startCLI(t, e, recorder, aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret})
}

// startCLI is the AWS CLI with somebody's credentials.
func startCLI(t *testing.T, e *endpoint, recorder *modeltest.Recorder, credentials aws.Credentials) *cli {
	t.Helper()
	if _, err := os.Stat(awsCLI); err != nil {
		t.Skipf("Debian's AWS CLI is not installed (package awscli): %v", err)
	}
	c := &cli{t: t, recorder: recorder}
	c.endpoint = e.recorded(t, c.recorder)
	cmd := exec.Command(interpreter(t), "testdata/run_aws.py")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "AWS_DEFAULT_REGION=" + testRegion, "AWS_PAGER=", "NO_PROXY=*",
		"AWS_ACCESS_KEY_ID=" + credentials.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + credentials.SecretAccessKey,
		"AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=1", "PYTHONDONTWRITEBYTECODE=1",
	}
	if credentials.SessionToken != "" {
		cmd.Env = append(cmd.Env, "AWS_SESSION_TOKEN="+credentials.SessionToken)
	}
	cmd.Stderr = t.Output()
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if inErr != nil || outErr != nil {
		t.Fatal(inErr, outErr)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // ends it
		if err := cmd.Wait(); err != nil {
			t.Errorf("running the AWS CLI: %v", err)
		}
	})
	c.commands, c.answers = json.NewEncoder(in), json.NewDecoder(out)
	return c
}

// interpreter is the Python that the AWS CLI is installed for.
func interpreter(t *testing.T) string {
	t.Helper()
	f, err := os.Open(awsCLI)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	python, ok := strings.CutPrefix(strings.TrimSpace(line), "#!")
	if !ok || !strings.Contains(python, "python") {
		t.Skipf("%s is no program in Python: %q", awsCLI, line)
	}
	return python
}

// run runs a command and decodes what it prints, unless result is nil.
func (c *cli) run(result any, args ...string) {
	c.t.Helper()
	status, out, problems := c.try(append([]string{"ec2"}, args...)...)
	if status != 0 {
		c.t.Fatalf("aws ec2 %v: status %d: %s", args, status, problems)
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal([]byte(out), result); err != nil {
		c.t.Fatalf("aws ec2 %v: %v in %s", args, err, out)
	}
}

// refused runs a command that must be refused with a code.
func (c *cli) refused(code string, args ...string) {
	c.t.Helper()
	if status, _, problems := c.try(append([]string{"ec2"}, args...)...); status == 0 || !strings.Contains(problems, "("+code+")") {
		c.t.Errorf("aws ec2 %v: status %d: %s; want %s", args, status, problems, code)
	}
}

func (c *cli) try(args ...string) (status int, out, problems string) {
	c.t.Helper()
	if err := c.commands.Encode(append([]string{"--endpoint-url", c.endpoint, "--output", "json"}, args...)); err != nil {
		c.t.Fatal(err)
	}
	var answer struct {
		Status   int
		Out, Err string
	}
	if err := c.answers.Decode(&answer); err != nil {
		c.t.Fatal(err)
	}
	return answer.Status, answer.Out, answer.Err
}

// TestAWSCLI drives every operation of ec2local with a program that was made for EC2.
func TestAWSCLI(t *testing.T) {
	e := start(t, nil)
	c := newCLI(t, e)
	e.addProfile(t, "cli")

	var image, id, vpc string
	c.run(&image, "describe-images", "--owners", "self", "--query", "Images[0].ImageId")
	c.run(&vpc, "describe-vpcs", "--query", "Vpcs[0].VpcId")
	c.run(&id, "run-instances", "--image-id", image, "--instance-type", "t3.micro", "--user-data", "data",
		"--instance-initiated-shutdown-behavior", "terminate",
		"--metadata-options", "HttpTokens=required,HttpPutResponseHopLimit=1",
		"--block-device-mappings", "DeviceName=/dev/xvda,Ebs={VolumeSize=8,VolumeType=gp3,Encrypted=true}",
		"--network-interfaces", "DeviceIndex=0,SubnetId="+e.subnets(t)[0]+",SecondaryPrivateIpAddressCount=1",
		"--tag-specifications", "ResourceType=instance,Tags=[{Key=Name,Value=cli}]", "ResourceType=volume,Tags=[{Key=Name,Value=cli}]",
		"--query", "Instances[0].InstanceId")
	e.waitFor(t, id, types.InstanceStateNameRunning) // the CLI's own wait looks every 15 s only
	var listed [][]string
	c.run(&listed, "describe-instances", "--filters", "Name=tag:Name,Values=c?i", "Name=instance-state-name,Values=running",
		"--query", "Reservations[].Instances[].[InstanceId, InstanceType, PrivateIpAddress]")
	if len(listed) != 1 || listed[0][0] != id || listed[0][1] != "t3.micro" {
		t.Errorf("the list of instances is %v, want %s", listed, id)
	}

	t.Run("Tags", func(t *testing.T) { c.tags(t, id) })
	t.Run("Groups", func(t *testing.T) { c.groups(t, vpc, id) })
	t.Run("Subnets", func(t *testing.T) { c.subnets(t, vpc) })
	t.Run("Routes", func(t *testing.T) { c.routes(t, vpc, id) })
	t.Run("Volumes", func(t *testing.T) { c.volumes(t, id) })
	t.Run("Images", func(t *testing.T) { c.images(t, e) })
	t.Run("Instance", func(t *testing.T) { c.instance(t, e, id) })

	var state string
	c.run(&state, "terminate-instances", "--instance-ids", id, "--query", "TerminatingInstances[0].CurrentState.Name")
	if state != "shutting-down" {
		t.Errorf("terminating: %s", state)
	}
	e.waitFor(t, id, types.InstanceStateNameTerminated)
	for _, op := range ec2api.Operations() {
		if !c.recorder.Operations("ec2")[op] {
			t.Errorf("the AWS CLI did not read an answer to %s: add it here", op)
		}
	}
}

func (c *cli) tags(t *testing.T, id string) {
	c.run(nil, "create-tags", "--resources", id, "--tags", "Key=a,Value=b")
	var value string
	c.run(&value, "describe-tags", "--filters", "Name=resource-id,Values="+id, "Name=key,Values=a", "--query", "Tags[0].Value")
	if value != "b" {
		t.Errorf("the tag is %q", value)
	}
	c.run(nil, "delete-tags", "--resources", id, "--tags", "Key=a")
}

func (c *cli) groups(t *testing.T, vpc, id string) {
	var group string
	c.run(&group, "create-security-group", "--group-name", "cli", "--description", "made by the CLI", "--vpc-id", vpc, "--query", "GroupId")
	rule := []string{"--group-id", group, "--protocol", "tcp", "--port", "2049", "--source-group", group}
	c.run(nil, append([]string{"authorize-security-group-ingress"}, rule...)...)
	c.refused("InvalidPermission.Duplicate", append([]string{"authorize-security-group-ingress"}, rule...)...)
	out := []string{"--group-id", group, "--ip-permissions", "IpProtocol=udp,FromPort=53,ToPort=53,IpRanges=[{CidrIp=10.98.0.0/16,Description=dns}]"}
	c.run(nil, append([]string{"authorize-security-group-egress"}, out...)...)
	var ports [][]int
	c.run(&ports, "describe-security-groups", "--group-ids", group, "--query",
		"SecurityGroups[].[IpPermissions[0].FromPort, IpPermissionsEgress[?IpProtocol=='udp'] | [0].ToPort]")
	if len(ports) != 1 || len(ports[0]) != 2 || ports[0][0] != 2049 || ports[0][1] != 53 {
		t.Errorf("the ports are %v", ports)
	}
	c.run(nil, "modify-instance-attribute", "--instance-id", id, "--groups", group)
	c.refused("DependencyViolation", "delete-security-group", "--group-id", group)
	var groups []string
	c.run(&groups, "describe-security-groups", "--filters", "Name=group-name,Values=default", "--query", "SecurityGroups[].GroupId")
	c.run(nil, "modify-instance-attribute", "--instance-id", id, "--groups", groups[0])
	c.run(nil, append([]string{"revoke-security-group-ingress"}, rule...)...)
	c.run(nil, append([]string{"revoke-security-group-egress"}, out...)...)
	c.run(nil, "delete-security-group", "--group-id", group)
}

func (c *cli) subnets(t *testing.T, vpc string) {
	var zones []string
	c.run(&zones, "describe-availability-zones", "--query", "AvailabilityZones[].ZoneName")
	if len(zones) != 3 {
		t.Fatalf("the zones are %v", zones)
	}
	var subnet string
	c.run(&subnet, "create-subnet", "--vpc-id", vpc, "--cidr-block", "10.98.100.0/28", "--availability-zone", zones[1], "--query", "Subnet.SubnetId")
	var free int
	c.run(&free, "describe-subnets", "--subnet-ids", subnet, "--query", "Subnets[0].AvailableIpAddressCount")
	if free != 11 {
		t.Errorf("a subnet of 16 addresses has %d free", free)
	}
	c.run(nil, "delete-subnet", "--subnet-id", subnet)
	c.refused("InvalidSubnetID.NotFound", "describe-subnets", "--subnet-ids", subnet)
	var servers []string
	c.run(&servers, "describe-dhcp-options", "--query", "DhcpOptions[0].DhcpConfigurations[?Key=='domain-name-servers'].Values[].Value")
	if len(servers) != 1 || servers[0] != "AmazonProvidedDNS" {
		t.Errorf("the name servers are %v", servers)
	}
}

func (c *cli) routes(t *testing.T, vpc, id string) {
	var table, subnet, association, main string
	c.run(&main, "describe-route-tables", "--filters", "Name=association.main,Values=true", "--query", "RouteTables[0].RouteTableId")
	c.run(&subnet, "describe-subnets", "--query", "Subnets[0].SubnetId")
	c.run(&table, "create-route-table", "--vpc-id", vpc, "--query", "RouteTable.RouteTableId")
	to := []string{"--route-table-id", table, "--destination-cidr-block", "192.168.0.0/16"}
	c.run(nil, append([]string{"create-route", "--instance-id", id}, to...)...)
	var eni, led string
	c.run(&eni, "describe-network-interfaces", "--filters", "Name=attachment.instance-id,Values="+id, "--query", "NetworkInterfaces[0].NetworkInterfaceId")
	c.run(nil, append([]string{"replace-route", "--network-interface-id", eni}, to...)...)
	c.run(&led, "describe-route-tables", "--route-table-ids", table, "--query", "RouteTables[0].Routes[?DestinationCidrBlock=='192.168.0.0/16'] | [0].NetworkInterfaceId")
	if led != eni {
		t.Errorf("the route leads to %s, want %s", led, eni)
	}
	c.run(&association, "associate-route-table", "--route-table-id", table, "--subnet-id", subnet, "--query", "AssociationId")
	c.run(&association, "replace-route-table-association", "--association-id", association, "--route-table-id", main, "--query", "NewAssociationId")
	c.run(nil, "disassociate-route-table", "--association-id", association)
	c.run(nil, append([]string{"delete-route"}, to...)...)
	c.refused("InvalidRoute.NotFound", append([]string{"delete-route"}, to...)...)
	c.run(nil, "delete-route-table", "--route-table-id", table)
}

func (c *cli) volumes(t *testing.T, id string) {
	var volumes []string
	c.run(&volumes, "describe-volumes", "--filters", "Name=attachment.instance-id,Values="+id, "--query", "Volumes[].VolumeId")
	if len(volumes) != 1 {
		t.Fatalf("the volumes are %v", volumes)
	}
	c.run(nil, "modify-volume", "--volume-id", volumes[0], "--size", "20")
	var sizes []int
	c.run(&sizes, "describe-volumes-modifications", "--volume-ids", volumes[0], "--query",
		"VolumesModifications[0].[OriginalSize, TargetSize]")
	if len(sizes) != 2 || sizes[0] != 8 || sizes[1] != 20 {
		t.Errorf("the sizes are %v", sizes)
	}
	c.refused("VolumeModificationRateExceeded", "modify-volume", "--volume-id", volumes[0], "--size", "21")
}

func (c *cli) images(t *testing.T, e *endpoint) {
	snapshot := e.snapshot(t, []byte("cli"))
	var sizes []int
	c.run(&sizes, "describe-snapshots", "--owner-ids", "self", "--filters", "Name=status,Values=completed", "--query", "Snapshots[].VolumeSize")
	if len(sizes) != 1 || sizes[0] != 3 {
		t.Errorf("the snapshots' sizes are %v", sizes)
	}
	var image string
	c.run(&image, "register-image", "--name", "cli", "--architecture", "x86_64", "--virtualization-type", "hvm", "--boot-mode", "uefi",
		"--ena-support", "--imds-support", "v2.0", "--root-device-name", "/dev/xvda", "--query", "ImageId",
		"--block-device-mappings", "DeviceName=/dev/xvda,Ebs={SnapshotId="+snapshot+",VolumeType=gp3}")
	c.refused("InvalidSnapshot.InUse", "delete-snapshot", "--snapshot-id", snapshot)
	c.run(nil, "deregister-image", "--image-id", image)
	c.refused("InvalidAMIID.NotFound", "describe-images", "--image-ids", image)
	c.run(nil, "delete-snapshot", "--snapshot-id", snapshot)
	c.refused("InvalidSnapshot.NotFound", "describe-snapshots", "--snapshot-ids", snapshot)
}

func (c *cli) instance(t *testing.T, e *endpoint, id string) {
	var ok []string
	c.run(&ok, "describe-instance-status", "--instance-ids", id, "--query", "InstanceStatuses[].SystemStatus.Status")
	if len(ok) != 1 || ok[0] != "ok" {
		t.Errorf("the status is %v", ok)
	}
	var failed int
	c.run(&failed, "modify-instance-credit-specification", "--instance-credit-specification", "InstanceId="+id+",CpuCredits=standard",
		"--query", "length(UnsuccessfulInstanceCreditSpecifications)")
	var credits string
	c.run(&credits, "describe-instance-credit-specifications", "--instance-ids", id, "--query", "InstanceCreditSpecifications[0].CpuCredits")
	if failed != 0 || credits != "standard" {
		t.Errorf("%d failures, credits are %s", failed, credits)
	}
	var profile string
	c.run(&profile, "associate-iam-instance-profile", "--instance-id", id, "--iam-instance-profile", "Name=cli",
		"--query", "IamInstanceProfileAssociation.IamInstanceProfile.Arn")
	if !strings.HasSuffix(profile, ":instance-profile/cli") {
		t.Errorf("the profile is %s", profile)
	}
	c.run(nil, "get-console-output", "--instance-id", id)
	var prices []string
	c.run(&prices, "describe-spot-price-history", "--instance-types", "t3.micro", "--product-descriptions", "Linux/UNIX",
		"--start-time", "2026-01-01T00:00:00Z", "--query", "SpotPriceHistory[].SpotPrice")
	if len(prices) != 3 {
		t.Errorf("the spot prices are %v", prices)
	}
	c.run(nil, "stop-instances", "--instance-ids", id)
	e.waitFor(t, id, types.InstanceStateNameStopped)
	c.run(nil, "start-instances", "--instance-ids", id)
	e.waitFor(t, id, types.InstanceStateNameRunning)
}

// recorded is an address that passes requests on through a recorder. The Host header stays: it is signed.
func (e *endpoint) recorded(t *testing.T, recorder *modeltest.Recorder) string {
	t.Helper()
	target, err := url.Parse(e.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = target.Scheme, target.Host, r.In.Host
		},
		Transport: recorder,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	})
	t.Cleanup(proxy.Close)
	return proxy.URL
}
