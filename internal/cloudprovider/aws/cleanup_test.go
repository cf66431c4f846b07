package aws

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// TestCleanUp: one controller's group goes when its instances are gone, another
// controller's stays.
func TestCleanUp(t *testing.T) {
	e := newEndpoint(t)
	ours, other := e.provider(t, "a"), e.provider(t, "b")
	if err := other.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	i, err := ours.Create(t.Context(), request("token"))
	if err != nil {
		t.Fatal(err)
	}
	if err := ours.CleanUp(t.Context()); err == nil || !strings.Contains(err.Error(), i.ID) {
		t.Fatalf("with an instance that runs: %v; want a refusal that names it", err)
	} else if _, ok := errors.AsType[*cloudprovider.Error](err); ok {
		t.Errorf("with an instance that runs: %v; waiting would not help", err)
	}
	if err := ours.Delete(t.Context(), i.ID); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		err := ours.CleanUp(t.Context())
		if err == nil {
			break
		}
		if cloudprovider.KindOf(err) != cloudprovider.Transient || time.Now().After(deadline) {
			t.Fatalf("with an instance that ends: %v; want it to be worth waiting", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := ours.CleanUp(t.Context()); err != nil {
		t.Errorf("once more: %v", err)
	}
	client, ok := ours.ec2.(*ec2.Client)
	if !ok {
		t.Fatalf("the provider calls a %T", ours.ec2)
	}
	out, err := client.DescribeSecurityGroups(t.Context(), &ec2.DescribeSecurityGroupsInput{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range out.SecurityGroups {
		if strings.HasPrefix(*g.GroupName, "kip cells ") {
			names = append(names, *g.GroupName)
		}
	}
	if len(names) != 1 || names[0] != other.grp.name() {
		t.Errorf("left are %q, want the other controller's", names)
	}
}
