package ec2api

import (
	"fmt"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeInstanceStatusRequest struct {
	dryRun
	paging
	InstanceIDs []string `query:"InstanceId"`
	Filters     []filter `query:"Filter"`
	All         bool     `query:"IncludeAllInstances"`
}

type describeInstanceStatusAnswer struct {
	query.Answer
	Statuses  query.Set[instanceStatus] `xml:"instanceStatusSet"`
	NextToken string                    `xml:"nextToken,omitempty"`
}

type instanceStatus struct {
	ID             string        `xml:"instanceId"`
	Zone           string        `xml:"availabilityZone"`
	State          instanceState `xml:"instanceState"`
	SystemStatus   check         `xml:"systemStatus"`
	InstanceStatus check         `xml:"instanceStatus"`
}

type check struct {
	Status  string                 `xml:"status"`
	Details query.Set[checkDetail] `xml:"details"`
}

type checkDetail struct {
	Name   string `xml:"name"`
	Status string `xml:"status"`
}

// statusOf is what the checks find. Here a machine that runs is reachable.
func statusOf(i *cloud.Instance) check {
	if i.State != cloud.Running {
		return check{Status: "not-applicable"}
	}
	return check{Status: "ok", Details: query.SetOf(checkDetail{Name: "reachability", Status: "passed"})}
}

func (a *API) describeInstanceStatus(in *describeInstanceStatusRequest) (*describeInstanceStatusAnswer, error) {
	if err := in.notBoth(in.InstanceIDs, "instancesSet"); err != nil {
		return nil, err
	}
	instances, err := selectByID(a.cloud.Instances(), in.InstanceIDs, "i", func(i *cloud.Instance) string { return i.ID })
	if err != nil {
		return nil, err
	}
	if !in.All {
		instances = slices.DeleteFunc(instances, func(i *cloud.Instance) bool { return i.State != cloud.Running })
	}
	if instances, err = selectBy(instances, in.Filters, statusFields, nil); err != nil {
		return nil, err
	}
	instances, next, err := page(in.paging, instances, instanceKey)
	if err != nil {
		return nil, err
	}
	answer := &describeInstanceStatusAnswer{NextToken: next}
	for _, i := range instances {
		answer.Statuses.Items = append(answer.Statuses.Items, instanceStatus{
			ID: i.ID, Zone: i.Zone, State: stateOf(i.State), SystemStatus: statusOf(i), InstanceStatus: statusOf(i),
		})
	}
	return answer, nil
}

// statusFields are what statuses can be filtered by.
var statusFields = fields[*cloud.Instance]{
	"availability-zone":            one(func(i *cloud.Instance) string { return i.Zone }),
	"event.code":                   constant[*cloud.Instance](),
	"instance-state-code":          one(func(i *cloud.Instance) string { return fmt.Sprint(stateCodes[i.State]) }),
	"instance-state-name":          one(func(i *cloud.Instance) string { return string(i.State) }),
	"instance-status.reachability": reachability,
	"instance-status.status":       one(func(i *cloud.Instance) string { return statusOf(i).Status }),
	"system-status.reachability":   reachability,
	"system-status.status":         one(func(i *cloud.Instance) string { return statusOf(i).Status }),
}

func reachability(i *cloud.Instance) []string {
	var out []string
	for _, d := range statusOf(i).Details.Items {
		out = append(out, d.Status)
	}
	return out
}
