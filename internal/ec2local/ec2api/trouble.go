package ec2api

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/ec2local/fault"
	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/throttle"
)

// Trouble is what may stand between a request that was believed and its operation.
type Trouble struct {
	// Faults is the script of what goes wrong.
	Faults *fault.Script
	// Throttle has the buckets of the account.
	Throttle *throttle.Buckets
	// Clock lets slow requests wait.
	Clock clock.Clock
}

// errLost ends a connection without an answer.
var errLost = errors.New("the answer is lost")

// through runs an operation, unless the account's buckets or the fault script have something against it.
func (a *API) through(ctx context.Context, action string, form url.Values, run func() (query.Answerer, error)) (query.Answerer, error) {
	if !a.trouble.Throttle.Request(action, selective(form)) {
		return nil, a.throttled(action, "its request rate limit")
	}
	asked := a.request(action, form)
	rule, hit := a.trouble.Faults.Next(asked)
	if rule.Delay != 0 {
		timer := a.trouble.Clock.NewTimer(time.Duration(rule.Delay))
		defer timer.Stop()
		select {
		case <-timer.C():
		case <-ctx.Done():
			return nil, errLost
		}
	}
	switch {
	case rule.Lose == fault.LoseBefore:
		return nil, errLost
	case hit && rule.Code != "" && !a.settled(action, form):
		return nil, refusal(rule, asked)
	}
	undo, ok := a.trouble.Throttle.Resources(action, resources(action, form))
	if !ok {
		return nil, a.throttled(action, "its resource count rate limit")
	}
	answer, err := run()
	if err != nil {
		undo()
	}
	if rule.Lose == fault.LoseAfter {
		return nil, errLost
	}
	return answer, err
}

func (a *API) throttled(action, limit string) error {
	return query.Errorf("RequestLimitExceeded", "Request limit exceeded. Account %s has been throttled on ec2:%s because it "+
		"exceeded %s.", a.cloud.AccountID(), action, limit)
}

// selective says whether the request restricts what it wants to see.
func selective(form url.Values) bool {
	return form.Has("MaxResults") || form.Has("NextToken") || form.Has("Filter.1.Name")
}

// resources is how many instances the request is about.
func resources(action string, form url.Values) (n int) {
	if action == fault.RunInstances {
		n, _ = strconv.Atoi(form.Get("MaxCount")) // the operation itself refuses what is no number
		return max(n, 0)
	}
	for key := range form {
		if strings.HasPrefix(key, "InstanceId.") {
			n++
		}
	}
	return n
}

// settled says that the launch was made already, by an earlier request with its token, or is not really wanted: what
// stands against launches does not concern it.
func (a *API) settled(action string, form url.Values) bool {
	return action == fault.RunInstances && (form.Get("DryRun") == "true" || a.cloud.Launched(form.Get("ClientToken")))
}

// request is the request as the fault script sees it.
func (a *API) request(action string, form url.Values) fault.Call {
	c := fault.Call{Action: action}
	if action != fault.RunInstances {
		return c
	}
	c.InstanceType = cmp.Or(form.Get("InstanceType"), defaultType)
	subnet := a.cloud.Subnet(cmp.Or(form.Get("SubnetId"), form.Get("NetworkInterface.1.SubnetId")))
	c.Zone = cmp.Or(subnet.Zone, form.Get("Placement.AvailabilityZone"), a.cloud.World().Subnets[0].Zone)
	c.CapacityType = cmp.Or(form.Get("InstanceMarketOptions.MarketType"), "on-demand")
	return c
}

// refusal is the answer that a rule of the fault script asks for.
func refusal(rule fault.Rule, c fault.Call) error {
	message := rule.Message
	switch {
	case message != "":
	case rule.Code == "InsufficientInstanceCapacity":
		message = "We currently do not have sufficient " + c.InstanceType +
			" capacity in the Availability Zone you requested (" + c.Zone + ")."
	default:
		message = "The fault script says so."
	}
	return query.Errorf(rule.Code, "%s", message)
}
