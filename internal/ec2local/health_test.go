package ec2local

import (
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// status is what DescribeInstanceStatus says of an instance that runs; the zero status if it says nothing.
func (e *endpoint) status(t *testing.T, id string) types.InstanceStatus {
	t.Helper()
	out := must(e.DescribeInstanceStatus(t.Context(), &ec2.DescribeInstanceStatusInput{
		Filters: []types.Filter{{Name: aws.String("instance-state-name"), Values: []string{"running"}}},
	}))(t)
	for _, s := range out.InstanceStatuses {
		if *s.InstanceId == id {
			return s
		}
	}
	return types.InstanceStatus{}
}

func TestStatusChecks(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	id := *must(e.RunInstances(ctx, e.cell(t)))(t).Instances[0].InstanceId
	e.waitFor(t, id, types.InstanceStateNameRunning)
	got := e.status(t, id)
	if got.SystemStatus.Status != types.SummaryStatusOk || got.InstanceStatus.Details[0].Status != types.StatusTypePassed {
		t.Errorf("a machine that runs: %+v %+v", got.SystemStatus, got.InstanceStatus)
	}
	e.admin(t, http.MethodPut, "instances/"+id+"/checks", map[string]string{"system": "impaired"})
	got = e.status(t, id)
	if got.SystemStatus.Status != types.SummaryStatusImpaired || got.SystemStatus.Details[0].Status != types.StatusTypeFailed ||
		time.Since(*got.SystemStatus.Details[0].ImpairedSince).Abs() > time.Hour || got.InstanceStatus.Status != types.SummaryStatusOk {
		t.Errorf("with an impaired system: %+v %+v", got.SystemStatus, got.InstanceStatus)
	}
	impaired := []types.Filter{{Name: aws.String("system-status.status"), Values: []string{"impaired"}}}
	if n := len(must(e.DescribeInstanceStatus(ctx, &ec2.DescribeInstanceStatusInput{Filters: impaired}))(t).InstanceStatuses); n != 1 {
		t.Errorf("%d impaired instances", n)
	}
	e.admin(t, http.MethodPut, "instances/"+id+"/checks", map[string]string{})
	if got := e.status(t, id).SystemStatus.Status; got != types.SummaryStatusOk {
		t.Errorf("when all is well again: %s", got)
	}
}

func TestStatusChecksInitialize(t *testing.T) {
	e, ctx := start(t, func(cfg *Config) { cfg.Delays.Checks = time.Hour }), t.Context()
	id := *must(e.RunInstances(ctx, e.cell(t)))(t).Instances[0].InstanceId
	e.waitFor(t, id, types.InstanceStateNameRunning)
	if got := e.status(t, id).InstanceStatus; got.Status != types.SummaryStatusInitializing || got.Details[0].Status != types.StatusTypeInitializing {
		t.Errorf("a new instance: %+v", got)
	}
}

func TestScheduledEvents(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	id := *must(e.RunInstances(ctx, e.cell(t)))(t).Instances[0].InstanceId
	e.waitFor(t, id, types.InstanceStateNameRunning)
	later := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	e.admin(t, http.MethodPut, "instances/"+id+"/events", []adminEvent{
		{Code: "instance-retirement", Description: "degraded hardware", NotBefore: later},
		{Code: "system-reboot", NotBefore: later.Add(-2 * time.Hour), NotAfter: later},
	})
	got := e.status(t, id).Events
	if len(got) != 2 || got[0].Code != types.EventCodeInstanceRetirement || !got[0].NotBefore.Equal(later) || got[0].NotAfter != nil || !got[1].NotAfter.Equal(later) {
		t.Fatalf("the events: %+v", got)
	}
	byCode := []types.Filter{{Name: aws.String("event.code"), Values: []string{"instance-retirement"}}}
	if n := len(must(e.DescribeInstanceStatus(ctx, &ec2.DescribeInstanceStatusInput{Filters: byCode}))(t).InstanceStatuses); n != 1 {
		t.Errorf("%d instances will be retired", n)
	}
	e.admin(t, http.MethodPut, "instances/"+id+"/events", []adminEvent{{Code: "instance-retirement", NotBefore: time.Now()}})
	e.waitFor(t, id, types.InstanceStateNameStopped)
	if i := e.instance(t, id); aws.ToString(i.StateReason.Code) != "Server.ScheduledStop" {
		t.Errorf("the reason is %+v", i.StateReason)
	}
}
