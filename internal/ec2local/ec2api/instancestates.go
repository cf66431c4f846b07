package ec2api

import (
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type terminateInstancesRequest struct {
	dryRun
	InstanceIDs []string `query:"InstanceId,required"`
}

type stopInstancesRequest struct {
	dryRun
	InstanceIDs []string `query:"InstanceId,required"`
	Hibernate   bool
	Force       bool
}

type startInstancesRequest struct {
	dryRun
	InstanceIDs []string `query:"InstanceId,required"`
}

// stateChanges is the answer of all three.
type stateChanges struct {
	query.Answer
	Instances query.Set[stateChange] `xml:"instancesSet"`
}

type stateChange struct {
	ID       string        `xml:"instanceId"`
	Current  instanceState `xml:"currentState"`
	Previous instanceState `xml:"previousState"`
}

func (a *API) terminateInstances(in *terminateInstancesRequest) (*stateChanges, error) {
	return changed(a.cloud.Terminate(in.InstanceIDs, in.DryRun))
}

func (a *API) stopInstances(in *stopInstancesRequest) (*stateChanges, error) {
	if in.Hibernate {
		return nil, query.Errorf("UnsupportedHibernationConfiguration", "Hibernation is not configured on these instances")
	}
	// Force is EC2's way out for a machine that does not listen; here every machine is killed after its grace.
	return changed(a.cloud.Stop(in.InstanceIDs, in.DryRun))
}

func (a *API) startInstances(in *startInstancesRequest) (*stateChanges, error) {
	return changed(a.cloud.Start(in.InstanceIDs, in.DryRun))
}

func changed(changes []cloud.StateChange, err error) (*stateChanges, error) {
	if err != nil {
		return nil, err
	}
	var answer stateChanges
	for _, ch := range changes {
		answer.Instances.Items = append(answer.Instances.Items,
			stateChange{ID: ch.ID, Current: stateOf(ch.After), Previous: stateOf(ch.Before)})
	}
	return &answer, nil
}
