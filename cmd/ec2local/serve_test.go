package main

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
)

const (
	testCluster = "cmdtest"
	testVPC     = "10.94.0.0/16"
)

// program is an ec2local in a process of its own, which the test can kill.
type program struct {
	*ec2.Client
	binary, state, images, listen string
	process                       *exec.Cmd
}

// TestServe launches real machines through the program, kills it, and leaves nothing behind.
func TestServe(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("real machines need root")
	}
	before := traces(t)
	p := newProgram(t)
	p.serve(t)
	ctx := t.Context()

	images, err := p.DescribeImages(ctx, &ec2.DescribeImagesInput{})
	if err != nil || len(images.Images) != 1 {
		t.Fatalf("the images are %+v, %v", images, err)
	}
	ids := map[int32]string{} // by hop limit
	for hops := range int32(2) {
		out, err := p.RunInstances(ctx, &ec2.RunInstancesInput{
			ImageId: images.Images[0].ImageId, InstanceType: types.InstanceTypeT3Small, MinCount: aws.Int32(1), MaxCount: aws.Int32(1),
			ClientToken: aws.String(fmt.Sprint("hops-", hops)), UserData: aws.String(base64.StdEncoding.EncodeToString([]byte("hello"))),
			InstanceInitiatedShutdownBehavior: types.ShutdownBehaviorTerminate,
			NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{
				DeviceIndex: aws.Int32(0), SecondaryPrivateIpAddressCount: aws.Int32(1),
			}},
			MetadataOptions: &types.InstanceMetadataOptionsRequest{
				HttpTokens: types.HttpTokensStateRequired, HttpPutResponseHopLimit: aws.Int32(hops + 1),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ids[hops+1] = *out.Instances[0].InstanceId
	}
	for hops, id := range ids {
		want := []string{"user-data=hello", "instance-id=" + id, "pod's GET: 401", "pod's token: no", "done"}
		if hops > 1 {
			want[3] = "pod's token: yes"
		}
		if diff := cmp.Diff(want, p.console(t, id)); diff != "" {
			t.Errorf("hop limit %d (-want +got):\n%s", hops, diff)
		}
	}

	vpc := []types.IpPermission{{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(22), ToPort: aws.Int32(22),
		IpRanges: []types.IpRange{{CidrIp: aws.String(testVPC)}}}}
	i := p.instance(t, ids[1])
	group := i.SecurityGroups[0].GroupId
	if letsIn(*i.PrivateIpAddress) {
		t.Error("the default group lets in what is not in it")
	}
	if _, err := p.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: group, IpPermissions: vpc}); err != nil {
		t.Fatal(err)
	}
	p.await(t, "the new rule to let in", func() bool { return letsIn(*i.PrivateIpAddress) })

	p.kill(t)
	if !letsIn(*i.PrivateIpAddress) {
		t.Error("without ec2local the rule is not in force")
	}
	p.serve(t)
	if _, err := p.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{GroupId: group, IpPermissions: vpc}); err != nil {
		t.Fatal(err)
	}
	p.await(t, "nothing to be let in without the rule", func() bool { return !letsIn(*i.PrivateIpAddress) })
	for _, id := range ids {
		if got := p.stateOf(t, id); got != types.InstanceStateNameRunning {
			t.Errorf("after ec2local was killed %s is %s", id, got)
		}
	}
	if _, err := p.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{ids[1]}}); err != nil {
		t.Fatal(err)
	}
	p.await(t, ids[1]+" to be terminated", func() bool { return p.stateOf(t, ids[1]) == types.InstanceStateNameTerminated })
	p.kill(t)
	p.destroy(t)
	if diff := cmp.Diff(before, traces(t)); diff != "" {
		t.Errorf("what destroy left (-before +after):\n%s", diff)
	}
	if _, err := os.Stat(p.state); err == nil {
		t.Error("the state is still there")
	}
	p.destroy(t) // once more does no harm
}

// TestServeHollow needs no root, and has EC2's limits unless told otherwise.
func TestServeHollow(t *testing.T) {
	p := newProgram(t)
	for flag, want := range map[string]string{"--throttle": "RequestLimitExceeded", "--throttle=false": ""} {
		p.serve(t, "--hollow", flag)
		images, err := p.DescribeImages(t.Context(), &ec2.DescribeImagesInput{})
		if err != nil {
			t.Fatal(err)
		}
		run := func() (*ec2.RunInstancesOutput, error) {
			return p.RunInstances(t.Context(), &ec2.RunInstancesInput{
				ImageId: images.Images[0].ImageId, InstanceType: types.InstanceTypeT3Small, MinCount: aws.Int32(1), MaxCount: aws.Int32(600),
			}, func(o *ec2.Options) { o.Retryer = aws.NopRetryer{} })
		}
		out, err := run()
		if err != nil {
			t.Fatal(err)
		}
		id := *out.Instances[0].InstanceId
		for deadline := time.Now().Add(time.Minute); p.stateOf(t, id) != types.InstanceStateNameRunning; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s is %s", id, p.stateOf(t, id))
			}
		}
		_, err = run()
		code := ""
		if answer, ok := errors.AsType[smithy.APIError](err); ok {
			code = answer.ErrorCode()
		}
		if code != want {
			t.Errorf("%s: 1200 instances in a moment: %v, want code %q", flag, err, want)
		}
		p.kill(t)
	}
}

func newProgram(t *testing.T) *program {
	t.Helper()
	dir := t.TempDir()
	p := &program{binary: filepath.Join(dir, "ec2local"), state: filepath.Join(dir, "state"), images: filepath.Join(dir, "images")}
	if out, err := exec.Command("go", "build", "-o", p.binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	sbin := filepath.Join(p.images, "cell", "rootfs", "sbin")
	if err := os.MkdirAll(sbin, 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/init.sh")
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string][]byte{
		filepath.Join(sbin, "init"): script, filepath.Join(p.images, "cell", "image.json"): []byte(`{"name": "cell"}`),
	} {
		if err := os.WriteFile(file, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.listen = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill(t)
		p.destroy(t)
	})
	return p
}

// serve starts the program and waits until it is ready.
func (p *program) serve(t *testing.T, more ...string) {
	t.Helper()
	p.process = exec.Command(p.binary, append([]string{"serve", "--state", p.state, "--images", p.images, "--listen", p.listen,
		"--cluster", testCluster, "--vpc-cidr", testVPC, "--terminate-delay", "100ms"}, more...)...)
	p.process.Stdout, p.process.Stderr = t.Output(), t.Output()
	if err := p.process.Start(); err != nil {
		t.Fatal(err)
	}
	ready := func() bool {
		resp, err := http.Get("http://" + p.listen + "/healthz")
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}
	for deadline := time.Now().Add(20 * time.Second); !ready(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not ready in time")
		}
	}
	keys, err := readCredentials(p.state, "")
	if err != nil {
		t.Fatal(err)
	}
	for key, secret := range keys {
		p.Client = ec2.New(ec2.Options{
			Region: "us-west-2", BaseEndpoint: aws.String("http://" + p.listen), HTTPClient: &http.Client{Transport: &http.Transport{}},
			Credentials: credentials.NewStaticCredentialsProvider(key, secret, ""),
		})
	}
}

// kill ends the program without any warning.
func (p *program) kill(t *testing.T) {
	t.Helper()
	if p.process == nil {
		return
	}
	if err := p.process.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = p.process.Wait() // killed
	p.process = nil
}

func (p *program) destroy(t *testing.T) {
	t.Helper()
	if out, err := exec.Command(p.binary, "destroy", "--state", p.state).CombinedOutput(); err != nil {
		t.Errorf("destroy: %v\n%s", err, out)
	}
}

// console waits until a machine is done and returns what it wrote.
func (p *program) console(t *testing.T, id string) []string {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, err := p.GetConsoleOutput(t.Context(), &ec2.GetConsoleOutputInput{InstanceId: &id})
		if err != nil {
			t.Fatal(err)
		}
		text, err := base64.StdEncoding.DecodeString(*out.Output)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(string(text), "done\n") {
			return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
		}
		if time.Now().After(deadline) {
			t.Fatalf("the machine is not done:\n%s", text)
		}
	}
}

func (p *program) stateOf(t *testing.T, id string) types.InstanceStateName {
	t.Helper()
	return p.instance(t, id).State.Name
}

func (p *program) instance(t *testing.T, id string) types.Instance {
	t.Helper()
	out, err := p.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Reservations[0].Instances[0]
}

// await looks until something has come about.
func (p *program) await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// letsIn tells whether a machine is reached by the host, at a port where nobody listens: it refuses what its security
// groups let in, and does not answer to the rest.
func letsIn(address string) bool {
	conn, err := net.DialTimeout("tcp4", net.JoinHostPort(address, "22"), 500*time.Millisecond)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil || errors.Is(err, syscall.ECONNREFUSED)
}

// traces are the things on this machine that carry the test cluster's name.
func traces(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"/run/netns/*", "/sys/class/net/*", "/sys/fs/cgroup/*", "/sys/fs/cgroup/*/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			if strings.Contains(name, testCluster) {
				out = append(out, name)
			}
		}
	}
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		if strings.Contains(lines.Text(), testCluster) {
			out = append(out, lines.Text())
		}
	}
	return out
}
