package ec2local

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/ec2local/fault"
	"github.com/elotl/kip/v2/internal/ec2local/throttle"
)

// TestFaultsOfAnyAction: a rule names what it concerns, and nothing else suffers.
func TestFaultsOfAnyAction(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	e.admin(t, "PUT", "faults", []fault.Rule{
		{Action: "Describe*", Code: "UnauthorizedOperation", Message: "You are not authorized to perform this operation."},
		{Action: "CreateTags", Code: "InternalError", Count: 1},
	})
	for _, err := range []error{
		second(e.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})), second(e.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{})),
	} {
		if code(err) != "UnauthorizedOperation" {
			t.Errorf("got %v", err)
		}
	}
	e.admin(t, "PUT", "faults", []fault.Rule{{Action: "CreateTags", Code: "InternalError", Count: 1}})
	id := *must(e.RunInstances(ctx, e.cell(t)))(t).Instances[0].InstanceId
	tag := &ec2.CreateTagsInput{Resources: []string{id}, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}}
	if err := second(e.CreateTags(ctx, tag)); code(err) != "InternalError" {
		t.Errorf("got %v", err)
	}
	must(e.CreateTags(ctx, tag))(t)
}

// TestLostAnswers: the client cannot tell whether its request had an effect.
func TestLostAnswers(t *testing.T) {
	for lose, want := range map[string]int{fault.LoseBefore: 0, fault.LoseAfter: 1} {
		e, ctx := start(t, nil), t.Context()
		e.admin(t, "PUT", "faults", []fault.Rule{{Lose: lose, Count: 1}})
		in := e.cell(t)
		in.ClientToken = aws.String("token")
		if err := second(e.RunInstances(ctx, in)); err == nil {
			t.Errorf("%s: there was an answer", lose)
		}
		if got := len(idsOf(must(e.DescribeInstances(ctx, &ec2.DescribeInstancesInput{}))(t).Reservations)); got != want {
			t.Errorf("%s: %d instances, want %d", lose, got, want)
		}
		must(e.RunInstances(ctx, in))(t)
		if got := len(idsOf(must(e.DescribeInstances(ctx, &ec2.DescribeInstancesInput{}))(t).Reservations)); got != 1 {
			t.Errorf("%s: %d instances after the request was repeated, want 1", lose, got)
		}
	}
}

// TestRepeatedLaunchIsNotRefused: what was launched is there, whatever lacks now.
func TestRepeatedLaunchIsNotRefused(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	in := e.cell(t)
	in.ClientToken = aws.String("token")
	must(e.RunInstances(ctx, in))(t)
	e.admin(t, "PUT", "faults", []fault.Rule{{}})
	must(e.RunInstances(ctx, in))(t)
	in.ClientToken = aws.String("another")
	if err := second(e.RunInstances(ctx, in)); code(err) != "InsufficientInstanceCapacity" {
		t.Errorf("got %v", err)
	}
}

func TestSlowAnswers(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	e.admin(t, "PUT", "faults", []fault.Rule{{Action: "DescribeVpcs", Delay: fault.Duration(200 * time.Millisecond), Count: 1}})
	begin := time.Now()
	must(e.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}))(t)
	if took := time.Since(begin); took < 200*time.Millisecond {
		t.Errorf("answered after %s", took)
	}
}

func TestThrottling(t *testing.T) {
	limits := throttle.Limits{
		Requests: map[string]throttle.Limit{"DescribeVpcs": {Burst: 2, PerSecond: 1e-3}},
		Resources: map[string]throttle.Limit{
			"RunInstances": {Burst: 3, PerSecond: 1e-3}, "TerminateInstances": {Burst: 1, PerSecond: 1e-3},
		},
	}
	e, ctx := start(t, func(c *Config) { c.Throttling = limits }), t.Context()
	for n, want := range []string{"", "", "RequestLimitExceeded"} {
		if err := second(e.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{})); code(err) != want {
			t.Errorf("request %d: %v, want %q", n, err, want)
		}
	}
	// A launch that is refused for another reason costs no instances.
	wrong := e.cell(t)
	wrong.ImageId = aws.String("ami-00000000000000bad")
	if err := second(e.RunInstances(ctx, wrong)); code(err) == "" || code(err) == "RequestLimitExceeded" {
		t.Errorf("an unknown image: %v", err)
	}
	var ids []string
	for n, tc := range []struct {
		count int32
		want  string
	}{{2, ""}, {2, "RequestLimitExceeded"}, {1, ""}, {1, "RequestLimitExceeded"}} {
		in := e.cell(t)
		in.ClientToken, in.MinCount, in.MaxCount = aws.String(fmt.Sprint("token-", n)), &tc.count, &tc.count
		out, err := e.RunInstances(ctx, in)
		if code(err) != tc.want {
			t.Errorf("launch %d of %d: %v, want %q", n, tc.count, err, tc.want)
		}
		if err == nil {
			ids = append(ids, *out.Instances[0].InstanceId)
		}
	}
	if err := second(e.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids})); code(err) != "RequestLimitExceeded" {
		t.Errorf("termination of %d: %v", len(ids), err)
	}
	must(e.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: ids[:1]}))(t)
}

// second drops the value of a call.
func second[T any](_ T, err error) error { return err }
