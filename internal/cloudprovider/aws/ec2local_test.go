package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
	"github.com/elotl/kip/v2/internal/ec2local"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/machine/machinetest"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
	"github.com/elotl/kip/v2/internal/instancetype"
)

const (
	testKey    = "AKIATESTTESTTESTTEST"
	testSecret = "a-secret-of-the-test"
)

// endpoint is an ec2local without real machines, and what stands before it.
type endpoint struct {
	url string
	// dropAnswers makes the answers of the next launches get lost.
	dropAnswers atomic.Int32
	launches    atomic.Int32
	launched    atomic.Value // url.Values of the last launch
}

func newEndpoint(t *testing.T, changes ...func(*ec2local.Config)) *endpoint {
	t.Helper()
	images := t.TempDir()
	for name, json := range map[string]string{
		"old":   `{"name":"cell-1","architecture":"x86_64","creationDate":"2025-01-01T00:00:00Z"}`,
		"new":   `{"name":"cell-2","architecture":"x86_64","creationDate":"2026-01-01T00:00:00Z"}`,
		"other": `{"name":"else","architecture":"x86_64","creationDate":"2026-06-01T00:00:00Z"}`,
	} {
		if err := os.MkdirAll(filepath.Join(images, name, "rootfs"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(images, name, "image.json"), []byte(json), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cfg := ec2local.Config{
		Dir: t.TempDir(), Images: images, Region: "us-west-2", Zones: []string{"us-west-2a", "us-west-2b", "us-west-2c"},
		VPC: netip.MustParsePrefix("10.98.0.0/16"), Credentials: signature.Credentials{testKey: testSecret},
		Types: ec2local.CatalogueTypes(catalogue(t)), Hypervisor: machinetest.New(),
		Delays: cloud.Delays{Retention: time.Hour}, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
	}
	for _, change := range changes {
		change(&cfg)
	}
	server, err := ec2local.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	api, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, api, metadata) }()
	e := &endpoint{}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { e.serve(server, w, r) }))
	e.url = front.URL
	t.Cleanup(func() {
		front.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ec2local: %v", err)
		}
	})
	return e
}

func (e *endpoint) serve(server http.Handler, w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if strings.Contains(string(body), "Action=RunInstances") {
		e.launches.Add(1)
		if form, err := url.ParseQuery(string(body)); err == nil {
			e.launched.Store(form)
		}
		if e.dropAnswers.Add(-1) >= 0 {
			server.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
	}
	server.ServeHTTP(w, r)
}

// instanceProfile makes an instance profile with a role that EC2 may assume.
func (e *endpoint) instanceProfile(t *testing.T, name string) {
	t.Helper()
	const trust = `{"Statement": {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}}`
	for _, form := range []url.Values{
		{"Action": {"CreateRole"}, "RoleName": {name}, "AssumeRolePolicyDocument": {trust}},
		{"Action": {"CreateInstanceProfile"}, "InstanceProfileName": {name}},
		{"Action": {"AddRoleToInstanceProfile"}, "InstanceProfileName": {name}, "RoleName": {name}},
	} {
		form.Set("Version", "2010-05-08")
		body := form.Encode()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, e.url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		sum := sha256.Sum256([]byte(body))
		key := aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}
		if err := v4.NewSigner().SignHTTP(t.Context(), key, r, hex.EncodeToString(sum[:]), "iam", "us-east-1", time.Now()); err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", form.Get("Action"), answer.Status)
		}
	}
}

// fault makes the next launch fail with one of EC2's codes.
func (e *endpoint) fault(t *testing.T, rules string) {
	t.Helper()
	e.admin(t, http.MethodPut, "faults", rules)
}

// image is the ID of the newest image of a cell.
func (e *endpoint) image(t *testing.T) string {
	t.Helper()
	img, err := e.provider(t, "image").imgs.get(t.Context(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return img.id
}

// admin calls ec2local's own API.
func (e *endpoint) admin(t *testing.T, method, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, e.url+"/_ec2local/"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		t.Fatalf("%s %s: %s", method, path, answer.Status)
	}
}

func catalogue(t *testing.T) *instancetype.Catalogue {
	t.Helper()
	c, err := instancetype.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (e *endpoint) provider(t *testing.T, controller string) *Provider {
	t.Helper()
	p, err := New(t.Context(), Config{
		Region: "us-west-2", EndpointURL: e.url, AccessKeyID: testKey, SecretAccessKey: testSecret,
		ControllerID: controller, Nametag: "kip",
		Image:      ImageSpec{Filters: []ImageFilter{{Name: "name", Values: []string{"cell-*"}}}},
		ExtraCIDRs: []string{"192.168.0.0/16"}, Catalogue: catalogue(t),
		Clock: clock.RealClock{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.calls.launch.pace = newPace(clock.RealClock{}, allowance{1000, 2}, fastest) // ec2local has no limits here
	return p
}

var codeOfKind = map[cloudprovider.Kind]string{
	cloudprovider.InsufficientCapacity: "InsufficientInstanceCapacity",
	cloudprovider.SubnetFull:           "InsufficientFreeAddressesInSubnet",
	cloudprovider.QuotaExceeded:        "MaxSpotInstanceCountExceeded",
	cloudprovider.VCPUQuotaExceeded:    "VcpuLimitExceeded",
	cloudprovider.Throttled:            "RequestLimitExceeded",
	cloudprovider.Denied:               "UnauthorizedOperation",
	cloudprovider.Unsupported:          "Unsupported",
	cloudprovider.InvalidConfiguration: "InvalidParameterValue",
}

func TestConformsOverEC2Local(t *testing.T) {
	cloudprovidertest.Run(t, func(t *testing.T) cloudprovidertest.Environment {
		e := newEndpoint(t)
		return cloudprovidertest.Environment{
			Provider: e.provider(t, "cluster/kip/kip-provider-0"), Other: e.provider(t, "cluster/kip/kip-provider-1"),
			Launch:   v1beta1.LaunchStatus{InstanceType: "t3.micro", Zone: "us-west-2a", Architecture: "amd64"},
			Patience: 5 * time.Second,
			Refuse: func(k cloudprovider.Kind) bool {
				if k == cloudprovider.SubnetFull {
					// The subnet is left alone for a while then: see TestSubnetFull.
					return false
				}
				e.fault(t, `[{"count":1,"code":"`+codeOfKind[k]+`"}]`)
				return true
			},
		}
	})
}

func request(token string) cloudprovider.LaunchRequest {
	return cloudprovider.LaunchRequest{
		ClientToken: token, CellName: "cell", CellUID: "uid", CPU: resource.MustParse("50m"),
		Pod:    &v1beta1.PodReference{Namespace: "default", Name: "web", UID: "pod"},
		Launch: v1beta1.LaunchStatus{InstanceType: "t3.micro", Zone: "us-west-2b", Architecture: "amd64", CapacityType: v1beta1.OnDemand},
	}
}

func TestLostAnswerIsAskedForAgain(t *testing.T) {
	e := newEndpoint(t)
	p := e.provider(t, "a")
	e.dropAnswers.Store(2)
	got, err := p.Create(t.Context(), request("token"))
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.List(t.Context())
	if err != nil || len(all) != 1 || all[0].ID != got.ID {
		t.Errorf("listed %v (%v), want only %s", all, err, got.ID)
	}
	if n := e.launches.Load(); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestCapacityErrorsComeAtOnce(t *testing.T) {
	e := newEndpoint(t)
	p := e.provider(t, "a")
	e.fault(t, `[{"code":"InsufficientInstanceCapacity"}]`)
	if _, err := p.Create(t.Context(), request("token")); cloudprovider.KindOf(err) != cloudprovider.InsufficientCapacity {
		t.Errorf("got %v", err)
	}
	if n := e.launches.Load(); n != 1 {
		t.Errorf("%d requests, want 1: another offering waits", n)
	}
}

func TestSubnetFull(t *testing.T) {
	e := newEndpoint(t)
	p := e.provider(t, "a")
	e.fault(t, `[{"count":1,"code":"InsufficientFreeAddressesInSubnet"}]`)
	if _, err := p.Create(t.Context(), request("token")); cloudprovider.KindOf(err) != cloudprovider.SubnetFull {
		t.Fatalf("got %v", err)
	}
	zones, err := p.Zones(t.Context())
	if err != nil || strings.Join(zones, " ") != "us-west-2a us-west-2c" {
		t.Errorf("zones are %q (%v), want those with room", zones, err)
	}
	if _, err := p.Create(t.Context(), request("token-1")); cloudprovider.KindOf(err) != cloudprovider.SubnetFull {
		t.Errorf("got %v, want SubnetFull without asking the cloud", err)
	}
	if n := e.launches.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// TestSecondKipFindsWhatTheFirstMade: nothing is made twice after a restart.
func TestSecondKipFindsWhatTheFirstMade(t *testing.T) {
	e := newEndpoint(t)
	first, second := e.provider(t, "a"), e.provider(t, "a")
	for _, p := range []*Provider{first, second} {
		if err := p.Warm(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	a, errA := first.grp.get(t.Context())
	b, errB := second.grp.get(t.Context())
	if errA != nil || errB != nil || a != b {
		t.Errorf("security groups %q, %q (%v, %v); want one", a, b, errA, errB)
	}
	if img, err := first.imgs.get(t.Context(), "amd64"); err != nil || img.minGiB == 0 {
		t.Errorf("image %+v, %v", img, err)
	}
	if _, err := first.imgs.get(t.Context(), "arm64"); cloudprovider.KindOf(err) != cloudprovider.InvalidConfiguration {
		t.Errorf("an architecture without an image: %v", err)
	}
}

func TestWrongSecretIsDenied(t *testing.T) {
	e := newEndpoint(t)
	p := e.provider(t, "a")
	wrong := p.cfg
	wrong.SecretAccessKey = "wrong"
	p, err := New(t.Context(), wrong)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.List(t.Context()); cloudprovider.KindOf(err) != cloudprovider.Denied {
		t.Errorf("got %v, want Denied", err)
	}
}

// TestRoutesOverEC2Local: one subnet has a table of its own, the others use the
// main one. A second Kip ends what the first began.
func TestRoutesOverEC2Local(t *testing.T) {
	e := newEndpoint(t)
	first, second := e.provider(t, "a"), e.provider(t, "a")
	client, ok := first.ec2.(*ec2.Client)
	if !ok {
		t.Fatalf("the provider calls a %T", first.ec2)
	}
	net, err := first.nets.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	table, err := client.CreateRouteTable(t.Context(), &ec2.CreateRouteTableInput{VpcId: aws.String(net.vpcID)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.AssociateRouteTable(t.Context(), &ec2.AssociateRouteTableInput{
		RouteTableId: table.RouteTable.RouteTableId, SubnetId: aws.String(net.subnets[0].id),
	}); err != nil {
		t.Fatal(err)
	}
	i, err := first.Create(t.Context(), request("token"))
	if err != nil {
		t.Fatal(err)
	}
	if i.NetworkInterface == "" {
		t.Fatal("RunInstances did not name the interface")
	}
	to := cloudprovider.RouteTarget{InstanceID: i.ID, NetworkInterface: i.NetworkInterface}
	const network = "10.20.0.0/16"
	leading := func() (n int) {
		t.Helper()
		out, err := client.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{})
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range out.RouteTables {
			for _, r := range table.Routes {
				if aws.ToString(r.DestinationCidrBlock) == network && aws.ToString(r.NetworkInterfaceId) == i.NetworkInterface {
					n++
				}
			}
		}
		return n
	}
	for _, p := range []*Provider{first, second, first} {
		if err := p.EnsureRoutes(t.Context(), to, []string{network}); err != nil {
			t.Fatal(err)
		}
		if n := leading(); n != 2 {
			t.Fatalf("%d routes, want one in each table", n)
		}
	}
	got, err := client.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{i.ID}})
	if err != nil || aws.ToBool(got.Reservations[0].Instances[0].SourceDestCheck) {
		t.Errorf("the instance would drop the packets (%v)", err)
	}
	if err := second.EnsureRoutes(t.Context(), to, []string{"0.0.0.0/0"}); !errors.Is(err, cloudprovider.ErrRouteTaken) {
		t.Errorf("got %v; the way to the internet is taken", err)
	}

	if err := first.Delete(t.Context(), i.ID); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		i, err := first.Get(t.Context(), i.ID)
		if err == nil && i.State == cloudprovider.StateTerminated {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not terminated: %+v, %v", i, err)
		}
	}
	for range 2 {
		if err := second.RemoveRoutes(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		if n := leading(); n != 0 {
			t.Errorf("%d routes to an instance that is gone", n)
		}
	}
}
