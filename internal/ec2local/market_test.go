package ec2local

import (
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"
)

// spotPrices are the prices of t3.small by zone.
func (e *endpoint) spotPrices(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, p := range must(e.DescribeSpotPriceHistory(t.Context(), &ec2.DescribeSpotPriceHistoryInput{
		InstanceTypes: []types.InstanceType{types.InstanceTypeT3Small}, ProductDescriptions: []string{"Linux/UNIX"}, StartTime: aws.Time(time.Now()),
	}))(t).SpotPriceHistory {
		out[*p.AvailabilityZone] = *p.SpotPrice
	}
	return out
}

func TestSpotPrices(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	launch := func(token, maximum string) (*ec2.RunInstancesOutput, error) {
		in := e.cell(t) // in us-west-2b
		in.ClientToken = &token
		in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot, SpotOptions: &types.SpotMarketOptions{}}
		if maximum != "" {
			in.InstanceMarketOptions.SpotOptions.MaxPrice = &maximum
		}
		return e.RunInstances(ctx, in)
	}
	usual := e.spotPrices(t)
	if len(usual) != 3 || usual["us-west-2a"] == "" {
		t.Fatalf("the market's prices are %v", usual)
	}
	e.admin(t, http.MethodPut, "spot-prices", []adminSpotPrice{{InstanceType: "t3.*", Zone: "us-west-2b", USD: 0.5}})
	want := map[string]string{"us-west-2a": usual["us-west-2a"], "us-west-2b": "0.500000", "us-west-2c": usual["us-west-2c"]}
	if diff := cmp.Diff(want, e.spotPrices(t)); diff != "" {
		t.Errorf("the prices (-want +got):\n%s", diff)
	}
	if _, err := launch("low", "0.49"); code(err) != "SpotMaxPriceTooLow" {
		t.Errorf("below the price: %v", err)
	}
	if _, err := launch("nonsense", "-1"); code(err) != "InvalidParameterValue" {
		t.Errorf("no price: %v", err)
	}
	for token, maximum := range map[string]string{"enough": "0.50", "whatever": ""} {
		id := *must(launch(token, maximum))(t).Instances[0].InstanceId
		e.waitFor(t, id, types.InstanceStateNameRunning)
	}
	// A higher price takes the one away whose maximum it exceeds.
	e.admin(t, http.MethodPut, "spot-prices", []adminSpotPrice{{USD: 0.6}})
	for _, r := range must(e.DescribeInstances(ctx, &ec2.DescribeInstancesInput{}))(t).Reservations {
		i := r.Instances[0]
		seen, _ := e.server.cloud.Instance(*i.InstanceId)
		if got, want := !seen.Spot.Action.IsZero(), *i.ClientToken == "enough"; got != want {
			t.Errorf("the instance with token %s is interrupted: %t", *i.ClientToken, got)
		}
	}
}

// TestOneTimeSpot: what was bought once cannot be stopped, and ends by an interruption.
func TestOneTimeSpot(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	in := e.cell(t)
	in.InstanceInitiatedShutdownBehavior = types.ShutdownBehaviorStop
	in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot}
	id := *must(e.RunInstances(ctx, in))(t).Instances[0].InstanceId
	e.waitFor(t, id, types.InstanceStateNameRunning)
	if _, err := e.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}}); code(err) != "UnsupportedOperation" {
		t.Errorf("stopping it: %v", err)
	}
	e.admin(t, http.MethodPost, "instances/"+id+"/interrupt?after=0s", nil)
	e.waitFor(t, id, types.InstanceStateNameTerminated)
	if i := e.instance(t, id); *i.StateReason.Code != "Server.SpotInstanceTermination" {
		t.Errorf("the reason is %s", *i.StateReason.Code)
	}
}
