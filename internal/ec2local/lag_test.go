package ec2local

import (
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// TestLag switches the lag on and off at a running ec2local. How long things take to show is tested with simulated time
// in package cloud.
func TestLag(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	e.admin(t, http.MethodPut, "lag", map[string]string{"appear": "1h"})
	run := must(e.RunInstances(ctx, e.cell(t)))(t)
	id := *run.Instances[0].InstanceId
	if again := must(e.RunInstances(ctx, e.cell(t)))(t); *again.Instances[0].InstanceId != id {
		t.Errorf("the repeated launch launched %s besides %s", *again.Instances[0].InstanceId, id)
	}
	for name, err := range map[string]error{
		"describing": second(e.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})),
		"status":     second(e.DescribeInstanceStatus(ctx, &ec2.DescribeInstanceStatusInput{InstanceIds: []string{id}})),
		"ending":     second(e.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}})),
		"tagging":    second(e.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{id}, Tags: []types.Tag{{Key: &id, Value: &id}}})),
	} {
		if code(err) != "InvalidInstanceID.NotFound" {
			t.Errorf("%s what has not appeared yet: %v", name, err)
		}
	}
	for _, all := range []int{
		len(must(e.DescribeInstances(ctx, &ec2.DescribeInstancesInput{}))(t).Reservations),
		len(must(e.DescribeVolumes(ctx, &ec2.DescribeVolumesInput{}))(t).Volumes),
		len(must(e.DescribeNetworkInterfaces(ctx, &ec2.DescribeNetworkInterfacesInput{}))(t).NetworkInterfaces),
	} {
		if all != 0 {
			t.Errorf("%d are listed", all)
		}
	}
	e.admin(t, http.MethodPut, "lag", map[string]string{"stale": "1h"})
	e.waitFor(t, id, types.InstanceStateNameRunning) // nothing was remembered before
	must(e.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{id}}))(t)
	eventually(t, "the machine is gone", func() bool { return !e.hypervisor.Running(id) })
	if got := e.instance(t, id).State.Name; got != types.InstanceStateNameRunning {
		t.Errorf("a stale read shows %s", got)
	}
	e.admin(t, http.MethodPut, "lag", map[string]string{})
	e.waitFor(t, id, types.InstanceStateNameTerminated)
}
