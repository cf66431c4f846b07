package aws

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

// What the environment says of the endpoint that TestConformsOverEndpoint is run against. The first is the SDK's own, as
// are those of region and credentials.
const (
	endpointVariable = "AWS_ENDPOINT_URL_EC2"
	regionVariable   = "AWS_REGION"
	imageVariable    = "KIP_TEST_AMI"
	typeVariable     = "KIP_TEST_INSTANCE_TYPE"
	subnetsVariable  = "KIP_TEST_SUBNETS"
	patienceVariable = "KIP_TEST_PATIENCE"
)

// TestConformsOverEndpoint runs the suite against whatever speaks EC2's API: another emulator, or AWS itself, where it
// launches some dozens of instances and ends them.
func TestConformsOverEndpoint(t *testing.T) {
	if os.Getenv(endpointVariable) == "" {
		t.Skip(endpointVariable + " names no endpoint (docs/development.md, Tests)")
	}
	conformsOverEnvironment(t)
}

// TestEndpointOfTheEnvironment runs the same against an ec2local that only the environment knows.
func TestEndpointOfTheEnvironment(t *testing.T) {
	e := newEndpoint(t)
	for name, value := range map[string]string{
		endpointVariable: e.url, regionVariable: "us-west-2", patienceVariable: "5s",
		"AWS_ACCESS_KEY_ID": testKey, "AWS_SECRET_ACCESS_KEY": testSecret, "AWS_SESSION_TOKEN": "",
		imageVariable: e.image(t), typeVariable: "", subnetsVariable: "",
	} {
		t.Setenv(name, value)
	}
	conformsOverEnvironment(t)
	if e.launches.Load() == 0 {
		t.Error("nothing was launched at the endpoint that the environment names")
	}
}

func conformsOverEnvironment(t *testing.T) {
	patience, err := time.ParseDuration(cmp.Or(os.Getenv(patienceVariable), "5m"))
	if err != nil {
		t.Fatalf("%s: %v", patienceVariable, err)
	}
	cloudprovidertest.Run(t, func(t *testing.T) cloudprovidertest.Environment {
		p, other := environmentProvider(t, patience), environmentProvider(t, patience)
		zones, err := p.Zones(t.Context())
		if err != nil || len(zones) == 0 {
			t.Fatalf("no zone with room for a cell: %v", err)
		}
		return cloudprovidertest.Environment{
			Provider: p, Other: other, Patience: patience,
			Launch: v1beta1.LaunchStatus{
				InstanceType: cmp.Or(os.Getenv(typeVariable), "t3.micro"), Zone: zones[0], Architecture: "amd64",
			},
		}
	})
}

// environmentProvider is a controller of its own in an account that others may use too. What it made is removed when the
// test ends.
func environmentProvider(t *testing.T, patience time.Duration) *Provider {
	t.Helper()
	for _, needed := range []string{regionVariable, imageVariable} {
		if os.Getenv(needed) == "" {
			t.Fatalf("%s is set but %s is not", endpointVariable, needed)
		}
	}
	p, err := New(t.Context(), Config{
		Region: os.Getenv(regionVariable), ControllerID: "kip-test/" + string(uuid.NewUUID()), Nametag: "kip-test",
		Image:     ImageSpec{ImageIDs: []string{os.Getenv(imageVariable)}},
		SubnetIDs: strings.FieldsFunc(os.Getenv(subnetsVariable), func(r rune) bool { return r == ',' }),
		Catalogue: catalogue(t), Clock: clock.RealClock{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	sdk, err := awsconfig.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeAll(t, p, ec2.NewFromConfig(sdk), patience) })
	return p
}

// removeAll ends a controller's instances and deletes its security group. The test's own context has ended.
func removeAll(t *testing.T, p *Provider, client *ec2.Client, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	deadline := time.Now().Add(patience)
	for {
		all, err := p.List(ctx)
		alive := 0
		for _, i := range all {
			if i.State == cloudprovider.StateTerminated {
				continue
			}
			alive++
			if err := p.Delete(ctx, i.ID); err != nil && !cloudprovider.IsNotFound(err) {
				t.Errorf("ending %s: %v", i.ID, err)
			}
		}
		if err == nil && alive == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("%d instances of %s are left: %v", alive, p.cfg.ControllerID, err)
			return
		}
		time.Sleep(max(50*time.Millisecond, patience/200))
	}
	groups, err := client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{p.ownFilter()}})
	if err != nil {
		t.Errorf("looking for security groups: %v", err)
		return
	}
	for _, g := range groups.SecurityGroups {
		if _, err := client.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: g.GroupId}); err != nil {
			t.Errorf("deleting security group %s: %v", aws.ToString(g.GroupId), err)
		}
	}
}

// TestConformsOverStaleReads runs the suite on an EC2 that shows new instances late and all states as they were.
func TestConformsOverStaleReads(t *testing.T) {
	cloudprovidertest.Run(t, func(t *testing.T) cloudprovidertest.Environment {
		e := newEndpoint(t)
		e.admin(t, http.MethodPut, "lag", `{"appear":"400ms","stale":"300ms"}`)
		return cloudprovidertest.Environment{
			Provider: e.provider(t, "cluster/kip/kip-provider-0"), Other: e.provider(t, "cluster/kip/kip-provider-1"),
			Launch:   v1beta1.LaunchStatus{InstanceType: "t3.micro", Zone: "us-west-2a", Architecture: "amd64"},
			Patience: 10 * time.Second,
		}
	})
}
