package ec2api

import (
	"fmt"
	"slices"
	"time"

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
	ID             string                 `xml:"instanceId"`
	Zone           string                 `xml:"availabilityZone"`
	Events         query.Set[statusEvent] `xml:"eventsSet"`
	State          instanceState          `xml:"instanceState"`
	SystemStatus   check                  `xml:"systemStatus"`
	InstanceStatus check                  `xml:"instanceStatus"`
}

type statusEvent struct {
	ID          string      `xml:"instanceEventId"`
	Code        string      `xml:"code"`
	Description string      `xml:"description"`
	NotBefore   query.Time  `xml:"notBefore"`
	NotAfter    *query.Time `xml:"notAfter"`
}

type check struct {
	Status  string                 `xml:"status"`
	Details query.Set[checkDetail] `xml:"details"`
}

type checkDetail struct {
	Name          string      `xml:"name"`
	Status        string      `xml:"status"`
	ImpairedSince *query.Time `xml:"impairedSince"`
}

// reachability is the only thing that a check looks at, by the summary of it.
var reachability = map[string]string{
	"ok": "passed", "impaired": "failed", "insufficient-data": "insufficient-data", "initializing": "initializing",
}

func checkOf(status string, since time.Time) check {
	out := check{Status: status}
	detail, ok := reachability[status]
	if !ok {
		return out
	}
	found := checkDetail{Name: "reachability", Status: detail}
	if status == "impaired" {
		at := query.Time(since)
		found.ImpairedSince = &at
	}
	out.Details = query.SetOf(found)
	return out
}

// instanceStatus writes an instance's status.
func (a *API) instanceStatus(i *cloud.Instance) instanceStatus {
	system, instance, since := a.cloud.StatusChecks(i)
	out := instanceStatus{
		ID: i.ID, Zone: i.Zone, State: stateOf(i.State),
		SystemStatus: checkOf(system, since), InstanceStatus: checkOf(instance, since),
	}
	for _, e := range i.Events {
		event := statusEvent{ID: e.ID, Code: e.Code, Description: e.Description, NotBefore: query.Time(e.NotBefore)}
		if !e.NotAfter.IsZero() {
			after := query.Time(e.NotAfter)
			event.NotAfter = &after
		}
		out.Events.Items = append(out.Events.Items, event)
	}
	return out
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
	if instances, err = selectBy(instances, in.Filters, a.statusFields(), nil); err != nil {
		return nil, err
	}
	instances, next, err := page(in.paging, instances, instanceKey)
	if err != nil {
		return nil, err
	}
	answer := &describeInstanceStatusAnswer{NextToken: next}
	for _, i := range instances {
		answer.Statuses.Items = append(answer.Statuses.Items, a.instanceStatus(i))
	}
	return answer, nil
}

// statusFields are what statuses can be filtered by.
func (a *API) statusFields() fields[*cloud.Instance] {
	of := func(f func(instanceStatus) []string) func(*cloud.Instance) []string {
		return func(i *cloud.Instance) []string { return f(a.instanceStatus(i)) }
	}
	ofEvents := func(f func(statusEvent) string) func(*cloud.Instance) []string {
		return of(func(s instanceStatus) []string { return each(s.Events.Items, f) })
	}
	details := func(c check) []string { return each(c.Details.Items, func(d checkDetail) string { return d.Status }) }
	return fields[*cloud.Instance]{
		"availability-zone":            one(func(i *cloud.Instance) string { return i.Zone }),
		"event.code":                   ofEvents(func(e statusEvent) string { return e.Code }),
		"event.description":            ofEvents(func(e statusEvent) string { return e.Description }),
		"event.instance-event-id":      ofEvents(func(e statusEvent) string { return e.ID }),
		"instance-state-code":          one(func(i *cloud.Instance) string { return fmt.Sprint(stateCodes[i.State]) }),
		"instance-state-name":          one(func(i *cloud.Instance) string { return string(i.State) }),
		"instance-status.reachability": of(func(s instanceStatus) []string { return details(s.InstanceStatus) }),
		"instance-status.status":       of(func(s instanceStatus) []string { return []string{s.InstanceStatus.Status} }),
		"system-status.reachability":   of(func(s instanceStatus) []string { return details(s.SystemStatus) }),
		"system-status.status":         of(func(s instanceStatus) []string { return []string{s.SystemStatus.Status} }),
	}
}
