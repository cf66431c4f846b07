package aws

import (
	"context"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// against are the filters by which something is known against an instance. EC2
// joins filters of one call by "and", and has none for tags here: so there is a
// call for each, whose answers are short.
var against = []types.Filter{
	filter("system-status.status", string(types.SummaryStatusImpaired)),
	filter("instance-status.status", string(types.SummaryStatusImpaired)),
	filter("event.code", eventCodes()...),
}

// eventCodes are all that there are.
func eventCodes() (codes []string) {
	for _, c := range types.EventCode("").Values() {
		codes = append(codes, string(c))
	}
	return codes
}

// Health implements cloudprovider.HealthReporter.
func (p *Provider) Health(ctx context.Context) ([]cloudprovider.InstanceHealth, error) {
	ctx = optional(ctx)
	byID := map[string]cloudprovider.InstanceHealth{}
	for _, f := range against {
		pages := ec2.NewDescribeInstanceStatusPaginator(p.ec2, &ec2.DescribeInstanceStatusInput{
			Filters: []types.Filter{f}, MaxResults: aws.Int32(1000),
		})
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				return nil, wrap("ec2:DescribeInstanceStatus", err)
			}
			for i := range page.InstanceStatuses {
				h := instanceHealth(&page.InstanceStatuses[i])
				byID[h.ID] = h
			}
		}
	}
	var all []cloudprovider.InstanceHealth
	for _, h := range byID {
		all = append(all, h)
	}
	return all, nil
}

// instanceHealth is EC2's status of an instance in the words of the seam.
func instanceHealth(in *types.InstanceStatus) cloudprovider.InstanceHealth {
	out := cloudprovider.InstanceHealth{ID: aws.ToString(in.InstanceId)}
	for _, check := range []*types.InstanceStatusSummary{in.SystemStatus, in.InstanceStatus} {
		if check != nil && check.Status == types.SummaryStatusImpaired {
			out.Impaired = true
		}
	}
	for _, e := range in.Events {
		description := aws.ToString(e.Description)
		// EC2 goes on telling of what is over, for up to a week.
		if strings.HasPrefix(description, "[Completed]") || strings.HasPrefix(description, "[Canceled]") {
			continue
		}
		out.Events = append(out.Events, cloudprovider.ScheduledEvent{
			ID: aws.ToString(e.InstanceEventId), Code: string(e.Code), Description: description, NotBefore: aws.ToTime(e.NotBefore),
		})
	}
	return out
}
